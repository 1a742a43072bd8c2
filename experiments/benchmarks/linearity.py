"""Time and memory of blockwise VQ attention over T: are they linear? `python -m benchmarks.linearity --help`.

Timed is attention alone, forward and backward, batch 1, fp32, codes given, with the biases and relative keys of the
model. In every repeat each T processes the same number of tokens (a short T is called more often), and every
repeat goes through all T, so that ratios within one run can be compared.

Letters: H query heads, G key-value heads, T tokens, K key width, V value width, S codebook size, L block length.
"""

import argparse
import functools
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from benchmarks.document import facts, publish
from benchmarks.layers import SHAPES, SMOKE_SHAPES, Inputs, Shape, vq_layer
from vqscale.throughput.alternate import alternate
from vqscale.throughput.memory import LiveTensors, free_memory, is_out_of_memory

CONTEXTS = (2048, 4096, 8192, 16384, 32768, 65536, 131072)
REPEATS = 5
FILE = "attention_linearity"


def measure_linearity(
    shapes: Sequence[Shape] = SHAPES,
    contexts: Sequence[int] = CONTEXTS,
    repeats: int = REPEATS,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> pd.DataFrame:
    """One row per shape and T: microseconds per token, the same relative to the shortest T, and peak memory.

    `relative`, `relative_low` and `relative_high` are the median and range over repeats of the ratio within one
    repeat. A T that does not fit in memory has no row, and longer ones are not tried.
    """
    rows = [row for shape in shapes for row in _measure_shape(shape, sorted(contexts), repeats, clock)]
    return pd.DataFrame(rows)


def _measure_shape(
    shape: Shape, contexts: Sequence[int], repeats: int, clock: Callable[[], float]
) -> list[dict[str, object]]:
    peaks: dict[int, int] = {}
    for context in contexts:
        try:
            peaks[context] = _peak(shape, context)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            break
    longest = max(peaks)
    given = {context: Inputs(shape, context) for context in peaks}
    for inputs in given.values():
        vq_layer(inputs)
    work = {context: functools.partial(_call, inputs, longest // context) for context, inputs in given.items()}
    seconds = alternate(work, repeats, clock)
    per_token = {context: [taken / (longest // context * context) for taken in seconds[context]] for context in peaks}
    return [_row(shape, context, peaks[context], per_token) for context in peaks]


def _call(inputs: Inputs, times: int) -> None:
    for _ in range(times):
        vq_layer(inputs)


def _peak(shape: Shape, context: int) -> int:
    """Bytes alive at the peak of one forward and backward pass, inputs and gradients included."""
    tensors = LiveTensors(limit=free_memory())
    with tensors:
        vq_layer(Inputs(shape, context))
    return tensors.peak


def _row(shape: Shape, context: int, peak: int, per_token: dict[int, list[float]]) -> dict[str, object]:
    own, shortest = per_token[context], per_token[min(per_token)]
    relative = [ours / base for ours, base in zip(own, shortest, strict=True)]
    return {
        "shape": str(shape),
        "context": context,
        "repeats": len(own),
        "us_per_token": 1e6 * statistics.median(own),
        "us_per_token_low": 1e6 * min(own),
        "us_per_token_high": 1e6 * max(own),
        "relative": statistics.median(relative),
        "relative_low": min(relative),
        "relative_high": max(relative),
        "peak_memory_bytes": peak,
    }


class Line(NamedTuple):
    """Least squares of memory on T: bytes = `fixed` + `per_token` T; `worst` is the largest relative deviation."""

    fixed: float
    per_token: float
    worst: float


def memory_line(rows: pd.DataFrame) -> Line:
    """The straight line through the peak memory of one shape. Needs three lengths or more."""
    context, peak = (rows[name].to_numpy(dtype=float) for name in ("context", "peak_memory_bytes"))
    per_token, fixed = np.polyfit(context, peak, 1)
    worst = np.abs((fixed + per_token * context) / peak - 1).max()
    return Line(float(fixed), float(per_token), float(worst))


def as_markdown(table: pd.DataFrame, command: str) -> str:
    """The table as Markdown, with everything needed to repeat the measurement."""
    lines = [
        "# Blockwise VQ attention: time and memory per token over the context length",
        "",
        "Forward and backward pass of the attention alone (batch 1, fp32, codes given, biases and relative keys",
        "included). Median of the repeats, range in brackets; `relative` is the time per token divided by that of the",
        "shortest T in the same repeat. Memory is the bytes of tensors alive at the peak, inputs and gradients",
        "included.",
        "",
        *facts(command),
    ]
    for shape, rows in table.groupby("shape", sort=False):
        lines += ["", f"## {shape}", "", *_shape_lines(rows)]
    return "\n".join(lines) + "\n"


def _shape_lines(rows: pd.DataFrame) -> list[str]:
    lines = [
        "| T | repeats | us per token | relative | peak memory (MiB) | bytes per token |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows.to_dict("records"):
        time_ = f"{row['us_per_token']:.2f} [{row['us_per_token_low']:.2f}, {row['us_per_token_high']:.2f}]"
        relative = f"{row['relative']:.3f} [{row['relative_low']:.3f}, {row['relative_high']:.3f}]"
        peak = row["peak_memory_bytes"]
        memory = f"{peak / 2**20:.1f} | {peak / row['context']:.0f}"
        lines.append(f"| {row['context']} | {row['repeats']} | {time_} | {relative} | {memory} |")
    if len(rows) >= 3:
        line = memory_line(rows)
        lines += [
            "",
            f"Peak memory is {line.per_token:.0f} bytes per token times T plus {line.fixed / 2**20:.1f} MiB (least",
            f"squares); no T deviates from this line by more than {100 * line.worst:.2f} %.",
        ]
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the table as Markdown and CSV."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    if options.threads:
        torch.set_num_threads(options.threads)
    shapes = SMOKE_SHAPES if options.smoke else SHAPES
    contexts = (32, 64, 128) if options.smoke else options.contexts
    table = measure_linearity(shapes, contexts, 2 if options.smoke else options.repeats)
    text = as_markdown(table, shlex.join(["python", "-m", "benchmarks.linearity", *given]))
    publish(options.out, f"{FILE}_smoke" if options.smoke else FILE, {"": table}, text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.linearity", description=main.__doc__)
    parser.add_argument("--out", default="docs/benchmarks", help="folder or URI of the results")
    parser.add_argument("--contexts", type=int, nargs="+", default=CONTEXTS, help="context lengths T")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--threads", type=int, help="threads of the CPU; default: as many as PyTorch takes")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it run? Names its files apart")
    return parser


if __name__ == "__main__":
    main()
