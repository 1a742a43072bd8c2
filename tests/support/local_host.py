"""A trial's host on this process alone: `from local_host import LocalHost` (tests/support is on pytest's path)."""

from dataclasses import dataclass, field

import torch
from torch.distributed import ProcessGroup

from vqscale.results.metrics_rows import Row


@dataclass
class LocalHost:
    """One process on one device; remembers the rows, warnings and phases that a trial sends."""

    device: torch.device = field(default_factory=lambda: torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    rank: int = 0
    world: int = 1
    group: ProcessGroup | None = None
    rows: list[Row] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)
    unsaved: bool = False
    leave_after: int | None = None
    """Updates of this attempt after which the trial is told to leave; None: never."""

    def publish(self, row: Row) -> bool:
        self.rows.append(row)
        return False

    def leaving(self) -> bool:
        if self.leave_after is None:
            return False
        self.leave_after -= 1
        return self.leave_after <= 0

    def checkpointed(self, uri: str, step: int) -> None:
        pass

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def enter(self, phase: str) -> None:
        self.phases.append(phase)
