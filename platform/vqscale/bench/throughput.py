"""Training speed and peak memory of `transformer_vq` against both quadratic baselines, over the context length T.

What is timed is the product's own update (forward, backward, clipping, AdamW, codebooks) on random tokens, in one
process, in alternation: at each T every model is warmed up, then repeat after repeat goes through all of them. Compare
within one such run only.
"""

import functools
import gc
import math
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

import pandas as pd
import torch

from vqscale.bench import table
from vqscale.bench.alternate import alternate
from vqscale.bench.cell import TrainingCell
from vqscale.bench.machine import device_label
from vqscale.bench.memory import is_out_of_memory
from vqscale.bench.request import Request
from vqscale.bench.table import Row
from vqscale.models.counts import parameters_non_embedding
from vqscale.study.model import Arch, ModelConfig

ARCHS: tuple[Arch, ...] = ("transformer_vq", "transformer_full", "transformer")
"""The order of the alternation."""
REPEAT_SECONDS = 0.25
"""A repeat holds as many updates as take this long: single updates of small models are too short to time."""


class Cell(Protocol):
    """One model at one context length."""

    def warm_up(self) -> int:
        """Bring everything to its steady state; returns the peak memory of one update in bytes."""

    def run(self, updates: int) -> None:
        """Train for so many updates, and wait until the device has done them."""


OpenCell = Callable[[Request, ModelConfig, int], Cell]
Told = Callable[[int, int, int], None]
"""Progress: the T that is about to be measured, how many of them are done, how many there are."""


class _Ready(NamedTuple):
    cell: Cell
    peak: int
    updates: int  # of one repeat


def measure_throughput(
    request: Request,
    *,
    open_cell: OpenCell = TrainingCell,
    clock: Callable[[], float] = time.perf_counter,
    told: Told = lambda _context, _done, _total: None,
) -> pd.DataFrame:
    """One row an architecture and T, with the columns of `vqscale.bench.table.Row`.

    Memory that does not suffice is a row with status "out of memory" and no speed. The models of one T are in memory
    together: their weights and moments, while activations come one after another. Raises StudyError for models that
    do not exist, before anything runs.
    """
    models = {arch: request.model(arch) for arch in ARCHS}
    contexts = sorted(set(request.spec.contexts))
    threads = torch.get_num_threads()
    torch.set_num_threads(request.thread_count)
    try:
        rows: list[Row] = []
        for index, context in enumerate(contexts):
            told(context, index, len(contexts))
            rows += _measure_context(request, models, context, open_cell, clock)
        return table.as_frame(rows)
    finally:
        torch.set_num_threads(threads)


def load_or_measure(
    request: Request, folder: str, *, again: bool = False, told: Told = lambda _context, _done, _total: None
) -> pd.DataFrame:
    """The measurement in `folder` if it is this one, else (or `again`) a new one, written there as Parquet and CSV."""
    found = None if again else table.stored(folder, request.fingerprint)
    if found is not None:
        return found
    measured = measure_throughput(request, told=told)
    table.write(measured, folder, request.fingerprint)
    return measured


def _measure_context(
    request: Request, models: dict[Arch, ModelConfig], context: int, open_cell: OpenCell, clock: Callable[[], float]
) -> list[Row]:
    opened = {
        arch: _warm_up(functools.partial(open_cell, request, model, context), request, clock)
        for arch, model in models.items()
    }
    ready = {arch: one for arch, one in opened.items() if one is not None}
    seconds = alternate(
        {arch: functools.partial(one.cell.run, one.updates) for arch, one in ready.items()},
        request.spec.repeats,
        clock,
        budget=request.seconds_per_cell,
        is_result=is_out_of_memory,
    )
    rows = []
    for arch, model in models.items():
        tokens = request.batch(context) * context * (ready[arch].updates if arch in ready else 0)
        speeds = [tokens / taken for taken in seconds.get(arch, [])]
        rows.append(_row(request, model, context, speeds, ready[arch].peak if speeds else None))
    return rows


def _warm_up(open_cell: Callable[[], Cell], request: Request, clock: Callable[[], float]) -> _Ready | None:
    """A model ready to be timed, or None when it does not fit in memory."""
    try:
        return _ready(open_cell(), request.seconds_per_cell, clock)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    # Only now, without the traceback, is what the model held given back, so that the next one finds it.
    gc.collect()
    if request.torch_device.type == "cuda":
        torch.cuda.empty_cache()
    return None


def _ready(cell: Cell, budget: float, clock: Callable[[], float]) -> _Ready:
    """Warm up and choose the updates of a repeat; where one update is slow already, without a trial of its own."""
    start = clock()
    peak = cell.warm_up()
    taken = clock() - start
    if taken < min(budget, 10 * REPEAT_SECONDS):
        start = clock()
        cell.run(1)
        taken = clock() - start
    return _Ready(cell, peak, max(1, math.ceil(REPEAT_SECONDS / max(taken, 1e-6))))


def _row(request: Request, model: ModelConfig, context: int, speeds: list[float], peak: int | None) -> Row:
    return Row(
        arch=model.arch,
        head=model.head,
        preset=request.spec.preset,
        parameters_non_embedding=parameters_non_embedding(model),
        context=context,
        batch=request.batch(context),
        tokens_per_second=statistics.median(speeds) if speeds else None,
        tokens_per_second_low=min(speeds, default=None),
        tokens_per_second_high=max(speeds, default=None),
        peak_memory_bytes=peak,
        device=device_label(request.torch_device),
        threads=request.thread_count,
        precision=request.precision,
        repeats=len(speeds),
        status="ok" if speeds else "out of memory",
    )
