"""The layers of Transformer-VQ around its attention: shared by `transformer_vq` and `transformer_full`.

Source: Lingle, Transformer-VQ (ICLR 2024), sections 3 and 4 and the reference code. The two architectures differ in one
method, `mix`: which keys a query sees, quantised or not.

Letters: B batch, T position, M relative distance, H heads, G key/value heads, K key width, V value width,
D model width.
"""

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vqscale.models.base import LanguageModel, LayerOutput, LayerState, Segment
from vqscale.models.layers import Projection, RMSNorm, SquaredReluMLP, drop_residual, sinusoids, unit_rms
from vqscale.study.model import ModelConfig

Mixed = tuple[Tensor, Tensor, tuple[tuple[Tensor, ...], ...], LayerState]
"""Output [B, H, T, V], commitment loss, statistics (none or one), state (empty unless asked for)."""


class Mixing(nn.Module, ABC):
    """Attention with a relative bias over given queries, keys and values.

    `bias_u` and `bias_w` are the content and position biases of Transformer-XL. A subclass defines `mix`: which keys a
    query sees. How queries, keys and values are made is up to the class that this one is combined with.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    def add_bias(self) -> None:
        """Create the parameters of the bias; a model without positions has no position bias."""
        config = self.config
        self.bias_u = nn.Parameter(torch.empty(config.n_head, config.d_key))
        if config.relative:
            self.relative = Projection(config.d_model, config.n_kv_head * config.d_key)
            self.bias_w = nn.Parameter(torch.empty(config.n_head, config.d_key))

    def initialise(self, generator: torch.Generator) -> None:
        nn.init.zeros_(self.bias_u)
        if self.config.relative:
            nn.init.zeros_(self.bias_w)

    @property
    def function(self) -> Literal["softmax", "laplace"]:
        """The function that turns scores into weights."""
        return self.config.attention_function or "softmax"

    @property
    def scale(self) -> float:
        """tau^-1/2 with tau = sqrt(K), for queries, keys and biases; 1 for Laplace attention: it has no temperature."""
        return float(self.config.d_key**-0.25) if self.function == "softmax" else 1.0

    def bias(self, reach: int, like: Tensor) -> dict[str, Any]:
        """u, and with positions also w and the relative keys, scaled, as keyword arguments of the kernels."""
        content = {"bias_u_HK": self.bias_u * self.scale}
        if not self.config.relative:
            return content
        return content | {"bias_w_HK": self.bias_w * self.scale, "rel_key_GMK": self.relative_keys(reach, like)}

    def relative_keys(self, reach: int, like: Tensor) -> Float[Tensor, "G M K"]:
        """The key of every distance up to `reach`, scaled, on the device and in the dtype of `like`.

        Distances begin at 0 or, where the model is not causal, at -`reach`: later keys are at negative ones. Laplace
        weights are not normalised: their relative keys are divided by K, so that position scores are small at first, as
        Mega's are; otherwise about half of all weights would be near one.
        """
        first = 0 if self.config.causal else -reach
        distance_M = torch.arange(first, reach + 1, device=like.device)
        table_MD = sinusoids(distance_M, self.config.d_model, self.config.position_base)  # float64, rounded below
        table_MD = F.dropout(table_MD.to(like.dtype), self.config.dropout_sinusoid, self.training)
        key_GMK: Tensor = self.relative(table_MD).unflatten(-1, (self.config.n_kv_head, -1)).transpose(0, 1)
        return key_GMK * (self.scale if self.function == "softmax" else 1 / self.config.d_key)

    @abstractmethod
    def mix(
        self,
        q_BHTK: Tensor,
        k_BGTK: Tensor,
        v_BGTV: Tensor,
        segment: Segment,
        state: LayerState,
        return_state: bool,
        backend: str,
    ) -> Mixed:
        """Attention of the architecture; queries and keys come scaled."""


class RelativeAttention(Mixing):
    """One attention sub-layer without its norm and residual path; gated (a GAU) for the head type SHGA.

    Queries and keys have unit RMS, and each carries the root of the scale 1 / sqrt(K), so that the scale acts before
    keys are quantised.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.gated = config.head == "shga"
        heads, kv_heads = config.n_head, config.n_kv_head
        values = heads * config.d_value
        self.widths = [heads * config.d_key, kv_heads * config.d_key, kv_heads * config.d_value]
        self.widths += [values] if self.gated else []
        self.inputs = Projection(config.d_model, sum(self.widths))
        self.add_bias()
        self.out = Projection(values, config.d_model)

    def forward(
        self,
        x_BTD: Float[Tensor, "B T D"],
        segment: tuple[Any, ...],
        state: LayerState,
        return_state: bool,
        backend: str,
    ) -> Mixed:
        """`Mixed`, with the output projected to [B, T, D]."""
        q, k, v, gate = self._project(x_BTD)
        mixed = self.mix(q, k, v, Segment(*segment), state, return_state, backend)
        out_BTV = mixed[0].transpose(1, 2).flatten(2)
        return (self.out(out_BTV if gate is None else out_BTV * gate), *mixed[1:])

    def _project(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Queries [B, H, T, K], keys [B, G, T, K], values [B, G, T, V] and, if gated, gates [B, T, H V]."""
        parts = self.inputs(x_BTD).split(self.widths, dim=-1)
        heads = (self.config.n_head, self.config.n_kv_head, self.config.n_kv_head)
        q, k, v = (x.unflatten(-1, (h, -1)).transpose(1, 2) for x, h in zip(parts[:3], heads, strict=True))
        q, k = unit_rms(q) * self.scale, unit_rms(k) * self.scale
        return (q, k, F.silu(v), F.silu(parts[3])) if self.gated else (q, k, v, None)


class RelativeLayer(nn.Module):
    """Two gated attention units (SHGA), or attention and a feed-forward layer (MQA, MHA)."""

    def __init__(self, config: ModelConfig, attention: type[RelativeAttention]) -> None:
        super().__init__()
        self.config = config
        self.attentions = nn.ModuleList(attention(config) for _ in range(2 if config.head == "shga" else 1))
        self.norms = nn.ModuleList(RMSNorm(config.d_model, bias=True) for _ in range(2))
        self.feed_forward = None if config.d_ff is None else SquaredReluMLP(config.d_model, config.d_ff)

    def forward(
        self, x_BTD: Tensor, segment: tuple[Any, ...], state: LayerState, *, return_state: bool, backend: str
    ) -> tuple[Any, ...]:
        share = len(state) // len(self.attentions)
        commits: list[Tensor] = []
        statistics: tuple[tuple[Tensor, ...], ...] = ()
        new_state: LayerState = ()
        for i, (norm, attention) in enumerate(zip(self.norms, self.attentions, strict=False)):
            own = state[i * share : (i + 1) * share]
            update_BTD, commit, stats, new = attention(norm(x_BTD), segment, own, return_state, backend)
            x_BTD = x_BTD + self._drop(update_BTD)
            commits.append(commit)
            statistics, new_state = (*statistics, *stats), (*new_state, *new)
        if self.feed_forward is not None:
            x_BTD = x_BTD + self._drop(self.feed_forward(self.norms[1](x_BTD)))
        return tuple(LayerOutput(x_BTD, torch.stack(commits).sum(), statistics, new_state))

    def _drop(self, update_BTD: Tensor) -> Tensor:
        return drop_residual(update_BTD, self.config.dropout_residual, self.config.dropout_layer, self.training)


class RelativeTransformer(LanguageModel):
    """Embedding N(0, 1), all matrices N(0, 1 / inputs), biases zero; a final norm only where the head is tied."""

    norm_bias = True
    tied_scale = 0.005  # in place of a smaller embedding: reference code, PG-19 and ImageNet64 recipes
    attention: type[RelativeAttention]

    def __init__(self, config: ModelConfig) -> None:
        layers: list[nn.Module] = [RelativeLayer(config, self.attention) for _ in range(config.n_layer)]
        super().__init__(config, layers, std=None, final_norm=config.tie_embeddings)
