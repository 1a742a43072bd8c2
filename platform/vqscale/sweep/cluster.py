"""The Ray cluster of a run: started here on this machine, or joined by its address; never larger than it is."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator

from vqscale.errors import ClusterError
from vqscale.study.spec import Resources

# Read when Ray is imported: before that, here.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_RESULT_BUFFER_LENGTH", "0")

import ray

LOCAL_OBJECT_STORE_BYTES = 256 * 2**20
"""Trials pass messages of a few kilobytes; data and checkpoints never go through the object store."""


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """A Ray connection: to `address` (or `RAY_ADDRESS`), else to a cluster of this process's own. Ended at exit.

    A connection that exists already is used and left as it is.
    """
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    own = {"include_dashboard": False, "object_store_memory": LOCAL_OBJECT_STORE_BYTES} if address is None else {}
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise ClusterError(f"--address {address}: no Ray cluster answers there ({error})") from error
    try:
        yield
    finally:
        ray.shutdown()


def gpus_per_worker(resources: Resources) -> int:
    """GPUs of one worker; `auto` is one where the connected cluster has any."""
    if resources.gpus_per_worker == "auto":
        return int(ray.cluster_resources().get("GPU", 0) >= resources.workers)
    return resources.gpus_per_worker


def lane_count(resources: Resources, gpus: int, trials: int) -> int:
    """Trials that the connected cluster holds at once.

    Raises ClusterError when it holds not even one.
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
    fits = min(int(have.get(kind, 0) // amount) for kind, amount in need.items() if amount)
    return max(1, min(fits, trials, resources.max_concurrent or fits))


def check_local_size(resources: Resources, address: str | None) -> None:
    """Refuse, before Ray is started, what this machine alone cannot hold."""
    cores = os.cpu_count() or 1
    need = resources.workers * resources.cpus_per_worker
    if address is None and "RAY_ADDRESS" not in os.environ and not ray.is_initialized() and need > cores:
        raise ClusterError(
            f"resources: {resources.workers} workers x {resources.cpus_per_worker} CPUs need {need}, but this machine"
            f" has {cores}. Lower resources.workers, or name a cluster with --address."
        )
