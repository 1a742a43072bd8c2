"""Predictions are registered before their runs, once, and compared with them afterwards."""

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from vqscale.cli.main import app
from vqscale.laws.decisions.predictions import read_predictions, score_predictions
from vqscale.laws.io.export import read_fits
from vqscale.planning.pending_predictions import predict_pending
from vqscale.planning.plan import plan
from vqscale.results import read_table
from vqscale.sweep.events import StudyEvents
from vqscale.sweep.protocol import Stage
from vqscale.workflow.predictions import before_stage

HELD_OUT = 0.97 * 6.4e11


def run(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output
    return done.output


def test_register_and_score_speak_of_the_held_out_budget(
    corpus_uri: str, tmp_path: Path, write_study: Any, finish: Any
) -> None:
    study = write_study(tmp_path / "study.yaml", corpus_uri, fit={"laws": ["chinchilla"], "bootstrap": 20})
    finish(study, HELD_OUT)
    Path(study.folder, "study.yaml").write_text((tmp_path / "study.yaml").read_text())
    run("fit", study.folder)
    pending = {one.trial.id for one in plan(study).pending}
    assert "Registered 16 predictions" in run("predict", study.folder, "--register")
    assert {one.trial_id for one in read_predictions(study.folder)} == pending
    assert json.loads(run("predict", study.folder, "--register", "--json")) == {"registered": [], "scores": []}
    assert "16 registered predictions are open" in run("predict", study.folder, "--score")
    trials, fits, known = plan(study).trials, read_fits(study.folder).fits, read_predictions(study.folder)
    same = [fit.model_copy(update={"id": f"{fit.id} of another table"}) for fit in fits]
    assert predict_pending(trials, same, known) == []
    others = [fit.model_copy(update={"parameters": fit.parameters | {"E": fit.parameters["E"] + 0.01}}) for fit in fits]
    assert len(predict_pending(trials, others, known)) == 16

    finish(study)
    scores = json.loads(run("predict", study.folder, "--score", "--json"))["scores"]
    assert {one["prediction"]["trial_id"] for one in scores} == pending
    assert max(abs(one["relative_error"]) for one in scores) < 0.02
    text = run("fit", study.folder)
    assert "Registered predictions, and what their runs gave" in text
    assert "16 predictions of 16 runs, mean error" in text


def test_staged_study_predicts_each_budget_that_the_smaller_ones_allow(
    corpus_uri: str, tmp_path: Path, write_study: Any, finish: Any, train_by_records: Any
) -> None:
    sizes = ["d8x2", "d16x2", "d24x2", "d32x2", "nano", "micro", "milli"]
    budgets = [1e10, 4e10, 1.6e11]
    design = {"type": "isoflop", "budgets": budgets, "sizes": sizes, "per_budget": 4, "minimum_steps": 5}
    study = write_study(
        tmp_path / "study.yaml", corpus_uri, design=[design], fit={"laws": ["power_n", "chinchilla"], "bootstrap": 10}
    )
    known_before: dict[float, set[str | None]] = {}

    def record(stage: Stage) -> None:
        budgets = {one.trial.id: one.budget for one in plan(study).trials}
        (budget,) = {budgets[order.trial.id] for order in stage.orders}
        known_before[budget or 0.0] = {one.trial_id for one in read_predictions(study.folder)}
        finish(study, 1.1 * (budget or 0.0))

    class Messages(StudyEvents):
        def message(self, text: str, level: str = "info") -> None:
            said.append(text)

    said: list[str] = []
    train_by_records(study, record, events=Messages(), before_stage=before_stage)
    assert known_before[1e10] == set()
    largest = {one.trial.id for one in plan(study).trials if one.budget == 1.6e11}
    assert largest <= known_before[1.6e11]
    scores = score_predictions(read_predictions(study.folder), read_table(f"{study.folder}/results.parquet"))
    assert largest <= {one.prediction.trial_id for one in scores}
    assert any("before their runs" in text for text in said)
