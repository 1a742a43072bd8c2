"""`run(plan)`: train what is not trained yet, and write the study's table. Safe to call any number of times."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import yaml
from ray.tune.schedulers import TrialScheduler
from rich.console import Console

from vqscale import storage
from vqscale.errors import StudyError
from vqscale.plan.plan import plan
from vqscale.results.record import Result
from vqscale.results.table import write_table
from vqscale.study.spec import Study
from vqscale.sweep import cluster
from vqscale.sweep.observer import Observer
from vqscale.sweep.progress import Progress
from vqscale.sweep.train import train
from vqscale.track.tracker import Tracker, check_reachable

TABLES = ("results.parquet", "results.csv")


@dataclass(frozen=True, kw_only=True)
class StudyResults:
    """A study after its trials: one result a trial, in the order of the study file."""

    study: Study
    results: list[Result]
    trained: list[Result]
    """Those that this run trained."""
    seconds: float
    """From connecting to the cluster to the last trial's end."""
    lanes: int
    """Worker groups that trained side by side."""
    tracker: Tracker

    @property
    def trained_now(self) -> int:
        return len(self.trained)

    @property
    def failed(self) -> list[Result]:
        return [result for result in self.results if result.status == "failed"]


def check(study: Study, address: str | None) -> None:
    """Everything outside the study file that a run needs, looked at before anything starts or is written.

    Raises StorageError, TrackingError or ClusterError.
    """
    storage.require_writable(study.folder)
    check_reachable(study.tracking.uri)
    cluster.check_local_size(study.resources, address)


def run(
    study: Study,
    *,
    source: str = "study",
    address: str | None = None,
    console: Console,
    allow_changed: bool = False,
    scheduler: TrialScheduler | None = None,
) -> StudyResults:
    """Train the pending trials of a study and write its table to the study's folder.

    Raises UserError before anything is started when the request is wrong; KeyboardInterrupt when a person stopped it.
    """
    planned = plan(study, source=source, allow_changed=allow_changed)
    check(study, address)
    started, trained, lanes = time.monotonic(), list[Result](), 0
    with ThreadPoolExecutor(max_workers=1) as aside:  # a fresh MLflow store takes as long to make as Ray to start
        opening = aside.submit(open_tracker, study)
        if planned.pending:
            with cluster.connected(address):
                write_study(study)
                with Progress(planned, console) as progress:
                    observer = Observer(planned, progress, opening.result())
                    trained, lanes = train(planned, observer, scheduler=scheduler)
        seconds = time.monotonic() - started
        results = collect(study, source=source)
        return StudyResults(
            study=study, results=results, trained=trained, seconds=seconds, lanes=lanes, tracker=opening.result()
        )


def write_study(study: Study) -> None:
    """A copy of the study, every default in place, beside its results."""
    values = study.model_dump(mode="json") | {"storage": storage.absolute(study.storage)}
    storage.write_text(storage.join(study.folder, "study.yaml"), yaml.safe_dump(values, sort_keys=False))


def open_tracker(study: Study) -> Tracker:
    artifacts = storage.join(storage.absolute(study.storage), "artifacts", study.study)
    return Tracker(study.tracking.uri, study.study, artifacts=artifacts)


def collect(study: Study, *, source: str = "study") -> list[Result]:
    """The records of a study's trials in the order of its file, written as its table.

    Raises StudyError when no trial has a record.
    """
    results = plan(study, source=source, allow_changed=True).results
    if not results:
        raise StudyError(f"{source}: study {study.study!r} has no results in {study.folder}. Run `vqscale run` first.")
    for name in TABLES:
        write_table(results, storage.join(study.folder, name))
    return results
