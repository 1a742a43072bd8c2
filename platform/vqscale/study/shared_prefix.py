"""Trunks: the updates that warm-up-stable-decay trials of several horizons have in common, trained once.

Up to the decay of the shorter, two trials of one trunk make the same updates, bit for bit: data, learning rate and
random draws follow from the step alone. The shorter leaves a checkpoint there, and the longer goes on from it.
"""

from vqscale import storage
from vqscale.study.frozen import Frozen
from vqscale.study.trial import TrainConfig, Trial

FOLDER = "trunks"


class Trunk(Frozen):
    """Where a trial finds what shorter ones have left, and whether a longer one waits for what it can leave itself."""

    folder: str
    keep: bool
    """Leave a checkpoint at `branch_step`."""


def trunks_folder(study_folder: str) -> str:
    return storage.join(study_folder, FOLDER)


def trunk_folder(study_folder: str, trial: Trial) -> str:
    """Where the checkpoints of the trial's trunk lie; they name it with its whole fingerprint."""
    assert trial.trunk is not None
    return storage.join(trunks_folder(study_folder), trial.trunk[:12])


def branch_step(train: TrainConfig, log_every: int) -> int:
    """Updates that a trial can leave to longer ones: up to the last reading of its metrics before the decay.

    At a reading no window of metrics is half full, so the longer trial has the very rows that it would have had alone.
    """
    every = min(log_every, train.steps)
    return train.decay_start // every * every
