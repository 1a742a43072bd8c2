"""The compressed memory of blocks of queries: for each code, the values two or more blocks away, summed and counted.

Letters: G key-value heads, B batch, N blocks of a chunk, L block length, S codebook size, V value width.

Sums over earlier and over later blocks are added, never subtracted from a total. Divided by the counts they
are the means merged by ((c m + c' m') / max(c + c', 1), c + c'); in float32, a sum is as exact as a running mean.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from vqkernels.vq_attention.state import block_sums


class Sums(NamedTuple):
    """By code; [G, B, S, V] and [G, B, S], or of each of N blocks [G, B, N, ...]."""

    totals: Tensor
    counts: Tensor
    doc: Tensor | None = None
    """[B] or [B, N]: the document that they belong to; None: there is one."""


class Tokens(NamedTuple):
    """Values that enter a memory, by blocks."""

    value_GBNLV: Tensor
    code_GBNL: Tensor  # -1: a token that enters no memory
    doc_BNL: Tensor | None = None


def memories(start: Sums, tokens: Tokens) -> Sums:
    """Memories of every block: `start` for the first; a later one has also the tokens that come with the block before.

    Tokens of documents that have ended where a block's tokens end are left out: no later query sees them.
    """
    value, code, doc = tokens
    size, n_block = start.counts.shape[-1], code.shape[2]
    if n_block == 1:
        return Sums(
            start.totals[:, :, None], start.counts[:, :, None], None if start.doc is None else start.doc[:, None]
        )
    end_BN = None
    if doc is not None:
        end_BN = doc[:, :, -1]
        code = code.masked_fill(doc != end_BN[:, :, None], -1)
    shape = (code.shape[1], n_block)
    sums = block_sums(value.flatten(1, 2), code.flatten(1, 2), size)
    total, count = (torch.unflatten(x, 1, shape).unbind(2) for x in sums)
    found = [start]
    # Additions one after another, of a bounded number of blocks, measured faster than cumsum and than a scan in
    # logarithmic depth: they read every sum once.
    for block in range(n_block - 1):
        own = Sums(total[block], count[block], None if end_BN is None else end_BN[:, block])
        found.append(_after(found[-1], own))
    documents = [x.doc for x in found if x.doc is not None]
    return Sums(
        torch.stack([x.totals for x in found], 2),
        torch.stack([x.counts for x in found], 2),
        torch.stack(documents, 1) if documents else None,
    )


def memory_after(start: Sums, tokens: Tokens) -> Sums:
    """The memory of the block after these tokens: the start and all of them."""
    value, code, doc = tokens
    end_B = None
    if doc is not None:
        end_B = doc[:, -1, -1]
        code = code.masked_fill(doc != end_B[:, None, None], -1)
    total, count = block_sums(value.flatten(2, 3), code.flatten(2, 3), start.counts.shape[-1])
    return _after(start, Sums(total, count, end_B))


def together(one: Sums, other: Sums) -> Sums:
    """Both, of the one's documents."""
    return Sums(one.totals + other.totals, one.counts + other.counts, one.doc)


def memories_ahead(end: Sums, tokens: Tokens) -> Sums:
    """As `memories`, from the last block to the first."""
    turned = memories(end, Tokens(tokens.value_GBNLV.flip(2), tokens.code_GBNL.flip(2)))
    return Sums(turned.totals.flip(2), turned.counts.flip(2))


def _after(before: Sums, own: Sums) -> Sums:
    if own.doc is None or before.doc is None:
        return together(before, own)
    keep = own.doc == before.doc
    return Sums(before.totals * keep[:, None, None] + own.totals, before.counts * keep[:, None] + own.counts, own.doc)
