"""Throughput: measured, tabulated, drawn and logged; for a study of its own or as a section of one that trains."""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pandas as pd

from vqscale import storage
from vqscale.address import Address
from vqscale.errors import StudyInterruptedError, TrackingError
from vqscale.reporting import write_throughput_figures, write_throughput_report
from vqscale.results.lease import Lease
from vqscale.study.places import STUDY_FILE
from vqscale.study.spec import Study
from vqscale.study.throughput_study import ThroughputStudy
from vqscale.study.yaml_file import dumped
from vqscale.sweep.events import StudyEvents
from vqscale.throughput.assemble import make_table
from vqscale.throughput.plan import Round, ThroughputPlan, plan_throughput
from vqscale.throughput.processes import load_or_measure
from vqscale.throughput.request import study_of_section
from vqscale.throughput.table import THROUGHPUT_CSV, THROUGHPUT_PARQUET, write_throughput_table
from vqscale.track.throughput_runs import track_throughput
from vqscale.track.tracker import Tracker

Progress = Callable[[str, int, int], None]
"""Told what is measured next, how many rounds are done, and how many there are."""


@dataclass(frozen=True, kw_only=True)
class ThroughputRun:
    """A throughput study that was measured."""

    table: pd.DataFrame
    folder: str
    written: list[str]
    """URIs of table, figures and page."""
    measured_now: int
    """Cells; the others had been measured before."""


def run_throughput(
    study: ThroughputStudy,
    folder: str,
    tracking: Address | str | None,
    *,
    source: str,
    events: StudyEvents,
    progress: Progress,
    own_page: bool = True,
    again: bool = False,
) -> ThroughputRun:
    """Measure what is not measured yet, write table, figures and (`own_page`) the page, and log them to MLflow.

    Raises StudyError before anything is measured; StudyInterruptedError on Ctrl-C, with what was measured kept.
    """
    plan = plan_throughput(study, source=source)
    storage.require_writable(folder)
    tracker = Tracker(tracking, study.study, artifacts=storage.join(folder, "artifacts")) if tracking else None
    table, measured = measure(plan, folder, progress, events, again=again)
    if own_page:
        values = study.model_dump(mode="json") | {"storage": storage.absolute(study.storage)}
        storage.write_text(storage.join(folder, STUDY_FILE), dumped(values))
    figures = write_throughput_figures(table, folder)
    written = [*(storage.join(folder, name) for name in (THROUGHPUT_CSV, THROUGHPUT_PARQUET)), *figures]
    if own_page:
        written.append(write_throughput_report(folder, study=study, table=table))
    track(tracker, study, table, folder, written, events)
    return ThroughputRun(table=table, folder=folder, written=written, measured_now=measured)


def measure(
    plan: ThroughputPlan, folder: str, progress: Progress, events: StudyEvents, *, again: bool = False
) -> tuple[pd.DataFrame, int]:
    """The table of a plan, written to `folder`, and how many of its cells were measured now.

    Raises StudyOwnedError where another process measures into this folder, StudyInterruptedError on Ctrl-C or when
    another process has taken over; what was measured by then is kept.
    """
    lost: list[str] = []

    def next_round(one: Round, done: int, total: int) -> None:
        if lost:
            raise StudyInterruptedError(f"{lost[0]} What was measured is kept.")
        first = one.cells[0]
        progress(f"{first.preset}, {first.precision}, {first.device}, T = {first.context}", done, total)

    try:
        warn = functools.partial(events.message, level="warning")
        with Lease(folder, on_lost=lost.append, on_wait=events.message):
            measured = load_or_measure(plan, folder, again=again, on_round=next_round, warn=warn)
    except KeyboardInterrupt as error:
        raise StudyInterruptedError("What was measured is kept: the same command resumes from there.") from error
    table = make_table(plan, measured.by_cell)
    write_throughput_table(table, folder)
    return table, measured.now


def measure_section(study: Study, tracker: Tracker | None, events: StudyEvents, progress: Progress) -> pd.DataFrame:
    """The measurement that the `throughput` section of a study which trains asks for, in the study's folder."""
    plan = plan_throughput(study_of_section(study, study.throughput), source=study.study)
    table, _ = measure(plan, study.folder, progress, events)
    files = [storage.join(study.folder, THROUGHPUT_CSV), *write_throughput_figures(table, study.folder)]
    track(tracker, plan.study, table, study.folder, files, events)
    return table


def track(
    tracker: Tracker | None,
    study: ThroughputStudy,
    table: pd.DataFrame,
    folder: str,
    written: Iterable[str],
    events: StudyEvents,
) -> None:
    """Log to MLflow. By now the measurement is done and kept: a store that fails is reported, not raised."""
    if tracker is None:
        return
    try:
        names = [uri.removeprefix(folder + "/") for uri in written]
        track_throughput(tracker, study.study, table, folder, names)
    except TrackingError as error:
        events.message(f"MLflow lacks this measurement: {error}", "warning")
