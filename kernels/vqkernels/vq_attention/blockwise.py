"""VQ attention in linear time: each block sees itself, the one before, and a cache of everything older.

Letters as in `problem`; Z = B G sequences of one key-value head, M all their blocks in one row, N blocks of a chunk.
All scores of a query are one row of memory, W = S + 2L columns wide: codes, previous block, own
block. The softmax and its gradient are then one operation each, products read and write parts of the row in place,
and the position bias is added by a product into a diagonal view of it.

The backward pass recomputes scores and caches chunk by chunk: kept are the inputs and a cache every few codebooks'
worth of tokens. Source: Transformer-VQ (Lingle, ICLR 2024), theorem 3.7.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vqkernels.gpu.layout import Flags, Layout, lay_out, operands
from vqkernels.precision import accumulation_dtype
from vqkernels.vq_attention import chunks
from vqkernels.vq_attention.chunks import Chunk, Span, Workspace
from vqkernels.vq_attention.problem import Problem
from vqkernels.vq_attention.scan import Cache, Tokens, last, scan, scan_backward

_NEVER = float("-inf")
_LEAST_ROWS, _MOST_PARTS = 256, 4  # fewer rows make slower products, more fill more of the triangle


class _Inputs(NamedTuple):
    """Everything that is computed on, on the block grid."""

    q_RMLK: Tensor
    v_MLV: Tensor
    bias_u_RGK: Tensor | None
    bias_w_RGK: Tensor | None
    rel_key_GMK: Tensor | None
    total_ZSV: Tensor | None
    count_ZS: Tensor | None
    codebook_GSK: Tensor
    row_ML: Tensor  # row of the flattened codebook that a token's key is
    entering_ZNL: Tensor
    causal_LL: Tensor
    doc_ML: Tensor | None
    open_M: Tensor | None
    keep_ZN: Tensor | None


def blockwise_attention(problem: Problem, chunk_blocks: int | None = None) -> Tensor:
    """Output [B, G, R, T, V], differentiable once. A query that sees nothing gives zeros.

    `chunk_blocks` sets how many blocks are computed at once (None: as many as fit the processor's cache).
    """
    given = operands(problem)
    layout = lay_out(given, problem.block_length, problem.lead)
    q, v = given.q_BGRTK, given.v_BGUV
    size = layout.n_code
    group = torch.arange(layout.n_kv_head, device=q.device)[:, None]
    row_BGU = given.code_BGU.clamp(min=0) + group * size
    spans = chunks.plan(layout, v.dtype, v.device, carried=given.count_BGS is not None, chunk_blocks=chunk_blocks)
    k_BGUK = torch.nn.functional.pad(problem.k_BGTK.to(q.dtype), (0, 0, layout.lead, 0))
    out_RMLV = _Blockwise.apply(  # type: ignore[no-untyped-call]
        (layout, spans),
        chunks.in_blocks(k_BGUK, layout).flatten(0, 2),
        chunks.in_blocks(q.movedim(2, 0), layout).flatten(1, 3),
        chunks.in_blocks(v, layout).flatten(0, 2).contiguous(),  # windows are views of it
        *(None if bias is None else bias.transpose(0, 1) for bias in (given.bias_u_GRK, given.bias_w_GRK)),
        given.rel_key_GMK,
        *(None if part is None else part.flatten(0, 1) for part in (given.total_BGSV, given.count_BGS)),
        given.codebook_GSK,
        chunks.in_blocks(row_BGU[..., None], layout).flatten(0, 2)[..., 0],
        chunks.in_blocks(layout.entering_ZU[..., None].long(), layout)[..., 0],
        chunks.causal(layout.block_length, accumulation_dtype(v.dtype), v.device),
        *_flags(layout),
    )
    out_BGRUV = torch.unflatten(out_RMLV, 1, (layout.batch, layout.n_kv_head, -1)).flatten(3, 4).movedim(0, 2)
    return out_BGRUV[:, :, :, layout.lead : layout.n_key]


def _flags(layout: Layout) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Document of each token [M, L] and of each block's cache [M], and whether the cache continues [Z, N]."""
    flags = layout.flags
    if flags is None:
        return None, None, None
    padded = (
        chunks.in_blocks((flags.doc_BU + 1)[..., None], layout)[..., 0] - 1
    )  # -1, padding, where a block is filled up
    doc, opened, keep = (part.repeat_interleave(layout.n_kv_head, dim=0) for part in Flags(padded, *flags[1:]))
    return doc.flatten(0, 1), opened.flatten(), keep


class _Blockwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, walk: tuple[Layout, list[Span]], k_MLK: Tensor, *tensors: Tensor | None) -> Tensor:
        inputs = _Inputs(*tensors)  # type: ignore[arg-type]
        layout, spans = walk
        chunkwise = _Chunkwise(inputs, layout)
        shape = (*inputs.q_RMLK.shape[:-1], layout.d_value)
        out = inputs.q_RMLK.new_zeros(shape) if layout.first_block else inputs.q_RMLK.new_empty(shape)
        kept: list[Tensor] = []
        for span in spans:
            if span.opens:
                cache = chunkwise.first_cache(span.chunks[0])
            else:
                kept += [part.clone() for part in cache]
            for chunk in span.chunks:
                cache = chunkwise.forward(chunk, cache, out)
        ctx.walk, ctx.key_dtype = walk, k_MLK.dtype
        ctx.save_for_backward(*inputs, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        saved, (layout, spans) = ctx.saved_tensors, ctx.walk
        inputs, kept = _Inputs(*saved[: len(_Inputs._fields)]), list(saved[len(_Inputs._fields) :])
        with torch.autocast(d_out.device.type, enabled=False):
            grads = _Gradients(inputs, layout, d_out.contiguous())
            for span in reversed(spans):
                if span.opens:
                    start = grads.chunkwise.first_cache(span.chunks[0])
                else:
                    counts, totals = kept.pop(), kept.pop()
                    start = Cache(totals, counts)
                grads.add_span(span, start)
        return None, grads.d_k.to(ctx.key_dtype), *grads.of_inputs()


_Parts = list[tuple[slice, slice]]


class _Tile(NamedTuple):
    """What the queries of a chunk's blocks see."""

    parts: _Parts
    key_NUK: Tensor  # U = 2L: the block before and the own one
    value_NUV: Tensor
    code_NSK: Tensor | None
    mean_NSV: Tensor | None
    log_count_NS: Tensor | None

    @property
    def n_code(self) -> int:
        """Columns of codes."""
        return 0 if self.code_NSK is None else self.code_NSK.shape[1]


def _parts(length: int, begin: int) -> _Parts:
    """Rows of a block and the columns of its window they see any of: products need not fill the triangle."""
    step = max(length // _MOST_PARTS, _LEAST_ROWS)
    ends = ((low, min(low + step, length)) for low in range(0, length, step))
    return [(slice(low, high), slice(begin, length + high)) for low, high in ends]


class _Chunkwise:
    """Scores, weights and output of one chunk at a time, in memory that is used again for every chunk."""

    def __init__(self, inputs: _Inputs, layout: Layout) -> None:
        self.inputs, self.layout, self.space = inputs, layout, Workspace(inputs.v_MLV.device)
        self.wide = accumulation_dtype(inputs.v_MLV.dtype)
        blocks = (layout.n_head, layout.n_block)
        self.tokens = Tokens(
            torch.unflatten(inputs.v_MLV, 0, blocks), inputs.entering_ZNL, inputs.keep_ZN, layout.n_code
        )
        group = torch.arange(layout.n_kv_head, device=inputs.v_MLV.device)
        self.far_first_GMK = None if inputs.rel_key_GMK is None else inputs.rel_key_GMK.flip(1)
        self.group_M = group.repeat_interleave(layout.n_block).repeat(layout.batch)

    def first_cache(self, chunk: Chunk) -> Cache:
        """What the chunk's sequences begin with."""
        if self.inputs.total_ZSV is not None and self.inputs.count_ZS is not None:
            return Cache(self.inputs.total_ZSV[chunk.sequences], self.inputs.count_ZS[chunk.sequences])
        shape = (chunk.n_sequence, self.layout.n_code)
        count = torch.zeros(shape, dtype=self.wide, device=self.inputs.v_MLV.device)
        return Cache(count.new_zeros(*shape, self.layout.d_value), count)

    def forward(self, chunk: Chunk, before: Cache, out_RMLV: Tensor) -> Cache:
        """Write the chunk's part of the output and return the cache after it."""
        caches = scan(before, self.tokens, chunk) if chunk.cached else None
        tile = self.tile(chunk, caches)
        for head in range(self.layout.n_group):
            weight = self.weights(chunk, head, tile)[:, :-1]
            out = out_RMLV[head, chunk.first : chunk.end]
            in_window = weight[:, :, tile.n_code :]
            for rows, seen in tile.parts:
                torch.bmm(in_window[:, rows, seen], tile.value_NUV[:, seen], out=out[:, rows])
            if tile.mean_NSV is not None:
                out.baddbmm_(weight[:, :, : tile.n_code], tile.mean_NSV)
        return before if caches is None else last(caches, chunk)

    def tile(self, chunk: Chunk, caches: Cache | None) -> _Tile:
        """Keys and values of the chunk's windows and caches."""
        inputs, space, dtype = self.inputs, self.space, self.inputs.v_MLV.dtype
        key = space.take("key", chunk.n_block + 1, *inputs.q_RMLK.shape[2:], dtype=dtype)
        known = inputs.row_ML[max(chunk.first - 1, 0) : chunk.end].flatten()
        target = key.flatten(0, 1)[-known.shape[0] :]
        key[0].zero_()
        torch.index_select(inputs.codebook_GSK.flatten(0, 1), 0, known, out=target)
        value = chunks.with_previous(inputs.v_MLV, chunk, space, "value")
        length = self.layout.block_length
        parts = _parts(length, length if chunk.high == 1 else 0)  # alone, a first block needs no other's columns
        if caches is None:
            return _Tile(parts, chunks.windows(key), chunks.windows(value), None, None, None)
        mean = space.take("mean", *caches.totals.shape, dtype=dtype)
        torch.div(caches.totals, caches.counts.clamp(min=1.0)[..., None], out=mean)
        code = self.by_block(inputs.codebook_GSK, chunk)
        return _Tile(parts, chunks.windows(key), chunks.windows(value), code, mean, caches.counts.log())  # log 0 = -inf

    def by_block(self, x_GAB: Tensor, chunk: Chunk) -> Tensor:
        """[N, ...]: of each block, what belongs to its key-value head; a view where that is one and the same."""
        if chunk.n_sequence == 1 or x_GAB.shape[0] == 1:
            group = chunk.sequence % x_GAB.shape[0]
            return x_GAB[group].expand(chunk.n_block, *x_GAB.shape[1:])
        return x_GAB.index_select(0, self.group_M[chunk.first : chunk.end])

    def query(self, chunk: Chunk, head: int, bias_RGK: Tensor | None) -> Tensor:
        """[N, L, K]: the chunk's queries with a bias on them."""
        q_NLK = self.inputs.q_RMLK[head, chunk.first : chunk.end]
        return q_NLK if bias_RGK is None else q_NLK + self.by_block(bias_RGK[head], chunk)[:, None]

    def weights(self, chunk: Chunk, head: int, tile: _Tile) -> Tensor:
        """[N, L + 1, W]: what each query gives to each code, each token of the block before and each of its own.

        As in `rows`, the last row means nothing.
        """
        inputs, size, length = self.inputs, tile.n_code, self.layout.block_length
        score = self.rows("score", chunk, tile)
        query_u = self.query(chunk, head, inputs.bias_u_RGK)
        in_window = score[:, :, size:]
        for rows, seen in tile.parts:
            torch.bmm(query_u[:, rows], tile.key_NUK[:, seen].transpose(1, 2), out=in_window[:, rows, seen])
            in_window[:, rows, seen.stop :] = _NEVER
        if self.far_first_GMK is not None:
            query_w = self.query(chunk, head, inputs.bias_w_RGK)
            by_distance = self.by_block(self.far_first_GMK, chunk).transpose(1, 2)
            self.diagonals(score, tile).baddbmm_(query_w, by_distance)
        if tile.code_NSK is not None:
            torch.bmm(query_u, tile.code_NSK.transpose(1, 2), out=score[:, :length, :size])
        # From here on float32 (float64): log-counts and the softmax lose too much in 16 bits.
        score = self.as_dtype("wide score", score, self.wide)
        score[:, :length, size + length :] += inputs.causal_LL  # the rest of the triangle
        if chunk.low == 0:
            score[:: chunk.high, :length, size : size + length] = _NEVER  # nothing before a first block
        if tile.log_count_NS is not None:
            # exp(s + log n) = n exp(s): one column for the n tokens that took the code. No tokens: log 0 = -inf.
            score[:, :length, :size] += tile.log_count_NS[:, None]
        hidden = self.hide(score[:, :length], chunk, tile) if chunk.checked else None
        weight = torch.softmax(score, -1, out=self.space.take("wide weight", *score.shape, dtype=self.wide))
        if hidden is not None:
            weight[:, :length].masked_fill_(hidden, 0.0)
        return self.as_dtype("weight", weight, inputs.v_MLV.dtype)

    def as_dtype(self, name: str, x: Tensor, dtype: torch.dtype) -> Tensor:
        """The same numbers in another precision, in memory of that name; as they are where they have it already."""
        return x if x.dtype == dtype else self.space.take(name, *x.shape, dtype=dtype).copy_(x)

    def hide(self, score_NLW: Tensor, chunk: Chunk, tile: _Tile) -> Tensor:
        """Take other documents and padding out of the scores; returns which queries [N, L, 1] are padding."""
        doc_ML, open_M = self.inputs.doc_ML, self.inputs.open_M
        assert doc_ML is not None
        assert open_M is not None
        doc_N1L = chunks.with_previous(doc_ML[..., None], chunk, self.space, "doc")
        query_NL1 = doc_N1L[1:]
        # A padding token sees padding, itself at least: a row of nothing but -inf would be NaN.
        score_NLW[:, :, tile.n_code :].masked_fill_(query_NL1 != chunks.windows(doc_N1L).transpose(1, 2), _NEVER)
        if tile.n_code:
            opened = open_M[chunk.first : chunk.end, None, None]
            score_NLW[:, :, : tile.n_code].masked_fill_(query_NL1 != opened, _NEVER)
        return query_NL1 < 0

    def rows(self, name: str, chunk: Chunk, tile: _Tile) -> Tensor:
        """[N, L + 1, W] of the workspace; its last row is zero and in use by nothing.

        That row lets `chunks.by_distance` stay inside its block, as strides for matrix products must.
        """
        length = self.layout.block_length
        shape = (chunk.n_block, length + 1, tile.n_code + 2 * length)
        row = self.space.take(name, *shape, dtype=self.inputs.v_MLV.dtype)
        row[:, length].zero_()
        return row

    def diagonals(self, row_NXW: Tensor, tile: _Tile) -> Tensor:
        """[N, L, M] view of scores by distance, the furthest first."""
        assert self.far_first_GMK is not None
        n_distance, length = self.far_first_GMK.shape[1], self.layout.block_length
        return chunks.by_distance(row_NXW[:, :length], tile.n_code + length + 1 - n_distance, n_distance)


class _Gradients:
    """Gradients of all inputs, gathered from the last chunk to the first.

    The softmax's own gradient dS = P (dP - rowsum(P dP)) gives those of tokens and codes at once. Sums over tokens
    are kept in the wide dtype.
    """

    def __init__(self, inputs: _Inputs, layout: Layout, d_out_RMLV: Tensor) -> None:
        self.inputs, self.layout, self.d_out_RMLV = inputs, layout, d_out_RMLV
        self.chunkwise = _Chunkwise(inputs, layout)
        wide = self.chunkwise.wide
        self.d_q = torch.zeros_like(inputs.q_RMLK)
        self.d_k = torch.zeros_like(inputs.q_RMLK[0], dtype=wide)
        self.d_v = torch.zeros_like(inputs.v_MLV, dtype=wide)
        optional = inputs.bias_u_RGK, inputs.bias_w_RGK, inputs.rel_key_GMK, inputs.total_ZSV
        self.d_bias_u, self.d_bias_w, self.d_rel_key, self.d_first = (
            None if one is None else torch.zeros_like(one, dtype=wide) for one in optional
        )

    def of_inputs(self) -> tuple[Tensor | None, ...]:
        """In the order of `_Inputs`."""
        dtype = self.d_q.dtype
        small = (None if one is None else one.to(dtype) for one in (self.d_bias_u, self.d_bias_w, self.d_rel_key))
        return self.d_q, self.d_v.to(dtype), *small, self.d_first, *(None,) * 8

    def add_span(self, span: Span, start: Cache) -> None:
        """Add what a span's queries give, its caches recomputed from the one at its start."""
        caches: list[Cache | None] = []
        for chunk in span.chunks:
            found = scan(start, self.chunkwise.tokens, chunk) if chunk.cached else None
            start = start if found is None else last(found, chunk)
            caches.append(found)
        for chunk in reversed(span.chunks):
            self._add_chunk(chunk, caches.pop())

    def _add_chunk(self, chunk: Chunk, caches: Cache | None) -> None:
        chunkwise = self.chunkwise
        tile = chunkwise.tile(chunk, caches)
        d_mean = None
        if tile.mean_NSV is not None:
            d_mean = chunkwise.space.take("d_mean", *tile.mean_NSV.shape, dtype=chunkwise.wide).zero_()
        for head in range(self.layout.n_group):
            weight = chunkwise.weights(chunk, head, tile)
            d_out = self.d_out_RMLV[head, chunk.first : chunk.end]
            self._add_windows(self.d_v, chunk, tile.parts, weight[:, :-1, tile.n_code :], d_out)
            if d_mean is not None:
                _add_product(d_mean, weight[:, :-1, : tile.n_code].transpose(1, 2), d_out)
            self._add_scores(chunk, head, tile, self._of_scores(chunk, tile, weight, d_out))
        if caches is not None and d_mean is not None:
            self._add_cache(chunk, caches, d_mean)

    def _add_windows(
        self, target_MLD: Tensor, chunk: Chunk, parts: _Parts, by_query_NLU: Tensor, x_NLD: Tensor
    ) -> None:
        """Add each key's sum over the queries of its own and the next block to the keys' gradient, in place."""
        length = self.layout.block_length
        for keys, seen in parts:
            later = slice(keys.start, None)
            by_later = by_query_NLU[:, later, length + keys.start : seen.stop].transpose(1, 2)
            _add_product(target_MLD[chunk.first : chunk.end, keys], by_later, x_NLD[:, later])
        skip = 1 if chunk.low == 0 else 0  # the first block has none before it
        previous = target_MLD[chunk.first + skip - 1 : chunk.end - 1]
        _add_product(previous, by_query_NLU[skip:, :, :length].transpose(1, 2), x_NLD[skip:])

    def _of_scores(self, chunk: Chunk, tile: _Tile, weight_NXW: Tensor, d_out: Tensor) -> Tensor:
        """[N, L + 1, W]: gradient of the scores."""
        size = tile.n_code
        row = self.chunkwise.rows("score", chunk, tile)
        in_window = row[:, :, size:]
        for rows, seen in tile.parts:
            torch.bmm(d_out[:, rows], tile.value_NUV[:, seen].transpose(1, 2), out=in_window[:, rows, seen])
            in_window[:, rows, : seen.start].zero_()
            in_window[:, rows, seen.stop :].zero_()
        if tile.mean_NSV is not None:
            torch.bmm(d_out, tile.mean_NSV.transpose(1, 2), out=row[:, :-1, :size])
        # In place: the operation reads a whole row before it writes any of it.
        torch._softmax_backward_data(row, weight_NXW, -1, row.dtype, grad_input=row)
        return row

    def _add_scores(self, chunk: Chunk, head: int, tile: _Tile, d_score_NXW: Tensor) -> None:
        """From the scores to queries, keys, biases and relative keys."""
        chunkwise, inputs, size = self.chunkwise, self.inputs, tile.n_code
        d_score = d_score_NXW[:, :-1]
        d_query = self.d_q[head, chunk.first : chunk.end]
        for rows, seen in tile.parts:
            torch.bmm(d_score[:, rows, size:][:, :, seen], tile.key_NUK[:, seen], out=d_query[:, rows])
        if tile.code_NSK is not None:
            d_query.baddbmm_(d_score[:, :, :size], tile.code_NSK)
        self._add_by_group(self.d_bias_u, chunk, d_query.sum(1, dtype=chunkwise.wide), head)
        query_u = chunkwise.query(chunk, head, inputs.bias_u_RGK)
        self._add_windows(self.d_k, chunk, tile.parts, d_score[:, :, size:], query_u)
        if chunkwise.far_first_GMK is None:
            return
        d_bias = chunkwise.diagonals(d_score_NXW, tile)
        d_query_w = torch.bmm(d_bias, chunkwise.by_block(chunkwise.far_first_GMK, chunk))
        d_query += d_query_w
        self._add_by_group(self.d_bias_w, chunk, d_query_w.sum(1, dtype=chunkwise.wide), head)
        query_w = chunkwise.query(chunk, head, inputs.bias_w_RGK)
        self._add_by_group(self.d_rel_key, chunk, torch.bmm(d_bias.transpose(1, 2), query_w).flip(1))

    def _add_by_group(self, target: Tensor | None, chunk: Chunk, x_N: Tensor, head: int | None = None) -> None:
        """Add what each block gives to a parameter of its key-value head."""
        if target is None:
            return
        target = target if head is None else target[head]
        if chunk.n_sequence == 1 or target.shape[0] == 1:
            target[chunk.sequence % target.shape[0]] += x_N.sum(0, dtype=target.dtype)
        else:
            target.index_add_(0, self.chunkwise.group_M[chunk.first : chunk.end], x_N.to(target.dtype))

    def _add_cache(self, chunk: Chunk, caches: Cache, d_mean_NSV: Tensor) -> None:
        """From the caches' means to the values they are made of and to what was carried."""
        if chunk.high == self.layout.n_block:
            self.d_total = torch.zeros_like(self.chunkwise.first_cache(chunk).totals)
        d_total = d_mean_NSV.div_(caches.counts.clamp(min=1.0)[..., None])
        tokens = self.chunkwise.tokens
        d_v_ZNLV = torch.unflatten(self.d_v, 0, tokens.v_ZNLV.shape[:2])
        self.d_total = scan_backward(self.d_total, d_total, d_v_ZNLV, tokens, chunk)
        if self.d_first is not None:
            self.d_first[chunk.sequences] = self.d_total  # that of the first chunk stays


def _add_product(target: Tensor, left: Tensor, right: Tensor) -> None:
    """target += left @ right, batch by batch; the target may be wider than the product."""
    if target.dtype == left.dtype:
        target.baddbmm_(left, right)
    else:
        target += left @ right
