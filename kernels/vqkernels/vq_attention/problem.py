"""The input of every implementation of VQ attention: checked, grouped and aligned with the block grid.

Letters: B batch, H query heads, G key-value heads, R query heads per key-value head, T query position in the segment,
U key position, K key width, V value width, S codebook size, M relative distances, L block length.
Key position u = 0 begins a block. Without a carried state keys and queries coincide; with one, the keys begin with
the `lead` tokens that its window holds, and query t is at key position lead + t.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vqkernels.functions import Function
from vqkernels.precision import accumulation_dtype, matmul_dtype
from vqkernels.vq_attention.state import VQState, block_sums


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One call of VQ attention. Floating tensors are in the dtype of the matrix products, the cache in a wide one."""

    q_BGRTK: Tensor
    k_BGTK: Tensor  # in its own dtype: only its gradient is ever needed
    v_BGUV: Tensor
    code_BGU: Tensor  # -1: padding, an empty slot or a document that has ended
    codebook_GSK: Tensor
    bias_u_GRK: Tensor | None
    bias_w_GRK: Tensor | None
    rel_key_GMK: Tensor | None
    mean_BGSV: Tensor | None  # the carried cache: document 0
    count_BGS: Tensor | None
    doc_BU: Tensor | None  # number of the document at each key position; None: there is one, and every token is real
    real_BU: Tensor | None
    block_length: int
    lead: int
    function: Function
    irregular: bool  # padding or document starts anywhere, not only empty slots of a carried window

    @property
    def n_query(self) -> int:
        """T."""
        return self.q_BGRTK.shape[3]


def align(
    q_BHTK: Tensor,
    k_BGTK: Tensor,
    v_BGTV: Tensor,
    code_BGT: Tensor,
    codebook_GSK: Tensor,
    *,
    block_length: int,
    bias_u_HK: Tensor | None,
    bias_w_HK: Tensor | None,
    rel_key_GMK: Tensor | None,
    mask_BT: Tensor | None,
    doc_start_BT: Tensor | None,
    state: VQState | None,
    function: Function = "softmax",
) -> Problem:
    """Build the problem from checked arguments."""
    dtype = matmul_dtype(q_BHTK, v_BGTV)
    n_head = k_BGTK.shape[1]
    if mask_BT is not None:
        # Padding may hold anything, NaN too, and 0 * NaN would still spread.
        code_BGT = code_BGT.masked_fill(~mask_BT[:, None], -1)
        q_BHTK = q_BHTK.masked_fill(~mask_BT[:, None, :, None], 0.0)
        v_BGTV = v_BGTV.masked_fill(~mask_BT[:, None, :, None], 0.0)
    v_BGUV, code_BGU, lead = v_BGTV.to(dtype), code_BGT, 0
    if state is not None:
        lead = block_length + state.position % block_length
        v_BGUV = torch.cat([state.value_BGUV[:, :, :lead].to(dtype), v_BGUV], dim=2)
        code_BGU = torch.cat([state.code_BGU[:, :, :lead], code_BGT], dim=2)
    doc_BU, real_BU = _documents(code_BGU, doc_start_BT, lead, needed=mask_BT is not None or state is not None)

    def grouped(bias_HK: Tensor | None) -> Tensor | None:
        return None if bias_HK is None else torch.unflatten(bias_HK.to(dtype), 0, (n_head, -1))

    return Problem(
        q_BGRTK=torch.unflatten(q_BHTK.to(dtype), 1, (n_head, -1)),
        k_BGTK=k_BGTK,
        v_BGUV=v_BGUV,
        code_BGU=code_BGU,
        codebook_GSK=codebook_GSK.detach().to(dtype),
        bias_u_GRK=grouped(bias_u_HK),
        bias_w_GRK=grouped(bias_w_HK),
        rel_key_GMK=None if rel_key_GMK is None else rel_key_GMK.to(dtype),
        mean_BGSV=None if state is None else state.mean_BGSV.to(accumulation_dtype(dtype)),
        count_BGS=None if state is None else state.count_BGS.to(accumulation_dtype(dtype)),
        doc_BU=doc_BU,
        real_BU=real_BU,
        block_length=block_length,
        lead=lead,
        function=function,
        irregular=mask_BT is not None or doc_start_BT is not None,
    )


def next_state(problem: Problem, state: VQState | None, v_BGTV: Tensor) -> VQState:
    """The state after the problem's tokens, differentiable with respect to the values and the old state."""
    length, n_query = problem.block_length, problem.n_query
    position = n_query + (0 if state is None else state.position)
    code_BGU, value_BGUV = problem.code_BGU, problem.v_BGUV.to(v_BGTV.dtype)
    if problem.doc_BU is not None:
        open_BU = problem.doc_BU == problem.doc_BU[:, -1:]
        code_BGU = code_BGU.masked_fill(~open_BU[:, None], -1)
    kept = length + position % length  # window tokens, the first of them perhaps before the sequence's beginning
    cut = max(code_BGU.shape[2] - kept, 0)
    front = kept - (code_BGU.shape[2] - cut)
    pad = (front, 2 * length - kept)
    size = problem.codebook_GSK.shape[1]
    mean, count = _fold(problem, block_sums(value_BGUV[:, :, :cut], code_BGU[:, :, :cut], size))
    return VQState(
        code_BGU=F.pad(code_BGU[:, :, cut:], pad, value=-1),
        value_BGUV=F.pad(value_BGUV[:, :, cut:], (0, 0, *pad)),
        mean_BGSV=mean,
        count_BGS=count,
        position=position,
    )


def _fold(problem: Problem, new: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The carried cache, if its document is still open, and the new sums together, as means and counts."""
    total, count = new
    if problem.mean_BGSV is not None and problem.count_BGS is not None and problem.doc_BU is not None:
        carried = problem.count_BGS.masked_fill((problem.doc_BU[:, -1] != 0)[:, None, None], 0.0)
        total = total + problem.mean_BGSV * carried[..., None]
        count = count + carried
    return total / count.clamp(min=1.0)[..., None], count


def _documents(
    code_BGU: Tensor, doc_start_BT: Tensor | None, lead: int, *, needed: bool
) -> tuple[Tensor | None, Tensor | None]:
    if doc_start_BT is None and not needed:
        return None, None
    real_BU = code_BGU[:, 0] >= 0
    if doc_start_BT is None:
        return torch.zeros_like(code_BGU[:, 0]), real_BU
    return F.pad(doc_start_BT.to(torch.int64).cumsum(1), (lead, 0)), real_BU
