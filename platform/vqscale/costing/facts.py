"""The columns of a trial that are known before it runs, and the record of a trial that failed."""

from typing import Any

from vqscale.costing.counts import (
    decode_state_bytes,
    flops_per_token,
    parameter_groups,
    parameters,
    parameters_non_embedding,
)
from vqscale.provenance import git_commit, versions
from vqscale.results.result import Result
from vqscale.study.trial import DECAYED, Trial

MEASURED_COLUMNS = (
    *("loss", "bpb", "perplexity", "train_loss", "tokens_per_second", "flops_per_second", "peak_flops"),
    *("peak_memory_bytes", "code_perplexity", "dead_codes", "quantisation_error", "revived"),
    *("seconds_training", "seconds_overhead", "seconds_evaluation", "device", "backend"),
)


def trial_facts(study: str, trial: Trial) -> dict[str, Any]:
    """The columns that are known before a trial runs."""
    model, train = trial.model, trial.train
    groups = flops_per_token(model, train.context, train.segment)
    return {
        "study": study,
        "trial_id": trial.id,
        "name": trial.name,
        "arch": model.arch,
        "head": model.head,
        "variant": model.variant,
        "preset": trial.preset,
        "seed": train.seed,
        "d_model": model.d_model,
        "n_layer": model.n_layer,
        "codebook_size": model.codebook_size,
        "block_length": model.block_length,
        "context": train.context,
        "segment": train.segment_length,
        "tokens": train.steps * train.batch_tokens,
        "steps": train.steps,
        "batch_tokens": train.batch_tokens,
        "task": trial.task,
        "classes": model.classes,
        "lr": train.lr,
        "schedule": train.schedule,
        "decay": train.decay if train.schedule == "wsd" else None,
        "shared_prefix": trial.shared_prefix,
        "setup": trial.setup,
        "decayed": ", ".join(DECAYED) if train.weight_decay else None,
        "precision": train.precision,
        "engine": train.engine,
        "zero": train.zero if train.engine == "deepspeed" else None,
        "parameters": parameters(model),
        "parameters_non_embedding": parameters_non_embedding(model),
        "parameter_groups": parameter_groups(model),
        "flops": sum(groups.values()) * train.steps * train.batch_tokens,
        "flops_groups": groups,
        "state_bytes": decode_state_bytes(model, train.context, 4 if train.precision == "fp32" else 2)
        if model.carries_state
        else None,
        "evaluation_text": evaluation_text(trial),
        "corpus": trial.corpus,
        "corpus_fingerprint": trial.corpus_fingerprint,
    }


def evaluation_text(trial: Trial) -> str:
    """What the trial is evaluated on: `TrainConfig.evaluation_text`, or the examples of a classifier."""
    if trial.task == "language":
        return trial.train.evaluation_text
    drawn = trial.train.evaluation_examples
    return "all examples" if drawn is None else f"{drawn} examples"


def failed_result(study: str, trial: Trial, *, error: str, attempts: int, workers: int, started_at: str) -> Result:
    """The record of a trial that failed: no measurements, and the reason in `error`."""
    unmeasured: dict[str, Any] = dict.fromkeys(MEASURED_COLUMNS)
    return Result(
        **trial_facts(study, trial),
        **unmeasured,
        status="failed",
        error=error,
        attempts=attempts,
        workers=workers,
        loss_by_position=[],
        versions=versions(),
        git=git_commit(),
        started_at=started_at,
    )
