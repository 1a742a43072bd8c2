"""The layers of the gated hybrids around their attention: shared by `longvq` and `mega`.

A structured memory (`memory.py`) reads the sequence first; queries, keys and gates come from its output, values from
the layer's own input. The two architectures differ in one method, `mix`: which keys a query sees, quantised or not.

Source: Mega (Ma et al. 2022, arXiv 2209.10655; facebookresearch/mega at aeaa4b4) for memory, gates and feed-forward
layer. LongVQ (Liu et al. 2024, arXiv 2404.11163) published neither code nor all of its equations: that its keys are
quantised, in a Mega-like gated attention beside a local window with bias, is sourced; the exact layer is a
reconstruction. docs/explanation/longvq.md lists the origin of each part.

Letters: B batch, T position, H heads, G key/value heads, K key width, V value width, D model width, F feed-forward
width.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vqscale.models.base import LanguageModel, LayerOutput, LayerState, Segment
from vqscale.models.layers import Projection, drop_residual, unit_rms
from vqscale.models.memory import StructuredMemory
from vqscale.models.norms import apply_norm, make_norm
from vqscale.models.relative import Mixing
from vqscale.study.model import ModelConfig


class GatedAttention(Mixing):
    """One gated attention unit that reads a structured memory, without its norm and residual path.

    z = SiLU(y W_z + b) is scaled to unit RMS; queries and keys are z times a gain (at first one) plus a shift (at first
    zero) of their own. Mega's z is not normalised and its gains are N(0, 0.02); keys are bounded here so that codes fit
    them. Ours, after the normalised attention of Megalodon (arXiv 2404.08801).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        values = config.n_head * config.d_value
        self.memory = None if config.structured_memory == "none" else StructuredMemory(config)
        self.widths = [config.d_key, *([values, config.d_model] if config.gates else []), config.d_model]
        self.inputs = Projection(config.d_model, sum(self.widths), bias=True)
        self.values = Projection(config.d_model, config.n_kv_head * config.d_value, bias=True)
        self.q_gain, self.q_shift = (nn.Parameter(torch.empty(config.n_head, config.d_key)) for _ in range(2))
        self.k_gain, self.k_shift = (nn.Parameter(torch.empty(config.n_kv_head, config.d_key)) for _ in range(2))
        self.add_bias()
        self.out = Projection(values, config.d_model)

    def initialise(self, generator: torch.Generator) -> None:
        super().initialise(generator)
        for gain, shift in ((self.q_gain, self.q_shift), (self.k_gain, self.k_shift)):
            nn.init.ones_(gain)
            nn.init.zeros_(shift)

    def forward(
        self,
        x_BTD: Float[Tensor, "B T D"],
        normed_BTD: Float[Tensor, "B T D"],
        segment: Segment,
        state: LayerState,
        return_state: bool,
        backend: str,
    ) -> tuple[Tensor, Tensor, tuple[tuple[Tensor, ...], ...], LayerState]:
        """What is added to `x_BTD`, commitment loss, statistics, state. `normed_BTD` is what the unit reads."""
        y_BTD, remembered, state = self._remember(normed_BTD, segment, state, return_state)
        z_BTK, *gates, inner_BTD = self.inputs(y_BTD).split(self.widths, dim=-1)
        q_BHTK, k_BGTK = self._queries_and_keys(z_BTK)
        v_BGTV = torch.unflatten(F.silu(self.values(normed_BTD)), -1, (self.config.n_kv_head, -1)).transpose(1, 2)
        mixed, commit, statistics, new = self.mix(q_BHTK, k_BGTK, v_BGTV, segment, state, return_state, backend)
        out_BTV = mixed.transpose(1, 2).flatten(2)
        if not gates:
            return F.silu(inner_BTD + self.out(out_BTV)), commit, statistics, (*remembered, *new)
        reset_BTV, update_BTD = F.silu(gates[0]), torch.sigmoid(gates[1])
        h_BTD = F.silu(inner_BTD + self.out(out_BTV * reset_BTV))
        # With the residual added this is x + update (h - x), Mega's gate between old and new.
        return update_BTD * (h_BTD - x_BTD), commit, statistics, (*remembered, *new)

    def _remember(
        self, x_BTD: Tensor, segment: Segment, state: LayerState, return_state: bool
    ) -> tuple[Tensor, LayerState, LayerState]:
        """The memory's output, its new state, and the part of the layer's state that belongs to the attention."""
        if self.memory is None:
            return x_BTD, (), state
        y_BTD, new = self.memory(x_BTD, segment, state[:1], return_state)
        return y_BTD, new, state[1:]

    def _queries_and_keys(self, z_BTK: Tensor) -> tuple[Float[Tensor, "B H T K"], Float[Tensor, "B G T K"]]:
        z_B1TK = unit_rms(F.silu(z_BTK))[:, None]
        pairs = ((self.q_gain, self.q_shift), (self.k_gain, self.k_shift))
        q_BHTK, k_BGTK = ((z_B1TK * gain[:, None] + shift[:, None]) * self.scale for gain, shift in pairs)
        return q_BHTK, k_BGTK


