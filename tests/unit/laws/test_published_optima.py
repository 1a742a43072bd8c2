"""Optima of published runs: given where a size tried is near them, with what lies outside the runs, and marked."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vqscale.errors import FitError
from vqscale.laws import fit_study
from vqscale.laws.decisions.extrapolation import require_reach
from vqscale.laws.decisions.query import query_loss, query_optimum

SHARED = Path(__file__).resolve().parents[3].parent / "shared"
pytestmark = [
    pytest.mark.reference,
    pytest.mark.skipif(not SHARED.exists(), reason=f"published runs are not at {SHARED}"),
]


@pytest.fixture(scope="module")
def hoffmann():
    """The law of Epoch's 240 of Hoffmann et al.'s runs."""
    table = pd.read_csv(SHARED / "data" / "laws" / "chinchilla_epoch_extracted.csv").sort_values("loss").iloc[:-5]
    n, c = table["Model Size"], table["Training FLOP"]
    runs = pd.DataFrame({"parameters_non_embedding": n, "tokens": c / (6 * n), "flops": c, "loss": table["loss"]})
    return fit_study(runs, ["chinchilla"], bootstrap=200, sensitivity=False).fits[0]


@pytest.fixture(scope="module")
def ladder():
    runs = pd.read_csv(SHARED / "cases" / "tables" / "ladder16.csv")
    return fit_study(runs, ["chinchilla"], bootstrap=100, sensitivity=False).fits[0]


def optimum(fit, flops, **options):
    return query_optimum(fit, "compute", flops, pd.DataFrame(), None, **options).optimum


def loss(fit, n, flops):
    return query_loss(fit, {"N": n, "D": flops / 6 / n}).loss.value


def test_optimum_just_beyond_the_largest_size_is_given_and_marked(hoffmann):
    best = optimum(hoffmann, 1.3e22)
    assert best.parameters.value == pytest.approx(10.4e9, rel=0.01)
    assert best.parameters.interval.low90 == pytest.approx(8.6e9, rel=0.05)
    assert best.parameters.interval.high90 == pytest.approx(13.3e9, rel=0.1)
    assert best.supported
    assert best.extrapolation == ["N is 1.12 x the largest size tried near the largest budget (9.29G)"]
    assert loss(hoffmann, 9.29e9, 1.3e22) / best.loss.value - 1 == pytest.approx(1.2e-4, abs=2e-5)


def test_optimum_far_beyond_the_largest_budget_names_all_that_lies_outside(hoffmann):
    best = optimum(hoffmann, 1.3e24)
    assert [sentence.split(" ")[0] for sentence in best.extrapolation] == ["N", "D", "C"]
    with pytest.raises(FitError, match=r"C is 103 x the largest budget tried \(1.296e\+22\).*--beyond"):
        optimum(hoffmann, 1.33e24)
    far = optimum(hoffmann, 1.33e26, beyond=True)
    assert far.parameters.value == pytest.approx(10.4e9 * (1.33e26 / 1.3e22) ** hoffmann.derived["a"], rel=0.01)
    assert "C is 1.03e+04 x the largest budget tried (1.296e+22)" in far.extrapolation


@pytest.mark.parametrize("times", [0.5, 1.0, 3.0, 10.0, 100.0])
def test_ladder_keeps_its_optima_to_its_largest_budget_and_beyond(ladder, times):
    largest = max(6 * point.x[0] * point.x[1] for point in ladder.points)
    best = optimum(ladder, times * largest)
    assert best.parameters.value == pytest.approx(4.19e9 * times ** ladder.derived["a"], rel=0.01)
    size = "this" if times <= 1 else "the largest"
    ratio = best.parameters.value / 1.3e9
    assert best.extrapolation[0] == f"N is {ratio:.3g} x the largest size tried near {size} budget (1.3G)"
    assert best.supported == (times == 0.5)


def test_ladder_without_its_small_budgets_is_refused_what_no_size_is_near(ladder):
    """Only runs of 200 tokens per parameter are left at the end: the best size is four times the largest."""
    runs = pd.read_csv(SHARED / "cases" / "tables" / "ladder16.csv")
    narrow = runs.assign(tokens=runs["tokens"] * 100, flops=runs["flops"] * 100)
    n, d = narrow["parameters_non_embedding"], narrow["tokens"]
    narrow["loss"] = 1.806 + 482 * n**-0.348 + 2085 * d**-0.366
    (fit,) = fit_study(narrow, ["chinchilla"], bootstrap=0, sensitivity=False).fits
    with pytest.raises(FitError, match=r"do not bracket the optimum.*Train larger sizes"):
        optimum(fit, float(narrow["flops"].max()))
    assert fit.frontiers[0].optima == []


def test_budget_of_a_hundred_times_the_largest_is_within_reach_when_rounded():
    require_reach({"C": 1.3e24}, {"C": np.array([1.2956e22])})


def test_reach_is_judged_above_the_largest_and_below_the_smallest():
    tried = {"C": np.array([1e18, 1e20])}
    require_reach({"C": 1e22}, tried)
    require_reach({"C": 1e16}, tried)
    for budget in (1.02e22, 0.98e16):
        with pytest.raises(FitError, match="more than 100 times outside the runs"):
            require_reach({"C": budget}, tried)
