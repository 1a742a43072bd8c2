"""Measurements by several processes one after another, kept as they are made.

Repeats within one process share its memory layout, its threads' places and the minute it ran in: they agree with each
other far better than with a second run of the same command. So each of several fresh processes measures every round,
and the spread between processes is what intervals are made of.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from vqscale.errors import WorkFailedError
from vqscale.throughput.measure import DEFAULT_TOOLS, MeasurementTools, Slow, measure_rounds, note_slow
from vqscale.throughput.measurement import OK, Measurement, merge, read_measurement, write_measurement
from vqscale.throughput.plan import Round, ThroughputPlan

RoundCallback = Callable[[Round, int, int], None]
"""Called before every round of every process: the round, how many are done, how many there are."""
Todo = Mapping[int, Sequence[int]]
"""Places of rounds in the plan, each with the places of its cells that are to be measured."""


class Measurer(Protocol):
    """Measures in one process; yields a round as soon as it is done."""

    def __call__(self, plan: ThroughputPlan, todo: Todo, slow: Slow) -> Iterator[tuple[int, list[Measurement]]]: ...


class Measured(NamedTuple):
    by_cell: dict[str, Measurement]
    """Every cell of the plan, by its id."""
    now: int
    """How many of them this call measured, at least in part."""


def in_child(plan: ThroughputPlan, todo: Todo, slow: Slow) -> Iterator[tuple[int, list[Measurement]]]:
    """Measure in a fresh process, which ends with this generator.

    Raises WorkFailedError where that process fails.
    """
    known = [
        (index, place)
        for index, one in enumerate(plan.rounds)
        for place, cell in enumerate(one.cells)
        if slow.get(cell.curve) == (cell.context, cell.tokens_per_step)
    ]
    task = {"study": plan.study.model_dump(mode="json"), "slow": known, "todo": dict(todo)}
    child = subprocess.Popen(
        [sys.executable, "-m", "vqscale.throughput.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        with contextlib.suppress(BrokenPipeError), child.stdin as pipe:  # it has ended: its code says why
            pipe.write(json.dumps(task))
        for line in child.stdout:
            if not line.endswith("\n"):  # it was killed while it wrote
                break
            done = json.loads(line)
            yield done["round"], [Measurement.model_validate(value) for value in done["measurements"]]
        if code := child.wait():
            raise WorkFailedError(
                f"The process that measures ended with {code} before it was done; its messages are above. What was"
                " measured is kept: the same command resumes from there."
            )
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def load_or_measure(
    plan: ThroughputPlan,
    folder: str,
    *,
    again: bool = False,
    on_round: RoundCallback = lambda _round, _done, _total: None,
    warn: Callable[[str], None] | None = None,
    tools: MeasurementTools | None = None,
) -> Measured:
    """The measurements of all cells: read from `folder` where it has them (unless `again`), else measured and kept.

    A round is measured as a whole by every process of the study. After an interruption what each process had finished
    is kept. A damaged measurement is reported to `warn` and made again; without `warn`, DamagedFileError is raised.
    `tools`: measure in this process with these.
    """
    measurer = in_child if tools is None else _in_this_process(tools)
    book = _Book(plan, folder, again, warn)
    total = len(plan.rounds) * book.processes
    for process in range(book.processes):
        todo = book.todo(process)
        left = list(todo)
        for index in left[:1]:
            on_round(plan.rounds[index], process * len(plan.rounds) + index, total)
        for index, measured in measurer(plan, todo, book.slow(process)) if todo else ():
            book.keep(process, index, todo[index], measured)
            left.remove(index)
            for following in left[:1]:
                on_round(plan.rounds[following], process * len(plan.rounds) + following, total)
    return book.result()


def _in_this_process(tools: MeasurementTools = DEFAULT_TOOLS) -> Measurer:
    def measure(plan: ThroughputPlan, todo: Todo, slow: Slow) -> Iterator[tuple[int, list[Measurement]]]:
        return measure_rounds(plan, todo, slow, tools)

    return measure


class _Book:
    """What every process has measured, in memory and in its files."""

    def __init__(self, plan: ThroughputPlan, folder: str, again: bool, warn: Callable[[str], None] | None) -> None:
        self.processes = plan.study.process_count
        self._plan, self._folder, self._now = plan, folder, set[str]()
        self._parts: dict[tuple[int, str], Measurement] = {}
        for process in range(self.processes) if not again else ():
            for one, cell in plan.cells:
                found = read_measurement(folder, one.id(cell), warn, self._file(process))
                if found is not None:
                    self._parts[process, one.id(cell)] = found

    def _file(self, process: int) -> int | None:
        """A study of one process has files without a number, as earlier versions wrote them."""
        return process + 1 if self.processes > 1 else None

    def todo(self, process: int) -> dict[int, list[int]]:
        """Rounds that a process has not finished: all cells that had a speed in the processes before it."""
        found = {}
        for index, one in enumerate(self._plan.rounds):
            places = [place for place, cell in enumerate(one.cells) if self._measurable(process, one.id(cell))]
            if any((process, one.id(one.cells[place])) not in self._parts for place in places):
                found[index] = places
        return found

    def _measurable(self, process: int, cell_id: str) -> bool:
        before = [self._parts.get((earlier, cell_id)) for earlier in range(process)]
        return all(part is None or part.status == OK for part in before)

    def slow(self, process: int) -> Slow:
        """Curves that are known to take too long, from what this process has measured at shorter lengths."""
        found: Slow = {}
        for one, cell in self._plan.cells:
            if (part := self._parts.get((process, one.id(cell)))) is not None:
                note_slow(found, cell, part)
        return found

    def keep(self, process: int, index: int, places: Sequence[int], measured: Sequence[Measurement]) -> None:
        one = self._plan.rounds[index]
        for place, measurement in zip(places, measured, strict=True):
            cell_id = one.id(one.cells[place])
            write_measurement(measurement, self._folder, cell_id, self._file(process))
            self._parts[process, cell_id] = measurement
            self._now.add(cell_id)

    def result(self) -> Measured:
        found = {}
        for one, cell in self._plan.cells:
            parts = [self._parts.get((process, one.id(cell))) for process in range(self.processes)]
            found[one.id(cell)] = merge([part for part in parts if part is not None])
        return Measured(found, len(self._now))
