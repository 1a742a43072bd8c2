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

from vqscale.laws.fitting.bootstrap import interval
from vqscale.laws.fitting.points import budgets_of, level_values
from vqscale.laws.forms.catalogue import Array
from vqscale.laws.io.schema import Estimate, IsoflopParabolas, IsoflopRow, RunPoint, Where

PARABOLA_PARAMETERS = 3
MINIMUM_PARABOLA_SIZES = 3
ENOUGH_SIZES = 5
"""A curve of three parameters through fewer hides its own error."""
EACH_SIDE = 2
"""Sizes wanted on either side of the vertex."""
CURVATURE_LEVEL = 0.95
"""Of the one-sided t-test that a parabola turns."""
REFITS = 400
DRAWS_PER_REFIT = 4
"""Bootstrap samples drawn for every refit wanted, at most, until enough have a vertex at every budget."""


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


def isoflop_parabolas(
    where: Where, label: str, runs: IsoflopRuns, *, refits: int = REFITS, seed: int = 0
) -> IsoflopParabolas | None:
    """A parabola for every budget at which at least three sizes were trained; None where there is no such budget.

    Seeds are runs of their own. The interval of the slopes is that of `refits` bootstrap samples: residuals of all
    parabolas, widened for the degrees of freedom that the parabolas took, are drawn again about them. (Runs themselves
    are too few at a budget to be resampled: five sizes drawn from five leave three, which any parabola fits exactly.)
    """
    groups = [runs.take(rows) for rows in budgets_of(runs.c)]
    groups = [group for group in groups if len(_sizes(group)) >= MINIMUM_PARABOLA_SIZES]
    if not groups:
        return None
    rows = [_row(group) for group in groups]
    usable = [group for group, row in zip(groups, rows, strict=True) if row.parameters is not None]
    if len(usable) < 2:
        reason = f"{len(usable)} of {len(rows)} budgets has an optimum; a slope needs two"
        return IsoflopParabolas(where=where, label=label, rows=rows, a=None, b=None, reason=reason)
    a, b = _slopes(usable, refits, seed)
    return IsoflopParabolas(where=where, label=label, rows=rows, a=a, b=b, reason=None)


@dataclass(frozen=True, kw_only=True)
class _Parabola:
    """loss = level + slope z + curvature z^2, with z = log N - centre."""

    level: float
    slope: float
    curvature: float
    centre: float

    def at(self, n_R: Array) -> Array:
        z_R = np.log(n_R) - self.centre
        return np.asarray(self.level + self.slope * z_R + self.curvature * z_R**2, dtype=np.float64)

    @property
    def vertex(self) -> float:
        """log N of the extremum."""
        return self.centre - self.slope / (2 * self.curvature)


def _parabola(n_R: Array, loss_R: Array) -> _Parabola:
    # Centred: with log N itself (about 15) the three columns are nearly collinear.
    centre = float(np.log(n_R).mean())
    curvature, slope, level = np.polyfit(np.log(n_R) - centre, loss_R, 2).tolist()
    return _Parabola(level=level, slope=slope, curvature=curvature, centre=centre)


