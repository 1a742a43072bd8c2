"""Numbers as text for people: counts, durations and shares, the same in a terminal, on a page and in LaTeX.

A missing value (None, NaN, or pandas.NA) becomes an empty text: nothing is shown for what was not measured.
"""

import math
from typing import TypeGuard

_SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_MOST_SCALED = 1e15
"""Counts from here on are written as powers of ten: a thousand T is no unit."""


def short_count(value: float | None) -> str:
    """A count in three digits: 1536 -> '1.54k', 1000000 -> '1M', 2.5e9 -> '2.5G'.

    Names of trials contain it (`D1M`), so that its form must not change.
    """
    if not _known(value):
        return ""
    if abs(value) >= _MOST_SCALED:
        return f"{value:.2e}"
    for size, unit in _SCALES:
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:g}" if value == int(value) else f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """A length of time in its two largest units: '3.4 s', '45 s', '3 min 20 s', '2 h 05 min', '1 h'."""
    if not _known(seconds):
        return ""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min" if minutes else f"{hours} h"
    if minutes:
        return f"{minutes} min {rest:02d} s" if rest else f"{minutes} min"
    return f"{rest} s"


def percent(share: float | None, digits: int = 1) -> str:
    """A share as per cent: 0.0123 -> '1.2 %'."""
    return f"{100 * share:.{digits}f} %" if _known(share) else ""


def _known(value: float | None) -> TypeGuard[float]:
    # pandas.NA is known by its type's name: this module loads no pandas.
    return value is not None and type(value).__name__ != "NAType" and not math.isnan(value)
