"""What the user says of a table from elsewhere: `--column NAME=YOUR_COLUMN` and `--unit NAME=UNIT`."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from vqscale.errors import FitError
from vqscale.results.foreign.cells import UNITS
from vqscale.results.foreign.names import COUNTED, LETTERS

if TYPE_CHECKING:
    import pandas as pd

MOST_COLUMNS = 20
"""Of a table, named in a message."""


def named_columns(texts: Sequence[str]) -> dict[str, str]:
    """NAME=YOUR_COLUMN as a mapping; N, D, C and the other letters stand for the platform's names."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, own = text.partition("=")
        name = LETTERS.get(name.strip(), name.strip())
        if not (name and equals and own):
            raise FitError(f"--column {text}: write NAME=YOUR_COLUMN, such as N=params")
        if found.setdefault(name, own) != own:
            raise FitError(f"--column {text}: {name} is named twice, as {found[name]!r} before")
    return found


def unit_factors(units: Sequence[str]) -> dict[str, float]:
    """NAME=UNIT as a factor for each of N, D and C."""
    found = {}
    for text in units:
        name, _, unit = text.partition("=")
        name = LETTERS.get(name.strip(), name.strip())
        factor = UNITS.get(unit.strip().lower()) or _positive_number(unit)
        if name not in COUNTED or factor is None:
            raise FitError(f"--unit {text}: write N, D or C and its unit: k, M, B, T or a number, such as --unit N=M")
        found[name] = factor
    return found


def _positive_number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < math.inf else None


def rename_columns(table: "pd.DataFrame", pairs: Sequence[str]) -> "pd.DataFrame":
    """The table with the columns that NAME=YOUR_COLUMN pairs name under the names that the laws know."""
    for name, own in named_columns(pairs).items():
        if own not in table:
            raise FitError(no_column(f"{name}={own}", own, map(str, table.columns)))
        table = table.assign(**{name: table[own]})
    return table


def no_column(pair: str, own: str, columns: Iterable[str]) -> str:
    """Message for a column that is not there, with those whose names are near."""
    names = list(columns)
    near = [name for name in names if own and (own.lower() in name.lower() or name.lower() in own.lower())]
    shown = near or names
    more = f" and {len(shown) - MOST_COLUMNS} more" if len(shown) > MOST_COLUMNS else ""
    return f"--column {pair}: the table has no column {own!r}, only {', '.join(shown[:MOST_COLUMNS])}{more}"
