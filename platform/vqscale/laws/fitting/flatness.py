"""Which other exponents fit as well: the objective along each exponent, with everything else fitted again.

An objective that every start reaches may still be flat there. Where the rows of two data sets lie in one subset, the
sum of absolute residuals is the same for every curve between them; where sizes hardly vary, E makes up for an exponent.
"""

from collections.abc import Mapping

import numpy as np

from vqscale.laws.fitting.newton import descend_through_deltas
from vqscale.laws.fitting.problem import EXPONENT_RANGE, Problem, objective_values, theta_names
from vqscale.laws.fitting.varpro import FIRST_INNER_STEPS, project
from vqscale.laws.forms.catalogue import Array

EQUALLY_GOOD = 0.01
"""An exponent fits as well as the best whose objective is at most this share above: a likelihood ratio of half a
standard deviation for 25 runs, of one and a half for 240."""
FLAT_FACTOR = 3.0
"""Ratio of the ends of an exponent's span from which the fit is refused. On fifteen public tables it is at most 1.7;
with two data sets 5 % apart in one subset it is 3.5 to 7, further apart without end."""
FACTORS = (1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 8.0)
"""Distances from the best exponent, both ways, at which the rest is fitted again."""

Spans = dict[str, tuple[float, float]]
"""Exponent -> lowest and highest value that fits equally well."""


def exponent_spans(problem: Problem, theta_P: Array, same_SP: Array) -> Spans:
    """The span of every exponent: of the values tried, and of `same_SP`, ends of other starts with the same objective.

    Along one exponent a value counts only with all between it and the best: a second minimum is no flat bottom.
    """
    found: Spans = {}
    if problem.general is not None:
        return found  # constants of an interaction trade against each other: their ends are compared by prediction
    for place in range(1 + problem.terms, problem.size):
        best = float(theta_P[place])
        reached = [_reach(problem, theta_P, place, [best * factor**sign for factor in FACTORS]) for sign in (-1, 1)]
        values = [best, *reached, *same_SP[:, place].tolist()]
        found[theta_names(problem.formula)[place]] = (min(values), max(values))
    return found


def describe_spans(spans: Mapping[str, tuple[float, float]], factor: float) -> str:
    """The spans of at least `factor` between their ends, as text; empty where there is none."""
    wide = {name: ends for name, ends in spans.items() if ends[1] >= factor * ends[0]}
    return " and ".join(f"{name} from {low:.2g} to {high:.2g}" for name, (low, high) in wide.items())


def describe_flat(spans: Mapping[str, tuple[float, float]]) -> str:
    """The spans with which a fit is none, as text: of `FLAT_FACTOR`, or up to the end of the search."""
    low, high = EXPONENT_RANGE
    flat = {
        name: ends
        for name, ends in spans.items()
        if ends[1] >= FLAT_FACTOR * ends[0] or (ends[1] > ends[0] and (ends[0] <= low or ends[1] >= high))
    }
    return describe_spans(flat, 1.0)


def _reach(problem: Problem, theta_P: Array, place: int, values: list[float]) -> float:
    """The last of `values`, in turn, that fits as well as the best; the best where the first does not."""
    tried_V = np.clip(values, *EXPONENT_RANGE)
    first_VP = np.tile(theta_P, (len(values), 1))
    first_VP[:, place] = tried_V
    # From the fit's own constants, and from new ones: near delta = 0 kinks stop a start.
    start_SP = np.concatenate([first_VP, project(problem, first_VP[:, 1 + problem.terms :], FIRST_INNER_STEPS)])
    fixed_SP = np.zeros(start_SP.shape, dtype=bool)
    fixed_SP[:, place] = True
    weight_SR = np.ones((len(start_SP), problem.runs))
    end_SP = descend_through_deltas(problem, start_SP, weight_SR, tolerance=1e-6, fixed=fixed_SP)
    value_V = objective_values(problem, end_SP, weight_SR).reshape(2, -1).min(axis=0)
    best = float(objective_values(problem, theta_P[None], weight_SR[:1])[0])
    equal_V = value_V <= best * (1 + EQUALLY_GOOD) + problem.negligible
    count = len(values) if equal_V.all() else int(np.argmin(equal_V))
    return float(tried_V[count - 1]) if count else float(theta_P[place])
