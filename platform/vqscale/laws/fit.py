"""Fit one law to one set of runs: Huber loss on log residuals, many starts, a check of our own at the end.

The objective is sum over runs of huber(log L_predicted - log L_measured; delta). Optimisers see it divided by delta^2:
scipy's `ftol` is absolute below 1, and on the bare objective (about 1e-3) every start would stop early and report
success. Nothing here trusts `success`: what counts is the decrease of the objective that is still within reach.
"""

import itertools
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, minimize, nnls

from vqscale.laws.forms import Array, log_loss, log_loss_and_jacobian, log_loss_jacobian, natural

DELTA = 1e-3
"""Hoffmann et al. 2022 (arXiv 2203.15556), section 3.3."""
EXPONENT_RANGE = (1e-3, 4.0)
START_EXPONENTS = {1: np.geomspace(0.05, 1.6, 12), 2: np.geomspace(0.08, 1.3, 5)}
"""Start values of every exponent, by number of axes; their product is the grid of starts."""
AGREE_SHARE = 0.1
CONDITION_LIMIT = 1e12


class FitStatus(StrEnum):
    CONVERGED = "converged"
    ON_BOUND = "on a bound"
    FEW_STARTS_AGREE = "few starts agree"
    NOT_CONVERGED = "not converged"
    ILL_CONDITIONED = "ill-conditioned"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """The runs of one fit: `z` [R, A] the centred log x, `log_losses` [R], `centre` [A] the mean log x."""

    z: Array
    log_losses: Array
    centre: Array
    delta: float = DELTA

    @property
    def axes(self) -> int:
        return int(self.z.shape[1])

    def take(self, rows_R: NDArray[np.int64]) -> "Problem":
        """The same problem on resampled runs; the centre stays, so that parameters stay comparable."""
        return replace(self, z=self.z[rows_R], log_losses=self.log_losses[rows_R])


@dataclass(frozen=True, kw_only=True)
class Minimum:
    """Where the search ended: `theta` [P] in logarithms, `parameters` [P] in natural units; `objective` unscaled."""

    theta: Array
    parameters: Array
    objective: float
    status: FitStatus
    reason: str
    starts: int
    starts_agreeing: int
    condition: float
    decrease: float
    """What one more Newton step would gain, as a share of the objective."""


def make_problem(x_RA: Array, loss_R: Array, delta: float = DELTA) -> Problem:
    """Raises AssertionError unless all values are finite and positive: the caller selects the runs."""
    for values in (x_RA, loss_R):
        assert np.all((values > 0) & np.isfinite(values))
    log_x_RA = np.log(x_RA.astype(np.float64))
    centre_A = log_x_RA.mean(axis=0)
    return Problem(z=log_x_RA - centre_A, log_losses=np.log(loss_R), centre=centre_A, delta=delta)


def solve(problem: Problem) -> Minimum:
    """The best minimum over all starts, polished and judged."""
    ends = [_descend(problem, start) for start in _starts(problem)]
    values = np.array([_scaled_objective(end, problem)[0] for end in ends])
    best = polish(problem, ends[int(values.argmin())])
    optimum = _scaled_objective(best, problem)[0]
    # A start agrees when it is within 1 %, or within what residuals of a thousandth of delta would explain.
    agreeing = int(np.sum(values - optimum <= 0.01 * optimum + 1e-6 * len(problem.log_losses)))
    status, reason, condition, decrease = _judge(problem, best, agreeing, len(ends))
    return Minimum(
        theta=best,
        parameters=natural(best, problem.centre),
        objective=optimum * problem.delta**2,
        status=status,
        reason=reason,
        starts=len(ends),
        starts_agreeing=agreeing,
        condition=condition,
        decrease=decrease,
    )


def polish(problem: Problem, theta_P: Array, tolerance: float = 1e-15) -> Array:
    """The minimum nearest to `theta_P`, by trust-region Newton steps on the Huber sum; never worse than `theta_P`."""
    low, high = bounds(problem)
    inside = np.clip(theta_P, low + 1e-9, high - 1e-9)
    result = least_squares(
        _residuals,
        inside,
        jac=_residual_jacobian,
        args=(problem,),
        bounds=(low, high),
        loss="huber",
        f_scale=1.0,
        x_scale="jac",
        ftol=tolerance,
        xtol=tolerance,
        gtol=tolerance,
        max_nfev=300,
    )
    candidates = [np.asarray(result.x, dtype=np.float64), np.clip(theta_P, low, high)]
    return min(candidates, key=lambda theta: _scaled_objective(theta, problem)[0])


def _residuals(theta_P: Array, problem: Problem) -> Array:
    """In units of delta."""
    return (log_loss(theta_P, problem.z) - problem.log_losses) / problem.delta


def _residual_jacobian(theta_P: Array, problem: Problem) -> Array:
    return log_loss_jacobian(theta_P, problem.z) / problem.delta


def bounds(problem: Problem) -> tuple[Array, Array]:
    """Lowest and highest theta. E lies between a thousandth of the smallest loss and that loss."""
    smallest, largest = problem.log_losses.min(), problem.log_losses.max()
    axes = problem.axes
    low = [smallest + np.log(1e-3)] + [smallest + np.log(1e-8)] * axes + [EXPONENT_RANGE[0]] * axes
    high = [smallest] + [largest + np.log(10.0)] * axes + [EXPONENT_RANGE[1]] * axes
    return np.array(low), np.array(high)


