"""The objective of a fit: its value, gradient and exact Hessian, for every form and many weightings at once.

Terms are kept in logarithms, log term_j = a_j - sum_k Z_rjk eta_k with Z made of centred log x (centring takes away
most of the correlation between a coefficient and its exponents), so that L = exp(e) + sum_j exp(log term_j) after
Hoffmann et al. 2022 (arXiv 2203.15556, section 3.3). All log terms are linear in theta: one small formula serves
every form.

Letters: B weightings (refits, starts), R runs, J terms, I = 1 + J terms with E first, K exponents, A axes,
P parameters. theta_P = [e, a_1..a_J, eta_1..eta_K].
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from vqscale.errors import FitError
from vqscale.laws.forms.catalogue import Array, Formula, Law, incidence, parameter_names
from vqscale.laws.forms.general import GeneralForm

DELTA = 1e-3
"""Huber threshold of log residuals: Hoffmann et al. 2022 (arXiv 2203.15556), section 3.3."""
LEAST_SQUARES_UNIT = 1e-3
"""Residuals of a least-squares fit are counted in this unit (of the mean loss, where they are raw), like `DELTA`."""
EXPONENT_RANGE = (1e-3, 4.0)
"""Bounds of the search; published exponents lie between 0.05 (Kaplan et al. 2020) and 0.7."""
LOWEST_E = 1e-3
"""E lies between this share of the smallest loss and that loss."""
NO_E = 1e-18
"""Value of E in a law without a floor, as a share of the smallest loss: below rounding, yet with a logarithm."""
BOUND_MARGIN = 1e-3
"""Distance from a bound, in theta, below which a parameter counts as lying on it."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Sum over runs of the Huber loss of a residual; `delta` None: the sum of squares.

    `residual`: log(predicted) - log(measured), or predicted - measured. `delta` is in the residual's unit.
    """

    delta: float | None = DELTA
    residual: Literal["log", "raw"] = "log"

    def __post_init__(self) -> None:
        if self.delta is not None and not 0 < self.delta < np.inf:
            raise FitError(f"delta: {self.delta!r} is no positive number. Leave it out for least squares.")

    @property
    def description(self) -> str:
        kind = "log residuals" if self.residual == "log" else "raw residuals"
        return f"sum of squared {kind}" if self.delta is None else f"sum of Huber losses of {kind}"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """The runs of one fit: `z` [J, K, R], `losses` [R], `centre` [J, K], and what is to be minimised."""

    formula: Formula
    with_e: bool
    """Whether E is searched for; in a law without a floor it is held at `NO_E`."""
    z: Array
    losses: Array
    centre: Array
    objective: Objective
    general: GeneralForm | None = None
    """The form where it is no sum of terms: then there are no `z`, and `centre` is the mean log x [A]."""
    log_x: Array | None = None
    """[R, A]; of a general form only."""

    @property
    def runs(self) -> int:
        return len(self.losses)

    @property
    def terms(self) -> int:
        return len(self.z)

    @property
    def size(self) -> int:
        """Number of parameters."""
        if self.general is not None:
            return len(self.general.constants)
        return int(1 + self.z.shape[0] + self.z.shape[1])

    @property
    def searched(self) -> slice:
        """The part of theta that is searched for."""
        return slice(0 if self.with_e else 1, None)

    @cached_property
    def target(self) -> Array:
        """What the prediction is compared with: [R]."""
        return np.log(self.losses) if self.objective.residual == "log" else self.losses

    @cached_property
    def unit(self) -> float:
        """The optimisers see residuals divided by this: delta, so that no tolerance depends on it.

        Unscaled objectives are about 1e-3, where an absolute tolerance such as scipy's `ftol` stops a search early.
        """
        if self.objective.delta is not None:
            return self.objective.delta
        return LEAST_SQUARES_UNIT * (1.0 if self.objective.residual == "log" else float(self.losses.mean()))

    @property
    def negligible(self) -> float:
        """A scaled objective below which nothing is left to explain: residuals of a thousandth of the unit."""
        return 1e-6 * self.runs

    @cached_property
    def slopes(self) -> Array:
        """d log term / d theta: [P, I * R], constant."""
        # Log terms are linear in theta: these are the same at every theta and computed once.
        terms, exponents, runs = self.z.shape
        found_PIR = np.zeros((self.size, 1 + terms, runs))
        found_PIR[np.arange(1 + terms), np.arange(1 + terms)] = 1
        found_PIR[1 + terms :, 1:] = -self.z.transpose(1, 0, 2)
        assert found_PIR.shape[0] == 1 + terms + exponents
        return found_PIR.reshape(self.size, -1)

    @cached_property
    def slope_products(self) -> Array:
        """Outer products of the slopes: [I * R, P * P]."""
        return np.asarray(np.einsum("pn,qn->npq", self.slopes, self.slopes).reshape(-1, self.size**2))

    def with_objective(self, objective: Objective) -> "Problem":
        return replace(self, objective=objective)

    def scaled_back(self, value: float) -> float:
        """An objective as it is recorded, from what the optimisers see."""
        # Least squares is recorded as a sum of squares, but minimised as half of it, like the Huber loss near zero.
        return value * self.unit**2 * (2 if self.objective.delta is None else 1)


def make_problem(law: Law, x_RA: Array, loss_R: Array, objective: Objective | None = None) -> Problem:
    """Raises AssertionError unless all values are finite and positive: the caller filters the runs."""
    for values in (x_RA, loss_R):
        assert np.all((values > 0) & np.isfinite(values))
    log_x_RA = np.log(x_RA.astype(np.float64))
    centre_A = log_x_RA.mean(axis=0)
    if law.general is not None:
        return Problem(
            formula=law,
            with_e=True,
            z=np.zeros((0, 0, len(loss_R))),
            losses=np.asarray(loss_R, dtype=np.float64),
            centre=centre_A,
            objective=objective or Objective(),
            general=law.general,
            log_x=log_x_RA,
        )
    incidence_JKA = incidence(law)
    return Problem(
        formula=law,
        with_e=law.floor,
        z=np.einsum("jka,ra->jkr", incidence_JKA, log_x_RA - centre_A),
        losses=np.asarray(loss_R, dtype=np.float64),
        centre=incidence_JKA @ centre_A,
        objective=objective or Objective(),
    )


class ForwardPass(NamedTuple):
    """Result of one pass over the runs: `prediction` [B, R] (log or raw), `share` [B, I, R] of the terms in it."""

    prediction: Array
    share: Array


def forward_pass(problem: Problem, theta_BP: Array) -> ForwardPass:
    """Prediction and shares at every theta; a general form has no shares."""
    if problem.general is not None:
        assert problem.log_x is not None
        log_BR = problem.general.log_loss(theta_BP, problem.log_x, problem.centre)
        prediction_BR = np.exp(log_BR) if problem.objective.residual == "raw" else log_BR
        return ForwardPass(prediction_BR, np.empty((len(theta_BP), 0, problem.runs)))
    # No log-sum-exp needed: the exponentials cannot overflow within `bounds`, and E keeps their sum away from zero.
    terms_BIR = np.exp(theta_BP @ problem.slopes).reshape(len(theta_BP), 1 + problem.terms, problem.runs)
    sum_BR = terms_BIR.sum(axis=1)
    if problem.objective.residual == "raw":
        return ForwardPass(sum_BR, terms_BIR)
    return ForwardPass(np.log(sum_BR), terms_BIR / sum_BR[:, None])


def scaled_residuals(problem: Problem, forward: ForwardPass) -> Array:
    return np.asarray((forward.prediction - problem.target) / problem.unit)


def clipped(problem: Problem, residual_BR: Array) -> Array:
    """Derivative of the loss of one residual."""
    return residual_BR if problem.objective.delta is None else np.clip(residual_BR, -1, 1)


def objective_values(problem: Problem, theta_BP: Array, weight_BR: Array) -> Array:
    """Scaled objective of every row: [B]."""
    return _values(problem, scaled_residuals(problem, forward_pass(problem, theta_BP)), weight_BR)


def _values(problem: Problem, residual_BR: Array, weight_BR: Array) -> Array:
    clipped_BR = clipped(problem, residual_BR)
    # c (r - c/2) is r^2/2 where r is not clipped and |r| - 1/2 where it is.
    return np.asarray(np.sum(weight_BR * clipped_BR * (residual_BR - 0.5 * clipped_BR), axis=1))


class Derivatives(NamedTuple):
    """Scaled objective [B], gradient [B, P], Hessian [B, P, P], and the reweighted Gauss-Newton matrix [B, P, P].

    The last is positive semi-definite and bounds the curvature of the Huber loss from above.
    """

    value: Array
    gradient: Array
    hessian: Array
    majorant: Array


def derivatives(problem: Problem, theta_BP: Array, weight_BR: Array) -> Derivatives:
    forward = forward_pass(problem, theta_BP)
    residual_BR = scaled_residuals(problem, forward)
    if problem.general is not None:
        jacobian_BPR = _general_jacobian(problem, theta_BP, forward) / problem.unit
        return _gauss_newton(problem, residual_BR, jacobian_BPR, weight_BR)
    jacobian_BPR = _jacobian(problem, forward) / problem.unit
    pull_BR = weight_BR * clipped(problem, residual_BR)
    # Huber loss h(r): h' is r clipped, h'' is 1 inside delta and 0 outside, and h'(r) / r bounds h'' from above.
    inside_BR = weight_BR * (1.0 if problem.objective.delta is None else np.abs(residual_BR) < 1)
    reweighted_BR = weight_BR * (1.0 if problem.objective.delta is None else 1 / np.maximum(np.abs(residual_BR), 1))
    bent_BIR = pull_BR[:, None] * forward.share / problem.unit
    curvature = (bent_BIR.reshape(len(theta_BP), -1) @ problem.slope_products).reshape(-1, problem.size, problem.size)
    # log of a sum: the second derivative of log f is f''/f - (f'/f)^2.
    # `curvature` holds the first part, this the second, which a raw residual does not have.
    squares_BR = inside_BR - (pull_BR * problem.unit if problem.objective.residual == "log" else 0.0)
    transposed = jacobian_BPR.transpose(0, 2, 1)
    return Derivatives(
        value=_values(problem, residual_BR, weight_BR),
        gradient=(jacobian_BPR @ pull_BR[:, :, None])[:, :, 0],
        hessian=curvature + (jacobian_BPR * squares_BR[:, None]) @ transposed,
        majorant=(jacobian_BPR * reweighted_BR[:, None]) @ transposed,
    )


def _gauss_newton(problem: Problem, residual_BR: Array, jacobian_BPR: Array, weight_BR: Array) -> Derivatives:
    """As `derivatives`, with the second derivatives of the prediction left out of the Hessian.

    The steps of a descent are then Levenberg and Marquardt's: gradient and minimum are exact, the way there longer.
    """
    least_squares = problem.objective.delta is None
    inside_BR = weight_BR * (1.0 if least_squares else np.abs(residual_BR) < 1)
    reweighted_BR = weight_BR * (1.0 if least_squares else 1 / np.maximum(np.abs(residual_BR), 1))
    transposed = jacobian_BPR.transpose(0, 2, 1)
    majorant = (jacobian_BPR * reweighted_BR[:, None]) @ transposed
    return Derivatives(
        value=_values(problem, residual_BR, weight_BR),
        gradient=(jacobian_BPR @ (weight_BR * clipped(problem, residual_BR))[:, :, None])[:, :, 0],
        # A tenth of the majorant: with few residuals inside delta the rest would leave directions without curvature.
        hessian=0.9 * (jacobian_BPR * inside_BR[:, None]) @ transposed + 0.1 * majorant,
        majorant=majorant,
    )


def _general_jacobian(problem: Problem, theta_BP: Array, forward: ForwardPass) -> Array:
    assert problem.general is not None
    assert problem.log_x is not None
    found = problem.general.jacobian(theta_BP, problem.log_x, problem.centre)
    return found * forward.prediction[:, None] if problem.objective.residual == "raw" else found


def per_run_derivatives(problem: Problem, theta_P: Array) -> tuple[Array, Array]:
    """Gradient [R, P] and Hessian [R, P, P] of every run's own summand of the scaled objective."""
    forward = forward_pass(problem, theta_P[None])
    residual_R = scaled_residuals(problem, forward)[0]
    jacobian_RP = _jacobian(problem, forward)[0].T / problem.unit
    pull_R = clipped(problem, residual_R)
    inside_R = np.ones_like(pull_R) if problem.objective.delta is None else (np.abs(residual_R) < 1).astype(np.float64)
    # As in `derivatives`, which sums these over the runs.
    squares_R = inside_R - (pull_R * problem.unit if problem.objective.residual == "log" else 0.0)
    bent_IR = pull_R * forward.share[0] / problem.unit
    slopes_PIR = problem.slopes.reshape(problem.size, 1 + problem.terms, problem.runs)
    curvature_RPP = np.einsum("ir,pir,qir->rpq", bent_IR, slopes_PIR, slopes_PIR, optimize=True)
    outer_RPP = jacobian_RP[:, :, None] * jacobian_RP[:, None, :]
    return jacobian_RP * pull_R[:, None], curvature_RPP + outer_RPP * squares_R[:, None, None]


