"""How a table from elsewhere was read: a record for the fits, and the runs with what is known of each row."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from vqscale.results.foreign.names import COUNTED, LETTERS, N
from vqscale.study.frozen import Frozen

if TYPE_CHECKING:
    import pandas as pd

SOURCES = "sources"
"""Attribute of the table: the platform's name of a column -> its name in the file, which messages quote."""
SOURCE_ROW = "source_row"
"""Column with the place of a row in its file: `line 5`."""
CELL_PROBLEMS = "cell_problems"
"""Column with what is wrong with a row's cells: the platform's name of the column -> `val/loss is NaN`."""


class TableReading(Frozen):
    """What was made of a table from elsewhere: which column is what, in which unit, and what was computed."""

    columns: dict[str, str]
    """The platform's name of a column -> its name in the file."""
    factors: dict[str, float] = Field(default_factory=dict)
    """The platform's name -> what its numbers were multiplied with, where that is not 1."""
    computed: dict[str, str] = Field(default_factory=dict)
    """The platform's name -> the formula, for what the file does not have."""
    metric: str | None = None
    """Column of the file that was asked for as the loss, under its own name."""
    n_column: str | None = None
    """Column of the file that was asked for as N, likewise; or a convention of N."""
    rows: int
    notes: list[str] = Field(default_factory=list)
    """What was left out, taken for something, or cannot be."""

    @property
    def column_options(self) -> list[str]:
        """NAME=COLUMN for every column, with which the table is read as it was."""
        return [f"{name}={column}" for name, column in self.columns.items()]

    @property
    def unit_options(self) -> list[str]:
        """NAME=FACTOR of every count, likewise: also 1, against the unit of a header."""
        return [f"{name}={self.factors.get(name, 1.0)!r}" for name in self.columns if name in COUNTED]

    def describe(self) -> str:
        """The mapping in one line."""
        letters = {column: letter for letter, column in LETTERS.items() if letter != "L"}
        parts = []
        for name, column in self.columns.items():
            factor = f" x {self.factors[name]:g}".replace("e+", "e") if name in self.factors else ""
            parts.append(f"{letters.get(name, 'N (total)' if name == 'parameters' else name)} = {column}{factor}")
        parts += [f"{letters.get(name, name)} = {formula} (computed)" for name, formula in self.computed.items()]
        return ", ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Runs:
    """A table of runs in the platform's columns, and how it was read; None for a table that the platform wrote."""

    table: "pd.DataFrame"
    reading: TableReading | None = None

    def names(self, columns: Sequence[str]) -> list[str]:
        """Columns of the file by the names that they have in the table."""
        renamed = {own: name for name, own in self.reading.columns.items()} if self.reading else {}
        return [name if name in self.table else renamed.get(name, name) for name in columns]

    @property
    def n_column(self) -> str:
        """The column that counts as N where the user names none: the total where the file has no other count."""
        columns = self.reading.columns if self.reading else {}
        total = "parameters" in columns and columns["parameters"] == columns.get(N)
        return "parameters" if total else N
