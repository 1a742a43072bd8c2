from functools import partial

import numpy as np
import pandas as pd
import pytest

from vqscale import laws
from vqscale.laws import LAWS
from vqscale.laws.fitting.problem import Objective
from vqscale.laws.forms.catalogue import evaluate_law

fit_study = partial(laws.fit_study, sensitivity=False)
"""Variants and influence are searched only where a test is about them."""
TRUTH_1 = {"E": 1.3, "A": 45.0, "alpha": 0.31}
TRUTH_2 = {"E": 1.7, "A": 420.0, "alpha": 0.36, "B": 1900.0, "beta": 0.29}
TRUTH = TRUTH_2 | {"G": 3.0, "gamma": 0.5, "H": 5.0, "tau": 0.4}
WITH_N = {"codebook_capacity": {"G": 1260.0}, "context_capacity": {"H": 2100.0}, "joint_capacity": {"G": 1260.0}}
"""Coefficients of terms that also fall with N."""
COLUMN = {"power_n": "parameters_non_embedding", "power_d": "tokens", "power_c": "flops", "codebook": "codebook_size"}
VALUES = {
    "N": np.geomspace(1e6, 1e9, 4),
    "D": np.geomspace(1e8, 1e11, 4),
    "S": np.array([64.0, 256, 1024]),
    "T": np.array([512.0, 2048, 8192]),
}


def one_axis(law, runs=8, noise=0.0, seed=0):
    x = np.geomspace(16, 1024, runs) if law == "codebook" else np.geomspace(3e4, 3e7, runs)
    error = np.random.default_rng(seed).normal(0, noise, runs)
    loss = (TRUTH_1["E"] + TRUTH_1["A"] * x ** -TRUTH_1["alpha"]) * np.exp(error)
    return pd.DataFrame({COLUMN[law]: x, "loss": loss})


def two_axes(noise=0.0, seed=0):
    n, d = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e6, 1e9, 6), np.geomspace(1e8, 1e11, 5)))
    loss = TRUTH_2["E"] + TRUTH_2["A"] * n ** -TRUTH_2["alpha"] + TRUTH_2["B"] * d ** -TRUTH_2["beta"]
    loss = loss * np.exp(np.random.default_rng(seed).normal(0, noise, len(n)))
    return pd.DataFrame({"parameters_non_embedding": n, "tokens": d, "flops": 6 * n * d, "loss": loss})


def grid_of(law):
    """Runs at every combination of the axes' values, and the constants that made their losses."""
    x = np.stack([grid.ravel() for grid in np.meshgrid(*(VALUES[letter] for letter in law.letters))], axis=1)
    truth = {name: (TRUTH | WITH_N.get(law.name, {}))[name] for name in law.parameters}
    truth |= {} if law.floor else {"E": 0.0}
    table = pd.DataFrame(x, columns=list(law.axes))
    return table.assign(loss=evaluate_law(law, list(truth.values()), x)), truth


@pytest.mark.parametrize("law", list(COLUMN))
def test_one_axis_law_without_noise_is_recovered(law):
    (fit,) = fit_study(one_axis(law), [law], bootstrap=0).fits
    assert fit.parameters == pytest.approx(TRUTH_1, rel=1e-6)
    assert fit.holdout.mean_relative_error == pytest.approx(0, abs=1e-7)
    assert fit.r2_holdout == pytest.approx(1, abs=1e-6)


def test_chinchilla_without_noise_is_recovered():
    (fit,) = fit_study(two_axes(), ["chinchilla"], bootstrap=0).fits
    assert fit.parameters == pytest.approx(TRUTH_2, rel=1e-6)
    assert fit.derived["a"] == pytest.approx(0.29 / 0.65, rel=1e-6)
    assert fit.intervals == {}


@pytest.mark.parametrize("name", [law.name for law in LAWS.values() if law.on_request and law.general is None])
def test_law_on_request_without_noise_is_recovered(name):
    table, truth = grid_of(LAWS[name])
    (fit,) = fit_study(table, [name], bootstrap=0).fits
    assert fit.parameters == pytest.approx(truth, rel=1e-6)


