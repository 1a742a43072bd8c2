"""Forms that are no sum of powers: recovered without noise, chosen by held-out error, refused without evidence."""

import numpy as np
import pandas as pd
import pytest

from vqscale.laws import fit_study
from vqscale.laws.decisions.frontier import cost_of
from vqscale.laws.decisions.predictions import predicted_loss
from vqscale.laws.decisions.surface import surface_of
from vqscale.laws.forms.catalogue import LAWS, evaluate_law
from vqscale.laws.forms.general import GENERAL_FORMS

BUDGETS = np.geomspace(1e18, 3e21, 5)
FARSEER = np.array([[np.log(1.97), -0.03, np.log(0.35), np.log(0.25), 0.0, 0.05, np.log(0.35), 0.06, 0.05]])
COUPLED = [1.1, 482.0, 0.40, 2085.0, 0.45, 0.6]
REPEATED = [1.8, 480.0, 0.35, 2000.0, 0.36, 12.0]


def points():
    n = np.concatenate([0.09 * budget**0.5 * np.geomspace(1 / 6, 6, 6) for budget in BUDGETS])
    c = np.repeat(BUDGETS, 6)
    return np.stack([n, c / 6 / n], axis=1), c


def table_of(law, values, noise=0.0, *, unique=None):
    x_RA, c = points()
    columns = x_RA if unique is None else np.column_stack([x_RA, unique])
    loss = evaluate_law(LAWS[law], np.array(values), columns)
    loss = loss * np.exp(np.random.default_rng(0).normal(0, noise, len(c)))
    found = pd.DataFrame({"parameters_non_embedding": x_RA[:, 0], "tokens": x_RA[:, 1], "flops": c, "loss": loss})
    return found if unique is None else found.assign(unique_tokens=unique)


def farseer_values():
    return GENERAL_FORMS["farseer"].natural(FARSEER, np.log(points()[0]).mean(axis=0))[0]


def only_fit(table, law):
    found = fit_study(table, [law], bootstrap=0, sensitivity=False)
    assert [one.reason for one in found.refusals] == []
    return found.fits[0]


@pytest.mark.parametrize("name", GENERAL_FORMS)
def test_constants_and_coordinates_of_a_search_are_inverse_and_give_one_loss(name):
    form = GENERAL_FORMS[name]
    x_RA, _ = points()
    x_RA = np.column_stack([x_RA, np.full(len(x_RA), 2e10)])[:, : len(LAWS[name].letters)]
    log_x, centre = np.log(x_RA), np.log(x_RA).mean(axis=0)
    theta = form.starts(np.array([2.0, 3.0, 4.0]))
    natural = form.natural(theta, centre)
    assert natural.shape[1] == len(form.constants) == len(form.theta_names)
    assert form.theta_of(natural, centre) == pytest.approx(theta, abs=1e-9)
    assert np.log(form.losses(natural, x_RA)) == pytest.approx(form.log_loss(theta, log_x, centre), abs=1e-9)


@pytest.mark.parametrize("name", GENERAL_FORMS)
def test_complex_step_gradients_equal_central_differences(name):
    form = GENERAL_FORMS[name]
    x_RA, _ = points()
    x_RA = np.column_stack([x_RA, np.full(len(x_RA), 2e10)])[:, : len(LAWS[name].letters)]
    log_x, centre = np.log(x_RA), np.log(x_RA).mean(axis=0)
    theta = form.starts(np.array([2.0, 3.0, 4.0]))[::5]
    found = form.jacobian(theta, log_x, centre)
    for place in range(theta.shape[1]):
        ends = []
        for sign in (1, -1):
            shifted = theta.copy()
            shifted[:, place] += sign * 1e-6
            ends.append(form.log_loss(shifted, log_x, centre))
        assert found[:, place] == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-7)


def test_coupled_form_is_chinchilla_where_k_is_one():
    x_RA, _ = points()
    coupled = evaluate_law(LAWS["chinchilla_coupled"], [1.8, 480, 0.35, 2000, 0.36, 1.0], x_RA)
    assert coupled == pytest.approx(evaluate_law(LAWS["chinchilla"], [1.8, 480, 0.35, 2000, 0.36], x_RA), rel=1e-12)


def test_farseer_by_hand():
    """E 1.5, s 2, q .5, c 1, b -3, p -.25, t -1, a .2, r .1 at N = 1e4, D = 1e6.

    First term 1.5 exp(2 / 100) = 1.530302; B = exp(-3 / 10 + 1) = 2.013753; A = exp(.2 * 10^.4 - 1) = .608588;
    D^-A = 10^(-6 * .608588) = 2.2317e-4.
    """
    values = [1.5, 2.0, 0.5, 1.0, -3.0, -0.25, -1.0, 0.2, 0.1]
    power = np.exp(0.2 * 10**0.4 - 1)
    expected = 1.5 * np.exp(0.02) + np.exp(0.7) * 10 ** (-6 * power)
    assert expected == pytest.approx(1.530302 + 2.013753 * 2.2317e-4, abs=1e-5)
    found = evaluate_law(LAWS["farseer"], values, np.array([[1e4, 1e6], [3e5, 2e7]]))
    assert found[0] == pytest.approx(expected, rel=1e-9)


