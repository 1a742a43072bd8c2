"""Power laws in one quantity, grids of a law in two, the constants of all fits, and what was refused."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from vqscale.formatting import short_count
from vqscale.laws import Fit
from vqscale.laws.io.export import fit_provenance
from vqscale.laws.io.schema import Curve, CurvePoint, RunPoint
from vqscale.reporting import tables
from vqscale.reporting.charts.panel import Axis, BandLayer, ChartLayer, LineLayer, MarkerSymbol, Panel, PointsLayer
from vqscale.reporting.charts.style import Scheme, colour, flops_axis, in_words, kind_of, number, shade
from vqscale.reporting.report_data import ReportData
from vqscale.reporting.section import Block, Charts, Heading, Notes, Prose, Section, TableBlock
from vqscale.reporting.trust import trust

AXIS_NAMES = {
    "parameters_non_embedding": "non-embedding parameters N",
    "parameters": "parameters N",
    "tokens": "training tokens D",
    "flops": "training FLOPs C",
    "codebook_size": "codebook size S",
    "context": "context length T",
}
RUNS_PER_CURVE = 3
"""Runs at one value of the second axis from which a curve is drawn through them."""


def section(data: ReportData) -> Section | None:
    fits = data.fits
    blocks: list[Block] = [Charts(panels=[panel]) for panel in law_panels(fits.fits, data.scheme)]
    if blocks:
        points = (
            "Points are runs, lines are fits, bands are 90 % intervals of the fitted curve. Dotted parts lie beyond"
        )
        blocks.insert(0, Prose(text=f"{points} the data."))
    if found := tables.constant_table(fits):
        remark = "A and B are nearly unidentified in any study of this kind; compare exponents and E."
        every = TableBlock(table=found, fold=f"All {len(found.rows)} constants with 90 and 95 % intervals")
        shown = tables.exponent_table(fits.fits)
        blocks += [
            Heading(text="Exponents"),
            Prose(text=remark, soft=True),
            *([TableBlock(table=shown)] if shown else []),
            every,
        ]
    notes = [f"{fit.law}, {in_words(fit.label)}: {text}." for fit in fits.fits for text in _remarks(fit)]
    blocks += [Notes(lines=notes)] if notes else []
    if refused := tables.refusal_table(fits, too_few=False):
        blocks += [Heading(text="Refused"), TableBlock(table=refused)]
    if few := tables.refusal_table(fits, too_few=True):
        blocks.append(TableBlock(table=few, fold=f"{len(few.rows)} subsets with too few runs for a law"))
    return Section(id="laws", title="Fitted laws", nav="Laws", blocks=blocks) if blocks else None


def _remarks(fit: Fit) -> list[str]:
    return [*(f"marked: {reason}" for reason in trust(fit).reasons), *fit.warnings]


def law_panels(fits: Sequence[Fit], scheme: Scheme) -> list[Panel]:
    """One panel per law in one quantity; of a law in two, one for every subset whose runs form a grid."""
    panels: list[Panel] = []
    for law, group in groupby(fits, key=lambda fit: fit.law):
        members = list(group)
        if len(members[0].axes) == 1:
            panels.append(_law(members, scheme))
            continue
        grids = [fit for fit in members if _is_grid(fit)]
        panels += [_surface(fit, law if len(grids) == 1 else f"{law}-{place + 1}") for place, fit in enumerate(grids)]
    return panels


def law_axis(column: str) -> Axis:
    name = AXIS_NAMES.get(column, column)
    return flops_axis(name) if column == "flops" else Axis(name=name, log=True, show=short_count)


def _law(fits: Sequence[Fit], scheme: Scheme) -> Panel:
    """Points, curve and band of every subset."""
    layers: list[ChartLayer] = []
    for fit, tint in zip(fits, tints(fits, scheme), strict=True):
        label = f"{in_words(fit.label)}{_exponent(fit)}"
        layers += [layer for curve in fit.curves for layer in _curve(curve, fit.points, label, tint)]
        layers.append(_dots(fit, fit.points, label, tint, scheme.symbol(kind_of(fit.where))))
    axis = fits[0].axes[0]
    return Panel(
        name=fits[0].law,
        title=f"{fits[0].law}: {fits[0].form}",
        x=law_axis(axis),
        y=Axis(name=f"held-out loss ({fits[0].unit})"),
        layers=layers,
        provenance="; ".join(fit_provenance(fit) for fit in fits),
    )


def tints(fits: Sequence[Fit], scheme: Scheme) -> list[str]:
    """Every fit's colour: its architecture's, from full to pale where one architecture has several subsets."""
    if not any(kind_of(fit.where) for fit in fits):
        return [colour(place) for place, _ in enumerate(fits)]
    archs = [kind_of(fit.where) for fit in fits]
    return [
        shade(scheme.colour(arch), 1 - archs[:place].count(arch) / max(archs.count(arch), 1))
        for place, arch in enumerate(archs)
    ]


def _exponent(fit: Fit) -> str:
    return f" (alpha {number(fit.parameters['alpha'], 2)})" if "alpha" in fit.parameters else ""


def _grid(fit: Fit) -> list[Curve]:
    """The curves with enough runs at their values of the other axes."""
    return [curve for curve in fit.curves if len(_on(curve, fit)) >= RUNS_PER_CURVE]


def _is_grid(fit: Fit) -> bool:
    """Whether at least half of the runs lie on two curves or more: runs at equal compute do not."""
    curves = _grid(fit)
    return len(curves) > 1 and 2 * sum(len(_on(curve, fit)) for curve in curves) >= len(fit.points)


def _on(curve: Curve, fit: Fit) -> list[RunPoint]:
    """The runs at a curve's values of the other axes."""
    places = [(fit.axes.index(axis), value) for axis, value in curve.fixed.items()]
    return [point for point in fit.points if all(point.x[place] == value for place, value in places)]


