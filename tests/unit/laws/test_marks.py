"""What a fit's numbers do not support is said with it, and where it would be a number, there is none."""

import json

import numpy as np
import pandas as pd
import pytest

from vqscale.laws import LAWS, fit_study, read_fits, write_fits
from vqscale.laws.decisions.predictions import predict_run, predicted_loss
from vqscale.laws.fitting.bootstrap import parameter_intervals
from vqscale.laws.io.export import to_csv
from vqscale.laws.io.latex import to_latex
from vqscale.laws.io.schema import Span
from vqscale.laws.validation.marks import beaten_by_one, marks_of


def fitted(runs, law="power_d", noise=0.003, **options):
    d = np.geomspace(1e8, 1e10, runs)
    loss = (1.8 + 2085 * d**-0.37) * np.exp(np.random.default_rng(1).normal(0, noise, runs))
    table = pd.DataFrame({"tokens": d, "loss": loss})
    (fit,) = fit_study(table, [law], **({"bootstrap": 20} | options)).fits
    return fit


@pytest.fixture(scope="module")
def sound():
    return fitted(12)


def with_errors(fit, own, **baselines):
    errors = {"mean_relative_error": own, "baselines": {name.replace("_", " "): one for name, one in baselines.items()}}
    return fit.model_copy(update={"holdout": fit.holdout.model_copy(update=errors)})


def test_sound_fit_has_no_mark(sound):
    assert sound.marks == []
    assert sound.freedom == 9
    assert sound.r2_fit > 0.99


def test_law_that_loses_to_both_baselines_is_marked(sound):
    beaten = with_errors(sound, 0.061, last_value=0.032, power_law=0.0405)
    assert marks_of(beaten) == [
        "off by 6.10 % on the held-out runs, where the last value by 3.20 % and the power law by 4.05 % is: no better"
        " than no law"
    ]
    assert marks_of(with_errors(sound, 0.061, last_value=0.032, power_law=0.07)) == []
    assert len(marks_of(with_errors(sound, 0.061, last_value=0.032, power_law=None))) == 1
    assert marks_of(with_errors(sound, 0.061)) == []


def test_law_with_a_low_r2_is_marked(sound):
    (mark,) = marks_of(sound.model_copy(update={"r2_fit": 0.25}))
    assert mark.startswith("R² 0.25: the runs scatter about the law by 87 % of what they differ by")
    assert marks_of(sound.model_copy(update={"r2_fit": 0.9})) == []


def test_exponent_with_a_wide_span_is_marked(sound):
    wide = sound.model_copy(update={"exponent_spans": {"alpha": Span(low=0.2, high=0.3)}})
    assert marks_of(wide) == ["alpha from 0.2 to 0.3 fit equally well (objective within 1 %)"]
    assert marks_of(sound.model_copy(update={"exponent_spans": {"alpha": Span(low=0.2, high=0.25)}})) == []


def test_four_runs_for_three_constants_give_no_r2_and_no_interval():
    fit = fitted(4)
    assert fit.freedom == 1
    assert fit.r2_fit is None
    assert fit.intervals == {}
    assert fit.bootstrap == 0
    assert all(point.low90 is None for curve in fit.curves for point in curve.points)
    assert predicted_loss(fit, {"D": 3e10}).interval is None
    assert [mark.split(":")[0] for mark in fit.marks] == ["4 runs for 3 constants, 1 degree of freedom"]


def test_five_runs_for_three_constants_give_rough_intervals_and_no_r2():
    fit = fitted(5)
    assert fit.freedom == 2
    assert fit.r2_fit is None
    assert set(fit.intervals) == {"E", "A", "alpha"}
    assert fit.marks == []
    assert fit.warnings[0].startswith("5 runs for 3 constants, 2 degrees of freedom: the intervals are rough")


def test_six_runs_for_three_constants_have_an_r2():
    assert fitted(6).r2_fit > 0.99


def test_five_seeds_of_four_points_have_an_interval_of_their_scatter_and_are_marked():
    d = np.repeat(np.geomspace(1e8, 1e10, 4), 5)
    loss = (1.8 + 2085 * d**-0.37) * np.exp(np.random.default_rng(0).normal(0, 0.003, 20))
    table = pd.DataFrame({"tokens": d, "loss": loss, "seed": np.tile(np.arange(5), 4)})
    (fit,) = fit_study(table, ["power_d"], bootstrap=20).fits
    assert fit.freedom == 17
    assert fit.r2_fit is None
    assert "alpha" in fit.intervals
    assert fit.marks[0].startswith(
        "4 distinct points (20 runs) for 3 constants: nearly any 4 points lie on such a curve"
    )


@pytest.mark.parametrize(("prefixes", "runs"), [(1, "one run"), (4, "4 runs")])
def test_rows_of_few_runs_give_no_interval(prefixes, runs):
    """Every row is the end of a decay of its own, branched off one of a few runs: they scatter together."""
    d = np.geomspace(1e8, 1e10, 12)
    loss = (1.8 + 2085 * d**-0.37) * np.exp(np.random.default_rng(0).normal(0, 0.003, 12))
    table = pd.DataFrame({"tokens": d, "loss": loss, "shared_prefix": [f"run {i % prefixes}" for i in range(12)]})
    (fit,) = fit_study(table, ["power_d"], bootstrap=20).fits
    assert (fit.freedom, fit.units) == (9, prefixes)
    assert fit.intervals == {}
    assert fit.r2_fit > 0.99
    assert fit.marks == [f"all 12 rows are of {runs}: how runs scatter is not known, and no interval is given"]


