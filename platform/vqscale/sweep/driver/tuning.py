"""The trials of a plan through Ray Tune: queueing, retries, early stopping, records; the lanes do the training."""

import json
from dataclasses import dataclass
from typing import Any

import pyarrow.fs
import ray
from ray import tune
from ray.tune.schedulers import TrialScheduler

from vqscale import storage
from vqscale.clock import utc_now
from vqscale.costing.facts import failed_result
from vqscale.errors import StudyInterruptedError
from vqscale.plan.designs import DONE
from vqscale.plan.plan import Plan, PlannedTrial
from vqscale.results.records import write_result
from vqscale.results.result import Result
from vqscale.sweep.driver import cluster
from vqscale.sweep.driver.dispatcher import Dispatcher
from vqscale.sweep.driver.worker_groups import Lanes
from vqscale.sweep.observer import Observer
from vqscale.sweep.prefixes import discard_unused

WAITING = 1
"""Trials that Tune has submitted beside those in the lanes, so that a lane never waits for Tune's loop."""
LANE_STOP_SECONDS = 5.0
"""How long to wait for a lane to end by itself; its workers are free by then, Ray's own helpers may take longer."""


FOLLOWER_RESOURCES = {"node:__internal_head__": 0.001}
"""A trial's follower only waits: it sits on the head node and leaves every CPU to the lanes."""


class TrialFailedError(Exception):
    """An attempt of a trial failed; Ray Tune decides whether there is another."""


