"""Sums and counts of rows by code in Triton: products with one-hot tiles, added in a fixed order.

PyTorch's scatter_add and index_add on CUDA add in whatever order threads arrive. Here no two programs write to the
same place, so that the same rows give the same bits.

Letters: Z independent sets of rows, N row, D width, S codes, P parts of N that are summed apart.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from vqkernels.gpu.runtime import Kernel, config
from vqkernels.quantize.nearest import codewords

_PARTIAL_NUMBERS = 1 << 22  # partial sums held at once: 16 MiB
_LEAST_ROWS = 1024  # of one part: below, writing its sums costs more than making them


@triton.jit(do_not_specialize=["N", "P", "span"])
def segment_sum_kernel(
    p_row,
    p_code,
    p_sum,
    p_count,
    N,
    P,
    span,
    S: tl.constexpr,
    D: tl.constexpr,
    BS: tl.constexpr,
    BD: tl.constexpr,
    BN: tl.constexpr,
) -> None:
    """Sums of BS codes by BD columns over the `span` rows of one part of one set.

    rows [Z, N, D]; codes [Z, N]; sums [Z, P, S, D] and counts [Z, P, S] float32.
    """
    n_s: tl.constexpr = (S + BS - 1) // BS
    n_d: tl.constexpr = (D + BD - 1) // BD
    i_d = tl.program_id(0) // n_s % n_d
    i_part = tl.program_id(0) // (n_s * n_d)
    first = i_part % P * span
    last = tl.minimum(first + span, N)
    i_z = (i_part // P).to(tl.int64)
    i_part = i_part.to(tl.int64)
    # Offsets in a tile stay in 32 bits, for the registers' sake.
    o_n = tl.arange(0, BN)
    o_s = tl.program_id(0) % n_s * BS + tl.arange(0, BS)
    o_d = i_d * BD + tl.arange(0, BD)
    b_sum = tl.zeros([BS, BD], tl.float32)
    b_count = tl.zeros([BS], tl.float32)
    for n in range(first, last, BN):
        b_code = tl.load(p_code + i_z * N + n + o_n, mask=n + o_n < last, other=-1).to(tl.int32)
        # What is left out may hold anything, NaN too, and 0 * NaN would still spread.
        b_row = tl.load(
            p_row + (i_z * N + n) * D + (o_n[:, None] * D + o_d[None, :]),
            mask=(b_code >= 0)[:, None] & (o_d < D)[None, :],
            other=0.0,
        )
        b_hot = o_s[:, None] == b_code[None, :]
        b_sum = tl.dot(b_hot.to(b_row.dtype), b_row, b_sum, input_precision="ieee")
        b_count += tl.sum(b_hot.to(tl.float32), 1)
    m_sd = (o_s < S)[:, None] & (o_d < D)[None, :]
    tl.store(p_sum + i_part * S * D + (o_s[:, None] * D + o_d[None, :]), b_sum, mask=m_sd)
    if i_d == 0:
        tl.store(p_count + i_part * S + o_s, b_count, mask=o_s < S)


KERNEL = Kernel(
    segment_sum_kernel,
    (
        config(16, 8, 3, BS=128, BD=128, BN=64),
        config(16, 4, 3, BS=64, BD=64, BN=64),
        config(32, 8, 2, BS=64, BD=64, BN=32),
    ),
)


def launch_segment_sum(row_ZND: Tensor, code_ZN: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Sums [Z, S, D] of the rows by code and counts [Z, S], float32; rows of code -1 are left out.

    Products with 0 and 1 are exact in any dtype, so 16-bit rows give float32 sums of what they hold. A row that is
    not finite spoils the sums of its columns for all codes of its tile.
    """
    n_set, n_row, width = row_ZND.shape
    n_part = max(1, min(_PARTIAL_NUMBERS // max(1, n_set * size * width), triton.cdiv(n_row, _LEAST_ROWS)))
    total = torch.empty(n_set, n_part, size, width, dtype=torch.float32, device=row_ZND.device)
    count = torch.empty(n_set, n_part, size, dtype=torch.float32, device=row_ZND.device)
    KERNEL.launch(
        lambda tiles: (n_set * n_part * triton.cdiv(size, tiles["BS"]) * triton.cdiv(width, tiles["BD"]),),
        (row_ZND.contiguous(), code_ZN.contiguous(), total, count, n_row, n_part, triton.cdiv(n_row, n_part)),
        dtype=row_ZND.dtype,
        S=size,
        D=width,
    )
    return (total[:, 0], count[:, 0]) if n_part == 1 else (total.sum(1), count.sum(1))


segment_sum = torch.library.custom_op("vqkernels::segment_sum", launch_segment_sum, mutates_args=())


@segment_sum.register_fake
def _(row_ZND: Tensor, code_ZN: Tensor, size: int) -> tuple[Tensor, Tensor]:
    n_set, _, width = row_ZND.shape
    return (
        row_ZND.new_empty(n_set, size, width, dtype=torch.float32),
        row_ZND.new_empty(n_set, size, dtype=torch.float32),
    )


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.dtype = inputs[0].dtype
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, d_sum_ZSD: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
    """A row enters the sum of its code alone, so its gradient is that sum's: a gather."""
    (code_ZN,) = ctx.saved_tensors
    return codewords(code_ZN[None], d_sum_ZSD)[0].to(ctx.dtype), None, None


segment_sum.register_autograd(_backward, setup_context=_keep)
