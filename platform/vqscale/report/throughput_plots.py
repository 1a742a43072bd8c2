"""The pictures of a throughput study as PNG and SVG, and as interactive charts."""

import functools
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

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
    for guide in panel.guides:
        axes.plot(guide.x, guide.y, color=GREY, linestyle=(0, (4, 3)), linewidth=1, label=guide.label, zorder=1)
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
            mark.label, (mark.x, 1.0), xytext=(8, -14), textcoords="offset points", fontsize=8, color=mark.shade
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
    data: list[Chart] = [_guide_line(guide) for guide in panel.guides]
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
    ticks = _ticks(panel.contexts)
    layout = {
        "title": {"text": panel.title},
        "xaxis": {
            "title": {"text": "context length T (tokens)"},
            "type": "log",
            "tickmode": "array",
            "tickvals": ticks,
            "ticktext": [tick_name(tick) for tick in ticks],
        },
        "yaxis": {"title": {"text": panel.y_name}, "type": "log", "exponentformat": "SI"},
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


def _scale(axes: Axes, panel: Panel) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = _ticks(panel.contexts)
    axes.set_xticks(ticks, [tick_name(tick) for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:,.12g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    values = [value for curve in panel.curves for value in (*curve.low, *curve.high)]
    axes.set_ylim(min(values) / 1.4, max(values) * 1.4)


def _errors(curve: Curve) -> tuple[list[float], list[float]]:
    below = [y - low for y, low in zip(curve.y, curve.low, strict=True)]
    above = [high - y for y, high in zip(curve.y, curve.high, strict=True)]
    return below, above


def _guide_line(guide: Guide) -> Chart:
    return {
        "mode": "lines",
        "name": guide.label,
        "x": list(guide.x),
        "y": list(guide.y),
        "line": {"color": GREY, "dash": "dash", "width": 1},
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
