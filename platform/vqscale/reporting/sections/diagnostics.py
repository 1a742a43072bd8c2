"""Diagnostics of a fit: residuals by axis, the influence of single runs, and the sensitivity to conventions."""

from collections.abc import Callable, Sequence
from functools import partial

from vqscale.formatting import short_count
from vqscale.laws import Fit
from vqscale.laws.io.export import fit_provenance
from vqscale.laws.io.schema import RunPoint
from vqscale.reporting.charts.panel import Axis, Panel, PointsLayer
from vqscale.reporting.charts.style import flops_axis, kind_of, number, power
from vqscale.reporting.report_data import ReportData, largest_fits
from vqscale.reporting.section import Block, Charts, Heading, Prose, Section, TableBlock
from vqscale.reporting.sections.laws import AXIS_NAMES
from vqscale.reporting.sections.runs import LONG
from vqscale.reporting.tables import Table, TableCell

LISTED_INFLUENCES = 5
"""Runs of each fit in the table of influences."""
_RESIDUALS = (
    "How far the law lies above (positive) or below each run. A law that fits has no pattern here: a bend over N, D or"
    " C means that its form is wrong there."
)
_INFLUENCE = "Relative changes when one run is left out, the most influential runs first."
_VARIANTS = "The same law under another count of N or C, another objective, or without some runs."


def section(data: ReportData) -> Section | None:
    fits = data.leading or largest_fits(data.fits.fits)
    if not fits:
        return None
    blocks: list[Block] = [Prose(text=_RESIDUALS), Charts(panels=_panels(data, fits))]
    if any(fit.influences for fit in fits):
        blocks += [
            Heading(text="Influence of single runs"),
            Prose(text=_INFLUENCE),
            TableBlock(table=_influences(data, fits)),
        ]
    varied = [fit for fit in data.fits.fits if fit.variants]
    if varied:
        blocks += [Heading(text="Sensitivity"), Prose(text=_VARIANTS), _folded(_variants(data, varied))]
    return Section(id="diagnostics", title="Residuals, influence, sensitivity", nav="Residuals", blocks=blocks)


def _folded(table: Table) -> TableBlock:
    rows = len(table.rows)
    return TableBlock(table=table, fold=f"All {rows} variants" if rows > LONG else "")


def _panels(data: ReportData, fits: Sequence[Fit]) -> list[Panel]:
    """Residuals over every axis of the laws, over C where it is known, and over the predicted loss."""
    panels = [
        _panel(data, fits, letter, AXIS_NAMES.get(axis, axis), partial(_axis, place=place))
        for place, (axis, letter) in enumerate(zip(fits[0].axes, fits[0].letters, strict=True))
    ]
    if "C" not in fits[0].letters and all(point.flops for fit in fits for point in fit.points):
        panels.append(_panel(data, fits, "C", "training FLOPs C", lambda point: point.flops or 0.0))
    loss = f"predicted loss ({fits[0].unit})"
    return [*panels, _panel(data, fits, "loss", loss, lambda point: point.predicted)]


def _axis(point: RunPoint, place: int) -> float:
    return point.x[place]


def _panel(data: ReportData, fits: Sequence[Fit], tab: str, name: str, of: Callable[[RunPoint], float]) -> Panel:
    return Panel(
        name=f"residuals_{tab.lower()}",
        title=f"Residuals over {name}",
        tab=f"by {tab}",
        x=flops_axis(name) if tab == "C" else Axis(name=name, log=tab != "loss", show=short_count),
        y=Axis(name="predicted over measured (%)"),
        layers=[_points(data, fit, of) for fit in fits if len(fit.axes) == len(fits[0].axes)],
        provenance="; ".join(fit_provenance(fit) for fit in fits),
    )


def _points(data: ReportData, fit: Fit, of: Callable[[RunPoint], float]) -> PointsLayer:
    arch = kind_of(fit.where)
    return PointsLayer(
        label=data.name(fit.where, fit.label),
        shade=data.scheme.colour(arch),
        symbol=data.scheme.symbol(arch),
        size=7,
        x=[of(point) for point in fit.points],
        y=[100 * point.residual for point in fit.points],
        texts=[f"{_named(fit, point)}<br>{100 * point.residual:+.2f} %" for point in fit.points],
    )


def _named(fit: Fit, point: RunPoint) -> str:
    places = ", ".join(f"{letter} {short_count(value)}" for letter, value in zip(fit.letters, point.x, strict=True))
    return f"{point.name}<br>{places}" + (f", C {power(point.flops)}" if point.flops else "")


def _influences(data: ReportData, fits: Sequence[Fit]) -> Table:
    names = list(dict.fromkeys(name for fit in fits for one in fit.influences for name in one.changes))
    rows: list[list[TableCell]] = []
    for fit in fits:
        subset = data.name(fit.where, fit.label)
        for one in fit.influences[:LISTED_INFLUENCES]:
            changes = [one.changes.get(name) for name in names]
            cells: list[TableCell] = [
                ("", "") if change is None else (f"{100 * change:+.1f} %", change) for change in changes
            ]
            rows.append([(subset, subset), (one.name, one.name), *cells])
    return Table(headers=["runs of", "without", *names], rows=rows)


def _variants(data: ReportData, fits: Sequence[Fit]) -> Table:
    """The law as it is, then every variant."""
    names = list(
        dict.fromkeys(name for fit in fits for one in fit.variants for name in (*one.derived, *one.parameters))
    )
    rows: list[list[TableCell]] = []
    for fit in fits:
        subset = data.name(fit.where, fit.label)
        own = fit.parameters | fit.derived
        listed = [("as fitted", "", fit.n_runs, own, "")]
        listed += [
            (one.description, one.kind, one.n_runs, one.parameters | one.derived, one.reason or "")
            for one in fit.variants
        ]
        for variant, kind, runs, values, reason in listed:
            cells: list[TableCell] = [(number(values.get(name)), values.get(name, "")) for name in names]
            first: list[TableCell] = [
                (fit.law, fit.law),
                (subset, subset),
                (variant, variant),
                (kind, kind),
                (str(runs), runs),
            ]
            rows.append([*first, *cells, (reason, reason)])
    return Table(headers=["law", "runs of", "variant", "kind", "runs", *names, "refused"], rows=rows)