def _surface(fit: Fit, name: str) -> Panel:
    """The law along its first axis, one curve for each of some values of the others, with the runs there."""
    layers: list[ChartLayer] = []
    for place, curve in enumerate(_grid(fit)):
        letters = dict(zip(fit.axes, fit.letters, strict=True))
        label = ", ".join(f"{letters[axis]} = {short_count(value)}" for axis, value in curve.fixed.items())
        runs = _on(curve, fit)
        layers += [*_curve(curve, runs, label, colour(place)), _dots(fit, runs, label, colour(place))]
    return Panel(
        name=name,
        title=f"{fit.law}, {in_words(fit.label)}: {fit.form}",
        x=law_axis(fit.axes[0]),
        y=Axis(name=f"held-out loss ({fit.unit})"),
        layers=layers,
        provenance=fit_provenance(fit),
    )


def _dots(fit: Fit, runs: Sequence[RunPoint], label: str, tint: str, symbol: MarkerSymbol = "circle") -> PointsLayer:
    texts = [f"{run.name}<br>{fit.letters[0]} = {short_count(run.x[0])}: {number(run.measured)}" for run in runs]
    x, y = [run.x[0] for run in runs], [run.measured for run in runs]
    return PointsLayer(label=label, shade=tint, x=x, y=y, symbol=symbol, texts=texts)


def _curve(curve: Curve, runs: Sequence[RunPoint], group: str, tint: str) -> Iterator[ChartLayer]:
    """Band, curve within the data, curve beyond it."""
    yield from fitted(curve.points, max((run.x[0] for run in runs), default=0.0), group, tint)


def fitted(points: Sequence[CurvePoint], edge: float, group: str, tint: str) -> Iterator[ChartLayer]:
    """Band, line up to `edge`, dotted line beyond; none of them in the legend."""
    banded = [(p.x, p.low90, p.high90) for p in points if p.low90 is not None and p.high90 is not None]
    if banded:
        x, low, high = zip(*banded, strict=True)
        yield BandLayer(group=group, shade=tint, x=x, low=low, high=high)
    inside = [point for point in points if point.x <= edge]
    beyond = points[max(len(inside) - 1, 0) :]
    if inside:
        yield LineLayer(group=group, shade=tint, x=[p.x for p in inside], y=[p.loss for p in inside])
    if len(beyond) > 1:
        yield LineLayer(group=group, shade=tint, x=[p.x for p in beyond], y=[p.loss for p in beyond], dash="dotted")
