"""Every field of a study: values that cannot be meant are refused when the file is read, with key, value and rule."""

import copy
from pathlib import Path
from typing import Any

import pytest

from vqscale.errors import StudyError
from vqscale.study.spec import Study, load_study, parse_study
from vqscale.study.throughput_study import load_any, parse_throughput
from vqscale.study.yaml_file import dumped

GOOD: dict[str, Any] = {
    "study": "good",
    "data": {"corpus": "text"},
    "model": {"arch": "transformer_vq", "preset": "pico"},
    "train": {"context": 64, "tokens": 4096, "batch_tokens": 256, "lr": 0.01},
}
TIMED: dict[str, Any] = {
    "kind": "throughput",
    "study": "timed",
    "cell": {"preset": "pico", "tokens_per_step": 64},
    "sweep": [{"arch": ["transformer_vq"], "context": [64, 128]}],
}
ISOFLOP = {"type": "isoflop", "sizes": ["pico", "nano"], "budgets": [1e12, 2e12]}
LADDER = {"type": "ladder", "sizes": ["pico", "nano"], "tokens_per_parameter": [5.0, 10.0]}
CONTEXT = {"type": "context", "sizes": ["pico"], "contexts": [64, 128], "budgets": [1e12]}
CODEBOOK = {"type": "codebook", "sizes": ["pico"], "codebook_sizes": [16, 32], "tokens": [4096]}
NAN, INF = float("nan"), float("inf")

NO_COUNT = [0, -1, True, 2.5, "3", None, [1], NAN, INF]
NO_OPTIONAL_COUNT = [value for value in NO_COUNT if value is not None]
NO_POSITIVE_NUMBER = [0, -1.5, True, "3", [1], NAN, INF, -INF]

