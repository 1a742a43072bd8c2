"""The entry to gated linear attention: checked arguments, precision, padding and documents.

Letters: B batch, H heads, T position, K key width, V value width.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vqkernels.gated_linear.chunked import chunked
from vqkernels.gated_linear.naive import Problem, naive
from vqkernels.precision import accumulation_dtype

CHUNK_LENGTH = 64
"""Tokens per chunk: longer ones make fewer steps from state to state and more work within, C^2 per chunk."""


def gated_linear_attention(
    q_BHTK: Float[Tensor, "B H T K"],
    k_BHTK: Float[Tensor, "B H T K"],
    v_BHTV: Float[Tensor, "B H T V"],
    log_decay_BHTK: Float[Tensor, "B H T K"],
    *,
    state_BHKV: Float[Tensor, "B H K V"] | None = None,
    mask_BT: Bool[Tensor, "B T"] | None = None,
    doc_start_BT: Bool[Tensor, "B T"] | None = None,
    return_state: bool = False,
    backend: Literal["chunked", "naive"] = "chunked",
    chunk_length: int = CHUNK_LENGTH,
) -> tuple[Float[Tensor, "B H T V"], Float[Tensor, "B H K V"] | None]:
    """S_t = diag(exp(log_decay_t)) S_{t-1} + k_t^T v_t and o_t = q_t S_t, in time linear in T.

    `log_decay_BHTK` may not be above zero (not checked). `state_BHKV` continues a sequence; `return_state` asks for
    the state at its end, in float32 (float64 for float64). At padding (`mask_BT` False) nothing enters, nothing is
    forgotten and the output is zero, whatever the arguments hold there. Where `doc_start_BT` is True, S_{t-1} counts as
    zero. All is computed in float32 (float64 for float64), also under autocast; the output has the dtype of `v_BHTV`.
    `chunk_length` is a power of two. Raises ValueError for arguments that do not fit together.

    Source: Yang et al. 2024, Gated Linear Attention (arXiv 2312.06635), equations of sections 3 and 4.
    """
    _check(q_BHTK, k_BHTK, v_BHTV, log_decay_BHTK, state_BHKV, mask_BT, doc_start_BT, backend, chunk_length)
    with torch.autocast(q_BHTK.device.type, enabled=False):
        problem = _problem(q_BHTK, k_BHTK, v_BHTV, log_decay_BHTK, state_BHKV, mask_BT, doc_start_BT)
        out_BHTV, new_BHKV = naive(problem) if backend == "naive" else chunked(problem, chunk_length)
        if mask_BT is not None:
            out_BHTV = out_BHTV.masked_fill(~mask_BT[:, None, :, None], 0.0)
    return out_BHTV.to(v_BHTV.dtype), new_BHKV if return_state else None


def _problem(
    q_BHTK: Tensor,
    k_BHTK: Tensor,
    v_BHTV: Tensor,
    log_decay_BHTK: Tensor,
    state_BHKV: Tensor | None,
    mask_BT: Tensor | None,
    doc_start_BT: Tensor | None,
) -> Problem:
    dtype = accumulation_dtype(torch.promote_types(q_BHTK.dtype, log_decay_BHTK.dtype))
    q, k, v, log_decay = (x.to(dtype) for x in (q_BHTK, k_BHTK, v_BHTV, log_decay_BHTK))
    if mask_BT is not None:
        padding = ~mask_BT[:, None, :, None]  # which may hold anything, NaN too: 0 * NaN would still spread
        q, k, v, log_decay = (x.masked_fill(padding, 0.0) for x in (q, k, v, log_decay))
    if doc_start_BT is not None:  # exp(-inf) = 0: nothing of the state before is kept
        log_decay = log_decay.masked_fill(doc_start_BT[:, None, :, None], -torch.inf)
    if state_BHKV is None:
        state_BHKV = q.new_zeros(*q.shape[:2], q.shape[3], v.shape[3])
    return Problem(q, k, v, log_decay, state_BHKV.to(dtype))


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    state: Tensor | None,
    mask: Tensor | None,
    doc_start: Tensor | None,
    backend: str,
    chunk_length: int,
) -> None:
    if q.dim() != 4 or q.shape[2] < 1:
        raise ValueError(f"q: got shape {tuple(q.shape)}; it must be [batch, heads, tokens >= 1, key width]")
    batch, heads, length, d_key = q.shape
    expected = {"k": (k, q.shape), "log_decay": (log_decay, q.shape), "v": (v, (batch, heads, length, v.shape[-1]))}
    if state is not None:
        expected["state"] = (state, (batch, heads, d_key, v.shape[-1]))
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != tuple(shape):
            raise ValueError(
                f"{name}: got shape {tuple(tensor.shape)}; with the other arguments it must be {tuple(shape)}"
            )
    for name, flags in (("mask", mask), ("doc_start", doc_start)):
        if flags is not None and (tuple(flags.shape) != (batch, length) or flags.dtype != torch.bool):
            raise ValueError(
                f"{name}: got {flags.dtype} of shape {tuple(flags.shape)}; it must be torch.bool of {batch, length}"
            )
    if backend not in ("chunked", "naive"):
        raise ValueError(f"backend: got {backend!r}; it must be one of 'chunked', 'naive'")
    if chunk_length < 1 or chunk_length & (chunk_length - 1):
        raise ValueError(f"chunk_length: got {chunk_length}; chunks are halved again and again: use a power of two")
