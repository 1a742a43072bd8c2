"""The norms of the gated hybrids: root mean square, layer, scale, batch.

Letters: B batch, T position, D model width.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, Self

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vqscale.models.layers import RMSNorm, at_least_float32, unit_rms

VARIANCE_EPSILON = 1e-5
"""Added to the variance in layer and batch norm (PyTorch's value)."""
MOMENTUM = 0.1
"""Share of a batch in the running statistics (PyTorch's value)."""

_recomputing: ContextVar[bool] = ContextVar("recomputing", default=False)


@contextmanager
def recomputation() -> Iterator[None]:
    """Around a repeated forward pass (activation checkpointing): running statistics must not count its batch twice."""
    token = _recomputing.set(True)
    try:
        yield
    finally:
        _recomputing.reset(token)


class LayerNorm(nn.Module):
    """Centred, unit variance over the last axis, with a gain and a bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width))

    def initialise(self, generator: torch.Generator) -> None:
        nn.init.ones_(self.gain)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (x.shape[-1],), self.gain, self.bias, VARIANCE_EPSILON).to(x.dtype)


class ScaleNorm(nn.Module):
    """Unit root mean square over the last axis times one learned scalar (Mega's ScaleNorm)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(1))

    def initialise(self, generator: torch.Generator) -> None:
        nn.init.ones_(self.scale)

    def forward(self, x: Tensor) -> Tensor:
        return unit_rms(x) * self.scale.to(x.dtype)


class BatchNorm(nn.Module):
    """Every channel centred and of unit variance over all tokens of a batch, padding left out.

    In training over the batches of all data-parallel ranks together (sums with gradients through them), in evaluation
    by running means in float32. Every rank must give as many forward passes as the others.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width))
        self.register_buffer("mean", torch.empty(width, dtype=torch.float32))
        self.register_buffer("variance", torch.empty(width, dtype=torch.float32))

    def initialise(self, generator: torch.Generator) -> None:
        nn.init.ones_(self.gain)
        nn.init.zeros_(self.bias)
        self.mean.zero_()
        self.variance.fill_(1.0)

    def forward(self, x_BTD: Float[Tensor, "B T D"], mask_BT: Bool[Tensor, "B T"] | None) -> Float[Tensor, "B T D"]:
        wide_BTD = at_least_float32(x_BTD)
        if mask_BT is not None:  # padding may hold anything, NaN too
            wide_BTD = wide_BTD.masked_fill(~mask_BT[..., None], 0.0)
        mean_D, variance_D = self._of_batch(wide_BTD, mask_BT) if self.training else (self.mean, self.variance)
        normed_BTD = (wide_BTD - mean_D) * (variance_D + VARIANCE_EPSILON).rsqrt() * self.gain + self.bias
        return normed_BTD.to(x_BTD.dtype)

    def _of_batch(self, x_BTD: Tensor, mask_BT: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and variance of the real tokens of all ranks; `x_BTD` is zero at padding."""
        real_BT1 = x_BTD.new_ones((*x_BTD.shape[:2], 1)) if mask_BT is None else mask_BT[..., None].to(x_BTD.dtype)
        # Ranks may hold different numbers of real tokens, so the count travels with the sums, in one all-reduce.
        summed = _over_ranks(torch.cat([x_BTD.sum((0, 1)), real_BT1.sum()[None]]))
        count = summed[-1].detach().clamp(min=1)
        mean_D = summed[:-1] / count
        # A second pass around the mean: E[x^2] - E[x]^2 cancels where the mean is large.
        variance_D = _over_ranks((((x_BTD - mean_D) * real_BT1) ** 2).sum((0, 1))) / count
        if not _recomputing.get():
            # Running variance is the unbiased one, normalisation uses the biased one, as in PyTorch.
            self._remember(mean_D.detach(), variance_D.detach() * count / (count - 1).clamp(min=1))
        return mean_D, variance_D

    @torch.no_grad()
    def _remember(self, mean_D: Tensor, variance_D: Tensor) -> None:
        self.mean.lerp_(mean_D.float(), MOMENTUM)
        self.variance.lerp_(variance_D.float(), MOMENTUM)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow a parent to another device or type, the running statistics in float32 whatever the type."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in self._buffers.items():
            assert buffer is not None, "both statistics are registered with values"
            self._buffers[name] = buffer.float()
        return self


def running_statistics(module: nn.Module) -> list[Tensor]:
    """The buffers that a forward pass in training changes by itself."""
    norms = [part for part in module.modules() if isinstance(part, BatchNorm)]
    return [buffer for norm in norms for buffer in (norm.mean, norm.variance)]


def _over_ranks(x: Tensor) -> Tensor:
    """The sum over all data-parallel ranks, with its gradient."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return x
    summed: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]
    return summed


class _Sum(torch.autograd.Function):
    """All ranks' sum: each rank's loss depends on every rank's input, so that gradients are summed alike."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        summed = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        summed = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed


def make_norm(kind: Literal["rms", "layer", "scale", "batch"] | None, width: int) -> nn.Module:
    """The norm that `kind` names; None: root mean square."""
    if kind == "batch":
        return BatchNorm(width)
    if kind == "layer":
        return LayerNorm(width)
    return ScaleNorm() if kind == "scale" else RMSNorm(width, bias=False)


def apply_norm(norm: nn.Module, x_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
    """`norm` of `x_BTD`; only a batch norm needs to know what is padding."""
    out: Tensor = norm(x_BTD, mask_BT) if isinstance(norm, BatchNorm) else norm(x_BTD)
    return out