REFUSED: dict[str, list[Any]] = {
    "kind": ["trains", None, 1],
    "study": ["", " a", "a ", "a/b", "../a", ".a", "-a", "a\n", "a\0", "a b", "é", "[/b]", "a" * 129,
              "artifacts", "mlflow.db", 7, None],
    "question": [7, None, True, ["a"], "bell \a", "\x1b[31mred", "line\u2028separator"],
    "task": ["speech", None, ""],
    "data": [None, [], "text", {}, {"corpus": "text", "more": 1}],
    "data.corpus": ["", "  ", None, 3, "a\0b", "a\nb\x07"],
    "model": [None, [], "pico"],
    "train": [None, [], {"epochs": 3}, {"seed": 0}],
    "train.seeds": [[], [0, 0], [1, 2, 1], [True], [0, False], [1.0], [-1], [2**32], ["0"], 3, None, [[0]], [NAN]],
    "sweep": [None, {}, [[]], "x", [], [{}, {}], [{"train.lr": [0.1]}, {"train.lr": [0.1]}]],
    "sweep.0.train.lr": [[], [0.1, 0.1], [0.1, 0.2, 0.1], [1, 1.0], 0.1, None, [NAN], [INF], "0.1"],
    "sweep.0.train.seeds": [[0, 1], [[0], [0]], [[0, 0]], [[]], [[True]], [[-1]], [[0], 1]],
    "sweep.0.data.corpus": [["a", "a"], []],
    "sweep.0.model.d_model": [[32, 32], [32, 32.0]],
    "sweep.0.train.deepspeed": [[{"fp16": {}}, {"fp16": {}}]],
    "sweep.0.Train.lr": [[0.1]],
    "sweep.0.train.LR": [[0.1]],
    "sweep.0.train.seed": [[0]],
    "sweep.0.train": [[1]],
    "sweep.0.lr": [[0.1]],
    "sweep.0.resources.workers": [[1]],
    "resources.workers": NO_COUNT,
    "resources.cpus_per_worker": NO_COUNT,
    "resources.gpus_per_worker": [-1, True, 0.5, "all", None, NAN],
    "resources.max_concurrent": NO_OPTIONAL_COUNT,
    "resources.memory_gib_per_worker": NO_POSITIVE_NUMBER,
    "resources.flops_per_second": [*NO_POSITIVE_NUMBER, 1e-300],
    "resources.price_per_device_hour": NO_POSITIVE_NUMBER,
    "resources.currency": ["", " ", "U SD", "E" * 13, None, 3, "\a"],
    "run.log_every": NO_COUNT,
    "run.checkpoint_every": NO_OPTIONAL_COUNT,
    "run.keep_checkpoints": NO_COUNT,
    "run.max_retries": [-1, True, 1.5, "2", None, NAN],
    "fit.laws": [[], ["power_n", "power_n"], ["power"], "power_n", [None], None, ["POWER_N"]],
    "fit.bootstrap": [-1, True, 1.5, 10**6, None, "200"],
    "throughput": [[], "micro", {}, {"contexts": [64]}, {"preset": "micro"}],
    "throughput.contexts": [[], [64, 64], [0], [-64], [True], [64.5], ["64"], 64, None],
    "throughput.preset": ["", 3, None],
    "throughput.repeats": NO_COUNT,
    "throughput.tokens": NO_COUNT,
    "throughput.block_length": NO_OPTIONAL_COUNT,
    "throughput.codebook_size": NO_OPTIONAL_COUNT,
    "autotune.codebook_sizes": [[], [16], [16, 16], [-16, 32], [0, 16], [True, 16], [16, 32.5], ["16", 32], 16, None],
    "autotune.tolerance": [-0.1, True, "0", None, NAN, INF],
    "autotune.tokens": NO_OPTIONAL_COUNT,
    "storage": ["", " ", " runs", "runs ", "s3://", "s3:///runs", "s3:/bucket", "s3:bucket", "http://host/runs",
                "https://host/runs", "gs://", "a\0b", "a\x07", None, 3, ["runs"]],
    "tracking": [None, "sqlite:///x", []],
    "tracking.uri": ["", "sqlite://x", "sqlite:x", "sqlite:/x", "sqlite://", "sqlite:///", "sqlite:///:memory:",
                     "sqlite", "mlflow.db", "./mlruns", "/mlruns", "file:///mlruns", "htp://host", "ftp://host/x",
                     "http:/host", "http:host", "http://", "https:///x", "postgresql://", "postgresql:/x", "mongodb://h/x",
                     "s3://bucket/x", None, 3, ["sqlite:///x"]],
    "design": [None, {}, "isoflop", [{}], [{"type": "other"}], [ISOFLOP, ISOFLOP], [ISOFLOP | {"more": 1}]],
    "design.0.sizes": [[], ["pico", "pico"], "pico", [1], None],
    "design.0.minimum_steps": NO_COUNT,
    "design.0.max_epochs": NO_POSITIVE_NUMBER,
    "design.0.axes": [[], {"train.lr": []}, {"train.lr": [0.1, 0.1]}, {"model.preset": ["pico"]},
                      {"train.tokens": [1]}],
    "design.0.budgets": [[], [0, 1e12], [-1e12, 1e12], [1e12, 1e12], [NAN, 1e12], [INF, 1e12], 1e12, ["1e12"], None],
    "design.0.per_budget": [2, 0, -1, True, 3.5, "3"],
    "design.0.tokens_per_parameter": [0, -1, True, NAN, INF, "20", None],
    "design.0.recentre": [1, "yes", None],
    "design.0.smallest_budget_seeds": [[], [0, 0], [True], [-1], [0.5], ["0"], 3],
    "design.0.hold_out": [-1, True, 2, 1.5, "1", None],
}  # fmt: skip
REFUSED_OF_DESIGNS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (LADDER, {"tokens_per_parameter": [5.0, 5.0]}),
    (LADDER, {"tokens_per_parameter": [5, 5.0]}),
    (LADDER, {"tokens_per_parameter": [0.0]}),
    (LADDER, {"tokens_per_parameter": [NAN]}),
    (LADDER, {"hold_out": 2}),
    (LADDER, {"hold_out": -1}),
    (CONTEXT, {"contexts": [64]}),
    (CONTEXT, {"contexts": [64, 64]}),
    (CONTEXT, {"contexts": [64, 0]}),
    (CONTEXT, {"contexts": [64, True]}),
    (CONTEXT, {"budgets": []}),
    (CONTEXT, {"tokens": [-5]}),
    (CONTEXT, {"axes": {"train.context": [64]}}),
    (CODEBOOK, {"codebook_sizes": [16, 16]}),
    (CODEBOOK, {"codebook_sizes": [16, -16]}),
    (CODEBOOK, {"tokens": [4096, 4096]}),
    (CODEBOOK, {"tokens": []}),
]
REFUSED_OF_TIMED: dict[str, list[Any]] = {
    "study": ["", "a/b", "a" * 129, "artifacts"],
    "question": ["\a"],
    "cell": [{"presets": "pico"}, None, [], {"preset": "pico"}, {"preset": "pico", "tokens_per_step": 64, "batch": 1}],
    "cell.tokens_per_step": [0, -1, True, 1.5, "64", NAN],
    "cell.head": ["one", 1],
    "cell.device": ["tpu", None],
    "sweep": [[], [{}, {}], None, [{"arch": ["transformer_vq"], "context": [64]}] * 2],
    "sweep.0.context": [[], [64, 64], [0], [-64], [True], ["64"], 64, [NAN]],
    "sweep.0.arch": [["rnn"], ["mega", "mega"]],
    "repeats": NO_COUNT,
    "seconds_per_repeat": NO_POSITIVE_NUMBER,
    "seconds_per_cell": NO_POSITIVE_NUMBER,
    "threads": NO_OPTIONAL_COUNT,
    "vocab_size": NO_OPTIONAL_COUNT,
    "price_per_device_hour": NO_POSITIVE_NUMBER,
    "currency": ["", " "],
    "watts": NO_POSITIVE_NUMBER,
    "storage": ["", "s3://", "http://host/x"],
    "tracking.uri": ["sqlite://x", "htp://x"],
}


