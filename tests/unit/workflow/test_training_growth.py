"""A run takes its events and keeps its records in time proportional to the trials."""

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from operations import growth

from vqscale.costing.facts import failed_result
from vqscale.results.records import write_result
from vqscale.study.spec import parse_study
from vqscale.sweep.protocol import Stage


def finish_all(stage: Stage) -> None:
    for order in stage.orders:
        failed = failed_result("p", order.trial, error="-", attempts=1, workers=1, started_at="now")
        values = {"status": "finished", "error": None, "loss": 2.0, "bpb": 2.9}
        write_result(failed.model_copy(update=values), order.folder)


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_run_of_twice_the_trials_takes_twice_the_operations(
    schedule: str, corpus_uri: str, tmp_path: Any, train_by_records: Callable[..., Any]
) -> None:
    def of_size(count: int) -> Callable[[], object]:
        train = {"context": 64, "batch_tokens": 512, "lr": 0.01, "schedule": schedule, "seeds": list(range(count // 4))}
        train |= {"warmup_tokens": 1024, "decay": 0.2} if schedule == "wsd" else {}
        values = {
            "study": uuid.uuid4().hex,
            "data": {"corpus": corpus_uri},
            "model": {"arch": "transformer", "preset": "pico"},
            "train": train,
            "sweep": [{"train.tokens": [5120 * turn for turn in (10, 20, 30, 40)]}],
            "fit": {"laws": ["power_n"]},
            "storage": str(tmp_path),
        }
        study = parse_study(values, source="test")
        return lambda: train_by_records(study, finish_all)

    assert growth(of_size, 60) < 2.15
