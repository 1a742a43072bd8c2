"""The three charts of a throughput study: time per token, speed and ratios over T."""

import math
from collections.abc import Iterator, Sequence

import pandas as pd

from vqscale.reporting.charts.panel import Axis, ChartLayer, LineDash, LineLayer, Panel, PointsLayer, axis_values
from vqscale.reporting.charts.style import GREY, architecture, colour
from vqscale.reporting.throughput.speed_comparison import curve_name, settings_label
from vqscale.throughput.crossover import crossover
from vqscale.throughput.measurement import OK
from vqscale.throughput.table import BASELINES, COMPARISON_COLUMNS, CURVE_COLUMNS, LINEAR, ORDER, ratio_points

MICRO = 1e6
LABELLED_LENGTHS = 9


def speed_panels(table: pd.DataFrame) -> list[Panel]:
    """For every comparison (one preset, precision, device and way to fill a step) time per token, speed and ratios."""
    ran = table[table["status"] == OK]
    groups = [rows for _, rows in ran.groupby(COMPARISON_COLUMNS, sort=False)]
    firsts = [rows.iloc[0] for rows in groups]
    found: list[Panel] = []
    for index, rows in enumerate(groups):
        end = f"-{index + 1}" if len(groups) > 1 else ""
        what = settings_label(rows.iloc[0], firsts)
        found += _charts(rows, end, f" ({what})" if what else "")
    return found


def tick_name(context: float) -> str:
    """A context length for an axis: 512, 2k, 1.5k, 128k (k = 1024 where it divides, as is usual for lengths)."""
    if context >= 1024 and context % 1024 == 0:
        return f"{int(context) // 1024}k"
    return f"{context / 1000:g}k" if context >= 10_000 else f"{context:g}"


def _charts(rows: pd.DataFrame, end: str, what: str) -> Iterator[Panel]:
    time: list[ChartLayer] = [*_guides(rows), *_curves(rows, "seconds_per_token", MICRO)]
    yield _panel(f"throughput_time{end}", f"Time per token in training{what}", "µs per token", time)
    speed = _curves(rows, "tokens_per_second", 1.0)
    yield _panel(f"throughput{end}", f"Training speed{what}", "tokens per second", speed)
    ratios = _ratios(rows)
    if ratios:
        even = _guide("break-even", _reach(rows), (1.0, 1.0), "dashed")
        archs = [arch for arch in LINEAR if (rows["arch"] == arch).any()]
        whose = f" of {architecture(archs[0])}" if len(archs) == 1 else ""
        yield _panel(f"throughput_ratio{end}", f"Speed{whose} over baselines{what}", "times as fast", [even, *ratios])


