"""Which column is N, D, C, the loss or the state of a run, under the names that people and trackers give them."""

import numpy as np
import pandas as pd
import pytest
from synthetic_runs import make_study_results

from vqscale.errors import FitError
from vqscale.results import write_table
from vqscale.results.foreign import read_runs

N, D = np.array([2e7, 4e7, 8e7, 1.6e8]), np.array([8e9, 4e9, 2e9, 1e9])
C, LOSS = 6 * N * D * 1.1, np.array([3.69, 3.54, 3.48, 3.52])
AXES = {"parameters_non_embedding": N, "tokens": D, "flops": C, "loss": LOSS}
NAMES = [
    ("N", "D", "C", "L"),
    ("params", "tokens", "flops", "loss"),
    ("n_params", "train_tokens", "train_flops", "val_loss"),
    ("num_params", "training_tokens", "compute", "final_loss"),
    ("model_size", "n_tokens", "C", "eval/loss"),
    ("parameters", "num_tokens", "total_flops", "validation_loss"),
    ("non_embedding_params", "tokens_seen", "training_flops", "val/loss"),
    ("params_non_embedding", "tokens_trained", "flop", "eval_loss"),
    ("n_params_non_emb", "total_tokens", "training_compute", "test_loss"),
    ("params.n_params", "params.tokens", "params.flops", "metrics.val_loss"),
    ("params.n_params", "params.train_tokens", "metrics.flops", "metrics.final/loss"),
    ("config.n_params", "config.tokens", "summary.flops", "summary.val_loss"),
    ("config.n_params.value", "config.tokens.value", "summary.flops", "summary.val_loss"),
    ("config/n_params", "config/tokens", "flops", "eval/loss"),
    ("model.num_parameters", "data.train_tokens", "flops", "validation/loss"),
    ("Model Size", "Training Tokens", "Training FLOP", "Validation Loss"),
    ("nParams", "nTokens", "trainFLOPs", "valLoss"),
    ("# params", "# tokens", "FLOPs", "Val Loss"),
    ("Number of parameters", "Number of tokens", "Compute (FLOPs)", "Loss (nats)"),
    ("param_count", "token_count", "compute_budget", "heldout_loss"),
    ("num_parameters", "num_input_tokens_seen", "total_flos", "eval_loss"),
    ("trainable_params", "consumed_tokens", "flops", "lm loss validation"),
    ("size", "tokens", "flops", "cross_entropy"),
    ("n", "d", "c", "best_val_loss"),
]


@pytest.fixture
def read(tmp_path):
    def write_and_read(table, **options):
        table = pd.DataFrame(table)
        table.to_csv(tmp_path / "runs.csv", index=False)
        return read_runs(str(tmp_path / "runs.csv"), **options)

    return write_and_read


def axes(runs):
    return {name: runs.table[name].to_numpy(dtype=float) for name in AXES if name in runs.table}


@pytest.mark.parametrize("names", NAMES, ids=lambda names: ", ".join(names))
def test_common_names_are_recognised_and_recorded(names, read):
    runs = read(dict(zip(names, (N, D, C, LOSS), strict=True)))
    for name, values in axes(runs).items():
        np.testing.assert_allclose(values, AXES[name])
    assert {name: runs.reading.columns[name] for name in AXES} == dict(zip(AXES, names, strict=True))
    assert runs.reading.computed == {}


@pytest.mark.parametrize(
    ("columns", "taken", "passed_over"),
    [
        ({"train/loss": LOSS - 0.1, "val/loss": LOSS}, "val/loss", "train/loss"),
        ({"loss": LOSS - 0.1, "eval_loss": LOSS}, "eval_loss", "loss"),
        ({"test_loss": LOSS - 0.1, "val_loss": LOSS}, "val_loss", "test_loss"),
        ({"best_val_loss": LOSS - 0.1, "val_loss": LOSS}, "val_loss", "best_val_loss"),
        ({"train_loss": LOSS - 0.1, "loss": LOSS}, "loss", "train_loss"),
        ({"train/loss": LOSS - 0.1, "loss": LOSS}, "loss", "train/loss"),
        ({"loss": LOSS - 0.1, "final_loss": LOSS}, "final_loss", "loss"),
        ({"metrics.train.loss": LOSS - 0.1, "metrics.val.loss": LOSS}, "metrics.val.loss", "metrics.train.loss"),
    ],
)
def test_held_out_loss_goes_before_others_and_it_is_noted(columns, taken, passed_over, read):
    runs = read({"N": N, "D": D, "C": C} | columns)
    np.testing.assert_allclose(runs.table["loss"], LOSS)
    assert runs.reading.notes == [f"loss is {taken}, not {passed_over}"]


def test_training_loss_is_noted_where_it_is_the_only_one(read):
    runs = read({"N": N, "D": D, "C": C, "train/loss": LOSS})
    np.testing.assert_allclose(runs.table["loss"], LOSS)
    assert runs.reading.notes == ["loss is train/loss, a training loss: the table has no other"]