def _jacobian(problem: Problem, forward: ForwardPass) -> Array:
    """d prediction / d theta: [B, P, R]."""
    found = np.empty((len(forward.share), problem.size, problem.runs))
    first = 1 + problem.terms
    found[:, :first] = forward.share
    np.einsum("bjr,jkr->bkr", -forward.share[:, 1:], problem.z, out=found[:, first:])
    return found


def natural(problem: Problem, theta_BP: Array) -> Array:
    """Values in the units of x and in the order of `parameter_names`: [B, P], or [P] for one theta."""
    if problem.general is not None:
        return problem.general.natural(theta_BP, problem.centre)
    terms = problem.terms
    exponent_BK = theta_BP[..., 1 + terms :]
    # Back from centred log x: log c_j = a_j + sum_k eta_k centre_jk.
    coefficient_BJ = np.exp(theta_BP[..., 1 : 1 + terms] + exponent_BK @ problem.centre.T)
    e_B1 = np.exp(theta_BP[..., :1]) * problem.with_e  # exactly 0 in a law without a floor, not NO_E
    found = np.concatenate([e_B1, coefficient_BJ, exponent_BK], axis=-1)
    return np.asarray(found[..., _natural_order(problem.formula)])


def _natural_order(formula: Formula) -> list[int]:
    """Index in theta of each of `parameter_names`."""
    names = theta_names(formula)
    return [names.index(name) for name in parameter_names(formula.terms)]


