"""Panels as matplotlib figures. Drawn on matplotlib's own canvas: no global state, no display."""

import io
from collections.abc import Iterable, Sequence
from functools import singledispatch
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from vqscale import storage
from vqscale.reporting.charts.panel import (
    Axis,
    BandLayer,
    ChartLayer,
    ColourScale,
    LineDash,
    LineLayer,
    MarkerSymbol,
    Panel,
    PointsLayer,
    scale_ticks,
    ticks,
)


class DrawnFigure(NamedTuple):
    """A figure with the name of its file and, for the file's metadata, its provenance."""

    name: str
    figure: Figure
    provenance: str


_DASHES: dict[LineDash, object] = {"solid": "-", "dotted": (0, (2, 3)), "dashed": (0, (6, 3))}
_SYMBOLS: dict[MarkerSymbol, str] = {
    "circle": "o", "square": "s", "diamond": "D", "triangle": "^", "cross": "X", "star": "*"
}  # fmt: skip
INSIDE_LEGEND_ENTRIES = 5
"""Entries of a legend inside the figure; more would cover the curves."""
_CHARACTERS = 120
"""Characters of a legend's line below the figure."""
_HANDLE = 10
"""Characters that the mark beside a name and the space around it take."""


def draw_figure(panel: Panel) -> DrawnFigure:
    made = Figure(figsize=(7.2, 4.6), dpi=150, layout="constrained")
    FigureCanvasAgg(made)
    axes = made.add_subplot()
    for layer in panel.layers:
        _draw(layer, axes)
    for place, level in enumerate(panel.levels):
        axes.axhline(level.y, color="#888888", linestyle="--", linewidth=0.8, zorder=0)
        beside, across = (0.01 + place / len(panel.levels), level.y), axes.get_yaxis_transform()
        axes.annotate(level.label, beside, xycoords=across, fontsize=7, color="#666666", va="bottom")
    _frame(axes, panel)
    if panel.colours is not None:
        _colour_bar(axes, panel.colours)
    return DrawnFigure(panel.name, made, panel.provenance)


def _colour_bar(axes: Axes, scale: ColourScale) -> None:
    shades = LinearSegmentedColormap.from_list(scale.name, list(scale.colours))
    norm = Normalize(*np.log10([scale.low, scale.high]).tolist())
    bar = _figure_of(axes).colorbar(ScalarMappable(norm=norm, cmap=shades), ax=axes, pad=0.01, aspect=30)
    places, names = zip(*scale_ticks(scale), strict=True)
    bar.set_ticks(list(places), labels=list(names))
    bar.ax.tick_params(labelsize=7)
    bar.set_label(scale.name, fontsize=8)


def save_figures(figures: Iterable[DrawnFigure], folder: str, formats: Sequence[str] = ("png",)) -> list[str]:
    """Write every figure as `folder`/figures/NAME.FORMAT in every format; returns the URIs.

    The metadata of PNG and SVG have the figure's provenance under `Description`.
    """
    written = []
    for name, made, provenance in figures:
        for suffix in formats:
            buffer = io.BytesIO()
            with matplotlib.rc_context({"svg.hashsalt": name}):  # else ids in the SVG are random
                made.savefig(buffer, format=suffix, metadata=_metadata(suffix, provenance))
            written.append(storage.join(folder, "figures", f"{name}.{suffix}"))
            storage.write_bytes(written[-1], buffer.getvalue())
    return written


def _metadata(suffix: str, provenance: str) -> dict[str, str | None]:
    """The same file for the same figure: no date."""
    values: dict[str, str | None] = {"Description": provenance} if provenance else {}
    return values | ({"Date": None} if suffix == "svg" else {})


@singledispatch
def _draw(layer: ChartLayer, axes: Axes) -> None:
    raise AssertionError(layer)


@_draw.register
def _(line: LineLayer, axes: Axes) -> None:
    style, width = _DASHES[line.dash], 0.75 * line.width
    axes.plot(line.x, line.y, color=line.shade, linestyle=style, linewidth=width, label=line.label or None)


@_draw.register
def _(band: BandLayer, axes: Axes) -> None:
    axes.fill_between(band.x, band.low, band.high, color=band.shade, alpha=0.16, linewidth=0)


@_draw.register
def _(points: PointsLayer, axes: Axes) -> None:
    bars = None
    if points.low:
        y = np.asarray(points.y)
        bars = np.maximum([y - np.asarray(points.low), np.asarray(points.high) - y], 0.0)
    axes.errorbar(
        points.x,
        points.y,
        yerr=bars,
        color=points.shade,
        linestyle="-" if points.joined else "none",
        linewidth=1.2,
        elinewidth=0.9,
        capsize=2,
        marker=_SYMBOLS[points.symbol],
        markersize=0.6 * points.size,
        markerfacecolor="none" if points.hollow else points.shade,
        label=points.label or None,
        zorder=3,
    )
    if points.tag:
        place, offset = (points.x[0], points.y[0]), (-7, 7)
        axes.annotate(points.tag, place, offset, textcoords="offset points", ha="right", fontsize=8, color=points.shade)


def _frame(axes: Axes, panel: Panel) -> None:
    _scale(axes, "x", panel.x, ticks(panel, "x"))
    _scale(axes, "y", panel.y, ticks(panel, "y"))
    axes.set_title(panel.title, fontsize=10, loc="left", wrap=True)
    axes.grid(visible=True, which="major", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    named = axes.get_legend_handles_labels()[1]
    if 1 < len(named) <= INSIDE_LEGEND_ENTRIES:
        axes.legend(fontsize=8, frameon=False)
    elif len(named) > INSIDE_LEGEND_ENTRIES:
        handles, labels = axes.get_legend_handles_labels()
        columns = min(3, max(1, _CHARACTERS // (max(map(len, labels)) + _HANDLE)))
        below = _figure_of(axes).legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=7)
        below.set_frame_on(False)


def _figure_of(axes: Axes) -> Figure:
    owner = axes.figure
    assert isinstance(owner, Figure)
    return owner


def _scale(axes: Axes, side: str, axis: Axis, shown: Sequence[tuple[float, str]]) -> None:
    """Scale, name, span and ticks of the axis on one side, `x` or `y`."""
    owner = axes.xaxis if side == "x" else axes.yaxis
    axes.set(**{f"{side}label": axis.name, f"{side}scale": "log" if axis.log else "linear"})
    ends = axis.span or getattr(axes, f"get_{side}lim")()
    if shown:
        owner.set_ticks([place for place, _ in shown], [name for _, name in shown])
        owner.set_minor_locator(NullLocator())
    axes.set(**{f"{side}lim": ends})  # ticks beyond the data do not widen it
