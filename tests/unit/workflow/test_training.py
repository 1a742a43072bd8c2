"""A run is judged by the records of its trials, not by how the driver process ended; its table is always written."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vqscale.costing.facts import failed_result
from vqscale.errors import ClusterError, StudyInterruptedError, TrackingError
from vqscale.results import read_table
from vqscale.results.lease import StudyOwnedError
from vqscale.results.records import write_result
from vqscale.study.spec import parse_study
from vqscale.sweep.client import DriverDiedError
from vqscale.sweep.events import StudyEvents
from vqscale.sweep.protocol import Stage
from vqscale.workflow import training


class Told(StudyEvents):
    def __init__(self) -> None:
        self.messages: list[str] = []
        self.ended_trials: list[str] = []

    def message(self, text: str, level: str = "info") -> None:
        self.messages.append(text)

    def ended(self, trial: Any, result: Any) -> None:
        self.ended_trials.append(trial.name)


class Driver:
    """Writes the records of the first `recorded` trials of a stage, then raises."""

    recorded = 0
    error: BaseException = DriverDiedError("the process that talks to Ray ended unexpectedly (signal 11).\nlog")
    stopped = asked = opened = 0
    lives = connections = 100
    """Drivers that record something, and connections that succeed, before none does."""

    def __init__(self, *_: Any) -> None: ...

    def open(self) -> "Driver":
        type(self).opened += 1
        if self.opened > self.connections:
            raise ClusterError("no answer")
        return self

    def close(self) -> None: ...

    def stop(self) -> None:
        type(self).stopped += 1

    def ask_to_stop(self) -> None:
        type(self).asked += 1

    def train(self, stage: Stage) -> Iterator[dict[str, Any]]:
        for order in stage.orders[: self.recorded if self.opened <= self.lives else 0]:
            blank = failed_result("s", order.trial, error="", attempts=1, workers=1, started_at="now")
            write_result(blank.model_copy(update={"status": "finished", "error": None, "loss": 2.0}), order.folder)
        raise self.error
        yield {}


@pytest.fixture
def study(corpus_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    class NoTracking(StudyEvents):
        def __init__(self, *_: object) -> None: ...

        def catch_up(self) -> None: ...

    monkeypatch.setattr(training, "TrackingObserver", NoTracking)
    monkeypatch.setattr(training, "open_tracker", lambda _: None)
    values = {
        "study": "s",
        "data": {"corpus": corpus_uri},
        "model": {"arch": "transformer_vq", "preset": "pico", "codebook_size": 16, "block_length": 16},
        "train": {"context": 64, "tokens": 8192, "batch_tokens": 512, "lr": 0.01, "seeds": [0, 1]},
        "storage": str(tmp_path),
    }
    return parse_study(values, source="test")


def driver(monkeypatch: pytest.MonkeyPatch, **values: Any) -> type[Driver]:
    made = type("Made", (Driver,), values)
    monkeypatch.setattr(training, "RayDriver", made)
    return made


def test_driver_that_dies_after_all_records_are_written_fails_nothing(
    study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(monkeypatch, recorded=2)
    told = Told()
    run = training.train_study(study, events=told)
    assert [result.status for result in run.results] == ["finished", "finished"]
    assert len(told.ended_trials) == run.trained_now == 2
    assert any("signal 11" in text and "All trials of this stage have their results" in text for text in told.messages)
    assert list(read_table(f"{study.folder}/results.parquet")["loss"]) == [2.0, 2.0]


def test_driver_that_dies_is_started_again_for_what_is_left(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, recorded=1)  # each records one trial and dies
    told = Told()
    run = training.train_study(study, events=told)
    assert [result.status for result in run.results] == ["finished", "finished"]
    assert sum("started again" in text for text in told.messages) == 1
    assert len(read_table(f"{study.folder}/results.parquet")) == 2


def test_drivers_that_die_one_after_another_leave_the_table_of_what_had_ended(
    study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = driver(monkeypatch, recorded=1, lives=1)
    with pytest.raises(DriverDiedError, match=r"1 of 2 trials have no result yet.*signal 11"):
        training.train_study(study, events=StudyEvents())
    assert made.opened == 1 + training.DEATHS
    assert len(read_table(f"{study.folder}/results.parquet")) == 1
    driver(monkeypatch, recorded=1)  # the same call resumes: one trial is left
    assert training.train_study(study, events=StudyEvents()).trained_now == 1


def test_cluster_that_is_gone_with_the_driver_leaves_the_table_of_what_had_ended(
    study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(monkeypatch, recorded=1, connections=1)
    with pytest.raises(DriverDiedError, match=r"(?s)signal 11.*The cluster is gone, too \(no answer\)"):
        training.train_study(study, events=StudyEvents())
    assert len(read_table(f"{study.folder}/results.parquet")) == 1


def test_failed_record_of_an_earlier_run_is_no_result_of_this_one(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for planned in training.plan(study).trials:
        blank = failed_result("s", planned.trial, error="no", attempts=1, workers=1, started_at="before")
        write_result(blank, f"{study.folder}/trials/{planned.trial.id}")
    driver(monkeypatch, recorded=0)
    with pytest.raises(DriverDiedError, match="2 of 2 trials have no result yet"):
        training.train_study(study, events=StudyEvents())


def test_interrupt_stops_the_driver_and_keeps_the_table(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = driver(monkeypatch, recorded=1, error=KeyboardInterrupt())
    told = Told()
    with pytest.raises(StudyInterruptedError, match="1 of 2 trials are not finished"):
        training.train_study(study, events=told)
    assert (made.stopped, told.messages) == (1, ["Stopping ... (Ctrl-C again ends it at once)"])
    assert Path(study.folder, "results.parquet").exists()


def test_trial_that_ended_while_the_driver_stopped_is_in_the_table(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, recorded=1, error=KeyboardInterrupt())
    with pytest.raises(StudyInterruptedError):
        training.train_study(study, events=StudyEvents())
    assert len(read_table(f"{study.folder}/results.parquet")) == 1


def test_listener_that_raises_stops_the_driver_and_is_not_hidden(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = driver(monkeypatch, recorded=0, error=ValueError("from a listener"))
    with pytest.raises(ValueError, match="from a listener"):
        training.train_study(study, events=StudyEvents())
    assert made.stopped == 1


def test_store_that_is_away_after_the_training_costs_nothing(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, recorded=2)
    opened: list[object] = []
    monkeypatch.setattr(training, "open_tracker", lambda _: opened.append(1))
    assert training.train_study(study, events=StudyEvents()).trained_now == 2
    assert len(opened) == 1, "the store is opened once, before the training"


def test_store_that_cannot_be_opened_leaves_nothing_written(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch)

    def refuse(_: Any) -> None:
        raise TrackingError("no store")

    monkeypatch.setattr(training, "open_tracker", refuse)
    with pytest.raises(TrackingError):
        training.train_study(study, events=StudyEvents())
    assert not Path(study.folder, "study.yaml").exists()
    assert not Path(study.folder, "results.parquet").exists()


def test_run_with_nothing_left_sends_what_the_store_lacks(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, recorded=2)
    training.train_study(study, events=StudyEvents())
    caught_up: list[int] = []

    class Observer(StudyEvents):
        def __init__(self, plan: Any, *_: object) -> None:
            self.trials = len(plan.trials)

        def catch_up(self) -> None:
            caught_up.append(self.trials)

    monkeypatch.setattr(training, "TrackingObserver", Observer)
    assert training.train_study(study, events=StudyEvents()).trained_now == 0
    assert caught_up == [2]


def test_second_run_of_a_study_is_refused_while_the_first_trains(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[str] = []

    class Meanwhile(Told):
        def stage_started(self, stage: Any) -> None:
            with pytest.raises(StudyOwnedError) as raised:
                training.train_study(study, events=StudyEvents())
            refused.append(str(raised.value))

    driver(monkeypatch, recorded=2)
    assert training.train_study(study, events=Meanwhile()).trained_now == 2
    assert len(refused) == 1
    assert f"process {os.getpid()}" in refused[0]


def test_run_that_lost_its_study_stops_and_says_to_whom(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stages: list[Any] = []
    made = driver(monkeypatch, recorded=2)  # it would train: the study was lost before it was asked to

    class Lost(Told):
        def stage_started(self, stage: Any) -> None:
            stages[-1].lose("ada on far (process 7) has taken this study over.")

    class Kept(training._Stages):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            stages.append(self)

    monkeypatch.setattr(training, "_Stages", Kept)
    with pytest.raises(StudyInterruptedError, match=r"ada on far .* has taken this study over\. 2 of 2 trials are not"):
        training.train_study(study, events=Lost())
    assert (made.asked, made.stopped) == (1, 0)
