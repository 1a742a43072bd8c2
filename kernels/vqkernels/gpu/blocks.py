"""Operands and results of a plan in block order, whatever way it computes.

Letters as in `layout`; block m = z N + n in flat order, A = R L rows of a block (query head by query head), D
relative distances. Where tokens fill their blocks and R = 1, block order is the tokens' own and nothing is copied.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vqkernels.gpu.cache import cache_forward
from vqkernels.gpu.layout import Gradients, Layout, Operands, codeword_keys
from vqkernels.gpu.scores import row_dot


class Blocks(NamedTuple):
    """The operands in block order."""

    query_u_MAK: Tensor
    query_w_MAK: Tensor
    key_MLK: Tensor
    v_MLV: Tensor
    codebook_ZSK: Tensor
    rel_key_ZDK: Tensor | None  # furthest distance first
    mean_ZNSV: Tensor
    count_ZNS: Tensor


def block_operands(given: Operands, layout: Layout) -> Blocks:
    """The operands in block order, with the means and counts that each block sees."""
    query_u, query_w = (
        to_blocks(given.q_BGRTK if bias is None else given.q_BGRTK + bias[:, :, None], layout)
        for bias in (given.bias_u_GRK, given.bias_w_GRK)
    )
    v_MLV = pad(given.v_BGUV.flatten(0, 1), layout)
    total, count = (None if x is None else x.flatten(0, 1) for x in (given.total_BGSV, given.count_BGS))
    mean, count = cache_forward(layout, v_MLV.view(layout.n_head, -1, layout.d_value), total, count)
    return Blocks(
        query_u,
        query_w,
        pad(codeword_keys(given), layout),
        v_MLV,
        _for_each_head(given.codebook_GSK, layout),
        None if given.rel_key_GMK is None else _for_each_head(given.rel_key_GMK.flip(1), layout),
        mean,
        count,
    )


def block_output(
    layout: Layout, out_BGRTV: Tensor, lse_BGRT: Tensor, d_out_BGRTV: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What the way back needs of the output, in block order: dO, its products with O by row, log-sum-exps.

    Rows without a query have an infinite log-sum-exp: whatever they might see, it weighs nothing.
    """
    delta = to_blocks(row_dot(d_out_BGRTV, out_BGRTV)[..., None], layout)[..., 0]
    lse = to_blocks(lse_BGRT[..., None], layout, float("inf"))[..., 0]
    return to_blocks(d_out_BGRTV, layout), delta.contiguous(), lse.contiguous()


def gradients(
    given: Operands,
    layout: Layout,
    d_query_MAK: Tensor,
    d_query_w_MAK: Tensor | None,
    d_rel_key_ZDK: Tensor | None,
    d_key_MLK: Tensor,
    d_v_MLV: Tensor,
    d_total_ZSV: Tensor,
) -> Gradients:
    """The gradients of a call from those in block order.

    `d_query` is that of q + u, and is overwritten; `d_query_w` that of q + w, and `d_rel_key` each head's, furthest
    distance first: None where there are no relative keys.
    """
    d_bias_u, d_bias_w, d_rel_key = _sum_tokens(d_query_MAK, layout), None, None
    if d_query_w_MAK is not None and d_rel_key_ZDK is not None:
        d_bias_w = _sum_tokens(d_query_w_MAK, layout)
        d_rel_key = d_rel_key_ZDK.unflatten(0, (layout.batch, layout.n_kv_head)).sum(0, dtype=torch.float32)
        d_rel_key = d_rel_key.flip(1).to(d_rel_key_ZDK.dtype)
        d_query_MAK += d_query_w_MAK
    elif given.bias_w_GRK is not None:
        d_bias_w = torch.zeros_like(d_bias_u)
    heads = (layout.batch, layout.n_kv_head)
    return Gradients(
        q_BGRTK=to_tokens(d_query_MAK, layout),
        k_BGTK=_rows(d_key_MLK, layout, layout.lead).unflatten(0, heads),
        v_BGUV=_rows(d_v_MLV, layout, 0).unflatten(0, heads),
        bias_u_GRK=None if given.bias_u_GRK is None else d_bias_u,
        bias_w_GRK=None if given.bias_w_GRK is None else d_bias_w,
        rel_key_GMK=d_rel_key,
        total_BGSV=None if given.total_BGSV is None else d_total_ZSV.unflatten(0, heads),
    )


def to_blocks(x_BGRTV: Tensor, layout: Layout, fill: float = 0.0) -> Tensor:
    """[Z N, A, V], `fill` in rows without a query; a view where queries fill their blocks and R = 1."""
    width = x_BGRTV.shape[4]
    after = layout.n_block * layout.block_length - layout.n_key
    if layout.lead or after:
        x_BGRTV = F.pad(x_BGRTV, (0, 0, layout.lead, after), value=fill)
    shape = (layout.n_head, layout.n_group, layout.n_block, layout.block_length, width)
    x_ZNRLV = x_BGRTV.contiguous().view(shape).transpose(1, 2)
    return x_ZNRLV.reshape(-1, layout.n_group * layout.block_length, width)


def to_tokens(x_MAV: Tensor, layout: Layout) -> Tensor:
    """The inverse of `to_blocks`, without the rows that have no query: [B, G, R, T, V]."""
    shape = (layout.n_head, layout.n_block, layout.n_group, layout.block_length, x_MAV.shape[2])
    x_ZRTV = _cut(x_MAV.view(shape).transpose(1, 2).flatten(2, 3), layout.lead, layout.n_key)
    return x_ZRTV.unflatten(0, (layout.batch, layout.n_kv_head))


def _rows(x_MLV: Tensor, layout: Layout, start: int) -> Tensor:
    """Rows of the keys from `start` on, [Z, U - start, V]."""
    return _cut(x_MLV.reshape(layout.n_head, -1, x_MLV.shape[2]), start, layout.n_key)


def _cut(x: Tensor, start: int, stop: int) -> Tensor:
    """Rows start..stop-1 of the last dimension but one, contiguous, and without holding on to the others' memory."""
    if stop - start == x.shape[-2]:
        return x.contiguous()
    return x[..., start:stop, :].clone(memory_format=torch.contiguous_format)


def pad(x_ZUV: Tensor, layout: Layout) -> Tensor:
    """[Z N, L, V], zeros after the last key; a view where keys fill their blocks."""
    missing = layout.n_block * layout.block_length - layout.n_key
    padded = F.pad(x_ZUV, (0, 0, 0, missing)) if missing else x_ZUV.contiguous()
    return padded.view(-1, layout.block_length, x_ZUV.shape[2])


def _for_each_head(x_GSK: Tensor, layout: Layout) -> Tensor:
    """[Z, S, K]; a view where there is one key-value head."""
    return x_GSK.expand(layout.batch, *x_GSK.shape).reshape(layout.n_head, *x_GSK.shape[1:])


def _sum_tokens(x_MAK: Tensor, layout: Layout) -> Tensor:
    """[G, R, K]: sums over the batch and all tokens, in float32."""
    by_token = x_MAK.view(layout.batch, layout.n_kv_head, layout.n_block, layout.n_group, layout.block_length, -1)
    return by_token.sum((0, 2, 4), dtype=torch.float32).to(x_MAK.dtype)
