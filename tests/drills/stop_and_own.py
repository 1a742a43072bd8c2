"""A drill to watch: stop a study, start it twice at once, kill the queue, kill nodes; its table must be an undisturbed
run's.

    python tests/drills/stop_and_own.py [FOLDER]

About ten minutes on two cores. Everything runs on loopback: a study of six trials, then a cluster of three nodes on
this machine. Every act says what it does, what the terminals showed and what it found; a wrong outcome ends the drill
with exit code 1.
"""

# ruff: noqa: T201 (it is watched)

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import yaml

from vqscale.results import read_table

STUDY: dict[str, Any] = {
    "study": "drill",
    "question": "What does losing a driver, a queue and a node cost?",
    "data": {"corpus": "stdlib"},
    "model": {"arch": "transformer_vq", "preset": "pico", "codebook_size": 16, "block_length": 32},
    "train": {
        "context": 128,
        "tokens": 262_144,
        "batch_tokens": 512,
        "lr": 0.008,
        "evaluation_tokens": 8192,
        "seeds": [0, 1, 2],
    },
    "sweep": [{"model.preset": ["pico", "nano"]}],
    "resources": {"workers": 1, "cpus_per_worker": 1},
    "fit": {"laws": ["power_n"], "bootstrap": 0},
}
COMPARED = ["name", "status", "loss", "bpb", "train_loss", "code_perplexity", "revived", "attempts"]
LIMIT = 900.0
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
NODES = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 * 2**20})
nodes = [cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20) for _ in range(2)]
print("ADDRESS", cluster.address, flush=True)
for line in sys.stdin:
    if line.strip() == "kill head":
        cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False)
    elif line.strip() == "kill node":
        cluster.remove_node(nodes.pop(), allow_graceful=False)
    print("DONE", flush=True)
"""


def say(text: str) -> None:
    print(f"\n--- {text}", flush=True)


def require(condition: object, otherwise: str) -> None:
    if not condition:
        sys.exit(f"DRILL FAILED: {otherwise}")


class Terminal:
    """`vqscale run` in a pseudo-terminal of its own, read by a thread."""

    def __init__(self, name: str, *words: str, folder: Path) -> None:
        self.name, self.text, self.code = name, "", None
        self._pid, self._fd = pty.fork()
        if not self._pid:
            os.chdir(folder)
            os.environ.update(COLUMNS="110", LINES="40")
            os.environ.pop("RAY_ADDRESS", None)
            os.execv(sys.executable, [sys.executable, "-m", "vqscale", "run", *words])
        self.ended = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    code: int | None

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self._fd, 65536):
                self.text += ANSI.sub("", data.decode(errors="replace"))
        self.code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        self.ended.set()

    def wait_for(self, pattern: str) -> None:
        deadline = time.monotonic() + LIMIT
        while not re.search(pattern, self.text):
            require(time.monotonic() < deadline and not self.ended.is_set(), f"no {pattern!r} in\n{self.text[-3000:]}")
            time.sleep(0.05)

    def press_ctrl_c(self) -> None:
        os.write(self._fd, b"\x03")

    def end(self, expected: int) -> None:
        require(self.ended.wait(LIMIT), f"{self.name} does not end:\n{self.text[-3000:]}")
        print(f"[{self.name}] exit code {self.code}; its last lines:")
        for line in [line for line in self.text.replace("\r", "\n").splitlines() if line.strip()][-6:]:
            print(f"[{self.name}]   {line}")
        require(self.code == expected, f"exit code {self.code}, expected {expected}:\n{self.text[-3000:]}")
        require("Traceback" not in self.text, f"a traceback:\n{self.text[-5000:]}")


class Nodes:
    """A cluster of three nodes with one CPU each on this machine."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", NODES],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300"},
        )
        self.address = self._answer("ADDRESS").split()[1]

    def tell(self, what: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        self._answer("DONE")

    def _answer(self, start: str) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(start):
                return line
        sys.exit("DRILL FAILED: the cluster did not start")

    def end(self) -> None:
        session = self._process.pid
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
                if os.getsid(process.pid) == session:
                    process.kill()
        self._process.wait()


@contextlib.contextmanager
def cluster() -> Iterator[Nodes]:
    nodes = Nodes()
    try:
        yield nodes
    finally:
        nodes.end()


def queue_processes() -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if " ".join(process.cmdline()).startswith("ray::Dispatcher"):
                found.append(process)
    return found


def write_study(folder: Path) -> str:
    values = STUDY | {"storage": str(folder / "runs"), "tracking": {"uri": f"sqlite:///{folder}/mlflow.db"}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return str(folder / "study.yaml")


def table(folder: Path) -> Any:
    return read_table(str(folder / "runs" / "drill" / "results.parquet"))[COMPARED]


def checkpoints(folder: Path) -> list[str]:
    found = (folder / "runs" / "drill" / "trials").glob("*/checkpoints/*/manifest.json")
    return sorted(f"{path.parts[-4]}: {path.parts[-2]}" for path in found)


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="vqscale-drill-")).absolute()
    quiet, drill = folder / "undisturbed", folder / "drill"
    say(f"an undisturbed run, in {quiet}")
    Terminal("undisturbed", write_study(quiet), folder=folder).end(0)
    file = write_study(drill)
    stop_at_half(file, drill)
    with cluster() as nodes:
        own_and_lose_the_queue(file, drill, nodes)
    with cluster() as nodes:
        lose_a_node(file, drill, nodes)
    expected, found = table(quiet), table(drill)
    say("the two tables")
    print(found.to_string())
    # An attempt is what a trial's worker used up: the killed node's trial may have used two.
    same = [name for name in COMPARED if name != "attempts"]
    require(expected[same].equals(found[same]), f"the tables differ:\n{expected.to_string()}")
    say("equal to the undisturbed run's, bit for bit. DRILL PASSED")


