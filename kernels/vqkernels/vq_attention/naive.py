"""VQ attention by its definition: one softmax over every token, quadratic in time and memory.

Letters as in `problem`. Source: Transformer-VQ (Lingle, ICLR 2024).
"""

import torch
from torch import Tensor

from vqkernels.precision import accumulation_dtype
from vqkernels.quantize.nearest import codewords, straight_through
from vqkernels.vq_attention.problem import Problem


def naive_attention(problem: Problem) -> Tensor:
    """Output [B, G, R, T, V]. A query that sees nothing gives zeros."""
    score_U, visible_U = _token_scores(problem)
    score_S, visible_S = _cache_scores(problem)
    score = torch.cat([score_U, score_S], dim=-1)
    visible = torch.cat([visible_U.expand_as(score_U), visible_S.expand_as(score_S)], dim=-1)
    score = score.masked_fill(~visible, torch.finfo(score.dtype).min)
    weight = (score.softmax(-1) * visible).to(problem.v_BGUV.dtype)
    n_key = score_U.shape[-1]
    out = weight[..., :n_key] @ problem.v_BGUV[:, :, None]
    if problem.mean_BGSV is None:
        return out
    return out + weight[..., n_key:] @ problem.mean_BGSV[:, :, None].to(out.dtype)


def _token_scores(problem: Problem) -> tuple[Tensor, Tensor]:
    """(q + u).c_z + [0 <= distance <= M] (q + w).r_distance, and which tokens a query sees."""
    query, key = _positions(problem)
    query_u = _add(problem.q_BGRTK, problem.bias_u_GRK)
    far = codewords(problem.code_BGU, problem.codebook_GSK)
    own_code = problem.code_BGU[:, :, problem.lead :]
    own = straight_through(problem.k_BGTK.to(far.dtype), own_code, problem.codebook_GSK)
    near = torch.cat([far[:, :, : problem.lead], own], dim=2)
    in_window = key // problem.block_length >= query // problem.block_length - 1
    by_near, by_far = (query_u @ one[:, :, None].transpose(-1, -2) for one in (near, far))
    score = torch.where(in_window, by_near, by_far).to(accumulation_dtype(by_far.dtype))
    if problem.rel_key_GMK is not None:
        score = score + _position_bias(problem, query - key)
    return score, (key <= query) & _same_document(problem)


def _position_bias(problem: Problem, distance_TU: Tensor) -> Tensor:
    assert problem.rel_key_GMK is not None
    query_w = _add(problem.q_BGRTK, problem.bias_w_GRK)
    by_distance = query_w @ problem.rel_key_GMK[:, None].transpose(-1, -2)
    furthest = problem.rel_key_GMK.shape[1] - 1
    index = distance_TU.clamp(0, furthest).expand(*by_distance.shape[:-1], -1)
    return by_distance.gather(-1, index).masked_fill((distance_TU < 0) | (distance_TU > furthest), 0.0)


def _same_document(problem: Problem) -> Tensor:
    if problem.doc_BU is None or problem.real_BU is None:
        return torch.ones((), dtype=torch.bool, device=problem.q_BGRTK.device)
    doc, real, lead = problem.doc_BU, problem.real_BU, problem.lead
    seen = (doc[:, lead:, None] == doc[:, None, :]) & real[:, lead:, None] & real[:, None, :]
    return seen[:, None, None]


def _cache_scores(problem: Problem) -> tuple[Tensor, Tensor]:
    """(q + u).c_s + log(count_s): as many equal keys as tokens took the code. No columns without a carried cache."""
    query_u = _add(problem.q_BGRTK, problem.bias_u_GRK)
    if problem.mean_BGSV is None or problem.count_BGS is None or problem.doc_BU is None or problem.real_BU is None:
        score = query_u[..., :0]
        return score.to(accumulation_dtype(score.dtype)), torch.ones_like(score, dtype=torch.bool)
    score = (query_u @ problem.codebook_GSK[:, None].transpose(-1, -2)).to(problem.count_BGS.dtype)
    count = problem.count_BGS[:, :, None, None, :]
    first_doc = (problem.doc_BU == 0) & problem.real_BU
    visible = (count > 0) & first_doc[:, None, None, problem.lead :, None]
    return score + count.clamp(min=1.0).log(), visible


def _positions(problem: Problem) -> tuple[Tensor, Tensor]:
    key = torch.arange(problem.lead + problem.n_query, device=problem.q_BGRTK.device)
    return key[problem.lead :, None], key[None, :]


def _add(q_BGRTK: Tensor, bias_GRK: Tensor | None) -> Tensor:
    return q_BGRTK if bias_GRK is None else q_BGRTK + bias_GRK[:, :, None]
