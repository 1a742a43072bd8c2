"""The entry to VQ attention: checks, choice of the implementation, carried state.

Letters: B batch, H query heads, G key-value heads, T position, K key width, V value width, S codebook size,
M + 1 relative distances.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from vqkernels.errors import BackendUnavailableError
from vqkernels.vq_attention.blockwise import blockwise_attention
from vqkernels.vq_attention.naive import naive_attention
from vqkernels.vq_attention.problem import Problem, align, next_state
from vqkernels.vq_attention.state import VQState

Backend = Literal["auto", "naive", "blockwise", "triton"]
_IMPLEMENTATIONS: dict[str, Callable[[Problem], Tensor]] = {
    "naive": naive_attention,
    "blockwise": blockwise_attention,
}


def resolve_backend(name: str, device: torch.device | str) -> str:
    """The implementation that `name` runs on `device`: "auto" is "blockwise" everywhere.

    Raises BackendUnavailableError where a named one cannot run, ValueError for an unknown name.
    """
    if name == "auto":
        return "blockwise"
    if name == "triton":
        raise BackendUnavailableError(
            f"backend: got 'triton' (device {device}); this version has no Triton kernels; "
            "choose 'blockwise' or 'auto', which run on any device"
        )
    if name not in _IMPLEMENTATIONS:
        raise ValueError(f"backend: got {name!r}; it must be one of 'auto', 'naive', 'blockwise', 'triton'")
    return name


def vq_attention(
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
    doc_start_BT: Tensor | None = None,
    state: VQState | None = None,
    return_state: bool = False,
    backend: Backend = "auto",
) -> tuple[Tensor, VQState | None]:
    """Causal attention over keys that are replaced by their codewords: out [B, H, T, V] in v's dtype, and the state.

    Query i gives key j <= i of its document the logit (q_i + u).c_{z_j} + [i - j <= M] (q_i + w).rel_key[i - j].
    q, u, w and rel_key come with the softmax temperature already in them; head h reads key-value head h // (H / G).

    `code_BGT` holds indices 0..S-1 (what it holds where `mask_BT` is False does not matter). `mask_BT` False marks
    padding: such a token is in nothing and its output is zero. `doc_start_BT` True begins a new document at that
    token. `state` continues a sequence that was cut after any number of tokens; `return_state` gives the next one.

    Gradients: q, v, biases and relative keys exactly; k straight through, from queries of its own block and the
    next on the absolute grid of `block_length` and of the same segment; the codebook none. Values and the state's
    values and means pass gradients across segments.

    Raises ValueError for shapes that do not fit, BackendUnavailableError for a backend that cannot run here.
    """
    implementation = _IMPLEMENTATIONS[resolve_backend(backend, q_BHTK.device)]
    _check_shapes(q_BHTK, k_BGTK, v_BGTV, code_BGT, codebook_GSK)
    _check_options(q_BHTK, k_BGTK, block_length, bias_u_HK, bias_w_HK, rel_key_GMK, mask_BT, doc_start_BT)
    if state is not None:
        _check_state(state, v_BGTV, codebook_GSK, block_length)
    problem = align(
        q_BHTK,
        k_BGTK,
        v_BGTV,
        code_BGT,
        codebook_GSK,
        block_length=block_length,
        bias_u_HK=bias_u_HK,
        bias_w_HK=bias_w_HK,
        rel_key_GMK=rel_key_GMK,
        mask_BT=mask_BT,
        doc_start_BT=doc_start_BT,
        state=state,
    )
    with torch.autocast(q_BHTK.device.type, enabled=False):
        out = implementation(problem).flatten(1, 2).to(v_BGTV.dtype)
        return out, next_state(problem, state, v_BGTV) if return_state else None


def _check_shapes(q: Tensor, k: Tensor, v: Tensor, code: Tensor, codebook: Tensor) -> None:
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


def _check_options(
    q: Tensor,
    k: Tensor,
    block_length: int,
    bias_u: Tensor | None,
    bias_w: Tensor | None,
    rel_key: Tensor | None,
    mask: Tensor | None,
    doc_start: Tensor | None,
) -> None:
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


def _check_state(state: VQState, v: Tensor, codebook: Tensor, block_length: int) -> None:
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
