from functools import partial
from typing import get_args

import numpy as np
import pandas as pd
import pytest

from vqscale import laws
from vqscale.errors import FitError
from vqscale.laws import LAWS
from vqscale.study.spec import LawName

fit_study = partial(laws.fit_study, sensitivity=False)
N = np.geomspace(1e5, 1e8, 8)


def table(loss, **columns):
    return pd.DataFrame({"parameters_non_embedding": N[: len(loss)], "loss": loss} | columns)


def law_of(n):
    return 1.5 + 60 * n**-0.3


def reasons(frame, law="power_n", **options):
    fits = fit_study(frame, [law], bootstrap=0, **options)
    assert fits.fits == []
    return [refusal.reason for refusal in fits.refusals]


def test_three_runs_are_too_few_for_three_parameters():
    assert reasons(table(law_of(N[:3]))) == ["3 usable runs; L = E + A N^-alpha needs at least 4"]


def test_two_sizes_are_too_few_however_many_runs():
    frame = table(law_of(N)).assign(parameters_non_embedding=[1e5, 1e6] * 4)
    assert reasons(frame) == ["2 distinct values of N; the law needs at least 3"]


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (40 * N**-0.2, "E fell to zero"),
        (2 + 1e-9 * N**0.5, "E rose to the smallest"),
        (5 - 0.3 * np.log10(N) ** 1.2, "E fell to zero"),
    ],
    ids=["pure power", "rising", "concave"],
)
def test_data_that_the_form_cannot_follow_is_refused(loss, message):
    (reason,) = reasons(table(loss))
    assert reason.startswith("on a bound")
    assert message in reason


def test_runs_that_did_not_finish_are_left_out_and_listed():
    status = ["finished"] * 6 + ["diverged", "stopped"]
    loss = law_of(N)
    loss[-2:] = np.nan
    fits = fit_study(table(loss, status=status, name=[f"run{i}" for i in range(8)]), ["power_n"], bootstrap=0)
    assert fits.fits[0].n_runs == 6
    assert [(entry.name, entry.reason) for entry in fits.excluded] == [("run6", "diverged"), ("run7", "stopped")]


def test_missing_and_impossible_losses_are_left_out_and_listed():
    loss = law_of(N)
    loss[0], loss[1], loss[2] = np.nan, -1.0, np.inf
    fits = fit_study(table(loss), ["power_n"], bootstrap=0)
    assert fits.fits[0].n_runs == 5
    assert len(fits.excluded) == 3


def test_table_without_a_finished_run_is_refused():
    assert reasons(table(law_of(N), status=["failed"] * 8)) == ["no finished run on its axes"]


def test_missing_axis_refuses_that_law_and_leaves_the_others():
    fits = fit_study(table(law_of(N)), ["power_n", "power_d"], bootstrap=0)
    assert [fit.law for fit in fits.fits] == ["power_n"]
    assert "'tokens' is missing" in fits.refusals[0].reason


@pytest.mark.parametrize(
    ("frame", "options", "message"),
    [
        (table(law_of(N)).drop(columns="loss"), {"laws": ["power_n"]}, "'loss' is missing"),
        (table(law_of(N)), {"laws": ["cubic"]}, "'cubic' is unknown"),
        (table(law_of(N)), {"laws": ["power_n"], "group": ["colour"]}, "'colour' is missing"),
        (table(law_of(N)), {"laws": ["power_n"], "metric": "accuracy"}, "'accuracy' is missing"),
    ],
    ids=["no loss", "unknown law", "unknown group", "unknown metric"],
)
def test_request_that_names_what_is_not_there_raises(frame, options, message):
    with pytest.raises(FitError, match=message):
        fit_study(frame, bootstrap=0, **options)


def test_few_runs_carry_a_warning():
    (fit,) = fit_study(table(law_of(N[:5])), ["power_n"], bootstrap=5).fits
    assert "5 runs for 3 constants, 2 degrees of freedom" in fit.warnings[0]


def test_study_file_and_laws_know_the_same_names():
    assert set(get_args(LawName)) == set(LAWS)


def test_sizes_and_tokens_that_grow_together_are_refused():
    rng = np.random.default_rng(0)
    n = np.geomspace(1e6, 1e9, 12)
    d = 20 * n * np.exp(rng.normal(0, 0.01, 12))
    frame = pd.DataFrame({"parameters_non_embedding": n, "tokens": d, "loss": 1.7 + 420 * n**-0.36 + 1900 * d**-0.29})
    (reason,) = reasons(frame, "chinchilla")
    assert reason == "N and D rise and fall together in all runs: their terms cannot be distinguished"
    apart = d * np.tile([1, 4], 6)
    distinct = frame.assign(tokens=apart, loss=1.7 + 420 * n**-0.36 + 1900 * apart**-0.29)
    assert len(fit_study(distinct, ["chinchilla"], bootstrap=0).fits) == 1


def test_runs_that_show_no_floor_are_refused_by_chinchilla_and_served_by_the_form_without_one():
    n, d = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e4, 1e6, 5), np.geomspace(1e5, 1e7, 5)))
    noise = np.random.default_rng(0).normal(0, 2e-3, len(n))
    loss = (6 * n**-0.1 + 20 * d**-0.2) * np.exp(noise)
    frame = pd.DataFrame({"parameters_non_embedding": n, "tokens": d, "flops": 6 * n * d, "loss": loss})
    (reason,) = reasons(frame, "chinchilla", sensitivity=False)
    assert "E fell to zero" in reason
    (fit,) = fit_study(frame, ["chinchilla_no_floor"], bootstrap=50, sensitivity=False).fits
    assert fit.form == "L = A N^-alpha + B D^-beta"
    assert fit.parameters["E"] == 0.0
    assert fit.intervals["E"].high95 == 0.0
    assert fit.parameters["alpha"] == pytest.approx(0.1, abs=0.01)
    assert fit.parameters["beta"] == pytest.approx(0.2, abs=0.02)
    assert fit.bootstrap_on_bound == 0
