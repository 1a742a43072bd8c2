"""A table from elsewhere as the laws take it: the platform's columns, in numbers, and how they were found."""

import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vqscale import storage
from vqscale.errors import FitError, StorageError
from vqscale.results.foreign.cells import UNITS, Numbers, decimal_mark, parse_numbers, shortened
from vqscale.results.foreign.files import RawTable, own_columns, parse_file
from vqscale.results.foreign.names import (
    KINDS,
    LETTERS,
    LOOK_ALIKES,
    TEXTS,
    Match,
    candidates,
    look_alikes,
    match_columns,
    state_of,
)
from vqscale.results.foreign.units import (
    FORMULAS,
    LETTER_OF,
    Array,
    C,
    D,
    N,
    computed_measure,
    odd_rows_note,
    unit_notes,
)
from vqscale.results.table import RESULT_JSON_COLUMNS, parse_table
from vqscale.study.frozen import Frozen

if TYPE_CHECKING:
    import pandas as pd

SOURCE_ROW = "source_row"
"""Column with the place of a row in its file: `line 5`."""
CELL_PROBLEMS = "cell_problems"
"""Column with what is wrong with a row's cells: the platform's name of the column -> `val/loss is NaN`."""
OWN_COLUMNS = frozenset({"study", "trial_id", "corpus_fingerprint", "parameters_non_embedding", "tokens", "flops"})
"""Columns that make a table one of the platform's own, whose cells are taken as they are."""
COUNTS = ("parameters_non_embedding", "parameters", "tokens", "flops")
_MOST_COLUMNS = 20
"""Of a table, named in a message."""


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
        """NAME=FACTOR, likewise."""
        return [f"{name}={factor!r}" for name, factor in self.factors.items()]

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


def read_runs(
    uri: str,
    *,
    columns: Sequence[str] = (),
    units: Sequence[str] = (),
    metric: str | None = None,
    n_column: str | None = None,
) -> Runs:
    """The runs of any table. A table of the platform's own is taken as it is; of others columns are recognised.

    `columns`: NAME=YOUR_COLUMN, `units`: NAME=UNIT, where NAME is N, D, C, loss or a name of the platform's; they go
    before what is recognised. `metric`, `n_column`: columns of the file that are the loss and N under their own names.

    Columns of a table from elsewhere: those recognised, under the platform's names; those computed; all others of the
    file under their own names; `SOURCE_ROW` and `CELL_PROBLEMS`. Raises StorageError for what is no table, FitError
    where a column that was named is not there and where several may equally be N, D, C or the loss.
    """
    if not storage.exists(uri):
        raise StorageError(f"{uri}: no such table. Name a file with runs, or run the study first.")
    data = storage.read_bytes(uri)
    own = _own_table(uri, data)
    if own is not None:
        _refuse_units(units)
        return Runs(table=rename_columns(own, columns))
    return _Reader(parse_file(uri, data)).read(_pairs(columns, "--column"), _factors(units), metric, n_column)


def _own_table(uri: str, data: bytes) -> "pd.DataFrame | None":
    return parse_table(uri, data) if own_columns(uri, data) >= OWN_COLUMNS else None


def rename_columns(table: "pd.DataFrame", pairs: Sequence[str]) -> "pd.DataFrame":
    """The table with the columns that NAME=YOUR_COLUMN pairs name under the names that the laws know."""
    for name, own in _pairs(pairs, "--column").items():
        if own not in table:
            raise FitError(_no_column(f"{name}={own}", own, map(str, table.columns)))
        table = table.assign(**{name: table[own]})
    return table


def _refuse_units(units: Sequence[str]) -> None:
    if units:
        raise FitError(f"--unit {units[0]}: the table is a study's own, whose units are known. Leave the option out.")


