"""Random cases of VQ attention that all tests of this folder share, and Triton's interpreter."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

if torch.cuda.is_available() or find_spec("triton") is None:
    collect_ignore_glob = ["test_gpu_*.py"]  # compiled kernels are tested by vqkernels.gpu_check
else:
    os.environ["TRITON_INTERPRET"] = "1"  # before any kernel is decorated

from vqkernels import VQState, nearest_code, vq_attention

FLOATS = ("q", "k", "v", "bias_u_HK", "bias_w_HK", "rel_key_GMK")


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """These tensors are tiny: threads would only wait for each other, the longer the busier the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package", autouse=True)
def quick_interpreter():
    """Triton's interpreter without what takes half of its time and changes no result.

    It asserts of every sum and product that 32 bits hold it, which no index of these small tensors exceeds, and it
    prepares `triton.language` for every call of a function inside a kernel, where once for each module is enough.
    """
    if os.environ.get("TRITON_INTERPRET") != "1":
        yield
        return
    from triton.runtime import interpreter

    builder, prepared = interpreter.interpreter_builder, set()

    def call(self, *args, **kwargs):
        if self.fn.__module__ not in prepared:
            prepared.add(self.fn.__module__)
            interpreter._patch_lang(self.fn)
        return self.rewrite()(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "options", replace(builder.options, sanitize_overflow=False))
        patch.setattr(interpreter.InterpretedFunction, "__call__", call)
        yield


@pytest.fixture
def unwritten_is_nan(monkeypatch):
    """What a kernel leaves unwritten shows."""
    empty = torch.empty

    def poisoned(*args, **options):
        made = empty(*args, **options)
        if made.dtype == torch.bool:
            return made.fill_(True)
        return made.fill_(float("nan") if made.is_floating_point() else torch.iinfo(made.dtype).min)

    monkeypatch.setattr(torch, "empty", poisoned)


@dataclass(frozen=True)
class Case:
    q: Tensor
    k: Tensor
    v: Tensor
    code: Tensor
    codebook: Tensor
    block_length: int
    options: dict[str, Tensor] = field(default_factory=dict)

    def with_(self, **changes) -> "Case":
        return replace(self, **changes)

    def part(self, start: int, stop: int) -> "Case":
        """The tokens start..stop-1."""
        flags = {n: x[:, start:stop] for n, x in self.options.items() if n in ("mask_BT", "doc_start_BT")}
        cut = {n: getattr(self, n)[:, :, start:stop] for n in ("q", "k", "v", "code")}
        return replace(self, **cut, options={**self.options, **flags})

    def rows(self, index: list[int]) -> "Case":
        """Some sequences of the batch, in the order given."""
        flags = {n: x[index] for n, x in self.options.items() if n in ("mask_BT", "doc_start_BT")}
        cut = {n: getattr(self, n)[index] for n in ("q", "k", "v", "code")}
        return replace(self, **cut, options={**self.options, **flags})

    def to(self, dtype: torch.dtype) -> "Case":
        options = {n: x.to(dtype) if x.is_floating_point() else x for n, x in self.options.items()}
        floats = {n: getattr(self, n).to(dtype) for n in ("q", "k", "v", "codebook")}
        return replace(self, **floats, options=options)

    def leaves(self) -> tuple["Case", dict[str, Tensor]]:
        """The same values as leaves that take gradients, and those leaves by name."""
        found = {n: getattr(self, n, None) if n in "qkv" else self.options.get(n) for n in FLOATS}
        leaf = {n: x.detach().clone().requires_grad_() for n, x in found.items() if x is not None}
        heads = {n: x for n, x in leaf.items() if n in "qkv"}
        return replace(
            self, **heads, options={**self.options, **{n: x for n, x in leaf.items() if n not in "qkv"}}
        ), leaf

    def run(self, backend: str = "blockwise", state: VQState | None = None) -> tuple[Tensor, VQState]:
        out, after = vq_attention(
            self.q,
            self.k,
            self.v,
            self.code,
            self.codebook,
            block_length=self.block_length,
            state=state,
            return_state=True,
            backend=backend,
            **self.options,
        )
        return out, after


def _random_case(
    *,
    batch: int = 2,
    heads: int = 2,
    kv_heads: int = 1,
    length: int = 29,
    d_key: int = 5,
    d_value: int = 7,
    size: int = 6,
    block_length: int = 4,
    distances: int | None = None,
    biases: bool = True,
    padding: bool = False,
    documents: bool = False,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Case:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).mul(scale).to(dtype)

    options: dict[str, Tensor] = {}
    if biases:
        options["bias_u_HK"], options["bias_w_HK"] = (normal(heads, d_key, scale=0.3) for _ in range(2))
        options["rel_key_GMK"] = normal(kv_heads, 1 + (block_length if distances is None else distances), d_key)
    if padding:
        options["mask_BT"] = torch.rand(batch, length, generator=generator) > 0.25
    if documents:
        options["doc_start_BT"] = torch.rand(batch, length, generator=generator) < 0.12
    k, codebook = normal(batch, kv_heads, length, d_key), normal(kv_heads, size, d_key)
    return Case(
        q=normal(batch, heads, length, d_key),
        k=k,
        v=normal(batch, kv_heads, length, d_value),
        code=nearest_code(k, codebook, options.get("mask_BT")),
        codebook=codebook,
        block_length=block_length,
        options=options,
    )


@pytest.fixture(scope="session")
def random_case() -> Callable[..., Case]:
    """Builds a case from sizes and a seed; float64, with biases, without padding or documents unless asked."""
    return _random_case


def _gradients(case: Case, backend: str, state: VQState | None = None) -> dict[str, Tensor]:
    """Output and gradients of a fixed random projection of it; with a state also those of its values and means."""
    case, leaf = case.leaves()
    if state is not None:
        value, mean = (x.detach().clone().requires_grad_() for x in (state.value_BGUV, state.mean_BGSV))
        state = state._replace(value_BGUV=value, mean_BGSV=mean)
        leaf = {**leaf, "state value": value, "state mean": mean}
    out, _ = case.run(backend, state)
    probe = torch.randn(out.shape, generator=torch.Generator().manual_seed(99), dtype=torch.float64).to(out.dtype)
    found = torch.autograd.grad(out, list(leaf.values()), probe)
    return {"out": out.detach(), **dict(zip(leaf, found, strict=True))}


@pytest.fixture(scope="session")
def gradients() -> Callable[..., dict[str, Tensor]]:
    """Output and gradients by name of a case under a backend."""
    return _gradients


def _assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-9) -> None:
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        scale = wanted.abs().max().clamp(min=1e-3)  # some gradients vanish exactly
        error = ((found[name] - wanted).abs().max() / scale).item()
        assert error <= tolerance, f"{name}: relative error {error:.2e}"


@pytest.fixture(scope="session")
def assert_same() -> Callable[..., None]:
    """Largest deviation of each tensor at most `tolerance` times its largest value (or times 1e-3)."""
    return _assert_same
