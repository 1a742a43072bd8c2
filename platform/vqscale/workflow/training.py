"""Train what is not trained yet, and write the study's table. Safe to call any number of times."""

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from vqscale import storage
from vqscale.errors import ClusterError, StudyInterruptedError, TrackingError
from vqscale.masking import masked
from vqscale.planning.estimate import write_estimates
from vqscale.planning.plan import Plan, plan
from vqscale.results.lease import Lease
from vqscale.results.own_files import replace_text
from vqscale.results.records import intact_result
from vqscale.results.result import Result
from vqscale.results.table import write_table
from vqscale.study.spec import Study
from vqscale.study.yaml_file import dumped
from vqscale.sweep.client import DriverDiedError, Event, RayDriver
from vqscale.sweep.events import Broadcast, StudyEvents
from vqscale.sweep.local_size import check_local_size
from vqscale.sweep.observer import TrackingObserver
from vqscale.sweep.prefixes import SharedPrefixes
from vqscale.sweep.protocol import EarlyStopping, Order, Stage
from vqscale.track.store import check_reachable
from vqscale.track.tracker import Tracker

TABLES = ("results.parquet", "results.csv")
DEATHS = 2
"""Driver processes that may die one after another without a trial that ended meanwhile; the next death ends the run."""
BeforeStage = Callable[[Plan, StudyEvents], None]


@dataclass(kw_only=True)
class Trained:
    """What one run has trained so far."""

    results: list[Result] = field(default_factory=list)
    worker_groups: int = 0
    """The most that trained side by side."""
    seconds: float = 0.0
    """Spent in training steps, over all worker groups."""


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """A study after its trials: one result per trial, in the order of the study file."""

    study: Study
    results: list[Result]
    trained: Trained
    """What this run trained."""
    seconds: float
    """From connecting to the cluster to the end of the last trial."""
    tracker: Tracker

    @property
    def trained_now(self) -> int:
        return len(self.trained.results)

    @property
    def failed(self) -> list[Result]:
        return [result for result in self.results if result.status == "failed"]


def check_surroundings(study: Study, address: str | None) -> None:
    """Everything outside the study file that a run needs, looked at before anything starts or is written.

    Raises StorageError, TrackingError or ClusterError.
    """
    storage.require_writable(study.folder)
    check_reachable(study.tracking.uri)
    check_local_size(study.resources, address)


def train_study(
    study: Study,
    *,
    source: str = "study",
    address: str | None = None,
    events: StudyEvents,
    allow_changed: bool = False,
    stopping: EarlyStopping | None = None,
    before_stage: BeforeStage | None = None,
) -> TrainingRun:
    """Train the pending trials of a study and write its table to the study's folder.

    `before_stage` is called with what is about to be trained, and with all that is done.

    Raises UserError before anything is started when the request is wrong; StudyInterruptedError when the user stopped
    it and WorkFailedError when the driver process died, with the table of what had ended by then written.
    """
    started = time.monotonic()
    run = _Stages(lambda: plan(study, source=source, allow_changed=allow_changed), events, stopping)
    lease = Lease(study.folder, on_lost=run.lose, on_wait=events.message)
    seen = lease.before
    run.plan()
    check_surroundings(study, address)
    with lease:
        if lease.before != seen:  # another process has run it while this one planned
            run.plan()
        run.train(address, before_stage)
    return TrainingRun(
        study=study,
        results=run.planned.results,
        trained=run.trained,
        seconds=time.monotonic() - started,
        tracker=run.tracker,
    )


