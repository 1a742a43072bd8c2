"""A picture as values: what the interactive chart and the file of a figure are both drawn from."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

Dash = Literal["solid", "dotted", "dashed"]
Symbol = Literal["circle", "square", "diamond", "triangle", "cross", "star"]
_STEPS: tuple[tuple[float, ...], ...] = (
    tuple(tenths / 10 for tenths in range(10, 100)),
    tuple(range(1, 10)),
    (1, 2, 5),
    (1, 3),
    (1,),
)
"""Digits of a decade at which ticks may stand, from dense to sparse."""
SYMBOLS: tuple[Symbol, ...] = ("circle", "square", "diamond", "triangle", "cross")


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
class _Layer:
    label: str = ""
    """Its name in the legend; empty: it has none there."""
    group: str = ""
    """A click in the legend hides all layers of one group; empty: the label."""
    shade: str


@dataclass(frozen=True, kw_only=True)
class Line(_Layer):
    x: Sequence[float]
    y: Sequence[float]
    dash: Dash = "solid"
    width: float = 2.0
    texts: Sequence[str] = ()
    """What is said of every point; none: nothing is."""


@dataclass(frozen=True, kw_only=True)
class Band(_Layer):
    """The area between `low` and `high`."""

    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Points(_Layer):
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    """Ends of error bars; none: no bars."""
    high: Sequence[float] = ()
    symbol: Symbol = "circle"
    hollow: bool = False
    size: float = 8.0
    joined: bool = False
    """Whether a line goes through them."""
    texts: Sequence[str] = ()
    """What is said of every point beside its values."""
    tag: str = ""
    """Written beside the first point in a figure's file, where nothing can be pointed at."""


Layer = Line | Band | Points


@dataclass(frozen=True, kw_only=True)
class Level:
    """A horizontal line with its name."""

    y: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Panel:
    name: str
    """Of its file: unique on a page."""
    title: str
    x: Axis
    y: Axis
    layers: Sequence[Layer]
    levels: Sequence[Level] = field(default=())
    tab: str = ""
    """What tells it from the others that it takes turns with."""
    rests_on: str = ""
    """Fits and tables that it shows, for the metadata of its file."""
    switch: bool = False
    """Whether a reader may switch the loss axis between linear and logarithmic."""


def values(layers: Sequence[Layer], axis: Literal["x", "y"]) -> list[float]:
    """Every value of the layers along one axis, ends of bars and bands included."""
    return [float(value) for layer in layers for value in _along(layer, axis)]


def _along(layer: Layer, axis: Literal["x", "y"]) -> Iterator[float]:
    if axis == "x":
        yield from layer.x
        return
    if not isinstance(layer, Band):
        yield from layer.y
    if not isinstance(layer, Line):
        yield from (*layer.low, *layer.high)


def ticks(panel: Panel, side: Literal["x", "y"]) -> Sequence[tuple[float, str]]:
    """The axis's own ticks; without any, round numbers of a logarithmic axis; none for a linear one."""
    axis = panel.x if side == "x" else panel.y
    heights = [value for value in values(panel.layers, side) if value > 0]
    if axis.ticks or not axis.log or not heights:
        return axis.ticks
    return [(place, axis.show(place)) for place in round_numbers(min(heights), max(heights), axis.most_ticks)]


def round_numbers(low: float, high: float, most: int) -> list[float]:
    """Round numbers between two values and up to a step beyond: as dense as `most` ticks allow."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in _STEPS:
        places = [float(f"{digit}e{decade}") for decade in decades for digit in digits]
        if sum(low <= place <= high for place in places) <= most:
            break
    return places
