"""Charts as data, drawn twice: static figures and interactive ones."""
