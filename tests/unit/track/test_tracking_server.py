"""A real MLflow server on loopback: standard output stays JSON, and what an outage cost is sent by the next run."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import requests
from mlflow import MlflowClient
from typer.testing import CliRunner, Result

from vqscale import storage
from vqscale.cli.main import app
from vqscale.costing.facts import failed_result
from vqscale.errors import UserError
from vqscale.results.metrics_rows import metrics_uri
from vqscale.results.records import write_result
from vqscale.sweep import observer
from vqscale.sweep.protocol import Stage

TRIALS = 12
ROWS = 5


class Server:
    """MLflow's own server, whose store outlives it."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.with_password = f"http://user:CANARY@127.0.0.1:{self.port}"
        self.folder = folder

    def start(self) -> None:
        store = ["--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        place = ["--artifacts-destination", str(self.folder / "artifacts"), "--host", "127.0.0.1"]
        command = [sys.executable, "-W", "ignore", "-m", "mlflow", "server", *store, *place, "--workers", "1"]
        quiet = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--port", str(self.port)], env=quiet, stdout=log, stderr=log, start_new_session=True
            )
        until = time.monotonic() + 180
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "server.log").read_text()
            assert time.monotonic() < until, "the server does not answer"
            time.sleep(0.1)

    def kill(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.address}/health", timeout=5).status_code == 200
        except requests.RequestException:
            return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("server"))
    running.start()
    yield running
    running.kill()


def leave_records(stage: Stage) -> None:
    """What workers leave of trials that ended well."""
    for index, order in enumerate(stage.orders):
        rows = [{"step": step, "tokens": 512 * step, "loss": 3.0 - step / (index + 7)} for step in range(1, ROWS + 1)]
        storage.write_text(metrics_uri(order.folder), "".join(json.dumps(row) + "\n" for row in rows))
        blank = failed_result(stage.study.study, order.trial, error="-", attempts=1, workers=1, started_at="now")
        loss = 2.0 + index / 100
        ended = {"status": "finished", "error": None, "loss": loss, "bpb": loss / 2, "seconds_training": 1.0}
        write_result(blank.model_copy(update=ended), order.folder)


@pytest.fixture
def study(server: Server, tmp_path: Path, corpus_uri: str, write_study: Any, request: pytest.FixtureRequest) -> Any:
    """A study of TRIALS seeds whose tracking server is the running one."""
    name = request.node.name.split("[")[0][:40].replace("_", "-")
    model = {"arch": "transformer_vq", "preset": "pico", "codebook_size": 16, "block_length": 16}
    train = {"context": 64, "tokens": 8192, "batch_tokens": 512, "lr": 0.01, "seeds": list(range(TRIALS))}
    sections = {"study": name, "design": [], "sweep": [{}], "model": model, "train": train}
    sections |= {"fit": {"laws": ["power_n"], "bootstrap": 0}, "tracking": {"uri": server.with_password}}
    return write_study(tmp_path / "study.yaml", corpus_uri, **sections)


def call(*words: str) -> Result:
    return CliRunner().invoke(app, [*words])


def test_output_of_every_command_with_json_is_one_document(
    study: Any, server: Server, tmp_path: Path, records_driver: Callable[..., None]
) -> None:
    records_driver(leave_records)
    file = str(tmp_path / "study.yaml")
    speed = ["throughput", file, "--preset", "pico", "--contexts", "64", "--tokens", "64", "--repeats", "1"]
    commands = [
        *(["plan", file], ["run", file], ["run", file], ["status", file], ["fit", file], ["doctor", file]),
        [*speed, "--arch", "transformer", "--out", str(tmp_path / "speed")],
    ]
    for words in commands:
        done = call(*words, "--json")
        # seeds of one size identify no law, and doctor judges the machine: both still print their document
        assert done.exit_code in ((0, 1) if words[0] in ("fit", "doctor") else (0,)), (words, done.output)
        assert isinstance(json.loads(done.stdout), dict | list), words
        assert "CANARY" not in done.output, words


