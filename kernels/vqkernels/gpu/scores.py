"""The softmax's weights, and the gradient of its logits, as matrices in memory.

Letters as in `layout`; block m = z N + n, A = R L rows of a block (row r L + i is the block's token i under query
head r), W = 2L + S columns: the block before, the block itself, the codes. With a value width far above the key
width, these matrices are no larger than the values, and all that is left are large plain products.

Position biases come as a band, [Z N, A, M] with the furthest distance first: relative to a row of the window, a row
of the band starts i columns further on, so that moving between them is a matter of addresses. Dead tiles (keys after
their queries, blocks without a cache) are written as zeros and not computed.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from vqkernels.gpu.layout import Layout
from vqkernels.gpu.runtime import Kernel, cdiv, config, dot_precision

_NEVER = tl.constexpr(-1.0e30)  # not minus infinity: the difference of two of these is still a number
_LOG2E = tl.constexpr(1.4426950408889634)  # scores by base 2: exp2 is one instruction, exp multiplies first


def weights(
    layout: Layout,
    query_MAK: Tensor,
    key_MLK: Tensor,
    band_MAD: Tensor | None,
    codebook_GSK: Tensor,
    count_ZNS: Tensor,
    lse_MA: Tensor | None,
    *,
    carried: bool,
) -> tuple[Tensor, Tensor]:
    """Weights [Z N, A, W] in the queries' dtype and log-sum-exps [Z N, A] as `layout` defines them.

    `carried`: the caches begin with a carried one. With `lse_MA` given, only the weights are computed.
    """
    n_row = layout.n_group * layout.block_length
    shape = (layout.n_head * layout.n_block, n_row)
    weight = torch.empty(*shape, _n_column(layout), dtype=query_MAK.dtype, device=query_MAK.device)
    lse = torch.empty(shape, dtype=torch.float32, device=query_MAK.device) if lse_MA is None else lse_MA
    flags = layout.flags
    _WEIGHTS.launch(
        lambda tiles: (_row_tiles(layout, tiles),),
        (
            query_MAK.contiguous(),
            key_MLK.contiguous(),
            None if band_MAD is None else band_MAD.contiguous(),
            codebook_GSK.contiguous(),
            count_ZNS,
            None if flags is None else flags.doc_BU,
            None if flags is None else flags.open_BN,
            lse,
            weight,
            layout.n_key,
            layout.n_block,
        ),
        dtype=query_MAK.dtype,
        **_sizes(layout, band_MAD, carried=carried),
        G=layout.n_kv_head,
        K=layout.d_key,
        KP=max(16, triton.next_power_of_2(layout.d_key)),
        KNOWN=lse_MA is not None,
        CHECKED=flags is not None,
        PRECISION=dot_precision(query_MAK.dtype),
    )
    return weight, lse


def row_dot(a_BGRTV: Tensor, b_BGRTV: Tensor) -> Tensor:
    """Sums over the last dimension of the products, [B, G, R, T] in float32."""
    sums = torch.empty(a_BGRTV.shape[:-1], dtype=torch.float32, device=a_BGRTV.device)
    _ROW_DOT.launch(
        lambda tiles: (cdiv(sums.numel(), tiles["BM"]),),
        (a_BGRTV.contiguous(), b_BGRTV.contiguous(), sums, sums.numel()),
        dtype=a_BGRTV.dtype,
        V=a_BGRTV.shape[-1],
    )
    return sums


def weights_to_d_scores(
    layout: Layout,
    weight_MAW: Tensor,
    d_out_MAV: Tensor,
    v_MLV: Tensor,
    mean_ZNSV: Tensor,
    delta_MA: Tensor,
    n_distance: int,
    *,
    carried: bool,
) -> Tensor:
    """Turn weights into gradients of the logits, in place: dS = P (dO v - delta); return the band's gradient.

    The gradient by distance is [Z N, A, M] with the furthest of the `n_distance` = M distances first, in the
    weights' dtype; every element has one owner and is written once.
    """
    band = torch.empty(*weight_MAW.shape[:2], n_distance, dtype=weight_MAW.dtype, device=weight_MAW.device)

    def launch(value: Tensor, n_column: int, *, window: bool) -> None:
        _D_SCORES.launch(
            lambda tiles: (_row_tiles(layout, tiles) * cdiv(n_column, tiles["BN"]),),
            (weight_MAW, d_out_MAV, value, delta_MA, band if n_distance else None, layout.n_block),
            dtype=weight_MAW.dtype,
            **_sizes(layout, band if n_distance else None, carried=carried),
            V=layout.d_value,
            WINDOW=window,
            PRECISION=dot_precision(weight_MAW.dtype),
        )

    launch(v_MLV, 2 * layout.block_length, window=True)
    launch(mean_ZNSV, layout.n_code, window=False)
    return band


def _n_column(layout: Layout) -> int:
    return 2 * layout.block_length + layout.n_code


def _row_tiles(layout: Layout, tiles: dict[str, int]) -> int:
    return layout.n_head * layout.n_block * layout.n_group * cdiv(layout.block_length, tiles["BM"])


def _sizes(layout: Layout, band: Tensor | None, *, carried: bool) -> dict[str, int]:
    return {
        "R": layout.n_group,
        "L": layout.block_length,
        "S": layout.n_code,
        "M": 0 if band is None else band.shape[-1],
        "FIRST": layout.first_block,
        "CACHED": layout.first_block if carried else 2,  # the first block with a cache
    }


@triton.jit(do_not_specialize=["n_key", "n_block"])
def vq_weights_kernel(
    query, key, band, codebook, count, doc, opened, lse, weight, n_key, n_block,
    G: tl.constexpr, R: tl.constexpr, L: tl.constexpr, S: tl.constexpr, K: tl.constexpr, M: tl.constexpr,
    FIRST: tl.constexpr, CACHED: tl.constexpr, KNOWN: tl.constexpr, CHECKED: tl.constexpr, PRECISION: tl.constexpr,
    KP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """BM rows of one block and query head: first their log-sum-exp, then scores again and weights to memory."""
    i_z, n, o_i, row = _rows(tl.program_id(0), n_block, R, L, BM)
    block = i_z * n_block + n
    o_a = tl.arange(0, BM)
    m_i = o_i < L
    p_q = query + row * K + o_a[:, None] * K
    p_band = band  # without relative keys there is none
    if M > 0:
        p_band += row * M + o_a[:, None] * M
    C: tl.constexpr = KP if KP < BK else BK  # of the key width at a time
    b_q = _queries(p_q, m_i, 0, K, C)
    p_key = key + (block - 1) * L * K
    p_code = codebook + (i_z % G) * S * K
    p_count = count + block * S
    p_doc, b_doc, b_open = doc, o_i, 0
    if CHECKED:
        p_doc += i_z // G * n_key
        b_doc = tl.load(p_doc + n * L + o_i, mask=m_i & (n * L + o_i < n_key), other=-1)
        b_open = tl.load(opened + i_z // G * n_block + n)
    low, high, cached = _reach(n, o_i, L, S, FIRST, CACHED, BM)

    if KNOWN:
        b_lse = tl.load(lse + row + o_a, mask=m_i, other=float("inf"))
    else:
        b_max = tl.full([BM], _NEVER, tl.float32)
        b_sum = tl.zeros([BM], tl.float32)
        for c in range(low, high, BN):
            b_s = _window_scores(
                b_q, p_q, p_key, p_band, p_doc, b_doc, c, low, n, n_key, o_i, L, K, M, CHECKED, PRECISION, BN, C
            )
            b_max, b_sum = _more(b_max, b_sum, b_s)
        for c in range(0, cached, BN):
            b_s = _code_scores(b_q, p_q, p_code, p_count, b_doc, b_open, c, m_i, S, K, CHECKED, PRECISION, BN, C)
            b_max, b_sum = _more(b_max, b_sum, b_s)
        b_lse = tl.where(b_max > 0.5 * _NEVER, b_max + tl.log2(tl.maximum(b_sum, 1.0)), float("inf"))
        tl.store(lse + row + o_a, b_lse, mask=m_i)

    p_weight = weight + row * (2 * L + S) + o_a[:, None] * (2 * L + S)
    b_zero = tl.zeros([BM, BN], weight.dtype.element_ty)
    for c in range(0, low, BN):
        _put(p_weight, b_zero, c, low, m_i, BN)
    for c in range(low, high, BN):
        b_s = _window_scores(
            b_q, p_q, p_key, p_band, p_doc, b_doc, c, low, n, n_key, o_i, L, K, M, CHECKED, PRECISION, BN, C
        )
        _put(p_weight, tl.exp2(b_s - b_lse[:, None]), c, 2 * L, m_i, BN)
    for c in range(low + tl.cdiv(high - low, BN) * BN, 2 * L, BN):
        _put(p_weight, b_zero, c, 2 * L, m_i, BN)
    for c in range(0, cached, BN):
        b_s = _code_scores(b_q, p_q, p_code, p_count, b_doc, b_open, c, m_i, S, K, CHECKED, PRECISION, BN, C)
        _put(p_weight + 2 * L, tl.exp2(b_s - b_lse[:, None]), c, S, m_i, BN)
    for c in range(cached, S, BN):
        _put(p_weight + 2 * L, b_zero, c, S, m_i, BN)


@triton.jit(do_not_specialize=["n_row"])
def vq_row_dot_kernel(a, b, sums, n_row, V: tl.constexpr, BM: tl.constexpr, BV: tl.constexpr):
    """Products of BM rows of a and b, summed."""
    row, o_a = tl.program_id(0).to(tl.int64) * BM, tl.arange(0, BM)
    m_a = row + o_a < n_row
    b_sum = tl.zeros([BM], tl.float32)
    for v in range(0, V, BV):
        o_v = v + tl.arange(0, BV)
        at = o_a[:, None] * V + o_v[None, :]
        mask = m_a[:, None] & (o_v < V)[None, :]
        b_a = tl.load(a + row * V + at, mask=mask, other=0.0).to(tl.float32)
        b_b = tl.load(b + row * V + at, mask=mask, other=0.0).to(tl.float32)
        b_sum += tl.sum(b_a * b_b, 1)
    tl.store(sums + row + o_a, b_sum, mask=m_a)


@triton.jit(do_not_specialize=["n_block"])
def vq_d_scores_kernel(
    weight, d_out, value, delta, d_band, n_block,
    R: tl.constexpr, L: tl.constexpr, S: tl.constexpr, M: tl.constexpr, V: tl.constexpr,
    FIRST: tl.constexpr, CACHED: tl.constexpr, WINDOW: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """BM rows x BN columns of dO [values of the window | means of the codes]^T, made gradients of logits."""
    n_column: tl.constexpr = 2 * L if WINDOW else S
    n_tile: tl.constexpr = (n_column + BN - 1) // BN
    c = (tl.program_id(0) % n_tile) * BN
    i_z, n, o_i, row = _rows(tl.program_id(0) // n_tile, n_block, R, L, BM)
    block = i_z * n_block + n
    low, high, cached = _reach(n, o_i, L, S, FIRST, CACHED, BM)
    o_a, o_n = tl.arange(0, BM), tl.arange(0, BN)
    o_c = c + o_n
    p_weight = weight + row * (2 * L + S) + c + o_a[:, None] * (2 * L + S) + o_n[None, :]
    if WINDOW:
        alive = (c < high) & (c + BN > low)
        m_c = (o_c >= low) & (o_c < 2 * L)
        p_value = value + ((block - 1) * L + c) * V + o_n[None, :] * V
    else:
        alive = cached > 0
        m_c = o_c < S
        p_value = value + (block * S + c) * V + o_n[None, :] * V
        p_weight += 2 * L
    m_i = o_i < L
    p_do = d_out + row * V + o_a[:, None] * V
    b_d = tl.zeros([BM, BN], tl.float32)
    for v in range(0, tl.where(alive, V, 0), BV):
        o_v = v + tl.arange(0, BV)
        b_do = tl.load(p_do + o_v[None, :], mask=m_i[:, None] & (o_v < V)[None, :], other=0.0)
        b_v = tl.load(p_value + o_v[:, None], mask=m_c[None, :] & (o_v < V)[:, None], other=0.0)
        b_d = tl.dot(b_do, b_v, b_d, input_precision=PRECISION)
    mask = m_i[:, None] & (o_c < n_column)[None, :]
    b_p = tl.load(p_weight, mask=mask, other=0.0).to(tl.float32)
    b_d = b_p * (b_d - tl.load(delta + row + o_a, mask=m_i, other=0.0)[:, None])
    tl.store(p_weight, b_d.to(weight.dtype.element_ty), mask=mask)
    if WINDOW and M > 0:
        distance = L + o_i[:, None] - o_c[None, :]
        p_band = d_band + row * M + o_a[:, None] * M + (M - 1 - distance)
        tl.store(p_band, b_d.to(d_band.dtype.element_ty), mask=mask & (distance >= 0) & (distance < M))


@triton.jit
def _rows(program, n_block, R: tl.constexpr, L: tl.constexpr, BM: tl.constexpr):
    """Head and block of a tile of rows, the rows' tokens in the block, and the first row's number among all rows.

    Numbers that count across blocks have 64 bits; within a tile, 32 are enough and take fewer registers.
    """
    n_tile: tl.constexpr = (L + BM - 1) // BM
    i_z, n = program // (n_tile * R) // n_block, program // (n_tile * R) % n_block
    o_i = (program % n_tile) * BM + tl.arange(0, BM)
    row = (program // (n_tile * R)).to(tl.int64) * (R * L) + program // n_tile % R * L + program % n_tile * BM
    return i_z.to(tl.int64), n, o_i, row


@triton.jit
def _reach(n, o_i, L: tl.constexpr, S: tl.constexpr, FIRST: tl.constexpr, CACHED: tl.constexpr, BM: tl.constexpr):
    """The window columns low..high-1 and how many codes the rows may see; none in a block without queries."""
    low = tl.where(n > 0, 0, L)
    high = tl.minimum(2 * L, L + 1 + tl.max(o_i, 0))
    high = tl.where(n < FIRST, low, high)
    return low, high, tl.where(n < CACHED, 0, S)


@triton.jit
def _window_scores(
    b_q, p_q, p_key, p_band, p_doc, b_doc, c, low, n, n_key, o_i,
    L: tl.constexpr, K: tl.constexpr, M: tl.constexpr, CHECKED: tl.constexpr, PRECISION: tl.constexpr,
    BN: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Base-2 logits of the window columns from c on."""
    o_c = c + tl.arange(0, BN)
    m_c = (o_c >= low) & (o_c < 2 * L)
    b_s = _products(b_q, p_q, p_key + o_c[None, :] * K, o_i < L, m_c, K, PRECISION, C)
    distance = L + o_i[:, None] - o_c[None, :]
    seen = (distance >= 0) & m_c[None, :]
    if M > 0:
        near = seen & (distance < M) & (o_i < L)[:, None]
        b_s += tl.load(p_band + (M - 1 - distance), mask=near, other=0.0).to(tl.float32)
    if CHECKED:
        o_u = (n - 1) * L + o_c
        b_other = tl.load(p_doc + o_u, mask=m_c & (o_u < n_key), other=-1)
        seen = seen & (b_doc[:, None] == b_other[None, :]) & (b_doc >= 0)[:, None]
    return tl.where(seen, b_s * _LOG2E, _NEVER)


