"""The compressive cache: for each block, how many tokens two or more blocks back took each code, and their values.

Letters: Z = B G sequences of one key-value head, N their blocks or those of a chunk, C a chunk's sequences,
S codebook size, V value width, L block length.

With documents, a block's cache holds only the document that is open at the end of the newest block in it: any other
document with tokens there cannot reach the query, because one that does covers everything between.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vqkernels.vq_attention.chunks import Chunk
from vqkernels.vq_attention.state import block_sums


class Tokens(NamedTuple):
    """What the caches are made of."""

    v_ZNLV: Tensor
    entering_ZNL: Tensor  # int64 code, or -1 for a token that enters no cache
    keep_ZN: Tensor | None  # where the cache continues the block before's; None: everywhere
    n_code: int


class Cache(NamedTuple):
    """Sums and counts by code: of one block of each sequence [C, S, ...] or of a chunk's blocks [N, S, ...]."""

    totals: Tensor
    counts: Tensor


def scan(before: Cache, tokens: Tokens, chunk: Chunk) -> Cache:
    """Caches of every block of the chunk; `before` is that of the block in front of it."""
    early, sources = _sources(chunk)
    values, codes = (x[chunk.sequences, sources].flatten(0, 1)[None] for x in (tokens.v_ZNLV, tokens.entering_ZNL))
    total, count = (
        torch.unflatten(part[0], 0, (chunk.n_sequence, -1)) for part in block_sums(values, codes, tokens.n_code)
    )
    if early:
        total, count = F.pad(total, (0, 0, 0, 0, early, 0)), F.pad(count, (0, 0, early, 0))
    for block in range(chunk.high - chunk.low):
        keep = _keep(tokens, chunk, block)
        total[:, block].add_(before.totals if keep is None else before.totals * keep[..., None])
        count[:, block].add_(before.counts if keep is None else before.counts * keep)
        before = Cache(total[:, block], count[:, block])
    return Cache(total.flatten(0, 1), count.flatten(0, 1))


def last(caches: Cache, chunk: Chunk) -> Cache:
    """The newest of a chunk's caches for each of its sequences."""
    return Cache(*(torch.unflatten(part, 0, (chunk.n_sequence, -1))[:, -1] for part in caches))


def scan_backward(d_after: Tensor, d_total_NSV: Tensor, d_v_ZNLV: Tensor, tokens: Tokens, chunk: Chunk) -> Tensor:
    """Reverse of `scan`: adds to d_v in place and returns the gradient of the sums before the chunk.

    `d_after` [C, S, V] is the gradient that reaches the chunk's last sums from later blocks. `d_total_NSV` is
    overwritten. A value enters its block's sums alone, so its gradient is a row of theirs: a gather, no product.
    """
    d_total = torch.unflatten(d_total_NSV, 0, (chunk.n_sequence, -1))
    for block in reversed(range(d_total.shape[1])):
        d_after = d_total[:, block].add_(d_after)
        keep = _keep(tokens, chunk, block)
        if keep is not None:
            d_after = d_after * keep[..., None]
    early, sources = _sources(chunk)
    codes = tokens.entering_ZNL[chunk.sequences, sources]
    size, width = d_total.shape[2:]
    place = torch.arange(d_total.shape[0] * d_total.shape[1], device=codes.device).view(d_total.shape[:2])
    row = codes.clamp(min=0) + place[:, early:, None] * size
    d_value = d_total_NSV.view(-1, width).index_select(0, row.flatten()).view(*codes.shape, width)
    if chunk.checked:
        d_value.masked_fill_((codes < 0)[..., None], 0.0)
    d_v_ZNLV[chunk.sequences, sources] += d_value
    return d_after.clone()


def _sources(chunk: Chunk) -> tuple[int, slice]:
    """How many of a chunk's blocks have nothing two blocks before them, and the blocks before the others."""
    early = min(max(2 - chunk.low, 0), chunk.high - chunk.low)
    return early, slice(chunk.low + early - 2, chunk.high - 2)


def _keep(tokens: Tokens, chunk: Chunk, block: int) -> Tensor | None:
    if tokens.keep_ZN is None or not chunk.checked:
        return None
    return tokens.keep_ZN[chunk.sequences, chunk.low + block, None]
