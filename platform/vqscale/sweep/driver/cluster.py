"""The Ray cluster of a run: started here on this machine, or joined by its address; never larger than it is."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator

import ray

from vqscale.errors import ClusterError
from vqscale.study.spec import Resources

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's own tables: ours are better
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_RESULT_BUFFER_LENGTH": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same in every process
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # the controller's poll; 2 s delay the end of every group
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",  # 60 s are too short on a busy machine
}
"""What Ray reads when it starts; a user's own values win."""
LOCAL_ENVIRONMENT = {
    "RAY_maximum_startup_concurrency": "8",  # a worker group starts several small processes; Ray warns at 4 x the cores
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # the machine is the user's own; saves a process per worker group
}
"""For a cluster of this process's own."""
JOINED_ENVIRONMENT = {
    # Attempts at a cluster that does not answer, each of 41 s; Ray's own 20 keep a user waiting for 14 minutes.
    "RAY_gcs_server_port_wait_time_s": "1",
}
"""For a cluster that is joined."""
LOCAL_OBJECT_STORE_BYTES = 256 * 2**20
"""Trials pass messages of a few kilobytes; data and checkpoints never go through the object store."""


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """A Ray connection: to `address` (or `RAY_ADDRESS`), else to a cluster of this process's own. Ended at exit."""
    address = address or os.environ.get("RAY_ADDRESS")
    local: dict[str, object] = {"include_dashboard": False, "object_store_memory": LOCAL_OBJECT_STORE_BYTES}
    for name, value in {**ENVIRONMENT, **(JOINED_ENVIRONMENT if address else LOCAL_ENVIRONMENT)}.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Not None: with that Ray joins any cluster whose address lies in the temp folder, also a dead one's.
            ray.init(
                address=address or "local",
                log_to_driver=False,
                logging_level=logging.ERROR,
                **({} if address else local),
            )
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        where = f"--address {address}: no Ray cluster answers there" if address else "Ray cannot start on this machine"
        raise ClusterError(f"{where} ({error})") from error
    try:
        yield
    finally:
        ray.shutdown()


def gpus_per_worker(resources: Resources) -> int:
    """GPUs of one worker; `auto` is one where the connected cluster has any."""
    if resources.gpus_per_worker == "auto":
        return int(ray.cluster_resources().get("GPU", 0) >= resources.workers)
    return resources.gpus_per_worker


def require_room(resources: Resources) -> None:
    """Raise ClusterError unless the connected cluster holds at least one trial; before anything is written."""
    group_count(resources, gpus_per_worker(resources), 1)


def group_count(resources: Resources, gpus: int, trials: int) -> int:
    """Trials that the connected cluster holds at once.

    Raises ClusterError when it holds not even one, or when no node of it holds one worker.
    """
    have = ray.cluster_resources()
    need = {"CPU": resources.workers * resources.cpus_per_worker, "GPU": resources.workers * gpus}
    for kind, amount in need.items():
        if amount > have.get(kind, 0):
            raise ClusterError(
                f"resources: {resources.workers} workers of a trial need {amount} {kind}s, but the cluster has"
                f" {have.get(kind, 0):g}. Lower resources.workers or resources.{kind.lower()}s_per_worker, or name a"
                " larger cluster with --address."
            )
    _check_worker_fits_a_node(resources, gpus)
    fits = min(int(have.get(kind, 0) // amount) for kind, amount in need.items() if amount)
    return max(1, min(fits, trials, resources.max_concurrent or fits))


def _check_worker_fits_a_node(resources: Resources, gpus: int) -> None:
    """A worker is never spread over nodes: what only the sum of them holds would wait for ever."""
    need = {"CPU": resources.cpus_per_worker, "GPU": gpus}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(amount <= node.get(kind, 0) for kind, amount in need.items()) for node in nodes):
        return
    sizes = [(node.get("GPU", 0), node.get("CPU", 0)) for node in nodes]
    most_gpus, most_cpus = max(sizes if gpus else [(0, cpus) for _, cpus in sizes], default=(0, 0))
    raise ClusterError(
        f"resources: one worker needs {resources.cpus_per_worker} CPUs and {gpus} GPUs on one node, but the largest"
        f" node of the cluster has {most_cpus:g} CPUs and {most_gpus:g} GPUs. Lower resources.cpus_per_worker or"
        " resources.gpus_per_worker, or name a cluster with larger nodes with --address."
    )
