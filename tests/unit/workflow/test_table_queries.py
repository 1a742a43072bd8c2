"""Questions to the fits of tables from elsewhere: every subset, by name; what can be asked; remedies that work."""

import shlex

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from vqscale.cli.main import app
from vqscale.errors import UserError
from vqscale.laws.decisions.query import LossResult, OptimumResult
from vqscale.sweep.events import StudyEvents
from vqscale.workflow.fits import FitOptions, fit_target
from vqscale.workflow.queries import Selection, predict_target


def surface(n, d):
    return 1.82 + 482 * n**-0.348 + 2085 * d**-0.366


def budgets(arch="mamba-2 (ours)", factor=1.0):
    c = np.repeat([1e18, 3e18, 1e19, 3e19], 5)
    n = np.sqrt(c / 120) * np.tile([0.25, 0.5, 1, 2, 4], 4)
    noise = np.exp(np.random.default_rng(0).normal(0, 2e-3, 20))
    return pd.DataFrame({"arch": arch, "N": n, "D": c / 6 / n, "C": c, "loss": factor * surface(n, c / 6 / n) * noise})


def ladder():
    n = np.geomspace(2e7, 1e9, 8)
    return pd.DataFrame({"N": n, "D": 20 * n, "C": 120 * n**2, "loss": surface(n, 20 * n)})


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Fitted tables by name: of two architectures, of one multiple, and one that was not fitted."""
    folder = tmp_path_factory.mktemp("tables")
    made = {"two": pd.concat([budgets(), budgets("RWKV", 1.05)]), "ladder": ladder(), "unfitted": ladder()}
    for name, table in made.items():
        table.to_csv(folder / f"{name} of runs.csv", index=False)
        if name != "unfitted":
            fit_target(str(folder / f"{name} of runs.csv"), FitOptions(bootstrap=20), events=StudyEvents())
    return {name: str(folder / f"{name} of runs.csv") for name in made}


def ask(*words):
    return CliRunner().invoke(app, ["predict", *words], env={"COLUMNS": "300"})


def error_of(done):
    assert isinstance(done.exception, UserError), done.output
    return str(done.exception)


def test_every_architecture_of_a_table_answers_whatever_its_name(tables):
    outcomes = predict_target(tables["two"], {"compute": 1e19}, Selection()).outcomes
    assert [fit.where["arch"] for fit, _ in outcomes] == ["RWKV", "mamba-2 (ours)"]
    assert all(isinstance(answer, OptimumResult) for _, answer in outcomes)


@pytest.mark.parametrize("selection", [Selection(arch="mamba-2 (ours)"), Selection(group={"arch": "mamba-2 (ours)"})])
def test_subset_is_chosen_by_its_name(tables, selection):
    ((fit, answer),) = predict_target(tables["two"], {"compute": 1e19}, selection).outcomes
    assert fit.where["arch"] == "mamba-2 (ours)"
    n = answer.optimum.parameters.value
    assert answer.optimum.loss.value == pytest.approx(surface(n, 1e19 / 6 / n), rel=0.01)


def test_subset_is_chosen_by_the_name_of_its_column_in_the_file(tmp_path):
    table = budgets().rename(columns={"arch": "config.architecture"})
    other = table.assign(**{"config.architecture": "RWKV"}, loss=1.05 * table["loss"])
    pd.concat([table, other]).to_csv(tmp_path / "runs.csv", index=False)
    fit_target(str(tmp_path / "runs.csv"), FitOptions(bootstrap=0, laws=["chinchilla"]), events=StudyEvents())
    chosen = Selection(group={"config.architecture": "RWKV"})
    ((fit, _),) = predict_target(str(tmp_path / "runs.csv"), {"compute": 1e19}, chosen).outcomes
    assert fit.label == "RWKV"


def test_numbers_that_name_a_subset_are_compared_as_numbers():
    where = {"vocab_size": 32000, "dataset": "32000"}
    assert Selection(group={"vocab_size": "32e3"}).agrees(where)
    assert Selection(group={"dataset": "32000"}).agrees(where)
    assert not Selection(group={"vocab_size": "web"}).agrees(where)
    assert not Selection(group={"colour": "red"}).agrees(where)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--group", "arch=GPT"), "no fit is what --arch, --context, --codebook and --group say. There are: "),
        (("--arch", "gpt"), "There are: power_c of mamba-2 (ours); power_c of RWKV;"),
        (("--group", "arch"), "--group arch: write COLUMN=VALUE of a subset that was fitted"),
    ],
)
def test_unknown_subset_is_refused_with_those_that_there_are(tables, words, message):
    shown = error_of(ask(tables["two"], "--compute", "1e19", *words))
    assert all(part in shown for part in message.split("power_c of mamba-2 (ours); power_c of RWKV;"))


def test_law_in_compute_answers_where_none_in_size_and_tokens_could_be_fitted(tables):
    predicted = predict_target(tables["ladder"], {"compute": 2e19}, Selection())
    ((fit, answer),) = predicted.outcomes
    assert fit.law == "power_c"
    assert isinstance(answer, LossResult)
    n = np.sqrt(2e19 / 120)
    assert answer.loss.value == pytest.approx(surface(n, 20 * n), rel=1e-3)
    assert "No law in N and D was fitted" in predicted.notes[0]
    assert "N and D rise and fall together" in predicted.notes[0]
    assert "note No law in N and D was fitted" in ask(tables["ladder"], "--compute", "2e19").output


@pytest.mark.parametrize("words", [(), ("--params", "1e9"), ("--compute", "1e19", "--loss", "3"), ("--money", "5usd")])
@pytest.mark.parametrize("name", ["two", "ladder"])
def test_question_without_an_answer_is_told_one_that_works_as_pasted(tables, name, words):
    if (name, words) == ("two", ("--params", "1e9")):
        return  # it has an answer
    shown = error_of(ask(tables[name], *words))
    command = shlex.split(shown.split("Such as: ")[1])
    assert command[:2] == ["vqscale", "predict"]
    done = CliRunner().invoke(app, command[1:])
    assert done.exit_code == 0, done.output


def test_missing_fits_are_told_a_command_that_makes_them(tables):
    shown = error_of(ask(tables["unfitted"], "--compute", "1e19"))
    command = shlex.split(shown.split("Run `")[1].split("`")[0])
    assert command == ["vqscale", "fit", tables["unfitted"]]


def test_table_without_any_fit_says_why(tmp_path):
    table = str(tmp_path / "few.csv")
    ladder().head(3).to_csv(table, index=False)
    fit_target(table, FitOptions(bootstrap=0), events=StudyEvents())
    shown = error_of(ask(table, "--compute", "1e19"))
    assert "no law was fitted, so that nothing can be predicted. First reason: power_n" in shown
