"""One token at a time, at a cost and with a state that do not grow with the position.

Letters: B batch, H query heads, G key-value heads, R query heads a key-value head, U window slot, K key width,
V value width, S codebook size, L block length.
"""

import torch
from torch import Tensor

from vqkernels.precision import accumulation_dtype, matmul_dtype
from vqkernels.quantize.nearest import codewords, straight_through
from vqkernels.vq_attention.checks import check_options, check_shapes, check_state
from vqkernels.vq_attention.state import VQState, block_sums


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

    Arguments mean what they mean there. The old state stays as it was. Raises ValueError for shapes that do not fit.
    """
    tokens = (q_BHK[:, :, None], k_BGK[:, :, None], v_BGV[:, :, None])
    check_shapes(*tokens, code_BG[:, :, None], codebook_GSK)
    flags = (None if flag is None else flag[:, None] for flag in (mask_B, doc_start_B))
    check_options(*tokens[:2], state.block_length, bias_u_HK, bias_w_HK, rel_key_GMK, *flags)
    check_state(state, tokens[2], codebook_GSK, state.block_length)
    dtype = matmul_dtype(q_BHK, v_BGV)
    if doc_start_B is not None:
        state = _forget(state, doc_start_B)
    if mask_B is not None:
        code_BG = code_BG.masked_fill(~mask_B[:, None], -1)
        q_BHK = q_BHK.masked_fill(~mask_B[:, None, None], 0.0)
        v_BGV = v_BGV.masked_fill(~mask_B[:, None, None], 0.0)
    with torch.autocast(q_BHK.device.type, enabled=False):
        state = _put(state, v_BGV, code_BG)
        slot = state.block_length + state.position % state.block_length
        codebook = codebook_GSK.detach().to(dtype)
        key = codewords(state.code_BGU[:, :, : slot + 1], codebook)
        own = straight_through(k_BGK[:, :, None].to(dtype), code_BG[:, :, None], codebook)
        key = torch.cat([key[:, :, :-1], own], dim=2)
        query = torch.unflatten(q_BHK.to(dtype), 1, (k_BGK.shape[1], -1))
        score = _scores(query, key, codebook, state, bias_u_HK, bias_w_HK, rel_key_GMK)
        out = _weighted(score, code_BG, state, slot, dtype)
        return out.flatten(1, 2).to(v_BGV.dtype), _step(state)


def _put(state: VQState, v_BGV: Tensor, code_BG: Tensor) -> VQState:
    """The token in its slot; position still the token's own."""
    slot = state.block_length + state.position % state.block_length
    index = torch.tensor([slot], device=code_BG.device)
    return state._replace(
        code_BGU=state.code_BGU.index_copy(2, index, code_BG[:, :, None]),
        value_BGUV=state.value_BGUV.index_copy(2, index, v_BGV[:, :, None].to(state.value_BGUV.dtype)),
    )


def _scores(
    query_BGRK: Tensor,
    key_BGUK: Tensor,
    codebook_GSK: Tensor,
    state: VQState,
    bias_u_HK: Tensor | None,
    bias_w_HK: Tensor | None,
    rel_key_GMK: Tensor | None,
) -> Tensor:
    """Logits [B, G, R, U + S] over the window up to the token itself and over the cache."""
    wide = accumulation_dtype(query_BGRK.dtype)
    query_u = _add(query_BGRK, bias_u_HK)
    window = (query_u @ key_BGUK.transpose(-1, -2)).to(wide)
    if rel_key_GMK is not None:
        near = rel_key_GMK.to(query_BGRK.dtype).flip(1)[:, -window.shape[-1] :]  # nearest last, as the slots are
        bias = (_add(query_BGRK, bias_w_HK) @ near.transpose(-1, -2)).to(wide)
        window = window + torch.nn.functional.pad(bias, (window.shape[-1] - bias.shape[-1], 0))
    cache = (query_u @ codebook_GSK.transpose(-1, -2)).to(wide)
    return torch.cat([window, cache + state.count_BGS.to(wide).clamp(min=1.0).log()[:, :, None]], dim=-1)


def _weighted(score: Tensor, code_BG: Tensor, state: VQState, slot: int, dtype: torch.dtype) -> Tensor:
    seen = torch.cat([state.code_BGU[:, :, : slot + 1] >= 0, state.count_BGS > 0], dim=-1)
    seen = (seen & (code_BG >= 0)[..., None])[:, :, None]
    weight = score.masked_fill(~seen, torch.finfo(score.dtype).min).softmax(-1) * seen
    weight = weight.to(dtype)
    window = weight[..., : slot + 1] @ state.value_BGUV[:, :, : slot + 1].to(dtype)
    return window + weight[..., slot + 1 :] @ state.mean_BGSV.to(dtype)


def _step(state: VQState) -> VQState:
    """One position on; at the end of a block the previous one moves into the cache and the window moves along."""
    length = state.block_length
    if (state.position + 1) % length:
        return state._replace(position=state.position + 1)
    total, count = block_sums(state.value_BGUV[:, :, :length], state.code_BGU[:, :, :length], state.mean_BGSV.shape[2])
    total = total.to(state.mean_BGSV.dtype) + state.mean_BGSV * state.count_BGS[..., None]
    count = count.to(state.count_BGS.dtype) + state.count_BGS
    return VQState(
        code_BGU=torch.nn.functional.pad(state.code_BGU[:, :, length:], (0, length), value=-1),
        value_BGUV=torch.nn.functional.pad(state.value_BGUV[:, :, length:], (0, 0, 0, length)),
        mean_BGSV=total / count.clamp(min=1.0)[..., None],
        count_BGS=count,
        position=state.position + 1,
    )


def _forget(state: VQState, doc_start_B: Tensor) -> VQState:
    """Empty window and cache where a new document begins."""
    started = doc_start_B[:, None, None]
    return state._replace(
        code_BGU=state.code_BGU.masked_fill(started, -1),
        mean_BGSV=state.mean_BGSV.masked_fill(started[..., None], 0.0),
        count_BGS=state.count_BGS.masked_fill(started, 0.0),
    )


def _add(query_BGRK: Tensor, bias_HK: Tensor | None) -> Tensor:
    if bias_HK is None:
        return query_BGRK
    return query_BGRK + torch.unflatten(bias_HK.to(query_BGRK.dtype), 0, query_BGRK.shape[1:3])
