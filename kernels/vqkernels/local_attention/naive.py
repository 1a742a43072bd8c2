"""Local attention by its definition: every pair of tokens, quadratic in time and memory. Letters as in `problem`."""

import torch
from torch import Tensor

from vqkernels.functions import laplace
from vqkernels.local_attention.problem import LocalProblem
from vqkernels.precision import accumulation_dtype


def naive_local_attention(problem: LocalProblem) -> Tensor:
    """Output [B, H, T, V]; zero where the query is padding."""
    heads = problem.q_BHTK.shape[1] // problem.k_BGUK.shape[1]
    key, value = (x.repeat_interleave(heads, 1) for x in (problem.k_BGUK, problem.v_BGUV))
    seen_BTU = _seen(problem)[:, None]
    score = _add(problem.q_BHTK, problem.bias_u_HK) @ key.transpose(-1, -2)
    score = score.to(accumulation_dtype(score.dtype))
    if problem.function == "laplace":
        score = score / seen_BTU.sum(-1, keepdim=True).clamp(min=1)
    if problem.rel_key_GMK is not None:
        score = score + _position_bias(problem, problem.rel_key_GMK.repeat_interleave(heads, 0))
    if problem.function == "laplace":
        weight = laplace(score)
    else:
        weight = score.masked_fill(~seen_BTU, torch.finfo(score.dtype).min).softmax(-1)
    return (weight * seen_BTU).to(value.dtype) @ value


def _seen(problem: LocalProblem) -> Tensor:
    """[B or 1, T, U]."""
    query, key = _positions(problem)
    distance, length = query - key, problem.block_length
    lag = query // length - key // length
    seen = (lag <= 1) & (distance >= 0 if problem.causal else lag >= -1)
    if problem.reach is not None:
        seen = seen & (distance.abs() < problem.reach)
    seen = seen[None]
    n_query = problem.q_BHTK.shape[2]
    for flag in (problem.real_BU, problem.doc_BU):
        if flag is not None:
            seen = seen & (flag[:, -n_query:, None] == flag[:, None])
    return seen if problem.real_BU is None else seen & problem.real_BU[:, None]


def _position_bias(problem: LocalProblem, rel_key_HMK: Tensor) -> Tensor:
    query, key = _positions(problem)
    nearest = 0 if problem.causal else -(rel_key_HMK.shape[1] // 2)
    by_distance = _add(problem.q_BHTK, problem.bias_w_HK) @ rel_key_HMK.to(problem.q_BHTK.dtype).transpose(-1, -2)
    place = query - key - nearest
    known = (place >= 0) & (place < rel_key_HMK.shape[1])
    index = place.clamp(0, rel_key_HMK.shape[1] - 1).expand(*by_distance.shape[:-1], -1)
    return by_distance.gather(-1, index).masked_fill(~known, 0.0)


def _positions(problem: LocalProblem) -> tuple[Tensor, Tensor]:
    """[T, 1] and [1, U], from the sequence's beginning; carried slots may be before it."""
    end = problem.position + problem.q_BHTK.shape[2]
    position = torch.arange(end - problem.k_BGUK.shape[2], end, device=problem.q_BHTK.device)
    return position[-problem.q_BHTK.shape[2] :, None], position[None]


def _add(q_BHTK: Tensor, bias_HK: Tensor | None) -> Tensor:
    return q_BHTK if bias_HK is None else q_BHTK + bias_HK[:, None].to(q_BHTK.dtype)
