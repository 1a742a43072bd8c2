"""Loss against compute: every run, and the least loss that each architecture's law gives for a budget."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from vqscale.laws import Fit
from vqscale.laws.io.export import provenance
from vqscale.laws.io.schema import Frontier, Optimum
from vqscale.report import tables
from vqscale.report.charts.panel import Axis, Band, Layer, Level, Line, Panel, Points
from vqscale.report.charts.style import architecture, count, flops_axis, number, power, present
from vqscale.report.references import only_levels
from vqscale.report.report_data import Material, frontier, over_trained
from vqscale.report.section import Block, Charts, Prose, Section, Shown

_LINES = (
    "Lines are the least loss that each law gives for a budget, with the size that suits it; bands are 90 % intervals,"
    " dotted parts lie beyond the largest budget that was fitted."
)

MOST_BEYOND = 12.5
"""Budgets over the largest trained one up to which frontiers are drawn; the table has them all."""


def section(material: Material) -> Section | None:
    panel = compute_panel(material)
    if panel is None:
        return None
    text = "Every point is a finished run."
    if any(isinstance(layer, Line) for layer in panel.layers):
        text = f"{text} {_LINES}"
    if any(isinstance(layer, Points) and layer.hollow for layer in panel.layers):
        text += " Hollow points are the runs that the hold-out was asked to predict."
    blocks: list[Block] = [Prose(text=text), Charts(panels=[panel])]
    if beside := tables.references(material.table, material.references):
        blocks.append(Shown(table=beside))
    return Section(id="compute", title="Loss against compute", nav="Compute", blocks=blocks)


def compute_panel(material: Material) -> Panel | None:
    layers: list[Layer] = [layer for fit in material.leading for layer in _frontier(material, fit)]
    runs = material.runs
    if "flops" in runs and runs["flops"].notna().any():
        axis = "training FLOPs C"
        layers += list(_runs(material, runs[runs["flops"].notna()]))
    else:
        axis = "training FLOPs C, as 6 N D"
        layers += [_from_fit(material, fit) for fit in material.leading]
    if not any(isinstance(layer, Points) for layer in layers):
        return None
    known = only_levels(material.references, runs) if material.metric == "bpb" else {}
    return Panel(
        name="frontier",
        title=f"Held-out loss against training compute ({material.unit})",
        x=flops_axis(axis),
        y=Axis(name=material.unit),
        layers=layers,
        levels=[Level(y=value, label=f"{name} {value:.2f}") for name, value in known.items()],
        rests_on="; ".join(provenance(fit) for fit in material.leading),
        switch=True,
    )


def _runs(material: Material, runs: pd.DataFrame) -> Iterator[Points]:
    """Of every architecture the runs that were fitted, and those held out."""
    arch_of = runs["arch"] if "arch" in runs else pd.Series("", index=runs.index)
    for arch, rows in runs.groupby(arch_of, dropna=False):
        held = rows["name"].isin(material.held_out) if "name" in rows else pd.Series(False, index=rows.index)
        group = architecture(arch) or "runs"
        for hollow, members in ((False, rows[~held]), (True, rows[held])):
            if len(members):
                yield Points(
                    label=f"{group}, held out" if hollow else group,
                    group=group,
                    shade=material.scheme.colour(arch),
                    symbol=material.scheme.symbol(arch),
                    hollow=hollow,
                    size=7,
                    x=members["flops"].tolist(),
                    y=members[material.metric].tolist(),
                    texts=[describe(row, material.metric) for _, row in members.iterrows()],
                )


def _from_fit(material: Material, fit: Fit) -> Points:
    """The fitted runs of a table without FLOPs, at 6 N D."""
    arch = fit.where.get("arch")
    return Points(
        label=material.name(fit.where, fit.label),
        shade=material.scheme.colour(arch),
        symbol=material.scheme.symbol(arch),
        size=7,
        x=[6 * point.x[0] * point.x[1] for point in fit.points],
        y=[point.measured for point in fit.points],
        texts=[
            f"{p.name}<br>N {count(p.x[0])}, D {count(p.x[1])}: {number(p.measured)} ({number(p.predicted)} by the law)"
            for p in fit.points
        ],
    )


def _frontier(material: Material, fit: Fit) -> Iterator[Layer]:
    found = frontier(fit)
    if found is None:
        return
    optima = drawn(fit, found)
    group = architecture(fit.where.get("arch")) if fit.where.get("arch") else fit.label
    losses = [(one.loss.value, one.loss.interval) for one in optima]
    yield from along(optima, losses, group, material.scheme.colour(fit.where.get("arch")))


def drawn(fit: Fit, found: Frontier) -> list[Optimum]:
    """The optima that a chart shows, ascending: those far beyond the data would leave no room for it."""
    near = [one for one in found.optima if over_trained(fit, one) <= MOST_BEYOND]
    return sorted(near, key=lambda one: one.flops)


def along(optima: list[Optimum], estimates: list[Any], group: str, tint: str) -> Iterator[Layer]:
    """Band, line and dotted line beyond the data of one quantity, [(value, interval)], over optima by budget."""
    banded = [(one.flops, found) for one, (_, found) in zip(optima, estimates, strict=True) if found is not None]
    if banded:
        lows, highs = [found.low90 for _, found in banded], [found.high90 for _, found in banded]
        yield Band(group=group, shade=tint, x=[flops for flops, _ in banded], low=lows, high=highs)
    points = [(one.flops, value) for one, (value, _) in zip(optima, estimates, strict=True)]
    inside = [point for one, point in zip(optima, points, strict=True) if one.beyond <= 1]
    beyond = points[max(len(inside) - 1, 0) :]
    if len(inside) > 1:
        yield Line(group=group, shade=tint, x=[x for x, _ in inside], y=[y for _, y in inside])
    if len(beyond) > 1:
        yield Line(group=group, shade=tint, x=[x for x, _ in beyond], y=[y for _, y in beyond], dash="dotted")


def describe(row: "pd.Series[Any]", metric: str) -> str:
    """A run in a box beside the pointer."""
    named = {"parameters_non_embedding": "N", "tokens": "D"}
    sizes = ", ".join(f"{letter} {count(row[column])}" for column, letter in named.items() if present(row.get(column)))
    first = str(row["name"]) if present(row.get("name")) else f"row {row.name}"
    cost = f"C {power(row['flops'])}: " if present(row.get("flops")) else ""
    return f"{first}<br>{sizes}<br>{cost}{number(row[metric])}"
