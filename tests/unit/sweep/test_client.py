"""The study's end of the driver process: what it reads, how it stops, and what it says of a driver that died."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from vqscale.address import Address
from vqscale.errors import ClusterError, StudyInterruptedError
from vqscale.study.spec import Resources, parse_study
from vqscale.sweep import client
from vqscale.sweep.client import DriverDiedError, RayDriver
from vqscale.sweep.protocol import DRIVER, Stage

CONNECTED = """
import json, os, signal, subprocess, sys, time
def tell(**event): print(json.dumps(event), flush=True)
def read(): return json.loads(sys.stdin.readline())["request"]
assert read()["kind"] == "connect"
tell(kind="connected")
"""
STAGE = "stage = read()\nassert stage['kind'] == 'stage'\n"


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A `RayDriver` whose process runs a program of the test's."""

    def make(program: str, withheld: Sequence[str] = ()) -> RayDriver:
        (tmp_path / "fake_driver.py").write_text(program, encoding="utf-8")
        monkeypatch.setattr(client, "DRIVER", "fake_driver")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return RayDriver(None, Resources(), withheld)

    return make


@pytest.fixture
def stage() -> Stage:
    values = {"study": "s", "data": {"corpus": "c"}, "model": {"arch": "gla"}, "train": {"lr": 0.1}}
    return Stage(study=parse_study(values, source="test"), orders=())


def test_events_of_a_stage_arrive_in_order_and_end_with_trained(driver: Any, stage: Stage) -> None:
    told = "for step in (1, 2): tell(kind='row', trial='a', row={'step': step})\n"
    with driver(CONNECTED + STAGE + told + "tell(kind='trained')\nassert read()['kind'] == 'close'\n") as connected:
        events = list(connected.train(stage))
    assert [event["kind"] for event in events] == ["row", "row", "trained"]
    assert [event["row"]["step"] for event in events[:2]] == [1, 2]


def test_error_of_the_driver_is_raised_as_what_it_was(driver: Any) -> None:
    program = CONNECTED.replace(
        'tell(kind="connected")', 'tell(kind="error", type="ClusterError", message="too small")'
    )
    with pytest.raises(ClusterError, match="too small"), driver(program):
        pass


def test_driver_that_dies_is_named_with_its_signal_and_last_lines(driver: Any, stage: Stage) -> None:
    dies = "print('a last line', file=sys.stderr, flush=True)\nos.kill(os.getpid(), signal.SIGSEGV)\n"
    with driver(CONNECTED + STAGE + dies) as connected, pytest.raises(DriverDiedError) as raised:
        list(connected.train(stage))
    assert "ended unexpectedly (signal 11)" in str(raised.value)
    assert "a last line" in str(raised.value)


def test_event_that_was_cut_off_by_a_death_is_not_an_event(driver: Any, stage: Stage) -> None:
    dies = 'sys.stdout.write(\'{"kind": "row", "tri\')\nsys.stdout.flush()\nos._exit(3)\n'
    with driver(CONNECTED + STAGE + dies) as connected, pytest.raises(DriverDiedError, match="exit code 3"):
        list(connected.train(stage))


def test_stop_is_asked_for_and_its_answer_awaited(driver: Any, stage: Stage) -> None:
    answers = (
        "tell(kind='row', trial='a', row={})\n"
        "assert read()['kind'] == 'stop'\n"
        "tell(kind='interrupted')\n"
        "assert read()['kind'] == 'close'\n"
    )
    began = time.monotonic()
    with driver(CONNECTED + STAGE + answers) as connected:
        next(iter(connected.train(stage)))
        connected.stop()
    assert time.monotonic() - began < 30


def test_stop_that_is_asked_for_by_another_thread_interrupts_the_stage(driver: Any, stage: Stage) -> None:
    answers = "tell(kind='row', trial='a', row={})\nassert read()['kind'] == 'stop'\ntell(kind='interrupted')\nread()\n"
    with driver(CONNECTED + STAGE + answers) as connected:
        events = iter(connected.train(stage))
        next(events)
        threading.Thread(target=connected.ask_to_stop).start()
        with pytest.raises(StudyInterruptedError):
            next(events)


