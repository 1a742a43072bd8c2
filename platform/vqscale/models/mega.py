"""`mega`: gated attention over exact keys of the whole context that reads a structured memory; quadratic.

The counterpart of `longvq`, as `transformer_full` is that of `transformer_vq`, with the same choice of `bias`. It
differs from Mega (Ma et al. 2022) in its bias, which is Transformer-XL's over all distances (Mega: one learned scalar
per offset, or a rotary one), and in the normalised z of `gated.py`.
"""

from vqscale.models.gated import GatedAttention, GatedHybrid
from vqscale.models.transformer_full import FullMixing
from vqscale.study.model import ModelConfig


class MegaAttention(FullMixing, GatedAttention):
    """All keys as they are."""


class Mega(GatedHybrid):
    """The quadratic hybrid: its state holds all keys and values."""

    remembers_all_keys = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, MegaAttention)
