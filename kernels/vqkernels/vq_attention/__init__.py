"""Attention over vector-quantised keys: definition, linear-time form, streaming state."""