def test_law_that_loses_to_one_baseline_says_so(sound):
    assert beaten_by_one(with_errors(sound, 0.061, last_value=0.032, power_law=0.07)) == [
        "the last value is off by 3.20 % on the held-out runs, the law by 6.10 %"
    ]
    assert beaten_by_one(with_errors(sound, 0.061, last_value=0.032, power_law=0.05)) == []
    assert beaten_by_one(with_errors(sound, 0.01, last_value=0.032, power_law=0.05)) == []


def test_law_with_one_far_run_names_it(sound):
    far = sound.points[3].model_copy(update={"measured": 9.0})
    points = [*sound.points[:3], far, *sound.points[4:]]
    (mark,) = marks_of(sound.model_copy(update={"r2_fit": 0.02, "points": points}))
    assert mark.endswith(f"{far.name} alone makes up more than half of it")


def test_copies_of_four_runs_leave_one_degree_of_freedom():
    d = np.repeat(np.geomspace(1e8, 1e10, 4), 5)
    loss = np.round(1.8 + 2085 * d**-0.37, 2)  # two digits: no copies of each other, yet nothing tells them apart
    (fit,) = fit_study(pd.DataFrame({"tokens": d, "loss": loss, "step": np.arange(20)}), ["power_d"], bootstrap=9).fits
    assert fit.freedom == 1
    assert fit.intervals == {}
    assert fit.marks[0].startswith("4 runs (20 rows) for 3 constants")


def test_marks_stand_in_every_file(sound, tmp_path):
    fits = fit_study(pd.DataFrame({"tokens": [1.0], "loss": [1.0]}), ["power_d"])
    marked = fits.model_copy(
        update={"fits": [sound.model_copy(update={"r2_fit": 0.25, "marks": ["R² 0.25: too low"]})]}
    )
    assert to_csv(marked).splitlines()[1].endswith("R² 0.25: too low")
    assert r"$\dagger$ all runs: R$^2$ 0.25: too low." in to_latex(marked)
    assert r"all runs$^\dagger$" in to_latex(marked)
    write_fits(marked, str(tmp_path))
    assert read_fits(str(tmp_path)) == marked


def test_fits_of_an_earlier_version_are_marked_by_their_numbers(sound, tmp_path):
    old = sound.model_copy(update={"r2_fit": 0.25}).model_dump(
        mode="json", exclude={"marks", "freedom", "exponent_spans"}
    )
    (tmp_path / "fits.json").write_text(json.dumps({"fits": [old]}))
    (fit,) = read_fits(str(tmp_path)).fits
    assert fit.freedom is None
    assert fit.marks[0].startswith("R² 0.25")


def test_fit_whose_refits_end_on_bounds_is_marked():
    """At 3 % noise a fifth of the refits leave E at zero or at the smallest loss."""
    d = np.geomspace(1e8, 1e10, 10)
    loss = (1.8 + 2085 * d**-0.37) * np.exp(np.random.default_rng(3).normal(0, 0.03, 10))
    (fit,) = fit_study(pd.DataFrame({"tokens": d, "loss": loss}), ["power_d"], bootstrap=60).fits
    assert fit.bootstrap_on_bound > 6
    assert f"{fit.bootstrap_on_bound} of 60 refits ended on a bound of the search" in fit.marks[-1]
    assert not any("refits ended on a bound" in warning for warning in fit.warnings)


def test_interval_of_an_exponent_that_reaches_a_bound_of_the_search_is_not_given(sound):
    law = LAWS["chinchilla"]
    draws = np.tile([1.8, 480.0, 0.35, 2085.0, 0.37], (100, 1)) * np.linspace(0.9, 1.1, 100)[:, None]
    assert set(parameter_intervals(law, draws)) == {"E", "A", "alpha", "B", "beta", "a", "b"}
    draws[:7, law.parameters.index("beta")] = 4.0
    assert set(parameter_intervals(law, draws)) == {"E", "A", "alpha", "B"}
    draws[:7, law.parameters.index("beta")] = 0.001
    assert set(parameter_intervals(law, draws)) == {"E", "A", "alpha", "B"}
    bounded = {
        "bootstrap": 100,
        "bootstrap_on_bound": 11,
        "intervals": {"E": sound.intervals["E"], "A": sound.intervals["A"]},
    }
    assert marks_of(sound.model_copy(update=bounded))[0].endswith("and no interval of alpha is given")


def test_registered_prediction_keeps_the_marks_of_its_fit(sound):
    weak = sound.model_copy(update={"marks": ["R² 0.25: too low"]})
    assert predict_run(weak, {"D": 3e10}, name="large").marks == ["R² 0.25: too low"]
    assert predict_run(sound, {"D": 3e10}, name="large").marks == []
