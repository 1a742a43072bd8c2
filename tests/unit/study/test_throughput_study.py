"""The file of a throughput study: its cells, what is refused in planning, and the message of every mistake."""

from pathlib import Path
from typing import Any

import pytest
import torch

from vqscale.errors import StudyError
from vqscale.study.spec import Study, load_study
from vqscale.study.throughput_study import ThroughputStudy, load_any, parse_throughput
from vqscale.throughput.plan import plan_throughput

GOOD = """
kind: throughput
study: speed
question: From which length on?
cell: {preset: pico, tokens_per_step: 4096, codebook_size: 32, block_length: 64}
sweep:
  - {arch: [transformer_vq, transformer_full, transformer], context: [256, 1024], precision: [fp32, bf16]}
  - {arch: [transformer_vq], context: [1024, 2048]}
"""


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return str(path)


def parse(**changes: Any) -> ThroughputStudy:
    values: dict[str, Any] = {
        "kind": "throughput",
        "study": "speed",
        "cell": {"preset": "pico", "batch": 1},
        "sweep": [{"arch": ["transformer_vq", "transformer"], "context": [128]}],
    }
    return parse_throughput(values | changes, source="file")


def test_cells_are_the_grids_with_doubles_once(tmp_path: Path) -> None:
    study = load_any(write(tmp_path, GOOD))
    assert isinstance(study, ThroughputStudy)
    assert len(study.cells()) == 3 * 2 * 2 + 1  # vq at 1024 in fp32 is in both grids
    plan = plan_throughput(study)
    assert plan.refused == []
    rounds = [(cells.cells[0].precision, cells.cells[0].context, len(cells.cells)) for cells in plan.rounds]
    assert rounds == [("bf16", 256, 3), ("bf16", 1024, 3), ("fp32", 256, 3), ("fp32", 1024, 3), ("fp32", 2048, 1)]


def test_cells_without_a_codebook_leave_its_settings_aside() -> None:
    study = parse(
        cell={"preset": "pico", "batch": 1, "head": "mqa"},
        sweep=[{"arch": ["transformer_vq", "transformer"], "context": [128], "codebook_size": [16, 32]}],
    )
    assert [(cell.arch, cell.codebook_size) for cell in study.cells()] == [
        ("transformer_vq", 16),
        ("transformer_vq", 32),
        ("transformer", None),
    ]


def test_sequences_fill_a_step_but_are_one_at_least() -> None:
    study = parse(
        cell={"preset": "pico", "tokens_per_step": 512},
        sweep=[
            {"arch": ["transformer"], "context": [128, 300, 1024]},
            {"arch": ["transformer"], "context": [128], "batch": [3]},
        ],
    )
    assert [cell.sequences for cell in study.cells()] == [4, 1, 1, 3]
    assert {cell.batching for cell in study.cells()} == {"512 tokens per step", "batch 3"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "speed"}, ["kind", "'throughput'"]),
        ({"repeat": 3}, ["repeat", "is not a known key"]),
        ({"repeats": 0}, ["repeats", "greater than 0"]),
        ({"price_per_device_hour": -1.0}, ["price_per_device_hour", "-1.0"]),
        ({"cell": {"preset": "pico", "batch": 1, "contxt": 3}}, ["cell", "'contxt'", "context"]),
        ({"cell": {"preset": "pico"}}, ["tokens_per_step", "batch: 1"]),
        ({"cell": {"preset": "pico", "batch": 1, "tokens_per_step": 64}}, ["write one of them"]),
        ({"sweep": []}, ["sweep", "at least 1"]),
        ({"sweep": [{"arch": []}]}, ["'arch'", "empty sweep"]),
        ({"sweep": [{"model.arch": ["transformer"]}]}, ["unknown key 'model.arch'"]),
        ({"sweep": [{"arch": ["mamba"], "context": [64]}]}, ["cell.arch", "mamba", "in the cell arch = mamba"]),
        ({"sweep": [{"arch": ["transformer"], "context": [0]}]}, ["cell.context", "greater than 0"]),
        ({"sweep": [{"arch": ["transformer"]}]}, ["cell.context", "required"]),
    ],
)
def test_mistake_in_the_file_is_named(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(StudyError) as caught:
        parse(**changes)
    for word in ["file", *words]:
        assert word in str(caught.value)


def test_planning_refuses_single_cells_with_their_reasons() -> None:
    study = parse(
        sweep=[
            {"arch": ["transformer_vq", "transformer"], "context": [100, 128]},
            {"arch": ["transformer_vq"], "context": [128], "codebook_size": [256]},
            {"arch": ["transformer_full"], "preset": ["12m"], "head": ["mha"], "context": [128]},
        ]
    )
    plan = plan_throughput(study)
    assert [(cell.model.arch, cell.context) for _, cell in plan.cells] == [
        ("transformer_full", 128),
        ("transformer", 100),
        ("transformer_vq", 128),
        ("transformer", 128),
    ]
    reasons = {(one.settings.context, one.settings.codebook_size): one.reason for one in plan.refused}
    assert set(reasons) == {(100, None), (128, 256)}
    assert "100 is no multiple of block_length 64" in reasons[100, None]
    assert "256 codes are more than the 128 tokens of a step" in reasons[128, 256]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_planning_refuses_a_gpu_that_is_not_there() -> None:
    sweep = [{"arch": ["transformer"], "context": [128], "device": ["cpu", "cuda"]}]
    (refused,) = plan_throughput(parse(sweep=sweep)).refused
    assert "no GPU here" in refused.reason
    with pytest.raises(StudyError, match=r"no cell can be measured here.*no GPU"):
        plan_throughput(parse(sweep=[sweep[0] | {"device": ["cuda"]}]))


def test_planning_refuses_more_threads_than_cores() -> None:
    with pytest.raises(StudyError, match=r"file: threads: 100000 are more than the \d+ cores.*at most"):
        plan_throughput(parse(threads=100_000), source="file")


def test_planning_refuses_an_unknown_preset_as_a_mistake() -> None:
    with pytest.raises(StudyError, match="'huge' is unknown"):
        plan_throughput(parse(cell={"preset": "huge", "batch": 1}))


def test_file_of_either_kind_is_loaded_as_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="kind: throughput trains nothing"):
        load_study(write(tmp_path, GOOD))
    training = "study: s\ndata: {corpus: c}\nmodel: {}\ntrain: {}\n"
    assert isinstance(load_any(write(tmp_path, training)), Study)
    assert isinstance(load_any(write(tmp_path, "kind: training\n" + training)), Study)
    with pytest.raises(StudyError, match=r"'speed' is unknown.*kind: throughput.*kind: training"):
        load_any(write(tmp_path, "kind: speed\n" + training))
