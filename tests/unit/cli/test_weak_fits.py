"""What the terminal says of fits that numbers hardly support: degrees of freedom, marks, and what is left out."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from vqscale.cli.main import app


def told(*words):
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "400"})


def one_of_two_sets():
    """Twenty runs, and ten of another data set between their sizes whose losses are a quarter higher."""
    c = np.repeat([1e18, 3e18, 1e19, 3e19], 5)
    n = np.sqrt(c / 120) * np.tile([0.25, 0.5, 1, 2, 4], 4)
    loss = (1.82 + 482 * n**-0.348 + 2085 * (c / 6 / n) ** -0.366) * np.exp(
        np.random.default_rng(0).normal(0, 3e-3, 20)
    )
    first = pd.DataFrame({"N": n, "D": c / 6 / n, "C": c, "loss": loss})
    other = first.assign(N=1.07 * first["N"], D=first["D"] / 1.07, loss=1.25 * first["loss"])
    return pd.concat([first, other[::2]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tables: four runs on a curve of three constants, and a subset that holds two data sets."""
    made = tmp_path_factory.mktemp("weak")
    d = np.geomspace(1e9, 1e10, 4)
    noise = np.exp(np.random.default_rng(0).normal(0, 3e-3, 4))
    pd.DataFrame({"D": d, "loss": (1.8 + 2085 * d**-0.37) * noise}).to_csv(made / "four.csv", index=False)
    one_of_two_sets().to_csv(made / "mixed.csv", index=False)
    return made


@pytest.fixture(scope="module")
def mixed(folder):
    return told("fit", str(folder / "mixed.csv"), "--law", "chinchilla", "--bootstrap", "20").output


def test_four_runs_are_shown_with_their_degree_of_freedom_and_no_r2(folder):
    text = told("fit", str(folder / "four.csv"), "--bootstrap", "20").output
    assert "4 runs, 1 degree of freedom" in text
    assert "R²" not in text
    assert "90 % intervals" not in text
    assert "marked power_d, all runs: 4 runs for 3 constants, 1 degree of freedom" in text
    answer = told("predict", str(folder / "four.csv"), "--tokens", "2e10").output
    assert "90 % intervals" not in answer
    assert "marked power_d, all runs: 4 runs for 3 constants" in answer


def test_marked_fit_is_marked_in_its_table_and_below(mixed):
    assert "marked: see below" in mixed
    assert "marked chinchilla, all runs: R² 0." in mixed


def test_marks_of_a_fit_stand_in_its_json_its_predictions_and_its_exports(folder, mixed):
    table = str(folder / "mixed.csv")
    (fit,) = json.loads((folder / "mixed.analysis" / "fits.json").read_text())["fits"]
    assert fit["marks"][0].startswith("R² 0.")
    (answer,) = json.loads(told("predict", table, "--compute", "1e19", "--json").output)
    assert answer["marks"] == fit["marks"]
    shown = told("predict", table, "--compute", "1e19").output
    assert all(f"marked chinchilla, all runs: {mark}" in shown for mark in fit["marks"])
    told("export", table, "--out", str(folder / "out"), "--format", "latex", "--format", "csv")
    assert r"$\dagger$ all runs: R$^2$ 0." in (folder / "out" / "fits.tex").read_text()
    assert set(pd.read_csv(folder / "out" / "fits.csv")["marks"]) == {"; ".join(fit["marks"])}
