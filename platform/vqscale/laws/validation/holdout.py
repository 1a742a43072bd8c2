"""Fit the small runs, predict the large ones, beside two baselines without a law.

How a law is fitted is passed in (`Refit`), so that every form is judged alike. Letters: R runs, A axes of the law.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vqscale.laws.fitting.points import SAME_BUDGET, budgets_of, levels
from vqscale.laws.forms.catalogue import Array
from vqscale.laws.io.schema import HoldOut, HoldOutWindow, RunPoint

HELD_OUT_SHARE = 0.2
"""Share of the runs that is held out, at least, where the study's design holds out none."""
WINDOWS = 5
"""Steps of the expanding window, at most: each is a search of its own."""


@dataclass(frozen=True, kw_only=True)
class FittedLaw:
    """A law fitted to some of the runs."""

    predict: Callable[[Array], Array]
    """Losses [R] at x [R, A]."""
    exponents: dict[str, float]


Refit = Callable[[NDArray[np.bool_]], FittedLaw | str]
"""From the rows to fit to the law fitted to them, or the reason why they do not identify it."""


@dataclass(frozen=True, kw_only=True)
class HoldOutRuns:
    """The runs of a hold-out: `x` [R, A], `loss` [R], and `order` [R], which ranks runs by size.

    `order_name` is the name of that quantity. `hold_out` [R]: which runs the study's own design holds out; None where
    it holds out none. `minimum`: runs that the law needs.
    """

    names: Sequence[str]
    x: Array
    loss: Array
    order: Array
    order_name: str
    minimum: int
    hold_out: NDArray[np.bool_] | None = None


def run_points(
    names: Sequence[str], x_RA: Array, loss_R: Array, predicted_R: Array, flops_R: Array | None
) -> list[RunPoint]:
    """Runs beside predictions. `flops_R`: NaN where unknown; None where the table has none."""
    flops = [None] * len(loss_R) if flops_R is None else [float(c) if np.isfinite(c) else None for c in flops_R]
    residual_R = np.log(predicted_R) - np.log(loss_R)
    rows = zip(names, x_RA.tolist(), flops, loss_R.tolist(), predicted_R.tolist(), residual_R.tolist(), strict=True)
    return [RunPoint(name=name, x=x, flops=c, measured=y, predicted=p, residual=r) for name, x, c, y, p, r in rows]


def r_squared(measured_R: Array, predicted_R: Array) -> float | None:
    """1 - residual over total sum of squares; None where the measurements do not vary."""
    total = float(np.sum((measured_R - measured_R.mean()) ** 2))
    return 1 - float(np.sum((measured_R - predicted_R) ** 2)) / total if total > 0 else None


def hold_out(runs: HoldOutRuns, refit: Refit, flops_R: Array | None = None) -> HoldOut:
    """Hold out the runs of the design, otherwise the largest fifth, always whole values of `order`; with windows.

    Where the remaining runs do not identify the law, there is no prediction, and the description gives the reason.
    """
    large_R, held = _held_out(runs)
    windows = expanding_windows(runs, refit)
    if int((~large_R).sum()) < runs.minimum:
        remain = f"{int((~large_R).sum())} remain and the law needs {runs.minimum}"
        return _none(f"none held out: without {held} {remain}", large_R, windows)
    law = refit(~large_R)
    if isinstance(law, str):
        return _none(f"no prediction: without {held} the fit is refused ({law})", large_R, windows)
    predicted_R = law.predict(runs.x[large_R])
    large = [name for name, is_large in zip(runs.names, large_R.tolist(), strict=True) if is_large]
    return HoldOut(
        description=f"held out: {held}; fitted to the smaller ones only",
        fitted_runs=int((~large_R).sum()),
        points=run_points(large, runs.x[large_R], runs.loss[large_R], predicted_R, _rows(flops_R, large_R)),
        mean_relative_error=relative_error(predicted_R, runs.loss[large_R]),
        r2=r_squared(runs.loss[large_R], predicted_R),
        baselines=baselines(runs, large_R),
        windows=windows,
    )


