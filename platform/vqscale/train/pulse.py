"""What workers agree on between updates: to stop, to leave, to write a checkpoint.

Only rank 0 is asked and only it looks at the clock, but every rank has to do the same after the same update. On one
worker the answer costs nothing and is taken after every update; several exchange a few numbers about once a second.
"""

import time
from dataclasses import dataclass

from vqscale.train.host import Host
from vqscale.train.metrics import agree

SECONDS = 1.0
"""Between two agreements of several workers, as far as updates are that short."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """The same on every rank."""

    stop: bool
    """End here and be evaluated."""
    leave: bool
    """Write a checkpoint and end without a record."""
    save: bool
    """Write a checkpoint."""


class Pulse:
    """The agreements of one attempt at a trial."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._next, self._last_step, self._last_time = 0, 0, time.monotonic()

    def due(self, step: int) -> bool:
        return self._host.world == 1 or step >= self._next

    def agree(self, step: int, *, stop: bool, save: bool) -> Wishes:
        """Every rank must call it after the same updates; what ranks other than 0 wish is not heard."""
        asked = [stop, self._host.leaving(), save, self._pause(step)] if self._host.rank == 0 else [0.0] * 4
        stop_, leave, save_, pause = agree([float(wish) for wish in asked], self._host.device, self._host.group)
        self._next = step + int(pause)
        return Wishes(stop=bool(stop_), leave=bool(leave), save=bool(save_))

    def _pause(self, step: int) -> int:
        """Updates until the next agreement, by how long those since the last one took."""
        now = time.monotonic()
        seconds, updates = now - self._last_time, step - self._last_step
        self._last_time, self._last_step = now, step
        return max(1, int(SECONDS * updates / seconds)) if seconds else 1
