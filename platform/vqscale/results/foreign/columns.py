"""Columns of a data frame from the cells of a file."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vqscale.results.foreign.cells import Array
from vqscale.results.foreign.names import TEXTS, state_of
from vqscale.results.table import RESULT_JSON_COLUMNS

if TYPE_CHECKING:
    import pandas as pd


def plain_column(name: str, cells: Sequence[Any]) -> "pd.Series[Any]":
    """A column that no law measures: numbers where all cells are, text otherwise; JSON where the platform writes it."""
    import pandas as pd

    given = [None if cell is None or (cell.__class__ is str and not cell.strip()) else cell for cell in cells]
    if name in RESULT_JSON_COLUMNS:
        return pd.Series([_decoded(cell) for cell in given], dtype=object)
    if name in TEXTS:
        return texts(given, name)
    column = pd.Series(given, dtype=object)
    if any(isinstance(cell, bool) for cell in given):
        return column
    try:
        return pd.to_numeric(column)
    except (ValueError, TypeError):
        return column


def texts(cells: Sequence[Any], name: str) -> "pd.Series[Any]":
    """A column of text, None where a cell is empty; states of runs under the platform's names."""
    import pandas as pd

    given = [None if cell is None else str(cell).strip() or None for cell in cells]
    shown: list[str | None] = list(given)
    if name == "status":
        shown = [state_of(cell) or cell or "no status" for cell in given]
    return pd.Series(shown, dtype=object)


def _decoded(cell: Any) -> Any:
    try:
        return json.loads(cell) if isinstance(cell, str) else cell
    except ValueError:
        return None


def whole(values: Array) -> Any:
    """Integers where all are whole and small enough to be exact."""
    exact = np.all(np.isfinite(values)) and np.all(np.abs(values) < 2**53) and np.all(values == np.round(values))
    return values.astype(np.int64) if exact and len(values) else values
