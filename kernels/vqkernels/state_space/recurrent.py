"""The definition: one token after the other.

Letters: B batch, T position, D width, N state numbers per channel.
"""

import torch
from torch import Tensor

from vqkernels.state_space.problem import Problem


def recurrent_scan(problem: Problem, return_state: bool) -> tuple[Tensor, Tensor | None]:
    """h_t = decay h_{t-1} + input x_t and y_t = Re sum_n output_n h_{t,n}, literally: y [B, T, D] and the last h."""
    state_BDN, outputs = problem.state_BDN, []
    for t in range(problem.x_BTD.shape[1]):
        if problem.doc_start_BT is not None:
            state_BDN = torch.where(problem.doc_start_BT[:, t, None, None], 0, state_BDN)
        y_BD, state_BDN = one_step(
            problem.x_BTD[:, t], problem.decay_DN, problem.input_DN, problem.output_DN, state_BDN
        )
        outputs.append(y_BD)
    return torch.stack(outputs, dim=1), state_BDN if return_state else None


def one_step(
    x_BD: Tensor, decay_DN: Tensor, input_DN: Tensor, output_DN: Tensor, state_BDN: Tensor
) -> tuple[Tensor, Tensor]:
    """The next token's output and the state after it."""
    state_BDN = decay_DN * state_BDN + input_DN * x_BD[..., None]
    y_BD = (output_DN * state_BDN).sum(-1)
    return (y_BD.real if y_BD.is_complex() else y_BD), state_BDN
