"""A checked call of local attention: padding cleared, carried tokens in front.

Letters: B batch, H query heads, G key-value heads, T query position, U key position, K key width, V value width,
L block length, M relative distances.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vqkernels.functions import Function
from vqkernels.local_attention.state import LocalState
from vqkernels.precision import matmul_dtype
from vqkernels.windows.grid import Grid


@dataclass(frozen=True, kw_only=True)
class LocalProblem:
    """Floating tensors are in the dtype of the matrix products. Keys begin with those that were carried."""

    q_BHTK: Tensor
    k_BGUK: Tensor
    v_BGUV: Tensor
    bias_u_HK: Tensor | None
    bias_w_HK: Tensor | None
    rel_key_GMK: Tensor | None
    real_BU: Tensor | None  # None: every token is
    doc_BU: Tensor | None  # None: there is one document
    block_length: int
    position: int  # of the first query
    causal: bool
    reach: int | None
    function: Function

    @property
    def grid(self) -> Grid:
        """The blocks of queries and the windows of keys."""
        return Grid(self.block_length, self.q_BHTK.shape[2], self.position % self.block_length, not self.causal)


def gather(
    q_BHTK: Tensor,
    k_BGTK: Tensor,
    v_BGTV: Tensor,
    *,
    block_length: int,
    causal: bool,
    bias_u_HK: Tensor | None,
    bias_w_HK: Tensor | None,
    rel_key_GMK: Tensor | None,
    mask_BT: Tensor | None,
    doc_start_BT: Tensor | None,
    function: Function,
    reach: int | None,
    state: LocalState | None,
) -> LocalProblem:
    """Build the problem from checked arguments."""
    dtype = matmul_dtype(q_BHTK, v_BGTV)
    real_BU, lead = mask_BT, 0
    if mask_BT is not None:
        # Padding may hold anything, NaN too, and 0 * NaN would still spread.
        q_BHTK, k_BGTK, v_BGTV = (x.masked_fill(~mask_BT[:, None, :, None], 0.0) for x in (q_BHTK, k_BGTK, v_BGTV))
    k_BGUK, v_BGUV = k_BGTK.to(dtype), v_BGTV.to(dtype)
    if state is not None:
        lead = state.lead
        own = torch.ones_like(q_BHTK[:, 0, :, 0], dtype=torch.bool) if mask_BT is None else mask_BT
        real_BU = torch.cat([state.real_BU[:, :lead], own], 1)
        k_BGUK = torch.cat([state.key_BGUK[:, :, :lead].to(dtype), k_BGUK], 2)
        v_BGUV = torch.cat([state.value_BGUV[:, :, :lead].to(dtype), v_BGUV], 2)
    return LocalProblem(
        q_BHTK=q_BHTK.to(dtype),
        k_BGUK=k_BGUK,
        v_BGUV=v_BGUV,
        bias_u_HK=bias_u_HK,
        bias_w_HK=bias_w_HK,
        rel_key_GMK=rel_key_GMK,
        real_BU=real_BU,
        doc_BU=None if doc_start_BT is None else F.pad(doc_start_BT.to(torch.int64).cumsum(1), (lead, 0)),
        block_length=block_length,
        position=0 if state is None else state.position,
        causal=causal,
        reach=reach,
        function=function,
    )


def next_state(problem: LocalProblem, key_dtype: torch.dtype, value_dtype: torch.dtype) -> LocalState:
    """The state after the problem's tokens, differentiable with respect to keys, values and the old state."""
    length, n_query = problem.block_length, problem.q_BHTK.shape[2]
    n_key = problem.k_BGUK.shape[2]
    position = problem.position + n_query
    real_BU = problem.real_BU
    if real_BU is None:
        real_BU = torch.ones(problem.q_BHTK.shape[0], n_key, dtype=torch.bool, device=problem.q_BHTK.device)
    if problem.doc_BU is not None:
        real_BU = real_BU & (problem.doc_BU == problem.doc_BU[:, -1:])
    kept = length + position % length  # perhaps from before the sequence's beginning
    cut = max(n_key - kept, 0)
    pad = (kept - (n_key - cut), 2 * length - kept)
    return LocalState(
        key_BGUK=F.pad(problem.k_BGUK[:, :, cut:].to(key_dtype), (0, 0, *pad)),
        value_BGUV=F.pad(problem.v_BGUV[:, :, cut:].to(value_dtype), (0, 0, *pad)),
        real_BU=F.pad(real_BU[:, cut:], pad),
        position=position,
    )
