"""The compute-optimal frontier of a law in N and D: N*(C), D*(C), L*(C), its exponents, and its inverse.

When an optimum is given. A budget is supported where a size tried near it lies in the flat bottom of the law (a loss
within 1 % of the best) or in the 90 % interval of N*: the runs then show the loss to which N* leads. An optimum is
given at every budget within ten times a supported one, and up to a hundred times outside the runs; what lies outside
the sizes, tokens or budgets tried is said with it (`Optimum.extrapolation`). A ladder of sizes, each on multiples of
its own tokens, has its largest budgets at its largest size: they lie a few times beyond its last supported budget.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vqscale.errors import FitError
from vqscale.laws.decisions.extrapolation import describe_extrapolation, require_reach, times_beyond
from vqscale.laws.decisions.surface import Surface, estimate, exact_flops_of, surface_of
from vqscale.laws.decisions.token_cost import TokenCost, fit_token_cost, six_n
from vqscale.laws.forms.catalogue import Array
from vqscale.laws.io.schema import Estimate, Fit, Frontier, Optimum

NEARBY_FACTOR = 4.0
"""Runs within this factor of a budget show which sizes were tried at it."""
FLAT_SHARE = 0.01
"""The flat bottom: sizes whose loss is within this share of the optimal one."""
FLAT_REACH = np.log(1e4)
"""The flat bottom is followed this far, in log N, to either side."""
INSIDE_BUDGETS = 7
SUPPORT_REACH = 10.0
"""Furthest from a supported budget that an optimum within the data is given: about three times in N."""
SUPPORT_BUDGETS = 25
"""Budgets over the runs at which support is looked for."""
OUTSIDE_BUDGETS = (3.0, 10.0, 100.0)
"""Budgets of the table beyond the data, in units of the largest fitted one."""


def exact_cost(fit: Fit) -> TokenCost:
    """FLOPs per token as a function of N, through the fit's own runs. Raises FitError where they have none."""
    n_R, per_token_R = exact_flops_of(fit)
    return fit_token_cost(n_R, per_token_R, "exact FLOPs per token")


def cost_of(fit: Fit, kind: str) -> TokenCost:
    """FLOPs per token by one count; `kind`: exact or 6nd."""
    return exact_cost(fit) if kind == "exact" else six_n(np.array([p.x[fit.letters.index("N")] for p in fit.points]))


def fit_frontiers(
    fit: Fit, draws_BP: Array, budgets: Sequence[float] | None = None
) -> tuple[list[Frontier], list[str]]:
    """The frontiers by exact FLOPs and by 6ND, and why one of them is not given. `draws_BP`: all refits.

    `budgets`: as in `make_frontier`.
    """
    if set(fit.letters) != {"N", "D"}:
        return [], []
    found, reasons = [], []
    law = surface_of(fit, draws_BP)
    # Where C was computed as 6ND, there is no other count of it.
    for kind in ("exact", "6nd") if fit.convention.flops == "exact" else ("6nd",):
        try:
            found.append(_without_bounds(fit, make_frontier(law, cost_of(fit, kind), kind, budgets)))
        except FitError as error:
            reasons.append(f"no frontier by {kind} FLOPs: {error}")
    return found, reasons


def _without_bounds(fit: Fit, found: Frontier) -> Frontier:
    """Without the intervals of a and b where those of the exponents end on a bound of the search."""
    if "a" not in fit.derived or "a" in fit.intervals:
        return found
    return found.model_copy(update={"a": Estimate(value=found.a.value), "b": Estimate(value=found.b.value)})


def make_frontier(law: Surface, cost: TokenCost, kind: str, budgets: Sequence[float] | None = None) -> Frontier:
    """`budgets`: where optima are requested; by default seven over the fitted range and 3, 10 and 100 times beyond.

    Raises FitError where the law has no finite optimum between the smallest and the largest fitted budget.
    """
    spent = law.spent(cost)
    low, high = float(spent.min()), float(spent.max())
    asked = budgets or [
        *np.geomspace(low, high, INSIDE_BUDGETS).tolist(),
        *(high * factor for factor in OUTSIDE_BUDGETS),
    ]
    optima, refused = [], {}
    for budget in asked:
        try:
            optima.append(optimum_at(law, cost, budget))
        except FitError as error:
            refused[repr(float(budget))] = str(error)
    # Row 0 is the fit itself: refits without an optimum only cost the interval.
    ends_BE = law.best(cost, [low, high])[0]
    if not np.all(np.isfinite(ends_BE[0])):
        raise FitError("at a fitted budget the law has no finite optimum")
    token_BE = np.log([low, high]) - cost.log_per_token(ends_BE)
    # a and b are mean slopes over the fitted range: by exact FLOPs log N*(C) is no straight line.
    with np.errstate(invalid="ignore"):  # inf - inf: a refit without a best N at both ends
        a_B, b_B = ((end_BE[:, 1] - end_BE[:, 0]) / np.log(high / low) for end_BE in (ends_BE, token_BE))
    return Frontier(
        cost="exact" if kind == "exact" else "6nd",
        description=cost.description,
        a=estimate(a_B),
        b=estimate(b_B),
        optima=optima,
        refused=refused,
    )


