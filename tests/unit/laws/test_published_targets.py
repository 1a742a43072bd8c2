"""Published fits met with their stated objectives. Every number of a target was published or found independently."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vqscale.laws import LAWS, fit_study
from vqscale.laws.fitting.bootstrap import bootstrap
from vqscale.laws.fitting.fit import solve
from vqscale.laws.fitting.problem import Objective, make_problem
from vqscale.laws.forms.catalogue import evaluate_law

DATA = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "laws"
pytestmark = [
    pytest.mark.reference,
    pytest.mark.skipif(not DATA.exists(), reason=f"published runs are not at {DATA}"),
]
NEARLY_ABSOLUTE = Objective(delta=1e-6)
"""Least absolute deviations, which is what Epoch's Huber likelihood with a fitted scale comes to."""
LEAST_SQUARES = Objective(delta=None, residual="raw")


def fitted(table, law="chinchilla", **options):
    options = {"bootstrap": 0, "sensitivity": False} | options
    (fit,) = fit_study(table, [law], **options).fits
    return fit


def predicted(fit, n, d):
    return evaluate_law(fit, list(fit.parameters.values()), np.array([[n, d]], dtype=float))[0]


@pytest.fixture(scope="module")
def epoch_all():
    """245 runs read off a figure of Hoffmann et al. by Epoch; D from C = 6 N D as Epoch does."""
    table = pd.read_csv(DATA / "chinchilla_epoch_extracted.csv")
    n, c = table["Model Size"], table["Training FLOP"]
    return pd.DataFrame({"parameters_non_embedding": n, "tokens": c / (6 * n), "flops": c, "loss": table["loss"]})


@pytest.fixture(scope="module")
def epoch(epoch_all):
    """Without the five largest losses, as Epoch."""
    return epoch_all.sort_values("loss").iloc[:-5]


def test_epoch_headline_is_met_at_a_delta_near_zero(epoch):
    fit = fitted(epoch, objective=NEARLY_ABSOLUTE)
    published = {"E": 1.8172, "A": 482.01, "alpha": 0.3478, "B": 2085.43, "beta": 0.3658}
    assert fit.parameters == pytest.approx(published, rel=5e-3)
    assert fit.derived["a"] == pytest.approx(0.513, abs=1e-3)
    assert abs(fit.method.cross_check.relative_difference) < 1e-6


def test_epoch_bootstrap_has_the_published_standard_errors(epoch):
    x = epoch[["parameters_non_embedding", "tokens"]].to_numpy(dtype=float)
    minimum = solve(make_problem(LAWS["chinchilla"], x, epoch["loss"].to_numpy(), NEARLY_ABSOLUTE), check=False)
    errors = bootstrap(minimum, x, 600, seed=0).parameters.std(axis=0, ddof=1)
    published = {"E": 0.0257, "A": 124.52, "alpha": 0.0154, "B": 1293.28, "beta": 0.0206}
    assert dict(zip(LAWS["chinchilla"].parameters, errors, strict=True)) == pytest.approx(published, rel=0.15)


def test_epoch_grid_search_is_met_at_its_own_delta(epoch):
    fit = fitted(epoch)
    target = {"A": 477.83, "B": 2143.4, "E": 1.817218, "alpha": 0.347311, "beta": 0.367172}
    assert fit.parameters == pytest.approx(target, rel=1e-4)
    assert fit.objective == pytest.approx(1.018274e-3, rel=1e-6)
    assert fit.derived["a"] == pytest.approx(0.5139, abs=1e-4)
    assert fit.holdout.mean_relative_error == pytest.approx(0.0125, abs=0.004)


def test_all_245_runs_show_the_pull_of_five(epoch_all):
    fit = fitted(epoch_all)
    target = {"B": 12846, "E": 1.891, "alpha": 0.349, "beta": 0.453}
    assert fit.parameters == pytest.approx(fit.parameters | target, rel=1e-3)


def test_least_squares_below_1e21_flops_meets_four_digits(epoch):
    small = epoch[epoch["flops"] < 1e21]
    scaled = small.assign(
        parameters_non_embedding=small["parameters_non_embedding"] / 1e6, tokens=small["tokens"] / 1e9
    )
    fit = fitted(scaled, objective=LEAST_SQUARES)
    assert fit.n_runs == 217
    target = {"E": 1.9051, "A": 4.0005, "B": 1.0509, "alpha": 0.3511, "beta": 0.4587}
    assert fit.parameters == pytest.approx(target, abs=6e-5)
    assert fit.objective == pytest.approx(0.062414, abs=6e-7)


@pytest.mark.parametrize("data", ["rpj", "c4_original", "rw_original"])
def test_gadre_five_points_predict_the_held_out_runs_as_published(data):
    published = json.loads((DATA / "mlfoundations_published_fits.json").read_text())[data]
    runs = pd.DataFrame(published["fit_points"])
    table = pd.DataFrame({"parameters_non_embedding": runs["N"], "tokens": runs["N"] * runs["M"], "loss": runs["loss"]})
    fit = fitted(table, "chinchilla_tied", objective=LEAST_SQUARES)
    assert fit.parameters["alpha"] == pytest.approx(-published["loss_law"]["exponent_b(neg)"], rel=1e-5)
    for run in published["heldout"]:
        error = predicted(fit, run["N"], run["N"] * run["M"]) / run["true"] - 1
        assert 100 * abs(error) == pytest.approx(run["rel_err_pct"], abs=2e-4)


@pytest.fixture(scope="module")
def ladder():
    return pd.read_csv(DATA / "olmo_ladder_step1_points.csv").query("mode == 'train'")


def of_task(ladder, task):
    rows = ladder[ladder["metric"] == task]
    return pd.DataFrame({"parameters_non_embedding": rows["N"], "tokens": rows["D"], "loss": rows["loss"]})


@pytest.mark.parametrize(
    ("task", "at_13b"),
    [("c4_ce", 2.34439), ("mmlu_avg_test_5shot_rc_bpb", 0.75016), ("hellaswag_val_5shot_rc_bpb", 0.65318)],
)
def test_olmo_ladder_predicts_13b_as_published(ladder, task, at_13b):
    fit = fitted(of_task(ladder, task))
    assert predicted(fit, 13202396160, 5000088518656) == pytest.approx(at_13b, abs=1e-5)


def test_olmo_ladder_task_that_sits_on_the_bound_is_refused(ladder):
    fits = fit_study(of_task(ladder, "csqa_val_5shot_rc_bpb"), ["chinchilla"], bootstrap=0)
    assert fits.fits == []
    assert "E fell to zero" in fits.refusals[0].reason
