"""Gated linear attention token by token: the definition.

Letters: B batch, H heads, T position, K key width, V value width.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Problem(NamedTuple):
    """Arguments in the dtype of the computation; padding and documents are already in keys and decays."""

    q_BHTK: Tensor
    k_BHTK: Tensor
    v_BHTV: Tensor
    log_decay_BHTK: Tensor
    """Not above zero; -inf where the state is reset."""
    state_BHKV: Tensor


def naive(problem: Problem) -> tuple[Tensor, Tensor]:
    """S_t = diag(decay_t) S_{t-1} + k_t^T v_t; o_t = q_t S_t. Outputs [B, H, T, V] and the last state."""
    state_BHKV = problem.state_BHKV
    outs = []
    for t in range(problem.q_BHTK.shape[2]):
        decay_BHK1 = problem.log_decay_BHTK[:, :, t, :, None].exp()
        outer_BHKV = problem.k_BHTK[:, :, t, :, None] * problem.v_BHTV[:, :, t, None]
        state_BHKV = decay_BHK1 * state_BHKV + outer_BHKV
        outs.append(torch.einsum("bhk,bhkv->bhv", problem.q_BHTK[:, :, t], state_BHKV))
    return torch.stack(outs, dim=2), state_BHKV
