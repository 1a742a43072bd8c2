"""A re-centred study is trained budget after budget, each once a run."""

import io
from typing import Any

import pytest
from rich.console import Console

from vqscale.plan.plan import Plan, plan
from vqscale.workflow import study as module
from vqscale.sweep.driver.tuning import Trained
from vqscale.track.tracker import Tracker

ISOFLOP = {"type": "isoflop", "budgets": [1e11, 1e10, 3e10], "sizes": ["d16x2", "d24x2", "pico", "nano"]}
STAGED = ISOFLOP | {"per_budget": 3, "minimum_steps": 1}


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, end: Any, tmp_path: Any) -> Any:
    """Train a study by records alone; returns the budgets of every stage, and the trials that ended."""

    def run(study: Any, failing: str | None = None) -> list[set[float | None]]:
        stages: list[set[float | None]] = []

        def record(stage: Plan, *_: Any) -> Trained:
            stages.append({one.budget for one in stage.pending})
            for one in stage.pending:
                bad = one.trial.preset == failing
                end(stage, one, status="failed" if bad else "finished", loss=None if bad else 2.0)
            return Trained(results=[], lanes=1, training_seconds=1.0)

        monkeypatch.setattr(module, "_train", record)
        monkeypatch.setattr(module, "Observer", lambda *_: None)
        tracker = Tracker(f"sqlite:///{tmp_path}/mlflow.db", "p", artifacts=None)
        total = module._train_in_stages(lambda: plan(study), Console(file=io.StringIO()), tracker, None)
        assert total.training_seconds == len(stages)
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
