"""Attention that keeps its weights in registers: the kernels of the fused plan.

Letters and tile helpers as in `scores`: block m = z N + n, A = R L rows of a block (row r L + i is the block's token
i under query head r). Weights go by base 2. The forward pass is FlashAttention's (Dao, 2023) over the 2L columns of
the window and the S codes; the backward pass computes the weights again from their log-sum-exp, once by query for
the gradients of queries and position biases, once by key and once by code for those of keys, values and means.
Every element has one owner: nothing is added to memory that another program writes.

Products that need transposed scores are computed as such, from operands transposed as they were loaded: transposing
a product of two tiles in registers is miscompiled on Hopper by Triton before 3.7.1.
"""

import triton
import triton.language as tl

from vqkernels.gpu.runtime import Kernel, config

_NEVER = tl.constexpr(-1.0e30)  # not minus infinity: the difference of two of these is still a number
_LOG2E = tl.constexpr(1.4426950408889634)  # scores by base 2: exp2 is one instruction, exp multiplies first


@triton.jit(do_not_specialize=["start", "n_key", "n_block"])
def vq_fused_forward_kernel(
    query, key, value, band, codebook, mean, count, doc, opened, out, lse, start, n_key, n_block,
    G: tl.constexpr, R: tl.constexpr, L: tl.constexpr, S: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    D: tl.constexpr, FIRST: tl.constexpr, CACHED: tl.constexpr, CHECKED: tl.constexpr, PRECISION: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Output and log-sum-exp of BM rows of one block and query head, from block `start` on."""
    i_z, n, block, o_i, row = _rows(start, n_block, R, L, BM)
    p_band = band if D == 0 else band + (row - start.to(tl.int64) * (R * L)) * D
    o_k, o_v = tl.arange(0, BK), tl.arange(0, BV)
    m_i, m_k, m_v = o_i < L, (o_k < K)[None, :], (o_v < V)[None, :]
    b_q = tl.load(query + row * K + (o_i[:, None] * K + o_k[None, :]), mask=m_i[:, None] & m_k, other=0.0)
    p_key, p_value = key + (block - 1) * L * K, value + (block - 1) * L * V
    p_code, p_mean, p_count = codebook + i_z % G * S * K, mean + block * S * V, count + block * S
    p_doc, b_doc, b_open = _documents(doc, opened, i_z, n, n_key, n_block, o_i, G, L, CHECKED)
    low, high, cached = _reach(n, o_i, L, S, FIRST, CACHED)
    b_max = tl.full([BM], _NEVER, tl.float32)
    b_sum = tl.zeros([BM], tl.float32)
    b_out = tl.zeros([BM, BV], tl.float32)
    for c in range(low, high, BN):
        o_c = c + tl.arange(0, BN)
        m_c = o_c < 2 * L
        b_k = tl.load(p_key + (o_c[:, None] * K + o_k[None, :]), mask=m_c[:, None] & m_k, other=0.0)
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)
        b_s = _window_scores(b_s, p_band, p_doc, b_doc, o_i, o_c, low, n, n_key, L, D, CHECKED)
        b_v = tl.load(p_value + (o_c[:, None] * V + o_v[None, :]), mask=m_c[:, None] & m_v, other=0.0)
        b_max, b_sum, b_out = _more(b_max, b_sum, b_out, b_s, b_v, PRECISION)
    for c in range(0, cached, BN):
        o_c = c + tl.arange(0, BN)
        m_c = o_c < S
        b_k = tl.load(p_code + (o_c[:, None] * K + o_k[None, :]), mask=m_c[:, None] & m_k, other=0.0)
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)
        b_s = _code_scores(b_s, p_count, b_doc, b_open, o_c, S, CHECKED)
        b_v = tl.load(p_mean + (o_c[:, None] * V + o_v[None, :]), mask=m_c[:, None] & m_v, other=0.0)
        b_max, b_sum, b_out = _more(b_max, b_sum, b_out, b_s, b_v, PRECISION)
    blind = b_max < 0.5 * _NEVER  # rows that see nothing: their weights are all 1, relative to a maximum of _NEVER
    b_sum = tl.maximum(b_sum, 1.0)  # the largest weight is 1
    b_out = tl.where(blind[:, None], 0.0, b_out / b_sum[:, None])
    tl.store(out + row * V + (o_i[:, None] * V + o_v[None, :]), b_out.to(out.dtype.element_ty), mask=m_i[:, None] & m_v)
    tl.store(lse + row + o_i, tl.where(blind, float("inf"), b_max + tl.log2(b_sum)), mask=m_i)


@triton.jit(do_not_specialize=["start", "n_key", "n_block"])
def vq_fused_d_query_kernel(
    query, key, value, band, codebook, mean, count, doc, opened, d_out, delta, lse, d_query, d_band,
    start, n_key, n_block,
    G: tl.constexpr, R: tl.constexpr, L: tl.constexpr, S: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    D: tl.constexpr, FIRST: tl.constexpr, CACHED: tl.constexpr, CHECKED: tl.constexpr, PRECISION: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Gradients of BM rows of queries, and of their band: zeros where a distance reaches nothing."""
    i_z, n, block, o_i, row = _rows(start, n_block, R, L, BM)
    p_band = band if D == 0 else band + (row - start.to(tl.int64) * (R * L)) * D
    o_k, o_v = tl.arange(0, BK), tl.arange(0, BV)
    m_i, m_k, m_v = o_i < L, (o_k < K)[None, :], (o_v < V)[None, :]
    b_q = tl.load(query + row * K + (o_i[:, None] * K + o_k[None, :]), mask=m_i[:, None] & m_k, other=0.0)
    b_do = tl.load(d_out + row * V + (o_i[:, None] * V + o_v[None, :]), mask=m_i[:, None] & m_v, other=0.0)
    b_lse = tl.load(lse + row + o_i, mask=m_i, other=float("inf"))
    b_delta = tl.load(delta + row + o_i, mask=m_i, other=0.0)
    p_key, p_value = key + (block - 1) * L * K, value + (block - 1) * L * V
    p_code, p_mean, p_count = codebook + i_z % G * S * K, mean + block * S * V, count + block * S
    p_doc, b_doc, b_open = _documents(doc, opened, i_z, n, n_key, n_block, o_i, G, L, CHECKED)
    low, high, cached = _reach(n, o_i, L, S, FIRST, CACHED)
    begin = low
    if D > 0:  # a band has a gradient at every distance, also before the first key and without a query
        begin = low * 0
        p_d_band = d_band + (row - start.to(tl.int64) * (R * L)) * D
        high = tl.minimum(2 * L, L + 1 + tl.max(o_i, 0))
    b_dq = tl.zeros([BM, BK], tl.float32)
    for c in range(begin, high, BN):
        o_c = c + tl.arange(0, BN)
        m_c = (o_c >= low) & (o_c < 2 * L)
        b_k = tl.load(p_key + (o_c[:, None] * K + o_k[None, :]), mask=m_c[:, None] & m_k, other=0.0)
        b_v = tl.load(p_value + (o_c[:, None] * V + o_v[None, :]), mask=m_c[:, None] & m_v, other=0.0)
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)
        b_s = _window_scores(b_s, p_band, p_doc, b_doc, o_i, o_c, low, n, n_key, L, D, CHECKED)
        b_dp = tl.dot(b_do, tl.trans(b_v), input_precision=PRECISION)
        b_ds = (tl.exp2(b_s - b_lse[:, None]) * (b_dp - b_delta[:, None])).to(b_k.dtype)
        if D > 0:
            shift = o_c[None, :] - o_i[:, None]
            m_near = m_i[:, None] & (o_c < 2 * L)[None, :] & (shift <= L) & (shift > L - D)
            tl.store(p_d_band + (o_i[:, None] * D + shift + (D - 1 - L)), b_ds, mask=m_near)
        b_dq = tl.dot(b_ds, b_k, b_dq, input_precision=PRECISION)
    for c in range(0, cached, BN):
        o_c = c + tl.arange(0, BN)
        m_c = o_c < S
        b_k = tl.load(p_code + (o_c[:, None] * K + o_k[None, :]), mask=m_c[:, None] & m_k, other=0.0)
        b_v = tl.load(p_mean + (o_c[:, None] * V + o_v[None, :]), mask=m_c[:, None] & m_v, other=0.0)
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)
        b_s = _code_scores(b_s, p_count, b_doc, b_open, o_c, S, CHECKED)
        b_dp = tl.dot(b_do, tl.trans(b_v), input_precision=PRECISION)
        b_ds = (tl.exp2(b_s - b_lse[:, None]) * (b_dp - b_delta[:, None])).to(b_k.dtype)
        b_dq = tl.dot(b_ds, b_k, b_dq, input_precision=PRECISION)
    p_dq = d_query + row * K + (o_i[:, None] * K + o_k[None, :])
    tl.store(p_dq, b_dq.to(d_query.dtype.element_ty), mask=m_i[:, None] & m_k)


