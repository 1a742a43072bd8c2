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
    unsaved: bool
    """Set by the training loop: whether this attempt has done updates that no checkpoint holds."""

    def publish(self, row: Row) -> bool:
        """Take one row of metrics (called on rank 0 only); True asks the trial to stop here."""

    def leaving(self) -> bool:
        """Whether the trial is to write a checkpoint and end (asked on rank 0 after updates; must not wait)."""

    def checkpointed(self, uri: str, step: int) -> None:
        """A complete checkpoint exists at `uri` (called on every rank)."""

    def warn(self, message: str) -> None: ...

    def enter(self, phase: str) -> None:
        """Say in a word or two what the trial does until its next row of metrics (called on every rank)."""
