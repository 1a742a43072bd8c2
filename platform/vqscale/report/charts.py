"""Interactive charts as plain plotly.js values (`data` and `layout`); colours of text and grid follow the page."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from vqscale.laws import Fit
from vqscale.laws.study import default_metric
from vqscale.report.compare import finished
from vqscale.report.figures import AXIS_NAMES
from vqscale.report.references import References, only_levels
from vqscale.report.series import Series, positions
from vqscale.report.style import architecture, colour, count, present

Chart = dict[str, Any]


def law_charts(fits: Sequence[Fit]) -> list[Chart]:
    """One chart for each one-axis law, one for each subset of a two-axis law, one of all residuals."""
    charts = []
    for law in dict.fromkeys(fit.law for fit in fits):
        members = [fit for fit in fits if fit.law == law]
        charts += [_law_chart(members)] if len(members[0].axes) == 1 else [_surface_chart(fit) for fit in members]
    return [*charts, _residual_chart(fits)] if fits else []


def runs_chart(table: pd.DataFrame, references: References | None) -> Chart | None:
    """Every finished run: held-out loss against training FLOPs, beside what compressors reach."""
    metric = default_metric(table)
    runs = finished(table)
    if not {"flops", metric, "arch"} <= set(runs.columns) or runs[metric].notna().sum() == 0:
        return None
    data = [
        _points(
            architecture(arch), rows["flops"], rows[metric], colour(index), [_hover(row) for _, row in rows.iterrows()]
        )
        for index, (arch, rows) in enumerate(runs.groupby("arch"))
    ]
    chart = _chart(data, "training FLOPs C", "bits a byte" if metric == "bpb" else "nats a token", "Every finished run")
    if metric == "bpb":
        chart["layout"] |= _levels(only_levels(references, runs))
    return chart


def position_chart(table: pd.DataFrame) -> Chart | None:
    found = positions(table)
    data = [_curve(series, colour(index)) for index, series in enumerate(found)]
    title = "Held-out loss by position in the context"
    return _chart(data, "position (tokens)", "nats a token", title) if found else None


def time_chart(table: pd.DataFrame) -> Chart | None:
    """Where each run's wall time went."""
    columns = {"seconds_training": "training", "seconds_evaluation": "evaluation", "seconds_overhead": "overhead"}
    if not {"name", *columns} <= set(table.columns):
        return None
    runs = table[table["seconds_training"].notna()]
    if runs.empty:
        return None
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "y": runs["name"].tolist(),
            "x": _values(runs[column]),
            "marker": {"color": colour(index)},
        }
        for index, (column, name) in enumerate(columns.items())
    ]
    layout = {
        "title": {"text": "Where the time went"},
        "barmode": "stack",
        "xaxis": {"title": {"text": "seconds"}},
        "yaxis": {"automargin": True, "autorange": "reversed"},
        "height": 160 + 24 * len(runs),
    }
    return {"data": data, "layout": layout}


def _law_chart(fits: Sequence[Fit]) -> Chart:
    data: list[Chart] = []
    for index, fit in enumerate(fits):
        (curve,) = fit.curves
        data += _fitted(curve.points, max(p.x[0] for p in fit.points), colour(index))
        names = [point.name for point in fit.points]
        x, y = [p.x[0] for p in fit.points], [p.measured for p in fit.points]
        data.append(_points(f"{fit.label} (alpha {fit.parameters['alpha']:.2f})", x, y, colour(index), names))
    title = f"{fits[0].law}: {fits[0].form}"
    return _chart(data, AXIS_NAMES.get(fits[0].axes[0], fits[0].axes[0]), fits[0].unit, title)


def _surface_chart(fit: Fit) -> Chart:
    data: list[Chart] = []
    for index, curve in enumerate(fit.curves):
        (fixed,) = curve.fixed.values()
        runs = [point for point in fit.points if point.x[1] == fixed]
        data += _fitted(curve.points, max(point.x[0] for point in runs), colour(index))
        label = f"{fit.letters[1]} = {count(fixed)}"
        x, y = [point.x[0] for point in runs], [point.measured for point in runs]
        data.append(_points(label, x, y, colour(index), [point.name for point in runs]))
    title = f"{fit.law}, {fit.label}: {fit.form}"
    return _chart(data, AXIS_NAMES.get(fit.axes[0], fit.axes[0]), fit.unit, title)


def _residual_chart(fits: Sequence[Fit]) -> Chart:
    data = []
    for index, fit in enumerate(fits):
        x, y = [p.predicted for p in fit.points], [100 * p.residual for p in fit.points]
        data.append(_points(f"{fit.law}, {fit.label}", x, y, colour(index), [p.name for p in fit.points]))
    chart = _chart(data, f"predicted loss ({fits[0].unit})", "per cent", "Residuals: log predicted minus log measured")
    chart["layout"]["xaxis"]["type"] = "linear"
    return chart


def _fitted(points: Sequence[Any], edge: float, shade: str) -> list[Chart]:
    """Band, curve within the data, curve beyond it (dashed); none of them in the legend."""
    inside = [point for point in points if point.x <= edge]
    beyond = points[len(inside) - 1 :]
    shared = {"mode": "lines", "showlegend": False, "hoverinfo": "skip"}
    lines = [
        shared
        | {"x": [p.x for p in part], "y": [p.loss for p in part], "line": {"color": shade, "dash": dash, "width": 2}}
        for part, dash in ((inside, "solid"), (beyond, "dot"))
    ]
    banded = [point for point in points if point.low90 is not None]
    x = [point.x for point in banded]
    outline = [point.high90 for point in banded] + [point.low90 for point in reversed(banded)]
    band = shared | {
        "x": x + x[::-1],
        "y": outline,
        "fill": "toself",
        "fillcolor": shade,
        "opacity": 0.15,
        "line": {"width": 0},
    }
    return [band, *lines] if banded else lines


def _points(name: str, x: Any, y: Any, shade: str, hover: Sequence[str]) -> Chart:
    return {
        "mode": "markers",
        "name": name,
        "x": _values(x),
        "y": _values(y),
        "text": list(hover),
        "hovertemplate": "%{text}<br>%{x:.4s}, %{y:.4f}<extra></extra>",
        "marker": {"color": shade, "size": 8},
    }


def _curve(series: Series, shade: str) -> Chart:
    return {
        "mode": "lines+markers",
        "name": series.label,
        "x": list(series.x),
        "y": list(series.y),
        "line": {"color": shade},
        "marker": {"size": 5},
    }


def _chart(data: list[Chart], x: str, y: str, title: str) -> Chart:
    layout = {
        "title": {"text": title},
        "xaxis": {"title": {"text": x}, "type": "log"},
        "yaxis": {"title": {"text": y}},
    }
    return {"data": data, "layout": layout}


def _levels(known: Mapping[str, float]) -> Chart:
    """Dashed horizontal lines with their names at the left edge, where losses are high."""
    line = {"dash": "dash", "width": 1, "color": "#888"}
    across = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "line": line}
    label = {"xref": "paper", "x": 0, "xanchor": "left", "yanchor": "bottom", "showarrow": False}
    return {
        "shapes": [across | {"y0": value, "y1": value} for value in known.values()],
        "annotations": [label | {"y": value, "text": f"{name} {value:.2f}"} for name, value in known.items()],
    }


def _hover(row: "pd.Series[Any]") -> str:
    return str(row["name"]) if "name" in row else f"row {row.name}"


def _values(values: Any) -> list[float | None]:
    return [float(value) if present(value) else None for value in values]
