"""`transformer`: the usual quadratic baseline, a Llama-style transformer.

Pre-norm RMSNorm, rotary positions, scaled_dot_product_attention with its flash kernel, SwiGLU. Matrices are drawn from
N(0, 1 / inputs), which is GPT-2's 0.02 at a width of 2500 and, unlike it, meant for narrow models as well
(docs/decisions/0006).

Letters: B batch, T query position, U key position, H heads, G key/value heads, K head width, D model width.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vqscale.models.base import LanguageModel, LayerOutput, LayerState, Segment
from vqscale.models.dense import remember, visible
from vqscale.models.layers import Projection, RMSNorm, SwiGLU, at_least_float32, drop_residual, sinusoids
from vqscale.study.model import ModelConfig


def rotate(x_BHTK: Float[Tensor, "B H T K"], start: int, base: float) -> Float[Tensor, "B H T K"]:
    """Rotary positions `start`, `start` + 1, ...: pairs (i, i + K/2) rotated by the position's angles.

    In float32 at least, whatever the activations' type.
    """
    length, width = x_BHTK.shape[-2:]
    position_T = torch.arange(start, start + length, device=x_BHTK.device)
    first, second = at_least_float32(x_BHTK).chunk(2, dim=-1)
    sin, cos = sinusoids(position_T, width, base).to(first.dtype).chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1).to(x_BHTK.dtype)


class SelfAttention(nn.Module):
    """Softmax attention over all tokens of the document (if causal, up to the query), with rotary positions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        heads, kv_heads = config.n_head, config.n_kv_head
        self.widths = [heads * config.d_key, kv_heads * config.d_key, kv_heads * config.d_value]
        self.qkv = Projection(config.d_model, sum(self.widths))
        inner = heads * config.d_value
        self.out = Projection(inner, config.d_model, std=residual_std(inner, config))

    def forward(
        self, x_BTD: Float[Tensor, "B T D"], segment: tuple[Any, ...], state: LayerState, return_state: bool
    ) -> tuple[Float[Tensor, "B T D"], LayerState]:
        """The attention's output, and the state if it was asked for."""
        own = Segment(*segment)
        q, k, v = self.qkv(x_BTD).split(self.widths, dim=-1)
        q_BHTK, k_BGTK, v_BGTV = (
            x.unflatten(-1, (heads, -1)).transpose(1, 2)
            for x, heads in ((q, self.config.n_head), (k, self.config.n_kv_head), (v, self.config.n_kv_head))
        )
        q_BHTK, k_BGTK = (rotate(x, own.start, self.config.position_base) for x in (q_BHTK, k_BGTK))
        out_BHTV, new_state = self.attend(q_BHTK, k_BGTK, v_BGTV, own, state, return_state)
        return self.out(out_BHTV.transpose(1, 2).flatten(2)), new_state

    def attend(
        self, q_BHTK: Tensor, k_BGTK: Tensor, v_BGTV: Tensor, segment: Segment, state: LayerState, return_state: bool
    ) -> tuple[Float[Tensor, "B H T V"], LayerState]:
        """Attention of rotated queries to rotated keys; the state holds all keys and values so far."""
        k_BGUK, v_BGUV = remember(state, k_BGTK, v_BGTV)
        document_BU, start, causal = segment.document, segment.start, self.config.causal
        plain = document_BU is None and start == 0  # a mask would rule out the flash kernel
        queries = range(start, start + q_BHTK.shape[2])
        out_BHTV = F.scaled_dot_product_attention(
            q_BHTK,
            k_BGUK,
            v_BGUV,
            attn_mask=None if plain else visible(document_BU, queries, queries.stop, q_BHTK.device, causal=causal),
            is_causal=plain and causal,
            enable_gqa=self.config.n_head != self.config.n_kv_head,
        )
        return out_BHTV, (k_BGUK, v_BGUV) if return_state else ()


class TransformerLayer(nn.Module):
    """Attention, then SwiGLU, each behind a norm and beside a residual path.

    `attention` is called as SelfAttention is; another module may take its place.
    """

    def __init__(self, config: ModelConfig, attention: nn.Module) -> None:
        super().__init__()
        assert config.d_ff is not None, "the preset decides d_ff"
        self.config = config
        self.attention_norm = RMSNorm(config.d_model, bias=False)
        self.attention = attention
        self.feed_forward_norm = RMSNorm(config.d_model, bias=False)
        self.feed_forward = SwiGLU(config.d_model, config.d_ff, std_down=residual_std(config.d_ff, config))

    def forward(
        self, x_BTD: Tensor, segment: tuple[Any, ...], state: LayerState, *, return_state: bool, backend: str
    ) -> tuple[Any, ...]:
        update_BTD, new_state = self.attention(self.attention_norm(x_BTD), segment, state, return_state)
        x_BTD = x_BTD + self._drop(update_BTD)
        x_BTD = x_BTD + self._drop(self.feed_forward(self.feed_forward_norm(x_BTD)))
        return tuple(LayerOutput(x_BTD, x_BTD.new_zeros(()), (), new_state))

    def _drop(self, update_BTD: Tensor) -> Tensor:
        return drop_residual(update_BTD, self.config.dropout_residual, self.config.dropout_layer, self.training)


class Transformer(LanguageModel):
    """Always with a final norm; logits are not scaled."""

    remembers_all_keys = True
    norm_bias = False
    tied_scale = 1.0

    def __init__(self, config: ModelConfig) -> None:
        layers: list[nn.Module] = [TransformerLayer(config, self.mixer(config, i)) for i in range(config.n_layer)]
        super().__init__(config, layers, std=1 / math.sqrt(config.d_model), final_norm=True)

    @classmethod
    def mixer(cls, config: ModelConfig, index: int) -> nn.Module:
        """What mixes the tokens in layer `index`."""
        return SelfAttention(config)


def residual_std(inputs: int, config: ModelConfig) -> float:
    """Of a matrix that writes to the residual stream: smaller by sqrt(2 n_layer), the number of its writers (GPT-2)."""
    return 1 / math.sqrt(inputs * 2 * config.n_layer)
