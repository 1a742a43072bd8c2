"""The cost of a trial before it runs: exact FLOPs, and estimates of memory per worker and of time."""

import dataclasses
from dataclasses import dataclass

from vqscale.costing.counts import (
    flops_per_token,
    parameters,
    parameters_non_embedding,
    training_memory_bytes,
)
from vqscale.study.spec import Study
from vqscale.study.trial import Trial

UNMEASURED_SHARE = 0.25
"""Share of the measured matrix-product peak that a trial is assumed to reach before any trial of the study has run."""


@dataclass(frozen=True, kw_only=True)
class TrialCost:
    """Counts are exact; memory, time and money are estimates (time and money: None where no speed is known)."""

    parameters: int
    parameters_non_embedding: int
    flops: float
    """Training FLOPs of the trial."""
    flops_groups: dict[str, float]
    """The same by group."""
    flops_6nd: float
    """6 N D with N without embeddings: the usual approximation, for comparison."""
    tokens: int
    steps: int
    tokens_per_parameter: float
    """D / N, N without embeddings."""
    memory_bytes: int
    """Estimated peak per worker."""
    seconds: float | None
    """Estimated time of the training steps on the study's workers."""
    device_hours: float | None
    """Seconds of all workers, in hours; the devices of one worker count as one."""
    money: float | None
    """In `resources.currency`; None where no price is stated."""

    def part(self, share: float) -> "TrialCost":
        """The cost of a share of the updates, on the same model."""

        def of(value: float | None) -> float | None:
            return None if value is None else value * share

        return dataclasses.replace(
            self,
            flops=self.flops * share,
            flops_groups={group: flops * share for group, flops in self.flops_groups.items()},
            flops_6nd=self.flops_6nd * share,
            tokens=round(self.tokens * share),
            steps=round(self.steps * share),
            seconds=of(self.seconds),
            device_hours=of(self.device_hours),
            money=of(self.money),
        )


def trial_cost(trial: Trial, study: Study, flops_per_second: float | None) -> TrialCost:
    """The cost of a trial; `flops_per_second`: speed of all its workers together, None where it is not known."""
    model, train, resources = trial.model, trial.train, study.resources
    tokens = train.steps * train.batch_tokens
    groups = {
        group: flops * tokens for group, flops in flops_per_token(model, train.context, train.segment).items() if flops
    }
    flops = sum(groups.values())
    seconds = flops / flops_per_second if flops_per_second else None
    hours = None if seconds is None else seconds * resources.workers / 3600
    price, n = resources.price_per_device_hour, parameters_non_embedding(model)
    return TrialCost(
        parameters=parameters(model),
        parameters_non_embedding=n,
        flops=flops,
        flops_groups=groups,
        flops_6nd=6.0 * n * tokens,
        tokens=tokens,
        steps=train.steps,
        tokens_per_parameter=tokens / n,
        memory_bytes=estimated_memory_bytes(trial, study),
        seconds=seconds,
        device_hours=hours,
        money=None if hours is None or price is None else hours * price,
    )


def estimated_memory_bytes(trial: Trial, study: Study) -> int:
    """Estimated peak of one worker under the trial's ZeRO stage."""
    train = trial.train
    return training_memory_bytes(
        trial.model,
        batch_tokens=train.batch_tokens // train.accumulation,
        context=train.segment_length,
        zero=train.zero,
        workers=study.resources.workers,
        precision=train.precision,
        activation_checkpointing=train.activation_checkpointing,
    )
