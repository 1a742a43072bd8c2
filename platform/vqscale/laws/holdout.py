"""Fit the small runs, predict the large ones."""

from collections.abc import Sequence

import numpy as np

from vqscale.laws.bootstrap import MINIMUM_DISTINCT, distinct_values
from vqscale.laws.fit import FitStatus, make_problem, solve
from vqscale.laws.forms import Array, Law, predict
from vqscale.laws.record import HoldOut, Point

SHARE = 0.2


def points(names: Sequence[str], x_RA: Array, loss_R: Array, parameters: Array) -> list[Point]:
    predicted_R = predict(parameters.tolist(), x_RA)
    residual_R = np.log(predicted_R) - np.log(loss_R)
    rows = zip(names, x_RA.tolist(), loss_R.tolist(), predicted_R.tolist(), residual_R.tolist(), strict=True)
    return [Point(name=name, x=x, measured=y, predicted=p, residual=r) for name, x, y, p, r in rows]


def r_squared(measured_R: Array, predicted_R: Array) -> float | None:
    """1 - residual over total sum of squares; None where the measurements do not vary."""
    total = float(np.sum((measured_R - measured_R.mean()) ** 2))
    return 1 - float(np.sum((measured_R - predicted_R) ** 2)) / total if total > 0 else None


def hold_out(law: Law, names: Sequence[str], x_RA: Array, loss_R: Array, order_R: Array, order: str) -> HoldOut:
    """Hold out the runs with the largest `order_R`: at least a fifth of all, and always whole values of it.

    `order` says in words what `order_R` is. Where the remaining runs cannot support the law, nothing is held out
    and the description says why.
    """
    threshold = _threshold(order_R)
    small_R = order_R < threshold
    held = f"the {int(np.sum(~small_R))} of {len(loss_R)} runs with the largest {order} (from {threshold:.4g})"
    reason = _too_small(law, x_RA[small_R])
    if reason:
        return _none(f"none held out: without {held} {reason}", len(x_RA[small_R]))
    minimum = solve(make_problem(x_RA[small_R], loss_R[small_R]))
    if minimum.status is not FitStatus.CONVERGED:
        return _none(f"no prediction: without {held} the fit is refused ({minimum.reason})", len(x_RA[small_R]))
    large = [name for name, small in zip(names, small_R.tolist(), strict=True) if not small]
    predictions = points(large, x_RA[~small_R], loss_R[~small_R], minimum.parameters)
    predicted_R = np.array([point.predicted for point in predictions])
    measured_R = loss_R[~small_R]
    return HoldOut(
        description=f"held out: {held}; fitted to the smaller ones only",
        fitted_runs=int(small_R.sum()),
        points=predictions,
        mean_relative_error=float(np.mean(np.abs(predicted_R - measured_R) / measured_R)),
        r2=r_squared(measured_R, predicted_R),
    )


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
