"""States across chunks: a recurrence in few, wide steps, in place.

Letters: B batch, R chunks, D width, N state numbers per channel.
"""

from typing import Any

import torch
from torch import Tensor


def scan_across(own_BRDN: Tensor, step_DN: Tensor, keep_BR: Tensor | None) -> Tensor:
    """h_r = [keep_r] step h_{r-1} + own_r for all r; work linear in R, 2 log2(R) steps. `step_DN` is in float64.

    The gradient is the same recurrence from the end.
    """
    found: Tensor = _Scan.apply(own_BRDN, step_DN, keep_BR)  # type: ignore[no-untyped-call]
    return found


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own_BRDN: Tensor, step_DN: Tensor, keep_BR: Tensor | None) -> Tensor:
        state_BRDN = _swept(own_BRDN.clone(memory_format=torch.contiguous_format), step_DN, keep_BR)
        ctx.save_for_backward(state_BRDN, step_DN, keep_BR)
        return state_BRDN

    @staticmethod
    def backward(ctx: Any, grad_BRDN: Tensor) -> tuple[Tensor, Tensor, None]:
        state_BRDN, step_DN, keep_BR = ctx.saved_tensors
        back_BR = None if keep_BR is None else keep_BR.flip(1).roll(1, 1)
        own_BRDN = scan_across(grad_BRDN.flip(1), step_DN.conj(), back_BR).flip(1)
        later_BRDN = own_BRDN[:, 1:]
        if keep_BR is not None:
            later_BRDN = torch.where(keep_BR[:, 1:, None, None], later_BRDN, 0)
        step_grad_DN = (state_BRDN[:, :-1].conj() * later_BRDN).sum((0, 1))
        return own_BRDN, step_grad_DN.to(step_DN.dtype), None


def _swept(state_BRDN: Tensor, step_DN: Tensor, keep_BR: Tensor | None) -> Tensor:
    """Brent and Kung's scan, in place.

    Up, with gaps g = 1, 2, 4, ...: every 2g-th row gets all of its last 2g rows. Down: the rows between get the rest.
    """
    count = state_BRDN.shape[1]
    begin_BR = None if keep_BR is None else _begin(keep_BR)
    gaps = [1 << level for level in range((count - 1).bit_length())]
    steps = {}
    for gap in gaps:
        steps[gap] = step_DN
        _join(state_BRDN, 2 * gap - 1, gap, step_DN, begin_BR)
        step_DN = step_DN * step_DN
    for gap in reversed(gaps):
        _join(state_BRDN, 3 * gap - 1, gap, steps[gap], begin_BR)
    return state_BRDN


def _join(state_BRDN: Tensor, first: int, gap: int, step_DN: Tensor, begin_BR: Tensor | None) -> None:
    """Add step h_{r-gap} to h_r for r = first, first + 2 gap, ..., but nothing across a document's begin."""
    later_BRDN = state_BRDN[:, first :: 2 * gap]
    earlier_BRDN = state_BRDN[:, first - gap :: 2 * gap][:, : later_BRDN.shape[1]]
    step_DN = step_DN.to(state_BRDN.dtype)
    if begin_BR is None:
        later_BRDN.addcmul_(step_DN, earlier_BRDN)
        return
    row_R = torch.arange(begin_BR.shape[1], device=begin_BR.device)[first :: 2 * gap]
    whole_BR = begin_BR[:, first :: 2 * gap] <= row_R - gap
    later_BRDN += torch.where(whole_BR[..., None, None], step_DN * earlier_BRDN, 0)


def _begin(keep_BR: Tensor) -> Tensor:
    """The last row r' <= r of each r that keeps nothing of the row before; -1 where there is none."""
    row_R = torch.arange(keep_BR.shape[1], device=keep_BR.device)
    return torch.where(keep_BR, -1, row_R).cummax(dim=1).values
