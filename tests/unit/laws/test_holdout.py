import numpy as np
import pytest

from vqscale.laws.validation.holdout import FittedLaw, HoldOutRuns, baselines, hold_out

ORDER = np.repeat([1.0, 3.0, 9.0, 27.0, 81.0], 3)
LOSS = 2.0 + ORDER**-0.5 + np.tile([0.0, 0.1, 0.2], 5)


def runs(order=ORDER, loss=LOSS, minimum=3, held=None):
    names = [f"run{index}" for index in range(len(order))]
    return HoldOutRuns(
        names=names, x=order[:, None], loss=loss, order=order, order_name="C", minimum=minimum, hold_out=held
    )


def mean_of(rows):
    """A law that predicts the mean of what it was fitted to; refused on fewer than four runs."""
    if rows.sum() < 4:
        return "no law through so few"
    level = float(LOSS[rows].mean())
    return FittedLaw(predict=lambda x: np.full(len(x), level), exponents={"rows": float(rows.sum())})


def test_largest_fifth_is_predicted_from_the_rest():
    found = hold_out(runs(), mean_of, flops_R=10 * ORDER)
    assert [point.name for point in found.points] == ["run12", "run13", "run14"]
    assert found.fitted_runs == 12
    assert {point.predicted for point in found.points} == {LOSS[:12].mean()}
    assert found.points[0].flops == 810
    error = np.mean(np.abs(LOSS[:12].mean() - LOSS[12:]) / LOSS[12:])
    assert found.mean_relative_error == pytest.approx(error)


def test_runs_that_the_design_holds_out_are_predicted():
    found = hold_out(runs(held=ORDER >= 27), mean_of)
    assert len(found.points) == 6
    assert found.description.startswith("held out: the 6 of 15 runs that the study's design holds out")


@pytest.mark.parametrize("held", [ORDER > 100, ORDER > 0], ids=["none", "all"])
def test_design_that_holds_out_none_or_all_of_a_subset_leaves_the_largest_fifth(held):
    assert len(hold_out(runs(held=held), mean_of).points) == 3


def test_baselines_are_the_last_value_and_a_line_through_the_best_runs():
    found = baselines(runs(), ORDER >= 81)
    best = LOSS[::3]
    assert found["last value"] == pytest.approx(np.mean(np.abs(best[3] - LOSS[12:]) / LOSS[12:]))
    slope, level = np.polyfit(np.log(ORDER[::3][:4]), np.log(best[:4]), 1)
    line = np.exp(level + slope * np.log(81))
    assert found["power law"] == pytest.approx(np.mean(np.abs(line - LOSS[12:]) / LOSS[12:]))


def test_power_law_baseline_is_exact_on_a_power_law():
    order = np.geomspace(1, 1e4, 10)
    found = baselines(runs(order, 3 * order**-0.1), order >= 1000)
    assert found["power law"] == pytest.approx(0, abs=1e-12)
    assert found["last value"] > 0.1


def test_windows_expand_over_budgets_and_record_refusals():
    windows = hold_out(runs(), mean_of).windows
    assert [(one.fitted_to, one.fitted_runs, one.predicted_runs) for one in windows] == [
        (1, 3, 12),
        (3, 6, 9),
        (9, 9, 6),
        (27, 12, 3),
    ]
    assert windows[0].reason == "no law through so few"
    assert windows[0].mean_relative_error is None
    assert windows[1].exponents == {"rows": 6}
    assert all(one.baselines["last value"] is not None for one in windows)
    errors = [one.mean_relative_error for one in windows[1:]]
    assert errors[-1] == hold_out(runs(), mean_of).mean_relative_error


def test_windows_of_many_budgets_are_five():
    order = np.geomspace(1, 1e6, 40)
    windows = hold_out(runs(order, 2 + order**-0.3), lambda rows: "never").windows
    assert len(windows) == 5
    assert windows[0].fitted_runs == 3
    assert windows[-1].predicted_runs == 1


def test_law_that_the_small_runs_do_not_identify_predicts_nothing():
    found = hold_out(runs(held=ORDER > 1), mean_of)
    assert found.points == []
    assert found.mean_relative_error is None
    assert found.description.endswith("the fit is refused (no law through so few)")
    few = hold_out(runs(minimum=13), mean_of)
    assert "12 remain and the law needs 13" in few.description


@pytest.mark.parametrize(("total", "held"), [(10, 2), (11, 3), (15, 3), (16, 4)])
def test_at_least_a_fifth_of_the_runs_is_held_out(total, held):
    order = np.arange(1.0, total + 1)
    found = hold_out(runs(order, 2 + 1 / order), lambda rows: "never")
    assert f"the {held} of {total} runs with the largest C" in found.description
    assert found.fitted_runs == total - held
