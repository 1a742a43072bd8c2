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
