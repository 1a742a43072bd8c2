"""Warm worker groups: Ray Train workers that are started once and train one trial after another."""

import threading
import time
import uuid
from typing import Any

import pyarrow.fs
import ray
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer

from vqscale import storage
from vqscale.study.spec import Study
from vqscale.train.ray_worker import serve


class WorkerGroups:
    """The worker groups of one stage of a study."""

    def __init__(self, study: Study, dispatcher: Any, *, count: int, gpus_per_worker: int, failures: int) -> None:
        session = uuid.uuid4().hex[:8]
        self._threads = [
            threading.Thread(
                target=self._keep,
                args=(study, dispatcher, f"{session}-{index}", gpus_per_worker, failures),
                name=f"group-{index}",
                daemon=True,
            )
            for index in range(count)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self, timeout: float) -> None:
        """Wait until the groups have ended, for `timeout` seconds in all."""
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _keep(self, study: Study, dispatcher: Any, group: str, gpus: int, failures: int) -> None:
        ray.get(dispatcher.expect.remote(group))
        try:
            _trainer(study, dispatcher, group, gpus, failures).fit()
        except SystemExit:  # Ray wakes waiting threads this way when its connection ends: the stage has ended, too
            return
        except Exception as error:  # whatever ended the group, the trials that wait for it must learn of it
            if ray.is_initialized():  # a call after the end would start a cluster of its own
                ray.get(
                    dispatcher.group_lost.remote(group, f"Ray Train could not keep a worker group running: {error}")
                )


class _Losses(UserCallback):  # type: ignore[misc]
    """Says at once that a group has failed: Ray Train says nothing while it waits for nodes that may never come."""

    def __init__(self, dispatcher: Any, group: str) -> None:
        self._dispatcher, self._group = dispatcher, group

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        self._dispatcher.group_failed.remote(self._group)


def _trainer(study: Study, dispatcher: Any, group: str, gpus: int, failures: int) -> TorchTrainer:
    resources = study.resources
    per_worker = {"CPU": float(resources.cpus_per_worker), **({"GPU": float(gpus)} if gpus else {})}
    fs, path = storage.filesystem(storage.join(study.folder, "ray"))
    return TorchTrainer(
        serve,
        train_loop_config={"dispatcher": dispatcher, "group": group, "cpus_per_worker": resources.cpus_per_worker},
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=resources.workers, use_gpu=bool(gpus), resources_per_worker=per_worker
        ),
        run_config=RunConfig(
            name=f"group-{group}",
            storage_path=path,
            storage_filesystem=pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs)),
            # Retries belong to the trials, and Ray Tune counts them; a group is started again for each of those.
            failure_config=FailureConfig(max_failures=failures, controller_failure_limit=3),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            callbacks=[_Losses(dispatcher, group)],
        ),
    )
