"""Several processes that open one MLflow store at the same time: it is made once, whole, and all of them log."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from studies_at_once import require_all, run_at_once, start

from vqscale.address import Address
from vqscale.errors import TrackingError
from vqscale.track import store
from vqscale.track.store import make_database, opening
from vqscale.track.tracker import Tracker

OLDER = """
import sys
from alembic import command
from mlflow.store.db.utils import _get_alembic_config
from mlflow.store.tracking.dbmodels.initial_models import Base
from sqlalchemy import create_engine
engine = create_engine(sys.argv[1])
Base.metadata.create_all(engine)
config = _get_alembic_config(sys.argv[1])
with engine.begin() as connection:
    config.attributes["connection"] = connection
    command.upgrade(config, "acf3f17fdcc7")
"""
"""Makes a store as MLflow 2.10 left it."""
HOLD = """
import sys, time
from vqscale.address import Address
from vqscale.track.store import opening
with opening(Address(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> "Iterator[tuple[subprocess.Popen[str], Address]]":
    """A process that holds the lock of a store."""
    address = Address(f"sqlite:///{tmp_path}/mlflow.db")
    process = start(HOLD, address.reveal())
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process, address
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two fresh stores and an old one, in which the studies have run at the same time."""
    folder = tmp_path_factory.mktemp("stores")
    uris = {name: f"sqlite:///{folder}/deep/{name}.db" for name in ("fresh", "fresh again", "old")}
    (folder / "deep").mkdir()
    subprocess.run([sys.executable, "-W", "ignore", "-c", OLDER, uris["old"]], check=True, capture_output=True)
    run_at_once(folder, *uris.values())
    return uris


@pytest.mark.parametrize("name", ["fresh", "fresh again", "old"])
def test_store_opened_by_three_processes_at_once_serves_all(stores: dict[str, str], name: str) -> None:
    require_all(stores[name])


def test_lock_of_a_killed_process_holds_up_nobody(holder: "tuple[subprocess.Popen[str], Address]") -> None:
    process, address = holder
    process.send_signal(signal.SIGKILL)
    process.wait()
    with opening(address):
        make_database(address)
    assert MlflowClient(address.reveal()).get_experiment_by_name("Default")


def test_lock_held_for_too_long_names_the_file(
    holder: "tuple[subprocess.Popen[str], Address]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.2)
    with pytest.raises(TrackingError, match=r"mlflow\.db\.lock for 0\.2 s .*fuser"):
        Tracker(holder[1], "study", artifacts=None)


def test_store_whose_making_was_killed_is_made_again(tmp_path: Path) -> None:
    (tmp_path / ".mlflow.db.draft").write_text("half of a database")
    (tmp_path / ".mlflow.db.draft-journal").write_text("half of a journal")
    (tmp_path / "mlflow.db").touch()  # what SQLite leaves when it is ended at its first statement
    tracker = Tracker(f"sqlite:///{tmp_path}/mlflow.db", "study", artifacts=None)
    assert tracker.study_run()
    assert {one.name for one in tmp_path.iterdir()} == {"mlflow.db", "mlflow.db.lock"}
