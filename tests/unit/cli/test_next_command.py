"""`vqscale next`: a study file that the planner accepts, at the budget, near the optimum, with its prediction kept."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from vqscale.cli.main import app
from vqscale.costing.presets import size_of
from vqscale.errors import StudyError
from vqscale.laws.decisions.predictions import read_predictions
from vqscale.planning.next_study import next_study
from vqscale.planning.plan import plan
from vqscale.results import Result, read_table, to_results
from vqscale.study.spec import load_study


@pytest.fixture(scope="module")
def written(fitted_study: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("next") / "next.yaml"
    words = ["next", str(fitted_study.folder), "--budget", "3.3e12", "--arch", "transformer_vq", "--out", str(out)]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    return out, json.loads(done.stdout)


def test_next_plans_one_trial_at_the_budget_near_the_optimum(fitted_study: Any, written: Any) -> None:
    study = load_study(str(written[0]))
    (one,) = plan(study).trials
    assert one.cost.flops == pytest.approx(3.3e12, rel=0.001)
    assert one.budget == 3.3e12
    asked = ["predict", str(fitted_study.folder), "--compute", "3.3e12", "--arch", "transformer_vq", "--json"]
    (answer,) = json.loads(CliRunner().invoke(app, asked).stdout)
    assert one.cost.parameters_non_embedding == pytest.approx(answer["optimum"]["parameters"]["value"], rel=0.15)
    size = size_of(one.trial.preset or "")
    assert 16 <= size.d_model / size.n_layer <= 48  # the study's largest sizes have 26 to 32


def test_next_keeps_the_studys_settings_and_says_where_its_learning_rate_is_from(
    fitted_study: Any, written: Any
) -> None:
    study, old = load_study(str(written[0])), fitted_study.study
    assert study.data == old.data
    assert {key: study.model[key] for key in ("codebook_size", "block_length")} == {
        "codebook_size": 16,
        "block_length": 16,
    }
    assert {key: study.train[key] for key in ("context", "batch_tokens", "lr")} == old.train
    assert (study.storage, study.tracking) == (old.storage, old.tracking)
    assert study.resources.model_copy(update={"flops_per_second": None}) == old.resources
    text = written[0].read_text()
    assert "# The learning rate 0.01 is that of" in text
    assert "# Predicted: " in text


def test_next_says_what_lies_outside_the_runs_as_predict_does(fitted_study: Any, written: Any) -> None:
    asked = ["predict", str(fitted_study.folder), "--compute", "3.3e12", "--arch", "transformer_vq", "--json"]
    (answer,) = json.loads(CliRunner().invoke(app, asked).stdout)
    sentences = answer["optimum"]["extrapolation"]
    assert sentences[-1].startswith("C is ")
    assert written[1]["extrapolation"] == sentences
    assert written[1]["marks"] == answer["marks"]
    text = written[0].read_text()
    assert all(f"# Extrapolated: {sentence}." in text for sentence in sentences)


def test_next_goes_far_outside_the_runs_only_when_asked_to(fitted_study: Any, tmp_path: Path) -> None:
    words = ["next", str(fitted_study.folder), "--budget", "3e13", "--arch", "transformer_vq"]
    out = tmp_path / "far.yaml"
    refused = CliRunner().invoke(app, [*words, "--out", str(out)])
    assert "more than 100 times outside the runs" in str(refused.exception)
    assert not out.exists()
    done = CliRunner().invoke(app, [*words, "--beyond", "--out", str(out)])
    assert done.exit_code == 0, done.exception
    assert "Extrapolated: C is " in done.output


def test_next_hands_the_measured_speed_to_the_plan_of_the_next_study(written: Any) -> None:
    planned = plan(load_study(str(written[0])))
    (one,) = planned.trials
    assert planned.study.resources.flops_per_second == 1e9  # what all runs of the fixture reached
    assert one.cost.seconds == pytest.approx(one.cost.flops / 1e9)
    assert "1e+09 per worker" in planned.speed_source
    assert "# Its time is estimated from 1e+09 FLOP/s per worker" in written[0].read_text()


def test_next_registers_its_prediction_once(fitted_study: Any, written: Any, tmp_path: Path) -> None:
    folder = written[1]["folder"]
    (kept,) = read_predictions(folder)
    assert kept.model_dump(mode="json") == written[1]["prediction"]
    assert kept.trial_id == plan(load_study(str(written[0]))).trials[0].trial.id
    again = ["next", str(fitted_study.folder), "--budget", "3.3e12", "--arch", "transformer_vq"]
    done = CliRunner().invoke(app, [*again, "--out", str(tmp_path / "again.yaml")])
    assert done.exit_code == 0, done.output
    assert read_predictions(folder) == [kept]
    assert yaml.safe_load((tmp_path / "again.yaml").read_text()) == yaml.safe_load(written[0].read_text())


def test_next_of_a_quadratic_baseline_has_no_codebook(fitted_study: Any, tmp_path: Path) -> None:
    out = tmp_path / "next.yaml"
    done = CliRunner().invoke(
        app, ["next", str(fitted_study.folder), "--budget", "3e12", "--arch", "transformer", "--out", str(out)]
    )
    assert done.exit_code == 0, done.output
    assert set(load_study(str(out)).model) == {"arch", "preset"}
    assert len(plan(load_study(str(out))).trials) == 1


def test_next_replaces_no_file_and_needs_a_study(fitted_study: Any, written: Any, tmp_path: Path) -> None:
    words = ["next", str(fitted_study.folder), "--budget", "3.3e12", "--out", str(written[0])]
    assert "exists already" in str(CliRunner().invoke(app, words).exception)
    table = shutil.copy(fitted_study.folder / "results.csv", tmp_path / "runs.csv")
    done = CliRunner().invoke(app, ["next", str(table), "--budget", "1e12", "--out", str(tmp_path / "x.yaml")])
    assert isinstance(done.exception, StudyError)
    assert "table without a study" in str(done.exception)


@pytest.fixture
def runs_as(fitted_study: Any) -> Callable[..., list[Result]]:
    """The finished runs of one architecture, as if they were of another and a variant of it."""

    def make(**changes: Any) -> list[Result]:
        table = read_table(str(fitted_study.folder / "results.csv"))
        runs = to_results(table[(table["arch"] == "transformer_vq") & (table["status"] == "finished")])
        return [run.model_copy(update={"head": None, "codebook_size": None} | changes) for run in runs]

    return make


def test_next_of_a_variant_is_that_variant_or_refused(fitted_study: Any, runs_as: Any) -> None:
    study, asked = fitted_study.study, (3e4, 3.3e12, "?")
    alone = {"arch": "longvq", "variant": "window-only"}
    with pytest.raises(StudyError, match=r"the fit is of longvq as window-only.*makes it its usual form"):
        next_study(study, runs_as(**alone), *asked)
    settled = study.model_copy(update={"model": study.model | {"global_memory": False}})
    assert next_study(settled, runs_as(**alone), *asked).study.model["global_memory"] is False


def test_next_of_a_sliding_window_keeps_the_window_that_was_fitted(fitted_study: Any, runs_as: Any) -> None:
    runs = runs_as(arch="transformer_window", variant="w96", block_length=None)
    assert next_study(fitted_study.study, runs, 3e4, 3.3e12, "?").study.model["window"] == 96
