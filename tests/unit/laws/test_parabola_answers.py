"""IsoFLOP parabolas beside a law, to check it, and in its place where it is refused."""

import numpy as np
import pandas as pd
import pytest

from vqscale.errors import FitError
from vqscale.laws import fit_study
from vqscale.laws.decisions.parabolas import are_apart, optimum_by_line
from vqscale.laws.io.schema import Estimate, Interval
from vqscale.laws.validation.vertices import line_through

BUDGETS = np.geomspace(1e17, 1e20, 6)


def table_of(loss_of, *, best, sizes=7, spread=4.0, noise=0.0, budgets=BUDGETS):
    n = np.concatenate([best(budget) * np.geomspace(1 / spread, spread, sizes) for budget in budgets])
    c = np.repeat(budgets, sizes)
    loss = loss_of(n, c) * np.exp(np.random.default_rng(0).normal(0, noise, len(n)))
    return pd.DataFrame({"parameters_non_embedding": n, "tokens": c / 6 / n, "flops": c, "loss": loss})


def best_without_a_floor(budget):
    return (0.10 * 6 / (0.12 * 10)) ** (1 / 0.22) * (budget / 6) ** (0.12 / 0.22)


def without_a_floor(n, c):
    """Two powers less half a nat: E would be negative, so that Chinchilla's law is refused."""
    return 6 * n**-0.10 + 10 * (c / 6 / n) ** -0.12 - 0.5


def chinchilla(n, c):
    return 1.82 + 482 * n**-0.348 + 2085 * (c / 6 / n) ** -0.366


def best_of_chinchilla(budget):
    return (0.348 * 482 / (0.366 * 2085)) ** (1 / 0.714) * (budget / 6) ** (0.366 / 0.714)


def test_where_the_law_is_refused_the_parabolas_answer_within_and_beyond_the_budgets():
    found = fit_study(table_of(without_a_floor, best=best_without_a_floor, noise=1e-3), ["chinchilla"], bootstrap=0)
    assert not found.fits
    (parabolas,) = found.isoflops
    assert parabolas.in_place_of.startswith("chinchilla: on a bound")
    assert [one.flops for one in parabolas.optima] == pytest.approx([*BUDGETS, 3e20, 1e21, 1e22])
    for one in parabolas.optima:
        truth = best_without_a_floor(one.flops)
        assert one.parameters.value == pytest.approx(truth, rel=0.05)
        assert one.parameters.interval.low90 <= truth <= one.parameters.interval.high90
        assert one.tokens.value == pytest.approx(one.flops / 6 / one.parameters.value, rel=1e-6)
        assert one.tokens_per_parameter.interval.low90 < one.tokens_per_parameter.value
    inside, outside = parabolas.optima[:6], parabolas.optima[6:]
    assert [one.beyond for one in inside] == [1.0] * 6
    assert [one.loss for one in inside] == pytest.approx(
        without_a_floor(best_without_a_floor(BUDGETS), BUDGETS), rel=5e-3
    )
    assert [(one.beyond, one.loss) for one in outside] == [(pytest.approx(times), None) for times in (3, 10, 100)]
    widths = [np.log(one.parameters.interval.high90 / one.parameters.interval.low90) for one in parabolas.optima]
    assert widths[5] < widths[6] < widths[7] < widths[8]


def test_budgets_further_than_a_hundred_times_are_refused_with_the_distance_and_a_remedy():
    found = fit_study(table_of(without_a_floor, best=best_without_a_floor), ["chinchilla"], bootstrap=0)
    (parabolas,) = found.isoflops
    with pytest.raises(FitError, match=r"1.01e\+22 is 101 times the largest budget with a vertex \(1e\+20\).*Train"):
        optimum_by_line(parabolas.line, 1.01e22)
    with pytest.raises(FitError, match=r"9.9e\+14 is 101 times below the smallest budget with a vertex"):
        optimum_by_line(parabolas.line, 9.9e14)
    assert optimum_by_line(parabolas.line, 1e24, reach=1e300).beyond == pytest.approx(1e4)


