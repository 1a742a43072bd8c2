"""`longvq`: gated attention over vector-quantised keys that reads a structured memory, in linear time.

Its layer is a reconstruction (`gated.py`); its attention is Transformer-VQ's (`transformer_vq.py`).

Letters: B batch, T position, H heads, G key/value heads, K key width, V value width.
"""

from torch import Tensor

from vqkernels import LocalState, local_attention
from vqscale.models.base import LayerState, Segment
from vqscale.models.gated import GatedAttention, GatedHybrid
from vqscale.models.relative import Mixed, Mixing
from vqscale.models.transformer_vq import VQMixing
from vqscale.study.model import ModelConfig


class WindowMixing(Mixing):
    """Exact keys as far back as the bias reaches, a block length (not causal: and as far ahead), and nothing beyond.

    It is the reference code's window without its cache; it does not depend on where blocks begin.
    """

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
        """Attention within the window; nothing is quantised, so there is no commitment loss and no backend."""
        assert self.config.block_length is not None, "ModelConfig gives every longvq a block length"
        reach = self.config.block_length
        out_BHTV, new_state = local_attention(
            q_BHTK,
            k_BGTK,
            v_BGTV,
            block_length=reach,
            causal=self.config.causal,
            **self.bias(reach, q_BHTK),
            mask_BT=segment.mask,
            doc_start_BT=segment.doc_start,
            function=self.function,
            reach=reach + 1,
            state=LocalState._make((*state, segment.start)) if state else None,
            return_state=return_state,
        )
        return out_BHTV, out_BHTV.new_zeros(()), (), () if new_state is None else tuple(new_state[:3])


class LongVQAttention(VQMixing, GatedAttention):
    """Exact keys in the window and, through codes, all keys beyond it."""


class LongVQWindowAttention(WindowMixing, GatedAttention):
    """The window alone: LongVQ without its global memory."""


class LongVQ(GatedHybrid):
    """The linear-time hybrid: its state has a constant size."""

    remembers_all_keys = False

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, LongVQAttention if config.quantised else LongVQWindowAttention)
