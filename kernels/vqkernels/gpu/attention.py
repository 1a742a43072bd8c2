"""VQ attention by Triton as PyTorch operators: `vqkernels::vq_attention` and `vqkernels::vq_attention_backward`.

Letters as in `layout`. Registered with shapes for tracing (so that torch.compile takes them whole), a first
derivative (a second raises), and a rule for autocast: operands in its dtype, sums and counts as they are.
"""

from typing import Any

import torch
from torch import Tensor

from vqkernels.gpu import fused, wide
from vqkernels.gpu.layout import Gradients, Layout, Operands, lay_out, operands
from vqkernels.vq_attention.problem import Problem

_OPERANDS = (
    "Tensor q, Tensor v, Tensor code, Tensor codebook, Tensor? bias_u, Tensor? bias_w, Tensor? rel_key, "
    "Tensor? total, Tensor? count, Tensor? doc, Tensor? real, SymInt block_length, SymInt lead"
)
_WIDEST_FUSED = 256
_N_OPERAND = len(Operands._fields)
_CAST_BY_AUTOCAST = {"q_BGRTK", "v_BGUV", "codebook_GSK", "bias_u_GRK", "bias_w_GRK", "rel_key_GMK"}


def triton_attention(problem: Problem) -> Tensor:
    """Output [B, G, R, T, V], differentiable once. A query that sees nothing gives zeros."""
    out: Tensor = torch.ops.vqkernels.vq_attention(
        problem.k_BGTK, *operands(problem), problem.block_length, problem.lead
    )[0]
    return out


def compute(given: Operands, block_length: int, lead: int) -> tuple[Tensor, Tensor]:
    """Output [B, G, R, T, V] and log-sum-exps [B, G, R, T]: what the first operator runs."""
    layout = lay_out(given, block_length, lead)
    return _plan(layout).forward(given, layout)


def compute_gradients(
    given: Operands, block_length: int, lead: int, out: Tensor, lse: Tensor, d_out: Tensor
) -> Gradients:
    """Gradients of all operands: what the second operator runs."""
    layout = lay_out(given, block_length, lead)
    return _plan(layout).backward(given, layout, out, lse, d_out.contiguous())


def _plan(layout: Layout) -> Any:
    """The module that computes: up to some width a tile of the output fits in registers with its scores.

    Beyond, `fused` would compute the scores again for every piece of the values, and its backward pass could not be
    cut at all, while the weights that `wide` puts into memory weigh no more than the values themselves.
    """
    return fused if max(layout.d_key, layout.d_value) <= _WIDEST_FUSED else wide


@torch.library.custom_op(
    "vqkernels::vq_attention", mutates_args=(), schema=f"(Tensor k, {_OPERANDS}) -> (Tensor, Tensor)"
)
def _attention(k: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    return compute(Operands(*arguments[:_N_OPERAND]), *arguments[_N_OPERAND:])


@_attention.register_fake
def _(k: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    given = Operands(*arguments[:_N_OPERAND])
    rows = given.q_BGRTK.shape[:-1]
    out = given.v_BGUV.new_empty(*rows, given.v_BGUV.shape[-1])
    return out, given.q_BGRTK.new_empty(rows, dtype=torch.float32)


@torch.library.custom_op(
    "vqkernels::vq_attention_backward",
    mutates_args=(),
    schema=f"({_OPERANDS}, Tensor out, Tensor lse, Tensor d_out) -> Tensor[]",
)
def _attention_backward(*arguments: Any) -> list[Tensor]:
    found = compute_gradients(Operands(*arguments[:_N_OPERAND]), *arguments[_N_OPERAND:])
    return [one for one in found if one is not None]


@_attention_backward.register_fake
def _(*arguments: Any) -> list[Tensor]:
    given = Operands(*arguments[:_N_OPERAND])
    batch, n_kv_head, _, n_query, d_key = given.q_BGRTK.shape
    found = Gradients(
        q_BGRTK=torch.empty_like(given.q_BGRTK, memory_format=torch.contiguous_format),
        k_BGTK=given.q_BGRTK.new_empty(batch, n_kv_head, n_query, d_key),
        v_BGUV=torch.empty_like(given.v_BGUV, memory_format=torch.contiguous_format),
        **{
            name: None if one is None else torch.empty_like(one, memory_format=torch.contiguous_format)
            for name, one in given._asdict().items()
            if name in ("bias_u_GRK", "bias_w_GRK", "rel_key_GMK", "total_BGSV")
        },
    )
    return [one for one in found if one is not None]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    k, *arguments = inputs
    ctx.save_for_backward(*arguments[:_N_OPERAND], *output)
    ctx.mark_non_differentiable(output[1])
    ctx.key_dtype, ctx.sizes = k.dtype, arguments[_N_OPERAND:]


def _differentiate(ctx: Any, d_out: Tensor, _d_lse: Tensor | None) -> tuple[Tensor | None, ...]:
    *tensors, out, lse = ctx.saved_tensors
    given = Operands(*tensors)
    found = iter(torch.ops.vqkernels.vq_attention_backward(*given, *ctx.sizes, out, lse, d_out))
    d_q, d_k, d_v = next(found), next(found), next(found)
    optional = (given.bias_u_GRK, given.bias_w_GRK, given.rel_key_GMK, given.total_BGSV)
    d_optional = (None if one is None else next(found) for one in optional)
    return d_k.to(ctx.key_dtype), d_q, d_v, None, None, *d_optional, None, None, None, None, None


_attention.register_autograd(_differentiate, setup_context=_save)


def _under_autocast(device_type: str) -> Any:
    def rule(k: Tensor, *arguments: Any) -> Any:
        dtype = torch.get_autocast_dtype(device_type)
        given = Operands(*arguments[:_N_OPERAND])
        cast = {
            name: one.to(dtype)
            for name, one in given._asdict().items()
            if name in _CAST_BY_AUTOCAST and one is not None and one.dtype != torch.float64
        }
        with torch.autocast(device_type, enabled=False):
            return torch.ops.vqkernels.vq_attention(k, *given._replace(**cast), *arguments[_N_OPERAND:])

    return rule


_LIBRARY = torch.library.Library("vqkernels", "FRAGMENT")
_LIBRARY.impl("vq_attention", _under_autocast("cuda"), "AutocastCUDA")
_LIBRARY.impl("vq_attention", _under_autocast("cpu"), "AutocastCPU")
