"""Trials on the screen and in MLflow: a store that fails ends nothing, and gets later what it missed."""

import getpass
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Run
from mlflow.exceptions import MlflowException
from rich.console import Console

from vqscale import storage
from vqscale.cli.live_table import LiveTable
from vqscale.costing.facts import failed_result
from vqscale.planning.plan import Plan, plan
from vqscale.results.metrics_rows import Row, metrics_uri
from vqscale.results.records import write_result
from vqscale.results.result import Result
from vqscale.study.spec import parse_study
from vqscale.sweep import observer as module
from vqscale.sweep.events import Broadcast
from vqscale.sweep.observer import TrackingObserver
from vqscale.track.tracker import Tracker

ROWS: list[Row] = [
    {"step": step, "tokens": 512 * step, "loss": 3.0 - step / 10, "bpb": 2.0, "tokens_per_second": 1e4}
    for step in range(1, 5)
]


class Watched(Broadcast):
    """The screen and MLflow, told of the same events."""

    def __init__(self, plan: Plan, table: LiveTable, tracker: Tracker) -> None:
        observer = TrackingObserver(plan, table, tracker)
        super().__init__(table, observer)
        self.catch_up = observer.catch_up


class Stage:
    """A study of two trials, what is on its screen, and its MLflow store."""

    def __init__(self, folder: Path, corpus: str) -> None:
        values = {
            "study": "watched",
            "data": {"corpus": corpus},
            "model": {"arch": "transformer_vq", "preset": "pico", "codebook_size": 16, "block_length": 16},
            "train": {"context": 64, "tokens": 8192, "batch_tokens": 512, "lr": 0.01, "seeds": [0, 1]},
            "storage": str(folder),
        }
        self.study = parse_study(values, source="test")
        self.plan: Plan = plan(self.study)
        self.trials = [planned.trial for planned in self.plan.trials]
        self.uri, self.screen = f"sqlite:///{folder}/mlflow.db", io.StringIO()
        self.table = LiveTable(Console(file=self.screen, width=300))
        self.table.stage_started(self.plan)

    def observer(self) -> "Watched":
        return Watched(self.plan, self.table, Tracker(self.uri, "watched", artifacts=None))

    def train(self, index: int) -> Result:
        """What a worker leaves in the folder of a trial that ended."""
        trial = self.plan.trials[index].trial
        folder = self.plan.folder(trial)
        failed = failed_result("watched", trial, error="", attempts=1, workers=1, started_at="now")
        result = failed.model_copy(update={"status": "finished", "error": None, "bpb": 1.5, "loss": 2.5})
        storage.write_text(metrics_uri(folder), "".join(json.dumps(row) + "\n" for row in ROWS))
        write_result(result, folder)
        return result

    def run(self, index: int) -> Run:
        client = MlflowClient(self.uri)
        experiment = client.get_experiment_by_name("watched")
        wanted = f"tags.`vqscale.trial_id` = '{self.trials[index].id}'"
        (run,) = client.search_runs([experiment.experiment_id], wanted)
        return run

    def steps(self, index: int) -> list[int]:
        history = MlflowClient(self.uri).get_metric_history(self.run(index).info.run_id, "loss")
        return sorted(point.step for point in history)

    def require_complete(self, index: int) -> None:
        run = self.run(index)
        assert (run.info.status, run.data.tags["status"], run.data.metrics["final/bpb"]) == (
            "FINISHED",
            "finished",
            1.5,
        )
        assert self.steps(index) == [512, 1024, 1536, 2048]
        assert run.data.params["preset"] == "pico"


@pytest.fixture
def stage(tmp_path: Path, corpus_uri: str, empty_store: Callable[[Path], str]) -> Stage:
    empty_store(tmp_path / "mlflow.db")
    return Stage(tmp_path, corpus_uri)


@pytest.fixture
def outage(monkeypatch: pytest.MonkeyPatch) -> Callable[[], pytest.MonkeyPatch]:
    """Call it to make MLflow's writes fail; `undo()` of what it returns ends the outage."""

    def fail(*_: object, **__: object) -> None:
        raise MlflowException("the server is away [500]")

    def begin() -> pytest.MonkeyPatch:
        patch = pytest.MonkeyPatch()
        patch.setattr(MlflowClient, "log_batch", fail)
        patch.setattr(MlflowClient, "set_terminated", fail)
        return patch

    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.0)
    return begin


def test_observer_shows_a_trial_to_its_end(stage: Stage) -> None:
    observer = stage.observer()
    for row in ROWS:
        observer.row(stage.trials[0], row)
    observer.ended(stage.trials[0], stage.train(0))
    stage.require_complete(0)
    assert "MLflow" not in stage.screen.getvalue()


def test_store_that_fails_is_said_once_and_sent_what_it_missed(
    stage: Stage, outage: Callable[[], pytest.MonkeyPatch]
) -> None:
    observer = stage.observer()
    observer.row(stage.trials[0], ROWS[0])
    patch = outage()
    try:
        observer.row(stage.trials[0], ROWS[1])
        observer.row(stage.trials[0], ROWS[2])
        observer.ended(stage.trials[1], stage.train(1))
    finally:
        patch.undo()
    observer.row(stage.trials[0], ROWS[3])
    assert stage.steps(0) == [512, 2048]
    observer.ended(stage.trials[0], stage.train(0))
    said = stage.screen.getvalue()
    assert said.count("the server is away") == said.count("Training continues") == 1
    assert said.count("1.500 bpb held out") == 2

    stage.require_complete(0)
    observer.catch_up()
    stage.require_complete(1)


