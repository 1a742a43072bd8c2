"""The arithmetic of a fit against slow, obvious definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from vqscale.errors import FitError
from vqscale.laws import LAWS
from vqscale.laws.fitting.crosscheck import _value_and_gradient
from vqscale.laws.fitting.fit import disagreement, solve
from vqscale.laws.fitting.problem import Objective, bounds, derivatives, make_problem, natural, objective_values
from vqscale.laws.fitting.varpro import FIRST_INNER_STEPS, nonnegative_least_squares, project, start_exponents
from vqscale.laws.forms.catalogue import evaluate_law
from vqscale.laws.io.schema import CrossCheck, Method

SUMS = [law for law in LAWS.values() if law.general is None]
OBJECTIVES = [Objective(delta=0.05), Objective(delta=None), Objective(delta=0.1, residual="raw")]
SPANS = {"N": (1e6, 1e9), "D": (1e8, 1e11), "C": (1e15, 1e20), "S": (32, 1024), "T": (256, 8192)}


def random_runs(law, runs=12, seed=0):
    rng = np.random.default_rng(seed)
    x = np.stack([np.exp(rng.uniform(*np.log(SPANS[letter]), runs)) for letter in law.letters], axis=1)
    return x, rng.uniform(2.0, 4.0, runs)


def random_theta(problem, seed=1):
    low, high = bounds(problem)
    return low + (high - low) * np.random.default_rng(seed).uniform(0.3, 0.6, (3, len(low)))


@pytest.mark.parametrize("law", SUMS, ids=lambda law: law.name)
@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_derivatives_of_every_form_are_those_of_finite_differences(law, objective):
    problem = make_problem(law, *random_runs(law), objective)
    theta, weight = random_theta(problem), np.random.default_rng(2).integers(0, 3, (3, problem.runs)).astype(float)
    found, step = derivatives(problem, theta, weight), 1e-6
    for index in range(problem.size):
        shift = step * np.eye(problem.size)[index]
        slope = (
            objective_values(problem, theta + shift, weight) - objective_values(problem, theta - shift, weight)
        ) / (2 * step)
        above, below = (derivatives(problem, theta + sign * shift, weight).gradient for sign in (1, -1))
        scale = np.abs(found.gradient).max()
        assert found.gradient[:, index] == pytest.approx(slope, rel=1e-4, abs=1e-5 * scale)
        bend = np.abs(found.hessian).max()
        assert found.hessian[:, index] == pytest.approx((above - below) / (2 * step), rel=1e-3, abs=1e-4 * bend)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_search_and_cross_check_minimise_the_same_function(objective):
    problem = make_problem(LAWS["joint_capacity"], *random_runs(LAWS["joint_capacity"]), objective)
    found = derivatives(problem, random_theta(problem), np.ones((3, problem.runs)))
    for row, theta in enumerate(random_theta(problem)):
        value, gradient = _value_and_gradient(theta, problem)
        assert value == pytest.approx(found.value[row], rel=1e-12)
        assert gradient == pytest.approx(found.gradient[row], rel=1e-9, abs=1e-9 * np.abs(gradient).max())


@pytest.mark.parametrize("law", SUMS, ids=lambda law: law.name)
def test_natural_parameters_give_the_prediction_that_was_fitted(law):
    x, loss = random_runs(law)
    problem = make_problem(law, x, loss)
    theta = random_theta(problem)
    log_loss = np.log(evaluate_law(law, natural(problem, theta), x))
    residual = (log_loss - np.log(loss)) / 1e-3
    clipped = np.clip(residual, -1, 1)
    expected = np.sum(clipped * (residual - clipped / 2), axis=1)
    assert objective_values(problem, theta, np.ones((3, len(loss)))) == pytest.approx(expected, rel=1e-9)


def test_nonnegative_least_squares_of_many_rows_are_those_of_scipy():
    rng = np.random.default_rng(0)
    columns, right = rng.normal(size=(40, 4, 9)), rng.normal(size=(40, 9))
    matrix = columns @ columns.transpose(0, 2, 1)
    found = nonnegative_least_squares(matrix, np.einsum("bir,br->bi", columns, right))
    expected = [nnls(columns[row].T, right[row])[0] for row in range(40)]
    assert found == pytest.approx(np.array(expected), abs=1e-9)


@settings(max_examples=8, deadline=None)
@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6), st.floats(1e-2, 1e2))
def test_fit_does_not_depend_on_the_units_of_runs_or_loss(n_unit, d_unit, loss_unit):
    law = LAWS["chinchilla"]
    x, _ = random_runs(law, runs=20)
    noise = np.exp(np.random.default_rng(3).normal(0, 2e-3, 20))
    loss = evaluate_law(law, [1.7, 420.0, 0.36, 1900.0, 0.29], x) * noise
    plain = solve(make_problem(law, x, loss), check=False)
    other = solve(make_problem(law, x * [n_unit, d_unit], loss * loss_unit), check=False)
    _, _, alpha, _, beta = plain.parameters
    units = loss_unit * np.array([1, n_unit**alpha, 1 / loss_unit, d_unit**beta, 1 / loss_unit])
    assert other.parameters == pytest.approx(plain.parameters * units, rel=1e-5)
    assert other.objective == pytest.approx(plain.objective, rel=1e-8)


@pytest.mark.parametrize("delta", [0.0, -1e-3, float("inf"), float("nan")])
def test_delta_that_is_no_positive_number_is_refused(delta):
    with pytest.raises(FitError, match="delta"):
        Objective(delta=delta)


@pytest.mark.parametrize(
    ("difference", "warning"),
    [
        (None, ""),  # not checked
        (1e-6, ""),
        (-1e-6, ""),
        (2e-6, "the cross-check ended 2.0e-06 of the objective above the search; the lower is kept"),
        (-0.25, "the cross-check ended 2.5e-01 of the objective below the search; the lower is kept"),
    ],
)
def test_cross_check_that_differs_by_more_than_a_millionth_is_a_warning(difference, warning):
    check = None if difference is None else CrossCheck.model_construct(relative_difference=difference)
    assert disagreement(Method.model_construct(cross_check=check)) == warning


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_projection_at_the_true_exponents_of_exact_runs_finds_the_other_constants(objective):
    law, true = LAWS["chinchilla"], np.array([1.8, 400.0, 0.35, 2000.0, 0.37])  # E, A, alpha, B, beta
    x, _ = random_runs(law, runs=20)
    problem = make_problem(law, x, evaluate_law(law, true, x), objective)
    (theta,) = project(problem, true[[2, 4]][None], FIRST_INNER_STEPS)
    assert natural(problem, theta) == pytest.approx(true, rel=1e-6)


@pytest.mark.parametrize("law", SUMS, ids=lambda law: law.name)
def test_search_starts_from_a_grid_around_the_published_exponents(law):
    starts = start_exponents(make_problem(law, *random_runs(law)))
    assert len(starts) == {1: 12, 2: 25, 3: 27, 4: 81}[starts.shape[1]]
    assert len(np.unique(starts, axis=0)) == len(starts)
    assert starts.min() <= 0.12  # published exponents lie between 0.05 and 0.7
    assert 0.7 < starts.max() <= 1.6
