"""Designs in a study file: exact budgets, what is held out, and the message of every mistake."""

from typing import Any

import pytest

from vqscale.errors import StudyError
from vqscale.study.spec import Study, parse_study

ISOFLOP = {"type": "isoflop", "budgets": [1e10, 4e10, 1.6e11], "sizes": ["pico", "nano", "micro"]}
LADDER = {"type": "ladder", "sizes": ["pico", "nano"], "tokens_per_parameter": [5, 20]}
CONTEXT = {"type": "context", "contexts": [64, 128], "sizes": ["pico"], "budgets": [1e10]}
CODEBOOK = {"type": "codebook", "codebook_sizes": [16, 32], "sizes": ["pico"], "tokens": [65536]}


def study_of(*designs: dict[str, Any], **sections: Any) -> Study:
    values = {"study": "s", "data": {"corpus": "c"}, "model": {}, "train": {}, "design": list(designs)} | sections
    return parse_study(values, source="here")


def test_study_with_a_design_needs_no_sweep_and_may_have_one() -> None:
    assert study_of(ISOFLOP).sweep == []
    assert study_of(ISOFLOP, sweep=[{"train.lr": [1e-3]}]).sweep == [{"train.lr": [1e-3]}]
    assert study_of().sweep == [{}]


def test_study_without_design_and_sweep_is_refused() -> None:
    with pytest.raises(StudyError, match=r"sweep: needs at least 1 item"):
        study_of(sweep=[])


def test_study_with_designs_reads_back_from_its_own_copy() -> None:
    study = study_of(ISOFLOP, LADDER, CONTEXT, CODEBOOK)
    assert parse_study(study.model_dump(mode="json"), source="copy") == study


def test_budgets_of_all_designs_are_listed_once_ascending_and_exact() -> None:
    designs = ISOFLOP | {"budgets": [2.4e18, 1.5e18]}, CONTEXT | {"budgets": [1.5e18, 7]}, CODEBOOK
    assert study_of(*designs).budgets == [7.0, 1.5e18, 2.4e18]


def test_hold_out_begins_below_the_largest_budgets() -> None:
    assert study_of(ISOFLOP).hold_out_from == pytest.approx(0.97 * 1.6e11)
    assert study_of(ISOFLOP | {"hold_out": 2}).hold_out_from == pytest.approx(0.97 * 4e10)
    assert study_of(ISOFLOP | {"hold_out": 0}).hold_out_from is None
    assert study_of(CONTEXT).hold_out_from is None


def test_hold_out_of_several_designs_is_the_smallest_so_that_none_is_fitted() -> None:
    other = ISOFLOP | {"budgets": [1e9, 2e9]}
    assert study_of(ISOFLOP, other).hold_out_from == pytest.approx(0.97 * 2e9)


def test_hold_out_of_a_ladder_begins_at_the_cheapest_run_of_its_largest_rung() -> None:
    runs = [("pico", 5.0, 1e9), ("pico", 20.1, 4e9), ("nano", 5.0, 5e9), ("nano", 20.0, 2e10), ("nano", 1.0, 1e8)]
    assert study_of(LADDER).hold_out_from_runs(runs) == pytest.approx(0.97 * 5e9)
    assert study_of(LADDER | {"hold_out": 0}).hold_out_from_runs(runs) is None


@pytest.mark.parametrize(
    ("design", "words"),
    [
        ({"type": "isoflops"}, r"design\.0: .*'isoflop', 'ladder', 'context', 'codebook'"),
        (ISOFLOP | {"budgets": [1e10, 1e10]}, r"budgets: .*is listed twice"),
        (ISOFLOP | {"budgets": [1e10, -1]}, r"budgets\.1: .*greater than 0"),
        (ISOFLOP | {"budgets": [float("inf"), 1]}, r"budgets\.0: .*finite"),
        (ISOFLOP | {"sizes": ["pico", "pico"]}, r"sizes: 'pico' is listed twice"),
        (ISOFLOP | {"hold_out": 3}, r"hold_out 3 leaves no budget of 3"),
        (ISOFLOP | {"per_budget": 2}, r"per_budget: .*greater than or equal to 3"),
        (ISOFLOP | {"seeds": [1]}, r"isoflop\.seeds: is not a known key"),
        (ISOFLOP | {"axes": {"train.tokens": [1]}}, r"axis 'train\.tokens' is set by the design itself"),
        (ISOFLOP | {"axes": {"train.sedes": [[1]]}}, r"axis 'train\.sedes': unknown key"),
        (LADDER | {"hold_out": 2}, r"hold_out 2 leaves no size of 2"),
        (CONTEXT | {"axes": {"train.context": [1]}}, r"axis 'train\.context' is set by the design"),
        (CONTEXT | {"budgets": []}, r"needs budgets .*tokens"),
        (CODEBOOK | {"codebook_sizes": [16]}, r"codebook_sizes: .*at least 2"),
    ],
)
def test_design_mistake_is_named(design: dict[str, Any], words: str) -> None:
    with pytest.raises(StudyError, match=words):
        study_of(design)
