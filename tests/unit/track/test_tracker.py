"""MLflow as a view: found again, never logged twice, refused before anything starts."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from vqscale.errors import TrackingError
from vqscale.track.tracker import Tracker, check_reachable


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/deep/mlflow.db"


def open_tracker(uri: str) -> Tracker:
    return Tracker(uri, "study", artifacts=str(Path(uri.removeprefix("sqlite:///")).parent / "artifacts"))


def test_tracker_finds_its_runs_again_and_logs_a_row_once(uri: str) -> None:
    first = open_tracker(uri)
    parent = first.study_run()
    run = first.trial_run(parent, "trial-a", {"lr": 0.1, "none": None}, {"tag": "x"})
    first.log_row(run, {"loss": 2.0}, tokens=100)
    first.log_row(run, {"loss": 1.0}, tokens=200)

    again = open_tracker(uri)
    assert again.study_run() == parent
    assert again.trial_run(parent, "trial-a", {"lr": 0.1}, {}) == run
    for tokens, loss in ((100, 2.0), (200, 1.0), (300, 0.5)):  # a resumed trial tells its last rows once more
        again.log_row(run, {"loss": loss}, tokens=tokens)
    again.end(run, "FINISHED")

    client = MlflowClient(uri)
    history = client.get_metric_history(run, "loss")
    assert [(point.step, point.value) for point in history] == [(100, 2.0), (200, 1.0), (300, 0.5)]
    found = client.get_run(run)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"lr": "0.1"}
    assert found.data.tags["mlflow.parentRunId"] == parent


def test_tracker_keeps_files_as_artifacts(uri: str, tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "law.png").write_bytes(b"png")
    (tmp_path / "report.html").write_text("<html>")
    tracker = open_tracker(uri)
    parent = tracker.study_run()
    tracker.log_folder(parent, str(tmp_path), ["report.html", "figures/law.png", "absent.csv"])
    client = MlflowClient(uri)
    names = {entry.path for entry in [*client.list_artifacts(parent), *client.list_artifacts(parent, "figures")]}
    assert names == {"report.html", "figures", "figures/law.png"}


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://127.0.0.1:9", "does not answer"),
        ("ftp://host", "no tracking store"),
        ("runs/mlflow", "no tracking store"),
        ("sqlite:////dev/null/mlflow.db", "cannot be written"),
        ("sqlite:////tmp", "cannot be written"),
    ],
)
def test_tracking_store_that_cannot_serve_is_refused(address: str, words: str) -> None:
    with pytest.raises(TrackingError, match=words):
        check_reachable(address)
