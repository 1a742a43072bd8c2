"""The scan as a convolution by FFT: whole sequences from an empty state.

Letters: B batch, T position, D width, N state numbers per channel, F frequency, R rows and C columns of powers.
"""

import math

import torch
from torch import Tensor

from vqkernels.state_space.layout import turned
from vqkernels.state_space.powers import in_float64, powers
from vqkernels.state_space.problem import Problem


def fft_scan(problem: Problem, return_state: bool) -> tuple[Tensor, Tensor | None]:
    """y [B, T, D] of x convolved with the impulse response, both padded with zeros so that nothing wraps around.

    Takes an empty state and no document's start, and gives no state (`diagonal_scan` checks it).
    """
    assert not return_state, "a convolution knows no state"
    length = problem.x_BTD.shape[1]
    room = _fast_length(2 * length - 1)
    batch, _, width = problem.x_BTD.shape
    x_DBF = torch.fft.rfft(turned(problem.x_BTD.reshape(-1, width)).view(width, batch, length), n=room)
    response_DF = torch.fft.rfft(impulse_response(problem, length), n=room)
    y_DBT = torch.fft.irfft(x_DBF * response_DF[:, None], n=room)[..., :length]
    return turned(y_DBT.reshape(width, -1)).view(batch, length, width), None


def impulse_response(problem: Problem, length: int) -> Tensor:
    """Re sum_n output_n input_n decay_n^t for t < length: [D, T].

    Power t = r C + c is power r C times power c: two tables of about sqrt(T) powers and a product, instead of T powers.
    """
    columns = math.isqrt(length - 1) + 1
    rows = -(-length // columns)
    power_DNC = powers(problem.decay_DN, columns + 1)
    power_DNR = powers(power_DNC[..., -1], rows)
    weight_DN = in_float64(problem.output_DN) * in_float64(problem.input_DN)
    left_DNR, right_DNC = weight_DN[..., None] * power_DNR, power_DNC[..., :columns]
    if weight_DN.is_complex():
        left_DNR = torch.cat((left_DNR.real, -left_DNR.imag), dim=1)
        right_DNC = torch.cat((right_DNC.real, right_DNC.imag), dim=1)
    real = problem.x_BTD.dtype
    return torch.bmm(left_DNR.mT.to(real), right_DNC.to(real)).flatten(1)[:, :length]


def _fast_length(least: int) -> int:
    """The smallest even number from `least` on with no prime factor but 2, and at most two of 3 and 5."""
    return min(odd << max(1, (-(-least // odd) - 1).bit_length()) for odd in (1, 3, 5, 9, 15, 25))