def test_budgets_of_the_study_that_lie_too_far_are_recorded_as_refused():
    table = table_of(without_a_floor, best=best_without_a_floor)
    (parabolas,) = fit_study(table, ["chinchilla"], bootstrap=0, budgets=[1e18, 1e25]).isoflops
    assert [one.flops for one in parabolas.optima] == [1e18]
    assert list(parabolas.refused) == ["1e+25"]


def test_where_a_law_is_fitted_the_parabolas_check_it_and_agree():
    (fit,) = (found := fit_study(table_of(chinchilla, best=best_of_chinchilla, noise=3e-3), ["chinchilla"])).fits
    assert found.isoflops[0].in_place_of is None
    assert found.isoflops[0].optima == []
    check = fit.parabolas
    assert len(check.budgets) == 6
    assert check.text is None
    for one in check.budgets:
        assert one.law.interval.low90 <= best_of_chinchilla(one.flops) <= one.law.interval.high90


def test_a_law_that_the_parabolas_contradict_is_marked_with_budgets_and_factor():
    """A loss whose optimum moves as C^0.75 about a Chinchilla level: a sum of two powers of N and D cannot follow."""

    def loss_of(n, c):
        z = np.log(n / (2e7 * (c / 1e18) ** 0.75))
        return 1.8 + 1.4 * (c / 1e18) ** -0.12 * (1 + 0.05 * z**2 + 0.012 * z**3)

    table = table_of(loss_of, best=lambda budget: 2e7 * (budget / 1e18) ** 0.75, sizes=9, spread=6.0, noise=5e-4)
    (fit,) = fit_study(table, ["chinchilla"], bootstrap=100).fits
    check = fit.parabolas
    apart = [one for one in check.budgets if one.apart]
    assert len(apart) >= 2
    for one in check.budgets:
        law, vertex = one.law.interval, one.parabola.interval
        assert one.apart == (law.high90 < vertex.low90 or vertex.high90 < law.low90)
    assert check.text in fit.marks
    assert f"at {len(apart)} of 6 budgets" in check.text
    furthest = max(apart, key=lambda one: abs(np.log(one.law.value / one.parabola.value)))
    assert f"at most at C = {furthest.flops:.3g}" in check.text


def test_estimates_are_apart_where_their_intervals_miss_each_other():
    def between(low, high):
        return Estimate(value=(low + high) / 2, interval=Interval(low90=low, high90=high, low95=low, high95=high))

    assert are_apart(between(1, 2), between(2.1, 3))
    assert not are_apart(between(1, 2.2), between(2.1, 3))
    assert are_apart(Estimate(value=1.9), between(2.1, 3))
    assert not are_apart(Estimate(value=2.5), between(2.1, 3))
    assert not are_apart(Estimate(value=1.0), Estimate(value=9.0))
    assert not are_apart(between(1, 2), Estimate(value=9.0))  # a vertex that scatter leaves open


@pytest.mark.parametrize(("spread", "given"), [(0.05, True), (1.2, False)])
def test_line_whose_slope_is_open_gives_no_optimum_beyond_the_budgets(spread, given):
    budgets = np.geomspace(1e18, 1e20, 5)
    rng = np.random.default_rng(1)
    vertices = np.log(1e8) + 0.5 * np.log(budgets / 1e18) + rng.normal(0, spread, 5)
    log_c = np.log(budgets)
    line = line_through(log_c, vertices, log_c - np.log(6) - vertices, np.full(5, spread**2), np.full(5, -1.0), 10)
    assert optimum_by_line(line, 1e19).parameters.value > 0
    if given:
        assert optimum_by_line(line, 1e21).beyond == pytest.approx(10)
    else:
        with pytest.raises(FitError, match="do not determine its slope"):
            optimum_by_line(line, 1e21)
