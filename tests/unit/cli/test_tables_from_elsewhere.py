"""A table from elsewhere through the commands: what is said of it, what is fitted, and how later commands read it."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from vqscale.cli.main import app
from vqscale.errors import FitError

SIZES, BUDGETS = np.array([0.25, 0.5, 1, 2, 4]), np.array([1e18, 3e18, 1e19, 3e19])
N = np.concatenate([8e7 * (budget / 1e18) ** 0.5 * SIZES for budget in BUDGETS])
C = np.repeat(BUDGETS, len(SIZES))
D = C / (6 * N)
LOSS = 1.8 + 482 * N**-0.35 + 2085 * D**-0.37


@pytest.fixture
def table(tmp_path):
    def write(columns, name="runs.csv", **options):
        path = tmp_path / name
        pd.DataFrame(columns).to_csv(path, index=False, **options)
        return str(path)

    return write


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def fitted(*arguments):
    done = run("fit", *arguments, "--bootstrap", "0", "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout), done.stderr


def test_mapping_is_printed_and_in_the_json(table):
    path = table({"config.n_params": N, "config.tokens": D, "val/loss": LOSS})
    found, said = fitted(path, "--law", "chinchilla")
    said = " ".join(said.split())
    assert "runs.csv: 20 rows. N = config.n_params, D = config.tokens, loss = val/loss, C = 6 N D (computed)" in said
    assert found["reading"]["columns"] == {
        "parameters_non_embedding": "config.n_params",
        "tokens": "config.tokens",
        "loss": "val/loss",
    }
    assert found["reading"]["computed"] == {"flops": "6 N D"}
    assert found["fits"][0]["parameters"]["alpha"] == pytest.approx(0.35, rel=1e-3)


def test_bad_cells_and_unfinished_runs_are_named_and_the_rest_is_fitted(table):
    loss = LOSS.astype(object)
    loss[[1, 7]], loss[4], loss[9] = "NaN", "Infinity", None
    states = ["FINISHED"] * 20
    states[11], states[12] = "RUNNING", "CRASHED"
    names = [f"run-{index}" for index in range(20)]
    path = table({"Name": names, "State": states, "params": N, "tokens": D, "flops": C, "loss": loss})
    found, _ = fitted(path, "--law", "chinchilla")
    assert [fit["n_runs"] for fit in found["fits"]] == [14]
    assert {(one["name"], one["reason"]) for one in found["excluded"]} == {
        ("run-1 (line 3)", "loss is NaN"),
        ("run-7 (line 9)", "loss is NaN"),
        ("run-4 (line 6)", "loss is Infinity"),
        ("run-9 (line 11)", "loss is empty"),
        ("run-11 (line 13)", "running"),
        ("run-12 (line 14)", "crashed"),
    }


@pytest.mark.parametrize("form", ["{} bits", "-{}", "{}%"])
def test_loss_that_holds_no_number_is_said_and_refused(form, table):
    done = run("fit", table({"N": N, "D": D, "loss": [form.format(loss) for loss in LOSS]}), "--bootstrap", "0")
    assert isinstance(done.exception, FitError)
    assert "loss is not taken as loss: no cell of it is a positive number" in " ".join(done.output.split())
    assert "column 'loss' is missing" in str(done.exception)


def test_run_without_a_name_is_named_by_its_line_once(table):
    loss = [*LOSS[:-1], "oops"]
    found, _ = fitted(table({"N": N, "D": D, "loss": loss}), "--law", "chinchilla")
    assert [(one["name"], one["reason"]) for one in found["excluded"]] == [("line 21", "loss is 'oops', not a number")]


def test_cell_that_no_fitted_law_uses_costs_no_row(table):
    flops = [*C[:-1].astype(object), "n/a"]
    path = table({"N": N, "D": D, "C": flops, "loss": LOSS})
    assert fitted(path, "--law", "chinchilla")[0]["fits"][0]["n_runs"] == 20
    found = fitted(path, "--law", "power_c")[0]
    assert [(one["name"], one["reason"]) for one in found["excluded"]] == [("line 21", "C is n/a")]


def test_sizes_under_an_unknown_name_are_hinted_at(table):
    done = run("fit", table({"model scale": N, "D": D, "loss": LOSS}), "--bootstrap", "0")
    said = " ".join(done.output.split())
    assert "no column is recognised as N. If it is model scale: --column 'N=model scale'" in said


def test_computed_flops_give_no_frontier_by_exact_flops(table):
    found, _ = fitted(table({"N": N, "D": D, "loss": LOSS}), "--law", "chinchilla")
    (fit,) = found["fits"]
    assert [frontier["cost"] for frontier in fit["frontiers"]] == ["6nd"]
    assert fit["convention"]["flops"] == "6nd"
    counted, _ = fitted(table({"N": N, "D": D, "C": C, "loss": LOSS}), "--law", "chinchilla")
    (fit,) = counted["fits"]
    assert [frontier["cost"] for frontier in fit["frontiers"]] == ["exact", "6nd"]
    assert fit["convention"]["flops"] == "exact"


def test_optima_are_printed_by_budget_also_where_flops_are_computed(table):
    done = run("fit", table({"N": N, "D": D, "loss": LOSS}), "--law", "chinchilla", "--bootstrap", "0")
    assert done.exit_code == 0, done.output
    assert "D*/N*" in done.output
    assert "exact" not in done.output


def test_size_with_embeddings_alone_is_fitted_as_that(table):
    (fit,) = fitted(table({"total_params": N, "D": D, "loss": LOSS}), "--law", "chinchilla")[0]["fits"]
    assert fit["axes"] == ["parameters", "tokens"]
    assert fit["convention"]["parameters"] == "total"


def test_later_commands_read_the_table_as_the_fit_did(table, tmp_path):
    path = table({"size_of": N / 1e6, "D": D / 1e9, "final": LOSS, "ppl": np.exp(LOSS)})
    fitted(
        path, "--law", "chinchilla", "--column", "N=size_of", "--column", "loss=final", "--unit", "N=M", "--unit", "D=B"
    )
    asked = run("predict", path, "--compute", "1e19", "--json")
    assert asked.exit_code == 0, asked.output
    (answer,) = json.loads(asked.stdout)
    assert answer["optimum"]["parameters"]["value"] == pytest.approx(2.6e8, rel=0.2)
    exported = run("export", path, "--format", "csv", "--format", "parquet")
    assert exported.exit_code == 0, exported.output
    for copy in (
        pd.read_csv(tmp_path / "runs.analysis/export/results.csv"),
        pd.read_parquet(tmp_path / "runs.analysis/export/results.parquet"),
    ):
        np.testing.assert_allclose(copy["parameters_non_embedding"], N)
        np.testing.assert_allclose(copy["loss"], LOSS)
        assert "cell_problems" not in copy


def test_report_says_which_columns_were_taken_for_what(table, tmp_path):
    path = table({"n_params": N, "tokens": D, "train/loss": LOSS - 0.1, "val/loss": LOSS})
    fitted(path, "--law", "chinchilla")
    assert run("report", path).exit_code == 0
    page = (tmp_path / "runs.analysis" / "report.html").read_text()
    assert "N = n_params, D = tokens, loss = val/loss, C = 6 N D (computed); loss is val/loss, not train/loss" in page
    assert "counted exactly by group" not in page


def test_group_and_metric_take_names_of_the_file(table):
    twice = {"params.arch": ["a"] * 20 + ["b"] * 20, "params": [*N, *N], "tokens": [*D, *D]}
    path = table(twice | {"loss_c4": [*LOSS, *(LOSS + 0.5)], "loss_web": [*LOSS, *LOSS]})
    found, _ = fitted(path, "--law", "chinchilla", "--metric", "loss_c4", "--group", "params.arch")
    assert [fit["where"] for fit in found["fits"]] == [{"arch": "a"}, {"arch": "b"}]
    assert [round(fit["parameters"]["E"], 1) for fit in found["fits"]] == [1.8, 2.3]
    assert {fit["metric"] for fit in found["fits"]} == {"loss_c4"}


def test_recipe_takes_a_sweep_with_names_of_its_own(table):
    rates, sizes = np.array([1e-3, 2e-3, 4e-3, 8e-3, 16e-3]), np.array([1e6, 4e6, 16e6])
    rows = [
        {
            "model_type": "gpt",
            "n_params": size,
            "learning_rate": rate,
            "train_tokens": "20M",
            "tokens_per_batch": 8192,
            "eval/loss": 3 + 0.1 * np.log(rate / (4e-3 * (size / 4e6) ** -0.2)) ** 2,
        }
        for size in sizes
        for rate in rates
    ]
    done = run("recipe", table(rows), "--json")
    assert done.exit_code == 0, done.output
    (rule,) = json.loads(done.stdout)["rules"]
    assert rule["lr"]["powers"]["N"]["exponent"] == pytest.approx(-0.2, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--column", "N=size"], "the table has no column 'size'"),
        (["--column", "N"], "write NAME=YOUR_COLUMN"),
        (["--unit", "N=x"], "write N, D or C and its unit"),
    ],
)
def test_wrong_option_is_refused_with_what_to_write(options, said, table):
    done = run("fit", table({"N": N, "D": D, "loss": LOSS}), *options)
    assert isinstance(done.exception, FitError)
    assert said in str(done.exception)
