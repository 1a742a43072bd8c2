"""What to train, asked from any side: for an amount of compute, a size, a number of tokens, or a loss.

A `Cost` in money or seconds turns the same question into one of money or time.
"""

from typing import Literal

import numpy as np

from vqscale.errors import FitError
from vqscale.laws.decisions.flops import Cost
from vqscale.laws.decisions.frontier import MOST_BEYOND, optimum
from vqscale.laws.decisions.surface import Surface, estimate
from vqscale.laws.forms.catalogue import Array
from vqscale.laws.io.schema import Estimate, Optimum
from vqscale.study.frozen import Frozen

Asked = Literal["compute", "parameters", "tokens", "loss", "money"]
_GRID = 241
"""Budgets between which a size or a number of tokens is looked for, in logarithms."""


class Decision(Frozen):
    """The compute-optimal run that answers a question."""

    asked: Asked
    value: float
    compute: Estimate
    """In what the cost counts; with an interval where they follow from the law."""
    optimum: Optimum
    """At `compute.value`."""


def decide(
    law: Surface,
    cost: Cost,
    *,
    compute: float | None = None,
    parameters: float | None = None,
    tokens: float | None = None,
    loss: float | None = None,
) -> Decision:
    """The best run for exactly one of `compute` (in what `cost` counts), `parameters`, `tokens` and `loss`.

    A size or a number of tokens is answered with the budget for which it is the best one. Raises FitError where not
    exactly one is given, and for what the runs cannot support.
    """
    given: dict[Asked, float | None] = {
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
    budget = _budget(law, cost, asked, value)
    return Decision(
        asked=asked,
        value=value,
        compute=budget,
        optimum=optimum(law, cost, budget.value),
    )


def _budget(law: Surface, cost: Cost, asked: Asked, value: float) -> Estimate:
    if asked == "compute":
        return Estimate(value=value)
    found_B = _for_loss(law, cost, value) if asked == "loss" else _for_axis(law, cost, asked, value)
    return estimate(found_B)


def _for_loss(law: Surface, cost: Cost, loss: float) -> Array:
    if loss <= law.floor[0]:
        raise FitError(f"loss: {loss:.6g} lies at or below E = {law.floor[0]:.6g}, what no compute goes below")
    found_B = law.budgets_for(cost, np.full(len(law.floor), loss))
    if not np.isfinite(found_B[0]):
        raise FitError(f"loss: {loss:.6g} is reached at no budget up to many times the largest fitted budget")
    return found_B


def _for_axis(law: Surface, cost: Cost, asked: Asked, value: float) -> Array:
    """The budget whose best size (or tokens) is `value`; both grow with the budget, along near-straight lines."""
    spent = law.spent(cost)
    budgets_K = np.geomspace(spent.min() / MOST_BEYOND, spent.max() * MOST_BEYOND, _GRID)
    log_n_BK, _ = law.best(cost, budgets_K.tolist())
    log_BK = log_n_BK if asked == "parameters" else np.log(budgets_K) - cost.log_per_token(log_n_BK)
    target = np.log(value)
    found_B = np.array([np.exp(np.interp(target, row_K, np.log(budgets_K), np.nan, np.nan)) for row_K in log_BK])
    if not np.isfinite(found_B[0]):
        low, high = np.exp(log_BK[0, [0, -1]])
        raise FitError(
            f"{asked}: {value:.4g} is the best for no budget within {MOST_BEYOND:g} times the fitted ones "
            f"({low:.4g} to {high:.4g} are)"
        )
    return found_B
