"""Whether every kernel is correct on this device, in every precision and configuration.

The rule (of FlashAttention's tests): against the same computation in float64, a kernel may err at most twice as much,
in gradients three times, as PyTorch does at the kernel's own precision. Besides, the same call must give the same
bits every time, and what is exact (codes up to ties, counts) must be exact.

Checks are independent of each other and run in several processes: most of their time is compiling.
"""

import math
import multiprocessing
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vqkernels.gpu import blocks, cache, compile_cases, decode, fused_kernels, nearest, runtime, scores, segment_sum
from vqkernels.gpu.runtime import Config, Kernel
from vqkernels.gpu_check.cases import REAL, Case, call, cut, draw, draw_on_device, forward, forward_backward
from vqkernels.gpu_check.decoding import decoded

_ALLOWED = {"out": 2.0, "gradient": 3.0}
_REPEATS = 20
_LAUNCH = {
    "attention": compile_cases.attend,
    "quantise": compile_cases.quantise,
    "decode": compile_cases.decode_one,
}
_MODULES = (blocks, cache, decode, fused_kernels, nearest, scores, segment_sum)


@dataclass(frozen=True)
class Check:
    """One comparison: `error` and `reference_error` are relative in the Euclidean norm."""

    case: str
    what: str
    dtype: str
    config: str  # "default", or the kernel and its configuration
    error: float
    reference_error: float
    allowed: float
    passed: bool
    note: str = ""


class Forced(NamedTuple):
    """A kernel and a configuration of it other than the first."""

    kernel: str
    config: Config

    def __str__(self) -> str:
        return f"{self.kernel}: {self.config}"

    def use(self) -> AbstractContextManager[None]:
        """Compute with it inside the block."""
        return runtime.forced(kernels()[self.kernel], self.config)


@dataclass(frozen=True)
class Job:
    """One case at one precision, perhaps with one kernel's configuration other than its first."""

    kind: str  # a name in _PERFORM
    case: Case
    dtype: str
    forced: Forced | None = None


def kernels() -> dict[str, Kernel]:
    """Every kernel of the package by name."""
    found = (one for module in _MODULES for one in vars(module).values() if isinstance(one, Kernel))
    return {one.name: one for one in found}


def jobs(cases: Iterable[Case], dtypes: Iterable[str], device: torch.device) -> list[Job]:
    """Every case at every precision, and again for each further configuration of a kernel it launches.

    On a GPU also what the interpreter cannot do, or not in bearable time.
    """
    target = runtime.device_target(device)
    found: dict[tuple[Any, ...], Job] = {}
    plain: list[Job] = []
    for dtype in dtypes:
        for case in cases:
            for kind, launched in _launched(case, getattr(torch, dtype), target).items():
                plain.append(Job(kind, case, dtype))
                for launch in launched:
                    bits = 8 * getattr(torch, dtype).itemsize
                    suited = [one for one in launch.kernel.configs if one.serves(bits, launch.width, target)]
                    for config in suited[1:]:
                        forced = Forced(launch.kernel.name, config)
                        found.setdefault((forced, dtype, kind), Job(kind, case, dtype, forced))
    return (list(_ONLY_ON_GPU) if device.type == "cuda" else []) + plain + list(found.values())


def _launched(case: Case, dtype: torch.dtype, target: int) -> dict[str, list[runtime.Launch]]:
    """What each kind of job launches, found on tensors without memory."""
    layer = compile_cases.Layer(
        case.name,
        case.n_head,
        case.n_kv_head,
        case.d_key,
        case.d_value,
        case.block_length,
        case.size,
        case.biases,
        case.documents,
    )
    found = {}
    for kind, launch in _LAUNCH.items():
        with runtime.recorded(target) as launches:
            launch(layer, dtype)
        found[kind] = list(launches)
    return found


def run(jobs_: list[Job], device: str, processes: int, report: Callable[[str], None]) -> list[Check]:
    """All jobs; an error in one is a failed check of it."""
    checks: list[Check] = []
    if processes == 1:
        for number, job in enumerate(jobs_):
            checks += _reported(_run_job(job, device), number, len(jobs_), report)
        return checks
    left, number = jobs_, 0
    while left:
        found, left = _round(left, device, processes)
        for one in found:
            checks += _reported(one, number, len(jobs_), report)
            number += 1
    return checks


