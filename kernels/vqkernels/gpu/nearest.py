"""Nearest code in Triton: a product fused with its arg-min, so that the distances [T, S] never exist.

Letters: B batch, G key-value heads, T position, K key width, S codebook size, P pieces of the codebook.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from vqkernels.gpu.runtime import Kernel, config


@triton.jit(do_not_specialize=["T"])
def nearest_code_kernel(
    p_key,
    p_piece,
    p_square,
    p_mask,
    p_code,
    T,
    G: tl.constexpr,
    S: tl.constexpr,
    K: tl.constexpr,
    P: tl.constexpr,
    BT: tl.constexpr,
    BS: tl.constexpr,
    BK: tl.constexpr,
) -> None:
    """Codes of BT keys of one head: running minimum of |c|^2 - 2 k.c over tiles of BS codes.

    keys [B G, T, K]; pieces [P, G, S, K], whose sum over P is the codebook; squares [G, S]; mask [B, T] or None.
    """
    n_tile = tl.cdiv(T, BT)
    i_z = (tl.program_id(0) // n_tile).to(tl.int64)
    first = tl.program_id(0) % n_tile * BT
    i_g = i_z % G
    o_t = tl.arange(0, BT)  # offsets in a tile stay in 32 bits, for the registers' sake
    m_t = first + o_t < T
    p_key += (i_z * T + first) * K
    p_piece += i_g * S * K
    p_code += i_z * T + first
    b_best = tl.full([BT], float("inf"), tl.float32)
    b_code = tl.zeros([BT], tl.int32)
    for s in range(0, S, BS):
        o_s = s + tl.arange(0, BS)
        b_dot = tl.zeros([BT, BS], tl.float32)
        for k in range(0, K, BK):
            o_k = k + tl.arange(0, BK)
            b_key = tl.load(p_key + o_t[:, None] * K + o_k[None, :], mask=m_t[:, None] & (o_k < K)[None, :], other=0.0)
            for piece in tl.static_range(P):
                b_piece = tl.load(
                    p_piece + (piece * G * S + o_s[None, :]) * K + o_k[:, None],
                    mask=(o_s < S)[None, :] & (o_k < K)[:, None],
                    other=0.0,
                )
                b_dot = tl.dot(b_key, b_piece, b_dot, input_precision="ieee")
        b_square = tl.load(p_square + i_g * S + o_s, mask=o_s < S, other=float("inf"))
        b_min, b_place = tl.min(b_square[None, :] - 2.0 * b_dot, 1, return_indices=True)
        closer = b_min < b_best  # strictly: of equal ones the lowest index stays
        b_code = tl.where(closer, s + b_place, b_code)
        b_best = tl.where(closer, b_min, b_best)
    if p_mask is not None:
        real = tl.load(p_mask + i_z // G * T + first + o_t, mask=m_t, other=0)
        b_code = tl.where(real != 0, b_code, -1)
    tl.store(p_code + o_t, b_code.to(tl.int64), mask=m_t)


KERNEL = Kernel(
    nearest_code_kernel,
    (
        config(16, 8, 2, (90, 100), BT=128, BS=128, BK=64),
        config(16, 8, 2, BT=128, BS=64, BK=64),
        config(32, 8, 2, BT=64, BS=64, BK=32),
    ),
)


def launch_nearest_code(k_BGTK: Tensor, codebook_GSK: Tensor, mask_BT: Tensor | None) -> Tensor:
    """Index of the nearest codeword of each key: int64 [B, G, T], -1 where the mask is False; ties to the lowest.

    The distances are those of `quantize.nearest_code`, float32 of the keys and the codebook as given, up to the
    rounding of their sums. bfloat16 keys are exact operands of the tensor cores, but a float32 codebook is not: it is
    split into three bfloat16 pieces that add up to it, so that every product is exact. That costs three products of
    6 S K FLOPs per key in all, some 3 % of the attention that follows, against ten times as long for float32 products
    outside the tensor cores. Keys of any other dtype take those: exact too, and slow.
    """
    batch, n_head, length, d_key = k_BGTK.shape
    size = codebook_GSK.shape[1]
    keys = k_BGTK.contiguous() if k_BGTK.dtype == torch.bfloat16 else k_BGTK.float().contiguous()
    codebook = codebook_GSK.float().contiguous()
    pieces = bfloat16_pieces(codebook) if keys.dtype == torch.bfloat16 else codebook[None]
    code_BGT = torch.empty(batch, n_head, length, dtype=torch.int64, device=keys.device)
    KERNEL.launch(
        lambda tiles: (batch * n_head * triton.cdiv(length, tiles["BT"]),),
        (keys, pieces, codebook.square().sum(-1), None if mask_BT is None else mask_BT.contiguous(), code_BGT, length),
        dtype=keys.dtype,
        G=n_head,
        S=size,
        K=d_key,
        P=pieces.shape[0],
    )
    return code_BGT


def bfloat16_pieces(values: Tensor) -> Tensor:
    """Three bfloat16 tensors, stacked in front, whose sum is the float32 one: 3 x 8 bits of its 24."""
    pieces = []
    for _ in range(3):
        pieces.append(values.bfloat16())
        values = values - pieces[-1].float()
    return torch.stack(pieces)


nearest_code = torch.library.custom_op("vqkernels::nearest_code", launch_nearest_code, mutates_args=())


@nearest_code.register_fake
def _(k_BGTK: Tensor, codebook_GSK: Tensor, mask_BT: Tensor | None) -> Tensor:
    return k_BGTK.new_empty(k_BGTK.shape[:3], dtype=torch.int64)
