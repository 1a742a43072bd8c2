"""Training speed and peak memory of the cells of a throughput study, over architectures and context lengths.

What is timed is the product's own update (forward, backward, clipping, AdamW, codebooks) on random tokens, in one
process, in alternation: the models of a round (one context length, one size, one device) are warmed up, then repeat
after repeat goes through all of them. Compare within a round only.
"""

import functools
import gc
import math
import time
from collections.abc import Callable, Sequence
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
    read_measurement,
    write_measurement,
)
from vqscale.throughput.memory import is_out_of_memory
from vqscale.throughput.plan import Cell, Round, ThroughputPlan, threads
from vqscale.throughput.training_cell import TrainingCell
from vqscale.train.ceiling import matmul_ceiling
from vqscale.train.device import device_name


class Stepper(Protocol):
    """The model of one cell."""

    def warm_up(self) -> int:
        """Bring everything to its steady state; returns the peak memory of one update in bytes."""

    def run(self, updates: int) -> None:
        """Train for so many updates, and wait until the device has done them."""


class MeasurementTools(NamedTuple):
    """What a measurement is made with; tests put clocks and models of their own in."""

    open_cell: Callable[[Cell], Stepper] = TrainingCell
    clock: Callable[[], float] = time.perf_counter
    open_meter: Callable[[torch.device], Meter | None] = open_meter
    ceiling: Callable[[str, str], float] = matmul_ceiling


RoundCallback = Callable[[Round, int, int], None]
"""Progress: the round that is about to be measured, how many of them are done, how many there are."""
Slow = dict[Cell, tuple[int, int]]
"""By curve: the shortest context length that was too slow, and the tokens of its step."""
DEFAULT_TOOLS = MeasurementTools()
WELL_OVER = 2
"""A warm-up that takes this many times the limit of an update, besides COMPILING_SECONDS, is not followed by one."""
COMPILING_SECONDS = 60.0
"""What kernels may take to compile during warm-up."""


class Measured(NamedTuple):
    by_cell: dict[str, Measurement]
    """Every cell of the plan by its id."""
    now: int
    """How many of them were measured now."""


def load_or_measure(
    plan: ThroughputPlan,
    folder: str,
    *,
    again: bool = False,
    on_round: RoundCallback = lambda _round, _done, _total: None,
    tools: MeasurementTools = DEFAULT_TOOLS,
) -> Measured:
    """The measurements of all cells: those that `folder` holds (unless `again`), the others made now and kept there.

    A round is measured as a whole. Interrupted, what its finished rounds have measured is kept.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads(plan.study))
    found: dict[str, Measurement] = {}
    slow: Slow = {}
    now = 0
    try:
        for index, one in enumerate(plan.rounds):
            kept = None if again else _kept(one, folder)
            if kept is None:
                on_round(one, index, len(plan.rounds))
                kept = measure_round(one, slow, tools)
                now += len(kept)
                for cell, measurement in zip(one.cells, kept, strict=True):
                    write_measurement(measurement, folder, one.id(cell))
            for cell, measurement in zip(one.cells, kept, strict=True):
                found[one.id(cell)] = measurement
                if measurement.status.startswith(SKIPPED):
                    slow.setdefault(cell.curve, (cell.context, cell.tokens_per_step))
    finally:
        torch.set_num_threads(before)
    return Measured(found, now)


def _kept(one: Round, folder: str) -> list[Measurement] | None:
    kept = [read_measurement(folder, one.id(cell)) for cell in one.cells]
    complete = [measurement for measurement in kept if measurement is not None]
    return complete if len(complete) == len(kept) else None


class _Ready:
    """A model that is warmed up: what a repeat runs, and the energy that its repeats took."""

    def __init__(self, cell: Stepper, peak: int, updates: int, meter: Meter | None) -> None:
        self.peak, self.updates, self.joules, self.runs = peak, updates, 0.0, 0
        self._cell: Stepper | None = cell
        self._meter = meter

    def close(self) -> None:
        """Let the model go: it is not run again."""
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

    Memory that does not suffice and time that does not are measurements without a speed. The models are in memory
    together: their weights and moments, while activations come one after another.
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

    def starve(cell: Cell) -> None:
        ready[cell].close()
        _give_back(cell)

    seconds = alternate(
        *(timed, study.repeats, tools.clock),
        budget=study.seconds_per_cell,
        is_result=is_out_of_memory,
        left_out=starve,
    )
    starved = _no_room(len(ready) - 1)
    measured = {
        cell: _timed(cell, one, ready[cell], seconds[cell], peak, meter)
        if cell in seconds
        else _measurement(cell, one, status=starved)
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
    """A longer context with as many tokens a step takes no less time than the shorter one that was too slow."""
    context, tokens = slow.get(cell.curve, (cell.context, 0))
    if context >= cell.context or cell.tokens_per_step < tokens:
        return None
    return {"status": f"{SKIPPED} {limit:g} s an update already at T = {context}"}


def _warm_up(
    cell: Cell, one: Round, meter: Meter | None, tools: MeasurementTools, others: dict[Cell, _Ready]
) -> _Ready | dict[str, Any]:
    """A model ready to be timed, or why it is not."""
    opened: _Ready | dict[str, Any] = {"status": _no_room(len(others))}
    try:
        opened = _ready(tools.open_cell(cell), one, meter, tools.clock)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    if not isinstance(opened, _Ready):
        _give_back(cell)
    return opened


def _give_back(cell: Cell) -> None:
    """Memory of a model that nothing refers to any more, so that the next one finds it: no traceback may hold it."""
    gc.collect()
    if cell.device == "cuda":
        torch.cuda.empty_cache()


def _no_room(others: int) -> str:
    return f"{OUT_OF_MEMORY} beside the weights of {others} other model(s)" if others else OUT_OF_MEMORY


def _ready(cell: Stepper, one: Round, meter: Meter | None, clock: Callable[[], float]) -> _Ready | dict[str, Any]:
    """Warm up, time one update, and choose how many of them make a repeat."""
    limit, start = one.study.seconds_per_cell, clock()
    peak = cell.warm_up()
    taken = clock() - start
    if taken > WELL_OVER * limit + COMPILING_SECONDS:  # it holds one whole update
        return {"status": f"{SKIPPED} {limit:g} s an update (warm-up: {taken:.0f} s)", "peak_memory_bytes": peak}
    start = clock()
    cell.run(1)
    taken = clock() - start
    if taken > limit:
        return {"status": f"{SKIPPED} {limit:g} s an update", "peak_memory_bytes": peak}
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