def _panel(name: str, title: str, y_name: str, layers: Sequence[ChartLayer]) -> Panel:
    """Both axes logarithmic. The lengths measured are thinned out evenly from the longest where they are many."""
    curves = [layer for layer in layers if isinstance(layer, PointsLayer) and layer.joined]
    lengths = sorted({int(x) for curve in curves for x in curve.x})
    step = -(-len(lengths) // LABELLED_LENGTHS)
    shown = lengths[::-1][::step][::-1]
    heights = axis_values(curves, "y")
    return Panel(
        name=name,
        title=title,
        x=Axis(name="context length T (tokens)", log=True, ticks=[(length, tick_name(length)) for length in shown]),
        y=Axis(name=y_name, log=True, ticks=_levels(heights), span=(min(heights) / 1.4, max(heights) * 1.4)),
        layers=layers,
    )


def _levels(heights: Sequence[float]) -> list[tuple[float, str]]:
    """1, 2 and 5 of every decade that the values reach."""
    decades = range(math.floor(math.log10(min(heights))), math.ceil(math.log10(max(heights))) + 1)
    levels = [float(f"{digit}e{decade}") for decade in decades for digit in (1, 2, 5)]
    return [(level, f"{level:,.12g}") for level in levels]


def _by_curve(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """The curves of a comparison, VQ first."""
    found = [group.sort_values("context") for _, group in rows.groupby(CURVE_COLUMNS, dropna=False, sort=False)]
    return sorted(found, key=lambda group: ORDER.index(group["arch"].iloc[0]))


def _curves(rows: pd.DataFrame, column: str, unit: float) -> list[PointsLayer]:
    groups = _by_curve(rows)
    return [
        _curve(
            curve_name(group.iloc[0], [one.iloc[0] for one in groups]),
            colour(index),
            [int(context) for context in group["context"]],
            *([unit * value for value in part] for part in (group[column], *_ends(group, column))),
        )
        for index, group in enumerate(groups)
    ]


def _curve(name: str, shade: str, x: list[int], y: list[float], low: list[float], high: list[float]) -> PointsLayer:
    """Medians with the range of their repeats."""
    texts = [f"T = {length:,}: {value:.4g} ({name})" for length, value in zip(x, y, strict=True)]
    return PointsLayer(label=name, shade=shade, x=x, y=y, low=low, high=high, joined=True, size=6, texts=texts)


def _ends(group: pd.DataFrame, column: str) -> tuple[list[float], list[float]]:
    return _bound(group, column, "low"), _bound(group, column, "high")


def _bound(group: pd.DataFrame, column: str, end: str) -> list[float]:
    """Lowest or highest repeat; those of seconds per token follow from the speeds."""
    if column == "tokens_per_second":
        return [float(value) for value in group[f"{column}_{end}"]]
    other = {"low": "high", "high": "low"}[end]  # the slowest repeat takes the longest per token
    return [1 / float(value) for value in group[f"tokens_per_second_{other}"]]


def _guides(rows: pd.DataFrame) -> list[LineLayer]:
    """Guides to the eye, not measurements. Linear: the median of the first linear-time model's times, at every
    T. Quadratic: the slowest of the others' times, doubling with T."""
    reach = _reach(rows)
    if reach[0] == reach[1]:
        return []
    guides = []
    linear = [arch for arch in LINEAR if (rows["arch"] == arch).any()]
    if linear:
        own = rows[rows["arch"] == linear[0]]
        level = MICRO * float(own["seconds_per_token"].median())
        guides.append(_guide("linear: constant time per token", reach, (level, level), "dashed"))
    others = rows[~rows["arch"].isin(LINEAR)]
    if not others.empty:
        last = others.sort_values("seconds_per_token").iloc[-1]
        top, at = MICRO * float(last["seconds_per_token"]), float(last["context"])
        start = max(reach[0], at * MICRO * float(rows["seconds_per_token"].min()) / top)
        name = "quadratic: time per token doubles with T"
        guides.append(_guide(name, (start, at), (top * start / at, top), "dotted"))
    return guides


def _guide(name: str, x: tuple[float, float], y: tuple[float, float], dash: LineDash) -> LineLayer:
    """A straight line in log-log from one point to another."""
    return LineLayer(label=name, shade=GREY, x=x, y=y, dash=dash, width=1.5)


def _reach(rows: pd.DataFrame) -> tuple[float, float]:
    return float(rows["context"].min()), float(rows["context"].max())


def _ratios(rows: pd.DataFrame) -> list[PointsLayer]:
    """Curves of ratios, and a mark at every break-even, on the line of equal speed."""
    groups = [group for group in _by_curve(rows) if group["arch"].iloc[0] in LINEAR]
    firsts = [group.iloc[0] for group in groups]
    several = len({first["arch"] for first in firsts}) > 1
    curves: list[PointsLayer] = []
    marks: list[PointsLayer] = []
    for group, first in zip(groups, firsts, strict=True):
        for baseline in BASELINES:
            points = ratio_points(group, baseline)
            if not points:
                continue
            own = settings_label(first, [one for one in firsts if one["arch"] == first["arch"]])
            whose = f"{architecture(first['arch'])} " if several else ""
            name = f"{whose}over {architecture(baseline)}{f' ({own})' if own else ''}"
            shade = colour(len(curves) + 1)
            x, y, low, high = (list(column) for column in zip(*points, strict=True))
            curves.append(_curve(name, shade, x, y, low, high))
            at = crossover(points)
            if at is not None and isinstance(at.at, float):
                marks.append(_mark(f"T = {at.at:,.0f}", shade, at.at))
    return [*curves, *marks]


def _mark(tag: str, shade: str, x: float) -> PointsLayer:
    name = f"break-even at {tag}"
    return PointsLayer(label=name, shade=shade, x=[x], y=[1.0], symbol="diamond", size=12, texts=[name], tag=tag)
