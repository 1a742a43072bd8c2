"""`transformer_vq`: attention over vector-quantised keys, in linear time and with a state of constant size.

Source: Lingle, Transformer-VQ (ICLR 2024) and its reference code. The non-causal form is this project's: a query sees
the un-quantised keys of its own block and both neighbours, and all others through codes.

Letters: B batch, T position, H heads, G key/value heads, K key width, V value width.
"""

from typing import Literal, cast

import torch
from torch import Tensor

from vqkernels import (
    BackendUnavailableError,
    Codebook,
    VQState,
    code_statistics,
    commitment_loss,
    nearest_code,
    resolve_backend,
    vq_attention,
    vq_attention_bidirectional,
)
from vqscale.models.base import LayerState, Segment
from vqscale.models.relative import Mixed, Mixing, RelativeAttention, RelativeTransformer
from vqscale.study.model import ModelConfig


class VQMixing(Mixing):
    """Each key is replaced by the nearest code of its head; the relative bias reaches one block length."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        assert config.codebook_size is not None, "ModelConfig gives quantised keys a codebook"
        assert config.block_length is not None, "ModelConfig gives quantised keys a block length"
        self.block_length = config.block_length
        self.codebook = Codebook(
            config.n_kv_head, config.codebook_size, config.d_key, config.codebook_decay, config.revive_below
        )

    def initialise(self, generator: torch.Generator) -> None:
        super().initialise(generator)
        self.codebook.reset_parameters(generator)

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
        """Statistics only in training mode, a state only for a causal model."""
        codebook_GSK = self.codebook.codebook
        code_BGT = nearest_code(k_BGTK, codebook_GSK, segment.mask)
        keys = (q_BHTK, k_BGTK, v_BGTV, code_BGT, codebook_GSK)
        new_state: VQState | None = None
        if self.config.causal:
            out_BHTV, new_state = vq_attention(
                *keys,
                block_length=self.block_length,
                **self.bias(self.block_length, q_BHTK),
                mask_BT=segment.mask,
                doc_start_BT=segment.doc_start,
                state=VQState._make((*state, segment.start)) if state else None,
                return_state=return_state,
                function=self.function,
                backend=cast(Literal["auto", "naive", "blockwise", "triton"], backend),
            )
        else:
            out_BHTV = vq_attention_bidirectional(
                *keys,
                block_length=self.block_length,
                **self.bias(self.block_length, q_BHTK),
                mask_BT=segment.mask,
                exact_window=self.config.local_window is not False,
                function=self.function,
                backend=cast(Literal["auto", "naive", "blockwise"], backend),
            )
        # Only collected here: the codebook is updated after the optimiser's step, from the whole batch of all workers.
        statistics = (tuple(code_statistics(k_BGTK, code_BGT, codebook_GSK)),) if self.training else ()
        commit = commitment_loss(k_BGTK, code_BGT, codebook_GSK)
        return out_BHTV, commit, statistics, () if new_state is None else tuple(new_state[:4])


class VQAttention(VQMixing, RelativeAttention):
    """Transformer-VQ's attention sub-layer."""


class TransformerVQ(RelativeTransformer):
    """The linear-time model: its state has a constant size."""

    remembers_all_keys = False
    attention = VQAttention


def attention_backend(config: ModelConfig, name: str, device: str | torch.device) -> str | None:
    """The implementation of VQ attention that `name` selects for a model on a device; None without quantised keys.

    Raises BackendUnavailableError where a named one cannot run.
    """
    if not config.quantised:
        return None
    if config.causal:
        return resolve_backend(name, device, function=config.attention_function or "softmax")
    if name == "triton":
        raise BackendUnavailableError(
            "backend: got 'triton'; its kernels are causal, and this model is not; choose 'blockwise' or 'auto'"
        )
    return "blockwise" if name == "auto" else name
