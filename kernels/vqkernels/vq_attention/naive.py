"""VQ attention by its definition: every pair of tokens, quadratic in time and memory.

Letters as in `problem`. Source: Transformer-VQ (Lingle, ICLR 2024).
"""

import torch
from torch import Tensor

from vqkernels.functions import laplace
from vqkernels.precision import accumulation_dtype
from vqkernels.quantize.nearest import codewords, straight_through
from vqkernels.vq_attention.problem import Problem


def naive_attention(problem: Problem) -> Tensor:
    """Output [B, G, R, T, V]. A query that sees nothing gives zeros."""
    score_U, seen_U = _token_scores(problem)
    score_S, count_S = _cache_scores(problem)
    score = torch.cat([score_U, score_S], dim=-1)
    count = torch.cat([seen_U.to(score.dtype).expand_as(score_U), count_S.expand_as(score_S)], dim=-1)
    weight = _weights(problem, score, count).to(problem.v_BGUV.dtype)
    n_key = score_U.shape[-1]
    out = weight[..., :n_key] @ problem.v_BGUV[:, :, None]
    if problem.mean_BGSV is None:
        return out
    return out + weight[..., n_key:] @ problem.mean_BGSV[:, :, None].to(out.dtype)


def _weights(problem: Problem, score: Tensor, count: Tensor) -> Tensor:
    """Weights of keys that each represent `count` tokens of the same code: as many equal keys."""
    if problem.function == "laplace":
        score = score / count.sum(-1, keepdim=True).clamp(min=1.0)
    if problem.rel_key_GMK is not None:
        bias = _position_bias(problem, torch.sub(*_positions(problem)))
        score = torch.cat([score[..., : bias.shape[-1]] + bias, score[..., bias.shape[-1] :]], dim=-1)
    if problem.function == "laplace":
        return laplace(score) * count
    score = (score + count.clamp(min=1.0).log()).masked_fill(count == 0, torch.finfo(score.dtype).min)
    return score.softmax(-1) * (count > 0)


def _token_scores(problem: Problem) -> tuple[Tensor, Tensor]:
    """(q + u).c_z, and which tokens a query sees."""
    query, key = _positions(problem)
    query_u = _add(problem.q_BGRTK, problem.bias_u_GRK)
    far = codewords(problem.code_BGU, problem.codebook_GSK)
    own_code = problem.code_BGU[:, :, problem.lead :]
    own = straight_through(problem.k_BGTK.to(far.dtype), own_code, problem.codebook_GSK)
    near = torch.cat([far[:, :, : problem.lead], own], dim=2)
    in_window = key // problem.block_length >= query // problem.block_length - 1
    by_near, by_far = (query_u @ one[:, :, None].transpose(-1, -2) for one in (near, far))
    score = torch.where(in_window, by_near, by_far).to(accumulation_dtype(by_far.dtype))
    return score, (key <= query) & _same_document(problem)


def _position_bias(problem: Problem, distance_TU: Tensor) -> Tensor:
    """[0 <= distance <= M] (q + w).r_distance."""
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
    """(q + u).c_s, and how many tokens of the code a query sees. No columns without a carried cache."""
    query_u = _add(problem.q_BGRTK, problem.bias_u_GRK)
    if problem.mean_BGSV is None or problem.count_BGS is None or problem.doc_BU is None or problem.real_BU is None:
        score = query_u[..., :0]
        return score.to(accumulation_dtype(score.dtype)), torch.ones_like(score)
    score = (query_u @ problem.codebook_GSK[:, None].transpose(-1, -2)).to(problem.count_BGS.dtype)
    count = problem.count_BGS[:, :, None, None, :]
    first_doc = (problem.doc_BU == 0) & problem.real_BU
    return score, count * first_doc[:, None, None, problem.lead :, None]


def _positions(problem: Problem) -> tuple[Tensor, Tensor]:
    key = torch.arange(problem.lead + problem.n_query, device=problem.q_BGRTK.device)
    return key[problem.lead :, None], key[None, :]


def _add(q_BGRTK: Tensor, bias_GRK: Tensor | None) -> Tensor:
    return q_BGRTK if bias_GRK is None else q_BGRTK + bias_GRK[:, :, None]
