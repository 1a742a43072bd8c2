"""Variable projection: E and the coefficients are solved inside, and only the exponents are searched.

For given exponents the law is linear in E and the coefficients: a small non-negative least-squares problem, reweighted
for the Huber loss and, where residuals are logarithmic, linearised about the last prediction (Gauss-Newton). What
remains is a function of the exponents alone, smooth enough for Newton steps from a modest grid; its gradient is the
partial one (the envelope theorem) and its Hessian the Schur complement, so that a joint Newton step followed by a new
inner solution is a Newton step on it (Golub & Pereyra 1973; Ruhe & Wedin 1980).

Letters as in `problem`.
"""

import itertools

import numpy as np

from vqscale.laws.fitting.newton import descend
from vqscale.laws.fitting.problem import Problem, bounds, forward_pass, scaled_residuals
from vqscale.laws.forms.catalogue import Array

START_GRID = {1: (0.05, 1.6, 12), 2: (0.08, 1.3, 5), 3: (0.1, 1.0, 3), 4: (0.12, 0.9, 3)}
"""Smallest and largest start value of an exponent and how many, by number of exponents.

Published exponents lie between 0.05 and 0.7; 12, 25, 27 and 81 starts keep a search below a second.
"""
INNER_STEPS = 3
"""Reweighted solutions for E and the coefficients after an outer step, which moves them little."""
FIRST_INNER_STEPS = 12
"""The same at a start, where they come from nothing."""


def search(problem: Problem) -> Array:
    """Where the reduced function's descent ends from every point of the grid: theta [G, P].

    A general form has nothing to project: the descent is that of all constants from the form's own starts.
    """
    if problem.general is not None:
        starts_GP = problem.general.starts(problem.losses)
        weight_GR = np.ones((len(starts_GP), problem.runs))
        return descend(problem, starts_GP, weight_GR, tolerance=1e-6, steps=200)
    starts_GP = project(problem, start_exponents(problem), FIRST_INNER_STEPS)
    # Loose: every end is polished by `descend_through_deltas` afterwards.
    weight_GR = np.ones((len(starts_GP), problem.runs))
    return descend(problem, starts_GP, weight_GR, tolerance=1e-4, steps=40, refine=_refine)


def start_exponents(problem: Problem) -> Array:
    """Start values of the exponents: [G, K]."""
    exponents = problem.z.shape[1]
    line = np.geomspace(*START_GRID[exponents][:2], START_GRID[exponents][2])
    return np.array(list(itertools.product(line, repeat=exponents)))


def project(problem: Problem, exponent_GK: Array, steps: int) -> Array:
    """theta [G, P] with E and the coefficients solved for the given exponents, from nothing."""
    terms, mean = problem.terms, problem.losses.mean()
    # From equal shares of the mean loss: at the centre of the runs log x is 0, and a coefficient is its term.
    equal = np.log(np.full((len(exponent_GK), 1 + terms), mean / (1 + terms)))
    start_GP = np.concatenate([equal, exponent_GK], axis=1)
    return _inner(problem, start_GP, np.ones((len(start_GP), problem.runs)), steps)


def _refine(problem: Problem, theta_BP: Array, weight_BR: Array) -> Array:
    return _inner(problem, theta_BP, weight_BR, INNER_STEPS)


def _inner(problem: Problem, theta_BP: Array, weight_BR: Array, steps: int) -> Array:
    low, high = bounds(problem)
    first = 1 + problem.terms
    columns_BIR = _columns(problem, theta_BP)
    for _ in range(steps):
        coefficients = _reweighted(problem, theta_BP, weight_BR, columns_BIR)
        found = np.log(np.maximum(coefficients, 1e-300))  # a coefficient of zero goes to its lower bound
        theta_BP = np.concatenate([np.clip(found, low[:first], high[:first]), theta_BP[:, first:]], axis=1)
    return theta_BP


def _columns(problem: Problem, theta_BP: Array) -> Array:
    """What E and each coefficient are multiplied by, [B, I, R]; zero for E in a law without one."""
    exponents = np.concatenate([np.zeros((len(theta_BP), 1 + problem.terms)), theta_BP[:, 1 + problem.terms :]], axis=1)
    columns_BIR = np.exp(exponents @ problem.slopes).reshape(len(theta_BP), 1 + problem.terms, problem.runs)
    columns_BIR[:, : problem.searched.start] = 0.0
    return np.asarray(columns_BIR)


def _reweighted(problem: Problem, theta_BP: Array, weight_BR: Array, columns_BIR: Array) -> Array:
    """One reweighted, linearised, non-negative least-squares solution: [B, I]."""
    forward = forward_pass(problem, theta_BP)
    residual_BR = scaled_residuals(problem, forward)
    if problem.objective.delta is not None:
        # Iteratively reweighted least squares for the Huber loss: weight 1 inside delta, delta / |r| outside.
        weight_BR = weight_BR / np.maximum(np.abs(residual_BR), 1)
    goal_BR = np.broadcast_to(problem.target, weight_BR.shape)
    if problem.objective.residual == "log":
        # log(p') - log(p) is about (p' - p) / p, with p the last prediction: Gauss-Newton in E and the coefficients.
        columns_BIR = columns_BIR / np.exp(forward.prediction)[:, None]
        goal_BR = 1 - residual_BR * problem.unit
    weighted = columns_BIR * weight_BR[:, None]
    return nonnegative_least_squares(
        weighted @ columns_BIR.transpose(0, 2, 1), (weighted @ goal_BR[:, :, None])[:, :, 0]
    )


def nonnegative_least_squares(matrix_BII: Array, right_BI: Array) -> Array:
    """Minimisers of x'Mx/2 - r'x over x >= 0: [B, I].

    Rows whose unconstrained solution has a negative entry try every set of positive entries: there are at most 2^5.
    """
    size = right_BI.shape[1]
    found = _restricted(matrix_BII, right_BI, np.ones(size, dtype=bool))
    wrong = np.flatnonzero((found < 0).any(axis=1))
    if not len(wrong):
        return found
    matrix, right = matrix_BII[wrong], right_BI[wrong]
    best, value = np.zeros_like(right), np.zeros(len(wrong))
    # The empty set is x = 0 of value 0, with which `best` starts; the full one was tried above.
    for positive in itertools.product([False, True], repeat=size):
        if any(positive) and not all(positive):
            candidate = _restricted(matrix, right, np.array(positive))
            value_B = 0.5 * np.einsum("bi,bij,bj->b", candidate, matrix, candidate) - np.sum(right * candidate, axis=1)
            better = (candidate >= 0).all(axis=1) & (value_B < value)
            best[better], value[better] = candidate[better], value_B[better]
    found[wrong] = best
    return found


def _restricted(matrix_BII: Array, right_BI: Array, positive_I: Array) -> Array:
    """The stationary point with x = 0 outside `positive_I`."""
    scale = 1 / np.sqrt(np.maximum(np.einsum("bii->bi", matrix_BII), 1e-300)) * positive_I
    # 1e-14 of ridge on the unit diagonal keeps equal columns solvable; 1 makes the rows left out trivial.
    system = matrix_BII * scale[:, :, None] * scale[:, None, :] + np.diag(np.where(positive_I, 1e-14, 1.0))
    return np.asarray(scale * np.linalg.solve(system, (right_BI * scale)[:, :, None])[:, :, 0])
