"""A throughput study in MLflow: a run for each curve, metrics over T, never logged twice."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import pandas as pd
import pytest
from mlflow import MlflowClient

from vqscale.throughput.assemble import make_table
from vqscale.throughput.measurement import Measurement
from vqscale.throughput.plan import plan_throughput
from vqscale.throughput.request import default_study, with_options
from vqscale.track.throughput_runs import track_throughput
from vqscale.track.tracker import Tracker


def table(day: int = 1) -> pd.DataFrame:
    """VQ at a constant speed against a baseline whose speed halves with T; equal at T = 256."""
    axes = {"arch": ["transformer_vq", "transformer"], "context": [128, 512], "preset": ["pico"], "batch": [1]}
    plan = plan_throughput(with_options(default_study("speed"), axes, {"price_per_device_hour": 1.0}))
    measured = {}
    for one, cell in plan.cells:
        seconds = cell.context / (1000 if cell.backend else 256_000 / cell.context)
        measured[one.id(cell)] = Measurement(
            status="ok",
            step_seconds=[seconds] * 3,
            peak_memory_bytes=1 << 20,
            peak_flops=1e9,
            device="cpu (a processor)",
            threads=1,
            machine="a machine",
            versions={},
            git="abc",
            measured_at=f"2026-01-{day:02d}T00:00:00+00:00",
        )
    return make_table(plan, measured)


class Parent:
    """The part of a tracker that keeps break-even."""

    def __init__(self) -> None:
        self.tags: dict[str, str] = {}

    def study_run(self) -> str:
        return "parent"

    def curve_run(self, *_: object) -> str:
        return "run"

    def set_tags(self, _: str, tags: dict[str, str]) -> None:
        assert not set(tags) & set(self.tags), "overwritten"
        self.tags |= tags

    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *args, **named: None


@pytest.mark.parametrize(("column", "value"), [("block_length", 32), ("batching", "batch 2"), ("codebook_size", 8)])
def test_break_even_of_curves_that_differ_in_one_setting_are_kept_apart(column: str, value: object) -> None:
    one = table()
    parent = Parent()
    track_throughput(cast("Tracker", parent), "speed", pd.concat([one, one.assign(**{column: value})]), "", [])
    assert len(parent.tags) == 2


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory, empty_store: Callable[[Path], str]) -> str:
    return empty_store(tmp_path_factory.mktemp("mlflow") / "mlflow.db")


def test_throughput_in_mlflow_is_one_run_per_curve_and_a_new_one_when_measured_again(uri: str, tmp_path: Path) -> None:
    (tmp_path / "throughput.csv").write_text("arch\n")
    for _ in range(2):
        tracker = Tracker(uri, "speed", artifacts=str(tmp_path / "artifacts"))
        track_throughput(tracker, "speed", table(), str(tmp_path), ["throughput.csv"])
    client = MlflowClient(uri)
    parent = tracker.study_run()
    runs = client.search_runs([tracker.experiment_id], "tags.`vqscale.kind` = 'throughput'")
    assert {run.data.params["arch"] for run in runs} == {"transformer_vq", "transformer"}
    assert len(runs) == 2
    (own,) = (run for run in runs if run.data.params["arch"] == "transformer_vq")
    assert own.data.tags["mlflow.parentRunId"] == parent
    assert own.data.tags["device"] == "cpu (a processor)"
    assert own.data.params["backend"] == "blockwise"
    speeds = client.get_metric_history(own.info.run_id, "tokens_per_second")
    assert [(point.step, point.value) for point in speeds] == [(128, pytest.approx(1000)), (512, pytest.approx(1000))]
    ratios = client.get_metric_history(own.info.run_id, "ratio_to_transformer")
    assert [point.value for point in ratios] == [pytest.approx(0.5), pytest.approx(2.0)]
    assert "ratio_to_transformer_full" not in own.data.metrics
    found = client.get_run(parent).data
    (key,) = (name for name in found.metrics if name.startswith("break_even/transformer/"))
    row = table().iloc[0]
    assert all(row[name] in key for name in ("preset", "batching", "backend", "precision"))
    assert f"-{row['block_length']:.0f}-" in key
    assert found.metrics[key] == pytest.approx(256)
    assert found.tags[key] == "T = 256 [256, 256]"
    assert [entry.path for entry in client.list_artifacts(parent)] == ["throughput.csv"]

    track_throughput(tracker, "speed", table(day=2), str(tmp_path), [])
    assert len(client.search_runs([tracker.experiment_id], "tags.`vqscale.kind` = 'throughput'")) == 4
