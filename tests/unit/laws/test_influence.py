"""Influence of single runs: the minimum without each of them, reached without a descent."""

import numpy as np
import pytest

from vqscale.laws.fitting.fit import solve
from vqscale.laws.fitting.identifiability import determined_without, determines
from vqscale.laws.fitting.leave_out import minima_without
from vqscale.laws.fitting.newton import descend_through_deltas
from vqscale.laws.fitting.problem import Objective, derivatives, make_problem, natural
from vqscale.laws.forms.catalogue import LAWS, evaluate_law
from vqscale.laws.validation.influence import influences

TRUTH = (1.82, 482.0, 0.348, 2085.0, 0.366)


def chinchilla_runs(count, seed=0):
    rng = np.random.default_rng(seed)
    n_R = np.exp(rng.uniform(np.log(6e7), np.log(1.5e10), count))
    x_RA = np.stack([n_R, n_R * np.exp(rng.uniform(0, np.log(200), count))], axis=1)
    return x_RA, evaluate_law(LAWS["chinchilla"], TRUTH, x_RA) * np.exp(0.005 * rng.standard_t(3, count))


def exact_minima(problem, theta_P, weight_BR):
    """The descent of every weighting from the fit's minimum, its last digits by undamped Newton steps on the gradient.

    The descent compares objectives, whose rounding (1e-16 of a value of thousands) hides the last six digits of theta.
    """
    theta_BP = descend_through_deltas(problem, np.tile(theta_P, (len(weight_BR), 1)), weight_BR, tolerance=1e-22)
    free = problem.searched
    for _ in range(4):
        found = derivatives(problem, theta_BP, weight_BR)
        step = np.linalg.solve(found.hessian[:, free, free], found.gradient[:, free, None])[:, :, 0]
        theta_BP[:, free] -= step
    assert np.abs(step).max() < 1e-9
    return theta_BP


@pytest.mark.parametrize(
    ("count", "law", "objective"),
    [
        (25, "chinchilla", Objective()),
        (240, "chinchilla", Objective()),
        (240, "chinchilla", Objective(delta=1e-2)),
        (240, "chinchilla", Objective(delta=None)),
        (240, "chinchilla", Objective(residual="raw")),
        (240, "chinchilla_tied", Objective()),
        (240, "chinchilla_no_floor", Objective(delta=None)),
    ],
)
def test_minima_without_a_run_equal_those_of_a_descent_to_nine_digits(count, law, objective):
    x_RA, loss_R = chinchilla_runs(count)
    problem = make_problem(LAWS[law], x_RA, loss_R, objective)
    theta_P = solve(problem, check=False).theta
    found = natural(problem, minima_without(problem, theta_P, np.arange(count)))
    known = natural(problem, exact_minima(problem, theta_P, 1 - np.eye(count)))
    whole = np.where(natural(problem, theta_P) == 0, 1, natural(problem, theta_P))
    assert np.abs((found - known) / whole).max() < 1e-9


def test_influences_of_runs_with_several_rows_leave_all_rows_of_a_run_out():
    x_RA, loss_R = chinchilla_runs(60)
    law, groups = LAWS["chinchilla"], [f"run {row // 3}" for row in range(60)]
    minimum = solve(make_problem(law, x_RA, loss_R), check=False)
    found = {one.name: one.changes for one in influences(law, minimum, x_RA, groups, groups)}
    weight_BR = np.array([[other != run for other in groups] for run in dict.fromkeys(groups)], dtype=np.float64)
    known = natural(minimum.problem, exact_minima(minimum.problem, minimum.theta, weight_BR))
    place = law.parameters.index("alpha")
    assert len(found) == 20
    for run, value in zip(dict.fromkeys(groups), known[:, place] / minimum.parameters[place] - 1, strict=True):
        assert found[run]["alpha"] == pytest.approx(value, abs=1e-9)


def test_a_run_that_alone_holds_one_of_three_values_comes_first_and_has_no_changes():
    n_R = np.array([1e8] * 6 + [1e9] * 6 + [1e10])
    x_RA = np.stack([n_R, np.tile(np.geomspace(1e9, 1e11, 6), 3)[:13]], axis=1)
    law = LAWS["chinchilla"]
    loss_R = evaluate_law(law, TRUTH, x_RA) * np.exp(np.random.default_rng(0).normal(0, 1e-3, 13))
    minimum = solve(make_problem(law, x_RA, loss_R), check=False)
    first, *others = influences(law, minimum, x_RA, [f"run {row}" for row in range(13)], None)
    assert (first.name, first.changes) == ("run 12", {})
    assert all(one.changes for one in others)


def test_determined_without_agrees_with_the_weightings_that_leave_each_run_out():
    rng = np.random.default_rng(0)
    x_RA = np.stack([rng.choice([1e8, 2e8, 3e8, 4e8], 12, p=[0.5, 0.3, 0.1, 0.1]), np.geomspace(1e9, 1e11, 12)], axis=1)
    member_R = np.array([0, 0, 1, 2, 3, 3, 4, 5, 6, 7, 8, 9])
    law = LAWS["chinchilla"]
    for kept in (slice(0, 12), slice(0, 8), slice(0, 5)):
        own_R = np.unique(member_R[kept], return_inverse=True)[1]
        weight_BR = (np.arange(own_R.max() + 1)[:, None] != own_R).astype(np.float64)
        expected = determines(law, weight_BR, x_RA[kept])
        assert determined_without(law, own_R, x_RA[kept]).tolist() == expected.tolist()
