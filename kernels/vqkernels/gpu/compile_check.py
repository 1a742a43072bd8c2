"""Compile every kernel in every configuration for every kind of GPU, without a GPU, and report what each one takes.

    python -m vqkernels.gpu.compile_check [--targets 80 86 90 100] [--out docs/benchmarks] [--jobs 2]

A row of the table passes if the kernel compiles, spills no register (stack 0), fits the chip's shared memory and,
where it multiplies 16-bit tiles, does so on tensor cores. Speed and results are not checked here.
"""

import argparse
import csv
import importlib
import pkgutil
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from vqkernels import gpu
from vqkernels.gpu.runtime import SHARED_MEMORY, Config, Kernel, Launch, interpreting, recorded

TABLE = "kernel_resources"
_TYPES = {
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float32: "fp32",
    torch.bool: "i1",
    torch.int32: "i32",
    torch.int64: "i64",
}
_ALIGNED = [["tt.divisibility", 16]]
_TENSOR_MEMORY = 512  # columns that a program may use on sm_100
_WIDE_ROWS = 64  # rows from which on a product is the warp group's (sm_90) or tensor memory's (sm_100)
_INSTRUCTION = {90: "wgmma", 100: "tcgen05.mma"}  # of wide products; "mma.sync" otherwise


class Request(NamedTuple):
    """One compilation: what Triton's launcher would derive from a launch's arguments, and a configuration."""

    case: str
    kernel: str
    config: Config
    target: int
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    aligned: tuple[int, ...]  # places of arguments that are divisible by 16


@dataclass(frozen=True)
class Row:
    """What a compilation gave."""

    kernel: str
    target: int
    bits: int
    config: str
    case: str
    registers: int | None = None  # of a thread
    stack: int | None = None  # bytes of a thread: spilled registers
    shared: int | None = None  # bytes of a program
    instruction: str = ""  # of the products
    problem: str = ""  # why it does not pass; empty if it does


def kernels() -> dict[str, Kernel]:
    """All kernels of this package by name."""
    names = (module.name for module in pkgutil.iter_modules(gpu.__path__, f"{gpu.__name__}."))
    modules = (importlib.import_module(name) for name in names if name != __name__)
    found = (one for module in modules for one in vars(module).values() if isinstance(one, Kernel))
    return {one.name: one for one in found}


def expected() -> set[tuple[str, int, int, str]]:
    """Kernel, target, bits and configuration of what the table must hold."""
    return {
        (kernel.name, target, one.bits, str(one))
        for kernel in kernels().values()
        for one in kernel.configs
        for target in one.targets
    }


def requests(cases: Iterable[tuple[str, Callable[[torch.dtype], None]]], targets: Sequence[int]) -> Iterator[Request]:
    """Each different compilation that the cases' launches need, in every configuration that may serve them."""
    seen = set()
    for name, call in cases:
        for target in targets:
            for dtype in (torch.bfloat16, torch.float32):
                with recorded(target) as launches:
                    call(dtype)
                for request in (one for launch in launches for one in _requests(name, launch)):
                    if request[1:] not in seen:
                        seen.add(request[1:])
                        yield request


def compiled(request: Request) -> Row:
    """Compile, and judge what came out."""
    key = (request.kernel, request.target, request.config.bits, str(request.config), request.case)
    source = ASTSource(
        kernels()[request.kernel].fn,
        dict(request.signature),
        dict(request.constants),
        {(place,): _ALIGNED for place in request.aligned},
    )
    options = {"num_warps": request.config.num_warps, "num_stages": request.config.num_stages}
    try:
        found = triton.compile(source, target=GPUTarget("cuda", request.target, 32), options=options)
    except Exception as error:  # whatever the compiler raises is a row that fails
        return Row(*key, problem=_reason(error))
    registers, stack = _resources(found.asm["cubin"])
    instruction = _instruction(found.asm["ptx"])
    return Row(*key, registers, stack, found.metadata.shared, instruction, _problem(request, found, stack, instruction))