def test_size_without_embeddings_goes_before_the_total(read):
    runs = read({"total_params": 1.3 * N, "non_embedding_params": N, "tokens": D, "loss": LOSS})
    np.testing.assert_allclose(runs.table["parameters_non_embedding"], N)
    np.testing.assert_allclose(runs.table["parameters"], 1.3 * N)
    assert "N is non_embedding_params, not total_params" in runs.reading.notes


def test_two_columns_of_equal_certainty_are_refused_with_the_option(read):
    with pytest.raises(FitError, match=r"loss: 2 columns may be it and differ: eval/loss, val_loss.*--column loss="):
        read({"N": N, "D": D, "eval/loss": LOSS, "val_loss": LOSS + 0.1})
    with pytest.raises(FitError, match=r"D: 2 columns may be it and differ: config\.tokens, summary\.tokens"):
        read({"N": N, "config.tokens": D, "summary.tokens": 2 * D, "loss": LOSS})


def test_two_columns_of_equal_numbers_are_one(read):
    runs = read({"N": N, "config.tokens": D, "summary.tokens": D * 1.0001, "loss": LOSS})
    assert runs.reading.columns["tokens"] == "config.tokens"


def test_columns_of_one_name_are_one_where_they_agree(read, tmp_path):
    def two(second):
        rows = "".join(f"{n},{d},{a},{b}\n" for n, d, a, b in zip(N, D, LOSS, second, strict=True))
        (tmp_path / "twice.csv").write_text("N,D,loss,loss\n" + rows)
        return str(tmp_path / "twice.csv")

    assert read_runs(two(LOSS)).reading.columns["loss"] == "loss (column 3)"
    with pytest.raises(FitError, match=r"loss \(column 3\), loss \(column 4\)"):
        read_runs(two(LOSS + 0.1))
    stated = read_runs(two(LOSS + 0.1), columns=["loss=loss (column 4)"])
    np.testing.assert_allclose(stated.table["loss"], LOSS + 0.1)


def test_column_that_is_stated_goes_before_what_is_recognised(read):
    table = {"N": N, "D": D, "eval/loss": LOSS, "val/loss": LOSS + 0.1, "extra": 2 * N}
    runs = read(table, columns=["loss=val/loss", "N=extra"])
    np.testing.assert_allclose(runs.table["loss"], LOSS + 0.1)
    np.testing.assert_allclose(runs.table["parameters_non_embedding"], 2 * N)
    assert read(table, metric="eval/loss").table["eval/loss"].tolist() == LOSS.tolist()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"columns": ["N=size_of"]}, "the table has no column 'size_of'"),
        ({"columns": ["N"]}, "write NAME=YOUR_COLUMN"),
        ({"columns": ["N="]}, "write NAME=YOUR_COLUMN"),
        ({"columns": ["N=N", "parameters_non_embedding=D"]}, "is named twice"),
        ({"columns": ["N=text"]}, "no cell is a positive number; it holds 'a'"),
        ({"units": ["N=furlongs"]}, "write N, D or C and its unit"),
        ({"units": ["loss=M"]}, "write N, D or C and its unit"),
        ({"units": ["N"]}, "write N, D or C and its unit"),
        ({"units": ["N=-1"]}, "write N, D or C and its unit"),
        ({"units": ["C=1e18"], "columns": []}, "--unit C"),
    ],
)
def test_option_that_fits_no_table_is_refused(options, said, read):
    table = {"N": N, "D": D, "loss": LOSS, "text": ["a", "b", "c", "d"]}
    with pytest.raises(FitError, match=said):
        read(table, **options)


@pytest.mark.parametrize(
    ("column", "letter"),
    [("model scale", "N"), ("n_tok", "D"), ("c4_loss", "loss"), ("perplexity", "loss")],
)
def test_column_that_looks_like_a_measure_gets_a_hint(column, letter, read):
    table = {"N": N, "D": D, "C": C, "loss": LOSS}
    renamed = {column if name == letter else name: values for name, values in table.items()}
    notes = read(renamed).reading.notes
    assert [note for note in notes if f"no column is recognised as {letter}" in note and column in note]


def test_column_of_a_measures_name_without_numbers_is_noted(read):
    runs = read({"params": ["small", "base", "large", "xl"], "tokens": D, "loss": LOSS})
    assert "parameters_non_embedding" not in runs.reading.columns
    assert "params is not taken as N: no cell of it is a positive number" in runs.reading.notes


@pytest.mark.parametrize(
    "column",
    [
        "tokens_per_second",
        "flops_per_token",
        "tokens (per batch)",
        "val_tokens",
        "batch_tokens",
        "tflops",
        "size (MB)",
        "d_k",
    ],
)
def test_rates_and_other_counts_are_no_measures(column, read):
    runs = read({"N": N, "D": D, "loss": LOSS, column: C})
    assert column not in [runs.reading.columns.get(name) for name in AXES]
    assert runs.reading.computed == {"flops": "6 N D"}


