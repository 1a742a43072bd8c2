"""Does blockwise VQ attention take linear time and memory? `python -m vqscale.bench.linearity --help`.

Timed is attention alone, forward and backward, batch 1, fp32, codes given, with the biases and relative keys of the
model. In every repeat each T processes the same number of tokens (a short T is called more often), and repeat after
repeat goes through all T, so that ratios within one run mean something.

Letters: H query heads, G key-value heads, T tokens, K key width, V value width, S codebook size, L block length.
"""

import argparse
import datetime
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
from rich.console import Console
from rich.markdown import Markdown
from torch import Tensor

from vqkernels import vq_attention
from vqscale import storage
from vqscale.bench.alternate import alternate
from vqscale.bench.machine import machine
from vqscale.bench.memory import LiveTensors, is_out_of_memory, room
from vqscale.train.record import git_commit, versions

CONTEXTS = (2048, 4096, 8192, 16384, 32768, 65536)
REPEATS = 5
FILE = "attention_linearity"


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


class Layer:
    """Inputs of one call at T tokens; calling it computes the output and every gradient."""

    def __init__(self, shape: Shape, context: int) -> None:
        draw = functools.partial(torch.randn, generator=torch.Generator().manual_seed(0))
        kv = (1, shape.n_kv_head, context)
        self._shape = shape
        self._leaves = [
            draw(1, shape.n_head, context, shape.d_key) * shape.d_key**-0.5,
            draw(*kv, shape.d_key),
            draw(*kv, shape.d_value),
            draw(shape.n_head, shape.d_key),
            draw(shape.n_head, shape.d_key),
            draw(shape.n_kv_head, shape.length + 1, shape.d_key),
        ]
        for leaf in self._leaves:
            leaf.requires_grad_()
        self._codebook_GSK = draw(shape.n_kv_head, shape.size, shape.d_key)
        self._code_BGT = torch.randint(0, shape.size, kv, generator=torch.Generator().manual_seed(1))
        self._d_out = draw(1, shape.n_head, context, shape.d_value)

    def __call__(self) -> tuple[Tensor, ...]:
        q, k, v, bias_u, bias_w, rel_key = self._leaves
        out, _ = vq_attention(
            q,
            k,
            v,
            self._code_BGT,
            self._codebook_GSK,
            block_length=self._shape.length,
            bias_u_HK=bias_u,
            bias_w_HK=bias_w,
            rel_key_GMK=rel_key,
            backend="blockwise",
        )
        return torch.autograd.grad(out, self._leaves, self._d_out)


def measure_linearity(
    shapes: Sequence[Shape] = SHAPES,
    contexts: Sequence[int] = CONTEXTS,
    repeats: int = REPEATS,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> pd.DataFrame:
    """One row a shape and T: microseconds a token, the same relative to the shortest T, and peak memory.

    `relative`, `relative_low` and `relative_high` are the median and range over repeats of the ratio within one
    repeat. A T that does not fit in memory has no row; the next longer ones are not tried.
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
    layers = {context: Layer(shape, context) for context in peaks}
    for layer in layers.values():
        layer()
    work = {context: functools.partial(_call, layer, longest // context) for context, layer in layers.items()}
    seconds = alternate(work, repeats, clock)
    per_token = {context: [taken / (longest // context * context) for taken in seconds[context]] for context in peaks}
    return [_row(shape, context, peaks[context], per_token) for context in peaks]


def _call(layer: Layer, times: int) -> None:
    for _ in range(times):
        layer()


def _peak(shape: Shape, context: int) -> int:
    """Bytes alive at the peak of one forward and backward pass, inputs and gradients included."""
    tensors = LiveTensors(limit=room())
    with tensors:
        Layer(shape, context)()
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
    """The table for people, with everything needed to repeat it."""
    facts = {
        "machine": machine(),
        "threads": str(torch.get_num_threads()),
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": git_commit() or "unknown (no checkout)",
        "command": f"`{command}`",
    }
    lines = [
        "# Blockwise VQ attention: time and memory a token over the context length",
        "",
        "Forward and backward pass of the attention alone (batch 1, fp32, codes given, biases and relative keys",
        "included). Median of the repeats, their range in brackets; `relative` is the time a token divided by that of",
        "the shortest T in the same repeat. Memory is the bytes of tensors alive at the peak, inputs and gradients",
        "included.",
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
    ]
    for shape, rows in table.groupby("shape", sort=False):
        lines += ["", f"## {shape}", "", *_shape_lines(rows)]
    return "\n".join(lines) + "\n"


def _shape_lines(rows: pd.DataFrame) -> list[str]:
    lines = [
        "| T | repeats | us a token | relative | peak memory (MiB) | bytes a token |",
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
            f"Peak memory is {line.per_token:.0f} bytes a token times T plus {line.fixed / 2**20:.1f} MiB (least",
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
    text = as_markdown(table, shlex.join(["python", "-m", "vqscale.bench.linearity", *given]))
    name = f"{FILE}_smoke" if options.smoke else FILE
    storage.write_text(storage.join(options.out, f"{name}.csv"), table.to_csv(index=False))
    storage.write_text(storage.join(options.out, f"{name}.md"), text)
    Console().print(Markdown(text))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vqscale.bench.linearity", description=main.__doc__)
    parser.add_argument("--out", default="docs/benchmarks", help="folder or URI of the results")
    parser.add_argument("--contexts", type=int, nargs="+", default=CONTEXTS, help="context lengths T")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--threads", type=int, help="threads of the CPU; default: as many as PyTorch takes")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it run? Names its files apart")
    return parser


if __name__ == "__main__":
    main()
