"""Uncertainty by refitting resampled runs. A run is the unit: points of one run would not be independent."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vqscale.laws.fit import Minimum, Problem, on_bound, polish
from vqscale.laws.forms import Array, natural
from vqscale.laws.record import Interval

MINIMUM_DISTINCT = 3
TOLERANCE = 1e-10
"""Of a refit: far below the width of any interval, at half the cost of the fit's own."""


@dataclass(frozen=True, kw_only=True)
class Draws:
    """`parameters` [B, P]: natural parameters of every refit."""

    parameters: Array
    on_bound: int


def bootstrap(problem: Problem, minimum: Minimum, refits: int, seed: int) -> Draws:
    """Refit `refits` resamples of the runs (with replacement), each from the optimum of all runs.

    A resample with fewer than three distinct values on an axis determines no law and is drawn again.
    """
    rng = np.random.default_rng(seed)
    draws = np.empty((refits, len(minimum.theta)))
    bound_hits = 0
    for index in range(refits):
        resampled = problem.take(_resample(problem, rng))
        theta_P = polish(resampled, minimum.theta, TOLERANCE)
        bound_hits += bool(on_bound(resampled, theta_P))
        draws[index] = natural(theta_P, problem.centre)
    return Draws(parameters=draws, on_bound=bound_hits)


def interval(values_B: Array) -> Interval:
    low95, low90, high90, high95 = (float(value) for value in np.percentile(values_B, [2.5, 5, 95, 97.5]))
    return Interval(low90=low90, high90=high90, low95=low95, high95=high95)


def _resample(problem: Problem, rng: np.random.Generator) -> NDArray[np.int64]:
    runs = len(problem.log_losses)
    while True:
        rows_R = rng.integers(0, runs, runs)
        if min(distinct_values(problem.z[rows_R])) >= MINIMUM_DISTINCT:
            return rows_R


def distinct_values(x_RA: Array) -> list[int]:
    """Number of distinct values on every axis."""
    return [len(np.unique(x_RA[:, axis])) for axis in range(x_RA.shape[1])]
