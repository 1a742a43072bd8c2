"""What a trial needs from the program that runs it: a rank among workers, a device, and somewhere to send metrics."""

from typing import Protocol

import torch
from torch.distributed import ProcessGroup

from vqscale.results.metrics_rows import Row


class Host(Protocol):
    """One worker of a trial. Ray Train is behind it in a study, a plain object in tests."""

    rank: int
    world: int
    """Number of workers."""
    device: torch.device
    group: ProcessGroup | None
    """None: the default group."""

    def publish(self, row: Row) -> bool:
        """Take one row of metrics (called on rank 0 only); True asks the trial to stop here."""

    def checkpointed(self, uri: str, row: Row) -> None:
        """A complete checkpoint exists at `uri` (called on every rank)."""

    def warn(self, message: str) -> None: ...
