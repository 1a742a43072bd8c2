"""Attention for large value widths: weights and gradients of logits in memory, and large products by cuBLAS.

Letters as in `layout`; block m = z N + n in flat order, A = R L rows of a block (query head by query head), D
relative distances, W = 2L + S columns of the weights: block before, block itself, codes.

Rows of all heads follow each other, so that the windows [Z N - 1, 2L, V] over blocks m - 1 and m are an overlapping
view and no copy; block 0 of a head sees rows of the head before, with weight zero. Only block m = 0 stands apart.

Kept for the backward pass are the inputs, the output and one number a query: weights, counts and means are computed
again. Each is as large as the values, and a layer's weights would be the largest tensor that training keeps.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vqkernels.gpu.cache import add_cache_gradient, cache_backward, cache_forward
from vqkernels.gpu.layout import Gradients, Layout, Operands, codeword_keys
from vqkernels.gpu.scores import row_dot, weights, weights_to_d_scores


class _Blocks(NamedTuple):
    """The operands in block order."""

    query_u_MAK: Tensor
    query_w_MAK: Tensor
    key_MLK: Tensor
    v_MLV: Tensor
    codebook_ZSK: Tensor
    rel_key_ZDK: Tensor | None  # furthest distance first
    mean_ZNSV: Tensor
    count_ZNS: Tensor


def forward(given: Operands, layout: Layout) -> tuple[Tensor, Tensor]:
    """Output [B, G, R, T, V] in v's dtype and log-sum-exps [B, G, R, T]."""
    blocks = _blocks(given, layout)
    weight, lse = _weights(given, layout, blocks, None)
    out = _window_product(weight, blocks.v_MLV, layout.block_length)
    out.baddbmm_(weight[:, :, 2 * layout.block_length :], blocks.mean_ZNSV.flatten(0, 1))
    return _to_tokens(out, layout), _to_tokens(lse[..., None], layout)[..., 0]


def backward(given: Operands, layout: Layout, out_BGRTV: Tensor, lse_BGRT: Tensor, d_out_BGRTV: Tensor) -> Gradients:
    """Gradients of all operands.

    With delta_i = dO_i . O_i, weights p and logits s: ds_ij = p_ij (dO_i . v_j - delta_i), where v_j is a value or
    the mean of a code. A key passes its gradient to the k of its token where it stands in the window.
    """
    delta = _to_blocks(row_dot(d_out_BGRTV, out_BGRTV)[..., None], layout)[..., 0]
    lse = _to_blocks(lse_BGRT[..., None], layout, float("inf"))[..., 0]
    d_out = _to_blocks(d_out_BGRTV, layout)
    blocks = _blocks(given, layout)
    weight, _ = _weights(given, layout, blocks, lse)
    d_v, d_total = _d_values(layout, weight, d_out, blocks.count_ZNS)
    carried = given.total_BGSV is not None
    n_distance = 0 if given.rel_key_GMK is None else given.rel_key_GMK.shape[1]
    d_band = weights_to_d_scores(
        layout, weight, d_out, blocks.v_MLV, blocks.mean_ZNSV, delta, n_distance, carried=carried
    )
    d_query, d_key = _d_products(layout, weight, blocks)
    d_bias_u, d_bias_w, d_rel_key = _sum_tokens(d_query, layout), None, None
    if blocks.rel_key_ZDK is not None:
        d_query_w = _by_head(d_band, blocks.rel_key_ZDK)
        d_bias_w, d_rel_key = _sum_tokens(d_query_w, layout), _d_rel_key(layout, d_band, blocks.query_w_MAK)
        d_query += d_query_w
    elif given.bias_w_GRK is not None:
        d_bias_w = torch.zeros_like(d_bias_u)
    heads = (layout.batch, layout.n_kv_head)
    return Gradients(
        q_BGRTK=_to_tokens(d_query, layout),
        k_BGTK=_rows(d_key, layout, layout.lead).unflatten(0, heads),
        v_BGUV=_rows(d_v, layout, 0).unflatten(0, heads),
        bias_u_GRK=None if given.bias_u_GRK is None else d_bias_u,
        bias_w_GRK=None if given.bias_w_GRK is None else d_bias_w,
        rel_key_GMK=d_rel_key,
        total_BGSV=d_total.unflatten(0, heads) if carried else None,
    )


