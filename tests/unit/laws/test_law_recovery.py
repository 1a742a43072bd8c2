import numpy as np
import pandas as pd
import pytest

from vqscale.laws import fit_study

TRUTH_1 = {"E": 1.3, "A": 45.0, "alpha": 0.31}
TRUTH_2 = {"E": 1.7, "A": 420.0, "alpha": 0.36, "B": 1900.0, "beta": 0.29}
COLUMN = {"power_n": "parameters_non_embedding", "power_d": "tokens", "power_c": "flops", "codebook": "codebook_size"}


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


def test_chinchilla_with_one_gross_outlier_keeps_its_exponents():
    table = two_axes(noise=1e-3)
    (before,) = fit_study(table, ["chinchilla"], bootstrap=0).fits
    table.loc[12, "loss"] *= 1.5
    (after,) = fit_study(table, ["chinchilla"], bootstrap=0).fits
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