@triton.jit
def _code_scores(
    b_q, p_q, p_code, p_count, b_doc, b_open, c, m_i,
    S: tl.constexpr, K: tl.constexpr, CHECKED: tl.constexpr, PRECISION: tl.constexpr,
    BN: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Base-2 logits of the codes from c on: as many equal keys as tokens took the code."""
    o_c = c + tl.arange(0, BN)
    b_count = tl.load(p_count + o_c, mask=o_c < S, other=0.0)
    b_s = _products(b_q, p_q, p_code + o_c[None, :] * K, m_i, o_c < S, K, PRECISION, C)
    b_s = b_s * _LOG2E + tl.log2(tl.maximum(b_count, 1.0))[None, :]
    seen = (b_count > 0)[None, :]
    if CHECKED:
        seen = seen & (b_doc == b_open)[:, None]
    return tl.where(seen, b_s, _NEVER)


@triton.jit
def _products(b_q, p_q, p_k, m_i, m_c, K: tl.constexpr, PRECISION: tl.constexpr, C: tl.constexpr):
    """Queries times keys, C of their numbers at a time; the first C of the queries' are at hand."""
    o_k = tl.arange(0, C)
    b_k = tl.load(p_k + o_k[:, None], mask=m_c[None, :] & (o_k < K)[:, None], other=0.0)
    b_s = tl.dot(b_q, b_k, input_precision=PRECISION)
    for k in range(C, K, C):
        o_k = k + tl.arange(0, C)
        b_k = tl.load(p_k + o_k[:, None], mask=m_c[None, :] & (o_k < K)[:, None], other=0.0)
        b_s = tl.dot(_queries(p_q, m_i, k, K, C), b_k, b_s, input_precision=PRECISION)
    return b_s


@triton.jit
def _queries(p_q, m_i, k, K: tl.constexpr, C: tl.constexpr):
    o_k = k + tl.arange(0, C)
    return tl.load(p_q + o_k[None, :], mask=m_i[:, None] & (o_k < K)[None, :], other=0.0)


@triton.jit
def _more(b_max, b_sum, b_s):
    """Running maximum and sum of 2 ** (score - maximum) with more scores."""
    b_new = tl.maximum(b_max, tl.max(b_s, 1))
    return b_new, b_sum * tl.exp2(b_max - b_new) + tl.sum(tl.exp2(b_s - b_new[:, None]), 1)


@triton.jit
def _put(p_weight, b_weight, c, n_column, m_i, BN: tl.constexpr):
    """Columns from c on, those before n_column."""
    o_c = c + tl.arange(0, BN)
    mask = m_i[:, None] & (o_c < n_column)[None, :]
    tl.store(p_weight + o_c[None, :], b_weight.to(p_weight.dtype.element_ty), mask=mask)


_WEIGHTS = Kernel(
    vq_weights_kernel,
    (
        config(16, 8, 2, BM=128, BN=64, BK=128),
        config(32, 8, 2, BM=64, BN=64, BK=16),
    ),
)
_ROW_DOT = Kernel(
    vq_row_dot_kernel,
    (
        config(16, 4, 1, BM=8, BV=512),
        config(32, 4, 1, BM=8, BV=256),
    ),
)
_D_SCORES = Kernel(
    vq_d_scores_kernel,
    (
        config(16, 8, 3, (90, 100), BM=128, BN=256, BV=64),
        config(16, 8, 3, (80, 86), BM=128, BN=128, BV=64),
        config(32, 8, 2, BM=64, BN=64, BV=16),
    ),
)
