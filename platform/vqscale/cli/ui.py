"""`vqscale ui`: MLflow's own user interface on a study's tracking store."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from vqscale.errors import TrackingError, WorkFailedError

if TYPE_CHECKING:
    from vqscale.study.spec import Study
    from vqscale.study.throughput_study import ThroughputStudy

START_SECONDS = 180
"""MLflow's server imports for half a minute on a busy machine, and may have to bring its database up to date."""
STOP_SECONDS = 10
STDERR = 2


def ui(
    study: Annotated[str, typer.Argument(help="The study file.")],
    port: Annotated[int, typer.Option(help="Port on this machine.", min=1, max=65535)] = 5000,
) -> None:
    """Open MLflow's own user interface on a study's runs; Ctrl-C ends it.

    With a tracking server (tracking.uri: http://...) it prints the address of the study's experiment.

    Example: vqscale ui study.yaml --port 5001
    """
    from vqscale.study.throughput_study import load_any
    from vqscale.track.tracker import check_reachable

    loaded = load_any(study)
    uri = check_reachable(loaded.tracking.uri)
    if uri.startswith(("http://", "https://")):
        typer.echo(experiment_address(uri, loaded.study))
        return
    _require_runs(loaded, uri)
    _require_free(port)
    with _server(uri, port) as server:
        _wait_until_healthy(server, port)
        typer.echo(f"MLflow shows {loaded.study}: {experiment_address(f'http://127.0.0.1:{port}', loaded.study)}")
        typer.echo("Ctrl-C ends it.")
        _wait(server)


def experiment_address(server: str, study: str) -> str:
    """The page of a study's experiment on an MLflow server.

    Raises TrackingError where the server has no such experiment.
    """
    import requests

    api = f"{server.rstrip('/')}/api/2.0/mlflow/experiments/get-by-name"
    answer = requests.get(api, params={"experiment_name": study}, timeout=30)
    if answer.status_code == 404:
        raise TrackingError(f"{server}: holds no runs of study {study!r} yet. Make some: vqscale run STUDY")
    if answer.status_code != 200:
        raise TrackingError(f"{server}: answers {answer.status_code} to a question for study {study!r}")
    return f"{server.rstrip('/')}/#/experiments/{answer.json()['experiment']['experiment_id']}"


def _require_runs(study: "Study | ThroughputStudy", uri: str) -> None:
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        raise TrackingError(
            f"tracking.uri: {study.tracking.uri} does not exist yet: nothing was run. Make runs: vqscale run STUDY"
        )


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise TrackingError(f"--port {port}: is in use ({error.strerror}). Choose another with --port.") from error


@contextlib.contextmanager
def _server(uri: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """An MLflow server for as long as the block runs, ended with all of its workers."""
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--uvicorn-opts", "--log-level warning"]
    plain = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # background jobs of MLflow's own: a second server process
        "PYTHONWARNINGS": "ignore",
    }
    # Its chatter goes to stderr: what this command prints itself stays alone on stdout.
    server = subprocess.Popen(command, env={**os.environ, **plain}, stdout=STDERR, start_new_session=True)
    before = signal.signal(signal.SIGTERM, _end)
    try:
        yield server
    finally:
        signal.signal(signal.SIGTERM, before)
        _stop(server)


def _end(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def _wait(server: subprocess.Popen[bytes]) -> None:
    """Wait until the user ends it, which is how it is meant to end."""
    with contextlib.suppress(KeyboardInterrupt):
        if code := server.wait():
            raise WorkFailedError(f"the MLflow server ended with exit code {code}")


def _stop(server: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(STOP_SECONDS)


def _wait_until_healthy(server: subprocess.Popen[bytes], port: int) -> None:
    import requests

    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise WorkFailedError(f"the MLflow server ended with exit code {server.returncode}; its output is above")
        with contextlib.suppress(requests.RequestException):
            if requests.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200:
                return
        time.sleep(0.2)
    raise WorkFailedError(f"the MLflow server did not answer within {START_SECONDS} s")
