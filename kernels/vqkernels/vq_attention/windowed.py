"""VQ attention in linear time by plain PyTorch operations: windows around blocks and a memory of everything else.

It computes what the faster `blockwise` cannot: both directions, and Laplace weights. Letters: B batch, H query heads,
G key-value heads, R query heads per key-value head, T query, U key position, N blocks, L block length, I rows of a
block, W columns of its window, S codebook size, K key width, V value width.

Blocks are computed in chunks, the scores of all but a single one again in the backward pass: kept are the inputs, in
windows, and one memory per chunk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vqkernels.functions import Function
from vqkernels.precision import accumulation_dtype
from vqkernels.quantize.nearest import codewords, straight_through
from vqkernels.vq_attention.memory import Sums, Tokens, memories, memories_ahead, memory_after, together
from vqkernels.vq_attention.problem import Problem
from vqkernels.windows.attend import HIDDEN, Biases, attend, biases, by_head, by_token, chunk_blocks, in_chunks, split
from vqkernels.windows.grid import Grid, seen_pairs


@dataclass(frozen=True, kw_only=True)
class Windowed:
    """One call; floating tensors in the dtype of the products, values of padding zero."""

    q_BHTK: Tensor
    key_BGUK: Tensor  # as they are in the window
    v_BGUV: Tensor
    code_BGU: Tensor
    codebook_GSK: Tensor
    bias: Biases
    grid: Grid
    function: Function
    seen_BNIW: Tensor | None  # pairs within windows; None: every real token of them
    n_seen_BT: Tensor | None
    doc_BU: Tensor | None = None
    carried: Sums | None = None


def laplace_attention(problem: Problem) -> Tensor:
    """Causal attention with Laplace weights: output [B, G, R, T, V]. A query that sees nothing gives zeros."""
    grid = Grid(problem.block_length, problem.n_query, problem.lead % problem.block_length, ahead=False)
    n_kv_head, device = problem.codebook_GSK.shape[0], problem.q_BGRTK.device
    far = codewords(problem.code_BGU[:, :, : problem.lead], problem.codebook_GSK)
    own_code = problem.code_BGU[:, :, problem.lead :]
    own = straight_through(problem.k_BGTK.to(far.dtype), own_code, problem.codebook_GSK)
    bias_u, bias_w = (None if x is None else x.flatten(0, 1) for x in (problem.bias_u_GRK, problem.bias_w_GRK))
    real, doc = problem.real_BU, problem.doc_BU
    out = windowed_attention(
        Windowed(
            q_BHTK=problem.q_BGRTK.flatten(1, 2),
            key_BGUK=torch.cat([far, own], 2),
            v_BGUV=problem.v_BGUV,
            code_BGU=problem.code_BGU,
            codebook_GSK=problem.codebook_GSK,
            bias=biases(bias_u, bias_w, problem.rel_key_GMK, n_kv_head=n_kv_head, causal=True, like=far),
            grid=grid,
            function="laplace",
            seen_BNIW=seen_pairs(grid, causal=True, reach=None, real_BU=real, doc_BU=doc, device=device),
            n_seen_BT=keys_seen(problem),
            doc_BU=doc,
            carried=_carried(problem),
        )
    )
    if real is not None:
        out = out.masked_fill(~real[:, None, problem.lead :, None], 0.0)
    return torch.unflatten(out, 1, (n_kv_head, -1))


def keys_seen(problem: Problem) -> Tensor:
    """[B or 1, T]: real tokens of the query's document so far, itself included; at least 1."""
    if problem.real_BU is None or problem.doc_BU is None:
        return torch.arange(1, problem.n_query + 1, device=problem.q_BGRTK.device)[None]
    doc = problem.doc_BU
    so_far = problem.real_BU.cumsum(1)
    begins = torch.diff(doc, dim=1, prepend=doc[:, :1]) > 0
    before = torch.where(begins, so_far - problem.real_BU.long(), 0).cummax(1).values
    seen = so_far - before
    if problem.count_BGS is not None:
        seen = seen + problem.count_BGS[:, 0].sum(-1, keepdim=True) * (doc == 0)
    return seen[:, problem.lead :].clamp(min=1)


class _Part(NamedTuple):
    """What a chunk's blocks are given; the dimensions of flags begin with one of 1, so that blocks are the third."""

    q_GBNRIK: Tensor
    keys: tuple[Tensor, ...]  # [G, B, N, L, K] of the block before, the own and perhaps the next
    values: tuple[Tensor, ...]
    code_GBNW: Tensor
    doc_1BNW: Tensor | None
    seen_1BNIW: Tensor | None
    n_seen_1BNI: Tensor | None


def windowed_attention(call: Windowed) -> Tensor:
    """Output [B, H, T, V]; where the query is padding, anything finite."""
    parts = _parts(call)
    before, after = _between(call, parts)

    def one_chunk(part: _Part, before: Sums, after: Sums | None) -> Tensor:
        return _one_chunk(call, part, before, after)

    return by_token(in_chunks(one_chunk, list(zip(parts, before, after, strict=True))), call.grid)


