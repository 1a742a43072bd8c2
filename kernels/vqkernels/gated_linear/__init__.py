"""Gated linear attention: a state that forgets at a rate of its own for every key channel and token."""

from vqkernels.gated_linear.api import CHUNK_LENGTH, gated_linear_attention

__all__ = ["CHUNK_LENGTH", "gated_linear_attention"]