class _Stages:
    """Budget after budget of a study: a re-centred design takes its sizes from the results of smaller budgets."""

    planned: Plan

    def __init__(self, make_plan: Callable[[], Plan], events: StudyEvents, stopping: EarlyStopping | None) -> None:
        self.trained = Trained()
        self._make_plan, self._events, self._stopping = make_plan, events, stopping
        self._driver: RayDriver | None = None
        self._address: str | None = None
        self._lost: str | None = None
        """Why this process owns the study no more."""

    def plan(self) -> None:
        self.planned = self._make_plan()

    def lose(self, reason: str) -> None:
        """Another process trains these trials now: stop (called from the thread of the lease)."""
        self._lost = reason
        if self._driver is not None:
            self._driver.ask_to_stop()

    def train(self, address: str | None, before_stage: BeforeStage | None) -> None:
        """Train every stage; the table is written however it ends.

        A budget is trained once, also when trials of it failed: the next run of the study tries those again.
        """
        for sentence in self.planned.damaged:
            self._events.message(sentence, "warning")
        SharedPrefixes(self.planned).discard_unused()  # of trials that ended in a run that was killed before it could
        if not self.planned.pending:
            write_study(self.planned.study)
            self._send_what_tracking_lacks()
            self._write_tables()
            return
        self._address = address
        try:
            self._connect()  # before anything is written: it refuses a cluster that is too small
        except KeyboardInterrupt:
            raise StudyInterruptedError("Nothing was trained yet.") from None
        try:
            tracker = self.tracker
            write_study(self.planned.study)
            self._train_all(tracker, before_stage)
        finally:
            self._disconnect()

    def _train_all(self, tracker: Tracker, before_stage: BeforeStage | None) -> None:
        budgets: set[float | None] = set()
        try:
            while (stage := self.planned.stage(budgets)) is not None:
                write_estimates(self.planned, lambda text: self._events.message(text, "warning"))
                if before_stage is not None:
                    before_stage(stage, self._events)
                self._train_stage(stage, tracker)
                budgets |= {None, *(one.stage for one in stage.pending)}
                if any(one.stage is not None for one in self.planned.pending):
                    self.plan()
        finally:
            self._write_tables()

    @functools.cached_property
    def tracker(self) -> Tracker:
        """The study's runs in MLflow, opened once and before anything is trained. Raises TrackingError."""
        return open_tracker(self.planned.study)

    def _send_what_tracking_lacks(self) -> None:
        """Of a study with nothing left to train: MLflow gets what it missed while earlier runs trained."""
        tracker = self.tracker
        try:
            TrackingObserver(self.planned, self._events, tracker).catch_up()
        except TrackingError as error:
            self._events.message(f"MLflow lacks a part of this study: {error}", "warning")

    def _write_tables(self) -> None:
        for name in TABLES:
            write_table(self.planned.results, storage.join(self.planned.study.folder, name))

    def _train_stage(self, stage: Plan, tracker: Tracker) -> None:
        observer = TrackingObserver(stage, self._events, tracker)
        listeners = Broadcast(self._events, observer, SharedPrefixes(stage))
        listeners.stage_started(stage)
        ended: dict[str, Result] = {}
        try:
            self._train_until_ended(stage, listeners, ended)
        except (KeyboardInterrupt, StudyInterruptedError) as stop:
            if isinstance(stop, KeyboardInterrupt):  # while an event was awaited, or while one was shown or logged
                self._stop()
            self._read_records(stage, listeners, ended)
            missing = [one for one in stage.pending if one.trial.id not in ended]
            lost = f"{self._lost} " if self._lost else ""
            raise StudyInterruptedError(
                f"{lost}{len(missing)} of {len(stage.pending)} trials are not finished. What was trained is kept: the"
                " same command resumes from there."
            ) from None
        except (DriverDiedError, ClusterError):
            raise
        except BaseException:  # a listener, or the store of the results: nobody would take further events
            self._stop()
            raise
        finally:
            listeners.stage_ended()
            self._keep(ended)
            observer.catch_up()

    def _train_until_ended(self, stage: Plan, listeners: StudyEvents, ended: dict[str, Result]) -> None:
        """Train the trials of a stage, with another driver process where one died.

        Raises DriverDiedError when several die one after another without a trial that ended meanwhile.
        """
        deaths = 0
        while True:
            before = len(ended)
            if self._lost:  # while it connected, when there was no driver to stop
                raise StudyInterruptedError(self._lost)
            try:
                for event in self._connect().train(_request(stage, self._stopping, ended)):
                    self._take(event, stage, listeners, ended)
                return
            except DriverDiedError as error:
                self._disconnect()
                self._read_records(stage, listeners, ended)
                what = str(error).splitlines()[0]
                missing = [one.trial.name for one in stage.pending if one.trial.id not in ended]
                if not missing:
                    listeners.message(f"{what} All trials of this stage have their results.", "warning")
                    return
                deaths = 1 if len(ended) > before else deaths + 1
                if deaths > DEATHS:
                    raise DriverDiedError(
                        f"{len(missing)} of {len(stage.pending)} trials have no result yet: {error} Checkpoints are"
                        " kept: the same command resumes from them."
                    ) from error
                listeners.message(f"{what} It is started again; trials resume from their last checkpoints.", "warning")
                self._reconnect(error)

    def _reconnect(self, error: DriverDiedError) -> None:
        """Raises DriverDiedError where the cluster went with the driver."""
        try:
            self._connect()
        except ClusterError as gone:
            raise DriverDiedError(
                f"{error} The cluster is gone, too ({gone}) Checkpoints are kept: the same command resumes from them."
            ) from error

    def _take(self, event: Event, stage: Plan, events: StudyEvents, ended: dict[str, Result]) -> None:
        kind = event["kind"]
        if kind == "started":
            self.trained.worker_groups = max(self.trained.worker_groups, event["worker_groups"])
            groups = event["worker_groups"]
            events.phase(f"starting {groups} worker {'group' if groups == 1 else 'groups'}")
        if "trial" not in event:
            return
        trial = stage.by_id[event["trial"]].trial
        if kind == "row":
            events.row(trial, event["row"])
        elif kind == "phase":
            events.phase(event["phase"], trial)
        elif kind == "warning":
            events.message(f"{trial.name}: {event['message']}", "warning")
        elif kind == "retried":
            events.retried(trial, event["error"])
        elif kind == "ended":
            self.trained.seconds += event["training_seconds"]
            ended[trial.id] = Result.model_validate_json(event["result"])
            events.ended(trial, ended[trial.id])

    def _stop(self) -> None:
        if self._driver is not None:
            self._driver.ask_to_stop()  # first: a message may fail where its terminal is gone
            self._events.message("Stopping ... (Ctrl-C again ends it at once)")
            self._driver.stop()

    def _read_records(self, stage: Plan, events: StudyEvents, ended: dict[str, Result]) -> None:
        """Add the trials that ended without an event: their records say so, however the driver ended."""
        for one in stage.pending:
            record = None if one.trial.id in ended else intact_result(stage.folder(one.trial))
            if record is not None and record != one.result:  # a failed record of an earlier run is no news
                ended[one.trial.id] = record
                events.ended(one.trial, record)

    def _keep(self, ended: dict[str, Result]) -> None:
        self.trained.results += ended.values()
        trials = [dataclasses.replace(one, result=ended.get(one.trial.id, one.result)) for one in self.planned.trials]
        self.planned = dataclasses.replace(self.planned, trials=trials)

    def _connect(self) -> RayDriver:
        if self._driver is None:
            at = self._address or os.environ.get("RAY_ADDRESS")
            self._events.phase(
                f"connecting to the Ray cluster at {masked(at)}" if at else "starting Ray on this machine"
            )
            study = self.planned.study
            self._driver = RayDriver(self._address, study.resources, study.tracking.uri.variables).open()
        return self._driver

    def _disconnect(self) -> None:
        if self._driver is not None:
            self._driver.close()
            self._driver = None


def _request(stage: Plan, stopping: EarlyStopping | None, ended: Mapping[str, Result]) -> Stage:
    orders = tuple(
        Order(trial=one.trial, folder=stage.folder(one.trial), prefix=one.sharing.prefix if one.sharing else None)
        for one in stage.queue
        if one.trial.id not in ended
    )
    return Stage(study=stage.study, orders=orders, stopping=stopping)


def write_study(study: Study) -> None:
    """A copy of the study, every default in place, beside its results."""
    values = study.model_dump(mode="json") | {"storage": storage.absolute(study.storage)}
    replace_text(storage.join(study.folder, "study.yaml"), dumped(values))


def open_tracker(study: Study) -> Tracker:
    artifacts = storage.join(storage.absolute(study.storage), "artifacts", study.study)
    return Tracker(study.tracking.uri, study.study, artifacts=artifacts)