def isoflop_grid(spread, drift):
    """Sizes up to `spread` times to either side of centres that move from the optimum to `drift` times off it."""
    alpha, beta, a, b = 0.684, 0.439, 2e4, 4e3
    rows = []
    for budget, off in zip(np.geomspace(1e17, 1e21, 5), np.geomspace(1, drift, 5), strict=True):
        best = (alpha * a / (beta * b)) ** (1 / (alpha + beta)) * (budget / 6) ** (beta / (alpha + beta))
        for n in best * off * np.geomspace(1 / spread, spread, 7):
            d = budget / (6 * n)
            loss = 1.69 + a * n**-alpha + b * d**-beta
            rows.append({"parameters_non_embedding": n, "tokens": d, "flops": budget, "loss": loss})
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("spread", "drift"), [(4, 3), (16, 1), (2, 5)])
def test_asymmetric_exponents_survive_drifted_isoflop_grids(spread, drift):
    (fit,) = fit_study(isoflop_grid(spread, drift), ["chinchilla"], bootstrap=0).fits
    assert fit.derived["a"] == pytest.approx(0.391, abs=0.002)


@pytest.mark.parametrize("delta", [1e-2, 1e-4, 1e-6])
def test_small_delta_is_reached_and_checked(delta):
    table = two_axes(noise=2e-3)
    (fit,) = fit_study(table, ["chinchilla"], bootstrap=0, objective=Objective(delta=delta)).fits
    assert fit.method.delta == delta
    assert abs(fit.method.cross_check.relative_difference) < 1e-6
    assert fit.parameters["alpha"] == pytest.approx(TRUTH_2["alpha"], rel=0.1)


def test_chinchilla_with_one_gross_outlier_keeps_its_exponents():
    table = two_axes(noise=1e-3)
    (before,) = fit_study(table, ["chinchilla"], bootstrap=0).fits
    table.loc[12, "loss"] *= 1.5
    (after,) = fit_study(table, ["chinchilla"], bootstrap=0).fits
    assert after.points[12].residual < -0.3
    assert after.parameters["alpha"] == pytest.approx(before.parameters["alpha"], rel=0.01)
    assert after.parameters["beta"] == pytest.approx(before.parameters["beta"], rel=0.01)


def test_intervals_of_noisy_runs_are_ordered_and_hold_the_truth():
    (fit,) = fit_study(one_axis("power_n", runs=20, noise=2e-3), ["power_n"], bootstrap=60).fits
    for name, truth in TRUTH_1.items():
        found = fit.intervals[name]
        assert found.low95 <= found.low90 <= found.high90 <= found.high95
        assert found.low95 <= truth <= found.high95
    band = fit.curves[0].points
    assert all(point.low90 <= point.loss * 1.02 and point.high90 >= point.loss * 0.98 for point in band)


def test_fit_repeated_is_the_same_fit():
    table = one_axis("power_n", runs=7, noise=5e-3)
    first = fit_study(table, ["power_n"], bootstrap=10)
    assert fit_study(table, ["power_n"], bootstrap=10) == first
    other = fit_study(table, ["power_n"], bootstrap=10, seed=1).fits[0]
    assert other.intervals != first.fits[0].intervals
    assert other.id != first.fits[0].id


def test_fit_does_not_depend_on_the_units_of_the_axes():
    table = two_axes(noise=1e-3)
    (plain,) = fit_study(table, ["chinchilla"], bootstrap=0).fits
    scaled = table.assign(parameters_non_embedding=table["parameters_non_embedding"] / 1e6, loss=table["loss"] * 10)
    (other,) = fit_study(scaled, ["chinchilla"], bootstrap=0).fits
    assert other.parameters["alpha"] == pytest.approx(plain.parameters["alpha"], rel=1e-6)
    assert other.parameters["E"] == pytest.approx(10 * plain.parameters["E"], rel=1e-6)
    assert other.objective == pytest.approx(plain.objective, rel=1e-6)


