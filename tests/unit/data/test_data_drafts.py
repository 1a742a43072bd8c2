"""Failures and interruptions leave no draft behind, unless it holds work that the same command would resume."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vqscale.data import prepare as prepare_module
from vqscale.data.labelled.prepare import prepare_labelled
from vqscale.data.prepare import prepare
from vqscale.data.tasks.listops import ListOps
from vqscale.errors import CorpusError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "home")


@pytest.mark.parametrize(
    "error", [CorpusError("damaged"), RecursionError("deep"), MemoryError(), KeyboardInterrupt(), SystemExit(1)]
)
def test_failure_of_any_kind_leaves_nothing(texts, tmp_path, monkeypatch, error):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(prepare_module._Preparation, "_append", fail)
    with pytest.raises(type(error)):
        prepare(str(texts), str(tmp_path / "some" / "where" / "out"))
    assert names(tmp_path) == ["texts"]


def test_interruption_with_work_done_keeps_it_and_the_next_run_finishes_it(texts, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_module, "COMMIT_BYTES", 500)
    append, calls = prepare_module._Preparation._append, iter(range(40))

    def stop(self, *arguments: object) -> None:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        append(self, *arguments)

    monkeypatch.setattr(prepare_module._Preparation, "_append", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(str(texts), str(tmp_path / "out"))
    assert names(tmp_path) == [".prepare-out", "texts"]
    monkeypatch.setattr(prepare_module._Preparation, "_append", append)
    resumed = prepare(str(texts), str(tmp_path / "out"))
    assert names(tmp_path) == ["out", "texts"]
    assert resumed.fingerprint == prepare(str(texts), str(tmp_path / "again")).fingerprint


def test_interrupted_generation_leaves_nothing(tmp_path):
    def stop(stage: str, done: int, total: int | None) -> None:
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_labelled(ListOps(examples=(50, 5, 5), length=(5, 20)), str(tmp_path / "a" / "out"), progress=stop)
    assert names(tmp_path) == []


COMMANDS = {
    "generate": ["generate", "listops", "--examples", "200000,10,10", "--processes", "2"],
    "prepare": ["prepare", "stdlib", "--tokenizer", "bpe", "--vocab-size", "3000"],
}


def started(command: str, folder: Path) -> subprocess.Popen[str]:
    """A command that has begun to write."""
    arguments = [sys.executable, "-m", "vqscale", "data", *COMMANDS[command], "--out", str(folder / "out")]
    process = subprocess.Popen(arguments, start_new_session=True, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (folder / ".prepare-out" / "corpus").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_command_ends_with_130_and_leaves_nothing(tmp_path, command, number):
    """As in a terminal, Ctrl-C reaches the whole process group, workers included."""
    with started(command, tmp_path) as process:
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert "Stopped. No corpus was written" in stderr
    assert names(tmp_path) == []


def test_killed_generation_leaves_no_process_and_its_draft_is_replaced(tmp_path):
    with started("generate", tmp_path) as process:
        process.kill()
        # Workers and their tracker hold this pipe: it ends when the last of them has.
        process.communicate(timeout=120)
    assert names(tmp_path) == [".prepare-out"]
    prepare_labelled(ListOps(examples=(50, 5, 5), length=(5, 20)), str(tmp_path / "out"))
    assert names(tmp_path) == ["out"]
