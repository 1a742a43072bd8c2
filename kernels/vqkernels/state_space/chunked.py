"""The scan in chunks: products inside of them, a logarithmic scan of states across them; linear in T.

A chunk's outputs are its tokens times the Toeplitz matrix of the first C impulse responses, plus its entering state
times the decays' powers; its own contribution to the state is its tokens times those powers. All of these are
products in batches over the channels, on any device. Chunks begin anew at every document (`documents`), so that
nothing of an earlier one has to be taken back.

Letters: B batch, T position, D width, N numbers of state a channel, M = N (2 N of complex numbers), R chunks,
C tokens a chunk.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from vqkernels.state_space.documents import Rows
from vqkernels.state_space.powers import in_float64, powers
from vqkernels.state_space.problem import Problem

CHUNK = 64


def chunked_scan(problem: Problem, return_state: bool, size: int = CHUNK) -> tuple[Tensor, Tensor | None]:
    """y [B, T, D] and, if asked for, the state after the last token; equal to the recurrence up to rounding."""
    batch, length, width = problem.x_BTD.shape
    rows = Rows.make(problem.doc_start_BT, batch, length, size, problem.x_BTD.device)
    weights = _Weights(problem, size)
    x_DRC = rows.spread(problem.x_BTD).permute(2, 0, 1).reshape(width, batch * rows.count, size)
    own_DRN = _complex_like(torch.bmm(x_DRC, weights.into_DCM), problem.decay_DN)
    own_BRDN = own_DRN.view(width, batch, rows.count, -1).permute(1, 2, 0, 3)
    entering_BRDN = _entering(own_BRDN, weights.step_DN, rows.keep_BR, problem.state_BDN)
    entering_DRM = _real(entering_BRDN).permute(2, 0, 1, 3).flatten(1, 2)
    y_DRC = torch.baddbmm(torch.bmm(entering_DRM, weights.out_of_DMC), x_DRC, weights.within_DCC)
    y_BTD = rows.gather(y_DRC.view(width, batch, -1).permute(1, 2, 0), length)
    if not return_state:
        return y_BTD, None
    return y_BTD, _last_state(problem, rows, weights, entering_BRDN)


class _Weights:
    """The matrices of all chunks, from one table of powers."""

    def __init__(self, problem: Problem, size: int) -> None:
        kind, real = problem.decay_DN.dtype, problem.x_BTD.dtype
        self.power_DNC = powers(problem.decay_DN, size + 1)
        self.step_DN = self.power_DNC[..., -1]  # float64: it is squared again and again
        into_DNC = in_float64(problem.input_DN)[..., None] * self.power_DNC[..., :size]
        out_of_DNC = in_float64(problem.output_DN)[..., None] * self.power_DNC[..., 1:]
        response_DC = (in_float64(problem.output_DN)[..., None] * into_DNC).sum(1)
        self.into_DCM = _real(into_DNC.flip(-1).mT.to(kind))
        self.out_of_DMC = _real(out_of_DNC.conj().mT.to(kind)).mT
        self.within_DCC = _toeplitz((response_DC.real if kind.is_complex else response_DC).to(real))


def _toeplitz(response_DC: Tensor) -> Tensor:
    """[D, C, C] that token i's row takes to output j: response[j - i], zero before i.

    Rows of 2 C entries read as rows of 2 C - 1 move by one a row, so that nothing needs to be indexed.
    """
    width, size = response_DC.shape
    repeated_DC = F.pad(response_DC, (0, size))[:, None].expand(-1, size, -1).reshape(width, -1)
    return repeated_DC[:, : size * (2 * size - 1)].view(width, size, 2 * size - 1)[..., :size]


def _entering(own_BRDN: Tensor, step_DN: Tensor, keep_BR: Tensor | None, state_BDN: Tensor) -> Tensor:
    """The state at the beginning of every chunk; zero where a document begins."""
    state_B1DN = state_BDN[:, None]
    first_B1 = None if keep_BR is None else keep_BR[:, :1]
    first_B1DN = own_BRDN[:, :1] + _kept(step_DN.to(state_BDN.dtype) * state_B1DN, first_B1)
    after_BRDN = _scan(torch.cat((first_B1DN, own_BRDN[:, 1:]), dim=1), step_DN, keep_BR)
    return _kept(torch.cat((state_B1DN, after_BRDN[:, :-1]), dim=1), keep_BR)


def _scan(own_BRDN: Tensor, step_DN: Tensor, keep_BR: Tensor | None) -> Tensor:
    """h_r = [keep_r] step h_{r-1} + own_r for all r: neighbours are joined, half as many scanned, the others filled in.

    Work is linear in R, depth logarithmic.
    """
    count = own_BRDN.shape[1]
    if count == 1:
        return own_BRDN
    if count % 2:
        own_BRDN = F.pad(own_BRDN, (0, 0, 0, 0, 0, 1))
        keep_BR = None if keep_BR is None else F.pad(keep_BR, (0, 1))
    batch, _, *channels = own_BRDN.shape
    even_BRDN, odd_BRDN = own_BRDN.reshape(batch, -1, 2, *channels).unbind(2)
    keep_even, keep_odd = (None, None) if keep_BR is None else keep_BR.view(batch, -1, 2).unbind(2)
    step = step_DN.to(own_BRDN.dtype)
    both = None if keep_even is None or keep_odd is None else keep_even & keep_odd
    odd_BRDN = _scan(odd_BRDN + _kept(step * even_BRDN, keep_odd), step_DN * step_DN, both)
    before_BRDN = F.pad(odd_BRDN[:, :-1], (0, 0, 0, 0, 1, 0))
    even_BRDN = even_BRDN + _kept(step * before_BRDN, keep_even)
    return torch.stack((even_BRDN, odd_BRDN), dim=2).flatten(1, 2)[:, :count]


def _kept(x_BRDN: Tensor, keep_BR: Tensor | None) -> Tensor:
    return x_BRDN if keep_BR is None else torch.where(keep_BR[..., None, None], x_BRDN, 0)


def _last_state(problem: Problem, rows: Rows, weights: _Weights, entering_BRDN: Tensor) -> Tensor:
    """The state after the last token: its chunk may be short."""
    x_DBC = rows.tail(problem.x_BTD).permute(2, 0, 1)
    own_BDN = _complex_like(torch.bmm(x_DBC, weights.into_DCM), problem.decay_DN).transpose(0, 1)
    batch_B = torch.arange(len(rows.last_B), device=rows.last_B.device)
    decay_BDN = weights.power_DNC[..., rows.tail_B].permute(2, 0, 1).to(own_BDN.dtype)
    return own_BDN + decay_BDN * entering_BRDN[batch_B, rows.last_B]


def _real(x: Tensor) -> Tensor:
    """Complex numbers of the last axis as pairs in it: [..., 2 N]."""
    return torch.view_as_real(x.resolve_conj()).flatten(-2) if x.is_complex() else x


def _complex_like(x: Tensor, like: Tensor) -> Tensor:
    """The inverse of `_real` where `like` is complex."""
    return torch.view_as_complex(x.view(*x.shape[:-1], -1, 2)) if like.is_complex() else x
