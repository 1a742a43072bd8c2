"""Loss over a setting that a study varied, S or T, at equal compute and at equal tokens."""

from collections.abc import Callable, Sequence

from vqscale.formatting import percent, short_count
from vqscale.reporting.charts.panel import Axis, Panel, PointsLayer
from vqscale.reporting.charts.style import architecture, number, power, shade, whole
from vqscale.reporting.equal import Equal, EqualGroup, SeedNoise, equal_groups, seed_noise
from vqscale.reporting.report_data import ReportData
from vqscale.reporting.tables import Table, TableCell

EQUALS: tuple[Equal, ...] = ("compute", "tokens")


def all_groups(data: ReportData, column: str) -> list[EqualGroup]:
    return [one for equal in EQUALS for one in equal_groups(data.runs, column, data.metric, equal)]


def over_panels(data: ReportData, column: str, axis: str, name: str) -> list[Panel]:
    """A panel for equal compute and one for equal tokens: losses relative to the lowest of each group."""
    panels = []
    for equal in EQUALS:
        found = equal_groups(data.runs, column, data.metric, equal)
        if found:
            title = f"Loss over {axis} at equal {equal}, above the lowest of each curve"
            panels.append(
                Panel(
                    name=f"{name}_equal_{equal}",
                    title=title,
                    tab=f"equal {equal}",
                    x=_value_axis(axis, found),
                    y=Axis(name="loss above the lowest (%)"),
                    layers=group_curves(data, found, lambda one: [100 * share for share in one.relative]),
                )
            )
    return panels


def group_curves(
    data: ReportData, found: Sequence[EqualGroup], height: Callable[[EqualGroup], list[float]]
) -> list[PointsLayer]:
    """One curve per group: its architecture's colour and symbol, paler at smaller levels."""
    made = []
    for one in found:
        levels = sorted({(other.level, other.size) for other in found if other.arch == one.arch})
        share = levels.index((one.level, one.size)) / max(len(levels) - 1, 1)
        made.append(
            PointsLayer(
                label=_label(one),
                shade=shade(data.scheme.colour(one.arch), share),
                symbol=data.scheme.symbol(one.arch),
                joined=True,
                x=one.values,
                y=height(one),
                texts=[
                    f"{_label(one)}<br>{whole(value)}: {number(loss)} ({percent(share, 2)} above)"
                    for value, loss, share in zip(one.values, one.losses, one.relative, strict=True)
                ],
            )
        )
    return made


def _label(one: EqualGroup) -> str:
    level = f"C = {power(one.level, 2)}" if one.equal == "compute" else f"D = {short_count(one.level)}"
    return f"{architecture(one.arch)} {one.size}, {level}"


def _value_axis(name: str, found: Sequence[EqualGroup]) -> Axis:
    places = sorted({value for one in found for value in one.values})
    return Axis(name=name, log=True, ticks=[(place, whole(place)) for place in places])


def group_table(data: ReportData, column: str, letter: str) -> Table | None:
    """Losses of every group, one column per value, each with its distance from the lowest of its row."""
    found = all_groups(data, column)
    places = sorted({value for one in found for value in one.values})
    rows: list[list[TableCell]] = []
    for one in found:
        named = architecture(one.arch)
        level: TableCell = (
            f"{power(one.level)} FLOPs" if one.equal == "compute" else f"{short_count(one.level)} tokens",
            one.level,
        )
        by_value = dict(zip(one.values, zip(one.losses, one.relative, strict=True), strict=True))
        cells = [_loss(*by_value[place]) if place in by_value else ("", "") for place in places]
        rows.append([(named, named), (one.size, one.size), level, *cells])
    headers = ["architecture", "size", "equal", *(f"{letter} = {whole(place)}" for place in places)]
    return Table(headers=headers, rows=rows) if rows else None


def _loss(loss: float, above: float) -> TableCell:
    return (f"{number(loss)} (+{percent(above, 2)})" if above else f"{number(loss)} (lowest)"), loss


def noise_sentence(data: ReportData) -> str:
    """How far apart runs are that differ in nothing but the seed."""
    noise: SeedNoise | None = seed_noise(data.runs, data.metric)
    if noise is None:
        return "No run was repeated with another seed, so how much of a difference is chance is not known."
    return (
        f"Runs that differ in nothing but the seed differ by {percent(noise.relative, 2)} (standard deviation of"
        f" {noise.runs} runs at {noise.points} points): differences below twice that may be chance."
    )
