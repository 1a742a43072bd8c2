"""A model as one frozen value: every dimension decided, nothing left to a default elsewhere."""

from typing import Literal

from pydantic import Field, model_validator

from vqscale.study.frozen import Frozen

Arch = Literal["transformer_vq", "transformer_full", "transformer"]
Head = Literal["shga", "mqa", "mha"]


class ModelConfig(Frozen):
    """Architecture and dimensions of one model (Transformer-VQ, Lingle 2024, names and defaults of its reference code).

    `n_layer` counts as the reference does: a layer is two gated attention units for SHGA, attention + MLP otherwise.
    `codebook_size` and `block_length` are absent for the quadratic baselines.
    """

    arch: Arch
    head: Head | None = None
    """Head type of `transformer_vq` and `transformer_full`; `transformer` is always multi-head and has None."""
    vocab_size: int = Field(gt=0)
    d_model: int = Field(gt=0)
    n_layer: int = Field(gt=0)
    d_key: int = Field(gt=0)
    """Key width K of one head."""
    d_value: int = Field(gt=0)
    """Value width V of one head (SHGA: usually 2 D; otherwise usually K)."""
    n_head: int = Field(gt=0)
    """Query heads H."""
    n_kv_head: int = Field(gt=0)
    """Key/value heads G: 1 for SHGA and MQA, H for MHA."""
    d_ff: int | None = Field(default=None, gt=0)
    """Feed-forward width; None for SHGA, which has no feed-forward layer."""
    codebook_size: int | None = Field(default=None, gt=0)
    block_length: int | None = Field(default=None, gt=0)
    tie_embeddings: bool = False
    """Tied: final norm and logits times 0.005; untied: no final norm, scale 1 (the reference's two recipes)."""
    absolute_positions: bool = False
    position_base: float = Field(default=1e5, gt=0)
    """Base of the sinusoids of the relative bias (and of RoPE for `transformer`)."""
    dropout_sinusoid: float = Field(default=0.0, ge=0, lt=1)
    dropout_residual: float = Field(default=0.0, ge=0, lt=1)
    dropout_layer: float = Field(default=0.0, ge=0, lt=1)
    codebook_decay: float = Field(default=0.99, gt=0, lt=1)
    commit_weight: float = Field(default=1e-4, ge=0)
    revive_below: float = Field(default=0.05, ge=0, lt=1)
    """A code is dead when its EMA count is below this share of the mean count; 0 turns revival off."""

    @model_validator(mode="after")
    def _consistent(self) -> "ModelConfig":
        vq = self.arch == "transformer_vq"
        if vq != (self.codebook_size is not None) or vq != (self.block_length is not None):
            raise ValueError(
                f"codebook_size and block_length belong to transformer_vq and to it alone, not to {self.arch}"
            )
        if (self.head is None) != (self.arch == "transformer"):
            raise ValueError(f"head: {self.head} does not fit {self.arch}")
        if self.n_head % self.n_kv_head:
            raise ValueError(f"n_head {self.n_head} is no multiple of n_kv_head {self.n_kv_head}")
        if (self.d_ff is None) != (self.head == "shga"):
            raise ValueError(f"d_ff: {self.d_ff} does not fit: shga has no feed-forward layer, all others have one")
        if self.arch == "transformer" and self.dropout_sinusoid:
            raise ValueError("dropout_sinusoid belongs to models with a relative bias, not to transformer")
        rotated = {"d_key": self.d_key} if self.arch == "transformer" else {"d_model": self.d_model}
        for name, width in rotated.items():
            if width % 2:
                raise ValueError(f"{name} {width} is odd: positions take half of it as sines and half as cosines")
        return self