@pytest.mark.parametrize(
    ("missing", "formula", "expected"),
    [("C", "6 N D", 6 * N * D), ("D", "C / (6 N)", C / (6 * N)), ("N", "C / (6 D)", C / (6 * D))],
)
def test_missing_one_of_n_d_and_c_is_computed_and_said(missing, formula, expected, read):
    table = {"N": N, "D": D, "C": C, "loss": LOSS}
    del table[missing]
    name = {"N": "parameters_non_embedding", "D": "tokens", "C": "flops"}[missing]
    runs = read(table)
    np.testing.assert_allclose(runs.table[name], expected)
    assert runs.reading.computed == {name: formula}
    assert f"{missing} = {formula} (computed)" in runs.reading.describe()


def test_row_whose_measure_could_not_be_computed_says_what_is_missing(read):
    runs = read({"N": N, "D": ["8e9", "oops", "2e9", "1e9"], "loss": LOSS})
    assert runs.table["cell_problems"][1] == {
        "tokens": "D is 'oops', not a number",
        "flops": "D is 'oops', not a number",
    }


@pytest.mark.parametrize("name", ["status", "State", "state", "run_status", "Run State"])
def test_states_of_trackers_are_finished_or_named(name, read):
    states = ["FINISHED", "finished", "Running", "CRASHED"]
    runs = read({"N": N, "D": D, "loss": LOSS, name: states})
    assert runs.table["status"].tolist() == ["finished", "finished", "running", "crashed"]


@pytest.mark.parametrize("done", ["completed", "SUCCEEDED", "Success", "done", "RunStatus.FINISHED"])
def test_other_words_for_a_finished_run_count_as_finished(done, read):
    runs = read({"N": N, "D": D, "loss": LOSS, "status": [done, "killed", "scheduled", "preempted"]})
    assert runs.table["status"].tolist() == ["finished", "killed", "scheduled", "preempted"]


def test_row_without_a_state_is_not_finished(read):
    runs = read({"N": N, "D": D, "loss": LOSS, "state": ["finished", "finished", "finished", None]})
    assert runs.table["status"].tolist()[-1] == "no status"


def test_column_of_that_name_with_no_states_is_none(read):
    runs = read({"N": N, "D": D, "loss": LOSS, "status": [200, 200, 404, 200]})
    assert "status" not in runs.reading.columns
    assert "status" not in runs.table
    assert any("status" in note for note in runs.reading.notes)


def test_no_finished_run_is_noted(read):
    runs = read({"N": N, "D": D, "loss": LOSS, "State": ["running"] * 4})
    assert "status: no run is finished in State; no other run is fitted" in runs.reading.notes


def test_names_of_runs_and_sets_are_brought_along(read):
    names = ["a", "b", "c", "d"]
    table = {"tags.mlflow.runName": names, "run_id": [f"0{name}" for name in names], "eval_set": ["web"] * 4}
    runs = read({"N": N, "D": D, "loss": LOSS, "train_dataset": ["c4"] * 4, "params.lr": [1e-3] * 4} | table)
    assert runs.table["name"].tolist() == names
    assert runs.table["trial_id"].tolist() == ["0a", "0b", "0c", "0d"]
    assert runs.table["evaluation_set"].tolist() == ["web"] * 4
    assert runs.table["corpus_fingerprint"].tolist() == ["c4"] * 4
    assert runs.table["lr"].tolist() == [1e-3] * 4
    assert runs.names(["params.lr", "dataset", "D"]) == ["lr", "dataset", "tokens"]


def test_bits_per_byte_are_a_loss_of_their_own(read):
    runs = read({"N": N, "D": D, "val/bpb": LOSS / 3, "train/loss": LOSS - 0.1})
    np.testing.assert_allclose(runs.table["bpb"], LOSS / 3)
    assert "loss" not in runs.table
    assert runs.reading.notes == []


def test_table_that_the_platform_wrote_is_taken_as_it_is(tmp_path):
    write_table(make_study_results()[:1], str(tmp_path / "results.csv"))
    runs = read_runs(str(tmp_path / "results.csv"))
    assert runs.reading is None
    assert "source_row" not in runs.table
    with pytest.raises(FitError, match="the table is a study's own"):
        read_runs(str(tmp_path / "results.csv"), units=["N=M"])


def test_export_of_the_platforms_own_runs_is_what_it_logged(read):
    """Beside the tokens that were trained, MLflow holds those that were asked for; beside the final loss, the last."""
    own = {"status": ["FINISHED"] * 4, "tags.status": ["finished", "diverged", "finished", "finished"]}
    own |= {"params.parameters_non_embedding": N, "params.parameters": 2 * N, "params.flops": C, "params.tokens": D}
    own |= {"params.train.tokens": 1.05 * D, "params.train.lr": [1e-3] * 4, "params.model.head": ["shga"] * 4}
    own |= {"metrics.final/loss": LOSS, "metrics.loss": LOSS + 0.1, "metrics.train_loss": LOSS - 0.1}
    runs = read(own)
    for name, values in axes(runs).items():
        np.testing.assert_allclose(values, AXES[name])
    assert runs.table["parameters"].tolist() == (2 * N).tolist()
    assert runs.table["status"].tolist() == ["finished", "diverged", "finished", "finished"]
    assert runs.table["head"].tolist() == ["shga"] * 4
    assert runs.table["lr"].tolist() == [1e-3] * 4
