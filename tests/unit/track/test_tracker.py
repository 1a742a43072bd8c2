"""MLflow as a view: found again, never logged twice, refused before anything starts."""

import socket
import sys
from pathlib import Path

import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError

from vqscale.errors import TrackingError
from vqscale.track.store import check_reachable
from vqscale.track.tracker import Tracker


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
        ("http://127.0.0.1:port", r"is no address. Write http\(s\)://HOST:PORT"),
        ("ftp://host", "no tracking store"),
        ("runs/mlflow", "no tracking store"),
        ("sqlite:////dev/null/mlflow.db", "cannot be written"),
        ("sqlite:////tmp", "cannot be written"),
        ("sqlite:////proc/new/mlflow.db", "cannot be written"),  # permissions allow it, and the file system does not
    ],
)
def test_tracking_store_that_cannot_serve_is_refused(address: str, words: str) -> None:
    with pytest.raises(TrackingError, match=words):
        check_reachable(address)


def test_database_that_is_silent_is_refused() -> None:
    with pytest.raises(TrackingError, match=r"user:\*\*\*@127\.0\.0\.1:9/runs: nothing answers at 127\.0\.0\.1:9"):
        check_reachable("postgresql://user:secret@127.0.0.1:9/runs")


def test_database_without_its_driver_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"postgresql+psycopg://127.0.0.1:{server.getsockname()[1]}/runs"
        with pytest.raises(TrackingError, match=r"pip install 'psycopg\[binary\]'"):
            check_reachable(address)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("postgresql+nodriver://127.0.0.1/runs", "cannot be used"),
        ("mysql://127.0.0.1:port/runs", "Name the database's port"),
        ("mysql://127.0.0.1:99999/runs", "Name the database's port"),
    ],
)
def test_database_address_that_makes_no_sense_is_refused(
    address: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: socket.socket())
    with pytest.raises(TrackingError, match=words):
        check_reachable(address)


def test_tracker_refuses_a_deleted_experiment(uri: str) -> None:
    tracker = Tracker(uri, "deleted", artifacts=None)
    MlflowClient(uri).delete_experiment(tracker.experiment_id)
    with pytest.raises(TrackingError, match=f"was deleted there. Restore.*{tracker.experiment_id}.*another name"):
        Tracker(uri, "deleted", artifacts=None)


def test_tracker_refuses_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database, but text enough to be taken for the header of one" * 20)
    with pytest.raises(TrackingError, match="cannot be used"):
        Tracker(f"sqlite:///{tmp_path}/mlflow.db", "study", artifacts=None)


@pytest.mark.parametrize(
    "error",
    [
        MlflowException("internal\nmore"),
        requests.ConnectionError("reset"),
        OperationalError("select", {}, ValueError("locked")),
        TimeoutError("late"),
    ],
)
def test_tracker_tells_every_failure_of_the_store_as_one_kind(
    uri: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = open_tracker(uri)

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(MlflowClient, "log_batch", fail)
    with pytest.raises(TrackingError, match=type(error).__name__):
        tracker.log_row("run", {"loss": 1.0}, tokens=1)


def test_tracker_fills_the_gap_between_rows_and_shows_its_trials(uri: str) -> None:
    first = open_tracker(uri)
    run = first.trial_run(first.study_run(), "trial-gap", {}, {})
    first.log_row(run, {"loss": 2.0}, tokens=100)
    first.log_row(run, {"loss": 1.0}, tokens=300)
    again = open_tracker(uri)
    assert again.trial_run(again.study_run(), "trial-gap", {"lr": 0.1}, {}) == run
    again.log_rows(run, [(tokens, {"loss": tokens / 100}) for tokens in range(100, 60_100, 100)])

    history = MlflowClient(uri).get_metric_history(run, "loss")
    assert sorted(point.step for point in history) == list(range(100, 60_100, 100))
    assert MlflowClient(uri).get_run(run).data.params == {"lr": "0.1"}
    shown = again.trials()["trial-gap"]
    assert (shown.run_id, shown.status, shown.metrics["loss"]) == (run, "RUNNING", 600.0)
