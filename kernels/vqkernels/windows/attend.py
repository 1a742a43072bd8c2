"""Attention of blocks of queries, each to columns of its own.

Letters: G key-value heads, B batch, N blocks, R query heads a key-value head, I rows of a block, W columns,
M relative distances, K key width, V value width. Key-value heads stand first, so that what belongs to a head
(biases, relative keys) is one matrix a product.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vqkernels.functions import Function, laplace
from vqkernels.precision import accumulation_dtype
from vqkernels.windows.grid import Grid

HIDDEN = -1e30
"""Added to a score, it makes a softmax weight exactly 0; unlike -inf it leaves a row of nothing else finite."""
_CHUNK_BYTES = {"cpu": 16 << 20}  # scores of a chunk should stay near the last-level cache
_CHUNK_BYTES_ELSEWHERE = 256 << 20
_MOST_BLOCKS = 16  # caches of as many blocks are held at once


class Biases(NamedTuple):
    """Terms of scores that belong to a head: (q + u).k + (q + w).r at the distance between them."""

    u_GRK: Tensor | None
    w_GRK: Tensor | None
    rel_key_GMK: Tensor | None
    """The furthest distance first."""
    nearest: int
    """The distance of the last relative key: 0, or -reach where keys ahead have one."""


def biases(
    u_HK: Tensor | None, w_HK: Tensor | None, rel_key_GMK: Tensor | None, *, n_kv_head: int, causal: bool, like: Tensor
) -> Biases:
    """From arguments as users give them: relative keys by distance i - j, the lowest first."""
    u, w = (None if x is None else torch.unflatten(x.to(like.dtype), 0, (n_kv_head, -1)) for x in (u_HK, w_HK))
    if rel_key_GMK is None:
        return Biases(u, w, None, 0)
    return Biases(u, w, rel_key_GMK.to(like.dtype).flip(1), 0 if causal else -(rel_key_GMK.shape[1] // 2))


def by_head(q_BHTK: Tensor, n_kv_head: int, grid: Grid) -> Tensor:
    """[B, H, T, K] to [G, B, N, R, I, K]."""
    q_BGRTK = torch.unflatten(q_BHTK, 1, (n_kv_head, -1))
    return grid.rows(q_BGRTK.transpose(0, 1)).transpose(2, 3)


def by_token(out_GBNRIV: Tensor, grid: Grid) -> Tensor:
    """The inverse of `by_head`."""
    return grid.tokens(out_GBNRIV.transpose(2, 3)).transpose(0, 1).flatten(1, 2)


def attend(
    q_GBNRIK: Tensor,
    key_GBNWK: Tensor,
    value_GBNWV: Tensor,
    grid: Grid,
    bias: Biases,
    *,
    function: Function,
    offset_GBNW: Tensor | None = None,
    seen_BNIW: Tensor | None = None,
    n_seen_BNI: Tensor | None = None,
) -> Tensor:
    """Output [G, B, N, R, I, V] in the dtype of the products.

    Columns beyond the grid's window have no position. `offset` is added to a softmax's scores; what `seen` says
    False has weight 0. Laplace weights are f((q + u).k / n + (q + w).r) with n = `n_seen`, and not normalised.
    """
    dtype = q_GBNRIK.dtype
    scores = _score(q_GBNRIK, key_GBNWK, grid, bias, n_seen_BNI if function == "laplace" else None)
    seen = None if seen_BNIW is None else seen_BNIW[:, :, None]
    if function == "laplace":
        weight = laplace(scores)
        weight = weight if seen is None else weight * seen
    else:
        if offset_GBNW is not None:
            scores = scores + offset_GBNW[:, :, :, None, None]
        weight = (scores if seen is None else scores.masked_fill(~seen, HIDDEN)).softmax(-1)
    out = weight.to(dtype).flatten(3, 4) @ value_GBNWV
    return torch.unflatten(out, 3, q_GBNRIK.shape[3:5])


def attend_without_positions(q_GBNRIK: Tensor, key_GBNWK: Tensor, value_GBNWV: Tensor, seen_BNIW: Tensor) -> Tensor:
    """`attend` for a softmax of q.k alone, by PyTorch's own attention, which keeps no scores where it can."""
    rows = q_GBNRIK.flatten(3, 4)
    seen = seen_BNIW[:, :, None].expand(-1, -1, q_GBNRIK.shape[3], -1, -1).flatten(2, 3)
    merged = seen if seen.shape[0] == 1 else seen.repeat(q_GBNRIK.shape[0], 1, 1, 1)
    out = F.scaled_dot_product_attention(
        rows.flatten(0, 1), key_GBNWK.flatten(0, 1), value_GBNWV.flatten(0, 1), attn_mask=merged, scale=1.0
    )
    return torch.unflatten(torch.unflatten(out, 2, q_GBNRIK.shape[3:5]), 0, q_GBNRIK.shape[:2])


def _score(q_GBNRIK: Tensor, key_GBNWK: Tensor, grid: Grid, bias: Biases, n_seen_BNI: Tensor | None) -> Tensor:
    """[G, B, N, R, I, W] in the wide dtype."""
    wide, heads = accumulation_dtype(q_GBNRIK.dtype), q_GBNRIK.shape[3:5]
    query_u = _add(q_GBNRIK, bias.u_GRK).flatten(3, 4)
    score = torch.unflatten(query_u @ key_GBNWK.transpose(-1, -2), 3, heads).to(wide)
    if n_seen_BNI is not None:
        score = score / n_seen_BNI.to(wide)[:, :, None, :, None]
    if bias.rel_key_GMK is None:
        return score
    query_w = _add(q_GBNRIK, bias.w_GRK)
    by_distance = query_w.flatten(1, 4) @ bias.rel_key_GMK.transpose(1, 2)
    by_distance = torch.unflatten(by_distance, 1, query_w.shape[1:5])
    return score + grid.by_column(by_distance, bias.nearest, score.shape[-1])


def _add(q_GBNRIK: Tensor, bias_GRK: Tensor | None) -> Tensor:
    return q_GBNRIK if bias_GRK is None else q_GBNRIK + bias_GRK[:, None, None, :, None]


def chunk_blocks(q_GBNRIK: Tensor, n_column: int) -> int:
    """How many blocks to compute at once, so that their scores fit."""
    kv_heads, batch, _, heads, rows = q_GBNRIK.shape[:5]
    itemsize = accumulation_dtype(q_GBNRIK.dtype).itemsize
    budget = _CHUNK_BYTES.get(q_GBNRIK.device.type, _CHUNK_BYTES_ELSEWHERE)
    fitting = budget // (kv_heads * batch * heads * rows * n_column * itemsize)
    return int(min(max(fitting, 1), _MOST_BLOCKS))


def in_chunks(function: Callable[..., Tensor], parts: Sequence[tuple[Any, ...]]) -> Tensor:
    """`function` of each chunk's tensors, joined along the blocks; of several, scores are computed again going back."""
    if len(parts) == 1:
        return function(*parts[0])
    outs = [checkpoint(function, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    return torch.cat(outs, 2)


def split(tensors: Sequence[Tensor | None], n_block: int, size: int) -> list[tuple[Tensor | None, ...]]:
    """Each chunk's part of tensors whose third dimension is blocks; None and one block for all stay as they are."""
    count = -(-n_block // size)
    parts = [[x] * count if x is None or x.shape[2] != n_block else list(torch.split(x, size, 2)) for x in tensors]
    return list(zip(*parts, strict=True))
