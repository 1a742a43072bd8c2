"""The arguments of every method of the scan, and their checks.

Letters: B batch, T position, D width, N state numbers per channel.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from vqkernels.precision import accumulation_dtype


@dataclass(frozen=True)
class Problem:
    """A scan in one precision: padding is zero, coefficients and state are all real or all complex."""

    x_BTD: Tensor
    decay_DN: Tensor
    input_DN: Tensor
    output_DN: Tensor
    state_BDN: Tensor  # before the first token
    doc_start_BT: Tensor | None

    @classmethod
    def make(
        cls,
        x_BTD: Tensor,
        decay_DN: Tensor,
        input_DN: Tensor,
        output_DN: Tensor,
        state_BDN: Tensor | None,
        mask_BT: Tensor | None,
        doc_start_BT: Tensor | None,
    ) -> Self:
        """Everything in float32 (float64 where an argument is), also under autocast."""
        real, kind = scan_dtypes(x_BTD, decay_DN, input_DN, output_DN, state_BDN)
        x_BTD = x_BTD.to(real)
        if mask_BT is not None:
            x_BTD = torch.where(mask_BT[..., None], x_BTD, 0)  # padding may be NaN
        if state_BDN is None:
            state_BDN = x_BTD.new_zeros((x_BTD.shape[0], *decay_DN.shape), dtype=kind)
        return cls(x_BTD, decay_DN.to(kind), input_DN.to(kind), output_DN.to(kind), state_BDN.to(kind), doc_start_BT)


def scan_dtypes(x: Tensor, *others: Tensor | None) -> tuple[torch.dtype, torch.dtype]:
    """The real dtype of inputs and outputs, and the real or complex one of coefficients and state."""
    dtype = x.dtype
    for other in others:
        if other is not None:
            dtype = torch.promote_types(dtype, other.dtype)
    real = accumulation_dtype(dtype.to_real())
    return real, real.to_complex() if dtype.is_complex else real


def check_shapes(x: Tensor, decay: Tensor, input_: Tensor, output: Tensor, state: Tensor | None) -> None:
    """Ranks and sizes that must agree. Raises ValueError that names the argument, its shape and the rule."""
    if x.dim() != 3 or not x.is_floating_point():
        raise ValueError(f"x: got {x.dtype} of shape {tuple(x.shape)}; it must be real numbers [batch, tokens, width]")
    if x.shape[1] < 1:
        raise ValueError("x: got 0 tokens; a segment must have at least 1; leave empty segments out")
    if decay.dim() != 2 or decay.shape[0] != x.shape[2] or decay.shape[1] < 1:
        raise ValueError(f"decay: got shape {tuple(decay.shape)}; it must be [width {x.shape[2]}, state size >= 1]")
    for name, part in (("input", input_), ("output", output)):
        _check_shape(name, part, tuple(decay.shape))
    if state is not None:
        _check_shape("state", state, (x.shape[0], *decay.shape))


def check_flags(x: Tensor, mask: Tensor | None, doc_start: Tensor | None) -> None:
    """Flags are booleans, one per token. Raises ValueError."""
    for name, flags in (("mask", mask), ("doc_start", doc_start)):
        if flags is not None:
            _check_shape(name, flags, tuple(x.shape[:2]))
            if flags.dtype != torch.bool:
                raise ValueError(f"{name}: got dtype {flags.dtype}; it must be torch.bool; compare with 0 first")


def _check_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name}: got shape {tuple(tensor.shape)}; with the other arguments it must be {shape}")
