"""What a careful reader looks at: residuals by axis, the pull of single runs, and the same law chosen otherwise."""

from collections.abc import Callable, Sequence
from functools import partial

from vqscale.laws import Fit
from vqscale.laws.io.export import provenance
from vqscale.laws.io.schema import Point
from vqscale.report.charts.panel import Axis, Panel, Points
from vqscale.report.charts.style import count, flops_axis, number, power
from vqscale.report.report_data import Material, lead
from vqscale.report.section import Block, Charts, Heading, Prose, Section, Shown
from vqscale.report.sections.laws import AXIS_NAMES
from vqscale.report.sections.runs import LONG
from vqscale.report.tables import Table, TableCell

MOST_INFLUENTIAL = 5
_RESIDUALS = (
    "How far the law lies above (positive) or below each run. A law that fits has no pattern here: a bend over N, D or"
    " C says that its form is wrong there."
)
_INFLUENCE = "What leaving one run out changes, the runs with the largest pull first."
_VARIANTS = "The same law under another count of N or C, another objective, or without some runs."


def section(material: Material) -> Section | None:
    fits = material.leading or lead(material.fits.fits)
    if not fits:
        return None
    blocks: list[Block] = [Prose(text=_RESIDUALS), Charts(panels=_panels(material, fits))]
    if any(fit.influences for fit in fits):
        blocks += [
            Heading(text="Influence of single runs"),
            Prose(text=_INFLUENCE),
            Shown(table=_influences(material, fits)),
        ]
    varied = [fit for fit in material.fits.fits if fit.variants]
    if varied:
        blocks += [Heading(text="Sensitivity"), Prose(text=_VARIANTS), _folded(_variants(material, varied))]
    return Section(id="doubt", title="Residuals, influence, sensitivity", nav="Residuals", blocks=blocks)


def _folded(table: Table) -> Shown:
    rows = len(table.rows)
    return Shown(table=table, fold=f"All {rows} variants" if rows > LONG else "")


def _panels(material: Material, fits: Sequence[Fit]) -> list[Panel]:
    """Residuals over every axis of the laws, over C where it is known, and over the predicted loss."""
    panels = [
        _panel(material, fits, letter, AXIS_NAMES.get(axis, axis), partial(_axis, place=place))
        for place, (axis, letter) in enumerate(zip(fits[0].axes, fits[0].letters, strict=True))
    ]
    if "C" not in fits[0].letters and all(point.flops for fit in fits for point in fit.points):
        panels.append(_panel(material, fits, "C", "training FLOPs C", lambda point: point.flops or 0.0))
    loss = f"predicted loss ({fits[0].unit})"
    return [*panels, _panel(material, fits, "loss", loss, lambda point: point.predicted)]


def _axis(point: Point, place: int) -> float:
    return point.x[place]


def _panel(material: Material, fits: Sequence[Fit], tab: str, name: str, of: Callable[[Point], float]) -> Panel:
    return Panel(
        name=f"residuals_{tab.lower()}",
        title=f"Residuals over {name}",
        tab=f"by {tab}",
        x=flops_axis(name) if tab == "C" else Axis(name=name, log=tab != "loss", show=count),
        y=Axis(name="predicted over measured (%)"),
        layers=[_points(material, fit, of) for fit in fits if len(fit.axes) == len(fits[0].axes)],
        rests_on="; ".join(provenance(fit) for fit in fits),
    )


def _points(material: Material, fit: Fit, of: Callable[[Point], float]) -> Points:
    arch = fit.where.get("arch")
    return Points(
        label=material.name(fit.where, fit.label),
        shade=material.scheme.colour(arch),
        symbol=material.scheme.symbol(arch),
        size=7,
        x=[of(point) for point in fit.points],
        y=[100 * point.residual for point in fit.points],
        texts=[f"{_named(fit, point)}<br>{100 * point.residual:+.2f} %" for point in fit.points],
    )


def _named(fit: Fit, point: Point) -> str:
    places = ", ".join(f"{letter} {count(value)}" for letter, value in zip(fit.letters, point.x, strict=True))
    return f"{point.name}<br>{places}" + (f", C {power(point.flops)}" if point.flops else "")


def _influences(material: Material, fits: Sequence[Fit]) -> Table:
    names = list(dict.fromkeys(name for fit in fits for one in fit.influences for name in one.changes))
    rows: list[list[TableCell]] = []
    for fit in fits:
        subset = material.name(fit.where, fit.label)
        for one in fit.influences[:MOST_INFLUENTIAL]:
            changes = [one.changes.get(name) for name in names]
            cells: list[TableCell] = [
                ("", "") if change is None else (f"{100 * change:+.1f} %", change) for change in changes
            ]
            rows.append([(subset, subset), (one.name, one.name), *cells])
    return Table(headers=["runs of", "without", *names], rows=rows)


def _variants(material: Material, fits: Sequence[Fit]) -> Table:
    """The law as it is, then every variant."""
    names = list(
        dict.fromkeys(name for fit in fits for one in fit.variants for name in (*one.derived, *one.parameters))
    )
    rows: list[list[TableCell]] = []
    for fit in fits:
        subset = material.name(fit.where, fit.label)
        own = fit.parameters | fit.derived
        listed = [("as fitted", "", fit.n_runs, own, "")]
        listed += [
            (one.words, one.kind, one.n_runs, one.parameters | one.derived, one.reason or "") for one in fit.variants
        ]
        for words, kind, runs, values, reason in listed:
            cells: list[TableCell] = [(number(values.get(name)), values.get(name, "")) for name in names]
            first: list[TableCell] = [
                (fit.law, fit.law),
                (subset, subset),
                (words, words),
                (kind, kind),
                (str(runs), runs),
            ]
            rows.append([*first, *cells, (reason, reason)])
    return Table(headers=["law", "runs of", "choice", "kind", "runs", *names, "refused"], rows=rows)
