"""`python -m vqkernels.gpu_check --out DIR`: verify every kernel on this machine's GPU and, if all pass, measure.

Needs torch, triton and numpy. `--smoke` goes through everything at tiny sizes in Triton's interpreter, on a CPU.
"""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

_SHARES = {"decode": 1, "layers": 5, "configurations": 2}  # of the time, in the order of measuring
_SECONDS_BETWEEN_WRITES = 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 if every check passed, 1 if one failed, 2 if there is no device to check."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    if options.smoke:
        os.environ["TRITON_INTERPRET"] = "1"  # before anything imports the kernels
    return _check(options, shlex.join(["python", "-m", "vqkernels.gpu_check", *given]))


def _check(options: argparse.Namespace, command: str) -> int:
    import torch

    from vqkernels.backends import triton_refusal
    from vqkernels.gpu_check import cases, document, verify

    device = torch.device("cpu" if options.smoke else "cuda")
    if not options.smoke and not torch.cuda.is_available():
        print("no CUDA device is visible; --smoke runs tiny sizes in Triton's interpreter", file=sys.stderr)  # noqa: T201
        return 2
    if refusal := triton_refusal(device):
        print(refusal, file=sys.stderr)  # noqa: T201
        return 2
    began = time.monotonic()

    def report(text: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {text}", flush=True)  # noqa: T201

    dtypes = ["float32"] if options.smoke else ["bfloat16", "float32"]
    wanted = verify.jobs(cases.SMOKE if options.smoke else cases.REAL, dtypes, device)
    report(f"{len(wanted)} jobs to verify in {options.processes} processes")
    checks = verify.run(wanted, device.type, options.processes, report)
    failed = [check for check in checks if not check.passed]
    tables: dict[str, list[dict[str, Any]]] = {"checks": [asdict(check) for check in checks]}
    notes = [f"{len(checks) - len(failed)} of {len(checks)} checks passed."]
    about = document.facts(device, command)
    if failed:
        notes.append("Nothing was measured: the speed of a wrong kernel means nothing.")

    def write() -> None:
        document.write(Path(options.out), about, tables, notes)

    write()  # a command may be cut off
    if not failed and not options.no_measure:
        measured = _measured(options.smoke, device, notes, report)
        _fill(tables, measured, began + options.seconds, notes, write)
    write()
    report(f"{notes[0]} Written to {options.out}")
    return 1 if failed else 0


def _fill(
    tables: dict[str, list[dict[str, Any]]],
    measured: Iterator[tuple[str, Iterator[dict[str, Any]]]],
    end: float,
    notes: list[str],
    write: Callable[[], None],
) -> None:
    """Measure table after table until `end`, each within its share of the time that is left when it begins."""
    left, written = dict(_SHARES), time.monotonic()
    for name, rows in measured:
        now = time.monotonic()
        share = max(0.0, end - now) * left[name] / sum(left.values())
        del left[name]
        tables[name] = []
        for row in rows:
            tables[name].append(row)
            if time.monotonic() - written > _SECONDS_BETWEEN_WRITES:
                write()
                written = time.monotonic()
            if time.monotonic() - now > share:
                notes.append(f"Its share of the time, {share:.0f} s, was up: `{name}` may not be complete.")
                break
        write()


def _measured(
    smoke: bool, device: Any, notes: list[str], report: Any
) -> Iterator[tuple[str, Iterator[dict[str, Any]]]]:
    """Name and rows of each table, which are measured as they are asked for."""
    import torch

    from vqkernels.gpu_check import measure
    from vqkernels.gpu_check.roofline import measure_ceilings

    dtype = torch.float32 if smoke else torch.bfloat16
    plan = measure.SMOKE if smoke else measure.FULL
    ceilings = measure_ceilings(device, dtype, small=smoke)
    speed, width = ceilings.flops_per_second / 1e12, ceilings.bytes_per_second / 1e12
    notes.append(f"Ceilings measured first: {speed:.3g} TFLOP/s ({str(dtype)[6:]} product), {width:.3g} TB/s (copy).")
    yield "decode", measure.measure_decode(plan, device, dtype, ceilings)
    yield "layers", measure.measure_layers(plan, device, dtype, ceilings, report)
    yield "configurations", measure.measure_configurations(plan, device, dtype, report)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vqkernels.gpu_check", description=__doc__)
    parser.add_argument("--out", required=True, help="folder of the results")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes in Triton's interpreter, on a CPU")
    parser.add_argument("--seconds", type=float, default=450.0, help="begin no further measurement after so long")
    parser.add_argument("--no-measure", action="store_true", help="verify only")
    cores = os.cpu_count() or 1
    parser.add_argument("--processes", type=int, default=max(1, min(8, cores // 2)), help="verifying in parallel")
    return parser


if __name__ == "__main__":
    sys.exit(main())
