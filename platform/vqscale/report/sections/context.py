"""What context buys: loss over T, and loss by position, at positions that all contexts have."""

from vqscale.report.charts.panel import Axis, Panel, Points
from vqscale.report.charts.series import Series, positions
from vqscale.report.charts.style import count, number, shade
from vqscale.report.report_data import Material
from vqscale.report.section import Block, Charts, Heading, Prose, Section, Shown
from vqscale.report.sections.runs import LONG
from vqscale.report.sections.varied import group_table, noise_words, over_panels
from vqscale.report.tables import Table, TableCell

_MEAN = "A longer context lowers the mean loss by itself: fewer tokens stand near its beginning."
_POSITIONS = (
    "Loss of the tokens at each position of the context. A curve that still falls at its end has use for more context;"
    " curves of different T are compared at positions that all of them have."
)


def section(material: Material) -> Section | None:
    blocks: list[Block] = []
    if panels := over_panels(material, "context", "context length T", "context"):
        blocks += [Prose(text=f"{noise_words(material)} {_MEAN}"), Charts(panels=panels)]
    if compared := group_table(material, "context", "T"):
        rows = len(compared.rows)
        blocks.append(Shown(table=compared, fold=f"Losses of all {rows} comparisons" if rows > LONG else ""))
    if panel := position_panel(material):
        blocks += [Heading(text="Loss by position"), Prose(text=_POSITIONS), Charts(panels=[panel])]
        if common := _common(positions(material.table)):
            blocks.append(Shown(table=common))
    return Section(id="context", title="What context buys", nav="Context", blocks=blocks) if blocks else None


def position_panel(material: Material) -> Panel | None:
    found = positions(material.table)
    if not found:
        return None
    return Panel(
        name="loss_by_position",
        title=f"Held-out loss by position in the context ({found[0].size})",
        x=Axis(name="position (tokens)", log=True, show=count),
        y=Axis(name="nats a token"),
        layers=[_line(material, one, found) for one in found],
    )


def _line(material: Material, one: Series, among: list[Series]) -> Points:
    """Its architecture's colour and symbol, paler at shorter contexts."""
    mates = [other.label for other in reversed(among) if other.arch == one.arch]
    share = mates.index(one.label) / max(len(mates) - 1, 1)
    return Points(
        label=one.label,
        shade=shade(material.scheme.colour(one.arch), share),
        symbol=material.scheme.symbol(one.arch),
        joined=True,
        size=5,
        x=[(start + end) / 2 for start, end in one.pieces],
        y=one.nats,
        texts=[
            f"{one.label}<br>positions {start:,} to {end - 1:,}: {number(loss)}"
            for (start, end), loss in zip(one.pieces, one.nats, strict=True)
        ],
    )


def _common(found: list[Series]) -> Table | None:
    """Losses at the pieces that all curves have, and their mean with every position counting alike.

    That mean is in fixed units: the mean over all positions falls with T by itself.
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
    return Table(headers=["nats a token at", *headers, "all of these"], rows=rows)
