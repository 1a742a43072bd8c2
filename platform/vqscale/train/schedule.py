"""Learning rate by update: linear warm-up, then a decay that ends with the training tokens."""

import math

from vqscale.study.trial import Schedule, TrainConfig


def learning_rate(step: int, train: TrainConfig) -> float:
    """Rate of update `step` (from 0); the last update of the trial uses exactly `lr * lr_final`.

    Warm-up is a share of the training tokens, so that a short trial is a scaled copy of a long one (fixed step counts
    break short runs), unless it is given in tokens. `cosine` and `linear` decay from there on; `wsd` stays at `lr` and
    decays in the last `decay` of the training tokens as 1 - sqrt(progress) (Hägele et al., arXiv 2405.18392).
    """
    warmup = train.warmup_steps
    if step < warmup:
        return train.lr * (step + 1) / warmup  # step + 1: no update is wasted at rate 0
    # Counted at the end of the update, so that the last one has done = 1. Before the decay of wsd it is negative.
    done = (step + 1 - train.decay_start) / max(train.decay_steps, 1)
    return train.lr * (train.lr_final + (1 - train.lr_final) * _left(train.schedule, done))


def _left(schedule: Schedule, done: float) -> float:
    """The share of the decay that is left, from 1 to 0, when the share `done` of its updates is over."""
    if schedule == "wsd":
        return 1 - math.sqrt(max(done, 0.0))
    return 1 - done if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
