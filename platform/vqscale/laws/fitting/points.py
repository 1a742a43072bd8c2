"""Which runs lie at the same point: equal N, D or C within a tolerance, because token budgets are whole updates.

Three batch sizes at one token budget give three token counts, each a multiple of its batch. Compared as floats they are
three points: a sweep over the batch would keep its worst runs, and a hold-out would be fitted to runs of its own
budget.

Letters of the arrays: R runs, A axes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vqscale.laws.forms.catalogue import Array

SAME_POINT = 0.005
"""Relative span within which values of N, D or C are one. Rounding to whole updates moves D by less from a hundred
updates on; half a percent of D moves the loss by about 0.05 % (beta .37, a third of the loss due to D), a sixth of what
seeds do; and grids of sizes and budgets are spaced by a tenth at least."""
LARGEST_ROUNDING = 0.03
"""Widest relative span that the batch may explain: runs of fewer than some thirty updates are points of their own."""
CONTINUOUS = {"N", "D", "C", "U"}
"""Letters whose values are compared with a tolerance; codebook sizes and context lengths are chosen exactly."""


SAME_BUDGET = 0.1
"""Relative distance of training FLOPs within which runs share a budget of a study of budgets."""


def budgets_of(c_R: Array, tolerance: float = SAME_BUDGET) -> list[NDArray[np.int64]]:
    """Rows of the runs of every budget, ascending.

    A new budget starts at a run that is further than `tolerance` from the first run of the budget before it.
    """
    order_R = np.argsort(c_R, kind="stable")
    groups: list[list[int]] = []
    for row in order_R.tolist():
        if groups and c_R[row] <= (1 + tolerance) * c_R[groups[-1][0]]:
            groups[-1].append(row)
        else:
            groups.append([row])
    return [np.array(group, dtype=np.int64) for group in groups]


def levels(values_R: Array, rounding_R: Array | None = None) -> NDArray[np.intp]:
    """Number of the level of every value, ascending from 0: values of one level are equal within the tolerance.

    A level never spans more than the tolerance, however densely values follow each other: groups that do are split at
    their widest gap. `rounding_R`: what rounding may have moved a value by, relative to it, where that is known.
    Values that are not positive and finite are levels of their own, by value.
    """
    distinct, place_R = np.unique(values_R, return_inverse=True)
    limit = np.full(len(distinct), SAME_POINT)
    if rounding_R is not None:
        np.maximum.at(limit, place_R, np.minimum(np.nan_to_num(rounding_R), LARGEST_ROUNDING))
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where((distinct > 0) & np.isfinite(distinct), np.log(distinct), np.nan)
    starts = np.zeros(len(distinct), dtype=bool)
    starts[_level_starts(logs, limit)] = True
    return np.asarray((np.cumsum(starts) - 1)[place_R], dtype=np.intp)


def _level_starts(logs: Array, limit: Array) -> list[int]:
    """Index of the first value of every level in ascending `logs`."""
    found, pending = [], [(0, len(logs))]
    while pending:  # no recursion: an even grid of a thousand values is split a thousand times
        first, end = pending.pop()
        if first == end:
            continue
        gaps = np.diff(logs[first:end])
        # A rounding error of the logarithm must not decide: hence the factor.
        if logs[end - 1] - logs[first] <= limit[first:end].max() * (1 + 1e-9) or not len(gaps):
            found.append(first)
            continue
        split = first + 1 + int(np.argmax(np.where(np.isnan(gaps), np.inf, gaps)))
        pending += [(first, split), (split, end)]
    return found


def axis_levels(letters: Sequence[str], x_RA: Array) -> NDArray[np.intp]:
    """The level of every run on every axis: [R, A]. S and T are compared exactly."""
    found = [
        levels(x_R) if letter in CONTINUOUS else np.unique(x_R, return_inverse=True)[1]
        for letter, x_R in zip(letters, x_RA.T, strict=True)
    ]
    return np.stack(found, axis=1) if found else np.zeros((len(x_RA), 0), dtype=np.intp)


def point_numbers(letters: Sequence[str], x_RA: Array) -> NDArray[np.intp]:
    """Number of the point of every run: runs of one point are at the same level on every axis."""
    return np.unique(axis_levels(letters, x_RA), axis=0, return_inverse=True)[1].reshape(-1)


def level_values(values_R: Array, rounding_R: Array | None = None) -> Array:
    """Every value replaced by the middle one of its level, which is one of the values: [R]. As `levels` otherwise."""
    level_R = levels(values_R, rounding_R)
    middle = [_middle(values_R[level_R == level]) for level in range(int(level_R.max()) + 1)] if len(level_R) else []
    return np.array(middle, dtype=values_R.dtype)[level_R] if middle else values_R


def _middle(values: Array) -> float:
    return float(np.sort(values)[(len(values) - 1) // 2])
