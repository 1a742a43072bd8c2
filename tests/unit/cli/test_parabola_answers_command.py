"""`vqscale fit` and `predict` where isoFLOP parabolas answer in place of a refused law, or beside one."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from vqscale.cli.main import app
from vqscale.errors import FitError

BUDGETS = np.geomspace(1e17, 1e20, 6)


def best_size(budget):
    return (0.10 * 6 / (0.12 * 10)) ** (1 / 0.22) * (budget / 6) ** (0.12 / 0.22)


def write_runs(folder, *, less=0.5, **columns):
    """Two powers less half a nat: E would be negative, so that Chinchilla's law is refused."""
    n, c = np.outer(best_size(BUDGETS), np.geomspace(1 / 4, 4, 7)).ravel(), np.repeat(BUDGETS, 7)
    loss = (6 * n**-0.10 + 10 * (c / 6 / n) ** -0.12 - less) * np.exp(np.random.default_rng(0).normal(0, 1e-3, len(n)))
    table = pd.DataFrame({"N": n, "D": c / 6 / n, "C": c, "loss": loss, **columns})
    table.to_csv(folder / "runs.csv", index=False)
    return str(folder / "runs.csv")


def run(*words):
    return CliRunner().invoke(app, list(words))


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refused")
    table = write_runs(folder)
    fitted = run("fit", table, "--law", "chinchilla", "--bootstrap", "20", "--out", str(folder))
    return table, str(folder), fitted


def test_fit_of_a_refused_law_prints_the_parabolas_optima_and_says_why(refused):
    _, _, fitted = refused
    assert fitted.exit_code == 0, fitted.output
    text = " ".join(fitted.output.split())
    assert "N*(C) by isoFLOP parabolas, as the law is refused" in text
    assert "refused chinchilla, all runs: on a bound: E fell to zero" in text
    assert "100 x the data" in text


def test_predict_of_a_refused_law_answers_a_budget_by_the_parabolas(refused):
    table, folder, _ = refused
    done = run("predict", table, "--fits", folder, "--compute", "1e21", "--json")
    assert done.exit_code == 0, done.output
    (answer,) = json.loads(done.stdout)
    assert answer["law"] == "isoflop parabolas"
    assert answer["in_place_of"].startswith("chinchilla: on a bound")
    best = answer["optimum"]
    assert best["beyond"] == pytest.approx(10)
    assert best["parameters"]["value"] == pytest.approx(best_size(1e21), rel=0.1)
    interval = best["parameters"]["interval"]
    assert interval["low90"] < best["parameters"]["value"] < interval["high90"]
    assert best["loss"] is None


def test_predict_of_a_refused_law_refuses_what_parabolas_cannot_say(refused):
    table, folder, _ = refused
    with pytest.raises(FitError, match="times the largest budget with a vertex"):
        raise run("predict", table, "--fits", folder, "--compute", "1e25").exception
    with pytest.raises(FitError, match="no law was fitted"):
        raise run("predict", table, "--fits", folder, "--loss", "2.0").exception


def test_predict_of_a_fitted_law_shows_the_size_by_the_parabolas_beside_it(tmp_path):
    table = write_runs(tmp_path, less=-1.0)
    fitted = run("fit", table, "--law", "chinchilla", "--bootstrap", "20", "--out", str(tmp_path))
    assert fitted.exit_code == 0, fitted.output
    done = run("predict", table, "--fits", str(tmp_path), "--compute", "1e19", "--json")
    (answer,) = json.loads(done.stdout)
    assert answer["law"] == "chinchilla"
    assert answer["parabolas"]["value"] == pytest.approx(best_size(1e19), rel=0.2)
    assert "N* by parabolas" in run("predict", table, "--fits", str(tmp_path), "--compute", "1e19").output
