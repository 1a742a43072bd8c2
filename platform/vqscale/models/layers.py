"""The parts that architectures share: norms, projections, embeddings, feed-forward layers, sinusoids, dropout.

Letters: B batch, T position, D model width, F feed-forward width, W vocabulary, K head width.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

RMS_EPSILON = 1e-6
"""Added to the mean square in every RMS norm (Transformer-VQ's reference code)."""


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32, or as it is where it is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def unit_rms(x: Tensor) -> Tensor:
    """`x` with its last axis scaled to a root mean square of one; no gain, no bias."""
    # Under autocast newer versions of PyTorch return float32.
    return F.rms_norm(x, (x.shape[-1],), eps=RMS_EPSILON).to(x.dtype)


def sinusoids(position: Tensor, width: int, base: float) -> Tensor:
    """Sines (first half) and cosines of `position`, [..., width] in float64; wavelengths 2 pi to 2 pi `base`.

    float64, because a float32 angle at position 131072 is off by up to 0.008 rad; callers round the values instead.
    """
    frequency = base ** (-torch.arange(0, width, 2, device=position.device, dtype=torch.float64) / width)
    angle = position.double().unsqueeze(-1) * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def drop_residual(update_BTD: Tensor, dropout: float, layer_dropout: float, training: bool) -> Tensor:
    """Dropout of single values, then of the whole update of an example; what stays is scaled up by 1 / (1 - rate)."""
    update_BTD = F.dropout(update_BTD, dropout, training)
    if not training or layer_dropout == 0:
        return update_BTD
    keep_B11 = F.dropout(update_BTD.new_ones(update_BTD.shape[0], 1, 1), layer_dropout)  # 0 or 1 / (1 - rate)
    return update_BTD * keep_B11


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, with a gain and, where asked for, a bias (no centring)."""

    def __init__(self, width: int, *, bias: bool) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width)) if bias else None

    def initialise(self, generator: torch.Generator) -> None:
        nn.init.ones_(self.gain)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        normed = F.rms_norm(x, (x.shape[-1],), self.gain, RMS_EPSILON).to(x.dtype)
        return normed if self.bias is None else normed + self.bias


class Projection(nn.Module):
    """A matrix [outputs, inputs] drawn from N(0, std^2), std by default inputs^-1/2; if asked for, a bias of zeros."""

    def __init__(self, inputs: int, outputs: int, *, std: float | None = None, bias: bool = False) -> None:
        super().__init__()
        self.std = 1 / math.sqrt(inputs) if std is None else std
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def initialise(self, generator: torch.Generator) -> None:
        nn.init.normal_(self.weight, std=self.std, generator=generator)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class TokenEmbedding(nn.Module):
    """Tokens to vectors and, for a tied head, vectors to logits.

    Both ways go through this module's own forward: under ZeRO-3 a parameter is whole only inside its owner's forward.
    """

    def __init__(self, vocab_size: int, d_model: int, *, std: float = 1.0) -> None:
        super().__init__()
        self.std = std
        self.weight = nn.Parameter(torch.empty(vocab_size, d_model))

    def initialise(self, generator: torch.Generator) -> None:
        nn.init.normal_(self.weight, std=self.std, generator=generator)

    def forward(self, x: Int[Tensor, "B T"] | Float[Tensor, "B T D"], as_head: bool = False) -> Tensor:
        return F.linear(x, self.weight) if as_head else F.embedding(x, self.weight)


class SampleEmbedding(nn.Module):
    """Samples of a signal to vectors, in place of an embedding: ids 0 .. levels - 1 map evenly to [-1, 1]; x w + b.

    Weight and bias are drawn from N(0, std^2), as in Mega.
    """

    def __init__(self, levels: int, d_model: int, *, std: float = 1.0) -> None:
        super().__init__()
        self.levels, self.std = levels, std
        self.weight = nn.Parameter(torch.empty(d_model))
        self.bias = nn.Parameter(torch.empty(d_model))

    def initialise(self, generator: torch.Generator) -> None:
        nn.init.normal_(self.weight, std=self.std, generator=generator)
        nn.init.normal_(self.bias, std=self.std, generator=generator)

    def forward(self, sample_BT: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        x_BT = sample_BT.to(self.weight.dtype) * (2 / max(self.levels - 1, 1)) - 1
        return x_BT[..., None] * self.weight + self.bias


class AbsolutePositions(nn.Module):
    """Sinusoids of the position in the document times one learned scalar, which begins at zero."""

    def __init__(self, d_model: int, base: float) -> None:
        super().__init__()
        self.d_model, self.base = d_model, base
        self.scale = nn.Parameter(torch.empty(1))

    def initialise(self, generator: torch.Generator) -> None:
        nn.init.zeros_(self.scale)

    def forward(self, position_BT: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        return self.scale * sinusoids(position_BT, self.d_model, self.base).to(self.scale.dtype)


class SquaredReluMLP(nn.Module):
    """D -> F -> D with squared ReLU (the feed-forward layer of Transformer-VQ's MQA and MHA models)."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.up = Projection(d_model, d_ff)
        self.down = Projection(d_ff, d_model)

    def forward(self, x_BTD: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        out: Tensor = self.down(F.relu(self.up(x_BTD)).square())
        return out


class SwiGLU(nn.Module):
    """D -> F -> D with a SiLU gate; gate and value come from one projection."""

    def __init__(self, d_model: int, d_ff: int, *, std_down: float) -> None:
        super().__init__()
        self.gate_up = Projection(d_model, 2 * d_ff)
        self.down = Projection(d_ff, d_model, std=std_down)

    def forward(self, x_BTD: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        gate_BTF, up_BTF = self.gate_up(x_BTD).chunk(2, dim=-1)
        out: Tensor = self.down(F.silu(gate_BTF) * up_BTF)
        return out
