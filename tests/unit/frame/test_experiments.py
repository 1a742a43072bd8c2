"""Every committed experiment is a study that validates, with a README beside it."""

from pathlib import Path

import pytest

from vqscale.costing.counts import parameters_non_embedding
from vqscale.costing.presets import resolve
from vqscale.planning.grid_points import grid_settings
from vqscale.study.spec import load_study
from vqscale.study.throughput_study import ThroughputStudy, load_any
from vqscale.throughput.plan import plan_throughput

EXPERIMENTS = sorted((Path(__file__).resolve().parents[3] / "experiments").glob("*/study.yaml"))

LRA = sorted((Path(__file__).resolve().parents[3] / "experiments" / "lra").glob("*.yaml"))
PUBLISHED = {
    "listops": (6, 80, 90_000),
    "text": (4, 128, 25_000),
    "retrieval": (6, 128, 91_960),
    "image": (8, 160, 180_000),
    "pathfinder": (6, 128, 250_000),
    "pathx": (4, 64, 125_000),
    "speech": (6, 60, 250_000),
}
"""Layers, width and updates of Mega's runs."""


def test_there_are_experiments() -> None:
    assert {path.parent.name for path in EXPERIMENTS} >= {"quickstart", "stdlib"}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.parent.name)
def test_experiment_is_a_study_with_a_readme(path: Path) -> None:
    study = load_any(str(path))
    assert study.study == path.parent.name
    assert study.question
    assert plan_throughput(study).rounds if isinstance(study, ThroughputStudy) else study.sweep or study.design
    assert study.question[:20] in (path.parent / "README.md").read_text()


def test_quickstart_varies_what_the_demo_promises() -> None:
    study = load_study(str(next(path for path in EXPERIMENTS if path.parent.name == "quickstart")))
    varied = {axis for axes in study.sweep for axis, values in axes.items() if len(values) > 1}
    assert {"model.preset", "train.tokens", "model.codebook_size", "train.context"} <= varied
    assert any("transformer" in axes.get("model.arch", []) for axes in study.sweep)
    assert sum(len(list(grid_settings(axes))) for axes in study.sweep) >= 14


@pytest.mark.parametrize("path", LRA, ids=lambda path: path.stem)
def test_long_range_study_has_the_published_size_for_both_architectures(path: Path) -> None:
    study = load_study(str(path))
    assert (study.study, study.task) == (f"lra-{path.stem}", "classification")
    overrides = {key: value for key, value in study.model.items() if key not in ("arch", "preset")}
    task = {"classes": 10, "pooling": "mean", "causal": False}
    vq = resolve("longvq", study.model["preset"], 259, overrides, task)
    codes = {"codebook_size", "block_length"}
    mega = resolve("mega", study.model["preset"], 259, {k: v for k, v in overrides.items() if k not in codes}, task)
    train = study.train
    assert (vq.n_layer, vq.d_model, train["tokens"] // train["batch_tokens"]) == PUBLISHED[path.stem]
    assert parameters_non_embedding(vq) == parameters_non_embedding(mega)
    assert train["context"] % study.model["block_length"] == 0


def test_every_published_long_range_task_has_its_study() -> None:
    assert {path.stem for path in LRA} == set(PUBLISHED)
