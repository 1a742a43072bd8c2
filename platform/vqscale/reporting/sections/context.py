"""Effect of the context length: loss over T, and loss by position, at positions that all contexts have."""

from vqscale.formatting import short_count
from vqscale.reporting.charts.panel import Axis, Panel, PointsLayer
from vqscale.reporting.charts.series import PositionCurve, position_curves
from vqscale.reporting.charts.style import number, shade
from vqscale.reporting.report_data import ReportData
from vqscale.reporting.section import Block, Charts, Heading, Prose, Section, TableBlock
from vqscale.reporting.sections.runs import LONG
from vqscale.reporting.sections.varied import group_table, noise_sentence, over_panels
from vqscale.reporting.tables import Table, TableCell

_MEAN = "A longer context lowers the mean loss by itself: a smaller share of the tokens lies near its start."
_POSITIONS = (
    "Loss of the tokens at each position of the context. A curve that has not levelled off at its end would profit from"
    " more context; curves of different T are compared at positions that all of them have."
)


def section(data: ReportData) -> Section | None:
    blocks: list[Block] = []
    if panels := over_panels(data, "context", "context length T", "context"):
        blocks += [Prose(text=f"{noise_sentence(data)} {_MEAN}"), Charts(panels=panels)]
    if compared := group_table(data, "context", "T"):
        rows = len(compared.rows)
        blocks.append(TableBlock(table=compared, fold=f"Losses of all {rows} comparisons" if rows > LONG else ""))
    if panel := position_panel(data):
        blocks += [Heading(text="Loss by position"), Prose(text=_POSITIONS), Charts(panels=[panel])]
        if common := _common(position_curves(data.table)):
            blocks.append(TableBlock(table=common))
    return Section(id="context", title="Context length", nav="Context", blocks=blocks) if blocks else None


def position_panel(data: ReportData) -> Panel | None:
    found = position_curves(data.table)
    if not found:
        return None
    return Panel(
        name="loss_by_position",
        title=f"Held-out loss by position in the context ({found[0].size})",
        x=Axis(name="position (tokens)", log=True, show=short_count),
        y=Axis(name="nats per token"),
        layers=[_line(data, one, found) for one in found],
    )


def _line(data: ReportData, one: PositionCurve, among: list[PositionCurve]) -> PointsLayer:
    """Its architecture's colour and symbol, paler at shorter contexts."""
    mates = [other.label for other in reversed(among) if other.arch == one.arch]
    share = mates.index(one.label) / max(len(mates) - 1, 1)
    return PointsLayer(
        label=one.label,
        shade=shade(data.scheme.colour(one.arch), share),
        symbol=data.scheme.symbol(one.arch),
        joined=True,
        size=5,
        x=[(start + end) / 2 for start, end in one.pieces],
        y=one.nats,
        texts=[
            f"{one.label}<br>positions {start:,} to {end - 1:,}: {number(loss)}"
            for (start, end), loss in zip(one.pieces, one.nats, strict=True)
        ],
    )


def _common(found: list[PositionCurve]) -> Table | None:
    """Losses at the pieces that all curves have, and their mean with equal weight for every position.

    That mean is comparable between contexts: the mean over all positions falls with T by itself.
    """
    pieces = [piece for piece in found[0].pieces if all(piece in one.pieces for one in found)]
    if len(found) < 2 or not pieces:
        return None
    widths = [end - start for start, end in pieces]
    rows: list[list[TableCell]] = []
    for one in found:
        losses = [one.nats[one.pieces.index(piece)] for piece in pieces]
        shared = sum(loss * width for loss, width in zip(losses, widths, strict=True)) / sum(widths)
        rows.append([(one.label, one.label), *((number(loss), loss) for loss in [*losses, shared])])
    headers = [f"{start} to {end - 1}" if end > start + 1 else str(start) for start, end in pieces]
    return Table(headers=["nats per token at", *headers, "all of these"], rows=rows)
