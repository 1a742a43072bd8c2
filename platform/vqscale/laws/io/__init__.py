"""Fits as files: their schema, JSON and CSV, LaTeX."""
