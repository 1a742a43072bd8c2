"""Fit the small runs, predict the large ones."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vqscale.laws.fit import FitStatus, solve
from vqscale.laws.forms import Array, Formula, Law, predict
from vqscale.laws.problem import Objective, make_problem
from vqscale.laws.record import HoldOut, Point
from vqscale.laws.support import MINIMUM_DISTINCT, distinct_values

if TYPE_CHECKING:
    from vqscale.laws.cell import Cell

SHARE = 0.2


def points(formula: Formula, names: Sequence[str], x_RA: Array, loss_R: Array, parameters_P: Array) -> list[Point]:
    predicted_R = predict(formula, parameters_P, x_RA)
    residual_R = np.log(predicted_R) - np.log(loss_R)
    rows = zip(names, x_RA.tolist(), loss_R.tolist(), predicted_R.tolist(), residual_R.tolist(), strict=True)
    return [Point(name=name, x=x, measured=y, predicted=p, residual=r) for name, x, y, p, r in rows]


def r_squared(measured_R: Array, predicted_R: Array) -> float | None:
    """1 - residual over total sum of squares; None where the measurements do not vary."""
    total = float(np.sum((measured_R - measured_R.mean()) ** 2))
    return 1 - float(np.sum((measured_R - predicted_R) ** 2)) / total if total > 0 else None


def hold_out(cell: "Cell", objective: Objective) -> HoldOut:
    """Predict the runs that the study holds out, or else those with the largest order, from the others.

    Without a design at least a fifth of all runs is held out, and always whole values of the order. Where the
    remaining runs cannot support the law, nothing is held out and the description says why.
    """
    large_R, held = _held(cell)
    small = cell.take(~large_R)
    reason = _too_small(cell.law, small.x)
    if reason:
        return _none(f"none held out: without {held} {reason}", len(small.losses))
    minimum = solve(make_problem(cell.law, small.x, small.losses, objective), check=False)
    if minimum.status is not FitStatus.CONVERGED:
        return _none(f"no prediction: without {held} the fit is refused ({minimum.reason})", len(small.losses))
    large = cell.take(large_R)
    predictions = points(cell.law, large.names, large.x, large.losses, minimum.parameters)
    predicted_R = np.array([point.predicted for point in predictions])
    return HoldOut(
        description=f"held out: {held}; fitted to the smaller ones only",
        fitted_runs=len(small.losses),
        points=predictions,
        mean_relative_error=float(np.mean(np.abs(predicted_R - large.losses) / large.losses)),
        r2=r_squared(large.losses, predicted_R),
    )


def _held(cell: "Cell") -> tuple[NDArray[np.bool_], str]:
    """Which runs are held out, and in words."""
    if cell.held.any():
        return cell.held, f"the {int(cell.held.sum())} of {len(cell.held)} runs that the study's design holds out"
    threshold = _threshold(cell.order)
    large_R = cell.order >= threshold
    words = f"the {int(large_R.sum())} of {len(large_R)} runs with the largest {cell.order_name}"
    return large_R, f"{words} (from {threshold:.4g})"


def _threshold(order_R: Array) -> float:
    """The largest value at or above which at least `SHARE` of the runs lie."""
    descending = np.sort(order_R)[::-1]
    return float(descending[int(np.ceil(SHARE * len(order_R))) - 1])


def _too_small(law: Law, x_RA: Array) -> str:
    if len(x_RA) < law.minimum_runs:
        return f"{len(x_RA)} remain and the law needs {law.minimum_runs}"
    if min(distinct_values(x_RA)) < MINIMUM_DISTINCT:
        return f"fewer than {MINIMUM_DISTINCT} distinct values remain on an axis"
    return ""


def _none(description: str, fitted_runs: int) -> HoldOut:
    return HoldOut(description=description, fitted_runs=fitted_runs, points=[], mean_relative_error=None, r2=None)
