"""Transposes that are contiguous in memory, and complex numbers as pairs of real ones."""

from typing import Any

import torch
from torch import Tensor


class _Turned(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.t().contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return turned(grad)


def turned(x: Tensor) -> Tensor:
    """The transpose of a matrix, contiguous, and so is its gradient: products copy strided matrices at every use."""
    found: Tensor = _Turned.apply(x)  # type: ignore[no-untyped-call]
    return found


def as_real(x: Tensor) -> Tensor:
    """Complex numbers of the last axis as pairs in it, [..., 2 N]; real ones as they are."""
    return torch.view_as_real(x.resolve_conj()).flatten(-2) if x.is_complex() else x


def as_complex(x: Tensor, like: Tensor) -> Tensor:
    """The inverse of `as_real` where `like` is complex."""
    return torch.view_as_complex(x.view(*x.shape[:-1], -1, 2)) if like.is_complex() else x
