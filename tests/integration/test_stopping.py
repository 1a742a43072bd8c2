"""Stopping and losing: what a user, a terminal and a machine do to a study that trains, and what it costs."""

import os
import pty
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import safetensors.torch
import torch
import yaml

from vqscale.results import read_table
from vqscale.results.lease import newest
from vqscale.results.metrics_rows import Row
from vqscale.study.spec import Study
from vqscale.study.trial import Trial
from vqscale.sweep.events import StudyEvents
from vqscale.sweep.protocol import DRIVER
from vqscale.workflow.training import TrainingRun, train_study

Train = Callable[[Study], TrainingRun]
LIMIT = 240.0
TRIALS = {
    "sweep": [{"model.codebook_size": [8, 16]}],
    "train": {"tokens": 64 * 8 * 200, "segment": 16},
    "run": {"log_every": 10, "checkpoint_every": 1000},
}
"""Two trials of 200 updates without a checkpoint by their number."""


def weights(study: Study) -> list[dict[str, torch.Tensor]]:
    files = sorted(Path(study.folder).glob("trials/*/model.safetensors"))
    return [safetensors.torch.load_file(file) for file in files]


def assert_same(left: Study, right: Study) -> None:
    """Equal tables but for what was measured of time and memory, and equal weights."""
    columns = ["name", "status", "loss", "bpb", "train_loss", "code_perplexity", "revived", "attempts"]
    tables = [read_table(f"{study.folder}/results.parquet")[columns] for study in (left, right)]
    assert tables[0].equals(tables[1])
    for one, other in zip(weights(left), weights(right), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def undisturbed(make_study_once: Any, ray_cluster: str) -> Study:
    study: Study = make_study_once("undisturbed", **TRIALS)
    train_study(study, address=ray_cluster, events=StudyEvents())
    return study


class Terminal:
    """A command in a pseudo-terminal, as the leader of its foreground process group."""

    def __init__(self, *command: str, folder: Path) -> None:
        self.text = ""
        self.pid, self._fd = pty.fork()
        if not self.pid:
            os.chdir(folder)
            os.environ.pop("RAY_ADDRESS", None)
            for number in (signal.SIGHUP, signal.SIGINT):  # ignored under nohup, and in the background of a script
                signal.signal(number, signal.SIG_DFL)
            os.execv(sys.executable, [sys.executable, "-m", "vqscale", *command])

    def read_until(self, pattern: str) -> None:
        """Read what is printed until it matches; raises where the command ended without."""
        deadline = time.monotonic() + LIMIT
        while not re.search(pattern, self.text):
            assert time.monotonic() < deadline, self.text[-3000:]
            self.text += self._read()

    def press_ctrl_c(self) -> None:
        os.write(self._fd, b"\x03")

    def end(self) -> int:
        """The exit code; what was printed is in `text`."""
        while True:
            try:
                self.text += self._read()
            except OSError:  # the other end is closed
                break
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close(self) -> None:
        """As a window that is closed: SIGHUP for the command, and nothing can be printed any more."""
        os.close(self._fd)

    def _read(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", os.read(self._fd, 65536).decode(errors="replace"))


@pytest.fixture
def study_file(make_study: Any, tmp_path: Path) -> tuple[Study, str]:
    study = make_study("stopped", **TRIALS)
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study.model_dump(mode="json")))
    return study, str(path)


def checkpoints(study: Study) -> list[int]:
    return sorted(
        int(path.parent.name[-8:]) for path in Path(study.folder).glob("trials/*/checkpoints/*/manifest.json")
    )


def test_ctrl_c_in_a_terminal_costs_nothing(
    study_file: tuple[Study, str], undisturbed: Study, train: Train, tmp_path: Path
) -> None:
    study, path = study_file
    # Without an address, though the session's cluster has left its own in the temp folder: a cluster of its own.
    terminal = Terminal("run", path, folder=tmp_path)
    terminal.read_until(r"training +[1-9]\d?%")
    terminal.press_ctrl_c()
    assert terminal.end() == 130, terminal.text[-3000:]
    assert "starting Ray on this machine" in terminal.text
    assert "Stopping ..." in terminal.text
    assert "the same command resumes from there" in " ".join(terminal.text.split())
    assert "Traceback" not in terminal.text
    assert not [process for process in psutil.process_iter(["cmdline"]) if _is_driver_of(process, terminal.pid)]
    assert checkpoints(study), "what trained has written a checkpoint"
    _, owner = newest(study.folder)
    assert owner is not None
    assert owner.released
    train(study)
    assert_same(study, undisturbed)


