"""The calls whose kernels are compiled ahead of time: every operation at the sizes of real layers, without memory.

All tensors are on the meta device: under `runtime.recorded` the wrappers go through all they do on a GPU, but for
the launches. Lengths are run-time arguments of the kernels, so one length serves all.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from vqkernels.gpu import attention, decode, nearest, segment_sum
from vqkernels.gpu.layout import Operands
from vqkernels.vq_attention.decode import DecodeState, Token
from vqkernels.vq_attention.state import VQState

_BATCH, _LENGTH = 2, 8192


@dataclass(frozen=True)
class Layer:
    """Sizes of an attention layer."""

    name: str
    n_head: int
    n_kv_head: int
    d_key: int
    d_value: int
    block_length: int = 512
    codebook_size: int = 512
    biases: bool = True
    documents: bool = False  # documents, padding and a carried state


LAYERS = (
    Layer("SHGA 190M", 1, 1, 128, 1536),
    Layer("SHGA 190M, documents", 1, 1, 128, 1536, documents=True),
    Layer("SHGA 1.3B", 1, 1, 128, 4096),
    Layer("12 heads of 64", 12, 12, 64, 64),
    Layer("8 heads of 128", 8, 8, 128, 128),
    Layer("4 heads of 256", 4, 4, 256, 256),
    Layer("MQA 8 x 64, documents", 8, 1, 64, 64, documents=True),
    Layer("MQA 8 x 64, no biases", 8, 1, 64, 64, biases=False),
)


def cases() -> Iterator[tuple[str, Callable[[torch.dtype], None]]]:
    """Name and call of each case; the call takes the dtype of the operands."""
    for layer in LAYERS:
        yield f"{layer.name}: quantise", partial(quantise, layer)
        yield f"{layer.name}: attention", partial(attend, layer)
        yield f"{layer.name}: decode", partial(decode_one, layer)


def quantise(layer: Layer, dtype: torch.dtype) -> None:
    """Nearest codes, and the sums by code of keys and of values."""
    keys = _empty(dtype, _BATCH, layer.n_kv_head, _LENGTH, layer.d_key)
    codebook = _empty(torch.float32, layer.n_kv_head, layer.codebook_size, layer.d_key)
    mask = _empty(torch.bool, _BATCH, _LENGTH) if layer.documents else None
    code = nearest.launch_nearest_code(keys, codebook, mask)
    for rows in (keys, _empty(dtype, _BATCH, layer.n_kv_head, _LENGTH, layer.d_value)):
        segment_sum.launch_segment_sum(rows.flatten(0, 1), code.flatten(0, 1), layer.codebook_size)


def attend(layer: Layer, dtype: torch.dtype) -> None:
    """Attention's forward and backward pass."""
    size, n_group = layer.codebook_size, layer.n_head // layer.n_kv_head
    heads, lead = (_BATCH, layer.n_kv_head), layer.block_length + 100 if layer.documents else 0
    given = Operands(
        q_BGRTK=_empty(dtype, *heads, n_group, _LENGTH, layer.d_key),
        v_BGUV=_empty(dtype, *heads, lead + _LENGTH, layer.d_value),
        code_BGU=_empty(torch.int64, *heads, lead + _LENGTH),
        codebook_GSK=_empty(dtype, layer.n_kv_head, size, layer.d_key),
        bias_u_GRK=_empty(dtype, layer.n_kv_head, n_group, layer.d_key) if layer.biases else None,
        bias_w_GRK=_empty(dtype, layer.n_kv_head, n_group, layer.d_key) if layer.biases else None,
        rel_key_GMK=_empty(dtype, layer.n_kv_head, layer.block_length + 1, layer.d_key) if layer.biases else None,
        total_BGSV=_empty(torch.float32, *heads, size, layer.d_value) if layer.documents else None,
        count_BGS=_empty(torch.float32, *heads, size) if layer.documents else None,
        doc_BU=_empty(torch.int64, _BATCH, lead + _LENGTH) if layer.documents else None,
        real_BU=_empty(torch.bool, _BATCH, lead + _LENGTH) if layer.documents else None,
    )
    out, lse = attention.compute(given, layer.block_length, lead)
    attention.compute_gradients(given, layer.block_length, lead, out, lse, torch.empty_like(out))


def decode_one(layer: Layer, dtype: torch.dtype) -> None:
    """One step of decoding."""
    n_group = layer.n_head // layer.n_kv_head
    token = Token(
        q_BGRK=_empty(dtype, _BATCH, layer.n_kv_head, n_group, layer.d_key),
        k_BGK=None,
        v_BGV=_empty(dtype, _BATCH, layer.n_kv_head, layer.d_value),
        code_BG=_empty(torch.int64, _BATCH, layer.n_kv_head),
        codebook_GSK=_empty(torch.float32, layer.n_kv_head, layer.codebook_size, layer.d_key),
        bias_u_HK=_empty(dtype, layer.n_head, layer.d_key) if layer.biases else None,
        bias_w_HK=_empty(dtype, layer.n_head, layer.d_key) if layer.biases else None,
        rel_key_GMK=_empty(dtype, layer.n_kv_head, layer.block_length + 1, layer.d_key) if layer.biases else None,
        doc_start_B=_empty(torch.bool, _BATCH) if layer.documents else None,
    )
    decode.decode_token(token, DecodeState.from_state(_state(layer, dtype)))


def _state(layer: Layer, dtype: torch.dtype) -> VQState:
    return VQState.empty(
        _BATCH,
        layer.n_kv_head,
        layer.codebook_size,
        layer.d_key,
        layer.d_value,
        layer.block_length,
        device="meta",
        dtype=dtype,
    )


def _empty(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")
