"""The driver's answer to a stop: when the trials of the present stage have left, not when an earlier stage's have."""

import threading
from typing import Any

import pytest

from vqscale.sweep.driver import tuning


class Queue:
    """In place of the dispatcher's handle: remembers what is asked of it."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return type("Method", (), {"remote": lambda _: self.asked.append(name)})()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.setattr(tuning.ray, "get", lambda answer, timeout=None: answer)
    monkeypatch.setattr(tuning, "POLL_SECONDS", 0.01)
    return []


def test_stop_closes_the_queue_and_answers_when_its_trials_have_left(told: list[dict[str, Any]]) -> None:
    queue, stopping = Queue(), threading.Event()
    stopping.set()
    tuning._stop_when_asked(stopping, threading.Event(), queue, told.append)
    assert (queue.asked, told) == (["close", "left"], [{"kind": "interrupted"}])


@pytest.mark.parametrize("stopped", [False, True])
def test_stage_that_is_over_answers_no_stop(stopped: bool, told: list[dict[str, Any]]) -> None:
    queue, stopping, over = Queue(), threading.Event(), threading.Event()
    over.set()
    if stopped:
        stopping.set()
    tuning._stop_when_asked(stopping, over, queue, told.append)
    assert (queue.asked, told) == ([], [])
