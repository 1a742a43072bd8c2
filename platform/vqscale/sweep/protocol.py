"""What a study's process and its Ray driver process say to each other: one JSON object per line, over pipes.

Requests go to the driver (`Connect`, then one `Stage` after another, then `Close`); events come back as plain mappings
with a `kind`. This module loads neither Ray nor torch: both sides import it.
"""

from typing import Literal

from pydantic import Field

from vqscale.study.frozen import Frozen
from vqscale.study.shared_prefix import SharedPrefix
from vqscale.study.spec import Resources, Study
from vqscale.study.trial import Trial

DRIVER = "vqscale.sweep.driver"
"""The module that the child process runs."""


class Connect(Frozen):
    """Join a cluster (None: start one on this machine) and check that it holds one trial."""

    kind: Literal["connect"] = "connect"
    address: str | None
    resources: Resources


class EarlyStopping(Frozen):
    """Stop a trial that trails the best at a rung by more than a margin."""

    rungs: tuple[int, ...]
    """Training tokens at which trials are compared."""
    margin: float
    """Bits per byte."""


class Order(Frozen):
    """One trial to train."""

    trial: Trial
    folder: str
    """Where its checkpoints, metrics and record go."""
    prefix: SharedPrefix | None = None
    """What it shares with trials of other token budgets."""


class Stage(Frozen):
    """Trials to train side by side, in the order in which the cluster is given them."""

    kind: Literal["stage"] = "stage"
    study: Study
    orders: tuple[Order, ...]
    stopping: EarlyStopping | None = None


class Stop(Frozen):
    """End the stage that is trained: what trains writes a checkpoint."""

    kind: Literal["stop"] = "stop"


class Close(Frozen):
    """Disconnect and end. Without it, a closed pipe means that the study's process has died."""

    kind: Literal["close"] = "close"


class Request(Frozen):
    """One line to the driver."""

    request: Connect | Stage | Stop | Close = Field(discriminator="kind")
