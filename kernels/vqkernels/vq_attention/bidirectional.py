"""VQ attention in both directions: exact keys near a query, codes for everything else, before and after.

Letters: B batch, H query heads, G key-value heads, T position, K key width, V value width, S codebook size,
L block length, M relative distances.
"""

from typing import Literal

import torch
from torch import Tensor

from vqkernels.functions import Function, check_function, laplace
from vqkernels.precision import accumulation_dtype, matmul_dtype
from vqkernels.quantize.nearest import codewords, straight_through
from vqkernels.vq_attention.checks import check_options, check_shapes
from vqkernels.vq_attention.windowed import Windowed, windowed_attention
from vqkernels.windows.attend import biases
from vqkernels.windows.grid import Grid


def vq_attention_bidirectional(
    q_BHTK: Tensor,
    k_BGTK: Tensor,
    v_BGTV: Tensor,
    code_BGT: Tensor,
    codebook_GSK: Tensor,
    *,
    block_length: int,
    bias_u_HK: Tensor | None = None,
    bias_w_HK: Tensor | None = None,
    rel_key_GMK: Tensor | None = None,
    mask_BT: Tensor | None = None,
    exact_window: bool = True,
    function: Function = "softmax",
    backend: Literal["auto", "naive", "blockwise"] = "auto",
) -> Tensor:
    """Attention of every token to the whole sequence in linear time: out [B, H, T, V] in v's dtype.

    A query of block b sees the tokens of blocks b - 1, b and b + 1 by their own keys (`exact_window` False: by their
    codewords), all others by their codewords. Its score is (q_i + u).k_j + (q_i + w).rel_key[i - j + M // 2], the
    second term for distances up to M // 2 either way (M odd, M // 2 at most L). q, u, w and rel_key come with the
    softmax temperature in them; head h reads key-value head h // (H / G). With "laplace" the weight is
    f((q_i + u).k_j / n + position term), not normalised, for n real tokens in the sequence.

    `mask_BT` False marks padding: no query or memory includes such a token and its output is zero; what q, k, v and
    the codes hold there does not matter. Memories of earlier and of later blocks are each added up from their own end
    of the sequence, never subtracted from a total, which would cancel.

    Gradients: q, v, biases and relative keys exactly, v through the codes too; k from queries of its own and the
    neighbouring blocks, straight through where they see its codeword; the codebook none. "naive" is the definition,
    quadratic in time and memory; "auto" is "blockwise".

    Raises ValueError for arguments that do not fit.
    """
    check_function(function)
    if backend not in ("auto", "naive", "blockwise"):
        raise ValueError(f"backend: got {backend!r}; it must be one of 'auto', 'naive', 'blockwise'")
    check_shapes(q_BHTK, k_BGTK, v_BGTV, code_BGT, codebook_GSK)
    check_options(q_BHTK, k_BGTK, block_length, bias_u_HK, bias_w_HK, rel_key_GMK, mask_BT, None, causal=False)
    dtype = matmul_dtype(q_BHTK, v_BGTV)
    q, k, v = (_cleared(x, mask_BT).to(dtype) for x in (q_BHTK, k_BGTK, v_BGTV))
    code = code_BGT if mask_BT is None else code_BGT.masked_fill(~mask_BT[:, None], -1)
    codebook = codebook_GSK.detach().to(dtype)
    with torch.autocast(q.device.type, enabled=False):
        call = Windowed(
            q_BHTK=q,
            key_BGUK=k if exact_window else straight_through(k, code, codebook),
            v_BGUV=v,
            code_BGU=code,
            codebook_GSK=codebook,
            bias=biases(bias_u_HK, bias_w_HK, rel_key_GMK, n_kv_head=k.shape[1], causal=False, like=q),
            grid=Grid(block_length, q.shape[2], 0, ahead=True),
            function=function,
            seen_BNIW=None,
            n_seen_BT=_tokens_of_sequence(q, mask_BT) if function == "laplace" else None,
        )
        out = (_naive if backend == "naive" else windowed_attention)(call)
        return _cleared(out, mask_BT).to(v_BGTV.dtype)


def _cleared(x_BHTD: Tensor, mask_BT: Tensor | None) -> Tensor:
    """Zero in padding, which may hold anything, NaN too: 0 * NaN would still spread."""
    return x_BHTD if mask_BT is None else x_BHTD.masked_fill(~mask_BT[:, None, :, None], 0.0)


def _tokens_of_sequence(q_BHTK: Tensor, mask_BT: Tensor | None) -> Tensor:
    """[B, T]: how many keys each query sees, at least 1."""
    batch, _, length, _ = q_BHTK.shape
    real = torch.ones(batch, length, dtype=torch.bool, device=q_BHTK.device) if mask_BT is None else mask_BT
    return real.sum(1, keepdim=True).clamp(min=1).expand(-1, length)


def _naive(call: Windowed) -> Tensor:
    """The definition: every pair of tokens."""
    n_kv_head, length = call.codebook_GSK.shape[0], call.grid.length
    q = torch.unflatten(call.q_BHTK, 1, (n_kv_head, -1))  # [B, G, R, T, K]
    query_u, query_w = (q if x is None else q + x[:, :, None] for x in (call.bias.u_GRK, call.bias.w_GRK))
    block = torch.arange(q.shape[3], device=q.device) // length
    near = (block[:, None] - block).abs() <= 1
    far = codewords(call.code_BGU, call.codebook_GSK)
    score, far_score = (query_u @ key[:, :, None].transpose(-1, -2) for key in (call.key_BGUK, far))
    score = torch.where(near, score, far_score).to(accumulation_dtype(q.dtype))
    if call.n_seen_BT is not None:
        score = score / call.n_seen_BT[:, None, None, :, None]
    if call.bias.rel_key_GMK is not None:
        score = score + _position_scores(query_w, call.bias.rel_key_GMK.flip(1))
    real_BU = call.code_BGU[:, None, None, :1] >= 0
    if call.function == "laplace":
        weight = laplace(score)
    else:
        weight = score.masked_fill(~real_BU, torch.finfo(score.dtype).min).softmax(-1)
    return ((weight * real_BU).to(q.dtype) @ call.v_BGUV[:, :, None]).flatten(1, 2)


def _position_scores(query_BGRTK: Tensor, rel_key_GMK: Tensor) -> Tensor:
    by_distance = query_BGRTK @ rel_key_GMK[:, None].transpose(-1, -2)
    position = torch.arange(query_BGRTK.shape[3], device=query_BGRTK.device)
    reach = rel_key_GMK.shape[1] // 2
    distance = position[:, None] - position
    index = (distance + reach).clamp(0, 2 * reach).expand(*by_distance.shape[:-1], -1)
    return by_distance.gather(-1, index).masked_fill(distance.abs() > reach, 0.0)
