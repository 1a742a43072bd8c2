"""What a trial will cost before it runs: exact FLOPs, memory a worker, and an estimate of its time."""

import statistics
from dataclasses import dataclass

from vqscale.models.counts import (
    flops_per_token,
    parameters,
    parameters_non_embedding,
    training_memory_bytes,
)
from vqscale.results.record import Result
from vqscale.study.spec import Study
from vqscale.study.trial import Trial

UNMEASURED_SHARE = 0.25
"""Share of the measured matrix-product peak that a trial is assumed to reach before any trial of the study has run."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Counts are exact; memory and seconds are estimates (seconds None where no speed is known)."""

    parameters: int
    parameters_non_embedding: int
    flops: float
    """Training FLOPs of the trial."""
    tokens: int
    steps: int
    memory_bytes: int
    """Estimated peak a worker."""
    seconds: float | None
    """Estimated time on the study's workers."""


def trial_cost(trial: Trial, study: Study, flops_per_second: float | None) -> Cost:
    model, train = trial.model, trial.train
    tokens = train.steps * train.batch_tokens
    flops = sum(flops_per_token(model, train.context, train.segment).values()) * tokens
    return Cost(
        parameters=parameters(model),
        parameters_non_embedding=parameters_non_embedding(model),
        flops=flops,
        tokens=tokens,
        steps=train.steps,
        memory_bytes=training_memory_bytes(
            model,
            batch_tokens=train.batch_tokens // train.accumulation,
            context=train.segment_length,
            zero=train.zero,
            workers=study.resources.workers,
            precision=train.precision,
            activation_checkpointing=train.activation_checkpointing,
        ),
        seconds=flops / flops_per_second if flops_per_second else None,
    )


def measured_speed(results: list[Result]) -> float | None:
    """Median FLOP/s of the trials that ran, None when none did."""
    speeds = [result.flops_per_second for result in results if result.flops_per_second]
    return statistics.median(speeds) if speeds else None
