"""Style shared by figures and the HTML report: colours, names, number formats."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from vqscale.reporting.charts.panel import MARKER_SYMBOLS, Axis, MarkerSymbol
from vqscale.study.baselines import window_bias
from vqscale.study.model import WINDOW_BIAS

PALETTE = ("#0f78bf", "#d9640f", "#0a9c74", "#c2699c", "#c78f00", "#48a5dd", "#7a68c9", "#8a8f98")
"""After Okabe and Ito: distinguishable by colour-blind readers, on white and on near-black."""
GREY = "#8a8f98"

_ARCHITECTURES = {
    "transformer_vq": "Transformer-VQ",
    "transformer_full": "Full-attention baseline",
    "transformer_full+window-bias": "Full attention, bias within L",
    "transformer": "Transformer",
    "longvq": "LongVQ",
    "mega": "Mega",
    "mega+window-bias": "Mega, bias within L",
    "gla": "Gated linear attention",
    "transformer_window": "Sliding window",
}
_RESERVED = 3
"""The first of them keep their colours even on a page without them."""
_PALE = "#aab2bd"
"""Mixed into the lightest shade of every colour: visible on white and on near-black."""
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_TIMES = "\N{MULTIPLICATION SIGN}"


def colour(index: int) -> str:
    return PALETTE[index % len(PALETTE)]


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """Every architecture has one colour and one symbol on the whole page."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, archs: Iterable[Any]) -> "Scheme":
        """The quantised model and its baselines, present or not, then known ones, others by name."""
        there = {str(arch) for arch in archs if present(arch)}
        # A baseline with another bias comes last: the others keep their colours.
        kinds = sorted(_ARCHITECTURES, key=lambda arch: "+" in arch)
        known = [arch for place, arch in enumerate(kinds) if place < _RESERVED or arch in there]
        return cls(names=(*known, *sorted(there - set(_ARCHITECTURES))))

    def colour(self, arch: Any) -> str:
        return colour(self.place(arch))

    def symbol(self, arch: Any) -> MarkerSymbol:
        return MARKER_SYMBOLS[self.place(arch) % len(MARKER_SYMBOLS)]

    def place(self, arch: Any) -> int:
        """Place in the order of the page."""
        return self.names.index(str(arch)) if str(arch) in self.names else 0


def shade(base: str, share: float) -> str:
    """A colour from pale (share 0) to full (share 1), for sizes or budgets of one architecture."""
    weight = 0.15 + 0.85 * share
    mixed = (
        round(weight * int(base[place : place + 2], 16) + (1 - weight) * int(_PALE[place : place + 2], 16))
        for place in (1, 3, 5)
    )
    return "#" + "".join(f"{part:02x}" for part in mixed)


SPECTRUM = ("#3b0f70", "#5a3fc0", "#2f7fb8", "#1f9e89", "#6aa84f", "#c98a00", "#d1495b")
"""From cold to warm, each dark enough on white and light enough on dark: for many budgets in one chart."""


def spectrum(share: float) -> str:
    """The colour at a place from 0 to 1 of `SPECTRUM`."""
    place = min(max(share, 0.0), 1.0) * (len(SPECTRUM) - 1)
    first = min(int(place), len(SPECTRUM) - 2)
    part = place - first
    channels = (
        round((1 - part) * int(SPECTRUM[first][at : at + 2], 16) + part * int(SPECTRUM[first + 1][at : at + 2], 16))
        for at in (1, 3, 5)
    )
    return "#" + "".join(f"{channel:02x}" for channel in channels)


def kind(arch: Any, variant: Any) -> Any:
    """The architecture; a baseline whose bias ends at the window is a kind of its own, `ARCH+window-bias`."""
    return f"{arch}+{WINDOW_BIAS}" if present(arch) and window_bias(variant) else arch


def kind_of(where: Mapping[str, Any]) -> Any:
    """Of the runs of a subset."""
    return kind(where.get("arch"), where.get("variant"))


def with_kinds(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs whose column `arch` holds their kind, as a page names and colours them."""
    if not {"arch", "variant"} <= set(runs.columns):
        return runs
    kinds = [kind(arch, variant) for arch, variant in zip(runs["arch"], runs["variant"], strict=True)]
    return runs.assign(arch=pd.Series(kinds, index=runs.index, dtype=object))


def architecture(arch: Any, head: Any = None) -> str:
    """Display name; an architecture from another table keeps its own."""
    name = _ARCHITECTURES.get(str(arch), str(arch))
    return f"{name} ({head})" if present(head) else name


def in_words(label: str) -> str:
    """A text that begins with an architecture, with its display name."""
    arch, *rest = label.split(",", 1)
    return ",".join([architecture(arch), *rest])


def whole(value: float) -> str:
    """S and T, which are written with all their digits."""
    return f"{int(value):,}"


def present(value: Any) -> bool:
    return value is not None and not bool(pd.isna(value))


def number(value: float | None, digits: int = 4) -> str:
    """Significant digits; nothing for what was not measured."""
    return f"{value:.{digits}g}" if value is not None and present(value) else ""


def bytes_of(value: float | None) -> str:
    if value is None or not present(value):
        return ""
    for scale, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{int(value)} B"


def power(value: float | None, digits: int = 3) -> str:
    """A large or small number with a power of ten: 4.2 × 10¹²."""
    if value is None or not present(value):
        return ""
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    trimmed = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    raised = f"10{str(int(exponent)).translate(_SUPERSCRIPTS)}"
    return raised if trimmed == "1" else f"{trimmed} {_TIMES} {raised}"


def plural(number_of: int, noun: str) -> str:
    return f"one {noun}" if number_of == 1 else f"{number_of} {noun}s"


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: a, b and c."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def flops_axis(name: str = "training FLOPs C") -> Axis:
    """Few ticks, for their names are long."""
    return Axis(name=name, log=True, show=power, most_ticks=5)