def theta_names(formula: Formula) -> list[str]:
    coefficients = [term.coefficient for term in formula.terms]
    return ["E", *coefficients, *dict.fromkeys(name for term in formula.terms for name in term.powers.values())]


def bounds(problem: Problem) -> tuple[Array, Array]:
    """Lowest and highest theta."""
    if problem.general is not None:
        return problem.general.bounds(problem.losses)
    smallest, largest = np.log(problem.losses.min()), np.log(problem.losses.max())
    terms, exponents, _ = problem.z.shape
    # A term's value at the centre of the runs: from 1e-8 of the smallest loss, which is none, to ten times the largest.
    low = (
        [smallest + np.log(LOWEST_E if problem.with_e else NO_E)]
        + [smallest + np.log(1e-8)] * terms
        + [EXPONENT_RANGE[0]] * exponents
    )
    # E is at most the smallest loss: every other term is positive.
    high = [smallest if problem.with_e else low[0]] + [largest + np.log(10.0)] * terms + [EXPONENT_RANGE[1]] * exponents
    return np.array(low), np.array(high)


def on_bound(problem: Problem, theta_BP: Array) -> Array:
    """Whether any parameter lies on a bound of the search: [B]."""
    low, high = bounds(problem)
    near_BP = (theta_BP - low < BOUND_MARGIN) | (high - theta_BP < BOUND_MARGIN)
    return np.asarray(near_BP[..., problem.searched].any(axis=-1))


def describe_bound(problem: Problem, theta_P: Array) -> str:
    """Which parameter lies on a bound and what that means; empty where none does."""
    low, high = bounds(problem)
    names = theta_names(problem.formula) if problem.general is None else problem.general.theta_names
    for index, name in list(enumerate(names))[problem.searched]:
        lower, upper = theta_P[index] - low[index] < BOUND_MARGIN, high[index] - theta_P[index] < BOUND_MARGIN
        if (lower or upper) and problem.general is not None:
            return f"{name} ended on a bound of the search: the runs do not determine it"
        if lower or upper:
            return _bound_meaning(name, index, problem.terms, bool(lower))
    return ""


def _bound_meaning(name: str, index: int, terms: int, lower: bool) -> str:
    if index == 0 and lower:
        return "E fell to zero: the runs show no levelling off, so E and the exponents cannot be identified"
    if index == 0:
        return "E rose to the smallest measured loss: larger runs bring nothing that the form could explain"
    if index <= terms:
        return f"{name} fell to zero: the loss does not fall along this term" if lower else f"{name} is unbounded"
    return f"{name} left {EXPONENT_RANGE[0]}..{EXPONENT_RANGE[1]}"
