"""What isoFLOP parabolas say of N*(C): beside a law, to check it, and in its place where it is refused.

A law rests on the form that it assumes, a parabola on the runs next to the optimum of one budget. On the 15
configurations that Porian et al. 2024 publish (arXiv 2406.19146; 104 to 132 runs at 11 or 12 budgets each) the exponent
a of the Chinchilla law is .058 off theirs in the mean, its N* more than 1.5 times off at 42 % of the budgets; the
slope through the parabolas .025, their vertices at 3 %. Elsewhere it is the other way round: grids that drift off the
optimum bias the parabolas (`validation.isoflop`). Neither is right by itself, so that a disagreement is said.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from vqscale.errors import FitError
from vqscale.formatting import short_count
from vqscale.laws.decisions.extrapolation import LARGEST_EXTRAPOLATION
from vqscale.laws.decisions.frontier import OUTSIDE_BUDGETS, cost_of
from vqscale.laws.decisions.surface import estimate, surface_of
from vqscale.laws.io.schema import (
    LOSS_UNITS,
    BudgetCheck,
    Estimate,
    Fit,
    Interval,
    IsoflopParabolas,
    ParabolaCheck,
    ParabolaLine,
    ParabolaOptimum,
    Where,
)
from vqscale.laws.validation.vertices import on_the_line
from vqscale.study.frozen import Frozen

BY_CHANCE = 0.1
"""Share of the budgets at which law and parabola may lie apart before it is said. Of two estimates of one value the
90 % intervals miss each other once in fifty times, so that two of twelve budgets do so in one study of forty."""

WIDEST_BEYOND = 10.0
"""Ratio of the ends of the 90 % interval of N* above which no optimum is given outside the budgets with a vertex."""


class ParabolaResult(Frozen):
    """The best division of a budget by the isoFLOP parabolas of a subset whose law in N and D is refused."""

    law: Literal["isoflop parabolas"] = "isoflop parabolas"
    label: str
    where: Where
    metric: str
    unit: str
    asked: Literal["compute"] = "compute"
    amount: float
    in_place_of: str
    """Why no law in N and D answers."""
    optimum: ParabolaOptimum


def query_parabolas(found: IsoflopParabolas, flops: float, *, reach: float = LARGEST_EXTRAPOLATION) -> ParabolaResult:
    """The best division of `flops` in place of the law that is refused. Raises FitError beyond `reach`."""
    assert found.line is not None
    assert found.in_place_of is not None
    return ParabolaResult(
        label=found.label,
        where=found.where,
        metric=found.metric,
        unit=LOSS_UNITS.get(found.metric, found.metric),
        amount=flops,
        in_place_of=found.in_place_of,
        optimum=optimum_by_line(found.line, flops, rows=vertex_losses(found), reach=reach),
    )


def optimum_by_line(
    line: ParabolaLine, flops: float, *, rows: Mapping[float, float] | None = None, reach: float = LARGEST_EXTRAPOLATION
) -> ParabolaOptimum:
    """N* and D* at a budget by the line through the vertices. `rows`: losses of the vertices, by budget.

    Raises FitError for a budget more than `reach` times the largest or less than 1 / `reach` of the smallest one.
    """
    if (times := _times_outside(line, flops)) > reach * (1 + 1e-9):
        side = f"times the largest budget with a vertex ({line.high:.4g})"
        if flops < line.low:
            side = f"times below the smallest budget with a vertex ({line.low:.4g})"
        raise FitError(
            f"{flops:.4g} is {times:.3g} {side}; beyond {reach:g} times no optimum is given. Train a budget"
            " nearer to it first."
        )
    n, d = on_the_line(line, flops)
    if times > 1 + 1e-9 and n.interval is not None and n.interval.high90 > WIDEST_BEYOND * n.interval.low90:
        raise FitError(
            f"{flops:.4g} is outside the budgets with a vertex, and the line through them leaves N* between"
            f" {short_count(n.interval.low90)} and {short_count(n.interval.high90)} (90 %): the vertices do not"
            " determine its slope. Train further budgets."
        )
    return ParabolaOptimum(
        flops=flops,
        parameters=n,
        tokens=d,
        tokens_per_parameter=Estimate(value=d.value / n.value, interval=_ratio(d.interval, n.interval)),
        loss=_loss_between(rows or {}, flops),
        beyond=1.0 if line.low * (1 - 1e-9) <= flops <= line.high * (1 + 1e-9) else _times_outside(line, flops),
    )


def _times_outside(line: ParabolaLine, flops: float) -> float:
    return max(flops / line.high, line.low / flops, 1.0)


def _ratio(tokens: Interval | None, parameters: Interval | None) -> Interval | None:
    """Of D* / N*: at one budget the two move against each other, so that the ends belong together crosswise."""
    if tokens is None or parameters is None:
        return None
    return Interval(
        low90=tokens.low90 / parameters.high90,
        high90=tokens.high90 / parameters.low90,
        low95=tokens.low95 / parameters.high95,
        high95=tokens.high95 / parameters.low95,
    )


def _loss_between(losses: Mapping[float, float], flops: float) -> float | None:
    """Loss at the optimum, interpolated in logarithms between the vertices; None beyond them: no law says it there."""
    budgets = np.array(sorted(losses))
    if not len(budgets) or not budgets[0] * (1 - 1e-9) <= flops <= budgets[-1] * (1 + 1e-9):
        return None
    values = np.array([losses[budget] for budget in budgets.tolist()])
    return float(np.exp(np.interp(np.log(flops), np.log(budgets), np.log(values))))


def vertex_losses(found: IsoflopParabolas) -> dict[float, float]:
    """Budget -> loss at the vertex, of the rows that have one."""
    return {row.budget: row.loss for row in found.rows if row.loss is not None}


def in_place_of_a_law(found: IsoflopParabolas, reason: str, budgets: Sequence[float] | None = None) -> IsoflopParabolas:
    """The parabolas with what they answer where the law in N and D is refused for `reason`.

    `budgets`: where optima are requested; by default those of the vertices, and 3, 10 and 100 times the largest.
    """
    if found.line is None:
        return found
    losses = vertex_losses(found)
    asked = budgets or [*sorted(losses), *(found.line.high * factor for factor in OUTSIDE_BUDGETS)]
    optima, refused = [], {}
    for budget in asked:
        try:
            optima.append(optimum_by_line(found.line, budget, rows=losses))
        except FitError as error:
            refused[repr(float(budget))] = str(error)
    return found.model_copy(update={"in_place_of": reason, "optima": optima, "refused": refused})


def check_by_parabolas(fit: Fit, found: IsoflopParabolas) -> ParabolaCheck | None:
    """The law's N* beside the parabolas' at every budget with a vertex; None without one."""
    rows = [row for row in found.rows if row.vertex is not None]
    if not rows or not fit.frontiers:
        return None
    frontier = fit.frontiers[0]
    law, cost = surface_of(fit), cost_of(fit, frontier.cost)
    log_n_BK, _ = law.best(cost, [row.budget for row in rows])
    budgets = []
    for row, log_n_B in zip(rows, log_n_BK.T, strict=True):
        assert row.vertex is not None
        # A law without a finite optimum at a budget where the runs show one is apart from it.
        own = estimate(np.exp(log_n_B)) if np.isfinite(log_n_B[0]) else None
        apart = own is None or are_apart(own, row.vertex)
        budgets.append(BudgetCheck(flops=row.budget, law=own, parabola=row.vertex, apart=apart))
    a_apart = found.a is not None and are_apart(frontier.a, found.a)
    check = ParabolaCheck(budgets=budgets, a_law=frontier.a, a_parabolas=found.a, a_apart=a_apart, text=None)
    return check.model_copy(update={"text": _describe(check)})


def are_apart(law: Estimate, parabola: Estimate) -> bool:
    """Whether the 90 % intervals miss each other; a law without one (no bootstrap) counts as its value.

    A parabola without one leaves its vertex or slope open, and contradicts nothing.
    """
    if parabola.interval is None:
        return False
    low, high = _limits(law)
    return high < parabola.interval.low90 or parabola.interval.high90 < low


def _limits(one: Estimate) -> tuple[float, float]:
    return (one.value, one.value) if one.interval is None else (one.interval.low90, one.interval.high90)


def _describe(check: ParabolaCheck) -> str | None:
    """The disagreement in a sentence; None where there is no more of it than chance brings."""
    apart = [one for one in check.budgets if one.apart]
    said = []
    if len(apart) >= max(1.0, BY_CHANCE * len(check.budgets)):
        said.append(
            f"N* lies apart by more than both 90 % intervals at {len(apart)} of {len(check.budgets)} budgets,"
            f" {_furthest(apart)}"
        )
    if check.a_apart and check.a_parabolas is not None:
        said.append(f"a is {_with_limits(check.a_law)} by the law and {_with_limits(check.a_parabolas)} by them")
    if not said:
        return None
    return f"law and isoFLOP parabolas disagree: {'; '.join(said)}"


def _furthest(apart: Sequence[BudgetCheck]) -> str:
    one = max(apart, key=lambda one: np.inf if one.law is None else abs(np.log(one.law.value / one.parabola.value)))
    vertex = short_count(one.parabola.value)
    if one.law is None:
        return f"at C = {one.flops:.3g} the law has no finite optimum where a parabola has its vertex at {vertex}"
    times = max(one.law.value / one.parabola.value, one.parabola.value / one.law.value)
    return f"at most at C = {one.flops:.3g}: {short_count(one.law.value)} by the law, {vertex} by them ({times:.2g} x)"


def _with_limits(one: Estimate) -> str:
    if one.interval is None:
        return f"{one.value:.3f}"
    return f"{one.value:.3f} ({one.interval.low90:.3f} to {one.interval.high90:.3f})"
