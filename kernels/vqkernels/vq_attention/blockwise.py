"""VQ attention in linear time: each block sees itself, the one before, and a cache of everything older.

Letters as in `problem`; N blocks of a chunk, A = R L queries of a block with those of all its heads.
The backward pass recomputes scores and caches chunk by chunk: kept are the inputs, the output, one log-sum-exp a
query and a cache every few codebooks' worth of tokens. Source: Transformer-VQ (Lingle, ICLR 2024), theorem 3.7.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vqkernels.precision import accumulation_dtype
from vqkernels.vq_attention import chunks
from vqkernels.vq_attention.chunks import Chunk, Layout
from vqkernels.vq_attention.problem import Problem
from vqkernels.vq_attention.scan import Cache, Tokens, last, open_documents, scan, scan_backward

_NEVER = float("-inf")


class _Inputs(NamedTuple):
    q_BGRTK: Tensor
    v_BGUV: Tensor
    bias_u_GRK: Tensor | None
    bias_w_GRK: Tensor | None
    rel_key_GMK: Tensor | None
    sum_BGSV: Tensor | None
    code_BGU: Tensor
    codebook_GSK: Tensor
    count_BGS: Tensor | None
    doc_BU: Tensor | None
    real_BU: Tensor | None
    order_LU: Tensor  # what `chunks.skewed` turns into -inf for keys after their query

    @property
    def wide(self) -> torch.dtype:
        return accumulation_dtype(self.v_BGUV.dtype)

    @property
    def tokens(self) -> Tokens:
        return Tokens(self.v_BGUV, self.code_BGU, self.doc_BU, self.codebook_GSK.shape[1])

    def first_cache(self) -> Cache:
        if self.sum_BGSV is not None and self.count_BGS is not None:
            return Cache(self.sum_BGSV, self.count_BGS)
        batch, n_head, _, width = self.v_BGUV.shape
        shape = (batch, n_head, self.codebook_GSK.shape[1])
        device = self.v_BGUV.device
        return Cache(
            torch.zeros(*shape, width, dtype=self.wide, device=device),
            torch.zeros(shape, dtype=self.wide, device=device),
        )


class _Tile(NamedTuple):
    """A chunk's operands and logits."""

    query_u_BGNAK: Tensor
    query_w_BGNAK: Tensor
    key_BGNUK: Tensor
    value_BGNUV: Tensor
    window_BGNAU: Tensor  # logits, -inf where a query must not see
    mean_BGNSV: Tensor | None
    cache_BGNAS: Tensor | None


def blockwise_attention(problem: Problem, chunk_blocks: int | None = None) -> Tensor:
    """Output [B, G, R, T, V], differentiable once. A query that sees nothing gives zeros.

    `chunk_blocks` sets how many blocks are computed at once (None: as many as fit the processor's cache).
    """
    carried = None
    if problem.mean_BGSV is not None and problem.count_BGS is not None:
        carried = problem.mean_BGSV * problem.count_BGS[..., None]
    out: Tensor = _Blockwise.apply(  # type: ignore[no-untyped-call]
        chunks.plan(problem, chunk_blocks),
        problem.k_BGTK,
        problem.q_BGRTK,
        problem.v_BGUV,
        problem.bias_u_GRK,
        problem.bias_w_GRK,
        problem.rel_key_GMK,
        carried,
        problem.code_BGU,
        problem.codebook_GSK,
        problem.count_BGS,
        problem.doc_BU,
        problem.real_BU,
        chunks.skew_template(problem.block_length, accumulation_dtype(problem.v_BGUV.dtype), problem.v_BGUV.device),
    )
    return out


