"""The entry to VQ attention: checks, the implementation, carried state.

Letters: B batch, H query heads, G key-value heads, T position, K key width, V value width, S codebook size,
M + 1 relative distances.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from vqkernels.backends import triton_refusal
from vqkernels.errors import BackendUnavailableError
from vqkernels.functions import Function, check_function
from vqkernels.precision import matmul_dtype
from vqkernels.vq_attention.blockwise import blockwise_attention
from vqkernels.vq_attention.checks import check_options, check_shapes, check_state
from vqkernels.vq_attention.naive import naive_attention
from vqkernels.vq_attention.problem import Problem, align, next_state
from vqkernels.vq_attention.state import VQState
from vqkernels.vq_attention.windowed import laplace_attention

Backend = Literal["auto", "naive", "blockwise", "triton"]


def _triton(problem: Problem) -> Tensor:
    from vqkernels.gpu.attention import triton_attention  # not before it is asked for: the import needs Triton

    return triton_attention(problem)


def _linear(problem: Problem) -> Tensor:
    return laplace_attention(problem) if problem.function == "laplace" else blockwise_attention(problem)


_IMPLEMENTATIONS: dict[str, Callable[[Problem], Tensor]] = {
    "naive": naive_attention,
    "blockwise": _linear,
    "triton": _triton,
}


def resolve_backend(
    name: str, device: torch.device | str, dtype: torch.dtype = torch.float32, function: Function = "softmax"
) -> str:
    """The implementation that `name` runs on `device` for products in `dtype`.

    "auto" is "triton" on a CUDA device that can run it (never in float64, never with Laplace weights) and "blockwise"
    everywhere else. Raises BackendUnavailableError where a named one cannot run, ValueError for an unknown name.
    """
    device = torch.device(device)
    if name == "auto":
        takes = device.type == "cuda" and _triton_refusal(device, dtype, function) is None
        return "triton" if takes else "blockwise"
    if name not in _IMPLEMENTATIONS:
        raise ValueError(f"backend: got {name!r}; it must be one of 'auto', 'naive', 'blockwise', 'triton'")
    if name == "triton" and (reason := _triton_refusal(device, dtype, function)) is not None:
        raise BackendUnavailableError(
            f"backend: got 'triton' (device {device}); {reason}; choose 'blockwise' or 'auto', which run on any device"
        )
    return name


def _triton_refusal(device: torch.device, dtype: torch.dtype, function: Function) -> str | None:
    """Why the Triton kernels cannot compute these products, or None."""
    if function == "laplace":
        return "Triton kernels compute the softmax only, not Laplace weights"
    if dtype == torch.float64:
        return "Triton kernels accumulate in float32 and take no float64"
    reason = triton_refusal(device)
    if reason is None and device.type == "cpu" and dtype != torch.float32:
        return f"Triton's interpreter computes {dtype} products wrongly; use float32 there"
    return reason


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
    function: Function = "softmax",
    backend: Backend = "auto",
) -> tuple[Tensor, VQState | None]:
    """Causal attention over keys that are replaced by their codewords: out [B, H, T, V] in v's dtype, and the state.

    Query i gives key j <= i of its document the logit (q_i + u).c_{z_j} + [i - j <= M] (q_i + w).rel_key[i - j].
    q, u, w and rel_key come with the softmax temperature already in them; head h reads key-value head h // (H / G).
    With `function` "laplace" the weight is f((q_i + u).c_{z_j} / n + [i - j <= M] (q_i + w).rel_key[i - j]) with f as
    `laplace`, not normalised, where n tokens are seen, the own one included; PyTorch computes it on every device.

    `code_BGT` holds indices 0..S-1 (what it holds where `mask_BT` is False does not matter). `mask_BT` False marks
    padding: no query, cache or count includes such a token and its output is zero. `doc_start_BT` True begins a new
    document at that token. `state` continues a sequence that was cut after any number of tokens; `return_state` gives
    the next one.

    Gradients: q, v, biases and relative keys exactly; k straight through, from queries of its own block and the
    next on the absolute grid of `block_length` and of the same segment; the codebook none. Values and the state's
    values and means pass gradients across segments.

    Raises ValueError for shapes that do not fit, BackendUnavailableError for a backend that cannot run here.
    """
    check_function(function)
    implementation = _IMPLEMENTATIONS[resolve_backend(backend, q_BHTK.device, matmul_dtype(q_BHTK, v_BGTV), function)]
    check_shapes(q_BHTK, k_BGTK, v_BGTV, code_BGT, codebook_GSK)
    check_options(q_BHTK, k_BGTK, block_length, bias_u_HK, bias_w_HK, rel_key_GMK, mask_BT, doc_start_BT)
    if state is not None:
        check_state(state, v_BGTV, codebook_GSK, block_length)
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
        function=function,
    )
    with torch.autocast(q_BHTK.device.type, enabled=False):
        out = implementation(problem).flatten(1, 2).to(v_BGTV.dtype)
        return out, next_state(problem, state, v_BGTV) if return_state else None