def test_hold_out_predicts_the_largest_runs_from_the_smaller():
    (fit,) = fit_study(two_axes(noise=1e-3), ["chinchilla"], bootstrap=0).fits
    held = {point.x[0] * point.x[1] for point in fit.holdout.points}
    kept = {point.x[0] * point.x[1] for point in fit.points} - held
    assert len(fit.holdout.points) >= 6
    assert min(held) > max(kept)
    assert "training FLOPs" in fit.holdout.description
    assert fit.holdout.mean_relative_error < 0.01


def test_hold_out_without_runs_to_spare_says_so():
    (fit,) = fit_study(one_axis("power_n", runs=4), ["power_n"], bootstrap=0).fits
    assert fit.holdout.points == []
    assert fit.r2_holdout is None
    assert "3 remain and the law needs 4" in fit.holdout.description


def test_runs_held_out_by_design_enter_no_fit_and_are_predicted():
    table = two_axes(noise=1e-3)
    limit = 1e20
    (fit,) = fit_study(table, ["chinchilla"], bootstrap=5, hold_out_from=limit).fits
    (small,) = fit_study(table[table["flops"] < limit], ["chinchilla"], bootstrap=0).fits
    assert fit.parameters == pytest.approx(small.parameters, rel=1e-9)
    assert fit.n_runs == len(fit.points) == (table["flops"] < limit).sum()
    assert len(fit.holdout.points) == (table["flops"] >= limit).sum()
    assert "held out by the study's design" in fit.selection


def test_study_whose_runs_are_all_held_out_is_refused():
    fits = fit_study(two_axes(), ["chinchilla"], bootstrap=0, hold_out_from=1.0)
    assert fits.fits == []
    assert "30 more are held out by the study's design" in fits.refusals[0].reason


def test_rows_of_one_run_at_one_point_are_resampled_together():
    table = one_axis("power_n", runs=12, noise=3e-3)
    runs = table.assign(run=[f"run{index:02d}" for index in range(12)])
    evaluated_twice = pd.concat([runs, runs.assign(loss=runs["loss"] * (1 + 1e-7))], ignore_index=True)
    (once,) = fit_study(table, ["power_n"], bootstrap=50).fits
    (together,) = fit_study(evaluated_twice, ["power_n"], bootstrap=50).fits
    named = evaluated_twice.assign(run=[f"run{index:02d}" for index in range(24)])
    (apart,) = fit_study(named, ["power_n"], bootstrap=50).fits
    widths = [fit.intervals["alpha"].high95 - fit.intervals["alpha"].low95 for fit in (once, together, apart)]
    assert widths[1] == pytest.approx(widths[0], rel=1e-3)
    assert widths[2] < 0.85 * widths[1]


def test_contexts_whose_segments_differ_alike_share_a_fit():
    table, _ = grid_of(LAWS["context_additive"])
    whole, cut = table.assign(segment=table["context"]), table.assign(segment=table["context"] / 2)
    fits = fit_study(pd.concat([whole, cut]), ["context_additive"], bootstrap=0).fits
    assert [fit.where["segment_share"] for fit in fits] == [0.5, 1]


def test_most_influential_run_is_the_one_that_was_spoilt():
    table = one_axis("power_n", runs=10, noise=5e-4).assign(name=[f"run{index}" for index in range(10)])
    table.loc[9, "loss"] *= 1.01
    (fit,) = fit_study(table, ["power_n"], bootstrap=0, objective=Objective(delta=None), sensitivity=True).fits
    assert len(fit.influences) == 10
    assert fit.influences[0].name == "run9"
    (without,) = fit_study(table.iloc[:-1], ["power_n"], bootstrap=0, objective=Objective(delta=None)).fits
    change = without.parameters["alpha"] / fit.parameters["alpha"] - 1
    assert fit.influences[0].changes["alpha"] == pytest.approx(change, rel=1e-5)
