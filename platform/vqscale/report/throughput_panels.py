"""The three pictures of a throughput study, as values that both kinds of figures draw."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from vqscale.bench.crossover import crossover
from vqscale.bench.record import OK
from vqscale.bench.table import BASELINES, COMPARISON, CURVE, SUBJECT, ratio_points
from vqscale.report.style import colour
from vqscale.report.throughput import curve_name, label

MICRO = 1e6
_ORDER = (SUBJECT, *BASELINES)


@dataclass(frozen=True, kw_only=True)
class Curve:
    label: str
    shade: str
    x: list[int]
    y: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True, kw_only=True)
class Guide:
    """A straight line in log-log from one point to another: what a law would look like, not a measurement."""

    label: str
    x: tuple[float, float]
    y: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A break-even on the line of equal speed."""

    label: str
    shade: str
    x: float


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture, both axes logarithmic."""

    name: str
    """Of its file."""
    title: str
    y_name: str
    curves: list[Curve]
    guides: list[Guide] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)

    @property
    def contexts(self) -> list[int]:
        return sorted({x for curve in self.curves for x in curve.x})


def panels(table: pd.DataFrame) -> list[Panel]:
    """For every comparison (one preset, precision, device and way to fill a step) time a token, speed and ratios."""
    ran = table[table["status"] == OK]
    groups = [rows for _, rows in ran.groupby(COMPARISON, sort=False)]
    firsts = [rows.iloc[0] for rows in groups]
    found = []
    for index, rows in enumerate(groups):
        end = f"-{index + 1}" if len(groups) > 1 else ""
        what = label(rows.iloc[0], firsts)
        found += [panel for panel in _pictures(rows, end, f" ({what})" if what else "") if panel.curves]
    return found


def _pictures(rows: pd.DataFrame, end: str, what: str) -> Iterator[Panel]:
    time = _curves(rows, "seconds_per_token", MICRO)
    yield Panel(
        name=f"throughput_time{end}",
        title=f"Time a token in training{what}",
        y_name="µs a token",
        curves=time,
        guides=_guides(rows),
    )
    yield Panel(
        name=f"throughput{end}",
        title=f"Training speed{what}",
        y_name="tokens a second",
        curves=_curves(rows, "tokens_per_second", 1.0),
    )
    ratios, marks = _ratios(rows)
    reach = [float(x) for curve in ratios for x in curve.x]
    yield Panel(
        name=f"throughput_ratio{end}",
        title=f"Speed of {SUBJECT} over baselines{what}",
        y_name="times as fast",
        curves=ratios,
        guides=[Guide(label="break-even", x=(min(reach), max(reach)), y=(1.0, 1.0))] if ratios else [],
        marks=marks,
    )


def _by_curve(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """The curves of a comparison, VQ first."""
    found = [group.sort_values("context") for _, group in rows.groupby(CURVE, dropna=False, sort=False)]
    return sorted(found, key=lambda group: _ORDER.index(group["arch"].iloc[0]))


def _curves(rows: pd.DataFrame, column: str, unit: float) -> list[Curve]:
    groups = _by_curve(rows)
    return [
        Curve(
            label=curve_name(group.iloc[0], [one.iloc[0] for one in groups]),
            shade=colour(index),
            x=[int(context) for context in group["context"]],
            y=[unit * value for value in group[column]],
            low=[unit * value for value in _bound(group, column, "low")],
            high=[unit * value for value in _bound(group, column, "high")],
        )
        for index, group in enumerate(groups)
    ]


def _bound(group: pd.DataFrame, column: str, end: str) -> list[float]:
    """Lowest or highest repeat; the seconds of a token have theirs in the speeds."""
    if column == "tokens_per_second":
        return [float(value) for value in group[f"{column}_{end}"]]
    other = {"low": "high", "high": "low"}[end]
    return [1 / float(value) for value in group[f"tokens_per_second_{other}"]]


def _guides(rows: pd.DataFrame) -> list[Guide]:
    """Linear time: the median of VQ's times, at every T. Quadratic: the slowest baseline's time, doubling with T."""
    reach = _reach(rows)
    if reach[0] == reach[1]:
        return []
    guides = []
    own = rows[rows["arch"] == SUBJECT].sort_values("context")
    if not own.empty:
        level = MICRO * float(own["seconds_per_token"].median())
        guides.append(Guide(label="linear: constant time a token", x=reach, y=(level, level)))
    others = rows[rows["arch"] != SUBJECT]
    if not others.empty:
        last = others.sort_values("seconds_per_token").iloc[-1]
        top, at = MICRO * float(last["seconds_per_token"]), float(last["context"])
        floor = max(reach[0], at * MICRO * float(rows["seconds_per_token"].min()) / top)
        guides.append(Guide(label="quadratic: time a token doubles with T", x=(floor, at), y=(top * floor / at, top)))
    return guides


def _reach(rows: pd.DataFrame) -> tuple[float, float]:
    return float(rows["context"].min()), float(rows["context"].max())


def _ratios(rows: pd.DataFrame) -> tuple[list[Curve], list[Mark]]:
    groups = [group for group in _by_curve(rows) if group["arch"].iloc[0] == SUBJECT]
    curves: list[Curve] = []
    marks: list[Mark] = []
    for group in groups:
        for baseline in BASELINES:
            points = ratio_points(group, baseline)
            if not points:
                continue
            own = label(group.iloc[0], [one.iloc[0] for one in groups])
            name, shade = f"over {baseline}{f' ({own})' if own else ''}", colour(len(curves) + 1)
            curves.append(_ratio_curve(name, shade, points))
            at = crossover(points)
            if at is not None and isinstance(at.at, float):
                marks.append(Mark(label=f"T = {at.at:,.0f}", shade=shade, x=at.at))
    return curves, marks


def _ratio_curve(name: str, shade: str, points: list[Any]) -> Curve:
    x, y, low, high = (list(column) for column in zip(*points, strict=True))
    return Curve(label=name, shade=shade, x=x, y=y, low=low, high=high)
