"""Which law answers a question, what it says of its reach, and what is said of those that do not answer."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from vqscale.cli.main import app
from vqscale.laws.decisions.query import LossResult, OptimumResult
from vqscale.sweep.events import StudyEvents
from vqscale.workflow.fits import FitOptions, fit_target
from vqscale.workflow.queries import Selection, predict_target


def surface(n, d):
    return 1.82 + 482 * n**-0.348 + 2085 * d**-0.366


def isoflops(shift=1.0):
    """Four budgets of five sizes, `shift` times the best of twenty tokens per parameter."""
    c = np.repeat([1e18, 3e18, 1e19, 3e19], 5)
    n = shift * np.sqrt(c / 120) * np.tile([0.25, 0.5, 1, 2, 4], 4)
    noise = np.exp(np.random.default_rng(0).normal(0, 2e-3, 20))
    return pd.DataFrame({"N": n, "D": c / 6 / n, "C": c, "loss": surface(n, c / 6 / n) * noise})


def saved(folder, table, **options):
    path = str(folder / "runs.csv")
    table.to_csv(path, index=False)
    fit_target(path, FitOptions(**({"bootstrap": 20} | options)), events=StudyEvents())
    return path


def shown(*words):
    done = CliRunner().invoke(app, ["predict", *words], env={"COLUMNS": "300"})
    assert done.exit_code == 0, done.output or done.exception
    return done.output


def test_frontier_is_by_6nd_where_no_run_has_its_flops(tmp_path):
    path = saved(tmp_path, isoflops().drop(columns="C"), laws=["chinchilla"])
    ((_, answer),) = predict_target(path, {"compute": 1e19}, Selection()).outcomes
    assert answer.cost == "6ND: six FLOPs per parameter and token"
    assert answer.optimum.parameters.value * answer.optimum.tokens.value * 6 == pytest.approx(1e19, rel=1e-9)


def test_flops_of_some_runs_give_the_exact_frontier_of_all(tmp_path):
    """A token costs 6 N and as much again at the smallest size, 8e9 FLOPs: half of the runs say so."""
    table = isoflops()
    table["C"] = (6 * table["N"] + 8e4 * np.sqrt(table["N"])) * table["D"]
    whole = predict_target(saved(tmp_path, table, laws=["chinchilla"]), {"compute": 1e19}, Selection()).outcomes[0][1]
    table.loc[::2, "C"] = np.nan
    some = predict_target(saved(tmp_path, table, laws=["chinchilla"]), {"compute": 1e19}, Selection()).outcomes[0][1]
    assert "exact FLOPs per token" in some.cost
    assert some.optimum.parameters.value == pytest.approx(whole.optimum.parameters.value, rel=1e-3)


def test_flops_that_are_no_function_of_n_leave_the_frontier_by_6nd_and_say_why(tmp_path):
    table = isoflops()
    table["C"] *= np.tile([1.0, 0.3, 5.0, 1.0, 0.2], 4)
    ((_, answer),) = predict_target(
        saved(tmp_path, table, laws=["chinchilla"]), {"compute": 1e19}, Selection()
    ).outcomes
    assert isinstance(answer, OptimumResult)
    assert answer.cost.startswith(
        "6ND: six FLOPs per parameter and token (exact FLOPs per token: is no smooth function"
    )


def test_law_in_compute_answers_where_the_law_in_size_and_tokens_refuses_the_budget(tmp_path):
    path = saved(tmp_path, isoflops(shift=60.0), laws=["chinchilla", "power_c"])
    outcomes = predict_target(path, {"compute": 1e19}, Selection()).outcomes
    assert [(fit.law, type(outcome)) for fit, outcome in outcomes] == [("chinchilla", str), ("power_c", LossResult)]
    assert "do not bracket the optimum" in outcomes[0][1]
    text = shown(path, "--compute", "1e19")
    assert "power_c" in text
    assert "refused chinchilla, all runs: the runs do not bracket the optimum" in text


def test_law_that_divides_a_budget_answers_before_one_that_only_knows_it(tmp_path):
    path = saved(tmp_path, isoflops(), laws=["power_c", "chinchilla_tied", "chinchilla"])
    ((fit, answer),) = predict_target(path, {"compute": 1e19}, Selection()).outcomes
    assert fit.law == "chinchilla_tied"
    assert isinstance(answer, OptimumResult)
    ((fit, _),) = predict_target(path, {"compute": 1e19}, Selection(law="power_c")).outcomes
    assert fit.law == "power_c"


def test_subset_without_a_law_in_size_and_tokens_is_answered_by_its_law_in_compute(tmp_path):
    ladder = isoflops().assign(N=lambda t: np.sqrt(t["C"] / 120) * np.tile([0.9, 0.95, 1, 1.05, 1.1], 4))
    ladder = ladder.assign(D=20 * ladder["N"], C=120 * ladder["N"] ** 2)
    ladder["loss"] = surface(ladder["N"], ladder["D"])
    table = pd.concat([isoflops().assign(dataset="grid"), ladder.assign(dataset="ladder")])
    predicted = predict_target(saved(tmp_path, table), {"compute": 1e19}, Selection())
    assert [(fit.where["dataset"], fit.law) for fit, _ in predicted.outcomes] == [
        ("grid", "chinchilla"),
        ("ladder", "power_c"),
    ]
    (note,) = predicted.notes
    assert "chinchilla, dataset ladder: N and D rise and fall together" in note


def test_law_in_size_alone_says_nothing_of_other_token_budgets(tmp_path):
    n = np.geomspace(1e7, 1e9, 8)
    table = pd.DataFrame({"N": n, "D": 1e10, "loss": surface(n, 1e10)})
    path = saved(tmp_path, table, laws=["power_n"])
    done = CliRunner().invoke(app, ["predict", path, "--params", "1e8", "--tokens", "1e12"])
    assert "L = E + A N^-alpha has no D: it was fitted to runs of" in str(done.exception)
    assert predict_target(path, {"params": 1e8}, Selection()).outcomes[0][1].loss.value == pytest.approx(
        surface(1e8, 1e10), rel=1e-6
    )


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("grid"), isoflops(), laws=["chinchilla", "power_c"])


def test_budget_within_the_runs_is_no_extrapolation(grid):
    assert "no: within the runs" in shown(grid, "--compute", "1e19")


def test_what_lies_outside_is_worded_alike_for_a_budget_and_for_a_run(grid):
    best = json.loads(shown(grid, "--compute", "3e21", "--json"))[0]["optimum"]
    n, d = best["parameters"]["value"], best["tokens"]["value"]
    run = json.loads(shown(grid, "--params", repr(n), "--tokens", repr(d), "--json"))[0]
    assert [one.replace(" near the largest budget", "") for one in best["extrapolation"]] == run["extrapolation"]
    assert run["extrapolation"][-1] == "C is 100 x the largest budget tried (3e+19)"
    small = json.loads(shown(grid, "--params", "5e6", "--tokens", "1e9", "--json"))[0]
    assert [one.split(" tried")[0] for one in small["extrapolation"]] == [
        "N is 0.219 x the smallest size",
        "C is 0.03 x the smallest budget",
    ]


@pytest.mark.parametrize(
    ("question", "name"), [(("--compute", "1e22"), "C"), (("--params", "1e9", "--tokens", "1e13"), "D")]
)
def test_more_than_a_hundred_times_outside_is_given_only_when_asked_for_and_is_marked(grid, question, name):
    done = CliRunner().invoke(app, ["predict", grid, *question, "--law", "chinchilla"])
    assert "more than 100 times outside the runs" in str(done.exception)
    assert "--beyond" in str(done.exception)
    (answer,) = json.loads(shown(grid, *question, "--beyond", "--json"))
    sentences = answer["optimum"]["extrapolation"] if "optimum" in answer else answer["extrapolation"]
    assert any(one.startswith(f"{name} is ") for one in sentences)
    assert "tried" in shown(grid, *question, "--beyond")
