"""MLflow on a real PostgreSQL of its own, on loopback: drivers, passwords, and two studies that start at once."""

import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from studies_at_once import require_all, run_at_once

from vqscale.errors import TrackingError
from vqscale.track import store
from vqscale.track.store import check_reachable
from vqscale.track.tracker import Tracker

PROGRAMS = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
PASSWORD = "CANARY @/#?%:x"

pytestmark = [
    pytest.mark.skipif(PROGRAMS is None, reason="PostgreSQL's server is not installed (/usr/lib/postgresql/*/bin)"),
    pytest.mark.skipif(not importlib.util.find_spec("psycopg2"), reason="psycopg2 is not installed"),
]


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """Host, port and name of an empty database; its user is `mlflow`, its password PASSWORD."""
    assert PROGRAMS is not None
    folder = Path(tempfile.mkdtemp(prefix="vqscale-postgresql-"))
    user = "postgres" if os.getuid() == 0 else None  # the server refuses to run as root
    if user:
        shutil.chown(folder, user)
    (folder / "password").write_text(PASSWORD)
    (folder / "password").chmod(0o644)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def call(program: str, *words: str) -> None:
        command = [str(PROGRAMS / program), "-D", f"{folder}/data", *words]
        subprocess.run(command, user=user, cwd=folder, stdout=subprocess.DEVNULL, check=True, timeout=120)

    call("initdb", "-A", "scram-sha-256", "-U", "mlflow", f"--pwfile={folder}/password", "--no-sync", "-E", "UTF8")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c fsync=off -k {folder}"
    call("pg_ctl", "-o", options, "-l", f"{folder}/log", "-w", "start")
    try:
        yield f"127.0.0.1:{port}/postgres"
    finally:
        call("pg_ctl", "-m", "immediate", "stop")
        shutil.rmtree(folder)


def test_studies_that_start_at_once_on_a_fresh_database_are_all_served(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", PASSWORD)
    run_at_once(tmp_path, f"postgresql://mlflow:${{DATABASE_PASSWORD}}@{database}")
    require_all(f"postgresql+psycopg2://mlflow:{quote(PASSWORD, safe='')}@{database}")


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "PostgreSQL", "postgres+psycopg2"])
def test_address_without_a_driver_gets_the_installed_one(database: str, scheme: str) -> None:
    address = f"{scheme}://mlflow:{quote(PASSWORD, safe='')}@{database}"
    assert str(check_reachable(address)) == f"postgresql+psycopg2://mlflow:***@{database}"
    assert Tracker(address, "drivers", artifacts=None).study_run()


def test_address_without_any_driver_names_the_package(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(TrackingError, match=r"no driver for postgresql .*pip install 'psycopg2-binary'"):
        check_reachable(f"postgresql://mlflow:CANARY@{database}")


@pytest.mark.parametrize(
    ("user", "name", "words"),
    [
        ("mlflow:CANARY", "postgres", "password authentication failed"),
        (f"mlflow:{quote(PASSWORD, safe='')}", "absent", 'database "absent" does not exist'),
        (f"mlflow:{PASSWORD}", "postgres", "the host is unclear.*%40 for @.*NAME"),
        ("mlflow:${NO_SUCH_VARIABLE}", "postgres", "NO_SUCH_VARIABLE is not set"),
        ("mlflow:***", "postgres", "MLFLOW_TRACKING_URI"),
    ],
)
def test_database_that_refuses_is_told_without_the_password(database: str, user: str, name: str, words: str) -> None:
    server = database.partition("/")[0]
    with pytest.raises(TrackingError, match=words) as caught:
        Tracker(f"postgresql://{user}@{server}/{name}", "refused", artifacts=None)
    assert "CANARY" not in str(caught.value)
    assert quote(PASSWORD, safe="") not in str(caught.value)


def test_stored_address_is_completed_from_the_environment(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = f"postgresql://mlflow:{quote(PASSWORD, safe='')}@{database}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", whole)
    assert Tracker(f"postgresql://mlflow:***@{database}", "completed", artifacts=None).study_run()
    with pytest.raises(TrackingError, match="the password is not kept"):
        check_reachable(f"postgresql://mlflow:***@{database}2")
