"""Cost of the study, and the expected cost and loss at ten times its largest budget."""

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from vqscale.formatting import duration
from vqscale.laws import Fit
from vqscale.laws.io.schema import Optimum
from vqscale.reporting.charts.style import listed, number, power, present
from vqscale.reporting.claims.basis import basis_of, rows_of_fits
from vqscale.reporting.claims.claim import Basis, Claim, fig, named
from vqscale.reporting.compare import finished, own_share
from vqscale.reporting.report_data import ReportData, over_trained, shown_frontier
from vqscale.reporting.summary.findings import estimate
from vqscale.reporting.trust import trust

NEXT_BUDGETS = (5.0, 40.0)
"""Budgets over the largest trained one that count as the next step; the one nearest to ten is taken."""
LARGE_RUNS = 0.5
"""Runs from this share of an architecture's largest budget on give its speed there."""


def spending_claims(data: ReportData) -> Iterator[Claim]:
    """What the study has cost so far."""
    table = data.table
    if not {"status", "flops"} <= set(table.columns):
        return
    own, runs = own_share(table), finished(table)
    flops = float((runs["flops"] * own[runs.index]).sum())
    if flops <= 0:
        return
    count = fig(len(table), str(len(table)), "runs of the study")
    spent = fig(flops, power(flops), "training FLOPs of all finished runs")
    who = f"The study's {count} runs" if len(table) > 1 else f"The study's {count} run"
    parts = [f"{who} cost {spent} training FLOPs"]
    if (own < 1).any():
        parts[0] += " (updates of shared WSD prefixes are counted once)"
    parts += _spent(table, data.study)
    failed = int(table["status"].isin(["failed", "diverged"]).sum())
    parts += [f"{fig(failed, str(failed), 'failed or diverged runs')} of them failed or diverged"] if failed else []
    yield Claim.of(", ".join(parts) + ".", basis_of(data, table, losses=False, measured="the records of all runs"))


def next_claims(data: ReportData) -> Iterator[Claim]:
    """Whether to continue: what ten times the largest budget should bring, by the laws that may be extrapolated."""
    found = [(fit, one) for fit in data.leading if trust(fit).extrapolates and (one := _next(fit)) is not None]
    for fit, one in found:
        name = data.name(fit.where, fit.label)
        factor = fig(over_trained(fit, one), number(over_trained(fit, one), 2), "times the largest budget trained")
        yield Claim.of(
            f"{factor} times the largest budget should bring {_expected(data, fit, one, name)}.",
            basis_of(
                data, rows_of_fits(data, [fit]), laws=[fit], beyond=one.beyond, baselines=list(fit.holdout.baselines)
            ),
        )
    if not data.leading:
        yield Claim.of(
            "What a larger budget would bring is not known from this study: it has no law in N and D.",
            Basis(measured="the absence of a fit"),
        )
    barred = [fit for fit in data.leading if not trust(fit).extrapolates]
    if barred:
        names = listed([data.name(fit.where, fit.label) for fit in barred])
        yield Claim.of(
            f"What a larger budget would bring {named(names)} is not known from this study:"
            f" {'its law' if len(barred) == 1 else 'their laws'} may not be extrapolated (reasons under Confidence)."
            " Larger runs, held out, would tell.",
            basis_of(data, rows_of_fits(data, barred), laws=barred),
        )


def _spent(table: pd.DataFrame, study: Any) -> Iterator[str]:
    columns = [name for name in ("seconds_training", "seconds_evaluation", "seconds_overhead") if name in table]
    if len(columns) < 3 or table[columns].isna().all(axis=None):
        return
    seconds = table["seconds_training"].fillna(0) * own_share(table) + table[columns[1:]].sum(axis=1)
    hours = float((seconds * table.get("workers", 1)).sum()) / 3600
    overhead = float(table["seconds_overhead"].sum())
    lost = fig(overhead, duration(overhead), "seconds of starting, saving and stopping")
    shown = fig(hours, number(hours, 3), "device-hours of all runs")
    yield f"{shown} device-hours ({lost} of them starting, saving and stopping)"
    yield from _money(hours, study, "all runs")


def _money(hours: float, study: Any, of: str) -> Iterator[str]:
    resources = study.get("resources") or {}
    price = resources.get("price_per_device_hour")
    if price:
        currency = resources.get("currency", "")
        yield f"{fig(hours * price, number(hours * price, 3), f'{currency} for {of}')} {currency}".strip()


def _next(fit: Fit) -> Optimum | None:
    """The optimum at about ten times the largest budget that was trained."""
    found = shown_frontier(fit)
    optima = (
        [one for one in found.optima if NEXT_BUDGETS[0] <= over_trained(fit, one) <= NEXT_BUDGETS[1]] if found else []
    )
    return min(optima, key=lambda one: abs(math.log(over_trained(fit, one) / 10)), default=None)


def _expected(data: ReportData, fit: Fit, one: Optimum, name: str) -> str:
    """Its loss, and what one run there would cost at the speed of the largest runs."""
    loss = estimate(one.loss, f"loss of {name} at the larger budget, {fit.unit}")
    untested = " (its law was not tested on held-out runs)" if fit.holdout.mean_relative_error is None else ""
    return f"{named(name) if fit.where else 'the loss'} to {loss} {named(fit.unit)}{_price(data, fit, one)}{untested}"


def _price(data: ReportData, fit: Fit, one: Optimum) -> str:
    hours = _hours(data.table, fit, one)
    if hours is None:
        return ""
    amount = [f"{fig(hours, number(hours, 3), 'device-hours of one such run')} device-hours"]
    amount += _money(hours, data.study, "one such run")
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