def _parts(call: Windowed) -> list[_Part]:
    """The call in chunks."""
    grid, doc, n_seen = call.grid, call.doc_BU, call.n_seen_BT
    q = by_head(call.q_BHTK, call.codebook_GSK.shape[0], grid)
    size = chunk_blocks(q, grid.n_column + call.codebook_GSK.shape[1])

    def cut(x: Tensor | None) -> Sequence[Any]:
        return split(x, grid.n_block, size)

    columns = (
        zip(*map(cut, grid.parts_of_windows(x.transpose(0, 1))), strict=True) for x in (call.key_BGUK, call.v_BGUV)
    )
    flags = (
        grid.windows(call.code_BGU.transpose(0, 1)[..., None], -1)[..., 0],
        None if doc is None else grid.windows(doc[None, ..., None])[..., 0],
        None if call.seen_BNIW is None else call.seen_BNIW[None],
        None if n_seen is None else grid.rows(n_seen[None, ..., None])[..., 0].clamp(min=1),  # rows of no query too
    )
    return [_Part(*one) for one in zip(cut(q), *columns, *map(cut, flags), strict=True)]


def _between(call: Windowed, parts: list[_Part]) -> tuple[list[Sums], list[Sums] | list[None]]:
    """The memories that each chunk begins with: of what is before its first block and after its last."""
    before = [_empty(call) if call.carried is None else call.carried]
    for part in parts[:-1]:
        before.append(memory_after(before[-1], _tokens(part, 0)))
    if not call.grid.ahead:
        return before, [None] * len(parts)
    after = [_empty(call)]
    for part in reversed(parts[1:]):
        after.append(memory_after(after[-1], _tokens(part, 2)))
    return before, after[::-1]


def _one_chunk(call: Windowed, part: _Part, before: Sums, after: Sums | None) -> Tensor:
    """[G, B, N, R, I, V]."""
    memory = memories(before, _tokens(part, 0))
    if after is not None:
        memory = together(memory, memories_ahead(after, _tokens(part, 2)))
    softmax = call.function == "softmax"
    held = memory.totals / memory.counts.clamp(min=1.0)[..., None] if softmax else memory.totals
    codebook = call.codebook_GSK[:, None, None].expand(-1, *held.shape[1:3], -1, -1)
    return attend(
        part.q_GBNRIK,
        [*part.keys, codebook],
        [*part.values, held.to(part.values[0].dtype)],
        call.grid,
        call.bias,
        function=call.function,
        offset_GBNW=_offset(part.code_GBNW, memory.counts) if softmax else None,
        seen_BNIW=None
        if part.seen_1BNIW is None
        else _with_codes(part.seen_1BNIW[0], memory, part.doc_1BNW, call.grid),
        n_seen_BNI=None if part.n_seen_1BNI is None else part.n_seen_1BNI[0],
    )


def _offset(code_GBNW: Tensor, count_GBNS: Tensor) -> Tensor:
    """Padding hidden, and log(count) of a code: as many equal keys as tokens took it."""
    window = torch.where(code_GBNW < 0, HIDDEN, 0.0).to(count_GBNS.dtype)
    codes = torch.where(count_GBNS > 0, count_GBNS.clamp(min=1.0).log(), HIDDEN)
    return torch.cat([window, codes], -1)


def _with_codes(seen_BNIW: Tensor, memory: Sums, doc_1BNW: Tensor | None, grid: Grid) -> Tensor:
    """Codes behind the window's columns: seen by queries of the memory's document."""
    size = memory.counts.shape[-1]
    codes_BNI1 = torch.ones_like(seen_BNIW[..., :1])
    if doc_1BNW is not None and memory.doc is not None:
        row = grid.length + grid.first_row
        codes_BNI1 = (doc_1BNW[0, :, :, row : row + grid.n_row] == memory.doc[:, :, None])[..., None]
    return torch.cat([seen_BNIW, codes_BNI1.expand(-1, -1, -1, size)], -1)


def _tokens(part: _Part, place: int) -> Tokens:
    """What enters the memory of the blocks further on: the block before of each window (0) or the next (2)."""
    length = part.values[0].shape[3]
    columns = slice(place * length, (place + 1) * length)
    doc = None if part.doc_1BNW is None else part.doc_1BNW[0, :, :, columns]
    return Tokens(part.values[place], part.code_GBNW[:, :, :, columns], doc)


def _empty(call: Windowed) -> Sums:
    n_kv_head, size, _ = call.codebook_GSK.shape
    batch, width = call.v_BGUV.shape[0], call.v_BGUV.shape[3]
    wide = accumulation_dtype(call.v_BGUV.dtype)
    total = torch.zeros(n_kv_head, batch, size, width, dtype=wide, device=call.v_BGUV.device)
    doc = None if call.doc_BU is None else torch.zeros_like(call.doc_BU[:, 0])
    return Sums(total, total.new_zeros(n_kv_head, batch, size), doc)


def _carried(problem: Problem) -> Sums | None:
    if problem.mean_BGSV is None or problem.count_BGS is None or problem.doc_BU is None:
        return None
    count = problem.count_BGS.transpose(0, 1)
    total = problem.mean_BGSV.transpose(0, 1) * count[..., None]
    return Sums(total, count, torch.zeros_like(problem.doc_BU[:, 0]))
