"""Attention of blocks of queries, each to columns of its own.

Letters: G key-value heads, B batch, N blocks, R query heads per key-value head, I rows of a block, W columns,
M relative distances, K key width, V value width. Key-value heads come first, so that what belongs to a head
(biases, relative keys) is one matrix per product.
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
MOST_BLOCKS = 16
"""Of one chunk: the caches of its blocks are held at once."""


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
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    grid: Grid,
    bias: Biases,
    *,
    function: Function,
    offset_GBNW: Tensor | None = None,
    seen_BNIW: Tensor | None = None,
    n_seen_BNI: Tensor | None = None,
) -> Tensor:
    """Output [G, B, N, R, I, V] in the dtype of the products.

    Keys and values are concatenated to W columns; those beyond the grid's window have no position. `offset` is
    added to a softmax's scores; where `seen` is False the weight is 0. Laplace weights are
    f((q + u).k / n + (q + w).r) with n = `n_seen`, and not normalised.
    """
    heads, rows, dtype = q_GBNRIK.shape[3], q_GBNRIK.shape[3:5], q_GBNRIK.dtype
    score = _score(q_GBNRIK, torch.cat([*keys], 3), grid, bias, n_seen_BNI if function == "laplace" else None)
    seen = None if seen_BNIW is None else seen_BNIW.repeat(1, 1, heads, 1)
    if function == "laplace":
        weight = laplace(score)
        weight = weight if seen is None else weight.mul_(seen)
    else:
        if offset_GBNW is not None:
            score.add_(offset_GBNW[:, :, :, None])
        weight = (score if seen is None else score.masked_fill_(~seen, HIDDEN)).softmax(-1)
    return torch.unflatten(weight.to(dtype) @ torch.cat([*values], 3), 3, rows)


def attend_without_positions(
    q_GBNRIK: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], seen_BNIW: Tensor
) -> Tensor:
    """`attend` for a softmax of q.k alone, by PyTorch's own attention, which keeps no scores where it can."""
    kv_heads, _, _, heads = q_GBNRIK.shape[:4]
    seen_BNXW = seen_BNIW.repeat(1 if seen_BNIW.shape[0] == 1 else kv_heads, 1, heads, 1)
    rows, key, value = (
        x.flatten(0, 1) for x in (q_GBNRIK.flatten(3, 4), torch.cat([*keys], 3), torch.cat([*values], 3))
    )
    out = F.scaled_dot_product_attention(rows, key, value, attn_mask=seen_BNXW, scale=1.0)
    return torch.unflatten(torch.unflatten(out, 2, q_GBNRIK.shape[3:5]), 0, q_GBNRIK.shape[:2])


def _score(q_GBNRIK: Tensor, key_GBNWK: Tensor, grid: Grid, bias: Biases, n_seen_BNI: Tensor | None) -> Tensor:
    """[G, B, N, R I, W] in the wide dtype, in memory of its own."""
    wide, heads = accumulation_dtype(q_GBNRIK.dtype), q_GBNRIK.shape[3]
    query_u = _add(q_GBNRIK, bias.u_GRK).flatten(3, 4)
    score = (query_u @ key_GBNWK.transpose(-1, -2)).to(wide)
    if n_seen_BNI is not None:
        score.mul_(n_seen_BNI.to(wide).reciprocal().repeat(1, 1, heads)[..., None])
    if bias.rel_key_GMK is None:
        return score
    query_w = _add(q_GBNRIK, bias.w_GRK)
    by_distance = query_w.flatten(1, 4) @ bias.rel_key_GMK.transpose(1, 2)
    by_distance = torch.unflatten(by_distance, 1, query_w.shape[1:5])
    return score.add_(grid.by_column(by_distance, bias.nearest, score.shape[-1]).flatten(3, 4))


def _add(q_GBNRIK: Tensor, bias_GRK: Tensor | None) -> Tensor:
    return q_GBNRIK if bias_GRK is None else q_GBNRIK + bias_GRK[:, None, None, :, None]


def chunk_blocks(q_GBNRIK: Tensor, n_column: int) -> int:
    """How many blocks to compute at once, so that their scores fit."""
    kv_heads, batch, _, heads, rows = q_GBNRIK.shape[:5]
    itemsize = accumulation_dtype(q_GBNRIK.dtype).itemsize
    budget = _CHUNK_BYTES.get(q_GBNRIK.device.type, _CHUNK_BYTES_ELSEWHERE)
    fitting = budget // (kv_heads * batch * heads * rows * n_column * itemsize)
    return int(min(max(fitting, 1), MOST_BLOCKS))


def in_chunks(function: Callable[..., Tensor], parts: Sequence[tuple[Any, ...]]) -> Tensor:
    """`function` of each chunk's tensors, joined along the blocks; of several, scores are computed again going back."""
    if len(parts) == 1:
        return function(*parts[0])
    outs = [checkpoint(function, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    return torch.cat(outs, 2)


def split(x: Tensor | None, n_block: int, size: int) -> Sequence[Any]:
    """Each chunk's part of a tensor whose third dimension is blocks; None stays None."""
    return [None] * -(-n_block // size) if x is None else torch.split(x, size, 2)
