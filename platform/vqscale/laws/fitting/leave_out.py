"""The minimum without each run in turn, in about the time of two passes over all of them.

Without one run the objective is that of all runs less one summand: gradient and Hessian at the fit's minimum are the
whole ones less the run's own, and the first Newton step needs no pass over the other runs (a rank-one downdate, as in
the leave-one-out formulae of linear regression). The steps after it take the exact gradient with the Hessian of the
first: the minimum moves by a few thousandths, so that each leaves a few thousandths of the error. Rows that do not
settle in this way (a residual crosses the kink of the Huber loss, a parameter reaches a bound) descend as any refit.

Letters as in `problem`; B runs left out.
"""

import numpy as np
from numpy.typing import NDArray

from vqscale.laws.fitting.newton import ROWS, descend_through_deltas
from vqscale.laws.fitting.problem import (
    BOUND_MARGIN,
    Problem,
    bounds,
    clipped,
    derivatives,
    forward_pass,
    per_run_derivatives,
    scaled_residuals,
)
from vqscale.laws.forms.catalogue import Array

Runs = NDArray[np.intp]

STEPS = 8
"""Steps with the first Hessian before a row is given to the descent."""
SMALL = 1e-8
"""What a settled row's last step may have gained, where a standard error of a parameter is worth a half."""
SETTLED = 1e-20
"""What may be left to gain: a parameter is then known to some 1e-10 of its standard error."""
CHUNK = 2**17
"""Numbers of the largest array worked on, which stays in the processor's cache."""
TOLERANCE = 1e-13
"""Of the descent, as of the search."""


def minima_without(problem: Problem, theta_P: Array, member_R: Runs) -> Array:
    """theta [B, P] without the rows of run b, for every b; `member_R`: number of the run of every row."""
    if problem.general is not None:
        runs = np.arange(int(member_R.max()) + 1)
        start_BP = np.tile(theta_P, (len(runs), 1))
        return descend_through_deltas(problem, start_BP, _without(runs, member_R), tolerance=TOLERANCE)
    first_BP, inverse_BPP, sound_B = _first_steps(problem, theta_P, member_R)
    found_BP, settled_B = np.tile(theta_P, (len(first_BP), 1)), np.zeros(len(first_BP), dtype=bool)
    chunk = max(1, CHUNK // ((1 + problem.terms) * problem.runs))
    for at in range(0, len(found_BP), chunk):
        rows = at + np.flatnonzero(sound_B[at : at + chunk])
        found_BP[rows], settled_B[rows] = _settle(problem, first_BP[rows], inverse_BPP[rows], _without(rows, member_R))
    for at in range(0, int(np.sum(~settled_B)), ROWS):
        rows = np.flatnonzero(~settled_B)[at : at + ROWS]
        found_BP[rows] = _descended(problem, theta_P, _without(rows, member_R))
    return found_BP


def _without(rows: Runs, member_R: Runs) -> Array:
    return np.asarray(rows[:, None] != member_R, dtype=np.float64)


def _descended(problem: Problem, theta_P: Array, weight_BR: Array) -> Array:
    """The minimum that the descent finds; settled from there by the gradient, where it is no kink."""
    ends_BP = descend_through_deltas(problem, np.tile(theta_P, (len(weight_BR), 1)), weight_BR, tolerance=TOLERANCE)
    # A descent judges by the objective, whose rounding hides the last six digits of theta: the gradient shows them.
    inverse_BPP, sound_B = _inverse(problem, derivatives(problem, ends_BP, weight_BR).hessian)
    settled_BP, settled_B = _settle(problem, ends_BP.copy(), inverse_BPP, weight_BR)
    return np.where((settled_B & sound_B)[:, None], settled_BP, ends_BP)


def _first_steps(problem: Problem, theta_P: Array, member_R: Runs) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Every row after its first Newton step, the inverse of its Hessian [B, P, P], and whether that is a minimum's."""
    gradient_RP, hessian_RPP = per_run_derivatives(problem, theta_P)
    runs, size = int(member_R.max()) + 1, problem.size
    gradient_BP, hessian_BPP = np.zeros((runs, size)), np.zeros((runs, size, size))
    np.add.at(gradient_BP, member_R, gradient_RP)
    np.add.at(hessian_BPP, member_R, hessian_RPP)
    gradient_BP = gradient_RP.sum(axis=0) - gradient_BP
    hessian_BPP = hessian_RPP.sum(axis=0) - hessian_BPP
    inverse_BPP, sound_B = _inverse(problem, hessian_BPP)
    return theta_P - np.einsum("bpq,bq->bp", inverse_BPP, gradient_BP), inverse_BPP, sound_B


def _inverse(problem: Problem, hessian_BPP: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Inverse of every Hessian over what is searched, zero elsewhere, and whether it is a minimum's; zero where not."""
    free = problem.searched
    curvature_BP, direction_BPP = np.linalg.eigh(hessian_BPP[:, free, free])
    sound_B = curvature_BP[:, 0] > 0
    curvature_BP[~sound_B] = np.inf
    found_BPP = np.zeros_like(hessian_BPP)
    found_BPP[:, free, free] = (direction_BPP / curvature_BP[:, None]) @ direction_BPP.transpose(0, 2, 1)
    return found_BPP, sound_B


def _settle(problem: Problem, theta_BP: Array, inverse_BPP: Array, weight_BR: Array) -> tuple[Array, NDArray[np.bool_]]:
    """The rows after steps with a fixed Hessian and the exact gradient, and which of them have settled."""
    low, high = (limit[problem.searched] for limit in bounds(problem))
    settled_B, last_B = np.zeros(len(theta_BP), dtype=bool), np.zeros(len(theta_BP))
    for _ in range(STEPS):
        going = np.flatnonzero(~settled_B)
        inner_BP = theta_BP[going][:, problem.searched]
        inside_B = ((inner_BP - low > BOUND_MARGIN) & (high - inner_BP > BOUND_MARGIN)).all(axis=1)
        going = going[inside_B]
        if not len(going):
            break
        gradient_BP = _gradient(problem, theta_BP[going], weight_BR[going])
        step_BP = -np.einsum("bpq,bq->bp", inverse_BPP[going], gradient_BP)
        theta_BP[going] += step_BP
        gain_B = -0.5 * np.sum(step_BP * gradient_BP, axis=1)
        # Each step gains the same share of what the one before it gained: that much is still to be gained.
        before_B = last_B[going]
        share_B = np.divide(gain_B, before_B, out=np.ones_like(gain_B), where=before_B > gain_B)
        settled_B[going] = (gain_B < SMALL) & (gain_B * share_B <= SETTLED)
        last_B[going] = gain_B
    return theta_BP, settled_B


def _gradient(problem: Problem, theta_BP: Array, weight_BR: Array) -> Array:
    """Gradient of the scaled objective, [B, P], without the Hessian, which would be most of the work."""
    forward = forward_pass(problem, theta_BP)
    pull_BR = clipped(problem, scaled_residuals(problem, forward))
    pull_BR *= weight_BR
    share_BIR = forward.share
    share_BIR *= pull_BR[:, None]
    return np.asarray(share_BIR.reshape(len(theta_BP), -1) @ problem.slopes.T / problem.unit)
