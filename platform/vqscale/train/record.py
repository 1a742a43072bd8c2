"""From a trial and how it went to its row of the study's table."""

import functools
import importlib.metadata
import math
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from vqscale import storage
from vqscale.models.counts import (
    decode_state_bytes,
    flops_per_token,
    parameter_groups,
    parameters,
    parameters_non_embedding,
)
from vqscale.results.record import Result
from vqscale.study.trial import Trial
from vqscale.train.classify import Classified
from vqscale.train.trial import Outcome

RESULT = "result.json"


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
        "trunk": trial.trunk,
        "setup": trial.setup,
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
        "corpus": trial.corpus,
        "corpus_fingerprint": trial.corpus_fingerprint,
    }


MEASURED_COLUMNS = (
    *("loss", "bpb", "perplexity", "train_loss", "tokens_per_second", "flops_per_second", "peak_flops"),
    *("peak_memory_bytes", "code_perplexity", "dead_codes", "quantisation_error", "revived"),
    *("seconds_training", "seconds_overhead", "seconds_evaluation", "device", "backend"),
)


def failed_result(study: str, trial: Trial, *, error: str, attempts: int, workers: int, started_at: str) -> Result:
    """The record of a trial that could not be finished: nothing measured, the reason kept."""
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


def finished_result(
    study: str,
    trial: Trial,
    outcome: Outcome,
    *,
    attempts: int,
    workers: int,
    device: str,
    seconds_total: float,
) -> Result:
    """The record of a trial that ran; `seconds_total` is its whole time on the workers."""
    row = outcome.row
    facts = trial_facts(study, trial)
    speed = row["tokens"] / outcome.seconds_training
    measured: dict[str, Any] = {
        **_held_out(outcome),
        "train_loss": row["loss"],
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


def _held_out(outcome: Outcome) -> dict[str, Any]:
    """What was measured on held-out splits, but for lists; columns of the other task are absent."""
    held_out, test = outcome.held_out, outcome.test
    if not isinstance(held_out, Classified):
        if held_out is None:
            return dict.fromkeys(("loss", "bpb", "perplexity"))
        names = ("bpb", "perplexity", "word_perplexity", "word_perplexity_eol")
        return {"loss": held_out.nats, **{name: getattr(held_out, name) for name in names}}
    return {
        "loss": held_out.nats,
        "bpb": None,
        "perplexity": None,
        "accuracy": held_out.accuracy,
        "balanced_accuracy": held_out.balanced_accuracy,
        "macro_f1": held_out.macro_f1,
        "examples": held_out.examples,
        "test_loss": test and test.nats,
        "test_accuracy": test and test.accuracy,
    }


def _nested(outcome: Outcome) -> dict[str, Any]:
    held_out = outcome.held_out
    if not isinstance(held_out, Classified):
        return {"loss_by_position": held_out.by_position if held_out else []}
    return {
        "loss_by_position": [],
        "confusion": held_out.confusion,
        "class_names": held_out.class_names,
        "accuracy_by_length": held_out.by_length,
        "accuracy_by_distance": held_out.by_distance,
    }


def finite(value: Any) -> Any:
    """`value`, or None for a number that is none: what diverged has no measurement."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_result(result: Result, folder: str) -> None:
    storage.write_text(storage.join(folder, RESULT), result.model_dump_json(indent=2) + "\n")


def read_result(folder: str) -> Result | None:
    """The record in a trial's folder; None before the trial ended."""
    uri = storage.join(folder, RESULT)
    return Result.model_validate_json(storage.read_text(uri)) if storage.exists(uri) else None


@functools.cache
def versions() -> dict[str, str]:
    names = ("vqscale", "torch", "deepspeed", "ray", "mlflow", "numpy")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def git_commit() -> str | None:
    """Commit of the checkout that this code was imported from, with `+changes` when it is not clean; None elsewhere."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    if commit is None or git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    return commit + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"
