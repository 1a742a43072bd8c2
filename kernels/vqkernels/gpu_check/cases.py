"""The calls that are verified and measured: sizes, random tensors, and running them with any implementation.

Letters as in `vqkernels.vq_attention`.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vqkernels import VQState, vq_attention


@dataclass(frozen=True)
class Case:
    """Sizes of one attention call; `carried` tokens come before it in a state."""

    name: str
    n_head: int
    n_kv_head: int
    d_key: int
    d_value: int
    block_length: int
    size: int
    length: int
    batch: int = 2
    biases: bool = True
    documents: bool = False
    carried: int = 0


REAL = (
    Case("SHGA 190M", 1, 1, 128, 1536, 512, 512, 2560),
    Case("SHGA 1.3B", 1, 1, 128, 4096, 512, 512, 2048),
    Case("12 heads of 64", 12, 12, 64, 64, 512, 512, 2048),
    Case("8 heads of 128", 8, 8, 128, 128, 256, 256, 1280),
    Case("4 heads of 256", 4, 4, 256, 256, 256, 256, 1024),
    Case("MQA 8 x 64, documents, carried", 8, 1, 64, 64, 512, 512, 1900, documents=True, carried=1400),
    Case("SHGA, documents, carried", 1, 1, 128, 1536, 512, 512, 1900, documents=True, carried=1400),
    Case("odd sizes, fused, carried", 6, 3, 24, 40, 48, 100, 517, biases=False, carried=150),
    Case("odd sizes, wide", 2, 2, 96, 328, 80, 100, 517),
)
SMOKE = (
    Case("fused, documents, carried", 2, 1, 16, 24, 16, 20, 42, batch=1, documents=True, carried=40),
    Case("wide, carried", 1, 1, 16, 272, 16, 16, 36, batch=1, carried=40),
)


class Tensors(NamedTuple):
    """The arguments of one call of a case."""

    q_BHTK: Tensor
    k_BGTK: Tensor
    v_BGTV: Tensor
    code_BGT: Tensor
    codebook_GSK: Tensor
    d_out_BHTV: Tensor
    bias_u_HK: Tensor | None
    bias_w_HK: Tensor | None
    rel_key_GMK: Tensor | None
    mask_BT: Tensor | None
    doc_start_BT: Tensor | None
    state: VQState | None

    def to(self, dtype: torch.dtype) -> "Tensors":
        """Floating tensors in another precision; what a state sums stays at least float32."""
        new: dict[str, Any] = {
            name: one.to(dtype)
            for name, one in self._asdict().items()
            if isinstance(one, Tensor) and one.is_floating_point()
        }
        if self.state is not None:
            wide = torch.float64 if dtype == torch.float64 else torch.float32
            mean, count = self.state.mean_BGSV.to(wide), self.state.count_BGS.to(wide)
            value = self.state.value_BGUV.to(dtype)
            new["state"] = self.state._replace(value_BGUV=value, mean_BGSV=mean, count_BGS=count)
        return self._replace(**new)


def draw(case: Case, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Tensors:
    """Random arguments, different for every seed, rounded to `dtype`."""
    generator = torch.Generator().manual_seed(seed)
    full = _draw(case, generator, case.carried + case.length)
    state = None
    if case.carried:
        before = cut(full, 0, case.carried)
        state = call(before, case.block_length, "naive", return_state=True)[1]
        assert state is not None
        full = cut(full, case.carried, None)
    placed = {name: one.to(device) for name, one in full._asdict().items() if isinstance(one, Tensor)}
    if state is not None:
        on_device = {name: one.detach().to(device) for name, one in state._asdict().items() if name != "position"}
        state = state._replace(**on_device)
    return full._replace(**placed, state=state).to(dtype)


def draw_on_device(case: Case, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Tensors:
    """Random arguments without carried tokens, drawn on the device in their final precision: for measuring."""
    return _draw(case, torch.Generator(device).manual_seed(seed), case.length, dtype)


def _draw(case: Case, generator: torch.Generator, length: int, dtype: torch.dtype = torch.float64) -> Tensors:
    device = generator.device

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype, device=device).mul_(scale)

    def chance(share: float) -> Tensor:
        return torch.rand(case.batch, length, generator=generator, device=device) < share

    kv, biases = (case.batch, case.n_kv_head, length), (case.n_head, case.d_key)
    temperature = case.d_key**-0.5
    mask = chance(0.97) if case.documents else None
    return Tensors(
        q_BHTK=normal(case.batch, case.n_head, length, case.d_key, scale=temperature),
        k_BGTK=normal(*kv, case.d_key),
        v_BGTV=normal(*kv, case.d_value),
        code_BGT=torch.randint(0, case.size, kv, generator=generator, device=device),
        codebook_GSK=normal(case.n_kv_head, case.size, case.d_key),
        d_out_BHTV=normal(case.batch, case.n_head, length, case.d_value),
        bias_u_HK=normal(*biases, scale=temperature) if case.biases else None,
        bias_w_HK=normal(*biases, scale=temperature) if case.biases else None,
        rel_key_GMK=normal(case.n_kv_head, case.block_length + 1, case.d_key) if case.biases else None,
        mask_BT=mask,
        doc_start_BT=chance(4 / length) if case.documents else None,
        state=None,
    )


def cut(tensors: Tensors, start: int, stop: int | None) -> Tensors:
    """The tokens `start` to `stop` - 1."""
    tokens = slice(start, stop)
    by_head = ("q_BHTK", "k_BGTK", "v_BGTV", "code_BGT", "d_out_BHTV")
    new = {name: getattr(tensors, name)[:, :, tokens].contiguous() for name in by_head}
    for name in ("mask_BT", "doc_start_BT"):
        flags = getattr(tensors, name)
        new[name] = None if flags is None else flags[:, tokens].contiguous()
    return tensors._replace(**new)


def call(
    given: Tensors, block_length: int, backend: str, *, return_state: bool = False
) -> tuple[Tensor, VQState | None]:
    """`vq_attention` on the case's tensors."""
    return vq_attention(
        given.q_BHTK,
        given.k_BGTK,
        given.v_BGTV,
        given.code_BGT,
        given.codebook_GSK,
        block_length=block_length,
        bias_u_HK=given.bias_u_HK,
        bias_w_HK=given.bias_w_HK,
        rel_key_GMK=given.rel_key_GMK,
        mask_BT=given.mask_BT,
        doc_start_BT=given.doc_start_BT,
        state=given.state,
        return_state=return_state,
        backend=backend,  # type: ignore[arg-type]
    )


def forward(given: Tensors, block_length: int, backend: str) -> Tensor:
    """The output alone."""
    return call(given, block_length, backend)[0]


def forward_backward(given: Tensors, block_length: int, backend: str) -> dict[str, Tensor]:
    """Output and the gradient of every input that has one, by name."""
    names = ("q_BHTK", "k_BGTK", "v_BGTV", "bias_u_HK", "bias_w_HK", "rel_key_GMK")
    leaves = {
        name: getattr(given, name).detach().requires_grad_() for name in names if getattr(given, name) is not None
    }
    call = given._replace(**leaves)
    if given.state is not None:
        leaves["state value"] = given.state.value_BGUV.detach().requires_grad_()
        leaves["state mean"] = given.state.mean_BGSV.detach().requires_grad_()
        state = given.state._replace(value_BGUV=leaves["state value"], mean_BGSV=leaves["state mean"])
        call = call._replace(state=state)
    out = forward(call, block_length, backend)
    found = torch.autograd.grad(out, list(leaves.values()), given.d_out_BHTV)
    return {"out": out.detach()} | {f"d {name}": one for name, one in zip(leaves, found, strict=True)}