class FeedForward(nn.Module):
    """D -> F -> D with SiLU (Mega's feed-forward layer, without biases)."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.up = Projection(d_model, d_ff)
        self.down = Projection(d_ff, d_model)

    def forward(self, x_BTD: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        out: Tensor = self.down(F.silu(self.up(x_BTD)))
        return out


class GatedLayer(nn.Module):
    """Gated attention, then a feed-forward layer. The residual is never normed before a sub-layer is added to it."""

    def __init__(self, config: ModelConfig, attention: type[GatedAttention]) -> None:
        super().__init__()
        assert config.d_ff is not None, "ModelConfig gives every gated hybrid a feed-forward width"
        self.config = config
        self.attention = attention(config)
        self.feed_forward = FeedForward(config.d_model, config.d_ff)
        self.norms = nn.ModuleList(make_norm(config.norm, config.d_model) for _ in range(2))

    def forward(
        self, x_BTD: Tensor, segment: tuple[Any, ...], state: LayerState, *, return_state: bool, backend: str
    ) -> tuple[Any, ...]:
        given = Segment(*segment)
        normed_BTD = self._before(0, x_BTD, given)
        update_BTD, commit, statistics, new = self.attention(x_BTD, normed_BTD, given, state, return_state, backend)
        x_BTD = self._after(0, x_BTD + self._drop(update_BTD), given)
        update_BTD = self.feed_forward(self._before(1, x_BTD, given))
        x_BTD = self._after(1, x_BTD + self._drop(update_BTD), given)
        return tuple(LayerOutput(x_BTD, commit, statistics, new))

    def _before(self, index: int, x_BTD: Tensor, segment: Segment) -> Tensor:
        return apply_norm(self.norms[index], x_BTD, segment.mask) if self.config.prenorm else x_BTD

    def _after(self, index: int, x_BTD: Tensor, segment: Segment) -> Tensor:
        return x_BTD if self.config.prenorm else apply_norm(self.norms[index], x_BTD, segment.mask)

    def _drop(self, update_BTD: Tensor) -> Tensor:
        return drop_residual(update_BTD, self.config.dropout_residual, self.config.dropout_layer, self.training)


class GatedHybrid(LanguageModel):
    """Embedding N(0, 1 / D), matrices N(0, 1 / inputs), as narrow models need (docs/decisions/0006; Mega: N(0, 0.02)).

    With a final norm where norms come before sub-layers.
    """

    norm_bias = False
    tied_scale = 1.0

    def __init__(self, config: ModelConfig, attention: type[GatedAttention]) -> None:
        layers: list[nn.Module] = [GatedLayer(config, attention) for _ in range(config.n_layer)]
        super().__init__(config, layers, std=1 / math.sqrt(config.d_model), final_norm=bool(config.prenorm))
