"""Diagonal linear recurrences: damped moving averages (Mega) and diagonal state spaces (S4D)."""
