"""A fitted law as curves along its first axis, with the band of its refits."""

import numpy as np

from vqscale.laws.fitting.points import level_values
from vqscale.laws.forms.catalogue import Array, Law, evaluate_law
from vqscale.laws.io.schema import Curve, CurvePoint

CURVE_POINTS = 36
"""Points of a curve within the data."""
CURVES_PER_FIT = 6
"""Values of the other axes at which a law with several axes is drawn, at most."""


def law_curves(law: Law, x_RA: Array, parameters_P: Array, draws_BP: Array) -> list[Curve]:
    """From the smallest run to ten times the largest, the other axes fixed at values of the runs."""
    first = x_RA[:, 0]
    inside = np.geomspace(first.min(), first.max(), CURVE_POINTS)
    beyond = np.geomspace(first.max(), 10 * first.max(), CURVE_POINTS // 3)
    x_X = np.concatenate([inside, beyond[1:]])  # the first of `beyond` is the last of `inside`
    return [_curve(law, x_X, fixed, parameters_P, draws_BP) for fixed in _fixed_values(law, x_RA)]


def _fixed_values(law: Law, x_RA: Array) -> list[dict[str, float]]:
    """Values of the second axis; where the law has more than two, the middle one of it and values of the others."""
    others_RA = np.stack([level_values(x_R) for x_R in x_RA[:, 1:].T], axis=1) if x_RA.shape[1] > 1 else x_RA[:, 1:]
    if others_RA.shape[1] > 1:
        distinct = np.unique(others_RA[:, 0])
        others_RA[:, 0] = distinct[len(distinct) // 2]
    rows = np.unique(others_RA, axis=0)
    spread = np.unique(np.linspace(0, len(rows) - 1, min(CURVES_PER_FIT, len(rows))).round().astype(int))
    return [dict(zip(law.axes[1:], rows[index].tolist(), strict=True)) for index in spread]


def _curve(law: Law, x_X: Array, fixed: dict[str, float], parameters_P: Array, draws_BP: Array) -> Curve:
    x_XA = np.stack([x_X, *(np.full_like(x_X, value) for value in fixed.values())], axis=1)
    loss_X = evaluate_law(law, parameters_P, x_XA).tolist()
    low_X: list[float | None] = [None] * len(x_X)
    high_X: list[float | None] = [None] * len(x_X)
    if len(draws_BP):
        # The band is one of the law, pointwise: single runs scatter about it.
        low_X, high_X = np.percentile(evaluate_law(law, draws_BP, x_XA), [5, 95], axis=0).tolist()
    rows = zip(x_X.tolist(), loss_X, low_X, high_X, strict=True)
    return Curve(fixed=fixed, points=[CurvePoint(x=x, loss=y, low90=low, high90=high) for x, y, low, high in rows])
