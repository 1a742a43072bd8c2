"""From a trial and its outcome to its row of the study's table."""

import math
from typing import Any

from vqscale.costing.facts import trial_facts
from vqscale.provenance import git_commit, versions
from vqscale.results.records import finite
from vqscale.results.result import LossParts, Result
from vqscale.study.trial import Trial
from vqscale.train.classify import Classified
from vqscale.train.trial import TrialOutcome


def finished_result(
    study: str,
    trial: Trial,
    outcome: TrialOutcome,
    *,
    attempts: int,
    workers: int,
    device: str,
    seconds_total: float,
) -> Result:
    """The record of a trial that ran; `seconds_total` is its whole time on the workers."""
    row = outcome.row
    facts = trial_facts(study, trial)
    speed = row["tokens"] / outcome.seconds_training  # over all attempts; both include the shared updates
    measured: dict[str, Any] = {
        **_held_out(outcome),
        "train_loss": row.get("loss"),
        "skipped_updates": row.get("skipped_updates"),
        "tokens_per_second": speed,
        "flops_per_second": speed * sum(facts["flops_groups"].values()),
        "peak_flops": outcome.peak_flops,
        "peak_memory_bytes": outcome.peak_memory_bytes,
        "code_perplexity": row.get("codebook/perplexity"),
        "dead_codes": row.get("codebook/dead_share"),
        "quantisation_error": row.get("codebook/quantisation_error"),
        "revived": outcome.revived if trial.model.quantised else None,
        "seconds_training": outcome.seconds_training,
        "seconds_evaluation": outcome.seconds_evaluation,
        "seconds_overhead": seconds_total - outcome.seconds_training_now - outcome.seconds_evaluation,
        "device": device,
        "backend": outcome.backend,
    }
    return Result(
        **facts,
        **{key: finite(value) for key, value in measured.items()},
        status=outcome.status,
        error=outcome.error,
        shared_steps=outcome.shared_steps,
        attempts=attempts,
        workers=workers,
        **_nested(outcome),
        versions=versions(),
        git=git_commit(),
        started_at=outcome.started_at,
    )


def _held_out(outcome: TrialOutcome) -> dict[str, Any]:
    """Single numbers measured on held-out splits; columns of the other task keep their defaults or are None."""
    held_out, test = outcome.held_out, outcome.test
    if not isinstance(held_out, Classified):
        if held_out is None:
            return dict.fromkeys(("loss", "bpb", "perplexity"))
        names = ("bpb", "perplexity", "word_perplexity", "word_perplexity_eol", "loss_error", "bpb_error")
        return {
            "loss": held_out.nats,
            **{name: getattr(held_out, name) for name in names},
            "evaluation_tokens": held_out.tokens,
            "evaluation_bytes": held_out.text_bytes,
            "evaluation_documents": held_out.documents,
        }
    return {
        "loss": held_out.nats,
        "loss_error": held_out.loss_error,
        "bpb": None,
        "perplexity": None,
        "evaluation_tokens": held_out.labels,
        "accuracy": held_out.accuracy,
        "accuracy_error": held_out.accuracy_error,
        "balanced_accuracy": held_out.balanced_accuracy,
        "macro_f1": held_out.macro_f1,
        "examples": held_out.examples,
        "test_loss": test and test.nats,
        "test_accuracy": test and test.accuracy,
        "test_accuracy_error": test and test.accuracy_error,
    }


def _nested(outcome: TrialOutcome) -> dict[str, Any]:
    """Lists measured on the validation split."""
    held_out = outcome.held_out
    if not isinstance(held_out, Classified):
        return {
            "loss_by_position": held_out.by_position if held_out else [],
            "loss_by_document": _measured(held_out.parts) if held_out else None,
        }
    return {
        "loss_by_position": [],
        "loss_by_document": _measured(held_out.parts),
        "confusion": held_out.confusion,
        "class_names": held_out.class_names,
        "accuracy_by_length": held_out.by_length,
        "accuracy_by_distance": held_out.by_distance,
    }


def _measured(parts: LossParts) -> LossParts | None:
    """None where a loss is not finite: there is no measurement."""
    return parts if all(map(math.isfinite, parts.nats)) else None
