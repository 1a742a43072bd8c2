"""The pictures of a throughput study as PNG and SVG, and as interactive charts."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from vqscale.report.draw import write_figure
from vqscale.report.throughput_panels import Curve, Guide, Panel, panels

Chart = dict[str, Any]
GREY = "#8a8f98"
MOST_TICKS = 9


def write_throughput_figures(table: pd.DataFrame, folder: str) -> list[str]:
    """All pictures that the table supports, each as PNG and SVG under `folder`/figures; returns their URIs."""
    formats = ("png", "svg")
    return [
        uri
        for panel in panels(table)
        for uri in write_figure(folder, panel.name, functools.partial(draw_panel, panel=panel), formats)
    ]


def throughput_charts(table: pd.DataFrame) -> list[Chart]:
    return [chart(panel) for panel in panels(table)]


def draw_panel(axes: Axes, panel: Panel) -> None:
    """Curves with the range of their repeats, guide lines in grey, break-even as diamonds."""
    for guide, dash in zip(panel.guides, ("--", ":"), strict=False):
        axes.plot(guide.x, guide.y, color=GREY, linestyle=dash, linewidth=1.2, label=guide.label, zorder=1)
    for curve in panel.curves:
        below, above = _errors(curve)
        axes.errorbar(
            curve.x,
            curve.y,
            yerr=[below, above],
            color=curve.shade,
            marker="o",
            markersize=4,
            capsize=2,
            label=curve.label,
        )
    for mark in panel.marks:
        axes.plot([mark.x], [1.0], marker="D", color=mark.shade, markeredgecolor="white", markersize=9, zorder=4)
        axes.annotate(
            mark.label, (mark.x, 1.0), (-7, 7), textcoords="offset points", ha="right", fontsize=8, color=mark.shade
        )
    _scale(axes, panel)
    axes.set_xlabel("context length T (tokens)")
    axes.set_ylabel(panel.y_name)
    axes.set_title(panel.title, fontsize=10, loc="left")
    axes.grid(visible=True, which="major", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)


def chart(panel: Panel) -> Chart:
    """The panel as plotly.js values."""
    data = [_guide_line(guide, dash) for guide, dash in zip(panel.guides, ("dash", "dot"), strict=False)]
    data += [_curve_line(curve) for curve in panel.curves]
    data += [
        {
            "mode": "markers",
            "name": f"break-even at {mark.label}",
            "x": [mark.x],
            "y": [1.0],
            "marker": {"symbol": "diamond", "size": 12, "color": mark.shade},
            "hovertemplate": f"break-even at {mark.label}<extra></extra>",
        }
        for mark in panel.marks
    ]
    lengths, levels = _ticks(panel.contexts), _levels(panel)
    layout = {
        "title": {"text": panel.title},
        "xaxis": _axis("context length T (tokens)", lengths, [tick_name(length) for length in lengths]),
        "yaxis": _axis(panel.y_name, levels, [f"{level:,.12g}" for level in levels]),
    }
    return {"data": data, "layout": layout}


def tick_name(context: float) -> str:
    """A context length for an axis: 512, 2k, 1.5k, 128k (k = 1024 where it divides, as people name lengths)."""
    if context >= 1024 and context % 1024 == 0:
        return f"{int(context) // 1024}k"
    return f"{context / 1000:g}k" if context >= 10_000 else f"{context:g}"


def _ticks(contexts: Sequence[int]) -> list[int]:
    """The measured lengths, thinned out evenly from the longest where they are many."""
    step = -(-len(contexts) // MOST_TICKS)
    return list(contexts[::-1][::step][::-1])


def _axis(title: str, values: Sequence[float], texts: Sequence[str]) -> Chart:
    ticks = {"tickmode": "array", "tickvals": list(values), "ticktext": list(texts)}
    return {"title": {"text": title}, "type": "log", **ticks}


def _levels(panel: Panel) -> list[float]:
    """1, 2 and 5 of every decade that the panel's values reach."""
    values = [value for curve in panel.curves for value in (*curve.low, *curve.high)]
    decades = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    return [float(f"{digit}e{decade}") for decade in decades for digit in (1, 2, 5)]


def _scale(axes: Axes, panel: Panel) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = _ticks(panel.contexts)
    axes.set_xticks(ticks, [tick_name(tick) for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    levels = _levels(panel)
    axes.set_yticks(levels, [f"{level:,.12g}" for level in levels])
    axes.yaxis.set_minor_locator(NullLocator())
    values = [value for curve in panel.curves for value in (*curve.low, *curve.high)]
    axes.set_ylim(min(values) / 1.4, max(values) * 1.4)


def _errors(curve: Curve) -> tuple[list[float], list[float]]:
    """Distances down and up; of a single repeat rounding may leave less than nothing."""
    below = [max(y - low, 0.0) for y, low in zip(curve.y, curve.low, strict=True)]
    above = [max(high - y, 0.0) for y, high in zip(curve.y, curve.high, strict=True)]
    return below, above


def _guide_line(guide: Guide, dash: str) -> Chart:
    return {
        "mode": "lines",
        "name": guide.label,
        "x": list(guide.x),
        "y": list(guide.y),
        "line": {"color": GREY, "dash": dash, "width": 1.5},
        "hoverinfo": "skip",
    }


def _curve_line(curve: Curve) -> Chart:
    below, above = _errors(curve)
    return {
        "mode": "lines+markers",
        "name": curve.label,
        "x": curve.x,
        "y": curve.y,
        "line": {"color": curve.shade},
        "marker": {"size": 6},
        "error_y": {"type": "data", "symmetric": False, "array": above, "arrayminus": below},
        "hovertemplate": "T = %{x:,}: %{y:.4s}<extra>" + curve.label + "</extra>",
    }