def on_bound(problem: Problem, theta_P: Array) -> str:
    """Which parameter lies on a bound and what that means, in words; empty when none does."""
    low, high = bounds(problem)
    axes = problem.axes
    near = 1e-3
    if theta_P[0] - low[0] < near:
        return "E fell to zero: the runs show no levelling off, so E and the exponents cannot be told apart"
    if high[0] - theta_P[0] < near:
        return "E rose to the smallest measured loss: larger runs bring nothing that the form could explain"
    names = ("A", "B"), ("alpha", "beta")
    for axis in range(axes):
        if theta_P[1 + axis] - low[1 + axis] < near:
            return f"{names[0][axis]} fell to zero: the loss does not fall along this axis"
        if high[1 + axis] - theta_P[1 + axis] < near:
            return f"{names[0][axis]} is unbounded"
        exponent = theta_P[1 + axes + axis]
        if exponent - EXPONENT_RANGE[0] < near or EXPONENT_RANGE[1] - exponent < near:
            return f"{names[1][axis]} left {EXPONENT_RANGE[0]}..{EXPONENT_RANGE[1]}"
    return ""


def _starts(problem: Problem) -> list[Array]:
    """Exponents from a grid; E and the coefficients solved for them by non-negative least squares on the loss."""
    low, high = bounds(problem)
    grid = START_EXPONENTS[problem.axes]
    return [
        np.clip(_solve_linear(problem, np.array(exponents)), low, high)
        for exponents in itertools.product(grid, repeat=problem.axes)
    ]


def _solve_linear(problem: Problem, exponents_A: Array) -> Array:
    loss_R = np.exp(problem.log_losses)
    columns_RT = np.concatenate([np.ones((len(loss_R), 1)), np.exp(-exponents_A * problem.z)], axis=1)
    coefficients, _ = nnls(columns_RT / loss_R[:, None], np.ones(len(loss_R)))
    return np.concatenate([np.log(np.maximum(coefficients, 1e-300)), exponents_A])


def _descend(problem: Problem, start_P: Array) -> Array:
    result = minimize(
        _scaled_objective,
        start_P,
        args=(problem,),
        jac=True,
        method="L-BFGS-B",
        bounds=list(zip(*bounds(problem), strict=True)),
        options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 1000, "maxcor": 20},
    )
    return np.asarray(result.x, dtype=np.float64)


def _scaled_objective(theta_P: Array, problem: Problem) -> tuple[float, Array]:
    """Huber sum over delta^2, and its gradient."""
    log_loss_R, jacobian_RP = log_loss_and_jacobian(theta_P, problem.z)
    scaled_R = (log_loss_R - problem.log_losses) / problem.delta
    clipped_R = np.clip(scaled_R, -1, 1)
    # c (r - c/2) is r^2/2 where r is not clipped and |r| - 1/2 where it is.
    return float(np.sum(clipped_R * (scaled_R - 0.5 * clipped_R))), clipped_R @ jacobian_RP / problem.delta


def _judge(problem: Problem, theta_P: Array, agreeing: int, starts: int) -> tuple[FitStatus, str, float, float]:
    reason = on_bound(problem, theta_P)
    if reason:
        return FitStatus.ON_BOUND, reason, float("nan"), float("nan")
    decrease, condition = _decrease_in_reach(problem, theta_P)
    objective = _scaled_objective(theta_P, problem)[0]
    share = decrease / max(objective, 1e-300)
    if condition > CONDITION_LIMIT:
        reason = f"the runs do not determine all parameters (condition number {condition:.1e})"
        return FitStatus.ILL_CONDITIONED, reason, condition, share
    if decrease > 1e-6 * objective + 1e-9 * len(problem.log_losses):
        reason = f"the objective can still fall by {share:.1e} of itself"
        return FitStatus.NOT_CONVERGED, reason, condition, share
    if agreeing < AGREE_SHARE * starts:
        return FitStatus.FEW_STARTS_AGREE, f"{agreeing} of {starts} starts reached the best minimum", condition, share
    return FitStatus.CONVERGED, "", condition, share


def _decrease_in_reach(problem: Problem, theta_P: Array) -> tuple[float, float]:
    """What one reweighted Gauss-Newton step would gain (scaled objective), and the condition of its matrix.

    Half of g' H^-1 g does not depend on the units of the parameters, which a gradient norm would.
    """
    jacobian_RP = _residual_jacobian(theta_P, problem)
    size_R = np.abs(_residuals(theta_P, problem))
    weight_R = 1.0 / np.maximum(size_R, 1.0)
    hessian = jacobian_RP.T @ (weight_R[:, None] * jacobian_RP)
    scale_P = 1.0 / np.sqrt(np.diag(hessian))
    normalised = hessian * np.outer(scale_P, scale_P)
    gradient = _scaled_objective(theta_P, problem)[1] * scale_P
    step = np.linalg.lstsq(normalised, gradient, rcond=None)[0]
    return float(0.5 * gradient @ step), float(np.linalg.cond(normalised))