def _blocks(given: Operands, layout: Layout) -> _Blocks:
    query_u, query_w = (
        _to_blocks(given.q_BGRTK if bias is None else given.q_BGRTK + bias[:, :, None], layout)
        for bias in (given.bias_u_GRK, given.bias_w_GRK)
    )
    v_MLV = _pad(given.v_BGUV.flatten(0, 1), layout)
    total, count = (None if x is None else x.flatten(0, 1) for x in (given.total_BGSV, given.count_BGS))
    mean, count = cache_forward(layout, v_MLV.view(layout.n_head, -1, layout.d_value), total, count)
    return _Blocks(
        query_u,
        query_w,
        _pad(codeword_keys(given), layout),
        v_MLV,
        _for_each_head(given.codebook_GSK, layout),
        None if given.rel_key_GMK is None else _for_each_head(given.rel_key_GMK.flip(1), layout),
        mean,
        count,
    )


def _weights(given: Operands, layout: Layout, blocks: _Blocks, lse_MA: Tensor | None) -> tuple[Tensor, Tensor]:
    band = None
    if blocks.rel_key_ZDK is not None:
        band = _by_head(blocks.query_w_MAK, blocks.rel_key_ZDK.transpose(1, 2))
    return weights(
        layout,
        blocks.query_u_MAK,
        blocks.key_MLK,
        band,
        given.codebook_GSK,
        blocks.count_ZNS,
        lse_MA,
        carried=given.total_BGSV is not None,
    )


