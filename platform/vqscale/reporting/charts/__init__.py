"""Charts as values, drawn twice: static figures and interactive ones."""
