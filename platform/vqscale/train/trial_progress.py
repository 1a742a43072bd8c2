"""How far a trial has come: what changes from update to update outside the engine, and what a checkpoint keeps."""

from dataclasses import dataclass, field
from typing import Any

from vqscale.models.base import ModelState
from vqscale.results.metrics_rows import Row


@dataclass(kw_only=True)
class TrialProgress:
    """With the engine's parameters and optimiser state and the random generators, all that resuming a trial needs.

    The position in the data and the learning rate are functions of `step`.
    """

    started_at: str
    """When the earliest attempt began of which a checkpoint remains, ISO 8601 with time zone."""
    step: int = 0
    """Updates done, with those that were taken over."""
    shared_steps: int = 0
    """Updates taken over from the checkpoint of a shared prefix."""
    states: list[ModelState] | None = None
    """Carried state of every micro-batch of this worker; None where the next update starts new sequences."""
    rows: list[Row] = field(default_factory=list)
    """All rows of metrics so far."""
    window: dict[str, Any] | None = None
    """What was measured since the last row, as this worker's part of a checkpoint between two rows has it."""
    skipped_updates: int = 0
    """Updates, among those done, that were skipped because their gradient was not finite."""
    skipped_in_a_row: int = 0
    """The last of them, as far as no update came between."""
    first_loss: float | None = None
    """Training loss of the first row of metrics, in nats."""
    seconds: float = 0.0
    """Spent in training steps by all attempts, with those of the shared updates where they were trained."""
    seconds_before: float = 0.0
    """What `seconds` was when this attempt began."""
    revived_before: float = 0.0
    """Codes revived before this attempt: a codebook's own count begins when the model is built."""
    peak_memory: int = 0
    """Bytes, over all attempts."""

    def update_done(self, *, skipped: bool) -> None:
        self.step += 1
        self.skipped_updates += skipped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0

    @property
    def revived(self) -> float:
        """Codes revived by all attempts up to the last row of metrics; 0 for a model without codebooks."""
        return self.rows[-1].get("codebook/revived", 0.0) if self.rows else self.revived_before

    @property
    def seconds_this_attempt(self) -> float:
        return self.seconds - self.seconds_before
