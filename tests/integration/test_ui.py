"""`vqscale ui` starts MLflow's own interface and ends it with everything it started."""

import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
import requests

STUDY = """
study: shown
data: {{corpus: stdlib}}
model: {{arch: transformer_vq, preset: pico}}
train: {{context: 64, tokens: 1e4, batch_tokens: 256}}
tracking: {{uri: "{uri}"}}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> tuple[str, str]:
    """A tracking store with one experiment: its URI and the experiment's id."""
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder}/mlflow.db"
    code = (
        "import sys; from vqscale.track.tracker import Tracker;"
        " print(Tracker(*sys.argv[1:3], artifacts=None).experiment_id)"
    )
    made = subprocess.run(
        [sys.executable, "-c", code, uri, "shown"], capture_output=True, text=True, check=True, timeout=120
    )
    return uri, made.stdout.strip()


def study_file(folder: Path, uri: str) -> str:
    path = folder / "study.yaml"
    path.write_text(STUDY.format(uri=uri))
    return str(path)


def vqscale(*words: str) -> list[str]:
    return [sys.executable, "-m", "vqscale", *words]


def test_ui_on_a_store_prints_the_experiment_and_leaves_nothing_behind(store, tmp_path):
    uri, experiment = store
    port = free_port()
    command = vqscale("ui", study_file(tmp_path, uri), "--port", str(port))
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        stuck = threading.Timer(200, process.terminate)
        stuck.start()
        try:
            assert f"http://127.0.0.1:{port}/#/experiments/{experiment}/runs?" in process.stdout.readline()
            assert requests.get(f"http://127.0.0.1:{port}/health", timeout=30).text == "OK"
            family = psutil.Process(process.pid).children(recursive=True)
            assert family
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            stuck.cancel()
            process.terminate()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive


def test_ui_before_the_first_run_is_refused(tmp_path):
    refused = subprocess.run(
        vqscale("ui", study_file(tmp_path, f"sqlite:///{tmp_path}/absent.db")),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert refused.returncode == 2
    assert "vqscale run" in refused.stderr
    assert not (tmp_path / "absent.db").exists()