def changed(good: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """`good` with one value replaced; an axis is the rest of the key after `sweep.0.`."""
    values = copy.deepcopy(good)
    section, _, rest = key.partition(".")
    if key.startswith("sweep.0."):
        values.setdefault("sweep", [{}])[0][key.removeprefix("sweep.0.")] = value
    elif key.startswith("design.0."):
        values["design"] = [ISOFLOP | {key.removeprefix("design.0."): value}]
    elif rest:
        other = {"throughput": {"contexts": [64], "preset": "pico"}, "autotune": {"codebook_sizes": [16, 32]}}
        values[section] = values.get(section, other.get(section, {})) | {rest: value}
    else:
        values[key] = value
    return values


def cases(table: dict[str, list[Any]]) -> list[Any]:
    return [pytest.param(key, value, id=f"{key}={value!r}"[:70]) for key, values in table.items() for value in values]


@pytest.mark.parametrize(("key", "value"), cases(REFUSED))
def test_study_with_a_value_that_cannot_be_meant_is_refused(key: str, value: Any) -> None:
    with pytest.raises(StudyError) as caught:
        parse_study(changed(GOOD, key, value), source="s.yaml")
    message = str(caught.value)
    assert message.startswith("s.yaml: ")
    assert key.split(".")[0] in message
    assert key.removeprefix("sweep.0.").rpartition(".")[2] in message or "axis" in message or "equal" in message


@pytest.mark.parametrize(("design", "changes"), REFUSED_OF_DESIGNS, ids=repr)
def test_design_with_a_value_that_cannot_be_meant_is_refused(design: dict[str, Any], changes: dict[str, Any]) -> None:
    assert isinstance(parse_study(GOOD | {"design": [design]}, source="s.yaml"), Study)
    with pytest.raises(StudyError, match=r"s\.yaml: design\.0"):
        parse_study(GOOD | {"design": [design | changes]}, source="s.yaml")


@pytest.mark.parametrize(("key", "value"), cases(REFUSED_OF_TIMED))
def test_throughput_study_with_a_value_that_cannot_be_meant_is_refused(key: str, value: Any) -> None:
    assert len(parse_throughput(TIMED, source="s.yaml").cells()) == 2
    with pytest.raises(StudyError, match=r"s\.yaml: "):
        parse_throughput(changed(TIMED, key, value), source="s.yaml")


@pytest.mark.parametrize(("key", "value"), cases({key: values[:1] for key, values in REFUSED.items()}))
def test_study_file_with_a_value_that_cannot_be_meant_is_refused(key: str, value: Any, tmp_path: Path) -> None:
    """Also as a file, where YAML refuses some of them earlier; nothing is written beside it."""
    path = tmp_path / "s.yaml"
    path.write_text(dumped(changed(GOOD, key, value)), encoding="utf-8")
    with pytest.raises(StudyError, match=str(path)):
        load_any(str(path))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("study", "a" * 128),
        ("study", "2026.run_3-b"),
        ("question", "Which?\nAnd why?\t[/b] é"),
        ("train.seeds", [0, 2**32 - 1]),
        ("sweep.0.train.seeds", [[0, 1], [1, 2]]),
        ("sweep.0.train.lr", [1, 2.5]),
        ("sweep.0.model.tie_embeddings", [True, False]),
        ("sweep.0.train.clip", [None, 1.0]),
        ("resources.gpus_per_worker", 0),
        ("resources.currency", "€"),
        ("storage", "/tmp/x y"),
        ("storage", "s3://bucket"),
        ("storage", "memory://runs"),
        ("storage", "file:///tmp/runs"),
        ("tracking.uri", "sqlite:////tmp/x.db"),
        ("tracking.uri", "http://host:5000"),
        ("tracking.uri", "postgresql+psycopg2://u@h/db"),
        ("tracking.uri", "postgres://h/db"),
        ("tracking.uri", "databricks"),
        ("tracking.uri", "${MLFLOW}"),
        ("fit.laws", ["power_n", "power_d"]),
    ],
)
def test_study_with_a_value_at_the_edge_is_read(key: str, value: Any, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(dumped(changed(GOOD, key, value)), encoding="utf-8")
    assert isinstance(load_study(str(tmp_path / "s.yaml")), Study)


def test_grid_of_more_combinations_than_can_be_planned_is_refused() -> None:
    axes = {f"model.{name}": list(range(1, 101)) for name in ("d_model", "d_key", "d_ff")}
    with pytest.raises(StudyError, match="has 1,000,000 combinations; a grid has at most 100,000"):
        parse_study(GOOD | {"sweep": [axes]}, source="s.yaml")
