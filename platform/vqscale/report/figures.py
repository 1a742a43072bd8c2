"""Figures of laws, positions and speed."""

import functools
from collections.abc import Sequence
from itertools import groupby

import pandas as pd
from matplotlib.axes import Axes

from vqscale.laws import Fit
from vqscale.laws.export import provenance
from vqscale.report.draw import write_figure
from vqscale.report.series import positions
from vqscale.report.style import colour, count
from vqscale.report.throughput_plots import write_throughput_figures

AXIS_NAMES = {
    "parameters_non_embedding": "non-embedding parameters N",
    "parameters": "parameters N",
    "tokens": "training tokens D",
    "flops": "training FLOPs C",
    "codebook_size": "codebook size S",
}


def write_law_figures(fits: Sequence[Fit], folder: str, formats: Sequence[str] = ("png",)) -> list[str]:
    """One figure a law under `folder`/figures, for the two-axis law one a subset; returns their URIs.

    Its metadata says which fits it shows, and what they rest on.
    """
    written = []
    for law, group in groupby(fits, key=lambda fit: fit.law):
        members = list(group)
        if len(members[0].axes) == 1:
            rests_on = "; ".join(provenance(fit) for fit in members)
            written += write_figure(folder, law, functools.partial(draw_law, fits=members), formats, rests_on)
            continue
        for index, fit in enumerate(members):
            name = law if len(members) == 1 else f"{law}-{index + 1}"
            draw = functools.partial(draw_surface, fit=fit)
            written += write_figure(folder, name, draw, formats, provenance(fit))
    return written


def write_figures(table: pd.DataFrame, fits: Sequence[Fit], throughput: pd.DataFrame | None, folder: str) -> list[str]:
    """All figures that the data supports; returns their URIs."""
    written = write_law_figures(fits, folder)
    if positions(table):
        written += write_figure(folder, "loss_by_position", functools.partial(draw_positions, table=table))
    if throughput is not None:
        written += write_throughput_figures(throughput, folder)
    return written


def draw_law(axes: Axes, fits: Sequence[Fit]) -> None:
    """Points, fitted curve, 90 % band; dashed where the curve leaves the data."""
    for index, fit in enumerate(fits):
        (curve,) = fit.curves
        edge = max(point.x[0] for point in fit.points)
        label = f"{fit.label}: alpha {fit.parameters['alpha']:.2f}"
        _line(axes, [(p.x, p.loss) for p in curve.points], edge, colour(index))
        banded = [(p.x, p.low90, p.high90) for p in curve.points if p.low90 is not None and p.high90 is not None]
        if banded:
            x, low, high = zip(*banded, strict=True)
            axes.fill_between(x, low, high, color=colour(index), alpha=0.15, linewidth=0)
        measured = [(p.x[0], p.measured) for p in fit.points]
        _dots(axes, measured, colour(index), label)
    _label(axes, AXIS_NAMES.get(fits[0].axes[0], fits[0].axes[0]), f"held-out loss ({fits[0].unit})", fits[0].form)


def draw_surface(axes: Axes, fit: Fit) -> None:
    """L(N, D) as one curve over N for each of some horizons D, with the runs at that horizon."""
    for index, curve in enumerate(fit.curves):
        (fixed,) = curve.fixed.values()
        runs = [(p.x[0], p.measured) for p in fit.points if p.x[1] == fixed]
        _line(axes, [(p.x, p.loss) for p in curve.points], max(x for x, _ in runs), colour(index))
        label = f"{fit.letters[1]} = {count(fixed)}"
        _dots(axes, runs, colour(index), label)
    title = f"{fit.form} ({fit.label})"
    _label(axes, AXIS_NAMES.get(fit.axes[0], fit.axes[0]), f"held-out loss ({fit.unit})", title)


def draw_positions(axes: Axes, table: pd.DataFrame) -> None:
    """Held-out loss over the position in the context: what long context buys."""
    for index, series in enumerate(positions(table)):
        axes.plot(series.x, series.y, color=colour(index), marker="o", markersize=3, label=series.label)
    _label(axes, "position in the context (tokens)", "held-out loss (nats a token)", "Loss by position")


def _dots(axes: Axes, points: Sequence[tuple[float, float]], shade: str, label: str) -> None:
    x, y = zip(*points, strict=True)
    axes.scatter(x, y, color=shade, s=28, zorder=3, label=label)


def _line(axes: Axes, points: Sequence[tuple[float, float]], edge: float, shade: str) -> None:
    inside = [point for point in points if point[0] <= edge]
    beyond = points[len(inside) - 1 :]
    axes.plot(*zip(*inside, strict=True), color=shade)
    axes.plot(*zip(*beyond, strict=True), color=shade, linestyle=(0, (2, 3)), linewidth=1)


def _label(axes: Axes, x: str, y: str, title: str) -> None:
    axes.set_xscale("log")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, fontsize=10, loc="left")
    axes.grid(visible=True, which="major", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
