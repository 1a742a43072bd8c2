"""A re-centred study is trained budget after budget, each once a run."""

from collections.abc import Callable
from typing import Any

import pytest

from vqscale.costing.facts import failed_result
from vqscale.planning.plan import plan
from vqscale.results.records import write_result
from vqscale.study.spec import parse_study
from vqscale.sweep.protocol import Stage

ISOFLOP = {"type": "isoflop", "budgets": [1e11, 1e10, 3e10], "sizes": ["d16x2", "d24x2", "pico", "nano"]}
STAGED = ISOFLOP | {"per_budget": 3, "minimum_steps": 1}
Train = Callable[..., list[set[float | None]]]


@pytest.fixture
def make(corpus_uri: str, tmp_path: Any) -> Any:
    def study(**sections: Any) -> Any:
        values = {
            "study": "p",
            "data": {"corpus": corpus_uri},
            "model": {"arch": "transformer_vq", "preset": "pico", "codebook_size": 16, "block_length": 16},
            "train": {"context": 64, "tokens": 8192, "batch_tokens": 512, "lr": 0.01, "seeds": [0]},
            "storage": str(tmp_path),
        } | sections
        return parse_study(values, source="test")

    return study


@pytest.fixture
def train(train_by_records: Any) -> Train:
    """Train a study by records alone; returns the budgets of every stage."""

    def run(study: Any, failing: str | None = None) -> list[set[float | None]]:
        stages: list[set[float | None]] = []

        def record(stage: Stage) -> None:
            budgets = {one.trial.id: one.budget for one in plan(study).trials}
            stages.append({budgets[order.trial.id] for order in stage.orders})
            for order in stage.orders:
                bad = order.trial.preset == failing
                blank = failed_result("p", order.trial, error="no", attempts=1, workers=1, started_at="now")
                good = {"status": "finished", "error": None, "loss": 2.0}
                write_result(blank if bad else blank.model_copy(update=good), order.folder)

        outcome = train_by_records(study, record)
        assert outcome.trained.seconds == pytest.approx(len(stages))
        assert {result.trial_id for result in outcome.results} == {one.trial.id for one in plan(study).trials}
        return stages

    return run


def test_recentred_budgets_are_trained_in_ascending_order(make: Any, train: Any) -> None:
    study = make(design=[STAGED])
    assert train(study) == [{1e10}, {3e10}, {1e11}]
    assert plan(study).pending == []


def test_what_belongs_to_no_recentred_budget_is_trained_first(make: Any, train: Any) -> None:
    study = make(design=[STAGED], sweep=[{"train.lr": [0.02]}])
    assert train(study) == [{1e10, None}, {3e10}, {1e11}]


def test_design_that_is_not_recentred_is_trained_at_once(make: Any, train: Any) -> None:
    assert train(make(design=[STAGED | {"recentre": False}])) == [{1e10, 3e10, 1e11}]


def test_failed_trial_is_not_tried_again_in_the_same_run(make: Any, train: Any) -> None:
    study = make(design=[STAGED])
    assert train(study, failing="pico") == [{1e10}, {3e10}, {1e11}]
    left = plan(study).pending
    assert left
    assert {one.trial.preset for one in left} == {"pico"}
