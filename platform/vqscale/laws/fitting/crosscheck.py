"""The same objective minimised a second way: log-sum-exp Huber, analytic gradient, L-BFGS-B from random starts.

It shares no formula with the search that it checks. Optimisers see the objective divided by delta^2: scipy's `ftol` is
absolute below 1, and on the bare objective (about 1e-3) every start would stop early and report success. On Epoch's
240 Chinchilla runs that gives a = 0.450, as published by Hoffmann et al. 2022, where the minimum has a = 0.514
(Besiroglu et al. 2024, arXiv 2404.10102, traced it to the scale of the loss). `success` is not trusted here either.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqscale.laws.fitting.newton import delta_path
from vqscale.laws.fitting.problem import Problem, bounds, derivatives, forward_pass
from vqscale.laws.forms.catalogue import Array
from vqscale.laws.io.schema import CrossCheck

STARTS = 24
GENERAL_STARTS = 6
"""Of a general form, whose gradient costs as many passes as it has constants."""
SEED = 0
"""Of the random starts: a fit repeated is the same fit."""
SAME_MINIMUM = 0.01
"""Starts agree whose objective is within this share of the best, and whose constants are the same."""
SAME_CONSTANT = 0.05
"""Relative difference up to which an exponent, E, or the size of a term at the centre of the runs is the same."""
SAME_PREDICTION = 1e-3
"""Relative difference of a prediction up to which two ends of a general form are the same: a third of what seeds do."""
CHECK_SOLVER = "L-BFGS-B on the log-sum-exp form with analytic gradient from random starts, objective over delta^2"


class CheckedMinimum(NamedTuple):
    """Best end of the random starts."""

    theta: Array
    value: float
    """Scaled objective."""
    starts: int
    agreeing: int


def cross_check(problem: Problem) -> CheckedMinimum:
    """The best end of all starts; a delta below 1e-3 is reached from there through larger ones."""
    path = [*delta_path(problem, ratio=10.0), problem.objective.delta]
    first = problem.with_objective(replace(problem.objective, delta=path[0]))
    ends = [_descend(first, start) for start in _starts(problem)]
    values = np.array([_value_and_gradient(end, first)[0] for end in ends])
    # Agreement is judged at the first delta: only the best end is followed to the problem's own.
    best = ends[int(values.argmin())]
    same = np.array(ends)[values <= values.min() * (1 + SAME_MINIMUM) + problem.negligible]
    agreeing = int(same_constants(problem, same, best).sum())
    for delta in path[1:]:
        best = _descend(problem.with_objective(replace(problem.objective, delta=delta)), best)
    return CheckedMinimum(best, _value_and_gradient(best, problem)[0], len(ends), agreeing)


def same_constants(problem: Problem, theta_BP: Array, best_P: Array) -> NDArray[np.bool_]:
    """Whether every constant of each row is that of `best_P`: [B]."""
    if problem.general is not None:
        # Constants of an interaction make up for each other: what counts is what they predict.
        log_BR = np.log(losses_at(problem, np.concatenate([theta_BP, best_P[None]])))
        return np.asarray((np.abs(log_BR[:-1] - log_BR[-1]) <= SAME_PREDICTION).all(axis=1))
    first = 1 + problem.terms
    difference_BP = np.abs(theta_BP - best_P)
    difference_BP[:, first:] /= best_P[first:]  # the others are logarithms already
    return np.asarray((difference_BP[:, problem.searched] <= SAME_CONSTANT).all(axis=1))


def cross_check_record(problem: Problem, found: CheckedMinimum, value: float) -> CrossCheck:
    """`value`: the scaled objective of the search that was checked."""
    return CrossCheck(
        solver=CHECK_SOLVER,
        starts=found.starts,
        starts_agreeing=found.agreeing,
        objective=problem.scaled_back(found.value),
        relative_difference=(found.value - value) / max(value, problem.negligible),
    )


def losses_at(problem: Problem, theta_BP: Array) -> Array:
    """Predicted losses: [B, R]."""
    prediction_BR = forward_pass(problem, theta_BP).prediction
    return np.exp(prediction_BR) if problem.objective.residual == "log" else prediction_BR


def _general_starts(problem: Problem) -> list[Array]:
    """Around the starts of the form, shifted by up to a tenth of the range of every coordinate."""
    assert problem.general is not None
    rng = np.random.default_rng(SEED)
    low, high = bounds(problem)
    own_GP = problem.general.starts(problem.losses)
    picked_SP = own_GP[rng.integers(len(own_GP), size=GENERAL_STARTS)]
    return list(np.clip(picked_SP + rng.uniform(-0.1, 0.1, picked_SP.shape) * (high - low), low, high))


def _starts(problem: Problem) -> list[Array]:
    """Exponents log-uniform in 0.08..1.3; E a random share of the smallest loss, and the terms share the rest."""
    if problem.general is not None:
        return _general_starts(problem)
    rng = np.random.default_rng(SEED)
    terms, exponents, _ = problem.z.shape
    low, high = bounds(problem)
    found = []
    for _ in range(STARTS):
        share = rng.uniform(0.05, 0.95)  # neither end: on a bound a start would stay there
        e = share * problem.losses.min()
        rest = (problem.losses.mean() - e) / terms
        powers = np.exp(rng.uniform(np.log(0.08), np.log(1.3), exponents))
        found.append(np.clip(np.concatenate([[np.log(e)], [np.log(rest)] * terms, powers]), low, high))
    return found


def _descend(problem: Problem, start_P: Array) -> Array:
    from scipy.optimize import minimize

    result = minimize(
        _value_and_gradient,
        start_P,
        args=(problem,),
        jac=True,
        method="L-BFGS-B",
        bounds=list(zip(*bounds(problem), strict=True)),
        # Meaningful on the scaled objective only. 20 corrections (scipy: 10) for the correlated coefficients.
        options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 2000, "maxfun": 4000, "maxcor": 20},
    )
    return np.asarray(result.x, dtype=np.float64)


def _value_and_gradient(theta_P: Array, problem: Problem) -> tuple[float, Array]:
    if problem.general is not None:
        found = derivatives(problem, theta_P[None], np.ones((1, problem.runs)))
        return float(found.value[0]), found.gradient[0]
    terms = problem.terms
    # Log-sum-exp with the largest term taken out, as Hoffmann et al. 2022 write the form: no overflow at any theta.
    logs_IR = np.empty((1 + terms, problem.runs))
    logs_IR[0] = theta_P[0]
    logs_IR[1:] = theta_P[1 : 1 + terms, None] - np.tensordot(theta_P[1 + terms :], problem.z, axes=(0, 1))
    largest_R = logs_IR.max(axis=0)
    terms_IR = np.exp(logs_IR - largest_R)
    log_loss_R = largest_R + np.log(terms_IR.sum(axis=0))
    slope_IR = terms_IR / terms_IR.sum(axis=0)
    predicted_R = log_loss_R
    if problem.objective.residual == "raw":
        predicted_R = np.exp(log_loss_R)
        slope_IR = slope_IR * predicted_R
    # c (r - c/2), with r clipped to c, is the Huber loss; its derivative is c.
    residual_R = (predicted_R - problem.target) / problem.unit
    pull_R = residual_R if problem.objective.delta is None else np.clip(residual_R, -1, 1)
    by_term_I = slope_IR @ pull_R
    by_exponent_K = -np.einsum("jr,jkr,r->k", slope_IR[1:], problem.z, pull_R)
    gradient_P = np.concatenate([by_term_I, by_exponent_K]) / problem.unit
    return float(np.sum(pull_R * (residual_R - 0.5 * pull_R))), gradient_P
