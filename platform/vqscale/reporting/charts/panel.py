"""A chart as values, from which the interactive chart and the file of a figure are both drawn."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

LineDash = Literal["solid", "dotted", "dashed"]
MarkerSymbol = Literal["circle", "square", "diamond", "triangle", "cross", "star"]
_STEPS: tuple[tuple[float, ...], ...] = (
    tuple(tenths / 10 for tenths in range(10, 100)),
    tuple(range(1, 10)),
    (1, 2, 5),
    (1, 3),
    (1,),
)
"""Digits of a decade at which ticks may lie, from dense to sparse."""
MARKER_SYMBOLS: tuple[MarkerSymbol, ...] = ("circle", "square", "diamond", "triangle", "cross")


@dataclass(frozen=True, kw_only=True)
class Axis:
    name: str
    log: bool = False
    show: Callable[[float], str] = "{:g}".format
    """How a value of a logarithmic axis is written."""
    ticks: Sequence[tuple[float, str]] = ()
    """Places and their names; none: round numbers."""
    most_ticks: int = 8
    span: tuple[float, float] | None = None
    """Lowest and highest value shown; None: what the data needs."""


@dataclass(frozen=True, kw_only=True)
class _LayerBase:
    """What layers of every kind have."""

    label: str = ""
    """Its name in the legend; empty: it has none there."""
    group: str = ""
    """A click in the legend hides all layers of one group; empty: the label."""
    shade: str


@dataclass(frozen=True, kw_only=True)
class LineLayer(_LayerBase):
    x: Sequence[float]
    y: Sequence[float]
    dash: LineDash = "solid"
    width: float = 2.0
    texts: Sequence[str] = ()
    """Tooltip of every point; none: no tooltips."""


@dataclass(frozen=True, kw_only=True)
class BandLayer(_LayerBase):
    """The area between `low` and `high`."""

    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class PointsLayer(_LayerBase):
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    """Ends of error bars; none: no bars."""
    high: Sequence[float] = ()
    symbol: MarkerSymbol = "circle"
    hollow: bool = False
    size: float = 8.0
    joined: bool = False
    """Whether a line goes through them."""
    texts: Sequence[str] = ()
    """Tooltip of every point; none: its values."""
    tag: str = ""
    """Written beside the first point in a figure's file, which has no tooltips."""


ChartLayer = LineLayer | BandLayer | PointsLayer


@dataclass(frozen=True, kw_only=True)
class HorizontalLine:
    """A horizontal line with its name."""

    y: float
    label: str


@dataclass(frozen=True, kw_only=True)
class ColourScale:
    """Colours that stand for a logarithmic quantity, shown as a bar beside the chart in place of a long legend."""

    name: str
    low: float
    high: float
    colours: Sequence[str]
    """Evenly over log of the quantity, from `low` to `high`."""
    show: Callable[[float], str] = "{:g}".format


@dataclass(frozen=True, kw_only=True)
class Panel:
    name: str
    """Of its file: unique on a page."""
    title: str
    x: Axis
    y: Axis
    layers: Sequence[ChartLayer]
    levels: Sequence[HorizontalLine] = field(default=())
    tab: str = ""
    """Name of its tab, where several panels share one place."""
    provenance: str = ""
    """Fits and tables that it shows, for the metadata of its file."""
    switch: bool = False
    """Whether a reader may switch the loss axis between linear and logarithmic."""
    colours: ColourScale | None = None


def scale_ticks(scale: ColourScale) -> list[tuple[float, str]]:
    """Both ends of the bar, and the powers of ten between them that are not close to one."""
    low, high = math.log10(scale.low), math.log10(scale.high)
    inner = [float(power) for power in range(math.ceil(low), math.floor(high) + 1)]
    apart = 0.1 * (high - low)
    places = [low, *(place for place in inner if low + apart < place < high - apart), high]
    return [(place, scale.show(10**place)) for place in places]


def axis_values(layers: Sequence[ChartLayer], axis: Literal["x", "y"]) -> list[float]:
    """Every value of the layers along one axis, ends of bars and bands included."""
    return [float(value) for layer in layers for value in _along(layer, axis)]


def _along(layer: ChartLayer, axis: Literal["x", "y"]) -> Iterator[float]:
    if axis == "x":
        yield from layer.x
        return
    if not isinstance(layer, BandLayer):
        yield from layer.y
    if not isinstance(layer, LineLayer):
        yield from (*layer.low, *layer.high)


def ticks(panel: Panel, side: Literal["x", "y"]) -> Sequence[tuple[float, str]]:
    """The axis's own ticks; without any, round numbers of a logarithmic axis; none for a linear one."""
    axis = panel.x if side == "x" else panel.y
    heights = [value for value in axis_values(panel.layers, side) if value > 0]
    if axis.ticks or not axis.log or not heights:
        return axis.ticks
    return [(place, axis.show(place)) for place in round_numbers(min(heights), max(heights), axis.most_ticks)]


def round_numbers(low: float, high: float, most: int) -> list[float]:
    """Round numbers between two values and up to a step beyond: as dense as `most` ticks allow."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in _STEPS:
        # By way of text: 3 * 10.0**-1 is 0.30000000000000004, and ticks are written out.
        places = [float(f"{digit}e{decade}") for decade in decades for digit in digits]
        if sum(low <= place <= high for place in places) <= most:
            break
    return places