def _round(jobs_: list[Job], device: str, processes: int) -> tuple[Iterator[list[Check]], list[Job]]:
    """Checks of jobs as they are done, and a list that grows by the jobs that no process took in this round."""
    left: list[Job] = []

    def results() -> Iterator[list[Check]]:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, context, initializer=_begin_worker) as pool:
            futures = {pool.submit(_serve, job, device): job for job in jobs_}
            for future in as_completed(futures):
                job = futures[future]
                try:
                    found = future.result()
                except BrokenProcessPool as error:
                    yield [_check(job, job.kind, math.inf, 0.0, 0.0, note=f"a process died: {error}")]
                    continue
                if found is None:
                    left.append(job)
                else:
                    yield found

    return results(), left


def _begin_worker() -> None:
    """Make memory that a kernel leaves unwritten visible: what is allocated empty is filled with NaN."""
    warnings.simplefilter("ignore")  # PyTorch warns of its own operations that have no deterministic form
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]


_broken: list[Job] = []  # the job during which CUDA failed in this process: no later result of it is valid


def _serve(job: Job, device: str) -> list[Check] | None:
    """The checks of a job; None from a process in which CUDA has failed before: another one has to run it."""
    if _broken:
        return None
    checks = _run_job(job, device)
    if any("CUDA error" in check.note or "AcceleratorError" in check.note for check in checks):
        _broken.append(job)
    return checks


def _reported(found: list[Check], number: int, total: int, report: Callable[[str], None]) -> list[Check]:
    for check in found:
        if not check.passed:
            report(f"FAILED {asdict(check)}")
    if (number + 1) % 10 == 0 or number + 1 == total:
        report(f"{number + 1} of {total} jobs verified")
    return found


def _run_job(job: Job, device: str) -> list[Check]:
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with job.forced.use() if job.forced else nullcontext():
            return _PERFORM[job.kind](job, torch.device(device))
    except Exception:
        return [_check(job, job.kind, math.inf, 0.0, 0.0, note=traceback.format_exc(limit=-3))]


def _attention(job: Job, device: torch.device) -> list[Check]:
    given = draw(job.case, getattr(torch, job.dtype), device)
    length = job.case.block_length
    found = forward_backward(given, length, "triton")
    plain = forward_backward(given, length, "naive")
    exact = forward_backward(given.to(torch.float64), length, "naive")
    checks = [
        _compare(job, name, one, plain[name], exact[name], _ALLOWED["out" if name == "out" else "gradient"])
        for name, one in found.items()
    ]
    if job.forced is not None:
        return checks
    again = [forward_backward(given, length, "triton") for _ in range(1 if runtime.interpreting() else _REPEATS)]
    same = all(torch.equal(one[name], found[name]) for one in again for name in found)
    return [*checks, _exact(job, "same bits every time", same)]


def _quantise(job: Job, device: torch.device) -> list[Check]:
    drawn = draw(job.case, torch.float32, device)
    given, codebook = drawn.to(getattr(torch, job.dtype)), drawn.codebook_GSK  # a codebook is always float32
    code = nearest.nearest_code(given.k_BGTK, codebook, given.mask_BT)
    distance = torch.cdist(given.k_BGTK.double(), codebook.double())
    nearest_BGT = distance.min(-1).values
    real = code >= 0 if given.mask_BT is not None else torch.ones_like(code, dtype=torch.bool)
    excess = (distance.gather(-1, code.clamp(min=0)[..., None])[..., 0] - nearest_BGT)[real]
    marked = given.mask_BT is None or torch.equal(code >= 0, given.mask_BT[:, None].expand_as(code))
    rows, codes = given.k_BGTK.flatten(0, 1), code.flatten(0, 1)
    total, count = segment_sum.segment_sum(rows, codes, job.case.size)
    hot = torch.nn.functional.one_hot(codes.clamp(min=0), job.case.size) * (codes >= 0)[..., None]
    exact_total = hot.double().transpose(1, 2) @ rows.double()
    plain = hot.float().transpose(1, 2) @ rows.float()
    again = segment_sum.segment_sum(rows, codes, job.case.size)[0]
    return [
        _check(job, "nearest code: excess distance", float((excess / nearest_BGT[real]).max()), 0.0, 1e-5),
        _exact(job, "nearest code: padding is -1", marked),
        _compare(job, "sums by code", total, plain, exact_total, _ALLOWED["out"]),
        _exact(job, "counts by code", torch.equal(count.long(), hot.sum(1))),
        _exact(job, "sums by code: same bits every time", torch.equal(again, total)),
    ]


