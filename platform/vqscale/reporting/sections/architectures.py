"""Architectures compared at equal compute, at equal measured time and at equal money."""

from collections.abc import Iterator
from itertools import count as places

from vqscale.formatting import duration
from vqscale.laws.io.schema import BudgetKind, ComparedPoint, Comparison, Estimate
from vqscale.reporting.charts.panel import Axis, ChartLayer, HorizontalLine, LineLayer, Panel, PointsLayer
from vqscale.reporting.charts.style import colour, flops_axis, number, power
from vqscale.reporting.claims.pairs import pair_claim
from vqscale.reporting.compare import against_baselines
from vqscale.reporting.report_data import ReportData
from vqscale.reporting.section import Block, Charts, Heading, Notes, Prose, Section, TableBlock
from vqscale.reporting.sections.runs import LONG
from vqscale.reporting.tables import Table, TableCell
from vqscale.reporting.trust import laws_behind, trust_of_all

BUDGET_LABELS: dict[BudgetKind, str] = {
    "compute": "equal compute",
    "time": "equal measured time",
    "money": "equal money",
}
_TEXT = (
    "How many times the budget one architecture needs for the loss that the other has at it: below 1 it is the better"
    " one. Bars are 90 % intervals, hollow points lie beyond the measured budgets. A budget without a point has its"
    " reason in the table; nothing beyond the data is shown of a law that may not be extrapolated."
)


def section(data: ReportData) -> Section | None:
    found = data.fits.comparisons
    blocks: list[Block] = []
    panels = [panel for kind in BUDGET_LABELS if (panel := _panel(data, kind))]
    if panels:
        blocks += [Prose(text=_TEXT), Charts(panels=panels)]
    if rows := [row for one in found for row in _rows(data, one)]:
        headers = ["compared", "at equal", "budget", "loss", "the other's", "difference [90 %]", "x the budget [90 %]",
                   "over the data", "remarks"]  # fmt: skip
        fold = f"All {len(rows)} comparisons" if len(rows) > LONG else ""
        blocks.append(TableBlock(table=Table(headers=headers, rows=rows), fold=fold))
    if refused := [f"{_title(data, one)}: {one.reason}." for one in found if one.reason]:
        blocks += [Heading(text="Not compared"), Notes(lines=refused)]
    if skipped := [line for one in found for line in _skipped(data, one)]:
        blocks += [Heading(text="Without a comparison"), Notes(lines=skipped)]
    if pairs := equal_sizes(data):
        blocks += [Heading(text="At equal size and equal tokens"), Notes(lines=pairs)]
    return Section(id="compare", title="Architectures compared", nav="Compare", blocks=blocks) if blocks else None


def _panel(data: ReportData, kind: BudgetKind) -> Panel | None:
    layers: list[ChartLayer] = []
    place = places()
    for one in data.fits.comparisons:
        farthest = float("inf") if trust_of_all(laws_behind(data.fits, one.where, one.base)).extrapolates else 1.0
        points = [p for p in one.points if p.kind == kind and p.multiplier and p.beyond <= farthest]
        if points:
            layers += _layers(_title(data, one), points, next(place))
    if not layers:
        return None
    unit = next(point.unit for one in data.fits.comparisons for point in one.points if point.kind == kind)
    names = {"time": f"training time ({unit})", "money": f"money ({unit})"}
    return Panel(
        name="multiplier" if kind == "compute" else f"multiplier_{kind}",
        title=f"Times the budget for the same loss, at {BUDGET_LABELS[kind]}",
        tab=BUDGET_LABELS[kind],
        x=flops_axis() if kind == "compute" else Axis(name=names[kind], log=True),
        y=Axis(name="times the budget", log=True),
        layers=layers,
        levels=[HorizontalLine(y=1.0, label="equally good")],
    )


def _layers(title: str, points: list[ComparedPoint], place: int) -> Iterator[ChartLayer]:
    """A thin line through all, points with bars within the data, hollow ones beyond."""
    known = sorted((point.budget, point.beyond > 1, point.multiplier) for point in points if point.multiplier)
    x, y = [budget for budget, _, _ in known], [factor.value for _, _, factor in known]
    yield LineLayer(group=title, shade=colour(place), x=x, y=y, width=1.2)
    named = False
    for hollow in (False, True):
        part = [(budget, factor) for budget, beyond, factor in known if beyond == hollow]
        if not part:
            continue
        ends = [factor.interval for _, factor in part if factor.interval]
        whole = len(ends) == len(part)
        yield PointsLayer(
            label="" if named else title,
            group=title,
            shade=colour(place),
            hollow=hollow,
            x=[budget for budget, _ in part],
            y=[factor.value for _, factor in part],
            low=[end.low90 for end in ends] if whole else (),
            high=[end.high90 for end in ends] if whole else (),
            texts=[f"{title}<br>at {power(budget)}: {ranged(factor)} x" for budget, factor in part],
        )
        named = True


def _title(data: ReportData, one: Comparison) -> str:
    return f"{data.name(one.where, one.label)} against {data.name(one.base, one.base_label)}"


def ranged(estimate: Estimate, digits: int = 3) -> str:
    """A value with its 90 % interval."""
    if estimate.interval is None:
        return number(estimate.value, digits)
    low, high = number(estimate.interval.low90, digits), number(estimate.interval.high90, digits)
    return f"{number(estimate.value, digits)} [{low}, {high}]"


def budget_of(point: ComparedPoint) -> str:
    if point.kind == "time":
        return duration(point.budget)
    return f"{power(point.budget)} FLOPs" if point.kind == "compute" else f"{number(point.budget, 3)} {point.unit}"


def _rows(data: ReportData, one: Comparison) -> Iterator[list[TableCell]]:
    title = _title(data, one)
    found = trust_of_all(laws_behind(data.fits, one.where, one.base))
    for point in one.points:
        if point.beyond > 1 and not found.extrapolates:
            continue
        remarks = "; ".join([*([point.reason] if point.reason else []), *(["law marked"] if found.marks else [])])
        yield [
            (title, title),
            (point.kind, point.kind),
            (budget_of(point), point.budget),
            (number(point.loss.value), point.loss.value),
            (number(point.base_loss.value), point.base_loss.value),
            (ranged(point.difference), point.difference.value),
            (ranged(point.multiplier), point.multiplier.value) if point.multiplier else ("", ""),
            (f"{number(point.beyond, 3)} x" if point.beyond > 1 else "", point.beyond),
            (remarks, remarks),
        ]


def _skipped(data: ReportData, one: Comparison) -> Iterator[str]:
    """Why there is no comparison, once for all budgets of a kind."""
    by_kind: dict[str, list[str]] = {}
    for key, why in one.skipped.items():
        by_kind.setdefault(key.split()[0], []).append(why.rstrip("."))
    for kind, reasons in by_kind.items():
        many = f" (the first of {len(reasons)} budgets)" if len(reasons) > 1 else ""
        yield f"{_title(data, one)}, at equal {kind}: {reasons[0]}{many}."


def equal_sizes(data: ReportData) -> list[str]:
    """Runs that agree in everything but the architecture."""
    return [pair_claim(data, pairs).text for pairs in against_baselines(data.table, data.metric)]
