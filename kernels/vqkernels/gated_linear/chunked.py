"""Gated linear attention chunk by chunk: matrix products inside a chunk, a state from one chunk to the next.

The weight of token s for token t is sum_K q_t k_s exp(sum of log decays over s + 1 .. t). Written as a product of a
factor of t and one of s it overflows where decay is strong, for one factor is the inverse of a decay. Here every chunk
is halved again and again instead. Of the pairs between the right and the left half of a block, the exponent is split
at the border of the halves: t has decayed since the border, s until the border, and both factors are at most one. So
nothing can overflow, however long a chunk and however strong the decay. Exponents are sums of terms of one sign, never
differences, so that nothing cancels either and a decay of exactly zero (log decay -inf: a document begins) needs no
case of its own. (The paper halves once, and computes what is left pair by pair: Yang et al. 2024, arXiv 2312.06635,
"secondary-level chunking".)

Letters: B batch, H heads, T position, N chunks, C tokens of a chunk, I blocks of a chunk, E tokens of a block, K key
width, V value width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from vqkernels.gated_linear.naive import Problem


def chunked(problem: Problem, chunk_length: int) -> tuple[Tensor, Tensor]:
    """What `naive` gives. `chunk_length`: a power of two; a shorter sequence takes a shorter chunk."""
    length = problem.q_BHTK.shape[2]
    size = min(chunk_length, 1 << (length - 1).bit_length())
    missing = -length % size
    # A token with no key, no query and no decay changes nothing.
    q, k, v, log_decay = (torch.unflatten(F.pad(x, (0, 0, 0, missing)), 2, (-1, size)) for x in problem[:4])
    score_BHNCC, since_BHNCK, until_BHNCK = _within(q, k, log_decay)
    kept_BHNK = since_BHNCK[..., -1, :].exp()
    added_BHNKV = (k * until_BHNCK.exp()).transpose(-1, -2) @ v
    before_BHNKV, state_BHKV = _states(problem.state_BHKV, kept_BHNK, added_BHNKV)
    out_BHNCV = score_BHNCC @ v + (q * since_BHNCK.exp()) @ before_BHNKV
    return out_BHNCV.flatten(2, 3)[:, :, :length], state_BHKV


def _within(q_BHNCK: Tensor, k_BHNCK: Tensor, log_decay_BHNCK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of all pairs of a chunk [..., C, C], and log decays since its beginning and until its end.

    Blocks of one token grow to the whole chunk, two by two: `since` is the log decay from before its block to a token
    (its own included), `until` from after a token to the end of its block.
    """
    score_BHNIEE = (q_BHNCK * k_BHNCK).sum(-1)[..., None, None]
    since, until = log_decay_BHNCK, torch.zeros_like(log_decay_BHNCK)
    while (half := score_BHNIEE.shape[-1]) < q_BHNCK.shape[-2]:
        since_left, since_right = _halves(since, half)
        until_left, until_right = _halves(until, half)
        q_right, k_left = _halves(q_BHNCK, half)[1], _halves(k_BHNCK, half)[0]
        across = (q_right * since_right.exp()) @ (k_left * until_left.exp()).transpose(-1, -2)
        left, right = score_BHNIEE[..., 0::2, :, :], score_BHNIEE[..., 1::2, :, :]
        score_BHNIEE = torch.cat([F.pad(left, (0, half)), torch.cat([across, right], dim=-1)], dim=-2)
        since = _joined(since_left, since_left[..., -1:, :] + since_right)
        until = _joined(until_left + since_right[..., -1:, :], until_right)
    return score_BHNIEE.squeeze(-3), since, until


def _halves(x_BHNCK: Tensor, half: int) -> tuple[Tensor, Tensor]:
    """Left and right halves [..., I, E, K] of blocks of 2 `half` tokens."""
    left, right = torch.unflatten(x_BHNCK, -2, (-1, 2, half)).unbind(-3)
    return left, right


def _joined(left_BHNIEK: Tensor, right_BHNIEK: Tensor) -> Tensor:
    """[..., C, K] again."""
    return torch.stack([left_BHNIEK, right_BHNIEK], dim=-3).flatten(-4, -2)


def _states(state_BHKV: Tensor, kept_BHNK: Tensor, added_BHNKV: Tensor) -> tuple[Tensor, Tensor]:
    """The state in front of every chunk [B, H, N, K, V], and the one after the last."""
    before = []
    for kept_BHK, added_BHKV in zip(kept_BHNK.unbind(2), added_BHNKV.unbind(2), strict=True):
        before.append(state_BHKV)
        state_BHKV = torch.addcmul(added_BHKV, kept_BHK.unsqueeze(-1), state_BHKV)
    return torch.stack(before, dim=2), state_BHKV
