"""`vqscale ui`: MLflow's own user interface on a study's tracking store."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import Annotated

import typer

from vqscale.address import Address
from vqscale.errors import TrackingError, WorkFailedError

START_SECONDS = 180
"""MLflow's server imports for half a minute on a busy machine, and may have to bring its database up to date."""
STOP_SECONDS = 10
STDERR = 2


def ui(
    study: Annotated[str, typer.Argument(help="Study file or study folder.")],
    port: Annotated[int, typer.Option(help="Port on this machine.", min=1, max=65535)] = 5000,
) -> None:
    """Open MLflow's own user interface on a study's runs; Ctrl-C ends it.

    With a tracking server (tracking.uri: http://...) it prints the address of the study's runs there.

    Example: vqscale ui study.yaml --port 5001
    """
    from vqscale.study.places import open_any
    from vqscale.track.store import check_reachable, opening, served

    loaded = open_any(study)
    store = check_reachable(loaded.tracking.uri)
    if served(store):
        typer.echo(runs_address(store, loaded.study, study))
        return
    _require_runs(store, study)
    _require_free(port)
    with contextlib.ExitStack() as stack:
        with opening(store):  # MLflow's server may have to migrate it before it answers
            server = stack.enter_context(_server(store, port))
            _wait_until_healthy(server, port)
        here = Address(f"http://127.0.0.1:{port}")
        typer.echo(f"MLflow shows {loaded.study}: {runs_address(here, loaded.study, study)}")
        typer.echo("Ctrl-C ends it.")
        _wait(server)


def runs_address(server: Address, study: str, target: str) -> str:
    """The page of a study's runs on an MLflow server, with MLflow's menu for model training.

    The page of the experiment itself is one of prompts and traces, of which it has none: since MLflow 3.17 a browser's
    last choice decides that, not the tag of the experiment's kind.

    `target`: the study as the user named it. Raises TrackingError where the server has no such experiment.
    """
    import requests

    from vqscale.track.store import login

    api = f"{server.reveal().rstrip('/')}/api/2.0/mlflow/experiments/get-by-name"
    try:
        answer = requests.get(api, params={"experiment_name": study}, timeout=30, **login())
    except requests.RequestException as error:
        raise TrackingError(f"{server}: does not answer ({type(error).__name__}). Start the MLflow server.") from None
    if answer.status_code == 404:
        raise TrackingError(f"{server}: holds no runs of study {study!r} yet. Make some: vqscale run {target}")
    if answer.status_code != 200:
        raise TrackingError(f"{server}: answers {answer.status_code} to a question for study {study!r}")
    shown = re.sub(r"://.*@", "://", str(server)).rstrip("/")  # a browser asks for the login itself
    return f"{shown}/#/experiments/{answer.json()['experiment']['experiment_id']}/runs?workflowType=machine_learning"


def _require_runs(store: Address, target: str) -> None:
    from vqscale.track.store import local_file

    file = local_file(store)
    if file is not None and not file.exists():
        raise TrackingError(
            f"tracking.uri: {file} does not exist yet: nothing was run. Make runs: vqscale run {target}"
        )


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise TrackingError(f"--port {port}: is in use ({error.strerror}). Choose another with --port.") from error


@contextlib.contextmanager
def _server(store: Address, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """An MLflow server for as long as the block runs, ended with all of its workers."""
    command = [sys.executable, "-m", "mlflow", "server"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--uvicorn-opts", "--log-level warning"]
    plain = {
        "MLFLOW_BACKEND_STORE_URI": store.reveal(),  # a command line can be read by every user of the machine
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