def test_repeated_data_is_worth_its_effective_tokens():
    """U = 1e9 at four epochs, r = 10: D' = 1e9 (1 + 10 (1 - exp(-.3))) = 3.59182e9; within one epoch D' = D."""
    law, values = LAWS["repeated_data"], [1.8, 0.0, 0.35, 2000.0, 0.36, 10.0]
    values[1] = 1e-9
    found = evaluate_law(law, values, np.array([[1e8, 4e9, 1e9], [1e8, 5e8, 1e9]]))
    assert found == pytest.approx([1.8 + 2000 * 3.59182e9**-0.36, 1.8 + 2000 * 5e8**-0.36], rel=1e-6)


@pytest.mark.parametrize("law", ["farseer", "chinchilla_coupled"])
def test_noise_free_interaction_is_recovered_with_its_optima(law):
    values = farseer_values() if law == "farseer" else np.array(COUPLED)
    fit = only_fit(table_of(law, values), law)
    assert fit.status == "converged"
    assert [point.predicted for point in fit.points] == pytest.approx(
        [point.measured for point in fit.points], rel=1e-6
    )
    budgets = [1e18, 1e20, 3e22]
    best = np.exp(surface_of(fit).best(cost_of(fit, "exact"), budgets)[0][0])
    for budget, n in zip(budgets, best.tolist(), strict=True):
        near = n * np.exp(np.linspace(-0.02, 0.02, 4001))
        loss = evaluate_law(LAWS[law], values, np.stack([near, budget / 6 / near], axis=1))
        assert near[int(loss.argmin())] == pytest.approx(n, rel=1e-4)
    assert predicted_loss(fit, {"N": 1e9, "D": 1e11}).value == pytest.approx(
        evaluate_law(LAWS[law], values, np.array([[1e9, 1e11]]))[0], rel=1e-4
    )


@pytest.mark.parametrize("law", ["repeated_data", "repeated_data_parameters"])
def test_noise_free_repeated_data_is_recovered(law):
    unique = np.tile([1e9, 5e9, 2e10, 1e12, 5e9, 1e9], len(BUDGETS))
    values = [*REPEATED, *([5.0] if law.endswith("parameters") else [])]
    fit = only_fit(table_of(law, values, unique=unique), law)
    assert fit.letters == ["N", "D", "U"]
    assert list(fit.parameters.values()) == pytest.approx(values, rel=1e-4)
    assert fit.frontiers == []


def test_runs_with_an_interaction_choose_farseer_and_runs_without_one_keep_chinchilla():
    candidates = ["chinchilla", "farseer"]
    for law, values in (("farseer", farseer_values()), ("chinchilla", [1.82, 482.0, 0.348, 2085.0, 0.366])):
        found = fit_study(table_of(law, values, noise=2e-3), candidates, bootstrap=0, sensitivity=False)
        (selection,) = found.selections
        assert selection.chosen == law
        assert found.fits[0].law == law  # the chosen form leads: its N* is the one that is quoted


def test_repeated_runs_choose_repeated_data_beside_a_law_of_fresh_tokens():
    unique = np.tile([1e9, 5e9, 2e10, 1e10, 5e9, 1e9], len(BUDGETS))
    table = table_of("repeated_data", [1.8, 480.0, 0.35, 2000.0, 0.36, 3.0], noise=1e-3, unique=unique)
    (selection,) = fit_study(table, ["chinchilla", "repeated_data"], bootstrap=0, sensitivity=False).selections
    assert selection.chosen == "repeated_data"
    assert [one.law for one in selection.candidates] == ["chinchilla", "repeated_data"]


def test_runs_that_never_repeat_data_are_refused_with_the_number_of_epochs():
    found = fit_study(table_of("repeated_data", REPEATED, unique=np.full(30, 1e14)), ["repeated_data"], bootstrap=0)
    assert [one.reason for one in found.refusals] == [
        "0 distinct numbers of epochs D / U above 1; repeated data needs at least 3"
    ]


def test_tables_without_unique_tokens_are_refused_by_the_name_of_the_column():
    (refusal,) = fit_study(table_of("chinchilla", [1.8, 480, 0.35, 2000, 0.36]), ["repeated_data"]).refusals
    assert "unique_tokens" in refusal.reason


def test_unique_tokens_follow_from_a_column_of_epochs():
    unique = np.tile([1e9, 5e9, 2e10, 1e10, 5e9, 1e9], len(BUDGETS))
    table = table_of("repeated_data", REPEATED, unique=unique)
    table = table.assign(epochs=table["tokens"] / table["unique_tokens"]).drop(columns="unique_tokens")
    assert only_fit(table, "repeated_data").parameters["r"] == pytest.approx(12.0, rel=1e-3)
