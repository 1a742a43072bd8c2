"""Learning rate by update: linear warm-up, then a decay whose end is the horizon."""

import math

from vqscale.study.trial import Schedule, TrainConfig


def learning_rate(step: int, train: TrainConfig) -> float:
    """Rate of update `step` (from 0); the last update of the horizon uses exactly `lr * lr_final`.

    Warm-up is a share of the horizon, so that a short trial is a scaled copy of a long one (fixed step counts break
    short runs), unless it is given in tokens. A cosine and a line fall from there on; wsd stays at `lr` and falls in
    the last `decay` of the horizon by 1 - sqrt of the way (Hägele et al., arXiv 2405.18392).
    """
    warmup = train.warmup_steps
    if step < warmup:
        return train.lr * (step + 1) / warmup
    done = (step + 1 - train.decay_start) / max(train.decay_steps, 1)
    return train.lr * (train.lr_final + (1 - train.lr_final) * _left(train.schedule, done))


def _left(schedule: Schedule, done: float) -> float:
    """The share of the way down that is left, from 1 to 0, where `done` of the decay is over."""
    if schedule == "wsd":
        return 1 - math.sqrt(max(done, 0.0))
    return 1 - done if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