def _pairs(texts: Sequence[str], option: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, equals, own = text.partition("=")
        name = LETTERS.get(name.strip(), name.strip())
        if not (name and equals and own):
            raise FitError(f"{option} {text}: write NAME=YOUR_COLUMN, such as N=params")
        if found.setdefault(name, own) != own:
            raise FitError(f"{option} {text}: {name} is named twice, as {found[name]!r} before")
    return found


def _factors(units: Sequence[str]) -> dict[str, float]:
    found = {}
    for text in units:
        name, _, unit = text.partition("=")
        name = LETTERS.get(name.strip(), name.strip())
        factor = UNITS.get(unit.strip().lower()) or _positive_number(unit)
        if name not in COUNTS or factor is None:
            raise FitError(f"--unit {text}: write N, D or C and its unit: k, M, B, T or a number, such as --unit N=M")
        found[name] = factor
    return found


def _positive_number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < math.inf else None


def _no_column(pair: str, own: str, columns: Iterable[str]) -> str:
    names = list(columns)
    near = [name for name in names if own and (own.lower() in name.lower() or name.lower() in own.lower())]
    shown = near or names
    more = f" and {len(shown) - _MOST_COLUMNS} more" if len(shown) > _MOST_COLUMNS else ""
    return f"--column {pair}: the table has no column {own!r}, only {', '.join(shown[:_MOST_COLUMNS])}{more}"


def _hint(name: str, near: Sequence[str]) -> str:
    """What to do where a measure was not recognised, though columns look like it."""
    letter = LETTER_OF.get(name, name)
    more = f" and {len(near) - _MOST_COLUMNS} more" if len(near) > _MOST_COLUMNS else ""
    shown = ", ".join(near[:_MOST_COLUMNS])
    return f"no column is recognised as {letter}. If it is {shown}{more}: --column {shlex.quote(f'{letter}={near[0]}')}"


class _Reader:
    """One table on its way from cells to runs."""

    def __init__(self, raw: RawTable) -> None:
        self.raw = raw
        self.notes = list(raw.notes)
        self.mark = "."
        self.parsed: dict[tuple[str, bool], Numbers] = {}

    def read(
        self, pairs: Mapping[str, str], factors: Mapping[str, float], metric: str | None, n_column: str | None
    ) -> Runs:
        columns = self.raw.columns
        named = {name: Match(column=self._existing(name, own)) for name, own in pairs.items()}
        numbers = [name for name in (metric, n_column) if name in columns and name not in (*KINDS, *pairs)]
        self._refuse_texts(pairs)
        self._settle_mark([*(one.column for one in named.values()), *numbers, *candidates(columns)])
        skip = {*named, *({"loss", "bpb"} - {metric} if metric in columns else ())}
        matches = named | match_columns(columns, self._any_number, skip=skip)
        self.notes += [one.note for one in matches.values() if one.note]
        values, problems = self._measures(matches, factors, numbers)
        if unused := [name for name in factors if name not in values]:
            raise FitError(f"--unit {LETTER_OF[unused[0]]}: the table has no such column; name it with --column")
        if "status" in columns and "status" not in matches:
            self.notes.append("status: the column holds no states of runs (finished, failed ...) and is not used")
        finished_R = self._finished(matches)
        seen = {name: np.where(finished_R, found, np.nan) for name, found in values.items() if name in COUNTS}
        self.notes += unit_notes(seen, {name: one.column for name, one in matches.items()})
        self.notes += odd_rows_note(seen, self.raw.rows)
        asked = {"loss": metric in columns, N: n_column in numbers}
        near = {name: self._look_alikes(name, matches) for name in LOOK_ALIKES if not asked.get(name)}
        self.notes += [_hint(name, columns) for name, columns in near.items() if columns]
        self.notes += [note for name in LOOK_ALIKES if name not in matches for note in self._without_numbers(name)]
        computed = self._compute(values, problems, near)
        reading = TableReading(
            columns={name: one.column for name, one in matches.items()},
            factors={name: factor for name, one in matches.items() if (factor := factors.get(name, one.factor)) != 1},
            computed=computed,
            metric=metric if metric in numbers else None,
            n_column=n_column if n_column in numbers else None,
            rows=len(self.raw.rows),
            notes=self.notes,
        )
        return Runs(table=self._frame(matches, values, problems), reading=reading)

    def _existing(self, name: str, own: str) -> str:
        """The column of that name, also where only case and blanks differ."""
        columns = self.raw.columns
        alike = [column for column in columns if column.strip().lower() == own.strip().lower()]
        if own not in columns and len(alike) != 1:
            raise FitError(_no_column(f"{name}={own}", own, columns))
        return own if own in columns else alike[0]

    def _settle_mark(self, columns: Sequence[str]) -> None:
        cells = [self.raw.columns[name] for name in dict.fromkeys(columns)]
        self.mark, certain = decimal_mark(cells, separator=self.raw.separator)
        if not certain:
            what = "decimal commas" if self.mark == "," else "commas between thousands"
            self.notes.append(f"numbers such as 1,234 are read with {what}: no cell of the table tells which they are")

    def _numbers(self, column: str, *, counts: bool) -> Numbers:
        key = (column, counts)
        if key not in self.parsed:
            self.parsed[key] = parse_numbers(self.raw.columns[column], counts=counts, mark=self.mark)
        return self.parsed[key]

    def _any_number(self, column: str, counts: bool) -> Array | None:
        """The numbers of a column; None where it has none."""
        values = self._numbers(column, counts=counts).values
        return values if np.isfinite(values).any() else None

    def _measures(
        self, matches: Mapping[str, Match], factors: Mapping[str, float], numbers: Sequence[str]
    ) -> tuple[dict[str, Array], list[dict[str, str]]]:
        """Values [R] of everything measured, and what is wrong with each row."""
        values: dict[str, Array] = {}
        problems: list[dict[str, str]] = [{} for _ in self.raw.rows]
        wanted = {name: one for name, one in matches.items() if name in (*KINDS, *COUNTS)}
        for name, one in (wanted | {name: Match(column=name) for name in numbers}).items():
            found = self._numbers(one.column, counts=name in COUNTS or name in numbers)
            values[name] = found.values * factors.get(name, one.factor)
            for row, problem in zip(problems, found.problems, strict=True):
                if problem:
                    row[name] = f"{one.column} {problem}"
        return values, problems

    def _refuse_texts(self, pairs: Mapping[str, str]) -> None:
        for name, own in pairs.items():
            column = self._existing(name, own)
            if name in (*KINDS, *COUNTS) and self._any_number(column, name in COUNTS) is None:
                example = next((cell for cell in self.raw.columns[column] if cell not in (None, "")), "nothing")
                raise FitError(f"--column {name}={own}: no cell is a positive number; it holds {shortened(example)}")

    def _finished(self, matches: Mapping[str, Match]) -> NDArray[np.bool_]:
        """Runs that ended well [R]; all where the table does not say."""
        rows = len(self.raw.rows)
        if "status" not in matches:
            return np.ones(rows, dtype=bool)
        states = [state_of(cell) for cell in self.raw.columns[matches["status"].column]]
        finished_R = np.array([state == "finished" for state in states], dtype=bool)
        if not finished_R.any():
            self.notes.append(f"status: no run is finished in {matches['status'].column}; no other run is fitted")
        return finished_R

    def _look_alikes(self, name: str, matches: Mapping[str, Match]) -> list[str]:
        """Columns of numbers whose name reminds of a measure that was not recognised."""
        if name in matches or (name == "loss" and "bpb" in matches):
            return []
        found = look_alikes(name, self.raw.columns, [one.column for one in matches.values()])
        return [column for column in found if self._any_number(column, name in COUNTS) is not None]

    def _without_numbers(self, name: str) -> list[str]:
        """Why columns with the very name of a measure are not taken for it."""
        letter = LETTER_OF.get(name, name)
        named = [
            column
            for column in candidates(self.raw.columns, [name])
            if self._any_number(column, name in COUNTS) is None
        ]
        return [f"{letter} is not {column}: no cell of it is a positive number" for column in named]

    def _compute(
        self, values: dict[str, Array], problems: Sequence[dict[str, str]], near: Mapping[str, Sequence[str]]
    ) -> dict[str, str]:
        """Add the one of N, D and C that the table lacks to `values`, and its formula; nothing where it may be there.

        What counts FLOPs beside a column of C is more often a speed, so that C is computed all the same.
        """
        found = computed_measure(values)
        if found is None or (found[0] != C and near.get(found[0])):
            return {}
        name, values[found[0]] = found
        for row in problems:
            if sources := [row[one] for one in (N, D, C) if one in row]:
                row.setdefault(name, sources[0])
        return {name: FORMULAS[name]}

    def _frame(
        self, matches: Mapping[str, Match], values: Mapping[str, Array], problems: Sequence[dict[str, str]]
    ) -> "pd.DataFrame":
        import pandas as pd

        # A column under two names would look like a second property of the runs.
        used = {one.column for one in matches.values()} - set(values)
        columns: dict[str, Any] = {
            name: _plain_column(name, cells) for name, cells in self.raw.columns.items() if name not in used
        }
        for name, one in matches.items():
            if name not in values:
                cells = self.raw.columns[one.column]
                columns[name] = _texts(cells, name) if name in TEXTS else _plain_column(name, cells)
        if "status" in columns and "status" not in matches:
            del columns["status"]  # laws would take every row for unfinished
        columns |= {name: _whole(found) for name, found in values.items()}
        if "corpus" in matches:
            columns.setdefault("corpus_fingerprint", columns["corpus"])
        if "name" not in columns:
            columns["name"] = pd.Series(self.raw.rows, dtype=object)
        columns[SOURCE_ROW] = pd.Series(self.raw.rows, dtype=object)
        columns[CELL_PROBLEMS] = pd.Series(list(problems), dtype=object)
        return pd.DataFrame(columns)


def _plain_column(name: str, cells: Sequence[Any]) -> Any:
    """A column that no law measures: numbers where all cells are, text otherwise; JSON where the platform writes it."""
    import pandas as pd

    given = [None if cell is None or (cell.__class__ is str and not cell.strip()) else cell for cell in cells]
    if name in RESULT_JSON_COLUMNS:
        return pd.Series([_decoded(cell) for cell in given], dtype=object)
    if name in TEXTS:
        return _texts(given, name)
    column = pd.Series(given, dtype=object)
    if any(isinstance(cell, bool) for cell in given):
        return column
    try:
        return pd.to_numeric(column)
    except (ValueError, TypeError):
        return column


def _texts(cells: Sequence[Any], name: str) -> Any:
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


def _whole(values: Array) -> Any:
    """Integers where all are whole and small enough to be exact."""
    exact = np.all(np.isfinite(values)) and np.all(np.abs(values) < 2**53) and np.all(values == np.round(values))
    return values.astype(np.int64) if exact and len(values) else values
