"""Which codebook is chosen, and which trials are given up early."""

import math
from typing import Any

import pytest

from vqscale.errors import StudyError, WorkFailedError
from vqscale.results.result import LossParts, Result
from vqscale.study.spec import parse_study
from vqscale.sweep.driver.stopping import WithinTolerance
from vqscale.workflow.autotune import choose_codebook, tuning_study


def row(size: int, bpb: float | None, status: str = "finished", seed: int = 0, **columns: Any) -> Result:
    """A result with the columns that the choice reads."""
    values = {"codebook_size": size, "bpb": bpb, "status": status, "seed": seed, "corpus_fingerprint": "f"}
    values |= {"tokens_per_second": 1000.0 / size, "state_bytes": 100 * size, "code_perplexity": size / 2}
    return Result.model_construct(**dict.fromkeys(Result.model_fields) | {"task": "language"} | values | columns)


def choice(*rows: Result, tolerance: float = 0.01) -> Any:
    return choose_codebook(list(rows), tolerance)


def on_text(*nats: float) -> dict[str, Any]:
    """Columns of a trial with these sums on documents of a thousand bytes."""
    parts = LossParts(units=[1] * len(nats), tokens=[1000] * len(nats), bytes=[1000] * len(nats), nats=list(nats))
    return {"evaluation_text": "spread", "evaluation_documents": len(nats), "loss_by_document": parts}


def test_choice_is_the_smallest_within_tolerance() -> None:
    found = choice(row(16, 2.05), row(32, 2.008), row(64, 2.001), row(128, 2.0))
    assert (found.codebook_size, found.best_size) == (32, 128)


def test_choice_counts_a_size_by_its_worst_seed() -> None:
    found = choice(row(16, 2.0), row(16, 2.1, seed=1), row(32, 2.0), row(32, 2.01, seed=1))
    assert found.codebook_size == 32


def test_choice_takes_a_stopped_trial_by_its_better_held_out_loss_and_warns() -> None:
    found = choice(row(16, 1.98, status="stopped"), row(32, 2.0), row(64, 2.01))
    assert (found.codebook_size, found.best_size, found.best_bpb) == (16, 16, 1.98)
    assert len(found.warnings) == 1
    assert found.warnings[0].startswith("S = 16, seed 0: was stopped early")
    assert "1.9800 bpb" in found.warnings[0]


def test_choice_warns_of_a_stopped_trial_that_is_not_chosen() -> None:
    found = choice(row(16, 3.0, status="stopped"), row(32, 2.0), row(64, 2.001))
    assert (found.codebook_size, len(found.warnings)) == (32, 1)


def test_choice_names_the_trial_without_a_held_out_loss() -> None:
    found = choice(row(16, 2.0), row(64, None, status="failed"))
    assert (found.codebook_size, found.best_size) == (16, 16)
    assert found.warnings == [
        "S = 64, seed 0: has no held-out loss (failed); the size counts by its other seeds, if it has any."
    ]


def test_choice_never_takes_a_size_of_which_a_seed_diverged() -> None:
    found = choice(row(16, 2.0), row(16, None, status="diverged", seed=1), row(32, 2.005), row(32, 2.006, seed=1))
    assert (found.codebook_size, found.best_size) == (32, 32)
    assert found.warnings == ["S = 16, seed 1: diverged, so this size is not chosen."]


@pytest.mark.parametrize("status", ["failed", "diverged", "stopped"])
def test_choice_without_any_held_out_loss_is_a_failure(status: str) -> None:
    with pytest.raises(WorkFailedError, match="no best size"):
        choice(row(16, None, status=status))


def test_pareto_front_leaves_out_what_was_not_measured() -> None:
    slow, unknown = row(16, 2.0), row(8, 1.0, tokens_per_second=None)
    assert [row["pareto"] for row in choice(unknown, slow).table()] == [False, True]


def test_pareto_front_drops_what_is_worse_in_everything() -> None:
    rows = choice(row(16, 2.0), row(32, 2.1), row(64, 1.9)).table()
    assert [row["pareto"] for row in rows] == [True, False, True]


