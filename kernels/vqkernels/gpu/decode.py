"""One token of VQ attention in Triton: the position stays on the device, so that one CUDA graph serves every step.

Two launches: the first puts the token into the ring and attends over pieces of the 2L + S columns, the second joins
the pieces and, at the end of a block, adds the block before it to the cache. Splitting the columns, as Flash-Decoding
does (Dao et al., 2023), keeps the whole device busy at batch 1.

Letters: B batch, G key-value heads, Z = B G, R query heads per key-value head, U = 2L ring slots, K key width, V value
width, S codebook size, M relative keys, P pieces of BC columns.
"""

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from vqkernels.gpu.runtime import Kernel, cdiv, config, dot_precision

if TYPE_CHECKING:
    from vqkernels.vq_attention.decode import DecodeState, Token

_COLUMNS = 64
_LEAST_DOT = 16  # rows and columns of the smallest product that tensor cores have
_LOG2E = tl.constexpr(1.4426950408889634)  # scores by base 2: exp2 is one instruction, exp multiplies first
_NEVER = tl.constexpr(-1.0e30)  # not minus infinity: the difference of two of these is still a number


def decode_token(token: "Token", state: "DecodeState") -> Tensor:
    """Output [B, H, V] in v's dtype. Every tensor of the state is changed in place; nothing waits for the device."""
    batch, n_kv_head, n_group, d_key = token.q_BGRK.shape
    slots, width, size = state.code_BGU.shape[2], state.value_BGUV.shape[3], state.count_BGS.shape[2]
    n_part = cdiv(slots, _COLUMNS) + cdiv(size, _COLUMNS)
    device, dtype = token.q_BGRK.device, token.q_BGRK.dtype
    part = torch.empty(batch * n_kv_head, n_part, n_group, width, dtype=torch.float32, device=device)
    lse = torch.empty(batch * n_kv_head, n_part, n_group, dtype=torch.float32, device=device)
    now = torch.empty((), dtype=torch.int64, device=device)
    out = torch.empty(batch, n_kv_head * n_group, width, dtype=token.v_BGV.dtype, device=device)
    doc_start = _contiguous(token.doc_start_B)
    sizes = {"G": n_kv_head, "R": n_group, "L": slots // 2, "S": size, "V": width}
    _SPLIT.launch(
        lambda tiles: (batch * n_kv_head, n_part, cdiv(width, tiles["BV"])),
        (
            *(_contiguous(x) for x in (token.q_BGRK, token.v_BGV, token.code_BG, token.codebook_GSK)),
            *(_contiguous(x) for x in (token.bias_u_HK, token.bias_w_HK, token.rel_key_GMK)),
            doc_start,
            *(state.code_BGU, state.value_BGUV, state.total_BGSV, state.count_BGS, state.start_B, state.position),
            *(part, lse, now),
        ),
        dtype=dtype,
        **sizes,
        K=d_key,
        M=0 if token.rel_key_GMK is None else token.rel_key_GMK.shape[1],
        PRECISION=dot_precision(dtype),
        BR=max(_LEAST_DOT, triton.next_power_of_2(n_group)),
        BC=_COLUMNS,
    )
    _MERGE.launch(
        lambda tiles: (batch * n_kv_head, cdiv(size, tiles["BS"]), cdiv(width, tiles["BV"])),
        (
            *(part, lse, now, doc_start),
            *(state.code_BGU, state.value_BGUV, state.total_BGSV, state.count_BGS, state.start_B, state.position),
            out,
        ),
        dtype=dtype,
        **sizes,
        P=n_part,
        BA=triton.next_power_of_2(n_part),
    )
    return out


def _contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


@triton.jit
def vq_decode_split_kernel(
    q, v, code, codebook, bias_u, bias_w, rel_key, doc_start, ring_code, ring_value, total, count, start, position,
    part, lse, now,
    G: tl.constexpr, R: tl.constexpr, L: tl.constexpr, S: tl.constexpr, V: tl.constexpr, K: tl.constexpr,
    M: tl.constexpr, PRECISION: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr, BV: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """All R queries of a key-value head over BC columns and BV value columns: part and its base-2 log-sum-exp.

    Grid (Z, P, tiles of V). The program whose piece has the token's slot writes the token there; all take it from
    the arguments instead, so that none depends on that write. `now` is the position for the second kernel, which
    moves the state's own on.
    """
    i_z, i_p, i_v = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    i_g = i_z % G
    n_window: tl.constexpr = (2 * L + BC - 1) // BC
    n_part: tl.constexpr = n_window + (S + BC - 1) // BC
    o_r, o_v = tl.arange(0, BR), i_v * BV + tl.arange(0, BV)
    m_v = (o_v < V)[None, :]
    b_position = tl.load(position)
    first = (b_position // L - 1) * L  # of the previous block
    b_start = _document(start, doc_start, i_z // G, b_position)
    own_code = tl.load(code + i_z).to(tl.int32)
    p_codebook = codebook + i_g * S * K
    if i_p < n_window:
        own_slot = (b_position % (2 * L)).to(tl.int32)
        o_u = i_p * BC + tl.arange(0, BC)
        m_own = o_u == own_slot
        b_code = tl.load(ring_code + i_z * 2 * L + o_u, mask=o_u < 2 * L, other=-1).to(tl.int32)
        b_code = tl.where(m_own, own_code, b_code)
        b_code = tl.where(own_code < 0, -1, b_code)  # padding sees nothing
        b_age = (own_slot - o_u + 2 * L) % (2 * L)
        b_held = b_position - b_age
        m_seen = (o_u < 2 * L) & (b_code >= 0) & (b_held >= first) & (b_held >= b_start)
        b_own = tl.load(v + i_z * V + o_v, mask=o_v < V, other=0.0).to(ring_value.dtype.element_ty)
        p_value = ring_value + i_z * 2 * L * V
        m_value = (m_seen & ~m_own)[:, None] & m_v
        b_value = tl.load(p_value + (o_u[:, None] * V + o_v[None, :]), mask=m_value, other=0.0)
        b_value = tl.where((m_seen & m_own)[:, None], b_own[None, :], b_value).to(q.dtype.element_ty)
        if i_p == own_slot // BC:
            tl.store(p_value + (own_slot * V + o_v), b_own, mask=o_v < V)
            if i_v == 0:
                tl.store(ring_code + i_z * 2 * L + own_slot, own_code.to(tl.int64))
        b_score = tl.zeros([BR, BC], tl.float32)
        b_score = _products(b_score, q, bias_u, i_z, i_g, o_r, p_codebook, b_code, m_seen, R, K, PRECISION, BK)
        if M > 0:
            m_near = m_seen & (b_age < M)
            p_near = rel_key + i_g * M * K
            b_score = _products(b_score, q, bias_w, i_z, i_g, o_r, p_near, b_age, m_near, R, K, PRECISION, BK)
        b_score *= _LOG2E
    else:
        o_s = (i_p - n_window) * BC + tl.arange(0, BC)
        b_count = tl.load(count + i_z * S + o_s, mask=o_s < S, other=0.0)
        b_count = tl.where((own_code < 0) | (b_start >= first), 0.0, b_count)
        m_seen = b_count > 0
        b_count = tl.maximum(b_count, 1.0)
        p_total = total + i_z * S * V
        b_value = tl.load(p_total + (o_s[:, None] * V + o_v[None, :]), mask=m_seen[:, None] & m_v, other=0.0)
        b_value = (b_value / b_count[:, None]).to(q.dtype.element_ty)
        b_score = tl.zeros([BR, BC], tl.float32)
        b_score = _products(b_score, q, bias_u, i_z, i_g, o_r, p_codebook, o_s, m_seen, R, K, PRECISION, BK)
        b_score = b_score * _LOG2E + tl.log2(b_count)[None, :]
    b_score = tl.where(m_seen[None, :], b_score, _NEVER)
    b_top = tl.max(b_score, 1)
    b_weight = tl.where(m_seen[None, :], tl.exp2(b_score - b_top[:, None]), 0.0)
    b_norm = tl.sum(b_weight, 1)
    b_lse = tl.where(b_norm > 0, b_top + tl.log2(tl.maximum(b_norm, 1.0)), _NEVER)  # the largest weight is 1
    b_out = tl.dot(b_weight.to(b_value.dtype), b_value, input_precision=PRECISION)
    b_out /= tl.maximum(b_norm, 1.0)[:, None]
    o_row = (i_z * n_part + i_p) * R + o_r
    tl.store(part + o_row[:, None] * V + o_v[None, :], b_out, mask=(o_r < R)[:, None] & m_v)
    if i_v == 0:
        tl.store(lse + o_row, b_lse, mask=o_r < R)
        if (i_z == 0) & (i_p == 0):
            tl.store(now, b_position)


@triton.jit
def vq_decode_merge_kernel(
    part, lse, now, doc_start, ring_code, ring_value, total, count, start, position, out,
    G: tl.constexpr, R: tl.constexpr, L: tl.constexpr, S: tl.constexpr, V: tl.constexpr, P: tl.constexpr,
    BA: tl.constexpr, BP: tl.constexpr, BU: tl.constexpr, BS: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """Join the pieces; at the end of a block add the one before it to BS sums of BV columns; move the position on.

    Grid (Z, tiles of S, tiles of V): the programs of a head share its R queries. Sums instead of means, so that only
    those of the first columns need the counts that they change.
    """
    i_z, i_s, i_v = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    o_v = i_v * BV + tl.arange(0, BV)
    b_position = tl.load(now)
    b_start = _document(start, doc_start, i_z // G, b_position)
    for r in range(i_s, R, tl.num_programs(1)):
        p_lse, p_part = lse + i_z * P * R + r, part + (i_z * P * R + r) * V
        b_out = _joined(p_lse, p_part, o_v, P, R, V, BA, BP, BV)
        tl.store(out + (i_z * R + r) * V + o_v, b_out.to(out.dtype.element_ty), mask=o_v < V)
    if (b_position + 1) % L == 0:
        first = (b_position // L - 1) * L
        half = i_z * 2 * L + (first + 2 * L) % (2 * L)
        o_s = i_s * BS + tl.arange(0, BS)
        m_s = o_s < S
        p_total, m_total = total + (i_z * S + o_s[:, None]) * V + o_v[None, :], m_s[:, None] & (o_v < V)[None, :]
        p_count = count + i_z * S + o_s
        ended = b_start >= first  # the document that the cache is of
        b_total = tl.where(ended, 0.0, tl.load(p_total, mask=m_total, other=0.0))
        b_count = tl.where(ended, 0.0, tl.load(p_count, mask=m_s, other=0.0))
        for u in range(0, L, BU):
            o_u = u + tl.arange(0, BU)
            b_code = tl.load(ring_code + half + o_u, mask=(o_u < L) & (first + o_u >= b_start), other=-1)
            p_value = ring_value + (half + o_u[:, None]) * V + o_v[None, :]
            b_value = tl.load(p_value, mask=(b_code >= 0)[:, None] & (o_v < V)[None, :], other=0.0)
            b_hot = o_s[:, None] == b_code[None, :]
            b_total = tl.dot(b_hot.to(b_value.dtype), b_value, b_total, input_precision="ieee")
            b_count += tl.sum(b_hot.to(tl.float32), 1)
        tl.store(p_total, b_total, mask=m_total)
        if i_v == 0:
            tl.store(p_count, b_count, mask=m_s)
    if (i_s == 0) & (i_v == 0):
        if i_z % G == 0:
            tl.store(start + i_z // G, b_start)
        if i_z == 0:
            tl.store(position, b_position + 1)


@triton.jit
def _document(start, doc_start, i_b, b_position):
    """Where the sequence's open document begins, the present token included."""
    b_start = tl.load(start + i_b)
    if doc_start is not None:
        b_start = tl.where(tl.load(doc_start + i_b) != 0, b_position, b_start)
    return b_start


@triton.jit
def _products(
    b_sum, q, bias, i_z, i_g, o_r, p_row, o_row, m_row,
    R: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """b_sum [BR, BC] and the products of a head's queries, with their bias, with some rows of a matrix."""
    for k in range(0, K, BK):
        o_k = k + tl.arange(0, BK)
        at, m_q = o_r[:, None] * K + o_k[None, :], (o_r < R)[:, None] & (o_k < K)[None, :]
        b_q = tl.load(q + i_z * R * K + at, mask=m_q, other=0.0)
        if bias is not None:
            b_bias = tl.load(bias + i_g * R * K + at, mask=m_q, other=0.0).to(b_q.dtype)
            b_q = (b_q.to(tl.float32) + b_bias.to(tl.float32)).to(b_q.dtype)  # rounded as PyTorch's sum is
        m_k = m_row[None, :] & (o_k < K)[:, None]
        b_row = tl.load(p_row + (o_row[None, :] * K + o_k[:, None]), mask=m_k, other=0.0)
        b_sum = tl.dot(b_q, b_row.to(b_q.dtype), b_sum, input_precision=PRECISION)
    return b_sum


@triton.jit
def _joined(
    p_lse, p_part, o_v,
    P: tl.constexpr, R: tl.constexpr, V: tl.constexpr, BA: tl.constexpr, BP: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """Output of one query from its pieces; zeros where it saw nothing."""
    o_a = tl.arange(0, BA)
    b_all = tl.load(p_lse + o_a * R, mask=o_a < P, other=_NEVER)
    b_top = tl.max(b_all, 0)
    b_norm = tl.sum(tl.where(b_all > _NEVER, tl.exp2(b_all - b_top), 0.0), 0)
    b_out = tl.zeros([BV], tl.float32)
    for p in range(0, P, BP):
        o_p = p + tl.arange(0, BP)
        b_lse = tl.load(p_lse + o_p * R, mask=o_p < P, other=_NEVER)
        b_weight = tl.where(b_lse > _NEVER, tl.exp2(b_lse - b_top), 0.0)
        m_part = (o_p < P)[:, None] & (o_v < V)[None, :]
        b_part = tl.load(p_part + o_p[:, None] * R * V + o_v[None, :], mask=m_part, other=0.0)
        b_out += tl.sum(b_weight[:, None] * b_part, 0)
    return b_out / tl.maximum(b_norm, 1.0)


_SPLIT = Kernel(
    vq_decode_split_kernel,
    (
        config(16, 4, 2, BV=128, BK=64),
        config(16, 8, 1, (80, 90, 100), BV=256, BK=64),
        config(32, 4, 1, BV=64, BK=16),
    ),
)
_MERGE = Kernel(
    vq_decode_merge_kernel,
    (
        config(16, 4, 2, BP=32, BU=64, BS=32, BV=128),
        config(32, 4, 2, BP=32, BU=32, BS=32, BV=64),
    ),
)
