"""The best division of a budget: N*(C) and D*(C) with their intervals."""

from collections.abc import Callable, Iterator
from typing import Any

from vqscale.formatting import short_count
from vqscale.laws import Fit
from vqscale.laws.decisions.surface import leading_fits
from vqscale.laws.io.export import fit_provenance
from vqscale.laws.io.schema import Estimate, Optimum
from vqscale.reporting.charts.panel import Axis, ChartLayer, Panel, PointsLayer
from vqscale.reporting.charts.style import flops_axis, kind_of, number, power
from vqscale.reporting.report_data import ReportData, shown_frontier
from vqscale.reporting.section import Block, Charts, Heading, Notes, Prose, Section, TableBlock
from vqscale.reporting.sections.compute import drawn_optima, optima_layers
from vqscale.reporting.tables import Table, TableCell
from vqscale.reporting.trust import trust

_Quantity = Callable[[Optimum], Estimate]

_TEXT = (
    "The size and the training tokens that give the least loss for a budget. Bands are 90 % intervals; dotted parts lie"
    " beyond the largest budget that was fitted; stars are the vertices of the isoFLOP parabolas. The table"
    " shows how flat the optimum is: any size in the range given is within 1 % of the best loss."
)
_QUANTITIES: tuple[tuple[str, str, str, _Quantity], ...] = (
    ("optimal_parameters", "N*", "non-embedding parameters N*", lambda one: one.parameters),
    ("optimal_tokens", "D*", "training tokens D*", lambda one: one.tokens),
    ("tokens_per_parameter", "D* / N*", "tokens per parameter D* / N*", lambda one: one.tokens_per_parameter),
)


def section(data: ReportData) -> Section | None:
    fits = [fit for fit in data.leading if fit.frontiers]
    if not any(one.optima for fit in fits for one in fit.frontiers):
        return None
    panels = [_panel(data, fits, *quantity) for quantity in _QUANTITIES]
    blocks: list[Block] = [Prose(text=_TEXT), Charts(panels=panels), TableBlock(table=_optima(data, fits))]
    if marks := [f"{data.name(fit.where, fit.label)}, marked: {mark}." for fit in fits for mark in trust(fit).marks]:
        blocks.append(Notes(lines=marks))
    blocks += [Heading(text="Exponents"), TableBlock(table=_exponents(data))]
    refused = [
        f"{data.name(fit.where, fit.label)}, C = {power(float(budget))}: {reason.rstrip('.')}."
        for fit in fits
        for one in fit.frontiers[:1]
        for budget, reason in one.refused.items()
    ]
    blocks += [Heading(text="Budgets without an optimum"), Notes(lines=refused)] if refused else []
    return Section(id="sizes", title="Compute-optimal sizes", nav="Sizes", blocks=blocks)


def _panel(data: ReportData, fits: list[Fit], name: str, tab: str, axis: str, of: _Quantity) -> Panel:
    layers = [layer for fit in fits for layer in _layers(data, fit, name, of)]
    return Panel(
        name=name,
        title=f"{tab} over the training budget",
        tab=tab,
        x=flops_axis(),
        y=Axis(name=axis, log=True, show=short_count),
        layers=layers,
        provenance="; ".join(fit_provenance(fit) for fit in fits),
    )


def _layers(data: ReportData, fit: Fit, name: str, of: _Quantity) -> Iterator[ChartLayer]:
    found = shown_frontier(fit)
    if found is None or not found.optima:
        return
    optima = drawn_optima(fit, found)
    group = data.name(fit.where, fit.label)
    tint = data.scheme.colour(kind_of(fit.where))
    yield from optima_layers(optima, [(of(one).value, of(one).interval) for one in optima], group, tint)
    yield PointsLayer(
        label=group,
        shade=tint,
        symbol=data.scheme.symbol(kind_of(fit.where)),
        size=7,
        x=[one.flops for one in optima],
        y=[of(one).value for one in optima],
        texts=[f"{group}<br>C {power(one.flops)}: {_ranged(of(one), short_count)}" for one in optima],
    )
    for one in data.fits.isoflops:
        if one.where == fit.where:
            yield from _vertices(one.rows, name, group, tint)


def _vertices(rows: Any, name: str, group: str, tint: str) -> Iterator[PointsLayer]:
    found = [row for row in rows if row.parameters is not None and row.tokens is not None]
    if found:
        heights = {
            "optimal_parameters": [row.parameters for row in found],
            "optimal_tokens": [row.tokens for row in found],
            "tokens_per_parameter": [row.tokens / row.parameters for row in found],
        }[name]
        texts = [f"vertex of the parabola at C {power(row.budget)}" for row in found]
        budgets = [row.budget for row in found]
        yield PointsLayer(group=group, shade=tint, symbol="star", size=12, x=budgets, y=heights, texts=texts)


def _ranged(estimate: Estimate, show: Callable[[float], str]) -> str:
    """A value with its 90 % interval."""
    if estimate.interval is None:
        return show(estimate.value)
    return f"{show(estimate.value)} [{show(estimate.interval.low90)}, {show(estimate.interval.high90)}]"


def _optima(data: ReportData, fits: list[Fit]) -> Table:
    rows: list[list[TableCell]] = []
    for fit in fits:
        found = shown_frontier(fit)
        name = data.name(fit.where, fit.label)
        trusted = trust(fit)
        for one in found.optima if found else []:
            if one.beyond > 1 and not trusted.extrapolates:
                continue
            values: list[TableCell] = [(name, name), (power(one.flops), one.flops)]
            for estimate, show in _shown(one):
                values.append((_ranged(estimate, show), estimate.value))
            span = f"{short_count(one.parameters_low)} to {short_count(one.parameters_high)}"
            beyond = "; ".join([*one.extrapolation, *(["law marked"] if trusted.marks else [])])
            rows.append([*values, (span, one.parameters_low), (beyond, one.beyond)])
    headers = ["runs of", "C (FLOPs)", "N* [90 %]", "D* [90 %]", "D* / N*", "loss", "N within 1 %", "remarks"]
    return Table(headers=headers, rows=rows)


def _shown(one: Optimum) -> Iterator[tuple[Estimate, Callable[[float], str]]]:
    yield one.parameters, short_count
    yield one.tokens, short_count
    yield one.tokens_per_parameter, lambda value: number(value, 3)
    yield one.loss, number


def _exponents(data: ReportData) -> Table:
    """a and b of the leading fit of every subset, by both counts of C."""
    rows = [
        [
            data.name(fit.where, fit.label),
            fit.law,
            "exact" if one.cost == "exact" else "6ND",
            _ranged(one.a, lambda value: number(value, 3)),
            _ranged(one.b, lambda value: number(value, 3)),
            one.description,
        ]
        for fit in leading_fits(data.fits.fits)
        for one in fit.frontiers
    ]
    return Table.of(["runs of", "law", "C", "a: N* ~ C^a [90 %]", "b: D* ~ C^b [90 %]", "how C is counted"], rows)