def write(rows: Sequence[Row], folder: Path, command: str) -> None:
    """The table as CSV, and as Markdown with the largest needs of each kernel and configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    text = _markdown(rows, command)  # first: it records whether the checkout is clean, and the CSV changes it
    with (folder / f"{TABLE}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    (folder / f"{TABLE}.md").write_text(text)


def read(folder: Path) -> list[dict[str, str]]:
    """The rows of a table that `write` made."""
    with (folder / f"{TABLE}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile all, write the table; 1 if a row fails or a kernel or configuration is reached by no case."""
    from vqkernels.gpu.compile_cases import cases

    options = _parser().parse_args(arguments)
    if interpreting():
        raise SystemExit("TRITON_INTERPRET=1 is set; the interpreter compiles nothing; unset it")
    wanted = list(requests(cases(), options.targets))
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        rows = list(_shown(pool.map(compiled, wanted, chunksize=4), len(wanted)))
    rows.sort(key=lambda row: (row.kernel, row.bits, row.config, row.target, row.case))
    write(rows, options.out, "python -m vqkernels.gpu.compile_check " + " ".join(arguments or sys.argv[1:]))
    reached = {(row.kernel, row.target, row.bits, row.config) for row in rows}
    missing = {one for one in expected() if one[1] in options.targets} - reached
    for row in rows:
        if row.problem:
            sys.stdout.write(
                f"FAILS {row.kernel} sm_{row.target} {row.bits} {row.config} [{row.case}]: {row.problem}\n"
            )
    for one in sorted(missing):
        sys.stdout.write(f"NO CASE reaches {one}\n")
    failed = sum(bool(row.problem) for row in rows)
    sys.stdout.write(f"{len(rows)} compiled, {failed} fail, {len(missing)} configurations not reached\n")
    return 1 if failed or missing else 0


def _requests(case: str, launch: Launch) -> Iterator[Request]:
    signature, constants, aligned = _specialised(launch)
    for one in launch.kernel.configs:
        if one.serves(launch.config.bits, launch.width, launch.target):
            tiles = tuple(one.tiles)
            yield Request(
                case,
                launch.kernel.name,
                one,
                launch.target,
                (*signature, *((name, "constexpr") for name, _ in tiles)),
                (*constants, *tiles),
                aligned,
            )


def _specialised(launch: Launch) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, Any], ...], tuple[int, ...]]:
    """Types, constants and aligned places of a launch's arguments, as Triton's launcher sees them."""
    signature, constants, aligned = {}, dict(launch.constants), []
    parameters = launch.kernel.fn.params
    for place, (parameter, value) in enumerate(zip(parameters, launch.arguments, strict=False)):
        fixed = not parameter.do_not_specialize and isinstance(value, int) and value == 1
        if value is None or fixed:
            constants[parameter.name] = value
            continue
        signature[parameter.name] = _type(value)
        if not parameter.do_not_specialize and _divisible(value):
            aligned.append(place)
    signature |= dict.fromkeys(constants, "constexpr")
    return tuple(signature.items()), tuple(constants.items()), tuple(aligned)


def _type(value: Tensor | int | float) -> str:
    if isinstance(value, Tensor):
        return f"*{_TYPES[value.dtype]}"
    if isinstance(value, float):
        return "fp32"
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def _divisible(value: Tensor | int | float) -> bool:
    """By 16; memory begins so, as PyTorch's allocator gives it."""
    if isinstance(value, Tensor):
        return value.storage_offset() * value.itemsize % 16 == 0
    return isinstance(value, int) and value % 16 == 0