def optimum_at(law: Surface, cost: TokenCost, budget: float, *, beyond: bool = False) -> Optimum:
    """The best division of `budget`. Raises FitError, with the reason, where the runs do not determine it.

    `beyond`: also more than `LARGEST_EXTRAPOLATION` times outside the runs.
    """
    spent = law.spent(cost)
    if not beyond:
        require_reach({"C": budget}, {"C": spent})
    log_n_B, loss_B = (found_BK[:, 0] for found_BK in law.best(cost, [budget]))
    if not np.isfinite(log_n_B[0]):
        raise FitError("the law has no finite optimum at this budget")
    nearest = float(np.clip(budget, spent.min(), spent.max()))
    supported = _supported(law, cost, spent, nearest)
    if not supported:
        _require_support(law, cost, spent, nearest)
    log_d_B = np.log(budget) - cost.log_per_token(log_n_B)
    low, high = _flat_bottom(law, cost, budget, float(log_n_B[0]), float(loss_B[0]))
    sizes = law.n[_nearby(spent, nearest)]
    best = {"N": float(np.exp(log_n_B[0])), "D": float(np.exp(log_d_B[0])), "C": budget}
    edge = "smallest" if nearest > budget else "largest"
    near = " near this budget" if nearest == budget else f" near the {edge} budget"
    tried = {"N": sizes, "D": law.d, "C": spent}
    if not beyond:
        require_reach(best, tried, near)
    return Optimum(
        flops=budget,
        parameters=estimate(np.exp(log_n_B)),
        tokens=estimate(np.exp(log_d_B)),
        loss=estimate(loss_B),
        tokens_per_parameter=estimate(np.exp(log_d_B - log_n_B)),
        parameters_low=low,
        parameters_high=high,
        beyond=budget / float(spent.max()),
        outside=times_beyond(best["N"], sizes),
        supported=supported,
        extrapolation=describe_extrapolation(best, tried, near),
    )


def _supported(law: Surface, cost: TokenCost, spent_R: Array, budget: float) -> bool:
    """Whether a size tried near the budget lies in the flat bottom there, or in the 90 % interval of N*."""
    log_n_B, loss_B = (found_BK[:, 0] for found_BK in law.best(cost, [budget]))
    if not np.isfinite(log_n_B[0]):
        return False
    low, high = _flat_bottom(law, cost, budget, float(log_n_B[0]), float(loss_B[0]))
    if limits := estimate(np.exp(log_n_B)).interval:
        low, high = min(low, limits.low90), max(high, limits.high90)
    sizes = law.n[_nearby(spent_R, budget)]
    return bool(np.any((low <= sizes) & (sizes <= high)))


def _require_support(law: Surface, cost: TokenCost, spent_R: Array, nearest: float) -> None:
    """Raises FitError unless a budget within reach of `nearest`, a budget without support, has some."""
    tried = np.geomspace(spent_R.min(), spent_R.max(), SUPPORT_BUDGETS)
    reach = np.log(SUPPORT_REACH) + 1e-9
    if any(_supported(law, cost, spent_R, one) for one in tried[np.abs(np.log(tried / nearest)) <= reach].tolist()):
        return
    best_n = float(np.exp(law.only_fit().best(cost, [nearest])[0][0, 0]))
    sizes = law.n[_nearby(spent_R, nearest)]
    raise FitError(
        f"the runs do not bracket the optimum: near {nearest:.4g} sizes of {sizes.min():.4g} to {sizes.max():.4g} were"
        f" tried, N* is {best_n:.4g}, and no size tried at any budget within {SUPPORT_REACH:g} times lies in"
        f" the interval of N* or has a loss within {100 * FLAT_SHARE:g} % of the best."
        f" Train {'smaller' if best_n < sizes.min() else 'larger'} sizes at this budget."
    )


def near_the_optimum(fit: Fit, factor: float) -> NDArray[np.bool_] | None:
    """Which runs of the fit lie within `factor` times of the best size of their own budget: [R].

    None where the fit has no frontier. A run at whose budget the law has no finite optimum is near none.
    """
    if not fit.frontiers:
        return None
    law, cost = surface_of(fit).only_fit(), cost_of(fit, fit.frontiers[0].cost)
    log_best_R = law.best(cost, law.spent(cost).tolist())[0][0]
    return np.asarray(np.abs(np.log(law.n) - log_best_R) <= np.log(factor) * (1 + 1e-9), dtype=np.bool_)


def _nearby(spent_R: Array, budget: float) -> NDArray[np.bool_]:
    """Runs within `NEARBY_FACTOR` of the budget; where budgets are further apart, those next to it on either side."""
    distance_R = np.log(spent_R / budget)
    next_above, next_below = distance_R[distance_R >= 0].min(), -distance_R[distance_R <= 0].max()
    return np.asarray(np.abs(distance_R) <= max(np.log(NEARBY_FACTOR), next_above, next_below), dtype=np.bool_)


def _flat_bottom(law: Surface, cost: TokenCost, budget: float, log_n: float, loss: float) -> tuple[float, float]:
    """Sizes between which the loss is within `FLAT_SHARE` of `loss`, from the fit alone."""
    offset_U = np.linspace(0, FLAT_REACH, 4001)  # sizes to 0.23 %
    ends = []
    for sign in (-1, 1):
        log_n_U = log_n + sign * offset_U
        loss_U = law.only_fit().losses(log_n_U[None, :], (np.log(budget) - cost.log_per_token(log_n_U))[None, :])[0]
        outside = int(np.argmax(loss_U > loss * (1 + FLAT_SHARE)))
        # argmax of no True is 0: then the bottom is flat as far as it is followed.
        ends.append(float(np.exp(log_n_U[outside - 1 if outside else -1])))
    return ends[0], ends[1]