class _Blockwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, layout: Layout, k_BGTK: Tensor, *tensors: Tensor | None) -> Tensor:
        inputs = _Inputs(*tensors)  # type: ignore[arg-type]
        q, v = inputs.q_BGRTK, inputs.v_BGUV
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        lse = torch.empty(q.shape[:-1], dtype=inputs.wide, device=q.device)
        cache, kept = inputs.first_cache(), []
        for number, span in enumerate(layout.spans):
            if number:
                kept += [*cache]
            for chunk in span:
                cache = _chunk_forward(inputs, layout, chunk, cache, out, lse)
        ctx.layout, ctx.key_dtype = layout, k_BGTK.dtype
        ctx.save_for_backward(*inputs, out, lse, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        inputs = _Inputs(*saved[: len(_Inputs._fields)])
        out, lse, *kept = saved[len(_Inputs._fields) :]
        with torch.autocast(d_out.device.type, enabled=False):
            grads = _Gradients(inputs, ctx.layout, d_out, out, lse)
            for number in reversed(range(len(ctx.layout.spans))):
                start = Cache(*kept[2 * number - 2 : 2 * number]) if number else inputs.first_cache()
                grads.add_span(ctx.layout.spans[number], start)
            return None, grads.d_k.to(ctx.key_dtype), *grads.of_inputs()


def _chunk_forward(
    inputs: _Inputs, layout: Layout, chunk: Chunk, before: Cache, out_BGRTV: Tensor, lse_BGRT: Tensor
) -> Cache:
    """Write the chunk's part of the output and return the cache after it."""
    caches = scan(before, inputs.tokens, chunk, layout) if chunk.cached else None
    tile = _tile(inputs, layout, chunk, caches)
    top = tile.window_BGNAU.amax(-1, keepdim=True)
    if tile.cache_BGNAS is not None:
        top = torch.maximum(top, tile.cache_BGNAS.amax(-1, keepdim=True))
    top = top.clamp(min=torch.finfo(top.dtype).min)  # a query that sees nothing
    weight = tile.window_BGNAU.sub_(top).exp_()
    norm = weight.sum(-1, keepdim=True)
    result = (weight.to(inputs.v_BGUV.dtype) @ tile.value_BGNUV).to(inputs.wide)
    if tile.cache_BGNAS is not None and tile.mean_BGNSV is not None:
        weight = tile.cache_BGNAS.sub_(top).exp_()
        norm += weight.sum(-1, keepdim=True)
        result += weight.to(inputs.v_BGUV.dtype) @ tile.mean_BGNSV
    result /= norm.clamp(min=torch.finfo(norm.dtype).tiny)
    lse = torch.where(norm > 0, top + norm.log(), float("inf"))  # exp(score - inf) = 0 in the backward pass
    n_group = inputs.q_BGRTK.shape[2]
    low = layout.query_rows(chunk)[0]
    chunks.put_rows(out_BGRTV, chunks.by_token(torch.unflatten(result, 3, (n_group, -1))), low, dim=3)
    chunks.put_rows(lse_BGRT[..., None], chunks.by_token(torch.unflatten(lse, 3, (n_group, -1))), low, dim=3)
    return before if caches is None else last(caches)


def _tile(inputs: _Inputs, layout: Layout, chunk: Chunk, caches: Cache | None) -> _Tile:
    length = layout.block_length
    q_BGNRLK = chunks.by_block(chunks.rows(inputs.q_BGRTK, *layout.query_rows(chunk), dim=3), chunk.n_block)
    query_u, query_w = (_with_bias(q_BGNRLK, bias) for bias in (inputs.bias_u_GRK, inputs.bias_w_GRK))
    low, high = (chunk.first - 1) * length, chunk.end * length
    key = chunks.windows(_keys(chunks.rows(inputs.code_BGU, low, high, dim=2), inputs.codebook_GSK), length)
    value = chunks.windows(chunks.rows(inputs.v_BGUV, low, high, dim=2), length)
    window = (query_u @ key.transpose(-1, -2)).to(inputs.wide)
    by_head_BGNRLU = torch.unflatten(window, 3, (q_BGNRLK.shape[3], -1))
    by_head_BGNRLU += _bias_and_order(inputs, query_w, length, by_head_BGNRLU.shape[3])
    if chunk.first == 0:
        by_head_BGNRLU[:, :, 0, :, :, :length] = _NEVER  # nothing before the first block
    if chunk.checked:
        by_head_BGNRLU.masked_fill_(_hidden(inputs, layout, chunk, low, high), _NEVER)
    if caches is None:
        return _Tile(query_u, query_w, key, value, window, None, None)
    mean = (caches.totals / caches.counts.clamp(min=1.0)[..., None]).to(value.dtype)
    return _Tile(query_u, query_w, key, value, window, mean, _cache_scores(inputs, layout, chunk, query_u, caches))


def _with_bias(q_BGNRLK: Tensor, bias_GRK: Tensor | None) -> Tensor:
    return (q_BGNRLK if bias_GRK is None else q_BGNRLK + bias_GRK[:, None, :, None]).flatten(3, 4)


def _keys(code_BGU: Tensor, codebook_GSK: Tensor) -> Tensor:
    """Codewords; any one for code -1, which no query sees."""
    n_head, size, _ = codebook_GSK.shape
    row = code_BGU.clamp(min=0) + torch.arange(n_head, device=code_BGU.device)[:, None] * size
    return torch.unflatten(codebook_GSK.flatten(0, 1).index_select(0, row.flatten()), 0, code_BGU.shape)


def _bias_and_order(inputs: _Inputs, query_w_BGNAK: Tensor, length: int, n_group: int) -> Tensor:
    """What is added to the window's logits [B, G, N, R, L, 2L]: position bias, and -inf for keys after the query."""
    if inputs.rel_key_GMK is None:
        return chunks.skewed(inputs.order_LU)
    bias = torch.unflatten(_by_head(query_w_BGNAK, inputs.rel_key_GMK.flip(1).transpose(-1, -2)), 3, (n_group, length))
    spread = inputs.order_LU.expand(*bias.shape[:-2], -1, -1).contiguous()
    spread[..., length + 1 - bias.shape[-1] : length + 1] = bias
    return chunks.skewed(spread)


def _hidden(inputs: _Inputs, layout: Layout, chunk: Chunk, low: int, high: int) -> Tensor:
    """[B, 1, N, 1, L, 2L]: another document, padding, or an empty slot of the carried window."""
    assert inputs.doc_BU is not None
    assert inputs.real_BU is not None
    length = layout.block_length
    doc = inputs.doc_BU.masked_fill(~inputs.real_BU, -1)
    key = chunks.rows(doc, low, high, dim=1, fill=-1)
    query = torch.unflatten(chunks.rows(doc, low + length, high, dim=1, fill=-1), 1, (chunk.n_block, length))[..., None]
    hidden = (query != key.unfold(1, 2 * length, length)[:, :, None, :]) | (query < 0)
    return hidden[:, None, :, None]


def _cache_scores(inputs: _Inputs, layout: Layout, chunk: Chunk, query_u_BGNAK: Tensor, caches: Cache) -> Tensor:
    """Logits (q + u).c_s + log(count_s) [B, G, N, A, S], -inf for codes that no visible token took."""
    score = _by_head(query_u_BGNAK, inputs.codebook_GSK.transpose(-1, -2)).to(inputs.wide)
    score += caches.counts.log()[:, :, :, None]  # log 0 = -inf
    if chunk.checked:
        assert inputs.doc_BU is not None
        assert inputs.real_BU is not None
        length = layout.block_length
        doc = inputs.doc_BU.masked_fill(~inputs.real_BU, -1)
        query = torch.unflatten(chunks.rows(doc, *layout.key_rows(chunk, back=0), dim=1, fill=-1), 1, (-1, length))
        open_BN = open_documents(inputs.doc_BU, chunk, length)[:, 1:]
        hidden = (query != open_BN[..., None])[:, None, :, None, :, None]
        torch.unflatten(score, 3, (-1, length)).masked_fill_(hidden, _NEVER)
    return score


def _by_head(x_BGNAK: Tensor, matrix_GKM: Tensor) -> Tensor:
    """x @ matrix, one matrix for each key-value head: as few and as tall products as there are heads."""
    if matrix_GKM.shape[0] == 1:
        return x_BGNAK @ matrix_GKM[0]
    return torch.unflatten((x_BGNAK.flatten(2, 3) @ matrix_GKM), 2, x_BGNAK.shape[2:4])


class _Gradients:
    """Gradients of all inputs, gathered from the last chunk to the first.

    With delta_i = dO_i . O_i: dS_ij = p_ij (dO_i . v_j - delta_i), dT_is = a_is (dO_i . mu_s - delta_i), where p and
    a are the weights of tokens and of codes. Sums over tokens are kept in the wide dtype.
    """

    def __init__(self, inputs: _Inputs, layout: Layout, d_out: Tensor, out: Tensor, lse: Tensor) -> None:
        self.inputs, self.layout = inputs, layout
        self.d_out, self.out, self.lse = d_out, out, lse
        batch, n_head, n_group, _, d_key = inputs.q_BGRTK.shape
        self.d_q = torch.empty_like(inputs.q_BGRTK)
        self.d_k_window = inputs.v_BGUV.new_zeros(batch, n_head, inputs.v_BGUV.shape[2], d_key)
        self.d_v = torch.zeros_like(inputs.v_BGUV)
        heads = inputs.q_BGRTK.new_zeros(n_head, n_group, d_key, dtype=inputs.wide)
        self.d_bias_u, self.d_bias_w = heads, heads.clone()
        rel_key = inputs.rel_key_GMK
        self.d_rel_key = None if rel_key is None else torch.zeros_like(rel_key, dtype=inputs.wide)
        self.d_cache = torch.zeros_like(inputs.first_cache().totals)

    @property
    def d_k(self) -> Tensor:
        """Of the segment's own keys: carried ones are codes."""
        return self.d_k_window[:, :, self.layout.lead :]

    def of_inputs(self) -> tuple[Tensor | None, ...]:
        """In the order of `_Inputs`."""
        inputs = self.inputs
        return (
            self.d_q,
            self.d_v,
            None if inputs.bias_u_GRK is None else self.d_bias_u.to(inputs.bias_u_GRK.dtype),
            None if inputs.bias_w_GRK is None else self.d_bias_w.to(inputs.bias_w_GRK.dtype),
            None if self.d_rel_key is None else self.d_rel_key.to(self.d_q.dtype),
            None if inputs.sum_BGSV is None else self.d_cache,
            *(None,) * 6,
        )

    def add_span(self, span: tuple[Chunk, ...], start: Cache) -> None:
        """Add what a span's queries give, its caches recomputed from the one at its start."""
        starts = [start]
        for chunk in span[:-1]:
            caches = scan(starts[-1], self.inputs.tokens, chunk, self.layout) if chunk.cached else None
            starts.append(starts[-1] if caches is None else last(caches))
        for chunk, before in zip(reversed(span), reversed(starts), strict=True):
            self._add_chunk(chunk, before)

    def _add_chunk(self, chunk: Chunk, before: Cache) -> None:
        inputs, layout = self.inputs, self.layout
        caches = scan(before, inputs.tokens, chunk, layout) if chunk.cached else None
        tile = _tile(inputs, layout, chunk, caches)
        d_out, delta, lse = self._of_output(chunk)
        dtype = d_out.dtype
        weight = tile.window_BGNAU.sub_(lse).exp_()
        d_value = weight.to(dtype).transpose(-1, -2) @ d_out
        d_window = ((d_out @ tile.value_BGNUV.transpose(-1, -2)).to(inputs.wide) - delta).mul_(weight)
        d_window_narrow = d_window.to(dtype)
        d_query_u = d_window_narrow @ tile.key_BGNUK
        d_key = d_window_narrow.transpose(-1, -2) @ tile.query_u_BGNAK
        low = (chunk.first - 1) * layout.block_length
        chunks.add_windows(self.d_v, d_value, low, layout.block_length)
        chunks.add_windows(self.d_k_window, d_key, low, layout.block_length)
        if caches is not None:
            d_query_u += self._add_cache(chunk, tile, caches, d_out, delta, lse)
        self._add_query(chunk, d_query_u, self._add_position(tile, d_window_narrow))

    def _of_output(self, chunk: Chunk) -> tuple[Tensor, Tensor, Tensor]:
        """dO [B, G, N, A, V], delta and log-sum-exp [B, G, N, A, 1]; rows outside the segment weigh nothing."""
        low, high = self.layout.query_rows(chunk)

        def blocks(x: Tensor, fill: float = 0.0) -> Tensor:
            return chunks.by_block(chunks.rows(x, low, high, dim=3, fill=fill), chunk.n_block).flatten(3, 4)

        d_out, out = blocks(self.d_out), blocks(self.out)
        delta = (d_out.to(self.inputs.wide) * out).sum(-1, keepdim=True)
        return d_out, delta, blocks(self.lse[..., None], float("inf"))

    def _add_cache(self, chunk: Chunk, tile: _Tile, caches: Cache, d_out: Tensor, delta: Tensor, lse: Tensor) -> Tensor:
        """The cache's part: returns d(q + u), adds to the values'."""
        assert tile.cache_BGNAS is not None
        assert tile.mean_BGNSV is not None
        dtype = d_out.dtype
        weight = tile.cache_BGNAS.sub_(lse).exp_()
        d_mean = weight.to(dtype).transpose(-1, -2) @ d_out
        d_total = d_mean.to(self.inputs.wide) / caches.counts.clamp(min=1.0)[..., None]
        self.d_cache = scan_backward(self.d_cache, d_total, self.d_v, self.inputs.tokens, chunk, self.layout)
        d_score = ((d_out @ tile.mean_BGNSV.transpose(-1, -2)).to(self.inputs.wide) - delta).mul_(weight)
        return _by_head(d_score.to(dtype), self.inputs.codebook_GSK)

    def _add_position(self, tile: _Tile, d_window_BGNAU: Tensor) -> Tensor | None:
        """The position bias's part: returns d(q + w), adds to the relative keys'."""
        rel_key = self.inputs.rel_key_GMK
        if rel_key is None or self.d_rel_key is None:
            return None
        length, n_distance = self.layout.block_length, rel_key.shape[1]
        d_bias = chunks.unskewed(torch.unflatten(d_window_BGNAU, 3, (-1, length)))
        d_bias = d_bias[..., length + 1 - n_distance : length + 1].flatten(3, 4)  # furthest distance first
        by_batch = d_bias.flatten(2, 3).transpose(-1, -2) @ tile.query_w_BGNAK.flatten(2, 3)
        self.d_rel_key += by_batch.to(self.inputs.wide).sum(0).flip(1)
        return _by_head(d_bias, rel_key.flip(1))

    def _add_query(self, chunk: Chunk, d_query_u: Tensor, d_query_w: Tensor | None) -> None:
        n_group, low = self.inputs.q_BGRTK.shape[2], self.layout.query_rows(chunk)[0]
        by_head = torch.unflatten(d_query_u, 3, (n_group, -1))
        if self.inputs.bias_u_GRK is not None:
            self.d_bias_u += by_head.to(self.inputs.wide).sum((0, 2, 4))
        if d_query_w is not None:
            by_head_w = torch.unflatten(d_query_w, 3, (n_group, -1))
            self.d_bias_w += by_head_w.to(self.inputs.wide).sum((0, 2, 4))
            by_head = by_head + by_head_w
        chunks.put_rows(self.d_q, chunks.by_token(by_head), low, dim=3)
