"""IsoFLOP parabolas: the loss over log N at one budget (Hoffmann et al. 2022, approach 2). A diagnostic only: optima
are taken from the surface fit.

A parabola is only the first term of the true curve around its minimum: grids that are wide, or that drift off the
optimum from budget to budget, bias the vertex and with it the exponent (Czech et al., arXiv 2603.22339). With
exponents .684 and .439, sizes four times to either side and centres that drift to a third of the optimum over three
decades of compute, the slope comes out as .359 where the truth is .391, without any noise; the surface fit of the same
runs returns .391.

Letters of the arrays: R runs, G budgets with an optimum.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vqscale.laws.fitting.points import budgets_of, level_values
from vqscale.laws.forms.catalogue import Array
from vqscale.laws.io.schema import Estimate, IsoflopParabolas, IsoflopRow, ParabolaLine, RunPoint, Where
from vqscale.laws.validation.vertices import (
    Parabola,
    Scatter,
    exponents,
    line_through,
    parabola,
    scatters,
    vertex_interval,
)

MINIMUM_PARABOLA_SIZES = 3
ENOUGH_SIZES = 5
"""A curve of three parameters through fewer hides its own error."""
EACH_SIDE = 2
"""Sizes wanted on either side of the vertex."""
CURVATURE_LEVEL = 0.95
"""Of the one-sided t-test that a parabola turns."""


@dataclass(frozen=True, kw_only=True)
class IsoflopRuns:
    """What a parabola needs of every run: [R] each."""

    names: list[str]
    n: Array
    d: Array
    c: Array
    loss: Array

    def take(self, rows: NDArray[np.int64]) -> "IsoflopRuns":
        names = [self.names[row] for row in rows.tolist()]
        return IsoflopRuns(names=names, n=self.n[rows], d=self.d[rows], c=self.c[rows], loss=self.loss[rows])


def isoflop_parabolas(where: Where, label: str, runs: IsoflopRuns) -> IsoflopParabolas | None:
    """A parabola for every budget at which at least three sizes were trained; None where there is no such budget.

    Seeds are runs of their own. Intervals follow from the scatter about the parabolas (`vertices`). (Runs are too few
    at a budget to be resampled: five sizes drawn from five leave three, which any parabola fits exactly.)
    """
    groups = [runs.take(rows) for rows in budgets_of(runs.c)]
    groups = [group for group in groups if len(_sizes(group)) >= MINIMUM_PARABOLA_SIZES]
    if not groups:
        return None
    curves = [parabola(group.n, group.loss) for group in groups]
    scatter = scatters(curves)
    rows = [_row(*each) for each in zip(groups, curves, scatter, strict=True)]
    usable = [index for index, row in enumerate(rows) if row.parameters is not None]
    if len(usable) < 2:
        reason = f"{len(usable)} of {len(rows)} budgets has an optimum; a slope needs two"
        return IsoflopParabolas(where=where, label=label, rows=rows, a=None, b=None, reason=reason)
    own = ([groups[index] for index in usable], [curves[index] for index in usable])
    line = _line(*own, [scatter[index] for index in usable])
    a, b = exponents(line)
    return IsoflopParabolas(where=where, label=label, rows=rows, a=a, b=b, reason=None, line=line)


def _row(runs: IsoflopRuns, curve: Parabola, scatter: Scatter | None) -> IsoflopRow:
    predicted_R = curve.at(runs.n)
    reason = _refused(runs, curve)
    if reason:
        return IsoflopRow(
            budget=float(np.median(runs.c)),
            points=_points(runs, predicted_R),
            parameters=None,
            vertex=None,
            tokens=None,
            loss=None,
            reason=reason,
        )
    optimum = float(np.exp(curve.vertex))
    limits = vertex_interval(curve, scatter)
    return IsoflopRow(
        budget=float(np.median(runs.c)),
        points=_points(runs, predicted_R),
        parameters=optimum,
        vertex=Estimate(value=optimum, interval=limits),
        tokens=float(np.exp(_tokens_at(runs, curve.vertex))),
        loss=float(curve.at(np.array([optimum]))[0]),
        reason=None,
        warnings=_warnings(runs, optimum, unbounded=limits is None),
    )


def _points(runs: IsoflopRuns, predicted_R: Array) -> list[RunPoint]:
    rows = zip(runs.names, runs.n, runs.d, runs.c, runs.loss, predicted_R, strict=True)
    return [
        RunPoint(
            name=name,
            x=[float(n), float(d)],
            flops=float(c),
            measured=float(loss),
            predicted=float(predicted),
            # A parabola may fall below zero, where there is no logarithm.
            residual=float(np.log(predicted / loss)) if predicted > 0 else 0.0,
        )
        for name, n, d, c, loss, predicted in rows
    ]


def _refused(runs: IsoflopRuns, curve: Parabola) -> str:
    """Why the row has no optimum, or nothing."""
    if curve.curvature <= 0:
        return "concave: the loss does not turn upwards over these sizes, so the extremum would be a maximum"
    low, high = np.log(runs.n.min()), np.log(runs.n.max())
    if not low <= curve.vertex <= high:
        side = "smaller" if curve.vertex < low else "larger"
        return f"the vertex lies outside the sizes of this budget: train {side} ones"
    needed = _least_curvature(curve)
    if curve.curvature < needed:
        return f"flat: the curvature, {curve.curvature:.2g}, is not above what scatter alone would give ({needed:.2g})"
    return ""


def _least_curvature(curve: Parabola) -> float:
    """Curvature above which the loss turns, by a one-sided t-test at 5 %; 0 where no run is left to judge by."""
    if not curve.free:
        return 0.0
    from scipy.stats import t as student

    variance = curve.squares * curve.unit**2 / curve.free
    # Standard error of the first of three least-squares coefficients.
    return float(student.ppf(CURVATURE_LEVEL, curve.free) * np.sqrt(variance * curve.unscaled[0, 0]))


def _warnings(runs: IsoflopRuns, optimum: float, *, unbounded: bool) -> list[str]:
    sizes, found = _sizes(runs), []
    if len(sizes) < ENOUGH_SIZES:
        found.append(f"{len(sizes)} sizes: a parabola through fewer than {ENOUGH_SIZES} hides its own error")
    below = int(np.sum(sizes < optimum))
    if min(below, len(sizes) - below) < EACH_SIDE:
        found.append(
            f"fewer than {EACH_SIDE} sizes on one side of the vertex ({below} below, {len(sizes) - below} above)"
        )
    if unbounded:
        found.append("no interval: the scatter of the runs leaves the vertex unbounded")
    return found


def _sizes(runs: IsoflopRuns) -> Array:
    """Distinct N of these runs, ascending."""
    return np.unique(level_values(runs.n))


def _tokens_at(runs: IsoflopRuns, log_n: Array | float) -> Array:
    """log D of sizes at this budget, between the runs in logarithms."""
    sizes, first = np.unique(level_values(runs.n), return_index=True)
    return np.asarray(np.interp(log_n, np.log(sizes), np.log(runs.d[first])))


def _line(groups: Sequence[IsoflopRuns], curves: Sequence[Parabola], scatter: Sequence[Scatter | None]) -> ParabolaLine:
    """The line through the vertices."""
    log_n_G = np.array([curve.vertex for curve in curves])
    variance = [
        0.0 if one is None else curve.vertex_variance * one.variance * curve.unit**2
        for curve, one in zip(curves, scatter, strict=True)
    ]
    return line_through(
        np.array([float(np.log(group.c).mean()) for group in groups]),
        log_n_G,
        np.array([float(_tokens_at(group, u)) for group, u in zip(groups, log_n_G.tolist(), strict=True)]),
        np.array(variance),
        np.array([_tokens_slope(group, u) for group, u in zip(groups, log_n_G.tolist(), strict=True)]),
        min((one.free if one else 0) for one in scatter),
    )


def _tokens_slope(runs: IsoflopRuns, log_n: float) -> float:
    """d log D / d log N at this budget, between the sizes next to `log_n`."""
    log_sizes = np.log(_sizes(runs))
    above = int(np.clip(np.searchsorted(log_sizes, log_n), 1, len(log_sizes) - 1))
    low, high = log_sizes[above - 1], log_sizes[above]
    return float((_tokens_at(runs, high) - _tokens_at(runs, low)) / (high - low))
