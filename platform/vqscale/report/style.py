"""What figures and the HTML report share: colours, names, number formats."""

from typing import Any

import pandas as pd

PALETTE = ("#3a7bd5", "#e07b39", "#2fa36b", "#c94f8c", "#8266d4", "#b09020", "#2ba3b8", "#d0504c")
"""Told apart on white and on near-black."""

_ARCHITECTURES = {
    "transformer_vq": "Transformer-VQ",
    "transformer_full": "full attention in the same blocks",
    "transformer": "Transformer",
}
_SCALES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def colour(index: int) -> str:
    return PALETTE[index % len(PALETTE)]


def architecture(arch: Any, head: Any = None) -> str:
    """A name for people; an architecture from another table keeps its own."""
    name = _ARCHITECTURES.get(str(arch), str(arch))
    return f"{name} ({head})" if present(head) else name


def whole(value: float) -> str:
    """S and T, which people know by all their digits."""
    return f"{int(value):,}"


def present(value: Any) -> bool:
    return value is not None and not bool(pd.isna(value))


def count(value: float | None) -> str:
    """Counts for people: 1.23 M. Beyond a thousand trillion, powers of ten."""
    if value is None or not present(value):
        return ""
    if abs(value) >= 1e15:
        return f"{value:.2e}"
    for scale, letter in _SCALES:
        if abs(value) >= scale:
            return f"{value / scale:.3g} {letter}"
    return f"{value:.3g}" if value != int(value) else str(int(value))


def number(value: float | None, digits: int = 4) -> str:
    """Significant digits; nothing for what was not measured."""
    return f"{value:.{digits}g}" if value is not None and present(value) else ""


def percent(value: float | None, digits: int = 1) -> str:
    """A share as per cent."""
    return f"{100 * value:.{digits}f} %" if value is not None and present(value) else ""


def duration(seconds: float | None) -> str:
    if seconds is None or not present(seconds):
        return ""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def bytes_of(value: float | None) -> str:
    if value is None or not present(value):
        return ""
    for scale, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{int(value)} B"
