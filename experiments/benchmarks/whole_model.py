"""Training speed of whole models with the platform's training step: `python -m benchmarks.whole_model --help`.

Architectures take turns at every T, so that a ratio is one within a round; times are those of whole updates, the
optimiser included.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from benchmarks.document import facts, publish
from vqkernels.gpu_check.timing import Timing, reason, release, time_alternately
from vqscale.costing.presets import resolve
from vqscale.study.trial import Precision
from vqscale.throughput.plan import Cell
from vqscale.throughput.training_cell import TrainingCell

FILE = "whole_models"
Row = dict[str, Any]
_VOCABULARY = 256


@dataclass(frozen=True)
class Models:
    """Which models are trained, and on how many tokens per step."""

    preset: str
    architectures: tuple[str, ...]
    tokens: int
    lengths: tuple[int, ...]
    precision: Precision
    seconds_per_call: float
    rounds: int
    activation_checkpointing: bool  # the same for all models


FULL = Models(
    preset="190m",
    architectures=("transformer_vq", "transformer_full", "transformer"),
    tokens=131072,
    lengths=(2048, 4096, 8192, 16384, 32768, 65536, 131072),
    precision="bf16",
    seconds_per_call=15.0,
    rounds=3,
    activation_checkpointing=True,  # without it, 131,072 tokens per step need more than the 141 GB of a GPU
)
SMOKE = Models(
    preset="pico",
    architectures=("transformer_vq", "transformer"),
    tokens=64,
    lengths=(64,),
    precision="fp32",
    seconds_per_call=120.0,
    rounds=1,
    activation_checkpointing=True,
)


def measure_models(models: Models, device: torch.device, report: Callable[[str], None]) -> Iterator[Row]:
    """One row per architecture and T: tokens per second of the training step, optimiser included.

    An architecture is not tried at a longer T if a step there would exceed the limit (assuming that it takes twice as
    long with every doubling), or after it was out of memory twice: tokens per step are constant, and so is most memory.
    """
    given_up: dict[str, str] = {}
    without_memory: set[str] = set()
    for index, length in enumerate(models.lengths):
        works: dict[str, Callable[[], object]] = {}
        found: dict[str, Timing | str] = dict(given_up)
        for architecture in models.architectures:
            if architecture in given_up:
                continue
            try:
                works[architecture], seconds = _step(models, architecture, length, device)
            except Exception as error:  # a model that does not run here is a result, not a failure of the benchmark
                found[architecture] = reason(error)
            else:
                if index + 1 < len(models.lengths):
                    seconds *= models.lengths[index + 1] / length
                if seconds > models.seconds_per_call:
                    given_up[architecture] = f"not tried: about {seconds:.0f} s per step, more than the limit"
            release(device)
        found |= time_alternately(works, device, models.seconds_per_call, models.rounds)
        works.clear()
        release(device)
        for name in models.architectures:
            timing = found[name]
            if timing == "out of memory":
                if name in without_memory:
                    given_up[name] = f"not tried: out of memory at T = {length} and before"
                without_memory.add(name)
            yield _row(models, name, length, timing)
        report(f"{models.preset} models: T = {length} measured")


def _row(models: Models, architecture: str, length: int, timing: Timing | str) -> Row:
    label = f"{architecture} (eager, chunked)" if architecture == "transformer_full" else architecture
    row: Row = {"architecture": label, "preset": models.preset, "T": length, "tokens_per_step": models.tokens}
    row["activation_checkpointing"] = models.activation_checkpointing
    if isinstance(timing, str):
        return row | {"status": timing}
    speed = models.tokens / timing.median * 1e3
    return row | {"status": "ok", "ms": timing.median, "tokens_per_second": speed, "peak_bytes": timing.peak_bytes}


def _step(models: Models, architecture: str, length: int, device: torch.device) -> tuple[Callable[[], object], float]:
    """A function that makes one update, and the seconds of an update after the warm-up."""
    cell = Cell(
        model=resolve(architecture, models.preset, _VOCABULARY, {}),
        preset=models.preset,
        context=length,
        batch=models.tokens // length,
        batching="tokens",
        precision=models.precision,
        device="cuda" if device.type == "cuda" else "cpu",
        backend="triton" if architecture == "transformer_vq" else None,
    )
    model = TrainingCell(cell, activation_checkpointing=models.activation_checkpointing)
    model.warm_up()
    began = time.perf_counter()
    model.run(1)
    return lambda: model.run(1), time.perf_counter() - began


def as_markdown(table: pd.DataFrame, models: Models, command: str) -> str:
    """The table as Markdown, with everything needed to repeat the measurement."""
    lines = [
        "# Whole models: training steps",
        "",
        f"Preset {models.preset}, {models.tokens:,} tokens per step in {models.precision}: forward, backward, AdamW;",
        "activation checkpointing for all. Median of the rounds; architectures alternate within a round.",
        "",
        *facts(command),
        "",
        "| architecture | T | ms per step | tokens/s | peak memory | state |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for row in table.to_dict("records"):
        measured = row["status"] == "ok"
        cells = [f"{row['ms']:.1f}", f"{row['tokens_per_second']:,.0f}"] if measured else ["not measured"] * 2
        memory = f"{row['peak_bytes'] / 2**30:.1f} GiB" if measured and row["peak_bytes"] else "not measured"
        lines.append(f"| {row['architecture']} | {row['T']:,} | {' | '.join(cells)} | {memory} | {row['status']} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the table as Markdown and CSV."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    models = SMOKE if options.smoke else FULL
    rows = list(measure_models(models, device, lambda text: print(text, flush=True)))  # noqa: T201
    table = pd.DataFrame(rows)
    text = as_markdown(table, models, shlex.join(["python", "-m", "benchmarks.whole_model", *given]))
    publish(options.out, f"{FILE}_smoke" if options.smoke else FILE, {"": table}, text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.whole_model", description=main.__doc__)
    parser.add_argument("--out", default="docs/benchmarks", help="folder or URI of the results")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it run? Names its files apart")
    return parser


if __name__ == "__main__":
    main()
