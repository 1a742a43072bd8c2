"""What `vqscale fit` writes is shown in the study's MLflow run."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from vqscale.cli.main import app
from vqscale.laws import StudyFits
from vqscale.track.store import local_file
from vqscale.workflow.training import open_tracker


@pytest.fixture
def own_study(corpus_uri: str, tmp_path: Path, write_study: Any, finished_study: Any) -> Any:
    """The finished study in a folder of its own."""
    study = write_study(tmp_path / "study.yaml", corpus_uri)
    shutil.copytree(finished_study.folder, study.folder, ignore=shutil.ignore_patterns("trials"))
    shutil.copy(tmp_path / "study.yaml", Path(study.folder) / "study.yaml")
    return study


def fit(*words: str) -> None:
    done = CliRunner().invoke(app, ["fit", *words, "--bootstrap", "0"])
    assert done.exit_code == 0, done.output


def test_fit_shows_files_and_constants_in_the_run_of_a_study_that_has_one(own_study: Any, empty_store: Any) -> None:
    empty_store(local_file(own_study.tracking.uri))
    run = open_tracker(own_study).study_run()
    fit(own_study.folder)
    client = MlflowClient(own_study.tracking.uri.reveal())
    names = {entry.path for entry in client.list_artifacts(run)}
    assert {"fits.json", "fits.csv", "results.csv", "figures"} <= names
    pictures = [entry.path for entry in client.list_artifacts(run, "figures")]
    assert pictures
    kept = Path(client.download_artifacts(run, pictures[0])).read_bytes()
    assert kept == (Path(own_study.folder) / pictures[0]).read_bytes()
    fits = StudyFits.model_validate_json(Path(client.download_artifacts(run, "fits.json")).read_text()).fits
    metrics = client.get_run(run).data.metrics
    for one in fits:
        (name,) = [name for name in metrics if name.endswith("/a") and metrics[name] == pytest.approx(one.derived["a"])]
        assert name.startswith("fit/chinchilla/")


def test_fit_makes_no_store_for_a_study_that_has_none_and_none_for_another_folder(
    own_study: Any, empty_store: Any
) -> None:
    fit(own_study.folder)
    store = local_file(own_study.tracking.uri)
    assert not store.exists()
    empty_store(store)
    run = open_tracker(own_study).study_run()
    fit(own_study.folder, "--out", str(store.parent / "elsewhere"))
    assert MlflowClient(own_study.tracking.uri.reveal()).list_artifacts(run) == []
