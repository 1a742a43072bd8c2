"""One token at a time, at a cost and with a state that do not grow with the position.

Letters: B batch, H query heads, G key-value heads, R query heads per key-value head, U window slot, K key width,
V value width, S codebook size, M + 1 relative distances, L block length.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor

from vqkernels.backends import triton_refusal, uses_triton
from vqkernels.errors import BackendUnavailableError
from vqkernels.precision import accumulation_dtype, matmul_dtype
from vqkernels.vq_attention.checks import check_options, check_shapes, check_state
from vqkernels.vq_attention.state import VQState, block_sums


@dataclass
class DecodeState:
    """What `VQState` holds, laid out to be changed in place: a ring of two blocks, sums by code, one position.

    Position p is in slot p mod 2L, so that no token ever moves. Slots and sums are never cleared: those of a block that
    is already in the cache, or of a document that has ended, are recognised by their position.
    """

    code_BGU: Tensor  # int64, U = 2L slots
    value_BGUV: Tensor
    total_BGSV: Tensor  # sums of the values by code: float32 (float64 in float64)
    count_BGS: Tensor
    start_B: Tensor  # int64: where the open document begins; earlier ones are forgotten
    position: Tensor  # int64 scalar on the device: tokens taken so far

    @classmethod
    def from_state(cls, state: VQState) -> Self:
        """The same state in memory of its own."""
        length, device = state.block_length, state.code_BGU.device
        turn = (state.position // length - 1) * length % (2 * length)
        return cls(
            code_BGU=state.code_BGU.roll(turn, 2),
            value_BGUV=state.value_BGUV.roll(turn, 2),
            total_BGSV=state.mean_BGSV * state.count_BGS[..., None],
            count_BGS=state.count_BGS.clone(),
            start_B=torch.zeros(state.code_BGU.shape[0], dtype=torch.int64, device=device),
            position=torch.full((), state.position, dtype=torch.int64, device=device),
        )

    def to_state(self) -> VQState:
        """The same state as a value that `vq_attention` continues. Waits for the device."""
        return self.at(int(self.position.item()))

    def at(self, position: int) -> VQState:
        """As `to_state` where the caller knows the position: does not wait for the device."""
        length = self.block_length
        first = (position // length - 1) * length
        turn = -first % (2 * length)
        slot = torch.arange(first, first + 2 * length, device=self.start_B.device)
        seen_BU = (slot < position) & (slot >= self.start_B[:, None])
        count_BGS = self.count_BGS * (self.start_B < first)[:, None, None]
        return VQState(
            code_BGU=self.code_BGU.roll(turn, 2).masked_fill(~seen_BU[:, None], -1),
            value_BGUV=self.value_BGUV.roll(turn, 2),
            mean_BGSV=self.total_BGSV * (count_BGS > 0)[..., None] / count_BGS.clamp(min=1.0)[..., None],
            count_BGS=count_BGS,
            position=position,
        )

    @property
    def block_length(self) -> int:
        """L."""
        return self.code_BGU.shape[2] // 2

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(part.nbytes for part in vars(self).values())


class Token(NamedTuple):
    """One checked step: padding is marked by code -1 and holds zeros."""

    q_BGRK: Tensor  # in the dtype of the matrix products
    k_BGK: Tensor | None  # None where its gradient is not needed: attention itself reads the codeword
    v_BGV: Tensor
    code_BG: Tensor
    codebook_GSK: Tensor
    bias_u_HK: Tensor | None
    bias_w_HK: Tensor | None
    rel_key_GMK: Tensor | None
    doc_start_B: Tensor | None


@torch.no_grad()
def decode_step(
    q_BHK: Tensor,
    v_BGV: Tensor,
    code_BG: Tensor,
    codebook_GSK: Tensor,
    state: DecodeState,
    *,
    bias_u_HK: Tensor | None = None,
    bias_w_HK: Tensor | None = None,
    rel_key_GMK: Tensor | None = None,
    mask_B: Tensor | None = None,
    doc_start_B: Tensor | None = None,
    backend: Literal["auto", "torch", "triton"] = "auto",
) -> Tensor:
    """The token after `state`, which takes it in: out [B, H, V] in v's dtype, without gradients.

    Arguments are as in `vq_attention`; the key is not needed, because its codeword takes its place.
    "triton" (what "auto" takes on a CUDA device) never waits for the device and changes the state's tensors in
    place, so that one captured CUDA graph runs the step at every position. "torch" reads the position on the host
    and binds new sums at the end of a block.

    Raises ValueError for shapes that do not fit, BackendUnavailableError for a backend that cannot run here.
    """
    biases = (bias_u_HK, bias_w_HK, rel_key_GMK)
    held = VQState(state.code_BGU, state.value_BGUV, state.total_BGSV, state.count_BGS, 0)  # for its shapes
    token = _token(q_BHK, None, v_BGV, code_BG, codebook_GSK, held, biases, mask_B, doc_start_B)
    if _takes_triton(backend, token.q_BGRK):
        from vqkernels.gpu.decode import decode_token  # triton is optional

        return decode_token(token, state)
    with torch.autocast(q_BHK.device.type, enabled=False):
        out = _take(token, state, int(state.position.item()))
    state.position += 1
    return out


def vq_attention_decode(
    q_BHK: Tensor,
    k_BGK: Tensor,
    v_BGV: Tensor,
    code_BG: Tensor,
    codebook_GSK: Tensor,
    state: VQState,
    *,
    bias_u_HK: Tensor | None = None,
    bias_w_HK: Tensor | None = None,
    rel_key_GMK: Tensor | None = None,
    mask_B: Tensor | None = None,
    doc_start_B: Tensor | None = None,
) -> tuple[Tensor, VQState]:
    """The token after `state`: out [B, H, V] in v's dtype and the next state, as `vq_attention` gives for T = 1.

    Arguments and gradients are as they are there. The old state stays as it was, at the price of copying the window
    every step, which `decode_step` saves. Raises ValueError for shapes that do not fit.
    """
    biases = (bias_u_HK, bias_w_HK, rel_key_GMK)
    token = _token(q_BHK, k_BGK, v_BGV, code_BG, codebook_GSK, state, biases, mask_B, doc_start_B)
    after = DecodeState.from_state(state)
    with torch.autocast(q_BHK.device.type, enabled=False):
        out = _take(token, after, state.position)
        return out, after.at(state.position + 1)


def _token(
    q_BHK: Tensor,
    k_BGK: Tensor | None,
    v_BGV: Tensor,
    code_BG: Tensor,
    codebook_GSK: Tensor,
    state: VQState,
    biases: tuple[Tensor | None, Tensor | None, Tensor | None],
    mask_B: Tensor | None,
    doc_start_B: Tensor | None,
) -> Token:
    """Check the arguments and clear padding, which may hold anything, NaN too."""
    key = code_BG[..., None].expand(-1, -1, q_BHK.shape[-1]) if k_BGK is None else k_BGK  # for its shape
    tokens = (q_BHK[:, :, None], key[:, :, None], v_BGV[:, :, None])
    check_shapes(*tokens, code_BG[:, :, None], codebook_GSK)
    mask, doc_start = (None if flag is None else flag[:, None] for flag in (mask_B, doc_start_B))
    check_options(*tokens[:2], state.block_length, *biases, mask, doc_start)
    check_state(state, tokens[2], codebook_GSK, state.block_length)
    dtype = matmul_dtype(q_BHK, v_BGV)
    if mask_B is not None:
        code_BG = code_BG.masked_fill(~mask_B[:, None], -1)
        q_BHK = q_BHK.masked_fill(~mask_B[:, None, None], 0.0)
        v_BGV = v_BGV.masked_fill(~mask_B[:, None, None], 0.0)
    query = torch.unflatten(q_BHK.to(dtype), 1, (code_BG.shape[1], -1))
    return Token(query, k_BGK, v_BGV, code_BG, codebook_GSK.detach(), *biases, doc_start_B)


def _takes_triton(backend: str, query: Tensor) -> bool:
    if backend == "auto":
        return uses_triton(query)
    if backend == "torch":
        return False
    if backend != "triton":
        raise ValueError(f"backend: got {backend!r}; it must be one of 'auto', 'torch', 'triton'")
    if refusal := triton_refusal(query.device):
        raise BackendUnavailableError(f"backend: got 'triton'; {refusal}; choose 'torch' or 'auto'")
    return True


def _take(token: Token, state: DecodeState, position: int) -> Tensor:
    """Put the token, attend, and at the end of a block add the one before it to the cache."""
    slot = position % (2 * state.block_length)
    if token.doc_start_B is not None:
        state.start_B = torch.where(token.doc_start_B, position, state.start_B)
    state.code_BGU[:, :, slot] = token.code_BG
    state.value_BGUV[:, :, slot] = token.v_BGV.to(state.value_BGUV.dtype)
    score_BGRU, score_BGRS = _scores(token, state, position)
    out = _weighted(score_BGRU, score_BGRS, token, state, position)
    if (position + 1) % state.block_length == 0:
        state.total_BGSV, state.count_BGS = _folded(state, position)
    return out.flatten(1, 2).to(token.v_BGV.dtype)


def _scores(token: Token, state: DecodeState, position: int) -> tuple[Tensor, Tensor]:
    """Logits [B, G, R, U] and [B, G, R, S]; keys are codewords, so that a slot's is one of the codebook's."""
    query, dtype, slots = token.q_BGRK, token.q_BGRK.dtype, state.code_BGU.shape[2]
    query_u = _add(query, token.bias_u_HK)
    # One product with the codebook gives the scores of the cache and, gathered by code, those of the window.
    cache = (query_u @ token.codebook_GSK.to(dtype).transpose(-1, -2)).to(accumulation_dtype(dtype))
    code = state.code_BGU.clamp(min=0)[:, :, None]
    window = cache.gather(3, code.expand(-1, -1, query.shape[2], -1))
    if token.rel_key_GMK is not None:
        bias = _add(query, token.bias_w_HK) @ token.rel_key_GMK.to(dtype).transpose(-1, -2)
        slot = (position - torch.arange(bias.shape[3], device=query.device)) % slots
        window = window.index_add(3, slot, bias.to(window.dtype))
    if token.k_BGK is not None and token.k_BGK.requires_grad:
        passed = (token.k_BGK - token.k_BGK.detach()).to(dtype)[..., None]
        own = torch.tensor([position % slots], device=query.device)
        window = window.index_add(3, own, (query_u @ passed).to(window.dtype))
    return window, cache + state.count_BGS.clamp(min=1.0).log()[:, :, None]


def _weighted(score_BGRU: Tensor, score_BGRS: Tensor, token: Token, state: DecodeState, position: int) -> Tensor:
    slots = state.code_BGU.shape[2]
    first = (position // state.block_length - 1) * state.block_length
    held_U = position - (position - torch.arange(slots, device=score_BGRU.device)) % slots
    seen_BGU = (state.code_BGU >= 0) & ((held_U >= first) & (held_U >= state.start_B[:, None]))[:, None]
    seen_BGS = (state.count_BGS > 0) & (state.start_B < first)[:, None, None]
    seen = (torch.cat([seen_BGU, seen_BGS], dim=2) & (token.code_BG >= 0)[..., None])[:, :, None]
    score = torch.cat([score_BGRU, score_BGRS], dim=3)
    # The lowest finite number, not -inf: a query that sees nothing gets zeros from `* seen`, not NaN.
    weight = score.masked_fill(~seen, torch.finfo(score.dtype).min).softmax(-1) * seen
    window, cache = weight[..., :slots], weight[..., slots:] / state.count_BGS.clamp(min=1.0)[:, :, None]
    dtype = token.q_BGRK.dtype
    return (window.to(dtype) @ state.value_BGUV.to(dtype)).to(cache.dtype) + cache @ state.total_BGSV.to(cache.dtype)


def _folded(state: DecodeState, position: int) -> tuple[Tensor, Tensor]:
    """Sums and counts with the block before the one that ends at `position`, of the open document only."""
    length = state.block_length
    first = (position // length - 1) * length
    half = slice(first % (2 * length), first % (2 * length) + length)
    ended_BL = torch.arange(first, first + length, device=state.start_B.device) < state.start_B[:, None]
    code_BGL = state.code_BGU[:, :, half].masked_fill(ended_BL[:, None], -1)
    total, count = block_sums(state.value_BGUV[:, :, half], code_BGL, state.count_BGS.shape[2])
    open_B11 = (state.start_B < first)[:, None, None]  # the cache is of the document that is still open
    return (
        state.total_BGSV * open_B11[..., None] + total.to(state.total_BGSV.dtype),
        state.count_BGS * open_B11 + count.to(state.count_BGS.dtype),
    )


def _add(query_BGRK: Tensor, bias_HK: Tensor | None) -> Tensor:
    if bias_HK is None:
        return query_BGRK
    return query_BGRK + torch.unflatten(bias_HK.to(query_BGRK.dtype), 0, query_BGRK.shape[1:3])
