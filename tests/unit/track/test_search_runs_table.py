"""What `mlflow.search_runs` gives of a sweep, written in the ways that pandas writes, is a table of runs."""

from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import RunStatus

from vqscale.results.foreign import read_runs

N, D = np.array([2e7, 4e7, 8e7, 1.6e8]), np.array([8e9, 4e9, 2e9, 1e9])
LOSS = np.array([3.69, 3.54, 3.48, 3.52])
STATES = ("FAILED", "KILLED", "RUNNING", "SCHEDULED")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Four finished runs, two that diverged, and one of every other state; parameters are texts, as MLflow's are."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"
    client = MlflowClient(uri)
    experiment = client.create_experiment("sweep")

    def log(name: str, status: str, n: str, d: float, loss: float) -> None:
        run = client.create_run(experiment, run_name=name).info.run_id
        client.log_param(run, "n_params", n)
        client.log_param(run, "train_tokens", int(d))
        client.log_metric(run, "val/loss", loss)
        client.log_metric(run, "train/loss", 1.0)
        client.update_run(run, status)

    for index, (n, d, loss) in enumerate(zip(N, D, LOSS, strict=True)):
        log(f"run-{index}", "FINISHED", f"{int(n):,}" if index % 2 else str(int(n)), d, loss)
    log("diverged", "FINISHED", "20.2M", 1e9, float("nan"))
    log("overflowed", "FINISHED", "20.2M", 1e9, float("inf"))
    for status in STATES:
        assert RunStatus.from_string(status)
        log(status.lower(), status, "20.2M", 1e9, 9.0)
    before = mlflow.get_tracking_uri()
    try:
        mlflow.set_tracking_uri(uri)
        runs = mlflow.search_runs([experiment])
    finally:
        mlflow.set_tracking_uri(before)
    assert isinstance(runs, pd.DataFrame)
    return runs


WRITERS = {
    "runs.csv": lambda table, path: table.to_csv(path, index=False),
    "with_index.csv": lambda table, path: table.to_csv(path),
    "runs.tsv": lambda table, path: table.to_csv(path, sep="\t", index=False),
    "runs.parquet": lambda table, path: table.to_parquet(path),
    "runs.json": lambda table, path: table.to_json(path, date_format="iso"),
    "runs.jsonl": lambda table, path: table.to_json(path, orient="records", lines=True, date_format="iso"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_search_runs_table_is_read_in_every_format(name: str, found: pd.DataFrame, tmp_path: Path) -> None:
    WRITERS[name](found, str(tmp_path / name))
    runs = read_runs(str(tmp_path / name))
    assert runs.reading is not None
    assert runs.reading.columns == {
        "parameters_non_embedding": "params.n_params",
        "tokens": "params.train_tokens",
        "loss": "metrics.val/loss",
        "status": "status",
        "name": "tags.mlflow.runName",
        "trial_id": "run_id",
    }
    table = runs.table.set_index("name")
    finished = table.loc[[f"run-{index}" for index in range(4)]]
    np.testing.assert_allclose(finished["parameters_non_embedding"], N)
    np.testing.assert_allclose(finished["tokens"], D)
    np.testing.assert_allclose(finished["loss"], LOSS)
    assert table["status"].to_dict() == {
        **{f"run-{index}": "finished" for index in range(4)},
        "diverged": "finished",
        "overflowed": "finished",
        **{status.lower(): status.lower() for status in STATES},
    }
    problems = table["cell_problems"].to_dict()
    assert problems["diverged"].keys() == problems["overflowed"].keys() == {"loss"}
