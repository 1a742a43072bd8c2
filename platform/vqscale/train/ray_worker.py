"""The Ray Train entry: a worker group that takes one trial after another from the dispatcher.

Nothing of a trial is left for the next one: model, engine, generators and carried state are created for each, and a
trial that raised ends its processes (Ray Train starts the group again), so that no broken collective is reused.
"""

import itertools
import json
import tempfile
import threading
import time
import traceback
import uuid
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.exceptions import RayActorError, RayError
from torch.distributed import ProcessGroup

from vqscale.clock import utc_now
from vqscale.errors import StorageError, StudyInterruptedError
from vqscale.results.metrics_rows import Row
from vqscale.results.records import write_result
from vqscale.study.shared_prefix import SharedPrefix
from vqscale.study.spec import RunOptions
from vqscale.study.trial import Trial
from vqscale.train.checkpoint_files import discard_checkpoints
from vqscale.train.device import device_name
from vqscale.train.engine import import_deepspeed
from vqscale.train.finished import finished_result
from vqscale.train.trial import run_trial


class RayHost:
    """Ray Train behind the `Host` protocol: metrics go to the dispatcher, checkpoints through `ray.train.report`.

    A dispatcher that is gone (its node was lost) is a reason to leave like the end of the study: after a checkpoint.
    """

    def __init__(self, dispatcher: Any, trial_id: str, attempt: int) -> None:
        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        self.world: int = context.get_world_size()
        self.device = _device()
        self.group: ProcessGroup | None = None
        self.unsaved = False
        self._dispatcher = dispatcher
        self._trial_id = trial_id
        self._attempt = attempt
        self._leaving = threading.Event()
        if self.rank == 0:
            threading.Thread(target=self._watch, name="leaving", daemon=True).start()

    def publish(self, row: Row) -> bool:
        return bool(self.send({"kind": "metrics", "row": row}) == "stop")

    def leaving(self) -> bool:
        return self._leaving.is_set()

    def checkpointed(self, uri: str, step: int) -> None:
        """Register the checkpoint with Ray Train as a pointer: the files themselves are in the trial's own folder."""
        if self._leaving.is_set():  # the controller may be gone
            return
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "pointer.json").write_text(json.dumps({"uri": uri, "trial": self._trial_id}))
            ray.train.report(
                {"trial": self._trial_id, "step": step},
                checkpoint=ray.train.Checkpoint.from_directory(folder) if self.rank == 0 else None,
            )

    def warn(self, message: str) -> None:
        if self.rank == 0:
            self.send({"kind": "warning", "message": message})

    def enter(self, phase: str) -> None:
        if self.rank == 0:
            self.send({"kind": "phase", "phase": phase})

    def send(self, event: dict[str, Any]) -> Any:
        """Give the dispatcher an event of this attempt; returns its directive."""
        try:
            directive = ray.get(self._dispatcher.publish.remote(self._trial_id, self._attempt, event))
        except RayActorError:
            directive = "leave"
        if directive == "leave":
            self._leaving.set()
        return directive

    def _watch(self) -> None:
        """Between rows, too, learn that the study stops: a row of a large model takes minutes."""
        try:
            leaves = ray.get(self._dispatcher.leaving.remote(self._trial_id, self._attempt))
        except RayError:
            leaves = True
        if leaves:
            self._leaving.set()
            if not self.unsaved:  # it starts, evaluates or has just written a checkpoint: nobody has to wait for it
                self.send({"kind": "left"})


def _device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device: torch.device = ray.train.torch.get_device()
    torch.cuda.set_device(device)
    return device


def serve(config: dict[str, Any]) -> None:
    """Train function of a worker group: every rank runs it until the dispatcher has no more trials for the group."""
    torch.set_num_threads(config["cpus_per_worker"])
    import_deepspeed()
    dispatcher, group = config["dispatcher"], config["group"]
    incarnation = _shared_token()
    for turn in itertools.count():
        try:
            order = ray.get(dispatcher.take.remote(group, incarnation, turn))
        except RayActorError:  # the driver starts another dispatcher, with groups of its own
            return
        if order is None:
            return
        _run(order, dispatcher)


def _shared_token() -> str:
    """A name for this start of the group, the same on every rank."""
    token = [uuid.uuid4().hex]
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.broadcast_object_list(token, src=0, device=_device())
    return token[0]


def _run(order: dict[str, Any], dispatcher: Any) -> None:
    payload = order["payload"]
    trial = Trial.model_validate_json(payload["trial"])
    started = time.perf_counter()
    started_at = utc_now()
    host = RayHost(dispatcher, order["trial_id"], order["attempt"])
    try:
        if host.rank == 0:
            host.send({"kind": "started", "started_at": started_at})
        options, prefix = RunOptions.model_validate_json(payload["options"]), payload["shared_prefix"]
        shared_prefix = SharedPrefix.model_validate_json(prefix) if prefix else None
        outcome = run_trial(trial, payload["folder"], options, host, shared_prefix)
        if host.rank == 0:
            result = finished_result(
                payload["study"],
                trial,
                outcome,
                attempts=order["attempt"],
                workers=host.world,
                device=device_name(host.device),
                seconds_total=time.perf_counter() - started,
            )
            result = write_result(result, payload["folder"])
            try:
                discard_checkpoints(result.status, payload["folder"])
            except StorageError as error:  # the trial has its record: they only take space
                host.warn(str(error))
            found = {"result": result.model_dump(mode="json"), "training_seconds": outcome.seconds_training_now}
            host.send({"kind": "finished", **found})
    except StudyInterruptedError:
        if host.rank == 0:
            host.send({"kind": "left"})
    except Exception:
        host.send({"kind": "failed", "error": traceback.format_exc(limit=-8)})
        raise