def _decode(job: Job, device: torch.device) -> list[Check]:
    """Token by token over the end of a block and a whole one, against all tokens at once."""
    case, length = job.case, job.case.block_length
    given = draw(case, getattr(torch, job.dtype), device)
    start = max(1, case.length - length - 40)
    whole, plain = (forward(one, length, "naive")[:, :, start:] for one in (given.to(torch.float64), given))
    state = call(cut(given, 0, start), length, "naive", return_state=True)[1]
    assert state is not None
    out, position = decoded(given, state, start, case.length)
    return [
        _compare(job, "decoded tokens", out, plain, whole, _ALLOWED["out"]),
        _exact(job, "decoded position", position == case.carried + case.length),
    ]


def _forward(job: Job, device: torch.device) -> list[Check]:
    given = draw(job.case, getattr(torch, job.dtype), device)
    with torch.no_grad():
        found, plain = (forward(given, job.case.block_length, backend) for backend in ("triton", "naive"))
        exact = forward(given.to(torch.float64), job.case.block_length, "naive")
    return [_compare(job, "out", found, plain, exact, _ALLOWED["out"])]


def _compiled(job: Job, device: torch.device) -> list[Check]:
    """`torch.compile` of the whole call, without a break, against the same call without it."""
    given, length = draw(job.case, getattr(torch, job.dtype), device), job.case.block_length
    leaves = [one.requires_grad_() for one in (given.q_BHTK, given.k_BGTK, given.v_BGTV)]

    def layer(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return forward(given._replace(q_BHTK=q, k_BGTK=k, v_BGTV=v), length, "triton")

    results = []
    for function in (torch.compile(layer, fullgraph=True), layer):
        out = function(*leaves)
        results.append((out, *torch.autograd.grad(out, leaves, given.d_out_BHTV)))
    limit = 8 * torch.finfo(given.q_BHTK.dtype).eps
    names = ("out", "d q", "d k", "d v")
    return [
        _check(job, f"{name}, compiled", relative(found.detach(), eager.detach()), 0.0, limit)
        for name, found, eager in zip(names, *results, strict=True)
    ]


def _long(job: Job, device: torch.device) -> list[Check]:
    """The last two blocks of one call against those of a second segment that continues the first one's state."""
    case, length = job.case, job.case.block_length
    given = draw_on_device(case, getattr(torch, job.dtype), device)
    split = case.length // 2 + 100
    with torch.no_grad():
        whole = forward(given, length, "triton")[:, :, -2 * length :].clone()
        state = call(cut(given, 0, split), length, "triton", return_state=True)[1]
        second = call(cut(given, split, None)._replace(state=state), length, "triton")[0][:, :, -2 * length :]
    return [_check(job, "end of two segments", relative(second, whole.double()), 0.0, 1e-2)]


_PERFORM = {
    "attention": _attention,
    "quantise": _quantise,
    "decode": _decode,
    "forward": _forward,
    "compiled": _compiled,
    "long": _long,
}
_ONLY_ON_GPU = (
    Job("long", Case("SHGA 190M, long", 1, 1, 128, 1536, 512, 512, 524288, batch=1), "bfloat16"),
    Job("compiled", Case("torch.compile", 2, 1, 64, 64, 128, 128, 640), "float32"),
    Job("forward", REAL[0], "float16"),
)


def _compare(job: Job, what: str, found: Tensor, plain: Tensor, exact: Tensor, factor: float) -> Check:
    error, reference_error = relative(found, exact), relative(plain, exact)
    floor = torch.finfo(getattr(torch, job.dtype)).eps / 8
    return _check(job, what, error, reference_error, factor * reference_error + floor)


def _exact(job: Job, what: str, same: bool) -> Check:
    return _check(job, what, 0.0 if same else math.inf, 0.0, 0.0)


def _check(job: Job, what: str, error: float, reference_error: float, allowed: float, note: str = "") -> Check:
    passed = error <= allowed  # NaN passes nothing
    return Check(
        job.case.name, what, job.dtype, str(job.forced or "default"), error, reference_error, allowed, passed, note
    )


def relative(found: Tensor, exact: Tensor) -> float:
    """|found - exact| / |exact| in the Euclidean norm."""
    size = exact.norm().clamp(min=torch.finfo(torch.float64).tiny)
    return float((found.double() - exact.double()).norm() / size)