def test_second_ctrl_c_ends_at_once(study_file: tuple[Study, str], ray_cluster: str, tmp_path: Path) -> None:
    study, path = study_file
    terminal = Terminal("run", path, "--address", ray_cluster, folder=tmp_path)
    terminal.read_until(r"training +[1-9]\d?%")
    terminal.press_ctrl_c()
    terminal.read_until("Stopping ...")
    terminal.press_ctrl_c()
    assert terminal.end() == 130, terminal.text[-3000:]
    assert "Traceback" not in terminal.text
    assert Path(study.folder, "results.parquet").exists()


def test_ctrl_c_before_anything_trains_ends_at_once(study_file: tuple[Study, str], tmp_path: Path) -> None:
    study, path = study_file
    terminal = Terminal("run", path, folder=tmp_path)
    deadline = time.monotonic() + LIMIT
    while not _drivers(terminal.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    terminal.press_ctrl_c()
    assert terminal.end() == 130, terminal.text[-3000:]
    assert "Nothing was trained yet" in terminal.text
    assert "Traceback" not in terminal.text
    assert not Path(study.folder).exists()


def test_closed_terminal_is_a_stop(study_file: tuple[Study, str], ray_cluster: str, tmp_path: Path) -> None:
    study, path = study_file
    terminal = Terminal("run", path, "--address", ray_cluster, folder=tmp_path)
    terminal.read_until(r"training +[1-9]\d?%")
    terminal.close()
    assert os.waitstatus_to_exitcode(os.waitpid(terminal.pid, 0)[1]) == 130
    assert checkpoints(study)
    assert Path(study.folder, "results.parquet").exists()


def _is_driver_of(process: psutil.Process, parent: int) -> bool:
    try:
        return DRIVER in process.cmdline() and process.ppid() == parent
    except psutil.Error:
        return False


def _drivers(parent: int) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if _is_driver_of(process, parent)]


class Killing(StudyEvents):
    """Sends a signal to what `find` finds when the `turn`-th row of metrics arrives, once."""

    def __init__(self, turn: int, number: int, find: Callable[[], list[psutil.Process]]) -> None:
        self._turn, self._number, self._find = turn, number, find
        self.messages: list[str] = []

    def row(self, trial: Trial, row: Row) -> None:
        self._turn -= 1
        if self._turn == 0:
            found = self._find()
            assert found, "nothing to kill"
            for process in found:
                process.send_signal(self._number)

    def message(self, text: str, level: str = "info") -> None:
        self.messages.append(text)


def test_driver_that_crashes_is_started_again_and_costs_no_result(
    make_study: Any, undisturbed: Study, ray_cluster: str
) -> None:
    study = make_study("crashed", **TRIALS)
    events = Killing(3, signal.SIGSEGV, lambda: _drivers(os.getpid()))
    run = train_study(study, address=ray_cluster, events=events)
    assert [result.status for result in run.results] == ["finished", "finished"]
    assert any("the process that talks to Ray ended unexpectedly" in text for text in events.messages)
    assert_same(study, undisturbed)


def test_lost_queue_costs_no_attempt_of_a_trial(make_study: Any, undisturbed: Study, ray_cluster: str) -> None:
    def queue() -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if _is_dispatcher(process)]

    study = make_study("queue-lost", **TRIALS)
    events = Killing(3, signal.SIGKILL, queue)
    run = train_study(study, address=ray_cluster, events=events)
    assert [(result.status, result.attempts) for result in run.results] == [("finished", 1)] * 2
    assert any("the queue of trials died" in text for text in events.messages)
    assert_same(study, undisturbed)


def _is_dispatcher(process: psutil.Process) -> bool:
    try:
        return " ".join(process.cmdline()).startswith("ray::Dispatcher")
    except psutil.Error:
        return False
