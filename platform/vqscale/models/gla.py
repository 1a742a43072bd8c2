"""`gla`: a gated linear attention transformer, the linear-time peer without a codebook.

Source: Yang et al. 2024, Gated Linear Attention Transformers (arXiv 2312.06635), section 4.4: a key channel of each
head forgets at a rate that the token decides, alpha = sigmoid(x W1 W2 + b)^(1 / 16) with W1 W2 of rank 16; heads are
normalised one by one and gated; the feed-forward layer is SwiGLU. Keys of all heads together are half as wide as the
model, values as wide as it. Queries are scaled by K^-1/2, which the paper's equations leave out and its published code
(flash-linear-attention) has. There are no positions: order is in the decay. The bias b begins at zero, a half-life of
16 tokens; weights are drawn as those of `transformer`, not as the paper's.

Not causal, every second layer reads the sequence reversed, so that from the second layer on a token knows the whole
sequence; padding enters nothing and does not age the state, so that a reversed sequence may begin with it.

Letters: B batch, T position, H heads, K key width, V value width, D model width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vqkernels import gated_linear_attention
from vqscale.models.base import LayerState, Segment
from vqscale.models.layers import Projection, at_least_float32, unit_rms
from vqscale.models.transformer import Transformer, residual_std
from vqscale.study.model import DECAY_RANK, ModelConfig

TEMPERATURE = 16
"""The forget gate's 16th root is used, so that a state lasts longer (the paper's tau)."""


class GatedLinearAttention(nn.Module):
    """One layer's token mixing; `backwards`: from the last token to the first."""

    def __init__(self, config: ModelConfig, *, backwards: bool) -> None:
        super().__init__()
        self.config, self.backwards = config, backwards
        keys, values = config.n_head * config.d_key, config.n_head * config.d_value
        self.widths = [keys, keys, values, values]
        self.inputs = Projection(config.d_model, sum(self.widths))
        self.decay_down = Projection(config.d_model, DECAY_RANK)
        self.decay_up = Projection(DECAY_RANK, keys)
        self.decay_bias = nn.Parameter(torch.empty(keys))
        self.gain = nn.Parameter(torch.empty(config.d_value))
        self.out = Projection(values, config.d_model, std=residual_std(values, config))

    def initialise(self, generator: torch.Generator) -> None:
        nn.init.zeros_(self.decay_bias)
        nn.init.ones_(self.gain)

    def forward(
        self, x_BTD: Float[Tensor, "B T D"], segment: tuple[Any, ...], state: LayerState, return_state: bool
    ) -> tuple[Float[Tensor, "B T D"], LayerState]:
        """The output, and the state [B, H, K, V] in float32 if it was asked for."""
        mask_BT, doc_start_BT = Segment(*segment)[:2]
        if self.backwards:
            x_BTD, mask_BT = x_BTD.flip(1), None if mask_BT is None else mask_BT.flip(1)
        q, k, v, gate_BTV = self.inputs(x_BTD).split(self.widths, dim=-1)
        decay = self.decay_up(self.decay_down(x_BTD)) + self.decay_bias
        q_BHTK, k_BHTK, v_BHTV, decay_BHTK = (
            x.unflatten(-1, (self.config.n_head, -1)).transpose(1, 2) for x in (q, k, v, decay)
        )
        out_BHTV, state_BHKV = gated_linear_attention(
            q_BHTK * self.config.d_key**-0.5,
            k_BHTK,
            v_BHTV,
            F.logsigmoid(at_least_float32(decay_BHTK)) / TEMPERATURE,  # the root, in logarithms
            state_BHKV=state[0] if state else None,
            mask_BT=mask_BT,
            doc_start_BT=doc_start_BT,
            return_state=return_state,
        )
        normed_BTHV = unit_rms(out_BHTV.transpose(1, 2)) * self.gain
        out_BTV = normed_BTHV.flatten(2) * F.silu(gate_BTV)
        out_BTD: Tensor = self.out(out_BTV.flip(1) if self.backwards else out_BTV)
        return out_BTD, () if state_BHKV is None else (state_BHKV,)


class GatedLinearTransformer(Transformer):
    """Its state has a constant size: one matrix per head and layer."""

    remembers_all_keys = False

    @classmethod
    def mixer(cls, config: ModelConfig, index: int) -> nn.Module:
        return GatedLinearAttention(config, backwards=not config.causal and index % 2 == 1)
