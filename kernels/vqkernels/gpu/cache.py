"""The compressive cache on a GPU: means and counts by code that each block sees, and the way back to the values.

Letters as in `layout`. Block n sees the tokens of blocks 0 to n - 2 (and the carried cache). With T_n the sums it
sees and X_n the sums of block n's own tokens,

    T_n = keep_n T_{n-1} + X_{n-2},    mean_n = T_n / max(count_n, 1),
    dT_n = d_mean_n / max(count_n, 1) + keep_{n+1} dT_{n+1},    dX_{n-2} = dT_n,

and a value enters the sums of its block alone, so that its gradient is a row of dT: a gather, no product.
Sums by code are products with a one-hot matrix: the same work and the same order whatever the codes are.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from vqkernels.gpu.layout import Layout
from vqkernels.gpu.runtime import Kernel, cdiv, config, dot_precision


def cache_forward(
    layout: Layout, v_ZUV: Tensor, total_ZSV: Tensor | None, count_ZS: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Means [Z, N, S, V] in v's dtype and counts [Z, N, S] in float32 that each block sees; zeros where nothing.

    `total_ZSV` and `count_ZS` are the sums and counts (float32) carried into the first block, or None. Rows of
    `v_ZUV` beyond the layout's keys are not read.
    """
    shape = (layout.n_head, layout.n_block, layout.n_code)
    mean = torch.empty(*shape, layout.d_value, dtype=v_ZUV.dtype, device=v_ZUV.device)
    count = torch.empty(shape, dtype=torch.float32, device=v_ZUV.device)
    _SCAN.launch(
        lambda tiles: (_programs(layout, tiles),),
        (
            v_ZUV.contiguous(),
            layout.entering_ZU,
            None if total_ZSV is None else total_ZSV.contiguous(),
            None if count_ZS is None else count_ZS.contiguous(),
            None if layout.flags is None else layout.flags.keep_BN,
            mean,
            count,
            v_ZUV.shape[1],
            layout.n_key,
            layout.n_block,
        ),
        dtype=v_ZUV.dtype,
        **_sizes(layout),
        L=layout.block_length,
        CARRIED=total_ZSV is not None,
        PRECISION=dot_precision(v_ZUV.dtype),
    )
    return mean, count


def cache_backward(layout: Layout, d_mean_ZNSV: Tensor, count_ZNS: Tensor) -> Tensor:
    """Turn gradients of the means into those of the sums that each block sees, in place.

    Returns the gradient of the sums carried into the first block, [Z, S, V] in float32. The memory of `d_mean_ZNSV`
    must be contiguous, and all its blocks written.
    """
    shape = (layout.n_head, layout.n_code, layout.d_value)
    d_total = torch.empty(shape, dtype=torch.float32, device=d_mean_ZNSV.device)
    _SCAN_BACKWARD.launch(
        lambda tiles: (_programs(layout, tiles),),
        (
            d_mean_ZNSV,
            count_ZNS,
            None if layout.flags is None else layout.flags.keep_BN,
            d_total,
            layout.n_block,
        ),
        dtype=d_mean_ZNSV.dtype,
        **_sizes(layout),
    )
    return d_total


def add_cache_gradient(layout: Layout, d_total_ZNSV: Tensor, d_v_ZUV: Tensor) -> None:
    """d_v += the row of the sums' gradient (what `cache_backward` leaves) that each value went into, in place."""
    _GATHER.launch(
        lambda tiles: (layout.n_head * cdiv(layout.n_key, tiles["BT"]) * cdiv(layout.d_value, tiles["BV"]),),
        (d_total_ZNSV, layout.entering_ZU, d_v_ZUV, d_v_ZUV.shape[1], layout.n_key, layout.n_block),
        dtype=d_v_ZUV.dtype,
        L=layout.block_length,
        S=layout.n_code,
        V=layout.d_value,
    )


def _programs(layout: Layout, tiles: dict[str, int]) -> int:
    return layout.n_head * cdiv(layout.n_code, tiles["BS"]) * cdiv(layout.d_value, tiles["BV"])


def _sizes(layout: Layout) -> dict[str, int | bool]:
    return {
        "G": layout.n_kv_head,
        "S": layout.n_code,
        "V": layout.d_value,
        "CHECKED": layout.flags is not None,
    }