def test_tuning_study_needs_its_section_and_a_codebook() -> None:
    values: dict[str, Any] = {"study": "s", "data": {"corpus": "c"}, "train": {"tokens": 10}}
    section = {"autotune": {"codebook_sizes": [8, 4], "tolerance": 0.1, "tokens": 5}}
    with pytest.raises(StudyError, match="no `autotune` section"):
        tuning_study(parse_study(values | {"model": {"arch": "transformer_vq"}}, source="t"))
    with pytest.raises(StudyError, match="no codebook to tune"):
        tuning_study(parse_study(values | section | {"model": {"arch": "transformer"}}, source="t"))
    tuning = tuning_study(parse_study(values | section | {"model": {"arch": "transformer_vq"}}, source="t"))
    assert (tuning.study, tuning.sweep, tuning.train["tokens"]) == ("s-autotune", [{"model.codebook_size": [4, 8]}], 5)


class Trial:
    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


def metrics(tokens: int, bpb: float) -> dict[str, Any]:
    return {"event/kind": "metrics", "tokens": tokens, "bpb": bpb}


def test_stopping_gives_up_only_what_is_clearly_worse_at_a_rung() -> None:
    scheduler = WithinTolerance([100, 200], margin=0.1)
    good, near, bad = Trial("good"), Trial("near"), Trial("bad")
    assert scheduler.on_trial_result(None, good, metrics(100, 2.0)) == "CONTINUE"
    assert scheduler.on_trial_result(None, near, metrics(100, 2.09)) == "CONTINUE"
    assert scheduler.on_trial_result(None, bad, metrics(90, 9.9)) == "CONTINUE"
    assert scheduler.on_trial_result(None, bad, metrics(110, 2.11)) == "STOP"
    assert scheduler.on_trial_result(None, good, metrics(0, float("nan"))) == "CONTINUE"


def test_stopping_judges_a_resumed_trial_at_the_same_rungs() -> None:
    scheduler = WithinTolerance([100], margin=0.1)
    trial = Trial("a")
    scheduler.on_trial_result(None, trial, metrics(100, 2.0))
    assert scheduler.on_trial_result(None, trial, metrics(50, 5.0)) == "CONTINUE"
    assert scheduler.on_trial_result(None, trial, metrics(100, 5.0)) == "CONTINUE"


def test_stopping_judges_a_report_that_passes_two_rungs_at_the_last_of_them() -> None:
    scheduler = WithinTolerance([100, 200], margin=0.1)
    steady, jumping, later = Trial("steady"), Trial("jumping"), Trial("later")
    scheduler.on_trial_result(None, steady, metrics(100, 2.0))
    scheduler.on_trial_result(None, steady, metrics(200, 1.5))
    # 1.9 is better than any loss at 100 tokens and 0.4 behind at 200: it has had 210 tokens, so 200 is what counts.
    assert scheduler.on_trial_result(None, jumping, metrics(210, 1.9)) == "STOP"
    # ... and the best at the rung that was passed over stays 2.0, of which 2.09 is within the margin.
    assert scheduler.on_trial_result(None, later, metrics(100, 2.09)) == "CONTINUE"


def test_choice_gives_the_paired_error_of_every_size_above_the_best() -> None:
    # Paired, document by document: 20, 30, 40 and 30 nats in a thousand bytes each, a mean of 30 with error 4.08.
    best = row(64, 1.0, bpb_error=0.2, **on_text(700, 600, 800, 672.6))
    near = row(32, 1.0433, bpb_error=0.2, **on_text(720, 630, 840, 702.6))
    found = choice(best, near, tolerance=0.05)
    above = found.above_best[32]
    assert (found.codebook_size, above.paired, above.documents) == (32, True, 4)
    assert above.error == pytest.approx(4.0825 / 1000 / math.log(2), rel=1e-4)
    (shown,) = [one for one in found.table() if one["codebook_size"] == 32]
    assert (shown["above_best"], shown["above_best_error"]) == (above.value, above.error)
    assert found.warnings == [
        "S = 32: +0.0433 ± 0.0059 (4 documents) bpb above the best: on other text it may be beyond the tolerance of"
        " 0.05."
    ]


def test_choice_warns_of_a_smaller_size_that_other_text_may_put_within_the_tolerance() -> None:
    best = row(64, 1.0, **on_text(700, 600, 800, 672.6))
    near = row(32, 1.0433, **on_text(720, 630, 840, 702.6))
    (sentence,) = choice(best, near, tolerance=0.04).warnings
    assert sentence.endswith("on other text it may be within the tolerance of 0.04.")
    assert choice(best, near, tolerance=0.02).warnings == []


def test_choice_says_that_the_error_of_older_records_is_not_known() -> None:
    (sentence,) = choice(row(32, 2.005), row(64, 2.0)).warnings
    assert sentence == (
        "S = 32: +0.0050 (error unknown) bpb above the best; whether it is within 0.01 on other text is not known."
    )
