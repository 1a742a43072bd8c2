"""Cost of the study, and the expected cost and loss at ten times its largest budget."""

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from vqscale.formatting import duration
from vqscale.laws import Fit
from vqscale.laws.io.schema import Optimum
from vqscale.reporting.charts.style import number, plural, power, present
from vqscale.reporting.compare import finished, own_share
from vqscale.reporting.report_data import ReportData, over_trained, shown_frontier

NEXT_BUDGETS = (5.0, 40.0)
"""Budgets over the largest trained one that count as the next step; the one nearest to ten is taken."""
LARGE_RUNS = 0.5
"""Runs from this share of an architecture's largest budget on give its speed there."""


def spending_sentences(data: ReportData) -> Iterator[str]:
    table = data.table
    if not {"status", "flops"} <= set(table.columns):
        return
    own, runs = own_share(table), finished(table)
    flops = float((runs["flops"] * own[runs.index]).sum())
    if flops <= 0:
        return
    parts = [f"The study's {plural(len(table), 'run')} cost {power(flops)} training FLOPs"]
    if (own < 1).any():
        parts[0] += " (updates of shared WSD prefixes are counted once)"
    parts += _spent(table, data.study)
    failed = int(table["status"].isin(["failed", "diverged"]).sum())
    parts += [f"{failed} of them failed or diverged"] if failed else []
    yield ", ".join(parts) + "."
    if found := [(fit, one) for fit in data.leading if (one := _next(fit)) is not None]:
        parts = [_expected(data, fit, one) for fit, one in found]
        yield f"{number(over_trained(*found[0]), 2)} times the largest budget should bring {'; '.join(parts)}."


def _spent(table: pd.DataFrame, study: Any) -> Iterator[str]:
    columns = [name for name in ("seconds_training", "seconds_evaluation", "seconds_overhead") if name in table]
    if len(columns) < 3 or table[columns].isna().all(axis=None):
        return
    seconds = table["seconds_training"].fillna(0) * own_share(table) + table[columns[1:]].sum(axis=1)
    hours = float((seconds * table.get("workers", 1)).sum()) / 3600
    overhead = float(table["seconds_overhead"].sum())
    yield f"{number(hours, 3)} device-hours ({duration(overhead)} of them starting, saving and stopping)"
    yield from _money(hours, study)


def _money(hours: float, study: Any) -> Iterator[str]:
    resources = study.get("resources") or {}
    price = resources.get("price_per_device_hour")
    if price:
        yield f"{number(hours * price, 3)} {resources.get('currency', '')}".strip()


def _next(fit: Fit) -> Optimum | None:
    """The optimum at about ten times the largest budget that was trained."""
    found = shown_frontier(fit)
    optima = (
        [one for one in found.optima if NEXT_BUDGETS[0] <= over_trained(fit, one) <= NEXT_BUDGETS[1]] if found else []
    )
    return min(optima, key=lambda one: abs(math.log(over_trained(fit, one) / 10)), default=None)


def _expected(data: ReportData, fit: Fit, one: Optimum) -> str:
    """Its loss, and what one run there would cost at the speed of the largest runs."""
    between = one.loss.interval
    loss = number(one.loss.value) + (f" ({number(between.low90)} to {number(between.high90)})" if between else "")
    return f"{data.name(fit.where, fit.label)} to {loss} {fit.unit}{_price(data, fit, one)}"


def _price(data: ReportData, fit: Fit, one: Optimum) -> str:
    hours = _hours(data.table, fit, one)
    if hours is None:
        return ""
    amount = [f"{number(hours, 3)} device-hours", *_money(hours, data.study)]
    return f" in {' or '.join(amount)} per run"


def _hours(table: pd.DataFrame, fit: Fit, one: Optimum) -> float | None:
    needed = {"flops_per_second", "flops", *fit.where}
    if not needed <= set(table.columns) or not {"arch"} <= set(fit.where):
        return None
    runs = finished(table)
    runs = runs[(runs["arch"] == fit.where["arch"]) & runs["flops_per_second"].notna()]
    runs = runs[runs["flops"] >= LARGE_RUNS * runs["flops"].max()]
    speed = float((runs["flops_per_second"] / runs["workers"]).median()) if "workers" in runs else None
    return one.flops / speed / 3600 if speed is not None and present(speed) and speed > 0 else None