def _reason(error: BaseException) -> str:
    """The last line of the innermost error: it holds the cause, the lines around it the place."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}"


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of stack of a thread."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = triton.knobs.nvidia.cuobjdump.path
        usage = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    registers, stack = (re.search(rf"{name}:(\d+)", usage.stdout) for name in ("REG", "STACK"))
    assert registers is not None, usage.stdout
    assert stack is not None, usage.stdout
    return int(registers[1]), int(stack[1])


def _instruction(ptx: str) -> str:
    return next((name for name in (*_INSTRUCTION.values(), "mma.sync") if name in ptx), "")


def _problem(request: Request, found: Any, stack: int, instruction: str) -> str:
    limit = SHARED_MEMORY[request.target]
    if stack:
        return f"spills: {stack} bytes of stack"
    if found.metadata.shared > limit:
        return f"shared memory: {found.metadata.shared} bytes of {limit}"
    if (getattr(found.metadata, "tmem_size", None) or 0) > _TENSOR_MEMORY:
        return f"tensor memory: {found.metadata.tmem_size} columns of {_TENSOR_MEMORY}"
    rows = [int(size) for size in re.findall(r"tt\.dot .*: tensor<(\d+)x\d+xb?f16", found.asm["ttir"])]
    if not rows or request.config.bits != 16:
        return ""
    wanted = _INSTRUCTION.get(request.target, "mma.sync") if max(rows) >= _WIDE_ROWS else "mma.sync"
    return "" if instruction == wanted else f"products of {max(rows)} rows without {wanted}"


def _shown(rows: Iterable[Row], total: int) -> Iterator[Row]:
    for number, row in enumerate(rows, 1):
        sys.stdout.write(f"\r{number}/{total}")
        sys.stdout.flush()
        yield row
    sys.stdout.write("\n")


def _markdown(rows: Sequence[Row], command: str) -> str:
    lines = [
        "# Resources of the Triton kernels, compiled ahead of time",
        "",
        "What each kernel takes in each configuration on each kind of GPU, as the compiler reports: no GPU was used,",
        "and nothing here is a speed. Largest values over the shapes compiled, all of which are in",
        f"`{TABLE}.csv`. A row passes if nothing spills, shared memory fits the chip and products of",
        "16-bit tiles run on tensor cores.",
        "",
        f"- versions: python {platform.python_version()}, torch {torch.__version__}, triton {triton.__version__}",
        f"- date: {datetime.now(UTC):%Y-%m-%d}",
        f"- commit: {_commit()}",
        f"- command: `{command.strip()}`",
        f"- compiled: {len(rows)}, of which {sum(bool(row.problem) for row in rows)} fail",
        "- shared memory of a program, at most: "
        + ", ".join(f"sm_{target} {size}" for target, size in sorted(SHARED_MEMORY.items())),
        "",
        "| kernel | operands | configuration | target | shapes | registers | stack | shared (bytes) | products | |",
        "|---|--:|---|---|--:|--:|--:|--:|---|---|",
    ]
    key = ("kernel", "bits", "config", "target")
    for _, group in groupby(rows, key=lambda row: tuple(getattr(row, name) for name in key)):
        lines.append(_line(list(group)))
    return "\n".join(lines) + "\n"


def _line(group: list[Row]) -> str:
    row = group[0]
    problems = sorted({one.problem for one in group if one.problem})
    numbers = (max(getattr(one, name) or 0 for one in group) for name in ("registers", "stack", "shared"))
    cells = (
        row.kernel.removesuffix("_kernel"),
        f"{row.bits} bits",
        row.config,
        f"sm_{row.target}",
        str(len(group)),
        *(str(number) for number in numbers),
        ", ".join(sorted({one.instruction for one in group} - {""})),
        "; ".join(problems) or "passes",
    )
    return f"| {' | '.join(cells)} |"


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "not in a git checkout"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vqkernels.gpu.compile_check", description=__doc__)
    known = sorted(SHARED_MEMORY)
    parser.add_argument("--targets", type=int, nargs="+", choices=known, default=known, help="compute capability x 10")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"), help="folder for the table")
    parser.add_argument("--jobs", type=int, default=2, help="processes that compile at a time")
    return parser


if __name__ == "__main__":
    sys.exit(main())
