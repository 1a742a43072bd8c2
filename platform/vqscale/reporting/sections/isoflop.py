"""Runs at equal compute: each budget's losses over size, the parabola through them, and the optimum of the law."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vqscale.errors import FitError
from vqscale.formatting import short_count
from vqscale.laws import Fit
from vqscale.laws.decisions.frontier import exact_cost, optimum_at
from vqscale.laws.decisions.surface import leading_fits, surface_of
from vqscale.laws.io.export import fit_provenance
from vqscale.laws.io.schema import IsoflopParabolas, IsoflopRow, Optimum
from vqscale.reporting.charts.panel import (
    MARKER_SYMBOLS,
    Axis,
    ChartLayer,
    ColourScale,
    LineDash,
    LineLayer,
    MarkerSymbol,
    Panel,
    PointsLayer,
)
from vqscale.reporting.charts.style import SPECTRUM, kind_of, number, power, shade, spectrum
from vqscale.reporting.report_data import ReportData
from vqscale.reporting.section import Block, Charts, Prose, Section, TableBlock
from vqscale.reporting.sections.runs import LONG
from vqscale.reporting.tables import Table

_TEXT = (
    "Each curve is the parabola through the runs of one budget, a star its lowest point; crosses mark where the fitted"
    " law in N and D has its optimum at that budget. Parabolas are a diagnostic: off centre they are biased, and optima"
    " are taken from the law where one is fitted. Hollow points are held-out runs, which the law predicts without being"
    " fitted to them."
)

MOST_NAMED = 6
"""Budgets that a legend names; more are told apart by a scale of colours."""


def section(data: ReportData) -> Section | None:
    found = [one for one in data.fits.isoflops if one.rows]
    if not found:
        return None
    found.sort(key=lambda one: data.scheme.place(kind_of(one.where)))
    panels = [_panel(data, one) for one in _largest(found)]
    rows = [row for one in found for row in _rows(data, one)]
    headers = ["runs of", "C (FLOPs)", "runs", "N at the vertex", "D", "loss", "N* of the law", "remarks"]
    fold = f"The optima of all {len(found)} subsets" if len(rows) > LONG else ""
    table = TableBlock(table=Table(headers=headers, rows=rows), fold=fold)
    blocks: list[Block] = [Prose(text=_TEXT), Charts(panels=panels), table]
    return Section(id="isoflop", title="IsoFLOP curves", nav="IsoFLOP", blocks=blocks)


def _largest(found: list[IsoflopParabolas]) -> list[IsoflopParabolas]:
    """Of every architecture and head the subset with most budgets, and of those the one with most runs."""
    largest: dict[tuple[object, object], IsoflopParabolas] = {}
    for one in sorted(found, key=lambda one: (-len(one.rows), -sum(len(row.points) for row in one.rows))):
        largest.setdefault((kind_of(one.where), one.where.get("head")), one)
    return [one for one in found if one in largest.values()]


def _panel(data: ReportData, one: IsoflopParabolas) -> Panel:
    name = data.name(one.where, one.label)
    fit = _fit_of(data, one)
    many = len(one.rows) > MOST_NAMED
    layers = [layer for row, look in zip(one.rows, _looks(data, one), strict=True) for layer in _row(data, row, look)]
    return Panel(
        name="-".join(["isoflop", *(str(key) for key in (kind_of(one.where), one.where.get("head")) if key)]),
        title=f"Loss over size at equal compute: {name}",
        tab=name,
        x=Axis(name="non-embedding parameters N", log=True, show=short_count),
        y=Axis(name=data.unit),
        layers=[*layers, *_optima(one, fit, _looks(data, one))],
        provenance=fit_provenance(fit) if fit else "",
        colours=_scale(one) if many else None,
    )


@dataclass(frozen=True, kw_only=True)
class _Look:
    """How the runs of one budget are drawn."""

    tint: str
    symbol: MarkerSymbol
    size: float
    width: float
    named: bool
    """Whether the legend names the budget."""


def _looks(data: ReportData, one: IsoflopParabolas) -> list[_Look]:
    """Of every budget: few by the architecture's shade and symbol, named in the legend; many by a scale of colours."""
    last = max(len(one.rows) - 1, 1)
    if len(one.rows) <= MOST_NAMED:
        base = data.scheme.colour(kind_of(one.where))
        return [
            _Look(
                tint=shade(base, index / last),
                symbol=MARKER_SYMBOLS[index % len(MARKER_SYMBOLS)],
                size=8.0,
                width=1.5,
                named=True,
            )
            for index in range(len(one.rows))
        ]
    low, high = _ends(one)
    places = [float(np.log(row.budget / low) / np.log(high / low)) for row in one.rows]
    return [_Look(tint=spectrum(place), symbol="circle", size=5.0, width=1.2, named=False) for place in places]


