"""Speed and price of training at the context lengths of the study: timed in alternation, else from its own runs."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from vqscale.reporting.charts.style import architecture, listed, number, present, whole
from vqscale.reporting.claims.basis import basis_of
from vqscale.reporting.claims.claim import Basis, Claim, fig, named
from vqscale.reporting.compare import finished, sides
from vqscale.reporting.report_data import ReportData
from vqscale.reporting.throughput.speed_comparison import SpeedComparison, speed_comparisons

TIMED = "the throughput table of this study, timed in alternation"
RUNS = "speed of the study's own training runs, not timed in alternation"


def speed_claims(data: ReportData) -> Iterator[Claim]:
    """Ratio, break-even, cost and memory where they were timed; what a billion tokens cost at the study's lengths."""
    if data.throughput is not None:
        for one in speed_comparisons(data.throughput):
            lengths = [context for context in study_contexts(data) if context in one.contexts]
            for context in lengths or [one.longest]:
                yield from (Claim.of(text, _timing_basis(data, one)) for text in one.marked_at(context))
    yield from _prices(data)


def study_contexts(data: ReportData) -> list[int]:
    """The context lengths that the study trained at, ascending."""
    runs = finished(data.table)
    return sorted({int(value) for value in runs["context"] if present(value)}) if "context" in runs else []


def _timing_basis(data: ReportData, one: SpeedComparison) -> Basis:
    return Basis(measured=TIMED, baselines=[architecture(name) for name in one.others], weakened_by=one.caveats)


def speed_claim(data: ReportData, first: str, second: str) -> Iterator[Claim]:
    """How many times as fast one trains as another at the study's lengths, by its own runs of equal size."""
    parts, used = [], []
    for context in study_contexts(data):
        ratios, rows = _ratios(data.table, first, second, context)
        if len(ratios):
            parts.append(_speed_at(ratios, first, second, context))
            used.append(rows)
    if parts:
        yield Claim.of(
            f"Training speed of {named(architecture(first))} over {named(architecture(second))} in the study's runs:"
            f" {listed(parts)}; not timed in alternation; {break_even_text(data, first, second)}.",
            basis_of(data, pd.concat(used), losses=False, baselines=[architecture(second)], measured=RUNS,
                     weakened=["the runs shared their machine with others"]),
        )  # fmt: skip


def _speed_at(ratios: "pd.Series[Any]", first: str, second: str, context: int) -> str:
    what = f"speed of {architecture(first)} over {architecture(second)} in training at T = {whole(context)}"
    middle, low, high = (float(value) for value in (ratios.median(), ratios.min(), ratios.max()))
    shown = fig(middle, f"{number(middle, 3)} times", f"{what}, median over sizes of the study's runs")
    ends = (fig(low, number(low, 3), f"{what}, lowest size"), fig(high, number(high, 3), f"{what}, highest size"))
    span = f" ({ends[0]} to {ends[1]} by size)" if len(ratios) > 1 else ""
    return f"{shown} at T = {named(whole(context))}{span}"


def _ratios(table: pd.DataFrame, first: str, second: str, context: int) -> "tuple[pd.Series[Any], pd.DataFrame]":
    """By size, over runs of one setting on one kind of device; and those runs."""
    if not {"tokens_per_second", "preset", "context", "arch"} <= set(table.columns):
        return pd.Series(dtype=float), table.iloc[:0]
    keys = ["preset", *(name for name in ("workers", "device", "precision", "batch_tokens") if name in table)]
    known = sides(table)
    own, other = (
        rows[(rows["context"] == context) & rows["tokens_per_second"].notna()] for rows in (known[first], known[second])
    )
    medians = [side.groupby(keys, dropna=False)["tokens_per_second"].median() for side in (own, other)]
    return (medians[0] / medians[1]).dropna(), pd.concat([own, other])


def break_even_text(data: ReportData, first: str, second: str) -> str:
    """Break-even of two architectures where it was timed; that it was not, where one of them has another cost in T."""
    if data.throughput is None:
        return "break-even length not measured"
    for one in speed_comparisons(data.throughput):
        if one.arch == first and second in one.break_even:  # the window bias is not timed on its own
            return one.marked_even(second)
    return "break-even length not measured"


def _prices(data: ReportData) -> Iterator[Claim]:
    """Device-hours of a billion training tokens at every context of the study, at the largest size all have."""
    runs = finished(data.table)
    if not {"tokens_per_second", "preset", "context", "arch", "parameters"} <= set(runs.columns) or data.classifies:
        return
    runs = runs[runs["tokens_per_second"].notna()]
    for context in study_contexts(data):
        here = runs[runs["context"] == context]
        sizes = [
            (float(same["parameters"].max()), str(preset), same)
            for preset, same in here.groupby("preset")
            if same["arch"].nunique() == here["arch"].nunique()
        ]
        if sizes:
            _, preset, same = max(sizes, key=lambda one: one[0])
            yield _price(data, context, preset, same)


def _price(data: ReportData, context: int, preset: str, same: pd.DataFrame) -> Claim:
    resources = data.study.get("resources") or {}
    price, currency = resources.get("price_per_device_hour"), resources.get("currency") or "of the price's currency"
    unit = currency if price else "device-hours"
    parts = []
    for arch, members in sorted(same.groupby("arch"), key=lambda pair: data.scheme.place(pair[0])):
        name = architecture(arch)
        speed = float((members["tokens_per_second"] / members.get("workers", 1)).median())
        amount = 1e9 / speed / 3600 * (price or 1)
        shown = fig(amount, number(amount, 3), f"{unit} for a billion training tokens of {name}")
        parts.append(f"{named(name)} {shown} {named(unit)}")
    stated = "no price is given"
    if price:
        stated = f"at {fig(price, number(price), f'{unit} per device-hour, stated')} {named(unit)} per device-hour"
    return Claim.of(
        f"Cost at T = {named(whole(context))}, size {named(preset)}: a billion training tokens take {listed(parts)};"
        f" {stated}.",
        basis_of(data, same, losses=False, measured=RUNS, weakened=["the runs shared their machine with others"]),
    )
