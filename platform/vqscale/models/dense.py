"""What the quadratic models share: a state of all keys and values, and the mask of visible pairs.

Letters: B batch, T query position, U key position (carried ones first), G key/value heads, K key width, V value width.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vqscale.models.base import LayerState


def remember(
    state: LayerState, k_BGTK: Float[Tensor, "B G T K"], v_BGTV: Float[Tensor, "B G T V"]
) -> tuple[Float[Tensor, "B G U K"], Float[Tensor, "B G U V"]]:
    """All keys and values so far: those of `state`, if it holds any, then the new ones."""
    if not state:
        return k_BGTK, v_BGTV
    k_BGUK, v_BGUV = state
    return torch.cat([k_BGUK, k_BGTK], dim=2), torch.cat([v_BGUV, v_BGTV], dim=2)


def visible(
    document_BU: Int[Tensor, "B U"] | None, queries: range, keys: int, device: torch.device, *, causal: bool
) -> Bool[Tensor, "... T U"]:
    """True where the query at a position in `queries` may see one of the first `keys` keys: of its document and, if
    `causal`, not later.

    The result is [T, U] without documents and [B, 1, T, U] with them. A padding query sees itself, so that no row of
    a softmax is empty (NaN); as a key it is seen by no other query.
    """
    query_T = torch.arange(queries.start, queries.stop, device=device)
    key_U = torch.arange(keys, device=device)
    in_order_TU = key_U <= query_T[:, None] if causal else torch.ones_like(key_U > query_T[:, None])
    if document_BU is None:
        return in_order_TU
    query_document_BT1 = document_BU[:, queries.start : queries.stop, None]
    key_document_B1U = document_BU[:, None, :keys]
    same_BTU = (query_document_BT1 == key_document_B1U) & (key_document_B1U >= 0)
    return ((in_order_TU & same_BTU) | (key_U == query_T[:, None])).unsqueeze(1)