def test_failed_trial_ends_in_one_document_and_exit_code_1(
    study: Any, tmp_path: Path, records_driver: Callable[..., None]
) -> None:
    def fail(stage: Stage) -> None:
        for order in stage.orders:
            blank = failed_result("s", order.trial, error="out of memory", attempts=3, workers=1, started_at="now")
            write_result(blank, order.folder)

    records_driver(fail)
    done = call("run", str(tmp_path / "study.yaml"), "--json")
    assert done.exit_code == 1
    assert {one["status"] for one in json.loads(done.stdout)["results"]} == {"failed"}


def test_server_that_dies_in_a_run_gets_everything_from_the_next(
    study: Any, server: Server, tmp_path: Path, records_driver: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(observer, "PAUSE_SECONDS", 0.0)
    records_driver(leave_records, lambda number: server.kill() if number == TRIALS else None)
    file = str(tmp_path / "study.yaml")
    done = call("run", file)
    assert done.exit_code == 0, done.output
    assert "Training continues" in done.output
    assert "MLflow lacks" in done.output
    assert "CANARY" not in done.output

    server.start()
    done = call("run", file)  # nothing is left to train
    assert done.exit_code == 0, done.output
    assert "MLflow lacks" not in done.output
    client = MlflowClient(server.address)
    experiment = client.get_experiment_by_name(study.study)
    assert experiment is not None
    table = pd.read_parquet(f"{study.folder}/results.parquet").set_index("trial_id")
    shown = client.search_runs([experiment.experiment_id], "tags.`vqscale.kind` = 'trial'", max_results=1000)
    assert len(shown) == len(table) == TRIALS
    for run in shown:
        row = table.loc[run.data.tags["vqscale.trial_id"]]
        assert run.info.status == "FINISHED"
        for name in ("loss", "bpb", "flops", "seconds_training"):
            assert run.data.metrics[f"final/{name}"] == row[name]
            assert len(client.get_metric_history(run.info.run_id, f"final/{name}")) == 1
        assert [point.step for point in client.get_metric_history(run.info.run_id, "loss")] == [
            512 * step for step in range(1, ROWS + 1)
        ]
    assert len(client.search_logged_models([experiment.experiment_id], max_results=1000)) == TRIALS


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_password_of_the_study_file_is_nowhere_else(
    study: Any, server: Server, tmp_path: Path, records_driver: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    records_driver(leave_records)
    file, silent, folder = str(tmp_path / "study.yaml"), str(tmp_path / "silent.yaml"), str(study.folder)
    text = Path(file).read_text()
    assert "CANARY" in text
    Path(silent).write_text(text.replace(f":{server.port}", ":9"))
    broken = tmp_path / "broken.yaml"
    broken.write_text(text + "\ntracking: {uri: [http://user:CANARY@host")
    unknown = tmp_path / "unknown.yaml"
    unknown.write_text(text.replace("tracking:\n  uri: ", "tracking: "))
    expected = [
        *((0, ["plan", file]), (0, ["run", file]), (0, ["status", file]), (2, ["fit", file]), (0, ["report", file])),
        *((0, ["ui", file]), (2, ["ui", folder]), (2, ["run", folder]), (2, ["run", silent]), (2, ["ui", silent])),
        *((2, ["plan", str(broken)]), (2, ["plan", str(unknown)])),
        (2, ["submit", file, "--address", "http://user:CANARY@127.0.0.1:9", "--shared-storage"]),
        (2, ["status", file, "--address", "http://user:CANARY@127.0.0.1:9"]),
    ]
    for code, words in expected:
        done = call(*words)
        told = done.output + str(done.exception)
        assert isinstance(done.exception, UserError) if code else done.exit_code == 0, (words, told)
        assert "CANARY" not in told, words

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.with_password)
    done = call("run", folder)  # the copy beside the results, with the address from the environment
    assert done.exit_code == 0, done.output
    held = [name for name, data in files_of(tmp_path).items() if b"CANARY" in data]
    assert sorted(held) == sorted([file, silent, str(broken), str(unknown)])
    assert "CANARY" not in pd.read_parquet(f"{folder}/results.parquet").to_csv()
    assert [name for name, data in files_of(server.folder).items() if b"CANARY" in data] == []
