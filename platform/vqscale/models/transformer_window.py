"""`transformer_window`: the Llama-style transformer with a sliding window, in linear time; no global memory.

A token sees the last `window` tokens, itself included (as many ahead, where not causal); what is further away arrives
only through the layers, by at most `window` - 1 tokens per layer. All else is `transformer`'s.

Letters: B batch, T position, H heads, G key/value heads, K key width, V value width.
"""

from jaxtyping import Float
from torch import Tensor, nn

from vqkernels import LocalState, local_attention
from vqscale.models.base import LayerState, Segment
from vqscale.models.transformer import SelfAttention, Transformer
from vqscale.study.model import ModelConfig


class SlidingWindowAttention(SelfAttention):
    """Softmax attention inside a sliding window, with rotary positions."""

    def attend(
        self, q_BHTK: Tensor, k_BGTK: Tensor, v_BGTV: Tensor, segment: Segment, state: LayerState, return_state: bool
    ) -> tuple[Float[Tensor, "B H T V"], LayerState]:
        """The state holds keys (already rotated), values and which of them are real, for two windows."""
        window = self.config.window
        assert window is not None, "ModelConfig gives every transformer_window its window"
        out_BHTV, new_state = local_attention(
            q_BHTK * self.config.d_key**-0.5,
            k_BGTK,
            v_BGTV,
            block_length=window,
            causal=self.config.causal,
            reach=window,
            mask_BT=segment.mask,
            doc_start_BT=segment.doc_start,
            state=LocalState._make((*state, segment.start)) if state else None,
            return_state=return_state,
        )
        return out_BHTV, () if new_state is None else tuple(new_state[:3])


class TransformerWindow(Transformer):
    """Its state has a constant size."""

    remembers_all_keys = False

    @classmethod
    def mixer(cls, config: ModelConfig, index: int) -> nn.Module:
        return SlidingWindowAttention(config)