def _row(runs: IsoflopRuns) -> IsoflopRow:
    curve = _parabola(runs.n, runs.loss)
    predicted_R = curve.at(runs.n)
    reason = _refused(runs, curve, predicted_R)
    optimum = None if reason else float(np.exp(curve.vertex))
    return IsoflopRow(
        budget=float(np.median(runs.c)),
        points=_points(runs, predicted_R),
        parameters=optimum,
        tokens=None if optimum is None else float(np.exp(_tokens_at(runs, np.log(optimum)))),
        loss=None if optimum is None else float(curve.at(np.array([optimum]))[0]),
        reason=reason or None,
        warnings=[] if optimum is None else _warnings(runs, optimum),
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


def _refused(runs: IsoflopRuns, curve: _Parabola, predicted_R: Array) -> str:
    """Why the row has no optimum, or nothing."""
    if curve.curvature <= 0:
        return "concave: the loss does not turn upwards over these sizes, so the extremum would be a maximum"
    low, high = np.log(runs.n.min()), np.log(runs.n.max())
    if not low <= curve.vertex <= high:
        side = "smaller" if curve.vertex < low else "larger"
        return f"the vertex lies outside the sizes of this budget: train {side} ones"
    needed = _least_curvature(runs, predicted_R)
    if curve.curvature < needed:
        return f"flat: the curvature, {curve.curvature:.2g}, is not above what scatter alone would give ({needed:.2g})"
    return ""


def _least_curvature(runs: IsoflopRuns, predicted_R: Array) -> float:
    """Curvature above which the loss turns, by a one-sided t-test at 5 %; 0 where no run is left to judge by."""
    free = len(runs.loss) - PARABOLA_PARAMETERS
    if not free:
        return 0.0
    from scipy.stats import t as student

    z_R = np.log(runs.n) - np.log(runs.n).mean()
    columns = np.stack([np.ones_like(z_R), z_R, z_R**2], axis=1)
    variance = float(np.sum((runs.loss - predicted_R) ** 2)) / free
    # Standard error of the last of three least-squares coefficients: sqrt(variance (X'X)^-1).
    return float(student.ppf(CURVATURE_LEVEL, free) * np.sqrt(variance * np.linalg.inv(columns.T @ columns)[2, 2]))


def _warnings(runs: IsoflopRuns, optimum: float) -> list[str]:
    sizes, found = _sizes(runs), []
    if len(sizes) < ENOUGH_SIZES:
        found.append(f"{len(sizes)} sizes: a parabola through fewer than {ENOUGH_SIZES} hides its own error")
    below = int(np.sum(sizes < optimum))
    if min(below, len(sizes) - below) < EACH_SIDE:
        found.append(
            f"fewer than {EACH_SIDE} sizes on one side of the vertex ({below} below, {len(sizes) - below} above)"
        )
    return found


def _sizes(runs: IsoflopRuns) -> Array:
    """Distinct N of these runs, ascending."""
    return np.unique(level_values(runs.n))


def _tokens_at(runs: IsoflopRuns, log_n: Array | float) -> Array:
    """log D of sizes at this budget, between the runs in logarithms."""
    sizes, first = np.unique(level_values(runs.n), return_index=True)
    return np.asarray(np.interp(log_n, np.log(sizes), np.log(runs.d[first])))


def _slopes(groups: Sequence[IsoflopRuns], refits: int, seed: int) -> tuple[Estimate, Estimate]:
    """Slopes of log N* and log D* over log C; refits without a vertex inside their sizes are drawn again."""
    curves = [_parabola(group.n, group.loss) for group in groups]
    a, b = _lines(groups, np.array([[curve.vertex for curve in curves]]))[:, 0].tolist()
    residuals_R = np.concatenate([_widened(group, curve) for group, curve in zip(groups, curves, strict=True)])
    if not refits or not len(residuals_R):
        return Estimate(value=a), Estimate(value=b)
    rng = np.random.default_rng(seed)
    drawn_BG = np.empty((0, len(groups)))
    for _ in range(DRAWS_PER_REFIT):
        again = [_redrawn(group, curve, residuals_R, rng, refits) for group, curve in zip(groups, curves, strict=True)]
        vertex_BG = np.stack(again, axis=1)
        drawn_BG = np.concatenate([drawn_BG, vertex_BG[np.isfinite(vertex_BG).all(axis=1)]])[:refits]
        if len(drawn_BG) == refits:
            a_B, b_B = _lines(groups, drawn_BG)
            return Estimate(value=a, interval=interval(a_B)), Estimate(value=b, interval=interval(b_B))
    # The vertices are not determined well enough for an interval to mean anything.
    return Estimate(value=a), Estimate(value=b)


def _widened(group: IsoflopRuns, curve: _Parabola) -> Array:
    """Residuals as large as errors are: [R], or [0] from a row without a degree of freedom left.

    Least squares with P parameters leaves residuals smaller than the errors: by sqrt((R - P) / R) in deviation.
    """
    free = len(group.loss) - PARABOLA_PARAMETERS
    return (group.loss - curve.at(group.n)) * np.sqrt(len(group.loss) / free) if free else np.empty(0)


def _redrawn(group: IsoflopRuns, curve: _Parabola, residuals_R: Array, rng: np.random.Generator, refits: int) -> Array:
    """Vertices [B] of parabolas through redrawn losses; NaN where one is concave or outside the sizes."""
    z_R = np.log(group.n) - curve.centre
    loss_BR = curve.at(group.n) + rng.choice(residuals_R, (refits, len(z_R)))
    # np.vander has the highest power first, so that the pseudo-inverse solves all refits at once.
    curvature_B, slope_B, _ = np.linalg.pinv(np.vander(z_R, 3)) @ loss_BR.T
    vertex_B = -slope_B / (2 * np.where(curvature_B > 0, curvature_B, np.nan))
    return np.where((z_R.min() <= vertex_B) & (vertex_B <= z_R.max()), curve.centre + vertex_B, np.nan)


def _lines(groups: Sequence[IsoflopRuns], log_n_BG: Array) -> Array:
    """Slopes of log N* and of log D* over log C, least squares: [2, B]."""
    log_c_G = np.array([np.log(group.c).mean() for group in groups])
    away_G = log_c_G - log_c_G.mean()
    log_d_BG = np.stack([_tokens_at(group, u_B) for group, u_B in zip(groups, log_n_BG.T, strict=True)], axis=1)
    return np.asarray(np.stack([log_n_BG, log_d_BG]) @ away_G / (away_G @ away_G))
