"""From how a trial went to its row: what was not measured is absent."""

import math
from typing import Any

from vqscale.train.finished import finished_result
from vqscale.train.trial import TrialOutcome


def outcome(**changes: Any) -> TrialOutcome:
    row: dict[str, float | int] = {
        "step": 4,
        "tokens": 2048,
        "loss": math.nan,
        "codebook/perplexity": math.nan,
        "codebook/dead_share": 1.0,
        "codebook/quantisation_error": math.nan,
    }
    values = {
        "status": "diverged", "error": "not a number any more", "step": 4, "row": row, "held_out": None, "test": None,
        "shared_steps": 3, "seconds_training": 9.0, "seconds_training_now": 4.0, "seconds_evaluation": 1.0,
        "peak_memory_bytes": 1, "peak_flops": 1e9, "revived": 3, "backend": "blockwise", "started_at": "2026-01-01",
    }  # fmt: skip
    return TrialOutcome(**(values | changes))


def record(trial: Any, ended: TrialOutcome) -> Any:
    return finished_result("study", trial, ended, attempts=2, workers=1, device="cpu", seconds_total=7.0)


def test_record_of_a_trial_that_ended_in_nan_has_no_numbers_for_it(make_trial: Any) -> None:
    result = record(make_trial(), outcome())
    assert result.status == "diverged"
    assert (result.loss, result.train_loss, result.code_perplexity, result.quantisation_error) == (None,) * 4
    assert result.dead_codes == 1.0


def test_record_of_a_resumed_trial_counts_this_attempts_overhead(make_trial: Any) -> None:
    result = record(make_trial(), outcome())
    assert result.seconds_training == 9.0
    assert (result.schedule, result.decay, result.shared_steps) == ("cosine", None, 3)
    assert result.seconds_overhead == 7.0 - 4.0 - 1.0
