"""The compressive cache: for each block, how many tokens two or more blocks back took each code, and their values.

Letters: B batch, G key-value heads, U key position, N blocks of a chunk, S codebook size, V value width,
L block length.

With documents, a block's cache holds only the document that is open at the end of the newest block in it: any other
document with tokens there cannot reach the query, because one that does covers everything between.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vqkernels.vq_attention.chunks import Chunk, Layout, add_rows, rows
from vqkernels.vq_attention.state import block_sums


class Tokens(NamedTuple):
    """What the caches are made of."""

    v_BGUV: Tensor
    code_BGU: Tensor
    doc_BU: Tensor | None
    n_code: int


class Cache(NamedTuple):
    """Sums and counts by code: of one block [B, G, S, ...] or of a chunk's [B, G, N, S, ...]."""

    totals: Tensor
    counts: Tensor


def open_documents(doc_BU: Tensor, chunk: Chunk, length: int) -> Tensor:
    """[B, N + 1]: the documents open at the ends of blocks first-3 to end-3; number 0 before the keys."""
    ends = F.pad(doc_BU[:, length - 1 :: length], (3, 0))
    return ends[:, chunk.first : chunk.end + 1]


def scan(before: Cache, tokens: Tokens, chunk: Chunk, layout: Layout) -> Cache:
    """Caches of every block of the chunk; `before` is that of the block in front of it."""
    low, high = layout.key_rows(chunk, back=2)
    values = rows(tokens.v_BGUV, low, high, dim=2)
    codes, keep_BN = _codes(tokens, chunk, layout)
    batch, n_head = codes.shape[:2]
    total, count = block_sums(
        torch.unflatten(values, 2, (chunk.n_block, -1)).flatten(1, 2),
        torch.unflatten(codes, 2, (chunk.n_block, -1)).flatten(1, 2),
        tokens.n_code,
    )
    total, count = torch.unflatten(total, 1, (n_head, -1)), torch.unflatten(count, 1, (n_head, -1))
    for block in range(chunk.n_block):
        carried = before
        if keep_BN is not None:
            keep = keep_BN[:, block].view(batch, 1, 1)
            carried = Cache(before.totals * keep[..., None], before.counts * keep)
        total[:, :, block].add_(carried.totals)
        count[:, :, block].add_(carried.counts)
        before = Cache(total[:, :, block], count[:, :, block])
    return Cache(total, count)


def last(caches: Cache) -> Cache:
    """The newest of a chunk's caches, in memory of its own."""
    return Cache(caches.totals[:, :, -1].clone(), caches.counts[:, :, -1].clone())


def scan_backward(
    d_after: Tensor, d_total_BGNSV: Tensor, d_v_BGUV: Tensor, tokens: Tokens, chunk: Chunk, layout: Layout
) -> Tensor:
    """Reverse of `scan`: adds to d_v in place and returns the gradient of the sums before the chunk.

    `d_after` is the gradient that reaches the chunk's last sums from later blocks. `d_total_BGNSV` is overwritten.
    A value enters its block's sums alone, so its gradient is a row of theirs: a gather, no product.
    """
    codes, keep_BN = _codes(tokens, chunk, layout)
    for block in reversed(range(chunk.n_block)):
        d_after = d_total_BGNSV[:, :, block].add_(d_after)
        if keep_BN is not None:
            d_after = d_after * keep_BN[:, block].view(-1, 1, 1, 1)
    batch, n_head, _, size, width = d_total_BGNSV.shape
    group = torch.arange(batch * n_head * chunk.n_block, device=codes.device).view(batch, n_head, -1, 1)
    row = torch.unflatten(codes.clamp(min=0), 2, (chunk.n_block, -1)) + group * size
    d_value = d_total_BGNSV.reshape(-1, width).index_select(0, row.flatten()).view(*codes.shape, width)
    if chunk.checked:
        d_value = d_value.masked_fill((codes < 0)[..., None], 0.0)
    add_rows(d_v_BGUV, d_value.to(d_v_BGUV.dtype), layout.key_rows(chunk, back=2)[0], dim=2)
    return d_after.clone()


def _codes(tokens: Tokens, chunk: Chunk, layout: Layout) -> tuple[Tensor, Tensor | None]:
    """Codes of the tokens that enter the chunk's caches, and where the old cache's document goes on."""
    low, high = layout.key_rows(chunk, back=2)
    codes = rows(tokens.code_BGU, low, high, dim=2, fill=-1)
    if tokens.doc_BU is None or not chunk.checked:
        return codes, None
    open_BN = open_documents(tokens.doc_BU, chunk, layout.block_length)
    doc_BU = rows(tokens.doc_BU, low, high, dim=1, fill=-1)
    closed_BU = doc_BU != open_BN[:, 1:].repeat_interleave(layout.block_length, dim=1)
    return codes.masked_fill(closed_BU[:, None], -1), open_BN[:, 1:] == open_BN[:, :-1]
