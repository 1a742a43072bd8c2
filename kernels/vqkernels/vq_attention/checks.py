"""Checks of arguments: each raises a ValueError that names the argument, its value and the rule."""

import torch
from torch import Tensor

from vqkernels.vq_attention.state import VQState


def check_shapes(q: Tensor, k: Tensor, v: Tensor, code: Tensor, codebook: Tensor) -> None:
    """What attention is over: ranks, sizes that must agree, and the codes' dtype."""
    for name, tensor in (("code", code), ("codebook", codebook)):
        _check_rank(name, tensor, 3)
    check_heads(q, k, v)
    batch, n_head, length, d_key = k.shape
    check_shape("code", code, (batch, n_head, length))
    check_shape("codebook", codebook, (n_head, codebook.shape[1], d_key))
    if code.dtype != torch.int64:
        raise ValueError(f"code: got dtype {code.dtype}; it must be torch.int64, as nearest_code gives it")


def check_heads(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Queries, keys and values: ranks and sizes that must agree."""
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        _check_rank(name, tensor, 4)
    batch, n_query_head, length, d_key = q.shape
    n_head = k.shape[1]
    if n_query_head % n_head:
        raise ValueError(
            f"q: got {n_query_head} heads for {n_head} key-value heads; the first must be a multiple of the second"
        )
    if length < 1:
        raise ValueError("q: got 0 tokens; a segment must have at least 1; leave empty segments out")
    check_shape("k", k, (batch, n_head, length, d_key))
    check_shape("v", v, (batch, n_head, length, v.shape[3]))


def _check_rank(name: str, tensor: Tensor, rank: int) -> None:
    if tensor.dim() != rank:
        raise ValueError(f"{name}: got shape {tuple(tensor.shape)}; it must have {rank} dimensions")


def check_options(
    q: Tensor,
    k: Tensor,
    block_length: int,
    bias_u: Tensor | None,
    bias_w: Tensor | None,
    rel_key: Tensor | None,
    mask: Tensor | None,
    doc_start: Tensor | None,
    causal: bool = True,
) -> None:
    """What may be left out: biases, relative keys and flags; and the block length."""
    batch, n_query_head, length, d_key = q.shape
    if block_length < 1:
        raise ValueError(f"block_length: got {block_length}; it must be at least 1")
    for name, bias in (("bias_u", bias_u), ("bias_w", bias_w)):
        if bias is not None:
            check_shape(name, bias, (n_query_head, d_key))
    for name, flags in (("mask", mask), ("doc_start", doc_start)):
        if flags is not None:
            check_shape(name, flags, (batch, length))
            if flags.dtype != torch.bool:
                raise ValueError(f"{name}: got dtype {flags.dtype}; it must be torch.bool; compare with 0 first")
    if rel_key is not None:
        _check_relative(rel_key, k, block_length, causal)


def _check_relative(rel_key: Tensor, k: Tensor, block_length: int, causal: bool) -> None:
    """Distances 0 .. M, or as many ahead as back; none beyond a block, where some block boundary would cut them off."""
    count = rel_key.shape[1] if rel_key.dim() == 3 else 0
    if count < 1 or (count % 2 == 0 and not causal):
        size = "M + 1 >= 1" if causal else "2 M + 1, odd"
        raise ValueError(f"rel_key: got shape {tuple(rel_key.shape)}; it must be [kv heads, {size}, key width]")
    check_shape("rel_key", rel_key, (k.shape[1], count, k.shape[3]))
    furthest = count - 1 if causal else count // 2
    if furthest > block_length:
        near = (
            "[:, : block_length + 1]" if causal else f"[:, {furthest - block_length} : {furthest + block_length + 1}]"
        )
        raise ValueError(
            f"rel_key: got distances up to {furthest} for block_length {block_length}; older tokens "
            f"have no position, in a cache or out of the window; use rel_key{near} or longer blocks"
        )


def check_state(state: VQState, v: Tensor, codebook: Tensor, block_length: int) -> None:
    """A carried state must be of the same batch, heads, sizes and block grid."""
    heads, size, width = tuple(v.shape[:2]), codebook.shape[1], v.shape[3]
    if state.block_length != block_length:
        raise ValueError(
            f"block_length: got {block_length} with a state of {state.block_length}; a sequence keeps its block grid; "
            "continue with the state's, or restart without a state"
        )
    check_shape("state window", state.value_BGUV, (*heads, 2 * block_length, width))
    check_shape("state cache", state.mean_BGSV, (*heads, size, width))


def check_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless the shape is this one."""
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name}: got shape {tuple(tensor.shape)}; with the other arguments it must be {shape}")
