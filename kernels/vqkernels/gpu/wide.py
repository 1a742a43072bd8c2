"""Attention for large value widths: weights and gradients of logits in memory, and large products by cuBLAS.

Letters as in `layout`; block m = z N + n in flat order, A = R L rows of a block (query head by query head), D
relative distances, W = 2L + S columns of the weights: block before, block itself, codes.

Rows of all heads follow each other, so that the windows [Z N - 1, 2L, V] over blocks m - 1 and m are an overlapping
view and no copy; block 0 of a head sees rows of the head before, with weight zero. Only block m = 0 is computed apart.

Kept for the backward pass are the inputs, the output and one number per query: weights, counts and means are computed
again. Each is as large as the values, and a layer's weights would be the largest tensor that training keeps.
"""

import torch
from torch import Tensor

from vqkernels.gpu.blocks import Blocks, block_operands, block_output, gradients, to_tokens
from vqkernels.gpu.cache import add_cache_gradient, cache_backward
from vqkernels.gpu.layout import Gradients, Layout, Operands
from vqkernels.gpu.scores import weights, weights_to_d_scores


def forward(given: Operands, layout: Layout) -> tuple[Tensor, Tensor]:
    """Output [B, G, R, T, V] in v's dtype and log-sum-exps [B, G, R, T]."""
    blocks = block_operands(given, layout)
    weight, lse = _weights(given, layout, blocks, None)
    out = _window_product(weight, blocks.v_MLV, layout.block_length)
    out.baddbmm_(weight[:, :, 2 * layout.block_length :], blocks.mean_ZNSV.flatten(0, 1))
    return to_tokens(out, layout), to_tokens(lse[..., None], layout)[..., 0]


def backward(given: Operands, layout: Layout, out_BGRTV: Tensor, lse_BGRT: Tensor, d_out_BGRTV: Tensor) -> Gradients:
    """Gradients of all operands.

    With delta_i = dO_i . O_i, weights p and logits s: ds_ij = p_ij (dO_i . v_j - delta_i), where v_j is a value or
    the mean of a code. A key in the window passes its gradient to the k of its token.
    """
    d_out, delta, lse = block_output(layout, out_BGRTV, lse_BGRT, d_out_BGRTV)
    blocks = block_operands(given, layout)
    weight, _ = _weights(given, layout, blocks, lse)
    d_v, d_total = _d_values(layout, weight, d_out, blocks.count_ZNS)
    carried = given.total_BGSV is not None
    n_distance = 0 if given.rel_key_GMK is None else given.rel_key_GMK.shape[1]
    d_band = weights_to_d_scores(
        layout, weight, d_out, blocks.v_MLV, blocks.mean_ZNSV, delta, n_distance, carried=carried
    )
    d_query, d_key = _d_products(layout, weight, blocks)
    d_query_w, d_rel_key = None, None
    if blocks.rel_key_ZDK is not None:
        d_query_w = _by_head(d_band, blocks.rel_key_ZDK)
        d_rel_key = _by_distance(layout, d_band, blocks.query_w_MAK)
    return gradients(given, layout, d_query, d_query_w, d_rel_key, d_key, d_v, d_total)


def _weights(given: Operands, layout: Layout, blocks: Blocks, lse_MA: Tensor | None) -> tuple[Tensor, Tensor]:
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


def _d_products(layout: Layout, d_score_MAW: Tensor, blocks: Blocks) -> tuple[Tensor, Tensor]:
    """Gradients of q + u [Z N, A, K] and of the window's keys [Z N, L, K]."""
    d_query = _window_product(d_score_MAW, blocks.key_MLK, layout.block_length)
    by_code = d_score_MAW.view(layout.n_head, -1, d_score_MAW.shape[2])[:, :, 2 * layout.block_length :]
    d_query.view(layout.n_head, -1, layout.d_key).baddbmm_(by_code, blocks.codebook_ZSK)
    return d_query, _fold_product(d_score_MAW, blocks.query_u_MAK, layout.block_length)


def _by_distance(layout: Layout, d_band_MAD: Tensor, query_w_MAK: Tensor) -> Tensor:
    """Gradients of each head's relative keys, [Z, D, K]."""
    d_band, query_w = (x.view(layout.n_head, -1, x.shape[2]) for x in (d_band_MAD, query_w_MAK))
    return torch.bmm(d_band.transpose(1, 2), query_w)


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
