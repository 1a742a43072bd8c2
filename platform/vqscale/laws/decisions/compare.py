"""One architecture against a baseline: the loss at equal FLOPs, equal measured time and equal money.

Both sides are the frontiers L* of their own surfaces: each model at its own best size for the budget. FLOPs are the
exact counts. Time is what the runs took: measured seconds per token, the median of every size. Money is device-hours at
a price. The multiplier is how many times the budget the first needs for the loss that the baseline has at it. Its
interval pairs the refits of the two fits, which rest on different runs and are drawn independently.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from vqscale.errors import FitError
from vqscale.laws.decisions.extrapolation import LARGEST_EXTRAPOLATION
from vqscale.laws.decisions.frontier import exact_cost, optimum_at
from vqscale.laws.decisions.surface import Surface, estimate, surface_of
from vqscale.laws.decisions.token_cost import TokenCost, fit_token_cost
from vqscale.laws.fitting.run_filter import names_of
from vqscale.laws.forms.catalogue import LAWS, RUNS_PER_PARAMETER, Array
from vqscale.laws.io.schema import BudgetKind, ComparedPoint, Comparison, Estimate, Fit
from vqscale.study.baselines import difference

if TYPE_CHECKING:
    import pandas as pd

SHARED_BUDGETS = 5
"""Budgets over the range that both sides trained."""
LAST_BUDGET = 10.0
"""One more budget beyond it, in units of the largest that both sides trained."""
SHARE_WITHOUT = 0.025
"""Share of paired refits without a multiplier from which the 95 % interval has no upper end, and none is given."""
LARGEST_TIME_DEVIATION = 0.3
"""A size whose median time is further off the curve over N was measured under other conditions than the rest."""
SHARED_COLUMNS = ("corpus_fingerprint", "evaluation_text", "context", "precision")
"""Columns that two fits must share to be compared."""
REFERENCE = "transformer_vq"
"""The architecture with codes that others with codes are compared with."""
_KINDS: tuple[BudgetKind, ...] = ("compute", "time", "money")


@dataclass(frozen=True, kw_only=True)
class Price:
    """Of one worker's devices for an hour."""

    per_device_hour: float
    currency: str


@dataclass(frozen=True, kw_only=True)
class Side:
    """One architecture: its surface, what a token costs in each kind of budget, and why a kind has no cost."""

    fit: Fit
    law: Surface
    costs: dict[BudgetKind, TokenCost] = field(default_factory=dict)
    missing: dict[BudgetKind, str] = field(default_factory=dict)
    currency: str = ""
    hardware: frozenset[str] = frozenset()
    """Devices and workers on which the times were measured."""


def compare_fits(fits: Sequence[Fit], table: "pd.DataFrame", price: Price | None = None) -> list[Comparison]:
    """Architectures with codes against every one without, at the same data, context length and precision.

    Two with codes are compared where their codebooks have the same size, the others against Transformer-VQ. Of a table
    without codebooks, every two architectures are compared. Only laws in N and D are considered.
    """
    laws = [fit for fit in fits if fit.letters == ["N", "D"]]
    sides = [side_of(fit, table, price) for fit in laws]
    return [compare_sides(first, base) for first, base in _pairs(sides)]


def side_of(fit: Fit, table: "pd.DataFrame", price: Price | None) -> Side:
    """One architecture's side: costs of a token in FLOPs, measured time and money, as far as the table has them."""
    law = surface_of(fit)
    costs: dict[BudgetKind, TokenCost] = {}
    missing: dict[BudgetKind, str] = {}
    try:
        costs["compute"] = exact_cost(fit)
    except FitError as error:
        missing["compute"] = str(error)
    measured = _measured(fit, table)
    try:
        costs["time"] = _seconds(measured)
    except FitError as error:
        missing["time"] = missing["money"] = str(error)
    if "time" in costs and price is None:
        missing["money"] = "no price: set resources.price_per_device_hour in the study"
    elif "time" in costs and price is not None:
        workers = float(measured["workers"].median()) if "workers" in measured else 1.0
        text = f"{price.per_device_hour:g} {price.currency} per device-hour; {costs['time'].description}"
        costs["money"] = costs["time"].times(workers * price.per_device_hour / 3600, text)
    currency = price.currency if price else ""
    return Side(fit=fit, law=law, costs=costs, missing=missing, currency=currency, hardware=_hardware(measured))


