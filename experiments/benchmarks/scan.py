"""Speed of the ways to scan a diagonal state space. `python -m benchmarks.scan --help`.

Timed is `vqkernels.diagonal_scan` alone, forward and backward with all gradients, fp32, no documents and no state: the
FFT, the chunks and, for short T, the recurrence that defines them. A call processes the same number of tokens at every
T, as a training update does, but at least one sequence. Every repeat goes through all T and methods.

Letters: D width, N state numbers per channel, T tokens, B sequences per call.
"""

import argparse
import functools
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import pandas as pd
import torch

from benchmarks.document import facts, publish
from vqkernels import diagonal_scan
from vqscale.throughput.alternate import alternate

Method = Literal["recurrent", "fft", "chunked"]
Case = tuple[int, Method]

CONTEXTS = (128, 512, 2048, 8192, 32768, 131072)
TOKENS = 8192
REPEATS = 7
RECURRENT_UP_TO = 512
"""Longest T of the recurrence: it keeps the states of all tokens for its gradient and is only a reference."""
FILE = "scan_cpu"


class Width(NamedTuple):
    """Sizes of one scan."""

    width: int
    state: int
    dtype: torch.dtype

    def __str__(self) -> str:
        kind = "complex" if self.dtype.is_complex else "real"
        return f"D = {self.width}, N = {self.state}, {kind}"


WIDTHS = tuple(Width(width, 16, dtype) for dtype in (torch.float32, torch.complex64) for width in (64, 256))
SMOKE_WIDTHS = (Width(4, 2, torch.float32), Width(4, 2, torch.complex64))


class Inputs:
    """Random leaves of one call, and the gradient of its output."""

    def __init__(self, width: Width, context: int, tokens: int) -> None:
        generator = torch.Generator().manual_seed(0)
        shape = (max(1, tokens // context), context, width.width)
        coefficients = (width.width, width.state)
        phase = torch.rand(coefficients, generator=generator)
        decay_DN = torch.rand(coefficients, generator=generator) * (1j * phase).exp()
        self.x_BTD = torch.randn(shape, generator=generator, requires_grad=True)
        self.decay_DN = (decay_DN if width.dtype.is_complex else decay_DN.abs()).detach().requires_grad_()
        draw = functools.partial(torch.randn, coefficients, generator=generator, dtype=width.dtype, requires_grad=True)
        self.input_DN, self.output_DN = draw(), draw()
        self.d_y_BTD = torch.randn(shape, generator=generator)

    def run(self, method: Method) -> None:
        """Forward and backward."""
        leaves = (self.x_BTD, self.decay_DN, self.input_DN, self.output_DN)
        y_BTD, _ = diagonal_scan(*leaves, method=method)
        torch.autograd.grad(y_BTD, leaves, self.d_y_BTD)


def measure_scan(
    widths: Sequence[Width] = WIDTHS,
    contexts: Sequence[int] = CONTEXTS,
    repeats: int = REPEATS,
    *,
    tokens: int = TOKENS,
    clock: Callable[[], float] = time.perf_counter,
) -> pd.DataFrame:
    """One row per width and T: microseconds per token of each method, and the time of the FFT over that of the chunks.

    `*_low` and `*_high` are the range over repeats; a ratio is taken within a repeat.
    """
    return pd.DataFrame([row for width in widths for row in _measure(width, sorted(contexts), repeats, tokens, clock)])


def _measure(
    width: Width, contexts: Sequence[int], repeats: int, tokens: int, clock: Callable[[], float]
) -> list[dict[str, object]]:
    given = {context: Inputs(width, context, tokens) for context in contexts}
    work: dict[Case, Callable[[], None]] = {
        (context, method): functools.partial(given[context].run, method)
        for context in contexts
        for method in _methods(context)
    }
    for call in work.values():
        call()
    seconds = alternate(work, repeats, clock)
    return [
        _row(width, context, given[context], {method: seconds[context, method] for method in _methods(context)})
        for context in contexts
    ]


def _methods(context: int) -> tuple[Method, ...]:
    return ("recurrent", "fft", "chunked") if context <= RECURRENT_UP_TO else ("fft", "chunked")


def _row(width: Width, context: int, inputs: Inputs, seconds: dict[Method, list[float]]) -> dict[str, object]:
    batch = len(inputs.x_BTD)
    row: dict[str, object] = {"width": str(width), "context": context, "batch": batch, "repeats": len(seconds["fft"])}
    for method, taken in seconds.items():
        row |= _spread(f"{method}_us", [1e6 * one / (batch * context) for one in taken])
    ratio = [fft / chunked for fft, chunked in zip(seconds["fft"], seconds["chunked"], strict=True)]
    return row | _spread("fft_over_chunked", ratio)


def _spread(name: str, values: Sequence[float]) -> dict[str, object]:
    return {name: statistics.median(values), f"{name}_low": min(values), f"{name}_high": max(values)}


def as_markdown(table: pd.DataFrame, command: str) -> str:
    """The table as Markdown, with everything needed to repeat the measurement."""
    lines = [
        "# Diagonal scan: FFT, chunks and recurrence on a CPU",
        "",
        "`vqkernels.diagonal_scan`, forward and backward with all gradients, fp32, no documents, no carried state; B",
        "sequences of T tokens per call. Microseconds per token: median of the repeats, range in brackets. The ratio",
        "is taken within each repeat; above 1 the chunks are faster.",
        "",
        *facts(command),
    ]
    for width, rows in table.groupby("width", sort=False):
        lines += ["", f"## {width}", "", *_lines(rows)]
    return "\n".join(lines) + "\n"


def _lines(rows: pd.DataFrame) -> list[str]:
    lines = ["| T | B | repeats | recurrence | FFT | chunks | FFT over chunks |", "|--:|--:|--:|--:|--:|--:|--:|"]
    for row in rows.to_dict("records"):
        cells = [_cell(row, f"{name}_us") for name in ("recurrent", "fft", "chunked")]
        cells.append(_cell(row, "fft_over_chunked"))
        lines.append(f"| {row['context']} | {row['batch']} | {row['repeats']} | {' | '.join(cells)} |")
    return lines


def _cell(row: Mapping[Any, Any], name: str) -> str:
    if pd.isna(row.get(name)):
        return "not measured"
    return f"{row[name]:.2f} [{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the table as Markdown and CSV."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.smoke:
        table = measure_scan(SMOKE_WIDTHS, (16, 1024), 2, tokens=64)
    else:
        table = measure_scan(WIDTHS, options.contexts, options.repeats)
    text = as_markdown(table, shlex.join(["python", "-m", "benchmarks.scan", *given]))
    publish(options.out, f"{FILE}_smoke" if options.smoke else FILE, {"": table}, text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scan", description=main.__doc__)
    parser.add_argument("--out", default="docs/benchmarks", help="folder or URI of the results")
    parser.add_argument("--contexts", type=int, nargs="+", default=CONTEXTS, help="context lengths T")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--threads", type=int, help="threads of the CPU; default: as many as PyTorch takes")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it run? Names its files apart")
    return parser


if __name__ == "__main__":
    main()