def test_catch_up_tells_a_store_that_still_fails_and_a_later_one_sends_all(
    stage: Stage, outage: Callable[[], pytest.MonkeyPatch]
) -> None:
    observer = stage.observer()
    patch = outage()
    try:
        observer.ended(stage.trials[0], stage.train(0))
        observer.catch_up()
    finally:
        patch.undo()
    assert "MLflow lacks a part of this study" in stage.screen.getvalue()

    stage.plan = plan(stage.study)
    assert stage.plan.trials[0].done
    stage.observer().catch_up()
    stage.require_complete(0)


def test_catch_up_is_one_search_when_nothing_is_missing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    observer = stage.observer()
    for index in (0, 1):
        observer.ended(stage.trials[index], stage.train(index))
    searches: list[object] = []
    search = MlflowClient.search_runs
    monkeypatch.setattr(MlflowClient, "search_runs", lambda *a, **k: searches.append(a) or search(*a, **k))
    monkeypatch.setattr(MlflowClient, "log_batch", lambda *_, **__: pytest.fail("written again"))
    observer.catch_up()
    assert len(searches) == 1


def test_store_that_failed_is_left_alone_for_a_while(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[object] = []

    def fail(*words: object, **_: object) -> None:
        tries.append(words)
        raise MlflowException("away")

    observer = stage.observer()
    monkeypatch.setattr(MlflowClient, "log_batch", fail)
    for row in ROWS:
        observer.row(stage.trials[0], row)
    assert len(tries) == 1


def models(stage: Stage) -> list[LoggedModel]:
    client = MlflowClient(stage.uri)
    return list(client.search_logged_models([client.get_experiment_by_name("watched").experiment_id]))


def test_finished_trial_is_a_logged_model_with_its_final_metrics(stage: Stage) -> None:
    observer = stage.observer()
    observer.ended(stage.trials[0], stage.train(0))
    (model,) = models(stage)
    run = stage.run(0)
    assert (model.status, model.source_run_id, model.model_type) == ("READY", run.info.run_id, "transformer_vq")
    assert model.tags["vqscale.weights"] == f"{stage.plan.folder(stage.trials[0])}/model.safetensors"
    assert model.params["model.codebook_size"] == "16"
    assert [(one.model_id, one.step) for one in run.outputs.model_outputs] == [(model.model_id, 8192)]
    measured = {metric.key: (metric.value, metric.step, metric.dataset_name) for metric in model.metrics}
    assert measured == {
        "final/loss": (2.5, 8192, "small/validation"),
        "final/bpb": (1.5, 8192, "small/validation"),
        "final/flops": (run.data.metrics["final/flops"], 8192, None),
    }


def test_trial_that_is_sent_twice_has_one_model_and_each_final_metric_once(stage: Stage) -> None:
    client = MlflowClient(stage.uri)
    stage.observer().ended(stage.trials[0], stage.train(0))
    run = stage.run(0).info.run_id
    client.update_run(run, status="RUNNING")  # as an interruption before the end of the run leaves it
    stage.plan = plan(stage.study)
    stage.observer().catch_up()
    stage.require_complete(0)
    assert len(models(stage)) == len(stage.run(0).outputs.model_outputs) == 1
    for name in ("final/loss", "final/bpb", "final/flops"):
        assert len(client.get_metric_history(run, name)) == 1, name


def test_trial_that_failed_is_no_model(stage: Stage) -> None:
    trial = stage.trials[0]
    failed = failed_result("watched", trial, error="out of memory", attempts=3, workers=1, started_at="now")
    write_result(failed, stage.plan.folder(trial))
    stage.observer().ended(trial, failed)
    assert (models(stage), stage.run(0).info.status) == ([], "FAILED")


def test_splits_of_a_corpus_are_data_sets_of_their_own(stage: Stage) -> None:
    stage.observer().ended(stage.trials[0], stage.train(0))
    stage.observer().ended(stage.trials[0], stage.train(0))
    inputs = stage.run(0).inputs.dataset_inputs
    contexts = {one.dataset.name: [tag.value for tag in one.tags if tag.key == "mlflow.data.context"] for one in inputs}
    assert contexts == {"small": ["training"], "small/validation": ["validation"]}
    assert {one.dataset.digest for one in inputs} == {stage.trials[0].corpus_fingerprint[:36]}


def test_run_of_the_study_has_its_parameters_source_user_and_question(stage: Stage) -> None:
    observer = stage.observer()
    observer.ended(stage.trials[0], stage.train(0))
    client = MlflowClient(stage.uri)
    parent = client.get_run(stage.run(0).data.tags["mlflow.parentRunId"])
    assert parent.data.params["train.seeds"] == "[0, 1]"
    assert parent.data.params["model.codebook_size"] == "16"
    assert not {"tracking.uri", "storage", "study"} & set(parent.data.params)
    for run in (parent, stage.run(0)):
        assert run.data.tags["mlflow.source.name"] == f"{stage.study.folder}/study.yaml"
        assert (run.data.tags["mlflow.source.type"], run.data.tags["mlflow.user"]) == ("LOCAL", getpass.getuser())
    assert client.get_experiment(parent.info.experiment_id).tags["mlflow.experimentKind"] == "custom_model_development"

    changed = stage.study.model_copy(update={"train": {**stage.study.train, "seeds": [0, 1, 2]}})
    stage.plan = plan(changed)
    stage.observer().ended(stage.trials[1], stage.train(1))
    parent = client.get_run(parent.info.run_id)
    assert parent.data.params["train.seeds"] == "[0, 1]"
    assert parent.data.tags["changed.train.seeds"] == "[0, 1, 2]"
