"""The study of one optimum: its shape, worked out by hand, and what it takes over from the nearest run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vqscale.costing.counts import parameters_non_embedding
from vqscale.costing.presets import resolve
from vqscale.data.corpus import open_corpus
from vqscale.data.prepare import prepare
from vqscale.planning.next_study import nearest_shape, next_study
from vqscale.results import Result, read_table, to_results

MODEL = {"arch": "transformer"}


@pytest.fixture
def runs(finished_study: Any) -> Callable[..., list[Result]]:
    """The runs of the quadratic architecture, with changed columns."""

    def make(**changes: Any) -> list[Result]:
        table = read_table(str(finished_study.folder / "results.csv"))
        return [run.model_copy(update=changes) for run in to_results(table[table["arch"] == "transformer"])]

    return make


def of_size(run: Result, shape: tuple[int, int], n: float) -> Result:
    return run.model_copy(update={"d_model": shape[0], "n_layer": shape[1], "parameters_non_embedding": round(n)})


def count(shape: str) -> int:
    return parameters_non_embedding(resolve("transformer", shape, 256, {}))


def test_nearest_shape_is_the_shape_itself_at_its_own_size_and_ratio(runs: Any) -> None:
    shape, note = nearest_shape(count("d96x3"), [of_size(runs()[0], (96, 3), count("d96x3"))], MODEL, 256)
    assert shape == "d96x3"
    assert note == (
        f"d96x3 has N = {count('d96x3'):,}, +0.0% of the wanted {count('d96x3'):,}; its width over depth is 32, where"
        " the study's sizes suggest 32."
    )


@pytest.mark.parametrize("difference", [-1, 1])
def test_nearest_shape_may_be_the_one_below_or_the_one_above(runs: Any, difference: int) -> None:
    n = count("d96x3")
    assert nearest_shape(n + difference, [of_size(runs()[0], (96, 3), n)], MODEL, 256)[0] == "d96x3"


@pytest.mark.parametrize(
    ("n", "ratio"),
    [
        (1e5, 32),  # half way from 1e4 to 1e6 in log N, so the geometric mean of 16 and 64
        (1e3, 16),
        (1e7, 64),
    ],
)
def test_width_over_depth_is_interpolated_in_the_logarithms_and_constant_beyond(
    runs: Any, n: float, ratio: float
) -> None:
    one = runs()[0]
    _, note = nearest_shape(n, [of_size(one, (32, 2), 1e4), of_size(one, (256, 4), 1e6)], MODEL, 256)
    assert note.endswith(f"where the study's sizes suggest {ratio}.")


def test_next_study_reads_the_corpus_of_the_run_unless_the_study_names_it(
    finished_study: Any, runs: Any, tmp_path: Path
) -> None:
    study = finished_study.study
    moved = next_study(study, runs(corpus="/no/longer/here"), 3e4, 3.3e12, "?")
    assert moved.study.data == study.data
    (tmp_path / "raw").mkdir()
    for index in range(100):
        (tmp_path / "raw" / f"{index}.txt").write_text(f"Sentence {index} of another text.\n" * 20)
    other = str(tmp_path / "other")
    prepare(str(tmp_path / "raw"), other)
    found = runs(corpus=other, corpus_fingerprint=open_corpus(other).fingerprint)
    assert next_study(study, found, 3e4, 3.3e12, "?").study.data.corpus == other


@pytest.mark.parametrize("segment", [64, 32])
def test_next_study_takes_over_rate_context_and_segment_of_the_best_run_of_the_nearest_size(
    finished_study: Any, runs: Any, segment: int
) -> None:
    near, *others = sorted(runs(segment=segment), key=lambda run: (run.parameters_non_embedding, run.loss))
    assert others[0].parameters_non_embedding == near.parameters_non_embedding  # at a smaller budget, of higher loss
    changed = [*others, near.model_copy(update={"lr": 0.005, "seed": 3})]
    made = next_study(finished_study.study, changed, near.parameters_non_embedding * 1.01, 3.3e12, "?")
    own = {"context": 64, "batch_tokens": 512, "lr": 0.005, "seeds": [3], "precision": near.precision}
    assert made.study.train == own | ({} if segment == 64 else {"segment": 32})
    assert made.notes[1].startswith(f"The learning rate 0.005 is that of {near.name}")


@pytest.mark.parametrize("shape", ["d32x2", "d256x6", "d2048x24", "d4096x32"])
def test_size_of_a_shape_leads_back_to_that_size(runs: Any, shape: str) -> None:
    """Also for wide models, whose width lies above sqrt(N / 13 layers): the search has to reach beyond it."""
    width, depth = map(int, shape.removeprefix("d").split("x"))
    wanted = parameters_non_embedding(resolve("transformer", shape, 256, {}))
    found, note = nearest_shape(wanted, [of_size(runs()[0], (width, depth), wanted)], MODEL, 256)
    assert parameters_non_embedding(resolve("transformer", found, 256, {})) == pytest.approx(wanted, rel=2e-3), note


def speeds(runs: list[Result], per_size: dict[int, float | None]) -> list[Result]:
    """The runs at the speeds of their sizes, by N."""
    return [run.model_copy(update={"flops_per_second": per_size[run.parameters_non_embedding]}) for run in runs]


def test_next_study_takes_the_median_speed_per_worker_of_the_nearest_size(finished_study: Any, runs: Any) -> None:
    measured = runs(workers=2)
    sizes = sorted({run.parameters_non_embedding for run in measured})
    fast = speeds(measured, {n: 1e9 * (index + 1) for index, n in enumerate(sizes)})
    made = next_study(finished_study.study, fast, sizes[2] * 1.01, 1e12, "q")
    assert made.study.resources.flops_per_second == 3e9 / 2
    assert made.study.resources.price_per_device_hour == 0.5


def test_next_study_without_a_measured_speed_keeps_what_the_study_states(finished_study: Any, runs: Any) -> None:
    stated = finished_study.study.resources.model_copy(update={"flops_per_second": 5e9})
    study = finished_study.study.model_copy(update={"resources": stated})
    unmeasured = runs(flops_per_second=None)
    made = next_study(study, unmeasured, float(unmeasured[0].parameters_non_embedding), 1e12, "q")
    assert made.study.resources == stated
    assert not any("FLOP/s" in note for note in made.notes)


def test_next_study_keeps_the_bias_of_the_run_whatever_the_study_says(finished_study: Any, runs: Any) -> None:
    def next_of(model: dict[str, Any], **columns: Any) -> dict[str, Any]:
        study = finished_study.study.model_copy(update={"model": finished_study.study.model | model})
        found = runs(arch="transformer_full", head="shga", **columns)
        return next_study(study, found, float(found[0].parameters_non_embedding), 1e12, "q").study.model

    window = next_of({"block_length": 64}, variant="window-bias", block_length=16)
    assert (window["bias"], window["block_length"]) == ("window", 16)
    every = next_of({"bias": "window", "block_length": 64}, variant=None, block_length=None)
    assert every["bias"] == "all"
    assert "block_length" not in every