@triton.jit(do_not_specialize=["start", "n_key", "n_block"])
def vq_fused_d_key_kernel(
    query, key, value, band, codebook, mean, count, doc, opened, d_out, delta, lse, d_key, d_value,
    start, n_key, n_block,
    G: tl.constexpr, R: tl.constexpr, L: tl.constexpr, S: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    D: tl.constexpr, FIRST: tl.constexpr, CACHED: tl.constexpr, CHECKED: tl.constexpr, PRECISION: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Gradients of BN keys and their values from the rows that see them: of their block and of the next one."""
    n_tile: tl.constexpr = (L + BN - 1) // BN
    i_z, n, block = _block(tl.program_id(0) // n_tile + start, n_block)
    first = (tl.program_id(0) % n_tile) * BN
    o_j, o_k, o_v = first + tl.arange(0, BN), tl.arange(0, BK), tl.arange(0, BV)
    m_j, m_k, m_v = o_j < L, (o_k < K)[None, :], (o_v < V)[None, :]
    b_k = tl.load(key + block * L * K + (o_j[:, None] * K + o_k[None, :]), mask=m_j[:, None] & m_k, other=0.0)
    b_v = tl.load(value + block * L * V + (o_j[:, None] * V + o_v[None, :]), mask=m_j[:, None] & m_v, other=0.0)
    b_dk = tl.zeros([BN, BK], tl.float32)
    b_dv = tl.zeros([BN, BV], tl.float32)
    p_doc, b_doc, _ = _documents(doc, opened, i_z, n, n_key, n_block, o_j, G, L, CHECKED)
    n_own = tl.cdiv(L - first, BM)
    n_row = n_own + tl.where(n + 1 < n_block, tl.cdiv(L, BM), 0)
    for t in range(0, R * n_row):
        x = t % n_row
        ahead = tl.where(x < n_own, 0, 1)
        o_i = tl.where(x < n_own, first + x * BM, (x - n_own) * BM) + tl.arange(0, BM)
        m_i = o_i < L
        row = (block + ahead) * (R * L) + t // n_row * L
        b_q = tl.load(query + row * K + (o_i[:, None] * K + o_k[None, :]), mask=m_i[:, None] & m_k, other=0.0)
        b_do = tl.load(d_out + row * V + (o_i[:, None] * V + o_v[None, :]), mask=m_i[:, None] & m_v, other=0.0)
        b_lse = tl.load(lse + row + o_i, mask=m_i, other=float("inf"))
        b_delta = tl.load(delta + row + o_i, mask=m_i, other=0.0)
        b_s = tl.dot(b_k, tl.trans(b_q), input_precision=PRECISION)
        shift = o_j[:, None] - (o_i + ahead * L)[None, :]
        seen = (shift <= 0) & m_i[None, :]
        if D > 0:
            p_band = band + (row - start.to(tl.int64) * (R * L)) * D
            p_near = p_band + (o_i[None, :] * D + shift + (D - 1))
            b_s += tl.load(p_near, mask=seen & m_j[:, None] & (shift > -D), other=0.0).to(tl.float32)
        if CHECKED:
            o_u = n * L + ahead * L + o_i
            b_other = tl.load(p_doc + o_u, mask=m_i & (o_u < n_key), other=-1)
            seen = seen & (b_doc[:, None] == b_other[None, :]) & (b_doc >= 0)[:, None]
        b_p = tl.where(seen, tl.exp2(b_s * _LOG2E - b_lse[None, :]), 0.0)
        b_dv = tl.dot(b_p.to(b_do.dtype), b_do, b_dv, input_precision=PRECISION)
        b_ds = b_p * (tl.dot(b_v, tl.trans(b_do), input_precision=PRECISION) - b_delta[None, :])
        b_dk = tl.dot(b_ds.to(b_q.dtype), b_q, b_dk, input_precision=PRECISION)
    p_dk = d_key + block * L * K + (o_j[:, None] * K + o_k[None, :])
    p_dv = d_value + block * L * V + (o_j[:, None] * V + o_v[None, :])
    tl.store(p_dk, b_dk.to(d_key.dtype.element_ty), mask=m_j[:, None] & m_k)
    tl.store(p_dv, b_dv.to(d_value.dtype.element_ty), mask=m_j[:, None] & m_v)


@triton.jit(do_not_specialize=["start", "n_key", "n_block"])
def vq_fused_d_mean_kernel(
    query, key, value, band, codebook, mean, count, doc, opened, d_out, delta, lse, d_mean,
    start, n_key, n_block,
    G: tl.constexpr, R: tl.constexpr, L: tl.constexpr, S: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    D: tl.constexpr, FIRST: tl.constexpr, CACHED: tl.constexpr, CHECKED: tl.constexpr, PRECISION: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Gradients of BN means of one block's cache from the rows of the block; zeros where there is no cache."""
    n_tile: tl.constexpr = (S + BN - 1) // BN
    i_z, n, block = _block(tl.program_id(0) // n_tile + start, n_block)
    o_s, o_k, o_v = (tl.program_id(0) % n_tile) * BN + tl.arange(0, BN), tl.arange(0, BK), tl.arange(0, BV)
    m_s, m_k, m_v = o_s < S, (o_k < K)[None, :], (o_v < V)[None, :]
    p_code = codebook + i_z % G * S * K
    b_k = tl.load(p_code + (o_s[:, None] * K + o_k[None, :]), mask=m_s[:, None] & m_k, other=0.0)
    b_count = tl.load(count + block * S + o_s, mask=m_s, other=0.0)
    b_log = tl.log2(tl.maximum(b_count, 1.0))
    b_d = tl.zeros([BN, BV], tl.float32)
    n_row: tl.constexpr = (L + BM - 1) // BM
    for t in range(0, tl.where(n < CACHED, 0, R * n_row)):
        o_i = t % n_row * BM + tl.arange(0, BM)
        m_i = o_i < L
        row = block * (R * L) + t // n_row * L
        b_q = tl.load(query + row * K + (o_i[:, None] * K + o_k[None, :]), mask=m_i[:, None] & m_k, other=0.0)
        b_do = tl.load(d_out + row * V + (o_i[:, None] * V + o_v[None, :]), mask=m_i[:, None] & m_v, other=0.0)
        b_lse = tl.load(lse + row + o_i, mask=m_i, other=float("inf"))
        _, b_doc, b_open = _documents(doc, opened, i_z, n, n_key, n_block, o_i, G, L, CHECKED)
        b_s = tl.dot(b_k, tl.trans(b_q), input_precision=PRECISION) * _LOG2E + b_log[:, None]
        seen = (b_count > 0)[:, None]
        if CHECKED:
            seen = seen & (b_doc == b_open)[None, :]
        b_p = tl.where(seen, tl.exp2(b_s - b_lse[None, :]), 0.0)
        b_d = tl.dot(b_p.to(b_do.dtype), b_do, b_d, input_precision=PRECISION)
    p_d = d_mean + block * S * V + (o_s[:, None] * V + o_v[None, :])
    tl.store(p_d, b_d.to(d_mean.dtype.element_ty), mask=m_s[:, None] & m_v)


@triton.jit
def _rows(start, n_block, R: tl.constexpr, L: tl.constexpr, BM: tl.constexpr):
    """Place of this program's tile of rows: head, block in the sequence and among all, the rows' tokens in the block,
    and the number of the row of the block's first token under their query head. The launch begins at block `start`."""
    n_tile: tl.constexpr = (L + BM - 1) // BM
    i_r = tl.program_id(0) // n_tile
    i_z, n, block = _block(i_r // R + start, n_block)
    o_i = tl.program_id(0) % n_tile * BM + tl.arange(0, BM)
    return i_z, n, block, o_i, block * (R * L) + i_r % R * L


@triton.jit
def _block(i, n_block):
    """Head and place in the sequence of a block, and its number; all but the place in 64 bits, divided in 32."""
    return (i // n_block).to(tl.int64), i % n_block, i.to(tl.int64)


@triton.jit
def _reach(n, o_i, L: tl.constexpr, S: tl.constexpr, FIRST: tl.constexpr, CACHED: tl.constexpr):
    """The window columns low..high-1 and how many codes the rows may see; none in a block without queries."""
    low = tl.where(n > 0, 0, L)
    high = tl.where(n < FIRST, low, tl.minimum(2 * L, L + 1 + tl.max(o_i, 0)))
    return low, high, tl.where(n < CACHED, 0, S)


@triton.jit
def _window_scores(
    b_s, p_band, p_doc, b_doc, o_i, o_c, low, n, n_key,
    L: tl.constexpr, D: tl.constexpr, CHECKED: tl.constexpr,
):  # fmt: skip
    """Base-2 logits of window columns from products of queries and keys."""
    shift = o_c[None, :] - o_i[:, None]  # L less the distance
    seen = (shift <= L) & ((o_c >= low) & (o_c < 2 * L))[None, :]
    if D > 0:
        m_near = seen & (shift > L - D) & (o_i < L)[:, None]
        b_s += tl.load(p_band + (o_i[:, None] * D + shift + (D - 1 - L)), mask=m_near, other=0.0).to(tl.float32)
    if CHECKED:
        o_u = (n - 1) * L + o_c
        b_other = tl.load(p_doc + o_u, mask=(o_c >= low) & (o_c < 2 * L) & (o_u < n_key), other=-1)
        seen = seen & (b_doc[:, None] == b_other[None, :]) & (b_doc >= 0)[:, None]
    return tl.where(seen, b_s * _LOG2E, _NEVER)


@triton.jit
def _code_scores(b_s, p_count, b_doc, b_open, o_c, S: tl.constexpr, CHECKED: tl.constexpr):
    """Base-2 logits of codes: as many equal keys as tokens took the code."""
    b_count = tl.load(p_count + o_c, mask=o_c < S, other=0.0)
    seen = (b_count > 0)[None, :]
    if CHECKED:
        seen = seen & (b_doc == b_open)[:, None]
    return tl.where(seen, b_s * _LOG2E + tl.log2(tl.maximum(b_count, 1.0))[None, :], _NEVER)


@triton.jit
def _documents(
    doc, opened, i_z, n, n_key, n_block, o_i, G: tl.constexpr, L: tl.constexpr, CHECKED: tl.constexpr
):  # fmt: skip
    """Documents of a sequence's keys, of rows of a block, and of the block's cache."""
    p_doc, b_doc, b_open = o_i, o_i, n  # unused without documents; Triton 3.6 cannot return None
    if CHECKED:
        p_doc = doc + i_z // G * n_key
        b_doc = tl.load(p_doc + n * L + o_i, mask=(o_i < L) & (n * L + o_i < n_key), other=-1)
        b_open = tl.load(opened + i_z // G * n_block + n)
    return p_doc, b_doc, b_open


@triton.jit
def _more(b_max, b_sum, b_out, b_s, b_v, PRECISION: tl.constexpr):
    """Running maximum, sum of weights and weighted sum of values with more of them (online softmax)."""
    b_new = tl.maximum(b_max, tl.max(b_s, 1))
    b_p = tl.exp2(b_s - b_new[:, None])
    b_old = tl.exp2(b_max - b_new)
    b_out = tl.dot(b_p.to(b_v.dtype), b_v, b_out * b_old[:, None], input_precision=PRECISION)
    return b_new, b_sum * b_old + tl.sum(b_p, 1), b_out


# Wider heads leave fewer registers and less shared memory for a tile. Before 90 products take their operands from
# registers, and 86 has little shared memory; 100 moves its sums through registers from a memory of their own.
FORWARD = Kernel(
    vq_fused_forward_kernel,
    (
        config(16, 8, 3, (90,), width=128, BM=128, BN=64),
        config(16, 8, 2, (90,), width=128, BM=128, BN=64),
        config(16, 8, 2, (90,), width=256, BM=64, BN=64),
        config(16, 8, 2, (80, 86, 100), width=128, BM=128, BN=32),
        config(16, 8, 2, (80, 100), width=256, BM=64, BN=32),
        config(16, 8, 1, (86,), width=256, BM=64, BN=32),
        config(32, 4, 1, width=256, BM=16, BN=32),
    ),
)
D_QUERY = Kernel(
    vq_fused_d_query_kernel,
    (
        config(16, 8, 2, (90,), width=64, BM=128, BN=64),
        config(16, 8, 2, (90, 100), width=128, BM=128, BN=32),
        config(16, 8, 2, (90,), width=256, BM=64, BN=32),
        config(16, 8, 1, (100,), width=256, BM=64, BN=32),
        config(16, 8, 2, (80, 86), width=128, BM=64, BN=32),
        config(16, 8, 1, (80, 86), width=256, BM=32, BN=32),
        config(32, 8, 1, width=256, BM=32, BN=16),
    ),
)
D_KEY = Kernel(
    vq_fused_d_key_kernel,
    (
        config(16, 8, 2, (90, 100), width=64, BM=64, BN=128),
        config(16, 8, 2, (90, 100), width=128, BM=64, BN=64),
        config(16, 8, 2, (90, 100), width=256, BM=32, BN=64),
        config(16, 8, 2, (80, 86), width=128, BM=64, BN=32),
        config(16, 8, 1, (80, 86), width=256, BM=32, BN=32),
        config(32, 8, 1, (80, 90, 100), width=256, BM=32, BN=32),
        config(32, 8, 1, (86,), width=128, BM=32, BN=32),
        config(32, 4, 1, (86,), width=256, BM=16, BN=16),
    ),
)
D_MEAN = Kernel(
    vq_fused_d_mean_kernel,
    (
        config(16, 8, 2, (90, 100), width=256, BM=64, BN=128),
        config(16, 8, 2, (80, 86), width=128, BM=64, BN=64),
        config(16, 8, 1, (80, 86), width=256, BM=32, BN=64),
        config(32, 8, 1, width=256, BM=32, BN=32),
    ),
)
