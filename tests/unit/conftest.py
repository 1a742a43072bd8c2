"""A finished study by records alone: an isoflop design whose losses follow a known law; training without Ray."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from vqscale.cli.main import app
from vqscale.costing.facts import failed_result
from vqscale.planning.plan import plan
from vqscale.results import write_table
from vqscale.results.records import read_result, write_result
from vqscale.study.spec import Study, load_study
from vqscale.sweep.events import StudyEvents
from vqscale.sweep.protocol import Stage
from vqscale.workflow import training
from vqscale.workflow.training import TrainingRun

ISOFLOP = {
    "type": "isoflop",
    "budgets": [1e10, 4e10, 1.6e11, 6.4e11],
    "sizes": ["d8x2", "d16x2", "d24x2", "d32x2", "nano", "micro", "milli", "mini"],
    "axes": {"model.arch": ["transformer_vq", "transformer"]},
    "minimum_steps": 5,
}
SPEED = 1e9


def true_loss(n: float, tokens: float, arch: str) -> float:
    """Bits per byte; the VQ model needs a little more of everything."""
    return (1.02 if arch == "transformer_vq" else 1.0) * (0.8 + 30 * n**-0.4 + 90 * tokens**-0.4)


@dataclasses.dataclass(frozen=True)
class Finished:
    file: str
    study: Study

    @property
    def folder(self) -> Path:
        return Path(self.study.folder)


def _write_study(path: Path, corpus: str, **sections: Any) -> Study:
    values: dict[str, Any] = {
        "study": "books",
        "question": "How should compute be divided?",
        "data": {"corpus": corpus},
        "model": {"arch": "transformer_vq", "codebook_size": 16, "block_length": 16},
        "train": {"context": 64, "batch_tokens": 512, "lr": 0.01},
        "design": [ISOFLOP],
        "resources": {"price_per_device_hour": 0.5, "currency": "EUR"},
        "fit": {"laws": ["chinchilla"], "bootstrap": 60},
        "storage": str(path.parent / "runs"),
        "tracking": {"uri": f"sqlite:///{path.parent}/runs/mlflow.db"},
    } | sections
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return load_study(str(path))


def _finish(study: Study, below: float = float("inf")) -> None:
    """Records and table of all trials that cost less than `below` FLOPs, as if they had been trained."""
    rng = np.random.default_rng(0)
    results = []
    planned = plan(study)
    for one in planned.trials:
        if one.cost.flops >= below:
            continue
        n, model = one.cost.parameters_non_embedding, one.trial.model
        bpb = true_loss(n, one.cost.tokens, model.arch) * float(np.exp(rng.normal(0, 0.002)))
        blank = failed_result(study.study, one.trial, error="-", attempts=1, workers=1, started_at="now")
        result = blank.model_copy(
            update={
                "status": "finished",
                "error": None,
                "bpb": bpb,
                "loss": bpb * float(np.log(2)),
                "flops_per_second": SPEED,
                "tokens_per_second": SPEED * one.cost.tokens / one.cost.flops,
                "seconds_training": one.cost.flops / SPEED,
                "peak_memory_bytes": 2**28,
            }
        )
        write_result(result, planned.folder(one.trial))
        results.append(result)
    for name in ("results.parquet", "results.csv"):
        write_table(results, f"{study.folder}/{name}")


@pytest.fixture(scope="session")
def write_study() -> Callable[..., Study]:
    return _write_study


@pytest.fixture(scope="session")
def finish() -> Callable[..., None]:
    return _finish


@pytest.fixture(scope="session")
def finished_study(corpus_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Trained but not fitted; tests that write copy it or write elsewhere."""
    path = tmp_path_factory.mktemp("books") / "study.yaml"
    study = _write_study(path, corpus_uri)
    _finish(study)
    Path(study.folder, "study.yaml").write_text(path.read_text())
    return Finished(file=str(path), study=study)


@pytest.fixture(scope="session")
def fitted_study(finished_study: Finished) -> Finished:
    done = CliRunner().invoke(app, ["fit", str(finished_study.folder)])
    assert done.exit_code == 0, done.output
    return finished_study


class RecordsDriver:
    """In place of the process that talks to Ray: what a stage leaves is what `write_records` writes."""

    def __init__(self, write_records: Callable[[Stage], None]) -> None:
        self._write_records = write_records

    def open(self) -> "RecordsDriver":
        return self

    def close(self) -> None:
        pass

    def train(self, stage: Stage) -> Iterator[dict[str, Any]]:
        yield {"kind": "started", "worker_groups": 1}
        self._write_records(stage)
        seconds = 1.0 / len(stage.orders)
        for order in stage.orders:
            if (result := read_result(order.folder)) is not None:
                yield {"kind": "phase", "trial": order.trial.id, "phase": "loading"}
                yield {
                    "kind": "ended",
                    "trial": order.trial.id,
                    "result": result.model_dump_json(),
                    "training_seconds": seconds,
                }
        yield {"kind": "trained"}


class NoTracking(StudyEvents):
    def __init__(self, *_: object) -> None:
        pass

    def catch_up(self) -> None:
        pass


@pytest.fixture
def records_driver(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Call it to let every study train by the records that a function of a stage writes.

    `on_event`: called with the number of every event before it is handed on.
    """

    def use(write_records: Callable[[Stage], None], on_event: Callable[[int], None] = lambda _: None) -> None:
        class Driver(RecordsDriver):
            def train(self, stage: Stage) -> Iterator[dict[str, Any]]:
                for number, event in enumerate(super().train(stage)):
                    on_event(number)
                    yield event

        monkeypatch.setattr(training, "RayDriver", lambda *_: Driver(write_records))

    return use


@pytest.fixture
def train_by_records(
    monkeypatch: pytest.MonkeyPatch, records_driver: Callable[..., None]
) -> Callable[..., TrainingRun]:
    """`train_study`, with trials that end by the records that a function of a stage writes, and without MLflow."""

    def train(study: Study, write_records: Callable[[Stage], None], **options: Any) -> TrainingRun:
        records_driver(write_records)
        monkeypatch.setattr(training, "TrackingObserver", NoTracking)
        monkeypatch.setattr(training, "open_tracker", lambda _: None)
        return training.train_study(study, **({"events": StudyEvents()} | options))

    return train
