"""Every committed experiment is a study that validates, with a README beside it."""

from pathlib import Path

import pytest

from vqscale.bench.plan import plan_throughput
from vqscale.plan.cells import cells
from vqscale.study.spec import load_study
from vqscale.study.throughput import ThroughputStudy, load_any

EXPERIMENTS = sorted((Path(__file__).resolve().parents[3] / "experiments").glob("*/study.yaml"))


def test_there_are_experiments() -> None:
    assert {path.parent.name for path in EXPERIMENTS} >= {"quickstart", "stdlib"}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.parent.name)
def test_experiment_is_a_study_with_a_readme(path: Path) -> None:
    study = load_any(str(path))
    assert study.study == path.parent.name
    assert study.question
    assert plan_throughput(study).rounds if isinstance(study, ThroughputStudy) else list(cells(study)) or study.design
    assert study.question[:20] in (path.parent / "README.md").read_text()


def test_quickstart_varies_what_the_demo_promises() -> None:
    study = load_study(str(next(path for path in EXPERIMENTS if path.parent.name == "quickstart")))
    varied = {axis for axes in study.sweep for axis, values in axes.items() if len(values) > 1}
    assert {"model.preset", "train.tokens", "model.codebook_size", "train.context"} <= varied
    assert any("transformer" in axes.get("model.arch", []) for axes in study.sweep)
    assert len(list(cells(study))) >= 14
