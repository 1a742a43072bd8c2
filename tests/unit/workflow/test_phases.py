"""Before the first update a run says what is being started."""

from collections.abc import Callable
from typing import Any

import pytest

from vqscale.costing.facts import failed_result
from vqscale.results.records import write_result
from vqscale.study.spec import Study, parse_study
from vqscale.sweep.events import StudyEvents
from vqscale.sweep.protocol import Stage


class Phases(StudyEvents):
    def __init__(self) -> None:
        self.told: list[tuple[str, str | None]] = []

    def phase(self, text: str, trial: Any = None) -> None:
        self.told.append((text, trial and trial.name))


@pytest.fixture
def study(corpus_uri: str, tmp_path: Any) -> Study:
    values = {
        "study": "p",
        "data": {"corpus": corpus_uri},
        "model": {"arch": "transformer", "preset": "pico"},
        "train": {"context": 64, "tokens": 8192, "batch_tokens": 512, "lr": 0.01},
        "fit": {"laws": ["power_n"]},
        "storage": str(tmp_path),
    }
    return parse_study(values, source="test")


def fail_all(stage: Stage) -> None:
    for order in stage.orders:
        result = failed_result("p", order.trial, error="no", attempts=1, workers=1, started_at="now")
        write_result(result, order.folder)


@pytest.mark.parametrize(
    ("address", "first"),
    [
        (None, "starting Ray on this machine"),
        ("ray://user:secret@head:10001", "connecting to the Ray cluster at ray://user:***@head:10001"),
    ],
)
def test_run_says_what_it_starts_and_then_what_each_trial_does(
    address: str | None, first: str, study: Study, train_by_records: Callable[..., Any], monkeypatch: Any
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    events = Phases()
    train_by_records(study, fail_all, events=events, address=address)
    assert events.told == [
        (first, None),
        ("starting 1 worker group", None),
        ("loading", "transformer-pico-T64-D8.19k-seed0"),
    ]
