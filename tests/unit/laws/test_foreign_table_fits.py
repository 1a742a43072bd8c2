"""Tables as people have them, from the file to the law: the right value of each, where it is known.

The tables lie outside the repository; test_rows_of_runs and test_same_point hold the same with tables made there.
"""

from pathlib import Path

import pytest

from vqscale.errors import FitError
from vqscale.sweep.events import StudyEvents
from vqscale.workflow.fits import FitOptions, fit_target
from vqscale.workflow.queries import Selection, predict_target

TABLES = Path(__file__).resolve().parents[3].parent / "shared" / "cases" / "tables"
pytestmark = pytest.mark.skipif(not TABLES.exists(), reason=f"the tables are not at {TABLES}")

RIGHT = [
    # file, subsets, runs of each, a, its 90 % interval
    ("iso20", 1, 20, 0.524, (0.506, 0.547)),
    ("mlflow_export", 1, 20, 0.524, (0.506, 0.547)),
    ("wandb_nan_infinity", 1, 17, 0.524, (0.504, 0.543)),
    ("semicolon", 1, 20, 0.524, (0.506, 0.547)),
    ("human_sizes", 1, 20, 0.524, (0.506, 0.547)),
    ("units_M_B", 1, 20, 0.524, (0.506, 0.547)),
    ("two_datasets", 2, 20, 0.524, (0.506, 0.547)),
    ("batch_sweep_rounded_steps", 1, 20, 0.516, (0.486, 0.533)),
    ("duplicated_rows", 1, 20, 0.524, (0.506, 0.547)),
    ("ladder16", 1, 16, 0.536, (0.457, 0.635)),
]


@pytest.mark.parametrize(("name", "subsets", "runs", "a", "limits"), RIGHT, ids=[row[0] for row in RIGHT])
def test_table_from_elsewhere_gives_the_right_law(name, subsets, runs, a, limits, tmp_path):
    options = FitOptions(laws=["chinchilla"], bootstrap=200)
    found = fit_target(str(TABLES / f"{name}.csv"), options, out=str(tmp_path), events=StudyEvents()).fits
    assert [fit.n_runs for fit in found.fits] == [runs] * subsets
    for fit in found.fits:
        assert fit.derived["a"] == pytest.approx(a, abs=0.004)
        interval = fit.intervals["a"]
        assert (interval.low90, interval.high90) == pytest.approx(limits, abs=0.015)  # 200 resamples
        assert interval.low90 < 0.5125 < interval.high90  # of the law that made the losses
    assert found.refusals == []


def test_ladder_of_one_multiple_is_refused_in_n_and_d_and_answered_in_c(tmp_path):
    table = str(TABLES / "ladder_20x.csv")
    found = fit_target(table, FitOptions(bootstrap=50), out=str(tmp_path), events=StudyEvents()).fits
    assert "chinchilla" not in [fit.law for fit in found.fits]
    (refusal,) = [one for one in found.refusals if one.law == "chinchilla"]
    assert "N and D rise and fall together" in refusal.reason
    predicted = predict_target(table, {"compute": 1e20}, Selection(), fits=str(tmp_path))
    ((fit, answer),) = predicted.outcomes
    assert fit.law == "power_c"
    assert answer.loss.value == pytest.approx(2.545, abs=0.01)
    with pytest.raises(FitError, match="N and D rise and fall together"):
        predict_target(table, {"params": 1e9}, Selection(), fits=str(tmp_path))


def test_ladder_of_four_sizes_gives_n_star_to_its_own_budget_and_beyond_marked(tmp_path):
    table = str(TABLES / "ladder16.csv")
    options = FitOptions(laws=["chinchilla"], bootstrap=50)
    (fit,) = fit_target(table, options, out=str(tmp_path), events=StudyEvents()).fits.fits
    exact = fit.frontiers[0]
    largest = max(point.flops for point in fit.points)
    inside = [one for one in exact.optima if one.beyond <= 1]
    assert max(one.flops for one in inside) == pytest.approx(largest)
    assert inside[-1].outside > 1
    assert any(one.beyond > 2 for one in exact.optima)
    for one in exact.optima:  # the optimum of the law that made the losses, where C = 6ND
        true = (0.348 * 482 / 0.366 / 2085) ** (1 / 0.714) * (one.flops / 6) ** (0.366 / 0.714)
        assert one.parameters.interval.low90 < true < one.parameters.interval.high90
