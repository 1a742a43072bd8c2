"""Panels as plain plotly.js values (`data` and `layout`), with title and tab, which the page's script writes.

Colours of text and grid follow the page.
"""

import dataclasses
import math
from collections.abc import Sequence
from functools import singledispatch
from typing import Any

from vqscale.reporting.charts.panel import (
    Axis,
    BandLayer,
    ChartLayer,
    ColourScale,
    HorizontalLine,
    LineDash,
    LineLayer,
    MarkerSymbol,
    Panel,
    PointsLayer,
    scale_ticks,
    ticks,
)

Chart = dict[str, Any]

_DASHES: dict[LineDash, str] = {"solid": "solid", "dotted": "dot", "dashed": "dash"}
_SYMBOLS: dict[MarkerSymbol, str] = {
    "circle": "circle", "square": "square", "diamond": "diamond", "triangle": "triangle-up", "cross": "x",
    "star": "star",
}  # fmt: skip
MOST_POINTS = 1000
"""Points of one chart in the page: a browser draws more only slowly, and they hide one another."""
FEW_POINTS = 20
"""Layers of so few points are drawn whole."""
_DIGITS = 6
"""Significant digits in the page: more than any screen shows."""


def plotly_chart(panel: Panel) -> Chart:
    panel, note = _thinned(panel)
    named = {layer.group or layer.label for layer in panel.layers if layer.label}
    layout: Chart = {
        "xaxis": _axis(panel.x, ticks(panel, "x")),
        "yaxis": _axis(panel.y, ticks(panel, "y")),
        "showlegend": len(named) > 1,
    }
    if panel.levels:
        layout |= _levels(panel.levels)
    data = [_named(layer) for layer in panel.layers]
    if panel.colours is not None:
        data.append(_colour_bar(panel.colours))
    return {"title": panel.title + note, "tab": panel.tab, "switch": panel.switch, "data": data, "layout": layout}


def _colour_bar(scale: ColourScale) -> Chart:
    """A trace without points, whose bar stands beside the chart."""
    steps = len(scale.colours) - 1
    places, names = zip(*scale_ticks(scale), strict=True)
    marker: Chart = {
        "color": [math.log10(scale.low)],
        "cmin": math.log10(scale.low),
        "cmax": math.log10(scale.high),
        "colorscale": [[place / steps, colour] for place, colour in enumerate(scale.colours)],
        "showscale": True,
        "colorbar": {
            "title": {"text": scale.name, "side": "top"},
            "tickmode": "array",
            "tickvals": _short(places),
            "ticktext": list(names),
            "thickness": 12,
        },
    }
    return {"mode": "markers", "x": [None], "y": [None], "marker": marker, "showlegend": False, "hoverinfo": "skip"}


def _thinned(panel: Panel) -> tuple[Panel, str]:
    """The panel with fewer points where it has very many, and what its title says of that."""
    total = sum(len(layer.x) for layer in panel.layers if isinstance(layer, PointsLayer))
    if total <= MOST_POINTS:
        return panel, ""
    share = MOST_POINTS / total
    layers = [_fewer(layer, share) if isinstance(layer, PointsLayer) else layer for layer in panel.layers]
    left = sum(len(layer.x) for layer in layers if isinstance(layer, PointsLayer))
    return dataclasses.replace(panel, layers=layers), f"; {left:,} of {total:,} points are drawn, evenly over x"


def _fewer(points: PointsLayer, share: float) -> PointsLayer:
    """About a `share` of the points, evenly over x, the first, last, lowest and highest among them; all of a few."""
    most = max(round(share * len(points.x)), FEW_POINTS)
    if len(points.x) <= most:
        return points
    order = sorted(range(len(points.x)), key=lambda place: (points.x[place], points.y[place]))
    ends = (pick(range(len(points.y)), key=points.y.__getitem__) for pick in (min, max))
    kept = sorted({*order[:: -(-len(order) // most)], order[-1], *ends})
    columns = ("x", "y", "low", "high", "texts")
    thinned: dict[str, Any] = {
        name: [values[place] for place in kept] for name in columns if (values := getattr(points, name))
    }
    return dataclasses.replace(points, **thinned)


def _named(layer: ChartLayer) -> Chart:
    group = layer.group or layer.label
    shared: Chart = {"name": layer.label or group, "showlegend": bool(layer.label)}
    return shared | ({"legendgroup": group} if group else {}) | _trace(layer)


@singledispatch
def _trace(layer: ChartLayer) -> Chart:
    raise AssertionError(layer)


@_trace.register
def _(line: LineLayer) -> Chart:
    trace: Chart = {
        "mode": "lines",
        "x": _short(line.x),
        "y": _short(line.y),
        "line": {"color": line.shade, "dash": _DASHES[line.dash], "width": line.width},
    }
    return trace | (_tooltips(line.texts) if line.texts else {"hoverinfo": "skip"})


@_trace.register
def _(band: BandLayer) -> Chart:
    return {
        "mode": "lines",
        # One closed outline, along the top and back along the bottom, so that a band is a single trace.
        "x": _short([*band.x, *reversed(band.x)]),
        "y": _short([*band.high, *reversed(band.low)]),
        "fill": "toself",
        "fillcolor": band.shade,
        "opacity": 0.16,
        "line": {"width": 0},
        "hoverinfo": "skip",
    }


@_trace.register
def _(points: PointsLayer) -> Chart:
    symbol = _SYMBOLS[points.symbol] + ("-open" if points.hollow else "")
    marker: Chart = {"color": points.shade, "size": points.size, "symbol": symbol, "opacity": 0.9}
    if points.hollow:
        marker["line"] = {"width": 2, "color": points.shade}
    trace: Chart = {
        "mode": "lines+markers" if points.joined else "markers",
        "x": _short(points.x),
        "y": _short(points.y),
        "marker": marker,
        "line": {"color": points.shade, "width": 1.5},
    }
    if points.low:
        above = [max(high - y, 0.0) for high, y in zip(points.high, points.y, strict=True)]
        below = [max(y - low, 0.0) for low, y in zip(points.low, points.y, strict=True)]
        bars = {"type": "data", "symmetric": False, "array": _short(above), "arrayminus": _short(below)}
        trace["error_y"] = bars | {"thickness": 1.2, "width": 3}
    return trace | _tooltips(points.texts)


def _tooltips(texts: Any) -> Chart:
    if not texts:
        return {"hovertemplate": "%{x:.4s}, %{y:.4~g}<extra>%{fullData.name}</extra>"}
    return {"text": list(texts), "hovertemplate": "%{text}<extra></extra>"}


def _axis(axis: Axis, shown: Sequence[tuple[float, str]]) -> Chart:
    made: Chart = {"title": {"text": axis.name}, "type": "log" if axis.log else "linear"}
    if shown:
        places, names = zip(*shown, strict=True)
        made |= {"tickmode": "array", "tickvals": list(places), "ticktext": list(names)}
    if axis.span:
        made["range"] = [math.log10(end) if axis.log else end for end in axis.span]
    return made


def _levels(levels: Sequence[HorizontalLine]) -> Chart:
    """Dashed horizontal lines; their names are side by side, as levels may be close."""
    line = {"dash": "dash", "width": 1, "color": "#888"}
    across = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "line": line}
    label = {"xref": "paper", "xanchor": "left", "yanchor": "bottom", "showarrow": False}
    return {
        "shapes": [across | {"y0": level.y, "y1": level.y} for level in levels],
        "annotations": [
            label | {"x": place / len(levels), "y": level.y, "text": level.label} for place, level in enumerate(levels)
        ],
    }


def _short(numbers: Any) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") for value in numbers]
