import json

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from vqscale.cli.fit import fit
from vqscale.cli.report import report
from vqscale.errors import FitError, StorageError
from vqscale.results import write_table

app = typer.Typer()
app.command()(fit)
app.command()(report)
STUDY = """
study: quickstart
data: {corpus: stdlib}
model: {arch: transformer_vq, preset: nano}
train: {context: 512, tokens: 1_000_000, batch_tokens: 8192, lr: 3e-3}
fit: {laws: [power_n], bootstrap: 3}
"""


def run(*arguments):
    return CliRunner().invoke(app, list(arguments), catch_exceptions=True)


@pytest.fixture
def published(tmp_path):
    n = np.geomspace(1e6, 1e9, 7)
    path = tmp_path / "published.csv"
    pd.DataFrame({"N": n, "final": 1.7 + 400 * n**-0.35}).to_csv(path, index=False)
    return path


@pytest.fixture
def study_folder(study_results, tmp_path):
    folder = tmp_path / "runs" / "quickstart"
    write_table(study_results, str(folder / "results.parquet"))
    (folder / "study.yaml").write_text(STUDY)
    return folder


def test_fit_on_a_table_with_other_names_recovers_its_exponent(published):
    columns = ["--column", "parameters_non_embedding=N", "--column", "loss=final"]
    result = run("fit", str(published), "--bootstrap", "0", "--json", *columns)
    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)["fits"]
    assert found["parameters"]["alpha"] == pytest.approx(0.35, rel=1e-6)
    written = {path.name for path in published.with_suffix(".analysis").iterdir()}
    assert written == {"fits.json", "fits.csv", "figures"}


def test_fit_and_report_on_a_study_folder_use_its_laws(study_folder):
    result = run("fit", str(study_folder))
    assert result.exit_code == 0, result.output
    assert "power_n" in result.stdout
    assert "chinchilla" not in result.stdout
    assert "left out vq-mini-diverged: diverged" in result.stdout
    made = run("report", str(study_folder), "--json")
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)[-1] == str(study_folder / "report.html")


def test_study_file_leads_to_its_folder(study_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("fit", str(study_folder / "study.yaml"), "--bootstrap", "0")
    assert result.exit_code == 0, result.output
    assert (study_folder / "fits.json").exists()


def test_fit_that_no_data_supports_is_an_error_with_its_reason(published):
    pd.read_csv(published).iloc[:3].to_csv(published, index=False)
    result = run("fit", str(published), "--column", "parameters_non_embedding=N", "--column", "loss=final")
    assert isinstance(result.exception, FitError)
    assert "needs at least 4" in str(result.exception)


def test_column_that_is_not_there_is_named(published):
    result = run("fit", str(published), "--column", "loss=accuracy")
    assert isinstance(result.exception, FitError)
    assert "no column 'accuracy'" in str(result.exception)


def test_folder_without_results_is_named(tmp_path):
    for command in ("fit", "report"):
        result = run(command, str(tmp_path))
        assert isinstance(result.exception, StorageError)
        assert "holds no study.yaml. Name a study file (.yaml)" in str(result.exception)
