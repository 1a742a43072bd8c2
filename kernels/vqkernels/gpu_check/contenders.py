"""What is measured side by side: VQ attention here, exact attention, and linear-time peers, on the same sizes.

Exact attention by PyTorch's kernels takes one width for keys and values: wider values are split into heads that share
queries and keys, which is exact. Each contender is a function without arguments; peers that are not installed are
named with the reason.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vqkernels import code_statistics, nearest_code
from vqkernels.gpu_check.cases import Case, Tensors, forward, forward_backward
from vqkernels.gpu_check.timing import reason

Contender = Callable[[], object]
GIVEN = "vq (triton)"
WITH_CODES = "vq with nearest codes and sums (triton)"


def contenders(
    case: Case, given: Tensors, *, backward: bool, quadratic: bool, flex: bool
) -> tuple[dict[str, Contender], dict[str, str]]:
    """Functions to time by name, and why others are missing."""
    run = forward_backward if backward else _forward_only
    found: dict[str, Contender] = {
        GIVEN: partial(run, given, case.block_length, "triton"),
        WITH_CODES: lambda: run(_with_codes(given), case.block_length, "triton"),
    }
    missing: dict[str, str] = {}
    if quadratic:
        found |= _exact(given, backward)
    for name, make in _PEERS.items():
        try:
            found[name] = make(case, given, backward)
        except ImportError as error:
            missing[name] = f"not installed ({error.name})"
        except Exception as error:  # a peer that cannot take these sizes is a finding
            missing[name] = reason(error)
    if quadratic and flex and given.q_BHTK.is_cuda:  # last: compiling it takes longest and may fail
        found["flex attention"] = _flex(given, backward)
    return found, missing


def _with_codes(given: Tensors) -> Tensors:
    """What a training step does besides: find each key's code, and sum keys by code."""
    codebook = given.codebook_GSK.float()
    code_BGT = nearest_code(given.k_BGTK, codebook, given.mask_BT)
    code_statistics(given.k_BGTK, code_BGT, codebook)
    return given._replace(code_BGT=code_BGT)


def _forward_only(given: Tensors, block_length: int, backend: str) -> Tensor:
    with torch.no_grad():
        return forward(given, block_length, backend)


def _timed(function: Callable[..., Tensor], leaves: list[Tensor], d_out: Tensor, backward: bool) -> Contender:
    """Forward alone, or with the gradients of the leaves."""
    if not backward:
        return torch.no_grad()(lambda: function(*leaves))
    for leaf in leaves:
        leaf.requires_grad_()
    return lambda: torch.autograd.grad(function(*leaves), leaves, d_out)


def _exact(given: Tensors, backward: bool) -> dict[str, Contender]:
    """PyTorch's exact attention by each of its kernels."""
    q, k, v, d_out = (one.detach() for one in (given.q_BHTK, given.k_BGTK, given.v_BGTV, given.d_out_BHTV))
    parts = v.shape[-1] // q.shape[-1] if v.shape[1] == 1 else 1
    d_split = _split(d_out, parts)

    def attention(q: Tensor, k: Tensor, v: Tensor, kernel: SDPBackend, copied: bool) -> Tensor:
        q_, k_ = (_spread(one, parts, copied) for one in (q, k))
        with sdpa_kernel(kernel):
            return F.scaled_dot_product_attention(
                q_, k_, _split(v, parts), is_causal=True, scale=1.0, enable_gqa=q_.shape[1] != k_.shape[1]
            )

    kernels = {"sdpa (flash)": SDPBackend.FLASH_ATTENTION, "sdpa (cudnn)": SDPBackend.CUDNN_ATTENTION}
    if not q.is_cuda:
        kernels = {"sdpa (flash)": SDPBackend.FLASH_ATTENTION}
    leaves = [q.clone(), k.clone(), v.clone()]
    return {
        name: _first_that_runs(
            _timed(partial(attention, kernel=kernel, copied=copied), leaves, d_split, backward)
            for copied in (False, True)
        )
        for name, kernel in kernels.items()
    }


def _first_that_runs(ways: Iterable[Contender]) -> Contender:
    """The first way that this device does not refuse, from then on without asking again."""
    left = list(ways)

    def work() -> object:
        while len(left) > 1:
            try:
                return left[0]()
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:  # a kernel that takes no strides of 0
                left.pop(0)
        return left[0]()

    return work


def _spread(x_BGTK: Tensor, parts: int, copied: bool) -> Tensor:
    """The one head as `parts` equal ones, without memory of their own (stride 0) or copied."""
    wide = x_BGTK.expand(-1, parts, -1, -1) if parts > 1 else x_BGTK
    return wide.contiguous() if copied else wide


