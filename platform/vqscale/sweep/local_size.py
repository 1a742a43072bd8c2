"""What a cluster of this machine alone cannot hold is refused before Ray is started."""

import os

from vqscale.errors import ClusterError
from vqscale.study.spec import Resources


def check_local_size(resources: Resources, address: str | None) -> None:
    """Raises ClusterError where no other cluster is named and the workers need more cores than there are."""
    cores = os.cpu_count() or 1
    need = resources.workers * resources.cpus_per_worker
    if address is None and "RAY_ADDRESS" not in os.environ and need > cores:
        raise ClusterError(
            f"resources: {resources.workers} workers x {resources.cpus_per_worker} CPUs need {need}, but this machine"
            f" has {cores}. Lower resources.workers, or name a cluster with --address."
        )