def _d_values(layout: Layout, weight_MAW: Tensor, d_out_MAV: Tensor, count_ZNS: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the values [Z N, L, V] and of the sums carried into the first block [Z, S, V]."""
    d_v = _fold_product(weight_MAW, d_out_MAV, layout.block_length)
    d_mean = torch.bmm(weight_MAW[:, :, 2 * layout.block_length :].transpose(1, 2), d_out_MAV)
    d_mean = d_mean.view(layout.n_head, layout.n_block, layout.n_code, layout.d_value)
    d_total = cache_backward(layout, d_mean, count_ZNS)
    add_cache_gradient(layout, d_mean, d_v.view(layout.n_head, -1, layout.d_value))
    return d_v, d_total


def _d_products(layout: Layout, d_score_MAW: Tensor, blocks: _Blocks) -> tuple[Tensor, Tensor]:
    """Gradients of q + u [Z N, A, K] and of the window's keys [Z N, L, K]."""
    d_query = _window_product(d_score_MAW, blocks.key_MLK, layout.block_length)
    by_code = d_score_MAW.view(layout.n_head, -1, d_score_MAW.shape[2])[:, :, 2 * layout.block_length :]
    d_query.view(layout.n_head, -1, layout.d_key).baddbmm_(by_code, blocks.codebook_ZSK)
    return d_query, _fold_product(d_score_MAW, blocks.query_u_MAK, layout.block_length)


def _d_rel_key(layout: Layout, d_band_MAD: Tensor, query_w_MAK: Tensor) -> Tensor:
    d_band, query_w = (x.view(layout.n_head, -1, x.shape[2]) for x in (d_band_MAD, query_w_MAK))
    by_head = torch.bmm(d_band.transpose(1, 2), query_w).unflatten(0, (layout.batch, layout.n_kv_head))
    return by_head.sum(0, dtype=torch.float32).flip(1).to(query_w.dtype)


def _window_product(weight_MAW: Tensor, row_MLV: Tensor, length: int) -> Tensor:
    """weight's window columns times the rows of each block and the one before it, [Z N, A, V]."""
    n_block, _, width = row_MLV.shape
    product = torch.empty(n_block, weight_MAW.shape[1], width, dtype=row_MLV.dtype, device=row_MLV.device)
    torch.bmm(weight_MAW[:1, :, length : 2 * length], row_MLV[:1], out=product[:1])
    windows = row_MLV.as_strided((n_block - 1, 2 * length, width), (length * width, width, 1))
    torch.bmm(weight_MAW[1:, :, : 2 * length], windows, out=product[1:])
    return product


def _fold_product(weight_MAW: Tensor, row_MAV: Tensor, length: int) -> Tensor:
    """What all rows give to the tokens of their windows, [Z N, L, V]: the transpose of `_window_product`."""
    folded = torch.bmm(weight_MAW[:, :, length : 2 * length].transpose(1, 2), row_MAV)
    folded[:-1].baddbmm_(weight_MAW[1:, :, :length].transpose(1, 2), row_MAV[1:])
    return folded


def _by_head(row_MAX: Tensor, matrix_ZXY: Tensor) -> Tensor:
    """row @ matrix with each head's matrix, [Z N, A, Y]: as few and as tall products as there are heads."""
    product = torch.bmm(row_MAX.view(matrix_ZXY.shape[0], -1, row_MAX.shape[2]), matrix_ZXY)
    return product.view(*row_MAX.shape[:2], -1)


def _for_each_head(x_GSK: Tensor, layout: Layout) -> Tensor:
    """[Z, S, K]; a view where there is one key-value head."""
    return x_GSK.expand(layout.batch, *x_GSK.shape).reshape(layout.n_head, *x_GSK.shape[1:])


def _sum_tokens(x_MAK: Tensor, layout: Layout) -> Tensor:
    """[G, R, K]: sums over the batch and all tokens, in float32."""
    by_token = x_MAK.view(layout.batch, layout.n_kv_head, layout.n_block, layout.n_group, layout.block_length, -1)
    return by_token.sum((0, 2, 4), dtype=torch.float32).to(x_MAK.dtype)


def _pad(x_ZUV: Tensor, layout: Layout) -> Tensor:
    """[Z N, L, V], zeros after the last key; a view where keys fill their blocks."""
    missing = layout.n_block * layout.block_length - layout.n_key
    padded = F.pad(x_ZUV, (0, 0, 0, missing)) if missing else x_ZUV.contiguous()
    return padded.view(-1, layout.block_length, x_ZUV.shape[2])


def _rows(x_MLV: Tensor, layout: Layout, start: int) -> Tensor:
    """Rows of the keys from `start` on, [Z, U - start, V]."""
    return _cut(x_MLV.reshape(layout.n_head, -1, x_MLV.shape[2]), start, layout.n_key)


def _to_blocks(x_BGRTV: Tensor, layout: Layout, fill: float = 0.0) -> Tensor:
    """[Z N, A, V], `fill` in rows without a query; a view where queries fill their blocks and R = 1."""
    width = x_BGRTV.shape[4]
    after = layout.n_block * layout.block_length - layout.n_key
    if layout.lead or after:
        x_BGRTV = F.pad(x_BGRTV, (0, 0, layout.lead, after), value=fill)
    shape = (layout.n_head, layout.n_group, layout.n_block, layout.block_length, width)
    x_ZNRLV = x_BGRTV.contiguous().view(shape).transpose(1, 2)
    return x_ZNRLV.reshape(-1, layout.n_group * layout.block_length, width)


def _to_tokens(x_MAV: Tensor, layout: Layout) -> Tensor:
    """The inverse of `_to_blocks`, without the rows that have no query: [B, G, R, T, V]."""
    shape = (layout.n_head, layout.n_block, layout.n_group, layout.block_length, x_MAV.shape[2])
    x_ZRTV = _cut(x_MAV.view(shape).transpose(1, 2).flatten(2, 3), layout.lead, layout.n_key)
    return x_ZRTV.unflatten(0, (layout.batch, layout.n_kv_head))


def _cut(x: Tensor, start: int, stop: int) -> Tensor:
    """Rows start..stop-1 of the last dimension but one, contiguous, and without holding on to the others' memory."""
    if stop - start == x.shape[-2]:
        return x.contiguous()
    return x[..., start:stop, :].clone(memory_format=torch.contiguous_format)