def compare_sides(first: Side, base: Side) -> Comparison:
    """At budgets over the range that both trained, and at one ten times beyond it."""
    found: list[ComparedPoint] = []
    skipped: dict[str, str] = {}
    disjoint = _too_few(first, base) or _no_overlap(first, base)
    for kind in () if disjoint else _KINDS:
        reason = _without_cost(kind, first, base)
        if reason:
            skipped[kind] = reason
        else:
            points, refused = _points(kind, first, base)
            found += points
            skipped |= refused
    return Comparison(
        where=first.fit.where,
        base=base.fit.where,
        label=first.fit.label,
        base_label=base.fit.label,
        points=found,
        reason=None if found else disjoint or "; ".join(dict.fromkeys(skipped.values())),
        skipped=skipped,
    )


def changed(one: Comparison) -> str | None:
    """What differs between the two, where the baseline is that of the first's own paper; None for other pairs."""
    return difference(str(one.where.get("arch")), str(one.base.get("arch")), one.base.get("variant"))


def _pairs(sides: Sequence[Side]) -> list[tuple[Side, Side]]:
    """Pairs to compare, the baseline second; two subsets once, in the first law requested that fits both."""
    coded = [side for side in sides if _codes(side) is not None]
    bases = [side for side in sides if _codes(side) is None]
    every = [(first, base) for first in coded for base in bases] if coded else list(combinations(bases, 2))
    every += [_reference_last(pair) for pair in combinations(coded, 2) if _codes(pair[0]) == _codes(pair[1])]
    comparable = [(first, base) for first, base in every if _comparable(first.fit, base.fit)]
    by_subset: dict[str, tuple[Side, Side]] = {}
    for first, base in comparable:
        by_subset.setdefault(repr((first.fit.where, base.fit.where)), (first, base))
    return list(by_subset.values())


def _codes(side: Side) -> object:
    return side.fit.where.get("codebook_size")


def _reference_last(pair: tuple[Side, Side]) -> tuple[Side, Side]:
    first, base = pair
    return (base, first) if first.fit.where.get("arch") == REFERENCE else pair


def _comparable(first: Fit, base: Fit) -> bool:
    same = all(first.where.get(column) == base.where.get(column) for column in SHARED_COLUMNS)
    differs = first.where.get("arch") != base.where.get("arch")
    return same and differs and (first.law, first.metric, first.convention) == (base.law, base.metric, base.convention)


def _too_few(first: Side, base: Side) -> str:
    """Why one of the fits rests on too few runs to be compared, or nothing; such a fit carries a warning of its own."""
    for fit in (first.fit, base.fit):
        needed = RUNS_PER_PARAMETER * LAWS[fit.law].free_parameters
        if fit.n_runs < needed:
            return f"{fit.label}: {fit.n_runs} runs, and a comparison by {fit.law} needs {needed}"
    return ""


def _no_overlap(first: Side, base: Side) -> str:
    """Why no loss was reached by both, or nothing."""
    low = max(first.law.loss.min(), base.law.loss.min())
    high = min(first.law.loss.max(), base.law.loss.max())
    if low <= high:
        return ""
    return (
        f"the losses do not overlap: {first.law.loss.min():.4g} to {first.law.loss.max():.4g} against "
        f"{base.law.loss.min():.4g} to {base.law.loss.max():.4g}. Train budgets that reach a common loss."
    )


def _without_cost(kind: BudgetKind, first: Side, base: Side) -> str:
    for side in (first, base):
        if kind in side.missing:
            return f"{side.fit.label}: {side.missing[kind]}"
    if kind != "compute" and first.hardware != base.hardware:
        return f"times were measured on different hardware: {_listed(first.hardware)} against {_listed(base.hardware)}"
    if kind != "compute" and len(first.hardware) > 1:
        return f"times were measured on several kinds of hardware: {_listed(first.hardware)}"
    return ""


def _points(kind: BudgetKind, first: Side, base: Side) -> tuple[list[ComparedPoint], dict[str, str]]:
    """The points at which both laws have an optimum, and why there are no others."""
    spent = [side.law.spent(side.costs[kind]) for side in (first, base)]
    low, high = max(float(s.min()) for s in spent), min(float(s.max()) for s in spent)
    if low >= high:
        return [], {kind: f"no budget of {kind} lies within the runs of both"}
    table = first.law.least_losses(first.costs[kind])
    points, refused = [], {}
    for budget in [*np.geomspace(low, high, SHARED_BUDGETS).tolist(), LAST_BUDGET * high]:
        try:
            for side in (first, base):
                _require_bracketed(side, kind, budget)
        except FitError as error:
            refused[f"{kind} {budget!r}"] = str(error)
        else:
            points.append(_point(kind, budget, budget / high, first, base, table))
    return points, refused