def _ends(one: IsoflopParabolas) -> tuple[float, float]:
    budgets = [row.budget for row in one.rows]
    return min(budgets), max(budgets)


def _scale(one: IsoflopParabolas) -> ColourScale:
    low, high = _ends(one)
    return ColourScale(name="C (FLOPs)", low=low, high=high, colours=SPECTRUM, show=lambda value: power(value, 2))


def _fit_of(data: ReportData, one: IsoflopParabolas) -> Fit | None:
    return next((fit for fit in leading_fits(data.fits.fits) if fit.where == one.where), None)


def _row(data: ReportData, row: IsoflopRow, look: _Look) -> Iterator[ChartLayer]:
    group = f"C = {power(row.budget)}"
    held = data.held_out
    named = not look.named
    for hollow in (False, True):
        points = [point for point in row.points if (point.name in held) == hollow]
        if points:
            yield PointsLayer(
                label="" if named else group,
                group=group,
                shade=look.tint,
                symbol=look.symbol,
                hollow=hollow,
                size=look.size,
                x=[point.x[0] for point in points],
                y=[point.measured for point in points],
                texts=[
                    f"{p.name}<br>{group}, N {short_count(p.x[0])}, D {short_count(p.x[1])}: {number(p.measured)}"
                    for p in points
                ],
            )
            named = True
    yield from _parabola(row, group, look)


def _optima(one: IsoflopParabolas, fit: Fit | None, looks: Sequence[_Look]) -> Iterator[PointsLayer]:
    """The vertices and the law's optima, named once each where the legend names no budgets."""
    said = set[str]()
    for row, look in zip(one.rows, looks, strict=True):
        group = f"C = {power(row.budget)}"
        marks: list[tuple[str, MarkerSymbol, float, float, float]] = []
        if row.parameters is not None and row.loss is not None:
            marks.append(("vertex of a parabola", "star", 13, row.parameters, row.loss))
        if (best := _optimum(row.budget, fit)) is not None:
            marks.append(("N* of the law", "cross", 10 if look.named else 6, best.parameters.value, best.loss.value))
        for what, symbol, size, n, loss in marks:
            yield PointsLayer(
                label="" if look.named or what in said else what,
                group=group if look.named else what,
                shade=look.tint,
                symbol=symbol,
                size=size,
                # Of many budgets the two often coincide: the cross is seen inside a hollow star.
                hollow=symbol == "star" and not look.named,
                x=[n],
                y=[loss],
                texts=[f"{what} at {group}: N {short_count(n)}, {number(loss)}"],
            )
            said.add(what)


def _parabola(row: IsoflopRow, group: str, look: _Look) -> Iterator[LineLayer]:
    """The row's own parabola in log N, recovered from its values at the runs."""
    sizes = sorted({point.x[0]: point.predicted for point in row.points}.items())
    if len(sizes) < 3:
        return
    log_n = np.log([size for size, _ in sizes])
    centre = float(log_n.mean())
    curve = np.polynomial.Polynomial.fit(log_n - centre, [loss for _, loss in sizes], 2)
    reach = np.linspace(log_n[0], log_n[-1], 40)
    x, y = np.exp(reach).tolist(), curve(reach - centre).tolist()
    dash: LineDash = "solid" if row.reason is None else "dotted"
    yield LineLayer(group=group, shade=look.tint, x=x, y=y, width=look.width, dash=dash)


def _optimum(budget: float, fit: Fit | None) -> Optimum | None:
    """The law's own optimum at a budget, without an interval; None where it has none."""
    if fit is None:
        return None
    try:
        return optimum_at(surface_of(fit, np.empty((0, len(fit.parameters)))), exact_cost(fit), budget)
    except FitError:
        return None


def _rows(data: ReportData, one: IsoflopParabolas) -> Iterator[list[tuple[str, float | str]]]:
    fit = _fit_of(data, one)
    name = data.name(one.where, one.label)
    for row in one.rows:
        best = _optimum(row.budget, fit)
        yield [
            (name, name),
            (power(row.budget), row.budget),
            (str(len(row.points)), len(row.points)),
            (short_count(row.parameters), row.parameters or ""),
            (short_count(row.tokens), row.tokens or ""),
            (number(row.loss), row.loss or ""),
            (short_count(best.parameters.value) if best else "", best.parameters.value if best else ""),
            (remarks := row.reason or "; ".join(row.warnings), remarks),
        ]