def _split(x_BHTV: Tensor, parts: int) -> Tensor:
    """[B, 1, T, V] to [B, parts, T, V / parts] without a copy."""
    return x_BHTV if parts == 1 else torch.unflatten(x_BHTV[:, 0], -1, (parts, -1)).transpose(1, 2)


def _flex(given: Tensors, backward: bool) -> Contender:
    """FlexAttention, compiled for this shape alone."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    torch._dynamo.reset()  # it recompiles no more after a few shapes
    compiled: Any = torch.compile(flex_attention, dynamic=False, fullgraph=True)
    q, k, v, d_out = (one.detach() for one in (given.q_BHTK, given.k_BGTK, given.v_BGTV, given.d_out_BHTV))
    parts = v.shape[-1] // q.shape[-1] if v.shape[1] == 1 else 1
    length = q.shape[2]
    masks: list[Any] = []

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if not masks:
            found = create_block_mask(_causal, None, None, length, length, device=q.device.type, _compile=True)
            masks.append(found)
        q, k = (_spread(one, parts, copied=True) for one in (q, k))
        grouped = q.shape[1] != k.shape[1]
        out: Tensor = compiled(q, k, _split(v, parts), block_mask=masks[0], scale=1.0, enable_gqa=grouped)
        return out

    return _timed(attention, [q.clone(), k.clone(), v.clone()], _split(d_out, parts), backward)


def _causal(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return query >= key


def _gated_linear(case: Case, given: Tensors, backward: bool) -> Contender:
    """Gated linear attention (Yang et al. 2024) by flash-linear-attention: keys and values as wide as here."""
    chunk_gla = import_module("fla.ops.gla").chunk_gla
    q, k, v = _by_token(given)
    gate = F.logsigmoid(torch.randn_like(k.float())).to(k.dtype)
    return _timed(lambda q, k, v, g: chunk_gla(q, k, v, g)[0], [q, k, v, gate], _like_out(given), backward)


def _gated_delta(case: Case, given: Tensors, backward: bool) -> Contender:
    """Gated DeltaNet (Yang et al. 2025) by flash-linear-attention."""
    rule = import_module("fla.ops.gated_delta_rule").chunk_gated_delta_rule
    q, k, v = _by_token(given)
    decay = F.logsigmoid(torch.randn(k.shape[:3], device=k.device))
    beta = torch.rand(k.shape[:3], device=k.device, dtype=k.dtype)
    step = lambda q, k, v, g, b: rule(q, k, v, g, b, use_qk_l2norm_in_kernel=True)[0]  # noqa: E731
    return _timed(step, [q, k, v, decay, beta], _like_out(given), backward)


def _mamba2(case: Case, given: Tensors, backward: bool) -> Contender:
    """Mamba-2's state-space dual (Dao and Gu 2024) by mamba_ssm: heads of 64 that make up the values, state 128."""
    scan = import_module("mamba_ssm.ops.triton.ssd_combined").mamba_chunk_scan_combined
    batch, length = given.q_BHTK.shape[0], given.q_BHTK.shape[2]
    n_head, device, dtype = case.n_head * case.d_value // 64, given.q_BHTK.device, given.q_BHTK.dtype
    x = torch.randn(batch, length, n_head, 64, device=device, dtype=dtype)
    rate = torch.rand(batch, length, n_head, device=device)
    decay = -torch.rand(n_head, device=device)
    b, c = (torch.randn(batch, length, 1, 128, device=device, dtype=dtype) for _ in range(2))
    step = lambda x, dt, a, b, c: scan(x, dt, a, b, c, chunk_size=256)  # noqa: E731
    return _timed(step, [x, rate, decay, b, c], torch.randn_like(x), backward)


def _by_token(given: Tensors) -> list[Tensor]:
    """Queries, keys and values as [B, T, H, ...], every head with keys and values of its own."""
    n_head = given.q_BHTK.shape[1]
    wide = [one.expand(-1, n_head, -1, -1) for one in (given.k_BGTK, given.v_BGTV)]
    return [one.detach().transpose(1, 2).contiguous() for one in (given.q_BHTK, *wide)]


def _like_out(given: Tensors) -> Tensor:
    return given.d_out_BHTV.detach().transpose(1, 2).contiguous()


_PEERS: Mapping[str, Callable[[Case, Tensors, bool], Contender]] = {
    "gated linear attention (fla)": _gated_linear,
    "gated DeltaNet (fla)": _gated_delta,
    "Mamba-2 (mamba_ssm)": _mamba2,
}
