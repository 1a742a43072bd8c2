"""Learning rate by update: linear warm-up, then a cosine whose end is the horizon."""

import math

from vqscale.study.trial import TrainConfig


def learning_rate(step: int, train: TrainConfig) -> float:
    """Rate of update `step` (from 0); the last update of the horizon uses exactly `lr * lr_final`.

    Warm-up is a share of the horizon, so that a short trial is a scaled copy of a long one
    (fixed step counts break short runs).
    """
    warmup = round(train.warmup * train.steps)
    if step < warmup:
        return train.lr * (step + 1) / warmup
    progress = (step + 1 - warmup) / max(train.steps - warmup, 1)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return train.lr * (train.lr_final + (1 - train.lr_final) * cosine)