def expanding_windows(runs: HoldOutRuns, refit: Refit) -> list[HoldOutWindow]:
    """Fitted up to one budget, used to predict all runs beyond it; budget after budget.

    At most `WINDOWS` of the budgets, evenly spread, from the first that leaves the law as many runs as it needs. A
    budget is a group of runs within a tenth of each other.
    """
    budgets = budgets_of(runs.order, SAME_BUDGET)
    reached = np.cumsum([len(group) for group in budgets])
    usable = [index for index in range(len(budgets) - 1) if reached[index] >= runs.minimum]
    picked = np.unique(np.linspace(0, len(usable) - 1, min(WINDOWS, len(usable))).round().astype(int))
    limits = [float(runs.order[budgets[usable[index]]].max()) for index in picked]
    return [_window(runs, refit, limit) for limit in limits]


def baselines(runs: HoldOutRuns, large_R: NDArray[np.bool_]) -> dict[str, float | None]:
    """Mean relative error, on the `large` runs, of two predictions without a law.

    `last value`: the best loss at the largest fitted budget. `power law`: a straight line in the logarithms through the
    best fitted runs (those that no smaller one beats), over `order`.
    """
    small_order, small_loss = runs.order[~large_R], runs.loss[~large_R]
    measured = runs.loss[large_R]
    if not len(small_loss):
        return {"last value": None, "power law": None}
    # The best run of the largest fitted budget, whose runs lie within `SAME_BUDGET` of each other.
    last = small_loss[small_order >= small_order.max() / (1 + SAME_BUDGET)].min()
    order_E, loss_E = _envelope(small_order, small_loss)
    line = None
    if len(order_E) > 1:
        slope, level = np.polyfit(np.log(order_E), np.log(loss_E), 1)
        line = relative_error(np.exp(level + slope * np.log(runs.order[large_R])), measured)
    return {"last value": relative_error(np.full(len(measured), last), measured), "power law": line}


def relative_error(predicted_R: Array, measured_R: Array) -> float:
    """Mean of |predicted - measured| / measured."""
    return float(np.mean(np.abs(predicted_R - measured_R) / measured_R))


def _held_out(runs: HoldOutRuns) -> tuple[NDArray[np.bool_], str]:
    """Which runs are held out, and a description of them."""
    total = len(runs.loss)
    own = runs.hold_out
    if own is not None and own.any() and not own.all():
        return own, f"the {int(own.sum())} of {total} runs that the study's design holds out"
    threshold = _threshold(runs.order)
    large_R = runs.order >= threshold
    return (
        large_R,
        f"the {int(large_R.sum())} of {total} runs with the largest {runs.order_name} (from {threshold:.4g})",
    )


def _threshold(order_R: Array) -> float:
    """The largest value at or above which at least `HELD_OUT_SHARE` of the runs lie, and no run of its level below."""
    # Rounded up: of eleven runs three are held out, not two, which would be less than a fifth.
    descending = np.sort(order_R)[::-1]
    reached = descending[int(np.ceil(HELD_OUT_SHARE * len(order_R))) - 1]
    level_R = levels(order_R)
    # Runs of one budget differ by rounding: those just below the threshold are held out with the others.
    return float(order_R[level_R == level_R[order_R == reached][0]].min())


def _window(runs: HoldOutRuns, refit: Refit, limit: float) -> HoldOutWindow:
    small_R = runs.order <= limit
    law = refit(small_R)
    error: float | None = None
    if not isinstance(law, str):
        error = relative_error(law.predict(runs.x[~small_R]), runs.loss[~small_R])
    return HoldOutWindow(
        fitted_to=limit,
        fitted_runs=int(small_R.sum()),
        predicted_runs=int((~small_R).sum()),
        mean_relative_error=error,
        baselines=baselines(runs, ~small_R),
        exponents={} if isinstance(law, str) else law.exponents,
        reason=law if isinstance(law, str) else None,
    )


def _envelope(order_R: Array, loss_R: Array) -> tuple[Array, Array]:
    """The runs that no run of the same or a smaller order beats, by order."""
    by_order = np.lexsort((loss_R, order_R))
    order_R, loss_R = order_R[by_order], loss_R[by_order]
    best_before = np.minimum.accumulate(np.concatenate([[np.inf], loss_R[:-1]]))
    keep = loss_R < best_before
    return order_R[keep], loss_R[keep]


def _rows(values_R: Array | None, rows_R: NDArray[np.bool_]) -> Array | None:
    return None if values_R is None else values_R[rows_R]


def _none(description: str, large_R: NDArray[np.bool_], windows: list[HoldOutWindow]) -> HoldOut:
    return HoldOut(
        description=description,
        fitted_runs=int((~large_R).sum()),
        points=[],
        mean_relative_error=None,
        r2=None,
        windows=windows,
    )
