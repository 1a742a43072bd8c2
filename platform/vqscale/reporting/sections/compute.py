"""Loss against compute: every run, and the least loss that each architecture's law gives for a budget."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from vqscale.formatting import short_count
from vqscale.laws import Fit
from vqscale.laws.io.export import fit_provenance
from vqscale.laws.io.schema import Frontier, Optimum
from vqscale.reporting import tables
from vqscale.reporting.charts.panel import Axis, BandLayer, ChartLayer, HorizontalLine, LineLayer, Panel, PointsLayer
from vqscale.reporting.charts.style import architecture, flops_axis, kind_of, number, power, present, with_kinds
from vqscale.reporting.references import common, fair, label
from vqscale.reporting.report_data import ReportData, over_trained, shown_frontier
from vqscale.reporting.section import Block, Charts, Prose, Section, TableBlock
from vqscale.reporting.trust import trust

_LINES = (
    "Lines are the least loss that each law gives for a budget, at the best size for it; bands are 90 % intervals,"
    " dotted parts lie beyond the largest budget that was fitted."
)

DRAWN_BEYOND = 12.5
"""Budgets over the largest trained one up to which frontiers are drawn; the table has them all."""


def section(data: ReportData) -> Section | None:
    panel = compute_panel(data)
    if panel is None:
        return None
    text = "Every point is a finished run."
    if any(isinstance(layer, LineLayer) for layer in panel.layers):
        text = f"{text} {_LINES}{_barred(data)}"
    if any(isinstance(layer, PointsLayer) and layer.hollow for layer in panel.layers):
        text += " Hollow points are the held-out runs, which the law predicts without being fitted to them."
    blocks: list[Block] = [Prose(text=text), Charts(panels=[panel])]
    if beside := tables.reference_table(data.table, data.references):
        blocks.append(TableBlock(table=beside))
    return Section(id="compute", title="Loss against compute", nav="Compute", blocks=blocks)


def _barred(data: ReportData) -> str:
    """Which laws are drawn within their runs only, and why."""
    found = [(data.name(fit.where, fit.label), trust(fit)) for fit in data.leading]
    texts = [f"{name} ({'; '.join(one.reasons)})" for name, one in found if not one.extrapolates]
    return f" Not drawn beyond its runs: {', '.join(texts)}." if texts else ""


def compute_panel(data: ReportData) -> Panel | None:
    layers: list[ChartLayer] = [layer for fit in data.leading for layer in _frontier(data, fit)]
    runs = data.runs
    if "flops" in runs and runs["flops"].notna().any():
        axis = "training FLOPs C"
        layers += list(_runs(data, runs[runs["flops"].notna()]))
    else:
        axis = "training FLOPs C, as 6 N D"
        layers += [_from_fit(data, fit) for fit in data.leading]
    if not any(isinstance(layer, PointsLayer) for layer in layers):
        return None
    known = fair(common(data.references, runs)) if data.metric == "bpb" else []
    return Panel(
        name="frontier",
        title=f"Held-out loss against training compute ({data.unit})",
        x=flops_axis(axis),
        y=Axis(name=data.unit),
        layers=layers,
        levels=[HorizontalLine(y=one.bpb, label=f"{label(one)} {one.bpb:.2f}") for one in known],
        provenance="; ".join(fit_provenance(fit) for fit in data.leading),
        switch=True,
    )


def _runs(data: ReportData, runs: pd.DataFrame) -> Iterator[PointsLayer]:
    """Of every architecture the runs that were fitted, and those held out."""
    arch_of = with_kinds(runs)["arch"] if "arch" in runs else pd.Series("", index=runs.index)
    for arch, rows in runs.groupby(arch_of, dropna=False):
        held = rows["name"].isin(data.held_out) if "name" in rows else pd.Series(False, index=rows.index)
        group = architecture(arch) or "runs"
        for hollow, members in ((False, rows[~held]), (True, rows[held])):
            if len(members):
                yield PointsLayer(
                    label=f"{group}, held out" if hollow else group,
                    group=group,
                    shade=data.scheme.colour(arch),
                    symbol=data.scheme.symbol(arch),
                    hollow=hollow,
                    size=7,
                    x=members["flops"].tolist(),
                    y=members[data.metric].tolist(),
                    texts=[describe(row, data.metric) for _, row in members.iterrows()],
                )


def _from_fit(data: ReportData, fit: Fit) -> PointsLayer:
    """The fitted runs of a table without FLOPs, at 6 N D."""
    arch = kind_of(fit.where)
    return PointsLayer(
        label=data.name(fit.where, fit.label),
        shade=data.scheme.colour(arch),
        symbol=data.scheme.symbol(arch),
        size=7,
        x=[6 * point.x[0] * point.x[1] for point in fit.points],
        y=[point.measured for point in fit.points],
        texts=[
            f"{p.name}<br>N {short_count(p.x[0])}, D {short_count(p.x[1])}: {number(p.measured)}"
            f" ({number(p.predicted)} by the law)"
            for p in fit.points
        ],
    )


def _frontier(data: ReportData, fit: Fit) -> Iterator[ChartLayer]:
    found = shown_frontier(fit)
    if found is None:
        return
    optima = drawn_optima(fit, found)
    group = architecture(kind_of(fit.where)) if kind_of(fit.where) else fit.label
    losses = [(one.loss.value, one.loss.interval) for one in optima]
    yield from optima_layers(optima, losses, group, data.scheme.colour(kind_of(fit.where)))


def drawn_optima(fit: Fit, found: Frontier) -> list[Optimum]:
    """The optima that a chart shows, ascending: those far beyond the data would squeeze the measured range, and a law
    that may not be extrapolated has none beyond it."""
    near = [one for one in found.optima if over_trained(fit, one) <= DRAWN_BEYOND]
    if not trust(fit).extrapolates:
        near = [one for one in near if one.beyond <= 1]
    return sorted(near, key=lambda one: one.flops)


def optima_layers(optima: list[Optimum], estimates: list[Any], group: str, tint: str) -> Iterator[ChartLayer]:
    """Band, line, and dotted lines outside the data, of one quantity, [(value, interval)], over optima by budget."""
    banded = [(one.flops, found) for one, (_, found) in zip(optima, estimates, strict=True) if found is not None]
    if banded:
        lows, highs = [found.low90 for _, found in banded], [found.high90 for _, found in banded]
        yield BandLayer(group=group, shade=tint, x=[flops for flops, _ in banded], low=lows, high=highs)
    points = [(one.flops, value) for one, (value, _) in zip(optima, estimates, strict=True)]
    inside = [place for place, one in enumerate(optima) if one.beyond <= 1 and one.outside <= 1]
    first, last = (inside[0], inside[-1]) if inside else (0, 0)
    if first < last:
        part = points[first : last + 1]
        yield LineLayer(group=group, shade=tint, x=[x for x, _ in part], y=[y for _, y in part])
    for part in (points[: first + 1], points[last:]):
        if len(part) > 1:
            yield LineLayer(group=group, shade=tint, x=[x for x, _ in part], y=[y for _, y in part], dash="dotted")


def describe(row: "pd.Series[Any]", metric: str) -> str:
    """Text of a run's tooltip."""
    named = {"parameters_non_embedding": "N", "tokens": "D"}
    sizes = ", ".join(
        f"{letter} {short_count(row[column])}" for column, letter in named.items() if present(row.get(column))
    )
    first = str(row["name"]) if present(row.get("name")) else f"row {row.name}"
    cost = f"C {power(row['flops'])}: " if present(row.get("flops")) else ""
    return f"{first}<br>{sizes}<br>{cost}{number(row[metric])}"
