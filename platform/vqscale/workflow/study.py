"""`run(plan)`: train what is not trained yet, and write the study's table. Safe to call any number of times."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import yaml
from ray.tune.schedulers import TrialScheduler
from rich.console import Console

from vqscale import storage
from vqscale.cli.live_table import Progress
from vqscale.errors import StudyInterruptedError
from vqscale.plan.estimate import write_estimates
from vqscale.plan.plan import Plan, plan
from vqscale.results.result import Result
from vqscale.results.table import write_table
from vqscale.study.spec import Study
from vqscale.sweep.driver import cluster
from vqscale.sweep.driver.tuning import Trained, train
from vqscale.sweep.observer import Observer
from vqscale.sweep.prefixes import discard_unused
from vqscale.track.tracker import Tracker, check_reachable

TABLES = ("results.parquet", "results.csv")


@dataclass(frozen=True, kw_only=True)
class StudyResults:
    """A study after its trials: one result a trial, in the order of the study file."""

    study: Study
    results: list[Result]
    trained: Trained
    """What this run trained."""
    seconds: float
    """From connecting to the cluster to the last trial's end."""
    tracker: Tracker

    @property
    def trained_now(self) -> int:
        return len(self.trained.results)

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
    before_stage: Callable[[Plan, Console], None] | None = None,
) -> StudyResults:
    """Train the pending trials of a study and write its table to the study's folder.

    `before_stage` is called with what is about to be trained, and with all that is done.

    Raises UserError before anything is started when the request is wrong; StudyInterruptedError when a person stopped
    it, with the table of what had ended by then written.
    """
    planned = plan(study, source=source, allow_changed=allow_changed)
    check(study, address)
    discard_unused(planned)  # of trials that ended in a run that was killed before it could
    started, trained = time.monotonic(), Trained(results=[], lanes=0, training_seconds=0.0)
    try:
        if planned.pending:
            with cluster.connected(address):
                cluster.require_room(study.resources)
                tracker = open_tracker(study)
                write_study(study)
                trained = _train_in_stages(
                    lambda: plan(study, source=source, allow_changed=allow_changed),
                    console,
                    tracker,
                    scheduler,
                    before_stage,
                )
        else:
            tracker = open_tracker(study)
    except StudyInterruptedError:
        collect(study, source=source)
        raise
    return StudyResults(
        study=study,
        results=collect(study, source=source),
        trained=trained,
        seconds=time.monotonic() - started,
        tracker=tracker,
    )


def _train_in_stages(
    make_plan: Callable[[], Plan],
    console: Console,
    tracker: Tracker,
    scheduler: TrialScheduler | None,
    before_stage: Callable[[Plan, Console], None] | None = None,
) -> Trained:
    """Train budget after budget, planning anew before each: a re-centred design chooses sizes by the smaller budgets.

    A budget is trained once, also when trials of it failed: the next run of the study tries those again.
    """
    total = Trained(results=[], lanes=0, training_seconds=0.0)
    trained: set[float | None] = set()
    while True:
        planned = make_plan()
        stage = planned.stage(trained)
        if stage is None:
            return total
        write_estimates(planned)
        if before_stage is not None:
            before_stage(stage, console)
        with Progress(stage, console) as progress:
            now = _train(stage, Observer(stage, progress, tracker), scheduler)
        total = Trained(
            results=total.results + now.results,
            lanes=max(total.lanes, now.lanes),
            training_seconds=total.training_seconds + now.training_seconds,
        )
        trained |= {None, *(planned.stage for planned in stage.pending)}


def _train(planned: Plan, observer: Observer, scheduler: TrialScheduler | None) -> Trained:
    try:
        return train(planned, observer, scheduler=scheduler)
    finally:
        observer.catch_up()


def write_study(study: Study) -> None:
    """A copy of the study, every default in place, beside its results."""
    values = study.model_dump(mode="json") | {"storage": storage.absolute(study.storage)}
    storage.write_text(storage.join(study.folder, "study.yaml"), yaml.safe_dump(values, sort_keys=False))


def open_tracker(study: Study) -> Tracker:
    artifacts = storage.join(storage.absolute(study.storage), "artifacts", study.study)
    return Tracker(study.tracking.uri, study.study, artifacts=artifacts)


def collect(study: Study, *, source: str = "study") -> list[Result]:
    """The records of a study's trials in the order of its file, written as its table."""
    results = plan(study, source=source, allow_changed=True).results
    for name in TABLES:
        write_table(results, storage.join(study.folder, name))
    return results
