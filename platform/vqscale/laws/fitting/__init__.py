"""From a table of runs to a fitted law: run filtering, variable projection, cross-check, bootstrap."""
