"""Shared prefixes: the updates that warm-up-stable-decay (WSD) trials of several token budgets have in common.

Until the decay of the shorter trial begins, two trials with the same prefix make the same updates, bit for bit: data,
learning rate and random draws depend on the step alone. The shorter trial leaves a checkpoint there (the branch-off
checkpoint), and the longer one continues from it instead of training those updates again.
"""

from vqscale import storage
from vqscale.study.frozen import Frozen
from vqscale.study.trial import TrainConfig, Trial

FOLDER = "shared_prefixes"
OLD_FOLDER = "trunks"
"""The folder's name in studies of earlier versions; its checkpoints are removed, never read."""


class SharedPrefix(Frozen):
    """Where a trial finds the checkpoints of its prefix, and whether it has to leave one for a longer trial."""

    folder: str
    keep: bool
    """Leave a checkpoint at `branch_off_step`."""


def prefixes_folder(study_folder: str) -> str:
    return storage.join(study_folder, FOLDER)


def prefix_folder(study_folder: str, trial: Trial) -> str:
    """Where the checkpoints of the trial's prefix are; their manifests hold the whole fingerprint."""
    assert trial.shared_prefix is not None
    return storage.join(prefixes_folder(study_folder), trial.shared_prefix[:12])


def branch_off_step(train: TrainConfig, log_every: int) -> int:
    """Updates that a trial can leave to longer ones: up to the last row of its metrics before the decay.

    When metrics are logged no window of updates is partly filled, so the longer trial has exactly the rows that it
    would have had alone.
    """
    every = min(log_every, train.steps)
    return train.decay_start // every * every
