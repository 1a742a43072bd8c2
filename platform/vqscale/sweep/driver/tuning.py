"""The trials of a stage through Ray Tune: queueing, retries, early stopping; the warm worker groups train them."""

import contextlib
import json
import threading
from collections.abc import Callable
from typing import Any

import pyarrow.fs
import ray
from ray import tune
from ray.exceptions import RayActorError, RayError

from vqscale import storage
from vqscale.clock import utc_now
from vqscale.costing.facts import failed_result
from vqscale.errors import StudyInterruptedError
from vqscale.results.records import write_result
from vqscale.sweep.driver import cluster
from vqscale.sweep.driver.dispatcher import Dispatcher
from vqscale.sweep.driver.stopping import WithinTolerance
from vqscale.sweep.driver.worker_groups import WorkerGroups
from vqscale.sweep.protocol import Stage

Emit = Callable[[dict[str, Any]], None]
WAITING = 1
"""Trials that Tune has submitted beside those in the worker groups, so that a group never waits for Tune's loop."""
GROUP_STOP_SECONDS = 5.0
"""How long to wait for a group to end by itself; its workers are free by then, Ray's own helpers may take longer."""


HEAD_RESOURCES = {"node:__internal_head__": 0.001}
"""The dispatcher and the followers of trials only wait: they sit on the head node, without which nothing of Ray goes
on, and leave every CPU to the worker groups. An actor that needs nothing is put on any node, and dies with it."""
LEAVE_SECONDS = 45.0
"""How long trials may take to write their checkpoints at a stop."""
POLL_SECONDS = 0.2
QUEUE_LOST = {"kind": "queue lost"}


class QueueLostError(Exception):
    """The process that holds the queue of trials is gone."""


class TrialFailedError(Exception):
    """An attempt of a trial failed; Ray Tune decides whether there is another."""


def submit_and_follow(config: dict[str, Any], dispatcher: Any = None, payloads: dict[str, Any] | None = None) -> None:
    """Ray Tune's trainable: hand the trial to the dispatcher and report the events of the group that trains it."""
    assert payloads is not None
    trial_id = config["trial"]
    try:
        _follow(trial_id, dispatcher, payloads[trial_id])
    except RayActorError:  # no failure of the trial: it keeps its attempts, and the stage ends
        tune.report({"event": QUEUE_LOST, "tokens": 0, "bpb": float("nan")})


def _follow(trial_id: str, dispatcher: Any, payload: dict[str, Any]) -> None:
    ray.get(dispatcher.submit.remote(trial_id, payload, payload["place"]))
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


