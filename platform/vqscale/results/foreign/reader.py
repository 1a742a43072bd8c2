"""A table from elsewhere as the laws take it: the platform's columns, in numbers, and how they were found."""

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vqscale import storage
from vqscale.errors import FitError, StorageError
from vqscale.results.foreign.cells import Array, Numbers, decimal_mark, parse_numbers, shortened
from vqscale.results.foreign.columns import plain_column, texts, whole
from vqscale.results.foreign.files import RawTable, own_columns, parse_file
from vqscale.results.foreign.names import (
    COUNTED,
    KINDS,
    LOOK_ALIKES,
    TEXTS,
    C,
    D,
    Match,
    N,
    candidates,
    look_alikes,
    match_columns,
    state_of,
    stated_match,
)
from vqscale.results.foreign.options import MOST_COLUMNS, named_columns, no_column, rename_columns, unit_factors
from vqscale.results.foreign.reading import CELL_PROBLEMS, SOURCE_ROW, SOURCES, Runs, TableReading
from vqscale.results.foreign.units import FORMULAS, LETTER_OF, computed_measure, odd_rows_note, unit_notes
from vqscale.results.table import parse_table

if TYPE_CHECKING:
    import pandas as pd

OWN_COLUMNS = frozenset({"study", "trial_id", "corpus_fingerprint", "parameters_non_embedding", "tokens", "flops"})
"""Columns that make a table one of the platform's own, whose cells are taken as they are."""


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
    return Reader(parse_file(uri, data)).read(named_columns(columns), unit_factors(units), metric, n_column)


def _own_table(uri: str, data: bytes) -> "pd.DataFrame | None":
    return parse_table(uri, data) if own_columns(uri, data) >= OWN_COLUMNS else None


def _refuse_units(units: Sequence[str]) -> None:
    if units:
        raise FitError(f"--unit {units[0]}: the table is a study's own, whose units are known. Leave the option out.")


def _hint(name: str, near: Sequence[str]) -> str:
    """What to do where a measure was not recognised, though columns look like it."""
    letter = LETTER_OF.get(name, name)
    more = f" and {len(near) - MOST_COLUMNS} more" if len(near) > MOST_COLUMNS else ""
    shown = ", ".join(near[:MOST_COLUMNS])
    return f"no column is recognised as {letter}. If it is {shown}{more}: --column {shlex.quote(f'{letter}={near[0]}')}"