def stop_at_half(file: str, folder: Path) -> None:
    say("Ctrl-C in a terminal when a trial is half done")
    terminal = Terminal("first", file, folder=folder)
    terminal.wait_for(r"training +(5\d|[6-9]\d)%")
    terminal.press_ctrl_c()
    pressed = time.monotonic()
    terminal.end(130)
    print(f"it ended {time.monotonic() - pressed:.1f} s after Ctrl-C, and left these checkpoints:")
    print("\n".join(f"    {line}" for line in checkpoints(folder)))
    require(checkpoints(folder), "no checkpoint was written")


def own_and_lose_the_queue(file: str, folder: Path, nodes: Nodes) -> None:
    say(f"the same study in two terminals at once, on a cluster of three nodes at {nodes.address}")
    both = [Terminal(name, file, "--address", nodes.address, folder=folder) for name in ("second", "third")]
    deadline = time.monotonic() + LIMIT
    while not any(one.ended.is_set() for one in both):
        require(time.monotonic() < deadline, "neither terminal was refused")
        time.sleep(0.1)
    refused, owner = sorted(both, key=lambda one: not one.ended.is_set())
    refused.end(2)
    require("this study is being run by" in " ".join(refused.text.split()), "the refusal does not name the owner")
    owner.wait_for(r"training +\d")

    say("kill -9 of the process that holds the queue of trials")
    killed = queue_processes()
    require(killed, "no process of the queue was found")
    for process in killed:
        process.send_signal(signal.SIGKILL)
    owner.wait_for("It is started again")
    deadline = time.monotonic() + LIMIT
    while not (again := [one for one in queue_processes() if one not in killed]) and time.monotonic() < deadline:
        time.sleep(0.2)
    require(again, "the queue was not started again")
    print("the same run has started another queue")

    say("kill the node of the queue: the head node, and with it the cluster")
    nodes.tell("kill head")
    owner.end(1)
    require((folder / "runs" / "drill" / "results.parquet").exists(), "no table was written")
    print(f"the table was written, with {len(table(folder))} trials")


def lose_a_node(file: str, folder: Path, nodes: Nodes) -> None:
    say(f"the same command on a new cluster, at {nodes.address}; then a node of it is killed")
    terminal = Terminal("fourth", file, "--address", nodes.address, folder=folder)
    terminal.wait_for(r"training +\d")
    nodes.tell("kill node")
    terminal.end(0)


if __name__ == "__main__":
    main()
