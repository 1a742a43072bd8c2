"""Refusals of arguments that do not fit: ValueErrors that name the argument, what was given and the rule."""

import torch
from torch import Tensor

from vqkernels.vq_attention.state import VQState


def check_shapes(q: Tensor, k: Tensor, v: Tensor, code: Tensor, codebook: Tensor) -> None:
    """What attention is over: ranks, sizes that must agree, and the codes' dtype."""
    for name, tensor, rank in (("q", q, 4), ("k", k, 4), ("v", v, 4), ("code", code, 3), ("codebook", codebook, 3)):
        if tensor.dim() != rank:
            raise ValueError(f"{name}: got shape {tuple(tensor.shape)}; it must have {rank} dimensions")
    batch, n_query_head, length, d_key = q.shape
    n_head = k.shape[1]
    if n_query_head % n_head:
        raise ValueError(
            f"q: got {n_query_head} heads for {n_head} key-value heads; the first must be a multiple of the second"
        )
    if length < 1:
        raise ValueError("q: got 0 tokens; a segment must have at least 1; leave empty segments out")
    _check_shape("k", k, (batch, n_head, length, d_key))
    _check_shape("v", v, (batch, n_head, length, v.shape[3]))
    _check_shape("code", code, (batch, n_head, length))
    _check_shape("codebook", codebook, (n_head, codebook.shape[1], d_key))
    if code.dtype != torch.int64:
        raise ValueError(f"code: got dtype {code.dtype}; it must be torch.int64, as nearest_code gives it")


def check_options(
    q: Tensor,
    k: Tensor,
    block_length: int,
    bias_u: Tensor | None,
    bias_w: Tensor | None,
    rel_key: Tensor | None,
    mask: Tensor | None,
    doc_start: Tensor | None,
) -> None:
    """What may be left out: biases, relative keys and flags; and the block length."""
    batch, n_query_head, length, d_key = q.shape
    if block_length < 1:
        raise ValueError(f"block_length: got {block_length}; it must be at least 1")
    for name, bias in (("bias_u", bias_u), ("bias_w", bias_w)):
        if bias is not None:
            _check_shape(name, bias, (n_query_head, d_key))
    for name, flags in (("mask", mask), ("doc_start", doc_start)):
        if flags is not None:
            _check_shape(name, flags, (batch, length))
            if flags.dtype != torch.bool:
                raise ValueError(f"{name}: got dtype {flags.dtype}; it must be torch.bool; compare with 0 first")
    if rel_key is not None:
        if rel_key.dim() != 3 or rel_key.shape[1] < 1:
            raise ValueError(f"rel_key: got shape {tuple(rel_key.shape)}; it must be [kv heads, M + 1 >= 1, key width]")
        _check_shape("rel_key", rel_key, (k.shape[1], rel_key.shape[1], d_key))
        if rel_key.shape[1] - 1 > block_length:
            raise ValueError(
                f"rel_key: got distances up to {rel_key.shape[1] - 1} for block_length {block_length}; older tokens "
                "are in the cache, which knows no positions; use rel_key[:, : block_length + 1] or longer blocks"
            )


def check_state(state: VQState, v: Tensor, codebook: Tensor, block_length: int) -> None:
    """A carried state must be of the same batch, heads, sizes and block grid."""
    heads, size, width = tuple(v.shape[:2]), codebook.shape[1], v.shape[3]
    if state.block_length != block_length:
        raise ValueError(
            f"block_length: got {block_length} with a state of {state.block_length}; a sequence keeps its block grid; "
            "continue with the state's or begin anew"
        )
    _check_shape("state window", state.value_BGUV, (*heads, 2 * block_length, width))
    _check_shape("state cache", state.mean_BGSV, (*heads, size, width))


def _check_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name}: got shape {tuple(tensor.shape)}; with the other arguments it must be {shape}")
