"""Training speed and peak memory of the cells of a throughput study, over architectures and context lengths.

The update of `vqscale.train` itself (forward, backward, clipping, AdamW, codebooks) is timed on random tokens, in
alternation: the models of a round (one context length, one size, one device) are warmed up, then every repeat goes
through all of them. Compare within a round only. `vqscale.throughput.processes` does so in several processes.
"""

import functools
import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import torch

from vqscale.clock import utc_now
from vqscale.provenance import git_commit, machine
from vqscale.throughput.alternate import alternate
from vqscale.throughput.energy import Meter, open_meter
from vqscale.throughput.measurement import (
    OK,
    OUT_OF_MEMORY,
    SKIPPED,
    Measurement,
    current_versions,
)
from vqscale.throughput.memory import is_out_of_memory
from vqscale.throughput.plan import Cell, Round, ThroughputPlan, threads
from vqscale.throughput.training_cell import TrainingCell
from vqscale.train.ceiling import matmul_ceiling
from vqscale.train.device import device_name


class Stepper(Protocol):
    """The model of one cell, ready to train."""

    def warm_up(self) -> int:
        """Bring the model to its steady state; returns the peak memory of one update in bytes."""

    def run(self, updates: int) -> None:
        """Train for `updates` updates, and wait until the device has finished them."""


class MeasurementTools(NamedTuple):
    """What a measurement uses; tests substitute clocks and models of their own."""

    open_cell: Callable[[Cell], Stepper] = TrainingCell
    clock: Callable[[], float] = time.perf_counter
    open_meter: Callable[[torch.device], Meter | None] = open_meter
    ceiling: Callable[[str, str], float] = matmul_ceiling


Slow = dict[Cell, tuple[int, int]]
"""By curve: the shortest context length that was too slow, and the tokens of its step."""
DEFAULT_TOOLS = MeasurementTools()
WELL_OVER = 2
"""After a warm-up longer than this many times the limit of an update, plus COMPILING_SECONDS, no update is timed."""
COMPILING_SECONDS = 60.0
"""What kernels may take to compile during warm-up."""


