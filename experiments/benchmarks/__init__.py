"""Developer benchmarks, run with python -m benchmarks.NAME from a checkout. Not part of the wheel."""
