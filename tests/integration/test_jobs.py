"""Studies as jobs of a real Ray cluster: a head node of this test's own, on loopback, with token authentication."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

BIN = Path(sys.executable).parent
TOKEN = "0123456789abcdef0123456789abcdef"
START_SECONDS = 90
STUDY = """
study: {name}
data: {{corpus: {corpus}}}
model: {{arch: transformer_vq, preset: pico, codebook_size: 32, block_length: 32}}
train: {{context: 64, tokens: {tokens}, batch_tokens: 256, lr: 3e-3, precision: fp32, seeds: [0]}}
sweep: [{{model.codebook_size: [16, 32]}}]
resources: {{workers: 1, cpus_per_worker: 1, gpus_per_worker: 0}}
storage: {storage}
tracking: {{uri: "sqlite:///{storage}/mlflow.db"}}
"""


@dataclass(frozen=True, kw_only=True)
class Head:
    address: str
    environment: dict[str, str]

    def vqscale(
        self, *words: str, token: str | None = TOKEN, timeout: float = 120
    ) -> "subprocess.CompletedProcess[str]":
        environment = {**self.environment, **({"RAY_AUTH_TOKEN": token} if token else {})}
        command = [sys.executable, "-m", "vqscale", *words, "--address", self.address]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)

    def state(self, job: str) -> str:
        answer = self.vqscale("status", job, "--json")
        assert answer.returncode == 0, answer.stderr
        return str(json.loads(answer.stdout)["status"])

    def wait(self, job: str, wanted: set[str], seconds: float) -> str:
        """Ask until the job is in one of the wanted states; the job's own words are the message when it is not."""
        deadline = time.monotonic() + seconds
        while (state := self.state(job)) not in wanted and time.monotonic() < deadline:
            time.sleep(1)
        assert state in wanted, f"{job} is {state}\n{self.vqscale('logs', job).stdout[-5000:]}"
        return state


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A cluster of one node with 2 CPUs; every process of it is in one group, which is ended."""
    with tempfile.TemporaryDirectory(prefix="vqj-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment |= {
            "HOME": folder,
            "PATH": f"{BIN}:{environment['PATH']}",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_INDEX": "1",
            "RAY_AUTH_MODE": "token",
        }
        port = free_port()
        command = [
            str(BIN / "ray"),
            "start",
            "--head",
            "--block",
            "--disable-usage-stats",
            "--num-cpus=2",
            "--num-gpus=0",
        ]
        command += ["--node-ip-address=127.0.0.1", "--port=0", f"--dashboard-port={port}", "--dashboard-host=127.0.0.1"]
        command += [f"--ray-client-server-port={free_port()}", f"--dashboard-agent-listen-port={free_port()}"]
        command += [f"--temp-dir={folder}/ray", f"--object-store-memory={128 * 2**20}", "--include-dashboard=true"]
        with Path(folder, "head.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                env={**environment, "RAY_AUTH_TOKEN": TOKEN},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            wait_until_answers(f"http://127.0.0.1:{port}", process, Path(folder, "head.log"))
            yield Head(address=f"http://127.0.0.1:{port}", environment=environment)
        finally:
            end(process)


def wait_until_answers(address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if requests.get(f"{address}/api/jobs/", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=5).ok:
                return
        except requests.RequestException:
            time.sleep(0.5)
    raise AssertionError(f"ray start does not answer:\n{log.read_text()[-3000:]}")


def end(process: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(5)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> str:
    """A small corpus that both this machine and the cluster (which is this machine) can read."""
    folder = tmp_path_factory.mktemp("corpus")
    text = "".join(f"line {number} of a small text for a small model\n" for number in range(4000))
    (folder / "text.txt").write_text(text)
    command = [
        sys.executable,
        "-m",
        "vqscale",
        "data",
        "prepare",
        str(folder / "text.txt"),
        "--out",
        str(folder / "out"),
    ]
    subprocess.run([*command, "--split", "contiguous"], check=True, capture_output=True, timeout=120)
    return str(folder / "out")


def study_file(folder: Path, name: str, corpus: str, tokens: int) -> str:
    path = folder / f"{name}.yaml"
    path.write_text(STUDY.format(name=name, corpus=corpus, tokens=tokens, storage=folder / "runs"))
    return str(path)


def test_job_of_a_small_study_trains_every_trial_and_is_not_started_twice(head, corpus, tmp_path):
    study = study_file(tmp_path, "small", corpus, tokens=2560)
    submitted = head.vqscale("submit", study, "--json")
    assert submitted.returncode == 0, submitted.stderr
    job = json.loads(submitted.stdout)["id"]
    twice = head.vqscale("submit", study)
    assert (twice.returncode, "already been submitted" in twice.stderr) == (2, True)

    assert head.wait(job, {"SUCCEEDED", "FAILED", "STOPPED"}, seconds=180) == "SUCCEEDED", head.vqscale(
        "logs", job
    ).stdout
    assert (tmp_path / "runs/small/results.parquet").is_file()
    assert len(list((tmp_path / "runs/small/trials").glob("*/result.json"))) == 2
    assert head.vqscale("logs", study, "--follow").returncode == 0

    ended = head.vqscale("submit", study)
    assert (ended.returncode, "--again" in ended.stderr) == (2, True)
    again = head.vqscale("submit", study, "--again", "--json")
    assert json.loads(again.stdout)["id"] == f"{job}-2"


def test_job_that_is_stopped_ends_and_says_so(head, corpus, tmp_path):
    study = study_file(tmp_path, "long", corpus, tokens=256_000_000)
    assert head.vqscale("submit", study).returncode == 0
    head.wait(study, {"RUNNING"}, seconds=60)
    assert head.vqscale("stop", study).returncode == 0
    head.wait(study, {"STOPPED"}, seconds=60)
    assert "had ended already" in head.vqscale("stop", study).stdout


@pytest.mark.parametrize("token", ["a-wrong-token", None])
def test_cluster_refuses_callers_without_its_token(head, corpus, tmp_path, token):
    refused = head.vqscale("submit", study_file(tmp_path, "refused", corpus, tokens=2560), token=token)
    assert refused.returncode == 2
    assert "--token" in refused.stderr
    assert "Traceback" not in refused.stderr
