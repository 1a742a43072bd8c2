"""Attention for heads of small width: online softmax in one kernel, the weights never in memory.

Letters as in `layout`; block m = z N + n in flat order, A = R L rows of a block (query head by query head), D
relative distances.

Position biases are the exception. They come as a band [Z N, A, D] of the products (q + w).r, furthest distance first,
made by cuBLAS and read at an address that moves one column per row. A kernel could make them tile by tile, but by
distance, where its scores are by key; moving each row of a tile by another amount costs more than the tile itself.
The band of some heads at a time bounds the memory.

Kept for the backward pass are the inputs, the output and one number per query, as in `wide`.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from vqkernels.gpu import fused_kernels as kernels
from vqkernels.gpu.blocks import Blocks, block_operands, block_output, gradients, to_tokens
from vqkernels.gpu.cache import add_cache_gradient, cache_backward
from vqkernels.gpu.layout import Gradients, Layout, Operands
from vqkernels.gpu.runtime import Kernel, cdiv, dot_precision

_BAND_BYTES = 1 << 27
_LEAST_DOT = 16  # rows and columns of the smallest product that tensor cores have


def forward(given: Operands, layout: Layout) -> tuple[Tensor, Tensor]:
    """Output [B, G, R, T, V] in v's dtype and log-sum-exps [B, G, R, T]."""
    blocks = block_operands(given, layout)
    query = blocks.query_u_MAK
    out = torch.empty(*query.shape[:2], layout.d_value, dtype=query.dtype, device=query.device)
    lse = torch.empty(query.shape[:2], dtype=torch.float32, device=query.device)
    for part in _parts(given, layout, blocks):
        part.launch(kernels.FORWARD, _row_tiles, out, lse)
    return to_tokens(out, layout), to_tokens(lse[..., None], layout)[..., 0]


def backward(given: Operands, layout: Layout, out_BGRTV: Tensor, lse_BGRT: Tensor, d_out_BGRTV: Tensor) -> Gradients:
    """Gradients of all operands: as in `wide`, with ds_ij = p_ij (dO_i . v_j - dO_i . O_i) for a weight p_ij."""
    blocks = block_operands(given, layout)
    of_output = block_output(layout, out_BGRTV, lse_BGRT, d_out_BGRTV)
    d_query, d_key, d_v, d_mean = (
        torch.empty_like(x) for x in (blocks.query_u_MAK, blocks.key_MLK, blocks.v_MLV, blocks.mean_ZNSV)
    )
    d_query_w, d_rel_key = None, None
    if blocks.rel_key_ZDK is not None:
        d_query_w, d_rel_key = torch.empty_like(d_query), torch.empty_like(blocks.rel_key_ZDK)
    for part in _parts(given, layout, blocks):
        d_band = None if part.band is None else torch.empty_like(part.band)
        part.launch(kernels.D_QUERY, _row_tiles, *of_output, d_query, d_band)
        part.launch(kernels.D_KEY, _key_tiles, *of_output, d_key, d_v)
        part.launch(kernels.D_MEAN, _code_tiles, *of_output, d_mean)
        if d_band is not None and d_query_w is not None and d_rel_key is not None:
            part.position_gradients(d_band, d_query_w, d_rel_key)
    d_total = cache_backward(layout, d_mean, blocks.count_ZNS)
    add_cache_gradient(layout, d_mean, d_v.view(layout.n_head, -1, layout.d_value))
    return gradients(given, layout, d_query, d_query_w, d_rel_key, d_key, d_v, d_total)


class _Part(NamedTuple):
    """Some heads, whose band there is memory for."""

    given: Operands
    layout: Layout
    blocks: Blocks
    heads: slice
    band: Tensor | None

    def launch(
        self, kernel: Kernel, tiles_of_a_block: Callable[[Layout, dict[str, int]], int], *arguments: Tensor | None
    ) -> None:
        """Run over the blocks of these heads; `arguments` follow those that all kernels have."""
        given, layout, blocks, flags = self.given, self.layout, self.blocks, self.layout.flags
        n_block = (self.heads.stop - self.heads.start) * layout.n_block
        dtype = blocks.query_u_MAK.dtype
        kernel.launch(
            lambda tiles: (n_block * tiles_of_a_block(layout, tiles),),
            (
                *(x.contiguous() for x in (blocks.query_u_MAK, blocks.key_MLK, blocks.v_MLV)),
                self.band,
                given.codebook_GSK.contiguous(),
                blocks.mean_ZNSV,
                blocks.count_ZNS,
                None if flags is None else flags.doc_BU,
                None if flags is None else flags.open_BN,
                *arguments,
                self.heads.start * layout.n_block,
                layout.n_key,
                layout.n_block,
            ),
            dtype=dtype,
            width=max(layout.d_key, layout.d_value),
            G=layout.n_kv_head,
            R=layout.n_group,
            L=layout.block_length,
            S=layout.n_code,
            K=layout.d_key,
            V=layout.d_value,
            D=0 if self.band is None else self.band.shape[2],
            FIRST=layout.first_block,
            CACHED=2 if given.total_BGSV is None else layout.first_block,  # the first block with a cache
            CHECKED=flags is not None,
            PRECISION=dot_precision(dtype),
            BK=max(_LEAST_DOT, triton.next_power_of_2(layout.d_key)),
            BV=max(_LEAST_DOT, triton.next_power_of_2(layout.d_value)),
        )

    def position_gradients(self, d_band: Tensor, d_query_w_MAK: Tensor, d_rel_key_ZDK: Tensor) -> None:
        """Write the gradients of q + w and of the relative keys of these heads."""
        assert self.blocks.rel_key_ZDK is not None
        d_band = d_band.view(self.heads.stop - self.heads.start, -1, d_band.shape[2])
        query_w, d_query_w = (_by_head(x, self.layout)[self.heads] for x in (self.blocks.query_w_MAK, d_query_w_MAK))
        torch.bmm(d_band, self.blocks.rel_key_ZDK[self.heads], out=d_query_w)
        torch.bmm(d_band.transpose(1, 2), query_w, out=d_rel_key_ZDK[self.heads])


def _parts(given: Operands, layout: Layout, blocks: Blocks) -> Iterator[_Part]:
    if blocks.rel_key_ZDK is None:
        yield _Part(given, layout, blocks, slice(0, layout.n_head), None)
        return
    query_w, rel_key = _by_head(blocks.query_w_MAK, layout), blocks.rel_key_ZDK.transpose(1, 2)
    n_head = max(1, _BAND_BYTES // (query_w.shape[1] * rel_key.shape[2] * query_w.itemsize))
    for start in range(0, layout.n_head, n_head):
        heads = slice(start, min(start + n_head, layout.n_head))
        yield _Part(given, layout, blocks, heads, torch.bmm(query_w[heads], rel_key[heads]))


def _by_head(x_MAK: Tensor, layout: Layout) -> Tensor:
    return x_MAK.view(layout.n_head, -1, x_MAK.shape[2])


def _row_tiles(layout: Layout, tiles: dict[str, int]) -> int:
    return layout.n_group * cdiv(layout.block_length, tiles["BM"])


def _key_tiles(layout: Layout, tiles: dict[str, int]) -> int:
    return cdiv(layout.block_length, tiles["BN"])


def _code_tiles(layout: Layout, tiles: dict[str, int]) -> int:
    return cdiv(layout.n_code, tiles["BN"])