def test_driver_that_has_stopped_is_not_waited_for(driver: Any, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "STOPPED_SECONDS", 0.2)
    slow = "tell(kind='row', trial='a', row={})\nread()\ntell(kind='interrupted')\ntime.sleep(60)\n"
    began = time.monotonic()
    with driver(CONNECTED + STAGE + slow) as connected:
        next(iter(connected.train(stage)))
        connected.stop()
    assert time.monotonic() - began < client.CLOSE_SECONDS


def test_leaving_ends_whatever_the_driver_has_started(driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "CLOSE_SECONDS", 0.5)
    with driver(CONNECTED + "child = subprocess.Popen(['sleep', '61'])\ntime.sleep(60)\n") as connected:
        leader = psutil.Process(connected._process.pid)
        deadline = time.monotonic() + 20
        while not (children := leader.children()) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert children
    assert not leader.is_running()
    psutil.wait_procs(children, timeout=10)
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)


def test_driver_is_out_of_reach_of_a_terminals_signals(driver: Any) -> None:
    with driver(CONNECTED + "read()\n") as connected:
        assert os.getpgid(connected._process.pid) == connected._process.pid != os.getpgid(0)
        assert os.getsid(connected._process.pid) != os.getsid(0)


def test_failure_that_is_none_of_ours_is_a_death_with_its_last_lines(driver: Any, stage: Stage) -> None:
    fails = "print('deep in Ray', file=sys.stderr, flush=True)\n"
    fails += "tell(kind='error', type='TuneError', message='broke')\nread()\n"
    with (
        driver(CONNECTED + STAGE + fails) as connected,
        pytest.raises(DriverDiedError, match=r"failed: broke\ndeep in"),
    ):
        list(connected.train(stage))


def test_line_that_is_no_event_is_passed_over(driver: Any, stage: Stage) -> None:
    noise = "print('WARNING: something printed', flush=True)\ntell(kind='trained')\nread()\n"
    with driver(CONNECTED + STAGE + noise) as connected:
        assert [event["kind"] for event in connected.train(stage)] == ["trained"]


def test_texts_that_are_not_ascii_reach_the_driver_whatever_its_locale(
    driver: Any, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    echo = (
        "import io\n"
        "sys.stdin = io.TextIOWrapper(sys.stdin.buffer, encoding='utf-8')\n"
        "stage = read()\ntell(kind='row', trial=stage['study']['question'], row={})\ntell(kind='trained')\nread()\n"
    )
    asked = stage.model_copy(update={"study": stage.study.model_copy(update={"question": "größer?"})})
    with driver(CONNECTED.replace('assert read()["kind"] == "connect"', "sys.stdin.readline()") + echo) as connected:
        first, _ = connected.train(asked)
    assert first["trial"] == "größer?"


def test_driver_that_does_not_stop_is_ended(driver: Any, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "STOP_SECONDS", 0.5)
    deaf = "tell(kind='row', trial='a', row={})\ntime.sleep(60)\n"
    began = time.monotonic()
    with driver(CONNECTED + STAGE + deaf) as connected:
        next(iter(connected.train(stage)))
        connected.stop()
    assert time.monotonic() - began < 30


def test_real_driver_refuses_to_be_started_by_hand() -> None:
    done = subprocess.run([sys.executable, "-m", DRIVER], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 1
    assert "is started by `vqscale run`" in done.stderr


def test_secrets_of_tracking_stay_in_the_studys_own_process(
    driver: Any, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_URI", "DATABASE_PASSWORD"):
        monkeypatch.setenv(name, "CANARY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "kept")  # workers write to the storage themselves
    uri = "postgresql://u:CANARY@h/${DATABASE_PASSWORD}"
    study = stage.study.model_copy(update={"tracking": stage.study.tracking.model_copy(update={"uri": Address(uri)})})
    reply = "tell(kind='trained', environment=dict(os.environ), stage=stage)\n"
    with driver(CONNECTED + STAGE + reply, study.tracking.uri.variables) as connected:
        (event,) = connected.train(stage.model_copy(update={"study": study}))
    assert "CANARY" not in str(event)
    assert event["environment"]["AWS_SECRET_ACCESS_KEY"] == "kept"