class _Bridge(tune.Callback):  # type: ignore[misc]
    """Ray Tune's callbacks as events: rows, retries, ends. An end that Tune decides on reaches the worker group."""

    def __init__(self, stage: Stage, dispatcher: Any, emit: Emit) -> None:
        self._study, self._dispatcher, self._emit = stage.study, dispatcher, emit
        self._orders = {order.trial.id: order for order in stage.orders}
        self._started: dict[str, str] = {}
        self._errors: dict[str, str] = {}
        self.ended: set[str] = set()
        """Trials with a record."""
        self.completed: set[str] = set()
        """Trials that Tune has ended, possibly early."""
        self.queue_lost = False

    def __getstate__(self) -> dict[str, Any]:
        """Tune stores its callbacks for a restore of its own; a run resumes from the study's folder instead."""
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
            self._emit({"kind": "row", "trial": trial_id, "row": event["row"]})
        elif event["kind"] == "phase":
            self._emit({"kind": "phase", "trial": trial_id, "phase": event["phase"]})
        elif event["kind"] == "warning":
            self._emit({"kind": "warning", "trial": trial_id, "message": event["message"]})
        elif event["kind"] == "failed":
            self._errors[trial_id] = event["error"]
        elif event == QUEUE_LOST:
            self.queue_lost = True
        elif event["kind"] == "finished":
            self.finished(trial_id, event)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._emit({"kind": "retried", "trial": trial.config["trial"], "error": self._error(trial)})

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.completed.add(trial.config["trial"])
        self._dispatcher.cancel.remote(trial.config["trial"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        order = self._orders[trial.config["trial"]]
        result = failed_result(
            self._study.study,
            order.trial,
            error=self._error(trial),
            attempts=trial.num_failures,
            workers=self._study.resources.workers,
            started_at=self._started[order.trial.id],
        )
        result = write_result(result, order.folder)
        self._end(order.trial.id, result.model_dump(mode="json"), 0.0)

    def finished(self, trial_id: str, event: dict[str, Any]) -> None:
        """Take the record of a trial that a worker group has ended: finished, diverged or stopped."""
        self._end(trial_id, event["result"], event["training_seconds"])

    def _error(self, trial: Any) -> str:
        return self._errors.get(trial.config["trial"]) or str(trial.get_error())

    def _end(self, trial_id: str, result: dict[str, Any], seconds: float) -> None:
        self.ended.add(trial_id)
        self._emit({"kind": "ended", "trial": trial_id, "result": json.dumps(result), "training_seconds": seconds})


class _WhenQueueLost(tune.Stopper):  # type: ignore[misc]
    """Ends the stage when the queue is lost: trials that Tune starts after that could not be trained."""

    def __init__(self, bridge: _Bridge) -> None:
        self._bridge = bridge

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._bridge.queue_lost

    def __getstate__(self) -> dict[str, Any]:
        """As of the callbacks: Tune stores it and nobody restores it."""
        return {}


def train(stage: Stage, emit: Emit, stopping: threading.Event) -> None:
    """Train the trials of a stage on the connected cluster, and emit what happens.

    When `stopping` is set, what trains writes a checkpoint, `interrupted` is emitted and this process may be ended.
    Raises ClusterError when the cluster is too small, StudyInterruptedError when the stage was stopped; what was
    trained by then stays, and the same stage resumes from there.
    """
    study = stage.study
    gpus = cluster.gpus_per_worker(study.resources)
    count = cluster.group_count(study.resources, gpus, len(stage.orders))
    dispatcher = ray.remote(Dispatcher).options(num_cpus=0, resources=HEAD_RESOURCES).remote()
    over = threading.Event()
    threading.Thread(target=_stop_when_asked, args=(stopping, over, dispatcher, emit), daemon=True).start()
    attempts = len(stage.orders) * (study.run.max_retries + 1)
    groups = WorkerGroups(study, dispatcher, count=count, gpus_per_worker=gpus, failures=attempts)
    groups.start()
    emit({"kind": "started", "worker_groups": count})
    bridge = _Bridge(stage, dispatcher, emit)
    try:
        _tuner(stage, dispatcher, bridge, count + WAITING).fit()
        if not bridge.queue_lost and not stopping.is_set():
            _await_stopped(dispatcher, bridge)
    finally:
        over.set()
        with contextlib.suppress(RayActorError):
            ray.get(dispatcher.close.remote())
        groups.join(timeout=LEAVE_SECONDS if bridge.queue_lost else GROUP_STOP_SECONDS)
    if bridge.queue_lost:
        raise QueueLostError("the process that holds the queue of trials died, or its node did")
    unfinished = [order.trial.name for order in stage.orders if order.trial.id not in bridge.ended]
    if unfinished:
        raise StudyInterruptedError(f"{len(unfinished)} of {len(stage.orders)} trials are not finished.")
    storage.remove(storage.join(study.folder, "ray"))


def _stop_when_asked(stopping: threading.Event, over: threading.Event, dispatcher: Any, emit: Emit) -> None:
    """Close the queue as soon as a stop is asked for, and say when every trial has left.

    Not by way of Tune: ending it takes ten seconds in which nothing is saved. Ends with its stage (`over`): the queue
    of an earlier one has nothing to wait for, and would say so while trials of the present one still save.
    """
    while not stopping.wait(POLL_SECONDS):
        if over.is_set():
            return
    if over.is_set():
        return
    try:
        ray.get(dispatcher.close.remote())
        ray.get(dispatcher.left.remote(), timeout=LEAVE_SECONDS)
    except RayError:  # lost, or a worker that does not answer: there is nothing to wait for
        pass
    emit({"kind": "interrupted"})


def _await_stopped(dispatcher: Any, bridge: _Bridge) -> None:
    """Take the records of the trials that Tune ended early: their groups evaluate them after that."""
    for trial_id in sorted(bridge.completed - bridge.ended):
        event = ray.get(dispatcher.final.remote(trial_id))
        if event["kind"] == "finished":
            bridge.finished(trial_id, event)


def _tuner(stage: Stage, dispatcher: Any, bridge: _Bridge, concurrent: int) -> tune.Tuner:
    study, stopping = stage.study, stage.stopping
    scheduler = WithinTolerance(list(stopping.rungs), stopping.margin) if stopping else None
    payloads = {
        order.trial.id: {
            "place": place,
            "study": study.study,
            "trial": order.trial.model_dump_json(),
            "options": study.run.model_dump_json(),
            "folder": order.folder,
            "shared_prefix": order.prefix.model_dump_json() if order.prefix else None,
        }
        for place, order in enumerate(stage.orders)
    }
    fs, path = storage.filesystem(storage.join(study.folder, "ray"))
    follow = tune.with_parameters(submit_and_follow, dispatcher=dispatcher, payloads=payloads)
    return tune.Tuner(
        tune.with_resources(follow, HEAD_RESOURCES),
        param_space={"trial": tune.grid_search([order.trial.id for order in stage.orders])},
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
            failure_config=tune.FailureConfig(max_failures=study.run.max_retries),
            callbacks=[bridge],
            stop=_WhenQueueLost(bridge),
            verbose=0,
        ),
    )
