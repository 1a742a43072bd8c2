"""Gated linear attention: a state that forgets at a rate of its own for every key channel and token."""

from vqkernels.gated_linear.api import gated_linear_attention

__all__ = ["gated_linear_attention"]
