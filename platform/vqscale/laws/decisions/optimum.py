"""The compute-optimal run for one given quantity: an amount of compute, a size, a number of tokens, or a loss.

A `TokenCost` in money or seconds turns the same question into one of money or time.
"""

from typing import Literal

import numpy as np

from vqscale.errors import FitError
from vqscale.laws.decisions.extrapolation import LARGEST_EXTRAPOLATION
from vqscale.laws.decisions.frontier import optimum_at
from vqscale.laws.decisions.surface import INVERSE_DECADES, Surface, estimate
from vqscale.laws.decisions.token_cost import TokenCost
from vqscale.laws.forms.catalogue import Array
from vqscale.laws.io.schema import Estimate, Optimum
from vqscale.study.frozen import Frozen

Quantity = Literal["compute", "parameters", "tokens", "loss", "money"]
_BEYOND = 1e6
"""How far beyond the fitted budgets a run is looked for where the caller asks for any."""
_GRID = 241
"""Budgets between which a size or a number of tokens is interpolated, in logarithms: some thirty per decade."""


class OptimalRun(Frozen):
    """The compute-optimal run for one given quantity."""

    asked: Quantity
    value: float
    compute: Estimate
    """In the unit of the cost; with an interval where it follows from the law."""
    optimum: Optimum
    """At `compute.value`."""


def find_optimum(
    law: Surface,
    cost: TokenCost,
    *,
    compute: float | None = None,
    parameters: float | None = None,
    tokens: float | None = None,
    loss: float | None = None,
    beyond: bool = False,
) -> OptimalRun:
    """The best run for exactly one of `compute` (in the unit of `cost`), `parameters`, `tokens` and `loss`.

    For a size or a number of tokens it is the run at the budget whose optimum has them. `beyond`: as in `optimum_at`.
    Raises FitError where not exactly one is given, and where the runs do not determine the optimum.
    """
    given: dict[Quantity, float | None] = {
        "compute": compute,
        "parameters": parameters,
        "tokens": tokens,
        "loss": loss,
    }
    named = [(asked, value) for asked, value in given.items() if value is not None]
    if len(named) != 1:
        raise FitError("name exactly one of compute, parameters, tokens and loss")
    asked, value = named[0]
    if not 0 < value < np.inf:
        raise FitError(f"{asked}: {value!r} is no positive number")
    budget = _budget(law, cost, asked, value, _BEYOND if beyond else LARGEST_EXTRAPOLATION)
    return OptimalRun(
        asked=asked,
        value=value,
        compute=budget,
        optimum=optimum_at(law, cost, budget.value, beyond=beyond),
    )


def _budget(law: Surface, cost: TokenCost, asked: Quantity, value: float, reach: float) -> Estimate:
    if asked == "compute":
        return Estimate(value=value)
    found_B = _for_loss(law, cost, value) if asked == "loss" else _for_axis(law, cost, asked, value, reach)
    return estimate(found_B)


def _for_loss(law: Surface, cost: TokenCost, loss: float) -> Array:
    if loss <= law.floor[0]:
        raise FitError(f"loss: {loss:.6g} lies at or below E = {law.floor[0]:.6g}, which no compute reaches")
    found_B = law.budgets_for(cost, np.full(len(law.floor), loss))
    if not np.isfinite(found_B[0]):
        raise FitError(
            f"loss: {loss:.6g} is reached at no budget up to {10.0**INVERSE_DECADES:g} times the largest fitted budget"
        )
    return found_B


def _for_axis(law: Surface, cost: TokenCost, asked: Quantity, value: float, reach: float) -> Array:
    """The budget whose best size (or tokens) is `value`; both grow with the budget, along near-straight lines."""
    spent = law.spent(cost)
    budgets_K = np.geomspace(spent.min() / reach, spent.max() * reach, _GRID)
    log_n_BK, _ = law.best(cost, budgets_K.tolist())
    log_BK = log_n_BK if asked == "parameters" else np.log(budgets_K) - cost.log_per_token(log_n_BK)
    target = np.log(value)
    found_B = np.array([np.exp(np.interp(target, row_K, np.log(budgets_K), np.nan, np.nan)) for row_K in log_BK])
    if not np.isfinite(found_B[0]):
        low, high = np.exp(log_BK[0, [0, -1]])
        raise FitError(
            f"{asked}: {value:.4g} is optimal for no budget within {reach:g} times the fitted ones "
            f"({low:.4g} to {high:.4g} are)" + ("" if reach > LARGEST_EXTRAPOLATION else ". Ask further with --beyond")
        )
    return found_B
