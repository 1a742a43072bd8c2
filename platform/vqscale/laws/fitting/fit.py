"""Fit one law to one set of runs: searched one way, checked another, and judged before it is believed.

The search is variable projection over the exponents from a grid, its ends polished by joint Newton steps; the check is
L-BFGS-B on the log-sum-exp form. The lower of the two is kept. No optimiser's `success` is trusted: what counts is the
decrease of the objective that is still within reach, bounds, conditioning, how many starts agree in their constants,
and which other exponents fit as well.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from vqscale.laws.fitting import crosscheck
from vqscale.laws.fitting.crosscheck import SAME_CONSTANT, SAME_MINIMUM, same_constants
from vqscale.laws.fitting.flatness import EQUALLY_GOOD, Spans, describe_flat, describe_spans, exponent_spans
from vqscale.laws.fitting.newton import delta_path, descend_through_deltas, gain_in_reach
from vqscale.laws.fitting.problem import Objective, Problem, derivatives, describe_bound, natural, objective_values
from vqscale.laws.fitting.varpro import search
from vqscale.laws.forms.catalogue import Array
from vqscale.laws.io.schema import CrossCheck, Method

AGREEING_SHARE = 0.1
"""Share of the starts that must reach the best minimum. scipy's defaults reach that of Epoch's 240 Chinchilla runs from
19 % of the starts and call all of them converged; below a tenth the minimum was found by luck."""
CONDITION_LIMIT = 1e12
"""Condition number above which double precision (16 digits) leaves fewer than four for the weakest parameter."""
DISAGREEMENT = 1e-6
"""Relative difference between search and check from which it is a warning."""
DECREASE_LIMIT = 1e-6
"""Share of the objective that one more Newton step may still gain in a converged fit."""
TOLERANCE = 1e-13
"""Share of the objective below which a step's gain is rounding."""
SEARCH_SOLVER = (
    "variable projection over the exponents from a grid (E and coefficients by reweighted non-negative least squares), "
    "every end polished by damped Newton steps with the exact Hessian"
)


class FitStatus(StrEnum):
    CONVERGED = "converged"
    ON_BOUND = "on a bound"
    FEW_STARTS_AGREE = "few starts agree"
    NOT_CONVERGED = "not converged"
    ILL_CONDITIONED = "ill-conditioned"
    FLAT = "flat"


@dataclass(frozen=True, kw_only=True)
class Minimum:
    """Where the search ended: `theta` [P] in logarithms, `parameters` [P] in natural units; `objective` unscaled."""

    problem: Problem
    theta: Array
    parameters: Array
    objective: float
    status: FitStatus
    reason: str
    method: Method
    spans: Spans
    """Of every exponent the values that fit equally well; empty where they were not looked for."""


def solve(problem: Problem, *, check: bool = True) -> Minimum:
    """The best minimum over all starts, judged; cross-checked and searched for flat directions unless `check` is
    false."""
    ends = _polished(problem, search(_widened(problem)))
    found = objective_values(problem, ends, np.ones((len(ends), problem.runs)))
    theta, value = ends[int(found.argmin())], float(found.min())
    # `negligible`: objectives of noise-free runs are rounding errors, whose ratios mean nothing.
    same = ends[found - value <= SAME_MINIMUM * value + problem.negligible]
    agreeing = int(same_constants(problem, same, theta).sum())
    checked: CrossCheck | None = None
    if check:
        other = crosscheck.cross_check(problem)
        checked = crosscheck.cross_check_record(problem, other, value)
        if other.value < value:
            theta = _polished(problem, other.theta[None])[0]
    spans = exponent_spans(problem, theta, same) if check else {}
    return _minimum(problem, theta, agreeing, len(ends), checked, spans)


def disagreement(method: Method) -> str:
    """A warning where search and check differ; empty where they do not."""
    check = method.cross_check
    if check is None or abs(check.relative_difference) <= DISAGREEMENT:
        return ""
    side = "above" if check.relative_difference > 0 else "below"
    size = abs(check.relative_difference)
    return f"the cross-check ended {size:.1e} of the objective {side} the search; the lower is kept"


def _widened(problem: Problem) -> Problem:
    """The problem at the delta where a search starts: not below 1e-3, where kinks would stop starts far away."""
    first = [*delta_path(problem), problem.objective.delta][0]
    return problem.with_objective(Objective(delta=first, residual=problem.objective.residual))


def _polished(problem: Problem, theta_BP: Array) -> Array:
    return descend_through_deltas(problem, theta_BP, np.ones((len(theta_BP), problem.runs)), tolerance=TOLERANCE)


def _minimum(
    problem: Problem, theta_P: Array, agreeing: int, starts: int, checked: CrossCheck | None, spans: Spans
) -> Minimum:
    found = derivatives(problem, theta_P[None], np.ones((1, problem.runs)))
    gain, condition = gain_in_reach(found, problem.searched)
    value = float(found.value[0])
    share = gain / max(value, problem.negligible)
    status, reason = _judge(problem, theta_P, share, condition, agreeing, starts, spans)
    method = Method(
        solver=SEARCH_SOLVER,
        objective=problem.objective.description,
        residual=problem.objective.residual,
        delta=problem.objective.delta,
        starts=starts,
        starts_agreeing=agreeing,
        tolerance=TOLERANCE,
        decrease_in_reach=share,
        condition=condition,
        cross_check=checked,
    )
    return Minimum(
        problem=problem,
        theta=theta_P,
        parameters=natural(problem, theta_P),
        objective=problem.scaled_back(value),
        status=status,
        reason=reason,
        method=method,
        spans=spans,
    )


def _judge(
    problem: Problem, theta_P: Array, share: float, condition: float, agreeing: int, starts: int, spans: Spans
) -> tuple[FitStatus, str]:
    # In order of cause: a parameter on a bound or not determined explains a search that did not converge.
    bound = describe_bound(problem, theta_P)
    if bound:
        return FitStatus.ON_BOUND, bound
    if condition > CONDITION_LIMIT:
        reason = f"the runs do not determine all parameters (condition number {condition:.1e})"
        return FitStatus.ILL_CONDITIONED, reason
    if share > DECREASE_LIMIT:
        return FitStatus.NOT_CONVERGED, f"one more step would lower the objective by {share:.1e} of itself"
    if flat := describe_flat(spans):
        return FitStatus.FLAT, (
            f"{flat} fit equally well (objective within {100 * EQUALLY_GOOD:g} %), so that the runs do not determine"
            " the law. Runs of several kinds in one subset do this: name what tells them apart with --group"
        )
    if agreeing < AGREEING_SHARE * starts:
        reason = f"{agreeing} of {starts} starts reached the constants of the best minimum"
        others = describe_spans(spans, 1 + SAME_CONSTANT)
        return FitStatus.FEW_STARTS_AGREE, f"{reason}; {others} fit equally well" if others else reason
    return FitStatus.CONVERGED, ""


def refit(problem: Problem, theta_P: Array, weight_BR: Array) -> Array:
    """The minimum nearest to `theta_P` for every weighting of the runs: theta [B, P]."""
    start_BP = np.tile(theta_P, (len(weight_BR), 1))
    # 1e-9 is far below the spread between refits, which is all that they are used for.
    return descend_through_deltas(problem, start_BP, weight_BR, tolerance=1e-9)
