"""Single attention layers to measure: their shapes, VQ attention on random inputs, and PyTorch's own attention.

Letters: H query heads, G key-value heads, T tokens, K key width, V value width, S codebook size, L block length.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vqkernels import vq_attention


class Shape(NamedTuple):
    """Dimensions of one attention layer."""

    name: str
    n_head: int
    n_kv_head: int
    d_key: int
    d_value: int
    size: int
    length: int

    def __str__(self) -> str:
        heads = f"{self.n_head} heads" if self.n_head > 1 else "1 head"
        return f"{self.name}: {heads}, K = {self.d_key}, V = {self.d_value}, S = {self.size}, L = {self.length}"


SHAPES = (
    Shape("multi-head", n_head=4, n_kv_head=4, d_key=64, d_value=64, size=256, length=256),
    Shape("SHGA", n_head=1, n_kv_head=1, d_key=128, d_value=1536, size=512, length=512),
)
SMOKE_SHAPES = (
    Shape("multi-head", n_head=2, n_kv_head=2, d_key=8, d_value=8, size=8, length=8),
    Shape("SHGA", n_head=1, n_kv_head=1, d_key=8, d_value=32, size=16, length=16),
)


class Inputs:
    """Random leaves of one call at T tokens, batch 1, and the gradient of its output."""

    def __init__(self, shape: Shape, context: int, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(0)

        def draw(*size: int) -> Tensor:
            return torch.randn(size, generator=generator).to(dtype)

        kv = (1, shape.n_kv_head, context)
        self.shape = shape
        self.q_BHTK = (draw(1, shape.n_head, context, shape.d_key) * shape.d_key**-0.5).requires_grad_()
        self.k_BGTK = draw(*kv, shape.d_key).requires_grad_()
        self.v_BGTV = draw(*kv, shape.d_value).requires_grad_()
        self.bias_u_HK = draw(shape.n_head, shape.d_key).requires_grad_()
        self.bias_w_HK = draw(shape.n_head, shape.d_key).requires_grad_()
        self.rel_key_GMK = draw(shape.n_kv_head, shape.length + 1, shape.d_key).requires_grad_()
        self.codebook_GSK = draw(shape.n_kv_head, shape.size, shape.d_key)
        self.code_BGT = torch.randint(0, shape.size, kv, generator=generator)
        self.d_out_BHTV = draw(1, shape.n_head, context, shape.d_value)


def vq_layer(given: Inputs, *, positions: bool = True) -> tuple[Tensor, ...]:
    """Gradients of every input of VQ attention, with or without the model's biases and relative keys."""
    leaves = [given.q_BHTK, given.k_BGTK, given.v_BGTV]
    biases = [given.bias_u_HK, given.bias_w_HK, given.rel_key_GMK] if positions else []
    bias_u, bias_w, rel_key = biases or (None, None, None)
    out, _ = vq_attention(
        given.q_BHTK,
        given.k_BGTK,
        given.v_BGTV,
        given.code_BGT,
        given.codebook_GSK,
        block_length=given.shape.length,
        bias_u_HK=bias_u,
        bias_w_HK=bias_w,
        rel_key_GMK=rel_key,
        backend="blockwise",
    )
    return torch.autograd.grad(out, leaves + biases, given.d_out_BHTV)


def sdpa_layer(given: Inputs) -> tuple[Tensor, ...]:
    """Gradients of exact causal attention by PyTorch's scaled_dot_product_attention, without positions.

    Its kernels take one width for keys and values: wider values are split into heads that share queries and keys,
    which is exact.
    """
    leaves = [given.q_BHTK, given.k_BGTK, given.v_BGTV]
    parts = given.shape.d_value // given.shape.d_key
    q, k = (one.expand(-1, parts * one.shape[1], -1, -1) for one in leaves[:2])
    v, d_out = (_by_width(one, parts) for one in (given.v_BGTV, given.d_out_BHTV))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
    return torch.autograd.grad(out, leaves, d_out)


def exact_layer(given: Inputs, rows: int = 512) -> tuple[Tensor, ...]:
    """Gradients of exact causal attention with plain products and softmax, `rows` queries at a time.

    Values are not split, so that scores are computed once whatever the width of the values; weights stay in memory for
    the backward pass, T^2 / 2 numbers per head.
    """
    leaves = [given.q_BHTK, given.k_BGTK, given.v_BGTV]
    length, outs = given.q_BHTK.shape[2], []
    for low in range(0, length, rows):
        high = min(low + rows, length)
        score = given.q_BHTK[:, :, low:high] @ given.k_BGTK[:, :, :high].transpose(-1, -2)
        later = torch.ones(high - low, high - low, dtype=torch.bool).triu_(1)
        score[..., low:].masked_fill_(later, float("-inf"))
        outs.append(score.softmax(-1) @ given.v_BGTV[:, :, :high])
    return torch.autograd.grad(torch.cat(outs, dim=2), leaves, given.d_out_BHTV)


def _by_width(x_B1TV: Tensor, parts: int) -> Tensor:
    """One head of width V as `parts` heads of width V / parts, without a copy; unchanged for one part."""
    return x_B1TV if parts == 1 else torch.unflatten(x_B1TV[:, 0], -1, (parts, -1)).transpose(1, 2)
