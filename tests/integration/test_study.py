"""A study through Ray Tune, Ray Train and DeepSpeed on a real local cluster."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import safetensors.torch
import torch
import yaml
from local_host import LocalHost
from mlflow import MlflowClient

from vqscale import storage
from vqscale.cli.run import run as run_command
from vqscale.data.labelled.prepare import prepare_labelled
from vqscale.data.tasks.listops import ListOps
from vqscale.errors import ClusterError
from vqscale.planning.plan import plan
from vqscale.results import Result, read_table, to_results
from vqscale.results.metrics_rows import read_rows
from vqscale.study.spec import RunOptions, Study
from vqscale.sweep.events import StudyEvents
from vqscale.train.trial import run_trial
from vqscale.workflow.autotune import tune_codebook
from vqscale.workflow.training import TrainingRun

Train = Callable[[Study], TrainingRun]


def weights(study: Study, trial_id: str) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(f"{study.folder}/trials/{trial_id}/model.safetensors")


class PlugPuller(LocalHost):
    """Dies after its tenth update."""

    def publish(self, row: dict[str, float | int]) -> bool:
        if row["step"] >= 10:
            raise RuntimeError("pulled the plug")
        return False


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_study_trains_every_trial_once_and_mlflow_shows_the_same_numbers(make_study: Any, train: Train) -> None:
    study = make_study(sweep=[{"model.codebook_size": [8, 16]}, {"model.arch": ["transformer", "transformer_full"]}])
    outcome = train(study)
    assert [result.status for result in outcome.results] == ["finished"] * 4
    assert outcome.trained_now == 4
    table = read_table(storage.join(study.folder, "results.parquet"))
    assert list(table["bpb"]) == [result.bpb for result in outcome.results]

    client = MlflowClient(study.tracking.uri.reveal())
    experiment = client.get_experiment_by_name(study.study)
    runs = client.search_runs([experiment.experiment_id])
    children = {run.data.tags["vqscale.trial_id"]: run for run in runs if "mlflow.parentRunId" in run.data.tags}
    assert len(runs) == 5
    for result in outcome.results:
        child = children[result.trial_id]
        assert child.info.status == "FINISHED"
        assert child.data.metrics["final/bpb"] == pytest.approx(result.bpb)
        history = client.get_metric_history(child.info.run_id, "loss")
        rows = read_rows(f"{study.folder}/trials/{result.trial_id}")
        assert [(point.step, point.value) for point in history] == [(row["tokens"], row["loss"]) for row in rows]
        assert child.data.params["parameters"] == str(result.parameters)
        assert {i.dataset.digest for i in child.inputs.dataset_inputs} == {result.corpus_fingerprint[:36]}
        assert "system/cpu_percent" in child.data.metrics

    again = train(study)
    assert again.trained_now == 0
    assert again.results == outcome.results


def test_study_gives_the_losses_of_the_plain_engine(make_study: Any, train: Train, tmp_path: Path) -> None:
    study = make_study(train={"segment": 16})
    outcome = train(study)
    (planned,) = plan(study).trials
    trial = planned.trial.model_copy(update={"train": planned.trial.train.model_copy(update={"engine": "plain"})})
    host = LocalHost(device=torch.device("cpu"))
    plain = run_trial(trial, str(tmp_path / "plain"), RunOptions(log_every=2, checkpoint_every=4), host)
    rows = read_rows(f"{study.folder}/trials/{planned.trial.id}")
    for ours, theirs in zip(rows, host.rows, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
    assert plain.held_out is not None
    assert outcome.results[0].loss == pytest.approx(plain.held_out.nats, abs=1e-5)


def kill_a_worker_after_its_first_checkpoint(study: Study) -> threading.Thread:
    """SIGKILL one process that trains, as soon as a complete checkpoint of the study exists."""

    def kill() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if list(Path(study.folder).glob("trials/*/checkpoints/*/manifest.json")):
                workers = [p for p in psutil.process_iter(["cmdline"]) if _trains(p)]
                if workers:
                    workers[0].send_signal(signal.SIGKILL)
                    return
            time.sleep(0.02)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def _trains(process: psutil.Process) -> bool:
    try:
        return "RayTrainWorker" in " ".join(process.cmdline()) and os.getpid() in {p.pid for p in process.parents()}
    except psutil.Error:
        return False


@pytest.mark.parametrize(("workers", "zero"), [(1, 1), (2, 2)])
def test_trial_killed_in_the_middle_ends_bitwise_as_if_never_interrupted(
    workers: int, zero: int, make_study: Any, train: Train
) -> None:
    shape = {"train": {"zero": zero, "tokens": 64 * 8 * 120, "segment": 16}, "resources": {"workers": workers}}
    shape |= {"model": {"arch": "transformer_vq", "preset": "pico", "codebook_size": 16, "block_length": 16,
                        "dropout_residual": 0.1}}  # fmt: skip
    options = {"log_every": 10, "checkpoint_every": 10, "max_retries": 2}
    whole = make_study("whole", run=options, **shape)
    cut = make_study("cut", run=options, **shape)
    uninterrupted = train(whole).results[0]
    killer = kill_a_worker_after_its_first_checkpoint(cut)
    continued = train(cut).results[0]
    killer.join()
    assert continued.attempts == 2
    assert uninterrupted.attempts == 1
    assert continued.loss == uninterrupted.loss
    assert same(weights(whole, uninterrupted.trial_id), weights(cut, continued.trial_id))


def test_token_budgets_of_one_run_are_trained_once_and_end_as_each_would_alone(
    make_study: Any, train: Train, tmp_path: Path
) -> None:
    update = 64 * 8
    study = make_study(
        train={"schedule": "wsd", "warmup_tokens": 2 * update, "decay": 0.25, "zero": 1},
        sweep=[{"train.tokens": [24 * update, 12 * update]}],
        resources={"max_concurrent": 1},
    )
    expected = [one.shared_steps for one in plan(study).trials]
    outcome = train(study)
    assert [result.shared_steps for result in outcome.results] == expected == [8, 0]
    assert not Path(study.folder, "shared_prefixes").exists()
    alone = train(make_study("alone", train={**study.train, "tokens": 24 * update})).results[0]
    assert (alone.trial_id, alone.loss) == (outcome.results[0].trial_id, outcome.results[0].loss)
    assert same(
        weights(study, alone.trial_id),
        safetensors.torch.load_file(f"{tmp_path}/runs/alone/trials/{alone.trial_id}/model.safetensors"),
    )


def twenty_steps(make_study: Any, train: Train, workers: int, stages: list[int]) -> list[Result]:
    partition_everything = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
    study = make_study(
        f"on-{workers}",
        train={"tokens": 64 * 8 * 20, "deepspeed": partition_everything},
        sweep=[{"train.zero": stages}],
        resources={"workers": workers},
    )
    return train(study).results


def test_losses_agree_over_workers_and_stages(make_study: Any, train: Train) -> None:
    (one,) = twenty_steps(make_study, train, 1, [1])
    for two in twenty_steps(make_study, train, 2, [1, 2, 3]):
        assert (two.status, two.workers) == ("finished", 2)
        assert two.train_loss == pytest.approx(one.train_loss, abs=1e-3)
        assert two.loss == pytest.approx(one.loss, abs=1e-3)


def test_trial_that_cannot_run_fails_after_its_retries_while_others_continue(make_study: Any, train: Train) -> None:
    # A wrong DeepSpeed value passes planning (its keys are the user's) and raises in the worker.
    study = make_study(
        sweep=[{"train.deepspeed": [{}, {"zero_optimization": {"reduce_bucket_size": "many"}}]}],
        run={"max_retries": 1, "log_every": 4},
    )
    outcome = train(study)
    statuses = {result.status for result in outcome.results}
    assert statuses == {"finished", "failed"}
    (failed,) = outcome.failed
    assert failed.attempts == 2
    assert failed.error is not None
    assert "reduce_bucket_size" in failed.error
    assert failed.loss is None


def test_study_on_an_object_store_is_continued_from_its_checkpoints(
    make_study: Any, train: Train, object_store: str, tmp_path: Path
) -> None:
    study = make_study(storage=f"{object_store}/runs")
    (planned,) = plan(study).trials
    trial = planned.trial.model_copy(update={"train": planned.trial.train.model_copy(update={"engine": "plain"})})
    remote = f"{object_store}/plain"
    with pytest.raises(RuntimeError, match="pulled the plug"):
        run_trial(trial, remote, study.run, PlugPuller(device=torch.device("cpu")))
    assert storage.listdir(f"{remote}/checkpoints") == ["step-00000004", "step-00000008"]
    continued = run_trial(trial, remote, study.run, LocalHost(device=torch.device("cpu")))
    whole = run_trial(trial, str(tmp_path / "whole"), study.run, LocalHost(device=torch.device("cpu")))
    assert continued.held_out == whole.held_out

    outcome = train(study)
    assert [result.status for result in outcome.results] == ["finished"]
    assert {"results.parquet", "results.csv", "study.yaml", "trials"} <= set(storage.listdir(study.folder))
    folder = plan(study).folder(planned.trial)
    assert {"result.json", "metrics.jsonl", "model.safetensors"} <= set(storage.listdir(folder))
    assert train(study).trained_now == 0


def test_study_too_large_for_the_cluster_is_refused_before_training(make_study: Any, train: Train) -> None:
    study = make_study(resources={"workers": 8})
    with pytest.raises(ClusterError, match="need 8 CPUs, but the cluster has 2"):
        train(study)
    assert not Path(study.folder, "trials").exists()


def test_autotune_stops_what_falls_behind_and_chooses_within_tolerance(make_study: Any, ray_cluster: str) -> None:
    # Two codes cannot keep up: with a tolerance of nothing at all the trial is stopped at a rung, and recorded so.
    study = make_study(
        autotune={"codebook_sizes": [2, 16, 32], "tolerance": 0.0},
        train={"tokens": 64 * 8 * 40},
        resources={"max_concurrent": 1},
    )
    choice = tune_codebook(study, source="test", address=ray_cluster, events=StudyEvents())
    statuses = {result.codebook_size: result.status for result in choice.trials}
    assert "stopped" in statuses.values()
    assert statuses[choice.codebook_size] == "finished"
    assert choice.codebook_size == choice.best_size
    assert all(result.bpb is not None for result in choice.trials)
    assert [row["codebook_size"] for row in choice.table()] == [2, 16, 32]


def test_study_of_classifiers_runs_from_its_file_to_its_report(
    make_study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], ray_cluster: str
) -> None:
    prepare_labelled(ListOps(examples=(256, 40, 30), length=(8, 60)), str(tmp_path / "listops"))
    study = make_study(
        "classes",
        task="classification",
        data={"corpus": str(tmp_path / "listops")},
        train={"schedule": "linear"},
        sweep=[{"model.arch": ["transformer_vq", "transformer"]}],
    )
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study.model_dump(mode="json")))
    run_command(str(tmp_path / "study.yaml"), address=ray_cluster, allow_changed=False, as_json=False)
    results = to_results(read_table(storage.join(study.folder, "results.parquet")))
    assert [(result.status, result.task, result.examples) for result in results] == [
        ("finished", "classification", 40)
    ] * 2
    assert all(result.bpb is None and result.accuracy is not None for result in results)
    assert all(result.test_accuracy is not None for result in results)
    assert "accuracy" in capsys.readouterr().out
    assert "Confusion matrix" in Path(study.folder, "report.html").read_text()
    client = MlflowClient(study.tracking.uri.reveal())
    experiment = client.get_experiment_by_name("classes")
    children = [one for one in client.search_runs([experiment.experiment_id]) if "mlflow.parentRunId" in one.data.tags]
    shown = {one.data.tags["vqscale.trial_id"]: one for one in children}
    for result in results:
        run_of_trial = shown[result.trial_id]
        assert run_of_trial.data.metrics["final/accuracy"] == result.accuracy
        names = {artifact.path for artifact in client.list_artifacts(run_of_trial.info.run_id)}
        assert {"confusion.csv", "accuracy_by_length.csv"} <= names
        inputs = run_of_trial.inputs.dataset_inputs
        assert sorted(tag.value for one in inputs for tag in one.tags) == ["test", "training", "validation"]
        (model,) = client.search_logged_models(
            [experiment.experiment_id], f"source_run_id = '{run_of_trial.info.run_id}'"
        )
        measured = {
            metric.key: metric.dataset_name.rpartition("/")[2] for metric in model.metrics if metric.dataset_name
        }
        assert (measured["final/accuracy"], measured["final/test_accuracy"]) == ("validation", "test")
