"""The scan in chunks: products inside of them, a logarithmic scan of states across them; linear in T.

A chunk's outputs are its tokens times the Toeplitz matrix of the first C impulse responses, plus its entering state
times the decays' powers; its own contribution to the state is its tokens times those powers. All of these are
products in batches over the channels, on any device. Every document begins a new chunk (`documents`), so that
nothing of an earlier one has to be subtracted.

Letters: B batch, T position, D width, N state numbers per channel, M = N (2 N of complex numbers), R chunks,
C tokens per chunk.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from vqkernels.state_space.across import scan_across
from vqkernels.state_space.documents import Rows
from vqkernels.state_space.layout import as_complex, as_real, turned
from vqkernels.state_space.powers import in_float64, powers
from vqkernels.state_space.problem import Problem

CHUNK = 32
"""Tokens per chunk: the work within grows with C per token, the number of states with 1 / C."""


def chunked_scan(problem: Problem, return_state: bool, size: int = CHUNK) -> tuple[Tensor, Tensor | None]:
    """y [B, T, D] and, if asked for, the state after the last token; equal to the recurrence up to rounding."""
    batch, length, width = problem.x_BTD.shape
    rows = Rows.make(problem.doc_start_BT, batch, length, size, problem.x_BTD.device)
    weights = _Weights(problem, size)
    x_DRC = turned(rows.spread(problem.x_BTD).reshape(-1, width)).view(width, -1, size)
    own_DRN = as_complex(torch.bmm(x_DRC, weights.into_DCM), problem.decay_DN)
    own_BRDN = own_DRN.view(width, batch, rows.count, -1).permute(1, 2, 0, 3)
    entering_BRDN = _entering(own_BRDN, weights.step_DN, rows.keep_BR, problem.state_BDN)
    entering_DRM = as_real(entering_BRDN).permute(2, 0, 1, 3).flatten(1, 2)
    y_DRC = torch.baddbmm(torch.bmm(entering_DRM, weights.out_of_DMC), x_DRC, weights.within_DCC)
    y_BTD = rows.gather(turned(y_DRC.view(width, -1)).view(batch, -1, width), length)
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
        self.into_DCM = as_real(into_DNC.flip(-1).mT.to(kind))
        self.out_of_DMC = as_real(out_of_DNC.conj().mT.to(kind)).mT
        self.within_DCC = _toeplitz((response_DC.real if kind.is_complex else response_DC).to(real))


def _toeplitz(response_DC: Tensor) -> Tensor:
    """[D, C, C] that token i's row takes to output j: response[j - i], zero before i.

    Rows of 2 C entries read as rows of 2 C - 1 shift by one entry per row, so that nothing needs to be indexed.
    """
    width, size = response_DC.shape
    repeated_DC = F.pad(response_DC, (0, size))[:, None].expand(-1, size, -1).reshape(width, -1)
    return repeated_DC[:, : size * (2 * size - 1)].view(width, size, 2 * size - 1)[..., :size]


def _entering(own_BRDN: Tensor, step_DN: Tensor, keep_BR: Tensor | None, state_BDN: Tensor) -> Tensor:
    """The state at the beginning of every chunk; zero where a document begins."""
    before_BRDN = torch.cat((state_BDN[:, None], own_BRDN[:, :-1]), dim=1)
    if keep_BR is not None:
        before_BRDN = torch.where(keep_BR[..., None, None], before_BRDN, 0)
    return scan_across(before_BRDN, step_DN, keep_BR)


def _last_state(problem: Problem, rows: Rows, weights: _Weights, entering_BRDN: Tensor) -> Tensor:
    """The state after the last token: its chunk may be short."""
    x_DBC = rows.tail(problem.x_BTD).permute(2, 0, 1)
    own_BDN = as_complex(torch.bmm(x_DBC, weights.into_DCM), problem.decay_DN).transpose(0, 1)
    batch_B = torch.arange(len(rows.last_B), device=rows.last_B.device)
    decay_BDN = weights.power_DNC[..., rows.tail_B].permute(2, 0, 1).to(own_BDN.dtype)
    return own_BDN + decay_BDN * entering_BRDN[batch_B, rows.last_B]
