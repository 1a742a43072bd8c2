"""The same objective minimised a second way: log-sum-exp Huber, analytic gradient, L-BFGS-B from random starts.

It shares no formula with the search that it checks. Optimisers see the objective divided by delta^2: scipy's `ftol` is
absolute below 1, and on the bare objective (about 1e-3) every start would stop early and report success, which is how
published fits went wrong. Its word is not taken here either.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from vqscale.laws.fitting.newton import deltas
from vqscale.laws.fitting.problem import Problem, bounds
from vqscale.laws.forms.catalogue import Array
from vqscale.laws.io.schema import CrossCheck

STARTS = 24
SEED = 0
AGREE = 0.01
"""Starts agree whose objective is within this share of the best."""
SOLVER = "L-BFGS-B on the log-sum-exp form with analytic gradient from random starts, objective over delta^2"


class Found(NamedTuple):
    theta: Array
    value: float
    """Scaled objective."""
    starts: int
    agreeing: int


def check(problem: Problem) -> Found:
    """The best end of all starts; a delta below 1e-3 is reached from there through larger ones."""
    path = [*deltas(problem, ratio=10.0), problem.objective.delta]
    first = problem.under(replace(problem.objective, delta=path[0]))
    ends = [_descend(first, start) for start in _starts(problem)]
    values = np.array([_value_and_gradient(end, first)[0] for end in ends])
    agreeing = int(np.sum(values <= values.min() * (1 + AGREE) + problem.floor))
    best = ends[int(values.argmin())]
    for delta in path[1:]:
        best = _descend(problem.under(replace(problem.objective, delta=delta)), best)
    return Found(best, _value_and_gradient(best, problem)[0], len(ends), agreeing)


def recorded(problem: Problem, found: Found, value: float) -> CrossCheck:
    """`value`: the scaled objective of the search that was checked."""
    return CrossCheck(
        solver=SOLVER,
        starts=found.starts,
        starts_agreeing=found.agreeing,
        objective=problem.scaled_back(found.value),
        relative_difference=(found.value - value) / max(value, problem.floor),
    )


def _starts(problem: Problem) -> list[Array]:
    """Exponents log-uniform in 0.08..1.3; E a random share of the smallest loss, and the terms share the rest."""
    rng = np.random.default_rng(SEED)
    terms, exponents, _ = problem.z.shape
    low, high = bounds(problem)
    found = []
    for _ in range(STARTS):
        share = rng.uniform(0.05, 0.95)
        e = share * problem.losses.min()
        rest = (problem.losses.mean() - e) / terms
        powers = np.exp(rng.uniform(np.log(0.08), np.log(1.3), exponents))
        found.append(np.clip(np.concatenate([[np.log(e)], [np.log(rest)] * terms, powers]), low, high))
    return found


def _descend(problem: Problem, start_P: Array) -> Array:
    result = minimize(
        _value_and_gradient,
        start_P,
        args=(problem,),
        jac=True,
        method="L-BFGS-B",
        bounds=list(zip(*bounds(problem), strict=True)),
        options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 2000, "maxfun": 4000, "maxcor": 20},
    )
    return np.asarray(result.x, dtype=np.float64)


def _value_and_gradient(theta_P: Array, problem: Problem) -> tuple[float, Array]:
    terms = problem.terms
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
    residual_R = (predicted_R - problem.target) / problem.unit
    pull_R = residual_R if problem.objective.delta is None else np.clip(residual_R, -1, 1)
    by_term_I = slope_IR @ pull_R
    by_exponent_K = -np.einsum("jr,jkr,r->k", slope_IR[1:], problem.z, pull_R)
    gradient_P = np.concatenate([by_term_I, by_exponent_K]) / problem.unit
    return float(np.sum(pull_R * (residual_R - 0.5 * pull_R))), gradient_P