def measure_rounds(
    plan: ThroughputPlan, todo: Mapping[int, Sequence[int]], slow: Slow, tools: MeasurementTools = DEFAULT_TOOLS
) -> Iterator[tuple[int, list[Measurement]]]:
    """Measure in this process: places of rounds, with the places of their cells that are to be timed together.

    Yields every round as soon as it is done, with one measurement for each of those cells.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads(plan.study))
    try:
        for index, places in todo.items():
            one = plan.rounds[index]
            chosen = replace(one, cells=tuple(one.cells[place] for place in places))
            measured = measure_round(chosen, slow, tools)
            for cell, measurement in zip(chosen.cells, measured, strict=True):
                note_slow(slow, cell, measurement)
            yield index, measured
    finally:
        torch.set_num_threads(before)


def note_slow(slow: Slow, cell: Cell, measurement: Measurement) -> None:
    if measurement.status.startswith(SKIPPED):
        slow.setdefault(cell.curve, (cell.context, cell.tokens_per_step))


class _Ready:
    """A warmed-up model: what a repeat runs, and the energy that its repeats took."""

    def __init__(self, cell: Stepper, peak: int, updates: int, meter: Meter | None) -> None:
        self.peak, self.updates, self.joules, self.runs = peak, updates, 0.0, 0
        self._cell: Stepper | None = cell
        self._meter = meter

    def close(self) -> None:
        """Release the model: it is not run again."""
        self._cell = None

    def __call__(self) -> None:
        assert self._cell is not None, "closed"
        before = self._meter.joules() if self._meter else 0.0
        self._cell.run(self.updates)
        self.runs += self.updates
        if self._meter:
            self.joules += self._meter.joules() - before


def measure_round(one: Round, slow: Slow, tools: MeasurementTools = DEFAULT_TOOLS) -> list[Measurement]:
    """The cells of one round, in its order. `slow`: curves that took too long at a shorter context length.

    Too little memory and too long an update are measurements without a speed. The weights and moments of all models of
    the round are in memory together; activations are there for one model at a time.
    """
    device, study = one.cells[0].torch_device, one.study
    peak = tools.ceiling(device.type, one.cells[0].precision)
    meter = tools.open_meter(device)
    ready: dict[Cell, _Ready] = {}
    refused: dict[Cell, Measurement] = {}
    for cell in one.cells:
        opened = _too_slow_before(cell, slow, study.seconds_per_cell) or _warm_up(cell, one, meter, tools, ready)
        if isinstance(opened, _Ready):
            ready[cell] = opened
        else:
            refused[cell] = _measurement(cell, one, **opened)
    timed: dict[Cell, Callable[[], None]] = {**ready}

    def release(cell: Cell) -> None:
        ready[cell].close()
        _free_memory_of(cell)

    seconds = alternate(
        *(timed, study.repeats_per_process, tools.clock),
        budget=study.seconds_per_cell / study.process_count,
        is_result=is_out_of_memory,
        on_failure=release,
    )
    out_of_memory = _out_of_memory(len(ready) - 1)
    measured = {
        cell: _timed(cell, one, ready[cell], seconds[cell], peak, meter)
        if cell in seconds
        else _measurement(cell, one, status=out_of_memory)
        for cell in ready
    }
    return [(refused | measured)[cell] for cell in one.cells]


def _timed(
    cell: Cell, one: Round, ready: _Ready, seconds: Sequence[float], peak: float, meter: Meter | None
) -> Measurement:
    return _measurement(
        cell,
        one,
        status=OK,
        step_seconds=[taken / ready.updates for taken in seconds],
        updates_per_repeat=ready.updates,
        peak_memory_bytes=ready.peak,
        peak_flops=peak,
        joules_per_token=ready.joules / (ready.runs * cell.tokens_per_step) if meter else None,
        energy_source=meter.source if meter else None,
    )


def _too_slow_before(cell: Cell, slow: Slow, limit: float) -> dict[str, Any] | None:
    """The status of a cell whose curve was too slow at a shorter context with no more tokens per step: it cannot be
    faster. None for others."""
    context, tokens = slow.get(cell.curve, (cell.context, 0))
    if context >= cell.context or cell.tokens_per_step < tokens:
        return None
    return {"status": f"{SKIPPED} {limit:g} s per update already at T = {context}"}


def _warm_up(
    cell: Cell, one: Round, meter: Meter | None, tools: MeasurementTools, others: dict[Cell, _Ready]
) -> _Ready | dict[str, Any]:
    """A model ready to be timed, or the status and measurements that say why it is not."""
    opened: _Ready | dict[str, Any] = {"status": _out_of_memory(len(others))}
    try:
        opened = _ready(tools.open_cell(cell), one, meter, tools.clock)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    if not isinstance(opened, _Ready):
        _free_memory_of(cell)
    return opened


def _free_memory_of(cell: Cell) -> None:
    """Free the memory of a model that nothing refers to any more (no traceback either), for the next model."""
    gc.collect()
    if cell.device == "cuda":
        torch.cuda.empty_cache()


def _out_of_memory(others: int) -> str:
    return f"{OUT_OF_MEMORY} beside the weights of {others} other model(s)" if others else OUT_OF_MEMORY


def _ready(cell: Stepper, one: Round, meter: Meter | None, clock: Callable[[], float]) -> _Ready | dict[str, Any]:
    """Warm up, time one update, and set how many of them make a repeat."""
    limit, start = one.study.seconds_per_cell, clock()
    peak = cell.warm_up()
    taken = clock() - start
    if taken > WELL_OVER * limit + COMPILING_SECONDS:  # a warm-up includes one whole update
        return {"status": f"{SKIPPED} {limit:g} s per update (warm-up: {taken:.0f} s)", "peak_memory_bytes": peak}
    start = clock()
    cell.run(1)
    taken = clock() - start
    if taken > limit:
        return {"status": f"{SKIPPED} {limit:g} s per update", "peak_memory_bytes": peak}
    return _Ready(cell, peak, max(1, math.ceil(one.study.seconds_per_repeat / max(taken, 1e-6))), meter)


def _measurement(cell: Cell, one: Round, **values: Any) -> Measurement:
    return Measurement(
        **values,
        device=device_name(cell.torch_device),
        threads=threads(one.study),
        machine=_machine(),
        versions=current_versions(),
        git=git_commit(),
        measured_at=utc_now(),
    )


@functools.cache
def _machine() -> str:
    return machine()