@triton.jit(do_not_specialize=["n_row", "n_key", "n_block"])
def vq_cache_scan_kernel(
    v, code, total, carried, keep, mean, count, n_row, n_key, n_block,
    G: tl.constexpr, L: tl.constexpr, S: tl.constexpr, V: tl.constexpr, CHECKED: tl.constexpr, CARRIED: tl.constexpr,
    PRECISION: tl.constexpr, BS: tl.constexpr, BV: tl.constexpr, BT: tl.constexpr,
):  # fmt: skip
    """A program walks over the blocks of one head with BS codes x BV columns of the sums in registers.

    Programs of the same columns are neighbours: they read the same values at about the same time.
    """
    i_s, i_v, i_z = _place(tl.program_id(0), tl.cdiv(S, BS), tl.cdiv(V, BV))
    o_s, o_v = i_s * BS + tl.arange(0, BS), i_v * BV + tl.arange(0, BV)
    m_s, m_sv = o_s < S, (o_s < S)[:, None] & (o_v < V)[None, :]
    o_sv = o_s[:, None] * V + o_v[None, :]
    o_tv = tl.arange(0, BT)[:, None] * V + o_v[None, :]
    p_code = code + i_z * n_key
    b_total = tl.zeros([BS, BV], tl.float32)
    b_count = tl.zeros([BS], tl.float32)
    if CARRIED:
        b_total += tl.load(total + i_z * S * V + o_sv, mask=m_sv, other=0.0)
        b_count += tl.load(carried + i_z * S + o_s, mask=m_s, other=0.0)
    for n in range(0, n_block):
        if CHECKED:
            b_keep = tl.load(keep + (i_z // G) * n_block + n).to(tl.float32)
            b_total *= b_keep
            b_count *= b_keep
        start = (n - 2) * L
        for t in range(tl.maximum(start, 0), tl.maximum(start + L, 0), BT):
            o_t = t + tl.arange(0, BT)
            m_t = o_t < start + L
            b_code = tl.load(p_code + o_t, mask=m_t, other=-1)
            p_v = v + (i_z * n_row + t) * V + o_tv
            b_v = tl.load(p_v, mask=m_t[:, None] & (o_v < V)[None, :], other=0.0)
            b_hot = o_s[:, None] == b_code[None, :]
            b_total = tl.dot(b_hot.to(b_v.dtype), b_v, b_total, input_precision=PRECISION)
            b_count += tl.sum(b_hot.to(tl.float32), 1)
        b_mean = b_total / tl.maximum(b_count, 1.0)[:, None]
        block = i_z * n_block + n
        tl.store(mean + block * S * V + o_sv, b_mean.to(mean.dtype.element_ty), mask=m_sv)
        tl.store(count + block * S + o_s, b_count, mask=m_s & (i_v == 0))


@triton.jit(do_not_specialize=["n_block"])
def vq_cache_scan_backward_kernel(
    d_mean, count, keep, d_total, n_block,
    G: tl.constexpr, S: tl.constexpr, V: tl.constexpr, CHECKED: tl.constexpr,
    BS: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """The walk back: each element of d_mean is read, then overwritten with the gradient of the block's sums."""
    i_s, i_v, i_z = _place(tl.program_id(0), tl.cdiv(S, BS), tl.cdiv(V, BV))
    o_s, o_v = i_s * BS + tl.arange(0, BS), i_v * BV + tl.arange(0, BV)
    m_sv = (o_s < S)[:, None] & (o_v < V)[None, :]
    o_sv = o_s[:, None] * V + o_v[None, :]
    b_d = tl.zeros([BS, BV], tl.float32)
    for back in range(0, n_block):
        n = n_block - 1 - back
        block = i_z * n_block + n
        b_count = tl.load(count + block * S + o_s, mask=o_s < S, other=1.0)
        p_mean = d_mean + block * S * V + o_sv
        b_mean = tl.load(p_mean, mask=m_sv, other=0.0).to(tl.float32)
        b_d += b_mean / tl.maximum(b_count, 1.0)[:, None]
        tl.store(p_mean, b_d.to(d_mean.dtype.element_ty), mask=m_sv)
        if CHECKED:
            b_d *= tl.load(keep + (i_z // G) * n_block + n).to(tl.float32)
    tl.store(d_total + i_z * S * V + o_sv, b_d, mask=m_sv)


@triton.jit(do_not_specialize=["n_row", "n_key", "n_block"])
def vq_cache_gather_kernel(
    d_total, code, d_v, n_row, n_key, n_block,
    L: tl.constexpr, S: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """BT tokens x BV columns of d_v."""
    i_v, i_t, i_z = _place(tl.program_id(0), tl.cdiv(V, BV), tl.cdiv(n_key, BT))
    o_t, o_v = i_t * BT + tl.arange(0, BT), i_v * BV + tl.arange(0, BV)
    b_code = tl.load(code + i_z * n_key + o_t, mask=o_t < n_key, other=-1)
    o_n = o_t // L + 2
    mask = ((b_code >= 0) & (o_n < n_block))[:, None] & (o_v < V)[None, :]
    row = (i_z * n_block + o_n) * S + b_code
    p_v = d_v + (i_z * n_row + o_t)[:, None] * V + o_v[None, :]
    b_new = tl.load(d_total + row[:, None] * V + o_v[None, :], mask=mask, other=0.0).to(tl.float32)
    b_old = tl.load(p_v, mask=mask, other=0.0).to(tl.float32)
    tl.store(p_v, (b_old + b_new).to(d_v.dtype.element_ty), mask=mask)


@triton.jit
def _place(program, n_fast, n_slow):
    """A program's place in a grid of which only the first axis may be long; the head in 64 bits."""
    rest = program // n_fast
    return program % n_fast, rest % n_slow, (rest // n_slow).to(tl.int64)


# 64 x 64 fills an H200 at batch 1 with 1,536 columns or 12 heads of 64, and leaves registers for the loads in flight.
_SCAN = Kernel(
    vq_cache_scan_kernel,
    (
        config(16, 4, 3, BS=64, BV=64, BT=64),
        config(32, 4, 2, BS=64, BV=64, BT=32),
    ),
)
_SCAN_BACKWARD = Kernel(
    vq_cache_scan_backward_kernel,
    (
        config(16, 4, 1, BS=16, BV=128),
        config(32, 4, 1, BS=16, BV=64),
    ),
)
_GATHER = Kernel(
    vq_cache_gather_kernel,
    (
        config(16, 4, 1, BT=16, BV=256),
        config(32, 4, 1, BT=16, BV=64),
    ),
)