def _require_bracketed(side: Side, kind: BudgetKind, budget: float) -> None:
    """Raises FitError where the best size at the budget is not known, or no size tried near it comes close to it."""
    best = optimum_at(side.law.only_fit(), side.costs[kind], budget)
    if not best.supported:
        raise FitError(
            f"{side.fit.label}: no size tried near this budget has a loss within 1 % of the best"
            f" ({'; '.join(best.extrapolation)})"
        )


def _point(
    kind: BudgetKind, budget: float, beyond: float, first: Side, base: Side, table: tuple[Array, Array]
) -> ComparedPoint:
    cost = first.costs[kind]
    loss_B, base_B = (side.law.best(side.costs[kind], [budget])[1][:, 0] for side in (first, base))
    # Rows pair the fits (row 0) and their refits one by one; where one side has fewer, the rest is left out.
    pairs = min(len(loss_B), len(base_B))
    loss_B, base_B = loss_B[:pairs], base_B[:pairs]
    multiplier, reason = multiplier_of(first.law, first.fit.label, cost, budget, base_B, table)
    return ComparedPoint(
        kind=kind,
        budget=budget,
        unit={"compute": "FLOPs", "time": "seconds", "money": first.currency}[kind],
        loss=estimate(loss_B),
        base_loss=estimate(base_B),
        difference=estimate(loss_B - base_B),
        multiplier=multiplier,
        reason=reason,
        beyond=beyond,
    )


def multiplier_of(
    law: Surface, label: str, cost: TokenCost, budget: float, base_B: Array, table: tuple[Array, Array]
) -> tuple[Estimate | None, str | None]:
    """How many times `budget` the law needs for the losses `base_B`, those of the baseline at it, or why it is none.

    `base_B` [1 + B or fewer]: the baseline's value, then its refits. `table`: `law.least_losses(cost)`.
    """
    rows = len(base_B)
    needed_B = law.budgets_for(cost, base_B, (table[0], table[1][:rows])) / budget
    largest = float(law.spent(cost).max())
    if not np.isfinite(needed_B[0]):
        return None, f"{label} does not reach {base_B[0]:.4g} within the range of its law"
    if needed_B[0] * budget > LARGEST_EXTRAPOLATION * largest:
        times = needed_B[0] * budget / largest
        return None, f"{base_B[0]:.4g} would need {times:.3g} times the largest budget that {label} trained"
    never = float(np.mean(~np.isfinite(needed_B[1:]))) if len(needed_B) > 1 else 0.0
    if never > SHARE_WITHOUT:
        return None, f"in {never:.0%} of the paired refits {label} never reaches it: no upper limit"
    return estimate(needed_B[np.isfinite(needed_B)]), None


def _measured(fit: Fit, table: "pd.DataFrame") -> "pd.DataFrame":
    """Runs of the fit with a measured time: N, seconds per token, device and workers."""
    import pandas as pd

    known = {point.name: point.x[fit.letters.index("N")] for point in fit.points}
    if "tokens_per_second" not in table:
        return pd.DataFrame({"n": [], "seconds": []})
    # Names are unique within a subset only: rows of other subsets are dropped below.
    runs = table.assign(called=names_of(table))
    runs = runs[runs["called"].isin(list(known)) & runs["tokens_per_second"].notna()]
    for column, value in fit.where.items():
        if column in runs and value is not None:
            runs = runs[runs[column] == value]
    seconds = 1.0 / runs["tokens_per_second"].astype(float)
    return runs.assign(n=[known[name] for name in runs["called"]], seconds=seconds)


def _seconds(measured: "pd.DataFrame") -> TokenCost:
    if measured.empty:
        raise FitError("no measured speed: the table has no tokens_per_second for these runs")
    return fit_token_cost(
        measured["n"].to_numpy(dtype=np.float64),
        measured["seconds"].to_numpy(dtype=np.float64),
        "measured seconds per token",
        largest_deviation=LARGEST_TIME_DEVIATION,
    )


def _hardware(measured: "pd.DataFrame") -> frozenset[str]:
    columns = [column for column in ("device", "workers") if column in measured]
    return frozenset(" x ".join(str(value) for value in row) for row in measured[columns].itertuples(index=False))


def _listed(hardware: frozenset[str]) -> str:
    return ", ".join(sorted(hardware)) or "unknown"
