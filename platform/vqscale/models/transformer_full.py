"""`transformer_full`: Transformer-VQ without quantisation, the quadratic model that the paper compares with.

Every query sees the un-quantised keys of the whole document. The relative bias covers every distance or, with
`bias: window`, those that it covers where keys are quantised: then this is `transformer_vq` with as many codes as keys.

Letters: B batch, T query position, U key position, C queries of a chunk, M relative distance, H heads, G key/value
heads, P query heads per key/value head, K key width, V value width.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vqkernels import laplace
from vqscale.models.base import LayerState, Segment
from vqscale.models.dense import remember, visible
from vqscale.models.layers import at_least_float32
from vqscale.models.relative import Mixed, Mixing, RelativeAttention, RelativeTransformer
from vqscale.study.model import FULL_ATTENTION_CHUNK


def by_distance(scores: Float[Tensor, "... C M"]) -> Float[Tensor, "... C M"]:
    """From scores by descending distance to scores by key, for C queries in a row.

    In: column c of every row belongs to the distance d - c, where d is the last query's to the first key. Out: column
    j belongs to the key at position j, which is that many closer to an earlier row: column j of row r was column
    C - 1 - r + j. Columns from there on hold values without meaning. (Transformer-XL's relative shift: rows padded to
    M + C and read with a stride of M + C - 1 shift by one column per row.)
    """
    rows, columns = scores.shape[-2:]
    flat = F.pad(scores, (0, rows)).flatten(-2)
    stride = columns + rows - 1
    shifted = flat[..., rows - 1 : rows - 1 + rows * stride].reshape(*scores.shape[:-1], stride)
    return shifted[..., :columns]


def full_attention(
    q_BHTK: Float[Tensor, "B H T K"],
    k_BGUK: Float[Tensor, "B G U K"],
    v_BGUV: Float[Tensor, "B G U V"],
    bias_u_HK: Float[Tensor, "H K"],
    bias_w_HK: Float[Tensor, "H K"],
    rel_key_GMK: Float[Tensor, "G M K"],
    document_BU: Int[Tensor, "B U"] | None = None,
    *,
    causal: bool,
    function: Literal["softmax", "laplace"] = "softmax",
) -> Float[Tensor, "B H T V"]:
    """softmax((q_i + u) k_j + (q_i + w) r_{i-j}) v over the keys j of the same document; queries are the last.

    `causal`: over j <= i alone, and `rel_key_GMK` holds the distances 0 .. R; otherwise -R .. R. Beyond R there is no
    second term.
    "laplace": Mega's element-wise function of (q_i + u) k_j / n + (q_i + w) r_{i-j}, where i sees n keys.
    """
    batch, kv_heads, keys, _ = k_BGUK.shape
    length = q_BHTK.shape[2]
    start = keys - length
    reach = rel_key_GMK.shape[1] - 1 if causal else rel_key_GMK.shape[1] // 2

    def chunk(first: int, q_BHCK: Tensor, k: Tensor, v: Tensor, u: Tensor, w: Tensor, rel: Tensor) -> Tensor:
        queries = range(start + first, start + first + q_BHCK.shape[2])
        seen = queries.stop if causal else keys
        # Query heads of a key/value head fold into rows: one product per key/value head, no repeated keys.
        grouped = (batch, kv_heads, -1, *q_BHCK.shape[2:])
        content, place = (q_BHCK + u[:, None]).view(grouped), (q_BHCK + w[:, None]).view(grouped)
        score = content.flatten(2, 3) @ k[:, :, :seen].transpose(-1, -2)
        least, most = 0 if causal else queries.start - keys + 1, queries.stop - 1
        low, high, zero = max(least, -reach), min(most, reach), 0 if causal else reach
        by_row = torch.einsum("bgpck,gmk->bgpcm", place, rel[:, zero + low : zero + high + 1].flip(1))
        # Scores of the distances of this chunk that have none: further back first, as `by_distance` takes them.
        by_row = F.pad(by_row, (most - high, low - least))
        moved_BGPCU = by_distance(by_row)[..., :seen]
        allowed = visible(document_BU, queries, seen, q_BHCK.device, causal=causal).unsqueeze(-3)
        score_BGPCU = score.view(moved_BGPCU.shape)
        if function == "laplace":
            mean_BGPCU = at_least_float32(score_BGPCU) / allowed.sum(-1, keepdim=True)
            weight = (laplace(mean_BGPCU + moved_BGPCU) * allowed).to(v.dtype)
        else:
            score_BGPCU = at_least_float32(score_BGPCU + moved_BGPCU).masked_fill(~allowed, -torch.inf)
            weight = score_BGPCU.softmax(dim=-1).to(v.dtype)
        return (weight.flatten(2, 3) @ v[:, :, :seen]).view(*q_BHCK.shape[:3], -1)

    firsts = range(0, length, FULL_ATTENTION_CHUNK)
    rest = (k_BGUK, v_BGUV, bias_u_HK, bias_w_HK, rel_key_GMK)
    if len(firsts) == 1:
        return chunk(0, q_BHTK, *rest)
    # Scores of all T x U pairs would be the largest tensors of training: each chunk recomputes its own going back.
    outs = [
        checkpoint(chunk, i, q_BHTK[:, :, i : i + FULL_ATTENTION_CHUNK], *rest, use_reentrant=False) for i in firsts
    ]
    return torch.cat(outs, dim=2)


class FullMixing(Mixing):
    """All keys as they are."""

    def mix(
        self,
        q_BHTK: Tensor,
        k_BGTK: Tensor,
        v_BGTV: Tensor,
        segment: Segment,
        state: LayerState,
        return_state: bool,
        backend: str,
    ) -> Mixed:
        """Attention over all keys so far; nothing is quantised, so there is no commitment loss and no backend."""
        k_BGUK, v_BGUV = remember(state, k_BGTK, v_BGTV)
        within = self.config.block_length if self.config.bias == "window" else None
        bias = self.bias(k_BGUK.shape[2] - 1 if within is None else within, q_BHTK)
        ways: dict[str, Any] = {"causal": self.config.causal, "function": self.function}
        out_BHTV = full_attention(q_BHTK, k_BGUK, v_BGUV, **bias, document_BU=segment.document, **ways)
        return out_BHTV, out_BHTV.new_zeros(()), (), (k_BGUK, v_BGUV) if return_state else ()


class FullAttention(FullMixing, RelativeAttention):
    """The attention sub-layer of Transformer-VQ without quantisation."""


class TransformerFull(RelativeTransformer):
    """The quadratic counterpart: its state holds all keys and values."""

    remembers_all_keys = True
    attention = FullAttention