class Reader:
    """One table on its way from cells to runs."""

    def __init__(self, raw: RawTable) -> None:
        self.raw = raw
        self.notes = list(raw.notes)
        self.mark = "."
        self.parsed: dict[tuple[str, bool], Numbers] = {}

    def read(
        self, pairs: Mapping[str, str], factors: Mapping[str, float], metric: str | None, n_column: str | None
    ) -> Runs:
        """The runs, with the record of how they were read. Arguments as of `read_runs`, as mappings."""
        asked = [name for name in (metric, n_column) if name in self.raw.columns and name not in (*KINDS, *pairs)]
        matches = self._match(pairs, asked, metric)
        values, problems = self._measures(matches, factors, asked)
        if unused := [name for name in factors if name not in values]:
            raise FitError(f"--unit {LETTER_OF[unused[0]]}: the table has no such column; name it with --column")
        self._note_units(matches, values)
        missing = [name for name in LOOK_ALIKES if name not in self._known(matches, asked, metric)]
        near = {name: self._look_alikes(name, matches) for name in missing}
        self.notes += [_hint(name, columns) for name, columns in near.items() if columns]
        self.notes += [note for name in missing for note in self._without_numbers(name)]
        computed = self._compute(values, problems, near)
        reading = TableReading(
            columns={name: one.column for name, one in matches.items()},
            factors={name: factor for name, one in matches.items() if (factor := factors.get(name, one.factor)) != 1},
            computed=computed,
            metric=metric if metric in asked else None,
            n_column=n_column if n_column in asked else None,
            rows=len(self.raw.rows),
            notes=self.notes,
        )
        return Runs(table=self._frame(matches, values, problems), reading=reading)

    def _match(self, pairs: Mapping[str, str], asked: Sequence[str], metric: str | None) -> dict[str, Match]:
        """The columns that are stated, and those that are recognised beside them."""
        named = {name: stated_match(name, self._existing(name, own)) for name, own in pairs.items()}
        self._settle_mark([*(one.column for one in named.values()), *asked, *candidates(self.raw.columns)])
        for name, one in named.items():
            self._require_numbers(name, pairs[name], one.column)
        skip = {*named, *({"loss", "bpb"} - {metric} if metric in self.raw.columns else ())}
        matches = named | match_columns(self.raw.columns, self._any_number, skip=skip)
        self.notes += [one.note for one in matches.values() if one.note]
        if "status" in self.raw.columns and "status" not in matches:
            self.notes.append("status: the column holds no states of runs (finished, failed ...) and is not used")
        return matches

    def _known(self, matches: Mapping[str, Match], asked: Sequence[str], metric: str | None) -> set[str]:
        """The measures that need no hint."""
        known = set(matches)
        known |= {"loss"} if "bpb" in matches or metric in self.raw.columns else set()
        return known | ({N} if any(name != metric for name in asked) else set())

    def _note_units(self, matches: Mapping[str, Match], values: Mapping[str, Array]) -> None:
        finished_R = self._finished(matches)
        seen = {name: np.where(finished_R, found, np.nan) for name, found in values.items() if name in COUNTED}
        found = unit_notes(seen, {name: one.column for name, one in matches.items()})
        stated = [LETTER_OF[name] for name, one in matches.items() if one.factor != 1]
        if found and stated:
            options = " ".join(f"--unit {letter}=1" for letter in stated)
            found = [
                f"{note}. The units of headers were applied; {options} takes the numbers as they are" for note in found
            ]
        self.notes += found
        self.notes += odd_rows_note(seen, self.raw.rows)

    def _existing(self, name: str, own: str) -> str:
        """The column of that name, also where only case and blanks differ."""
        columns = self.raw.columns
        alike = [column for column in columns if column.strip().lower() == own.strip().lower()]
        if own not in columns and len(alike) != 1:
            raise FitError(no_column(f"{name}={own}", own, columns))
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
        wanted = {name: one for name, one in matches.items() if name in (*KINDS, *COUNTED)}
        for name, one in (wanted | {name: Match(column=name) for name in numbers}).items():
            found = self._numbers(one.column, counts=name in COUNTED or name in numbers)
            values[name] = found.values * factors.get(name, one.factor)
            for row, problem in zip(problems, found.problems, strict=True):
                if problem:
                    row[name] = f"{one.column} {problem}"
        return values, problems

    def _require_numbers(self, name: str, own: str, column: str) -> None:
        if name in (*KINDS, *COUNTED) and self._any_number(column, name in COUNTED) is None:
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
        found = look_alikes(name, self.raw.columns, [one.column for one in matches.values()])
        return [column for column in found if self._any_number(column, name in COUNTED) is not None]

    def _without_numbers(self, name: str) -> list[str]:
        """Why columns with the very name of a measure are not taken for it."""
        letter = LETTER_OF.get(name, name)
        named = [
            column
            for column in candidates(self.raw.columns, [name])
            if self._any_number(column, name in COUNTED) is None
        ]
        return [f"{column} is not taken as {letter}: no cell of it is a positive number" for column in named]

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

        # A column under two names would look like a second property of the runs; one of a measure's name that holds no
        # number would be taken for the measure.
        used = {*(one.column for one in matches.values()), *KINDS} - set(values)
        columns: dict[str, Any] = {
            name: plain_column(name, cells) for name, cells in self.raw.columns.items() if name not in used
        }
        for name, one in matches.items():
            if name not in values:
                cells = self.raw.columns[one.column]
                columns[name] = texts(cells, name) if name in TEXTS else plain_column(name, cells)
        if "status" in columns and "status" not in matches:
            del columns["status"]  # laws would take every row for unfinished
        columns |= {name: whole(found) for name, found in values.items()}
        if "corpus" in matches:
            columns.setdefault("corpus_fingerprint", columns["corpus"])
        if "name" not in columns:
            columns["name"] = pd.Series(self.raw.rows, dtype=object)
        columns[SOURCE_ROW] = pd.Series(self.raw.rows, dtype=object)
        columns[CELL_PROBLEMS] = pd.Series(list(problems), dtype=object)
        frame = pd.DataFrame(columns)
        frame.attrs[SOURCES] = {name: one.column for name, one in matches.items()}
        return frame
