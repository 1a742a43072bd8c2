"""Checks of the arguments of local attention."""

from torch import Tensor

from vqkernels.functions import check_function
from vqkernels.local_attention.state import LocalState
from vqkernels.vq_attention.checks import check_heads, check_options, check_shape


def check_local(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    block_length: int,
    causal: bool,
    bias_u: Tensor | None,
    bias_w: Tensor | None,
    rel_key: Tensor | None,
    mask: Tensor | None,
    doc_start: Tensor | None,
    function: str,
    reach: int | None,
    state: LocalState | None,
    return_state: bool,
    backend: str,
) -> None:
    """Raise ValueError that names the argument, what was given and the rule."""
    check_function(function)
    if backend not in ("auto", "naive", "blockwise"):
        raise ValueError(f"backend: got {backend!r}; it must be one of 'auto', 'naive', 'blockwise'")
    check_heads(q, k, v)
    check_options(q, k, block_length, bias_u, bias_w, rel_key, mask, doc_start, causal)
    if reach is not None and not 1 <= reach <= block_length + 1:
        raise ValueError(
            f"reach: got {reach} with block_length {block_length}; it must be from 1 to block_length + 1, what the "
            "previous block holds for every query; use longer blocks"
        )
    if not causal and (state is not None or return_state):
        raise ValueError("state: got causal=False; a query that sees ahead cannot be cut off; leave the state out")
    if state is not None:
        _check_state(state, k, v, block_length)


def _check_state(state: LocalState, k: Tensor, v: Tensor, block_length: int) -> None:
    if state.block_length != block_length:
        raise ValueError(
            f"block_length: got {block_length} with a state of {state.block_length}; a sequence keeps its block grid; "
            "continue with the state's, or restart without a state"
        )
    slots = 2 * block_length
    check_shape("state keys", state.key_BGUK, (*k.shape[:2], slots, k.shape[3]))
    check_shape("state values", state.value_BGUV, (*v.shape[:2], slots, v.shape[3]))
