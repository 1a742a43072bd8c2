"""Parameters, FLOPs, memory and presets of models, and what a trial costs. Loads no torch."""