def submit_and_follow(config: dict[str, Any], dispatcher: Any = None, payloads: dict[str, Any] | None = None) -> None:
    """Ray Tune's trainable: hand the trial to the dispatcher and report what its lane tells."""
    assert payloads is not None
    trial_id = config["trial"]
    ray.get(dispatcher.submit.remote(trial_id, payloads[trial_id], payloads[trial_id]["place"]))
    seen = 0
    while True:
        for event in ray.get(dispatcher.events.remote(trial_id, seen)):
            seen += 1
            tokens = event["row"]["tokens"] if event["kind"] == "metrics" else 0
            tune.report({"event": event, "tokens": tokens, "bpb": event.get("row", {}).get("bpb", float("nan"))})
            if event["kind"] in ("finished", "cancelled"):
                return
            if event["kind"] == "failed":
                raise TrialFailedError(event["error"])


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What one run trained."""

    results: list[Result]
    lanes: int
    """Worker groups that trained side by side."""
    training_seconds: float
    """Spent in training steps by this run, over all lanes."""


class _Bridge(tune.Callback):  # type: ignore[misc]
    """Ray Tune's callbacks in the driver's words: rows, retries, ends. An end of Tune's making reaches the lane."""

    def __init__(self, plan: Plan, dispatcher: Any, observer: Observer) -> None:
        self._plan, self._dispatcher, self._observer = plan, dispatcher, observer
        self._trials = {planned.trial.id: planned.trial for planned in plan.trials}
        self._started: dict[str, str] = {}
        self._errors: dict[str, str] = {}
        self.results: dict[str, Result] = {}
        self.completed: set[str] = set()
        """Trials that Tune has ended, be it early."""
        self.training_seconds = 0.0

    def __getstate__(self) -> dict[str, Any]:
        """Tune stores its callbacks for a restore of its own; the study's folder is what a run goes on from."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._started.setdefault(trial.config["trial"], utc_now())

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        trial_id, event = trial.config["trial"], result.get("event")
        if event is None:
            return
        if event["kind"] == "metrics":
            self._observer.row(trial_id, event["row"])
        elif event["kind"] == "warning":
            self._observer.warn(trial_id, event["message"])
        elif event["kind"] == "failed":
            self._errors[trial_id] = event["error"]
        elif event["kind"] == "finished":
            self.finished(trial_id, event)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._observer.retried(trial.config["trial"], self._error(trial))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.completed.add(trial.config["trial"])
        self._dispatcher.cancel.remote(trial.config["trial"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        failed = self._trials[trial.config["trial"]]
        result = failed_result(
            self._plan.study.study,
            failed,
            error=self._error(trial),
            attempts=trial.num_failures,
            workers=self._plan.study.resources.workers,
            started_at=self._started[failed.id],
        )
        write_result(result, self._plan.folder(failed))
        self._end(failed.id, result)

    def finished(self, trial_id: str, event: dict[str, Any]) -> None:
        """Take the record of a trial that a lane has ended: finished, diverged or stopped."""
        self.training_seconds += event["training_seconds"]
        self._end(trial_id, Result.model_validate_json(json.dumps(event["result"])))

    def _error(self, trial: Any) -> str:
        return self._errors.get(trial.config["trial"]) or str(trial.get_error())

    def _end(self, trial_id: str, result: Result) -> None:
        self.results[trial_id] = result
        self._observer.ended(trial_id, result)
        if self._trials[trial_id].trunk is not None:
            discard_unused(self._plan, {name for name, ended in self.results.items() if ended.status in DONE})


def train(plan: Plan, observer: Observer, *, scheduler: TrialScheduler | None = None) -> Trained:
    """Train the pending trials of a plan on the connected cluster.

    Raises ClusterError when the cluster is too small, StudyInterruptedError when a person stopped it; what was trained
    by then stays, and the same call goes on from there.
    """
    resources, options = plan.study.resources, plan.study.run
    pending = plan.queue
    gpus = cluster.gpus_per_worker(resources)
    count = cluster.lane_count(resources, gpus, len(pending))
    dispatcher = ray.remote(Dispatcher).options(num_cpus=0).remote()
    attempts = len(pending) * (options.max_retries + 1)
    lanes = Lanes(plan.study, dispatcher, count=count, gpus_per_worker=gpus, failures=attempts)
    lanes.start()
    bridge = _Bridge(plan, dispatcher, observer)
    try:
        _tuner(plan, pending, dispatcher, bridge, count + WAITING, scheduler).fit()
        _await_stopped(dispatcher, bridge)
    finally:
        ray.get(dispatcher.close.remote())
        lanes.join(timeout=LANE_STOP_SECONDS)
    unfinished = [planned.trial.name for planned in pending if planned.trial.id not in bridge.results]
    if unfinished:
        raise StudyInterruptedError(f"{len(unfinished)} of {len(pending)} trials are not finished.")
    storage.remove(storage.join(plan.study.folder, "ray"))
    return Trained(results=list(bridge.results.values()), lanes=count, training_seconds=bridge.training_seconds)


def _await_stopped(dispatcher: Any, bridge: _Bridge) -> None:
    """Take the records of the trials that Tune ended early: their lanes evaluate them after that."""
    for trial_id in sorted(bridge.completed - set(bridge.results)):
        event = ray.get(dispatcher.final.remote(trial_id))
        if event["kind"] == "finished":
            bridge.finished(trial_id, event)


def _tuner(
    plan: Plan,
    pending: list[PlannedTrial],
    dispatcher: Any,
    bridge: _Bridge,
    concurrent: int,
    scheduler: TrialScheduler | None,
) -> tune.Tuner:
    payloads = {
        planned.trial.id: {
            "place": place,
            "study": plan.study.study,
            "trial": planned.trial.model_dump_json(),
            "options": plan.study.run.model_dump_json(),
            "folder": plan.folder(planned.trial),
            "trunk": planned.sharing.trunk.model_dump_json() if planned.sharing else None,
        }
        for place, planned in enumerate(pending)
    }
    fs, path = storage.filesystem(storage.join(plan.study.folder, "ray"))
    follow = tune.with_parameters(submit_and_follow, dispatcher=dispatcher, payloads=payloads)
    return tune.Tuner(
        tune.with_resources(follow, FOLLOWER_RESOURCES),
        param_space={"trial": tune.grid_search([planned.trial.id for planned in pending])},
        tune_config=tune.TuneConfig(
            scheduler=scheduler,
            max_concurrent_trials=concurrent,
            reuse_actors=True,
            trial_name_creator=lambda trial: trial.config["trial"],
            trial_dirname_creator=lambda trial: trial.config["trial"],
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=path,
            storage_filesystem=pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs)),
            failure_config=tune.FailureConfig(max_failures=plan.study.run.max_retries),
            callbacks=[bridge],
            verbose=0,
        ),
    )
