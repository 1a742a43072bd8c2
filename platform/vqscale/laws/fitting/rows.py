"""From the rows of a table from elsewhere to its runs: copies, logged curves, and rows that no one law describes.

A law is fitted to runs, each at the end of its training. A table from elsewhere may hold a run more than once: rows
copied by a merge, a row for every logged step, a row for every evaluation set. Copies and steps before the last are
left out, and what differs at the same N and D under a column of the table is fitted apart. All of it is reported.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from vqscale.laws.fitting.conditions import Conditions, conditions_of
from vqscale.laws.fitting.run_filter import (
    IDENTITIES,
    NAMES,
    PROGRESS,
    columns_of,
    identity_column,
    numbers_of,
    plain_name,
    rows_named,
    source_of,
    split_table,
)
from vqscale.laws.io.schema import Exclusion
from vqscale.results.foreign.reading import CELL_PROBLEMS, SOURCE_ROW

if TYPE_CHECKING:
    import pandas as pd

LAST_SHARE = 0.95
"""Share of a run's tokens that its last measured loss must have reached to count as that of the run."""
COPY_DIGITS = 5
"""Significant digits of a loss from which on two runs with equal losses at one point are copies of one, whatever their
names: a chance of one in thousands for each pair."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of a table that are runs."""

    table: "pd.DataFrame"
    excluded: list[Exclusion] = field(default_factory=list)
    conditions: Conditions = field(default_factory=Conditions)
    notes: list[str] = field(default_factory=list)
    """What was done, a sentence each."""


def runs_of_table(table: "pd.DataFrame", metric: str, point: Sequence[str], split_by: Sequence[str]) -> Rows:
    """The rows of `table` that are runs. `point`: columns of N, D and C; `split_by`: columns that laws split by anyway.

    A study's own table has one row for every run and is returned as it is.
    """
    present = [column for column in point if column in table]
    if is_own(table) or metric not in table or not present:
        return Rows(table=table)
    if not table.index.is_unique:  # tables put together
        table = table.reset_index(drop=True)
    single, excluded, notes = _without_copies(table, metric, present)
    found = conditions_of(single, metric, present, split_by)
    last, earlier, curves = _last_of_runs(single, metric, present, found.columns)
    return Rows(
        table=last, excluded=[*excluded, *earlier], conditions=found, notes=[*notes, *curves, *found.descriptions]
    )


def is_own(table: "pd.DataFrame") -> bool:
    """Whether a table is that of a study."""
    return {"study", "trial_id", "corpus_fingerprint"} <= set(table) and SOURCE_ROW not in table


def _without_copies(
    table: "pd.DataFrame", metric: str, point: Sequence[str]
) -> "tuple[pd.DataFrame, list[Exclusion], list[str]]":
    """The table without rows that repeat another one."""
    text = table.drop(columns=_row_numbers(table)).astype(str)  # lists are not hashable, and NaN is not NaN
    copy_R = text.duplicated().to_numpy() | _renamed_copies(table, metric, point)
    if not copy_R.any():
        return table, [], []
    kept = table[~copy_R]
    left_out = [Exclusion(name=name, law=None, reason="repeats another row") for name in rows_named(table[copy_R])]
    return kept, left_out, [f"{len(left_out)} of {len(table)} rows repeat another row: {len(kept)} rows are left."]


def _row_numbers(table: "pd.DataFrame") -> list[Any]:
    """Columns that count rows: without a name, as `DataFrame.to_csv` writes them, and those of the reading."""
    found = [name for name in table if plain_name(name).startswith("unnamed:") or plain_name(name) in ("", "index")]
    found += [name for name in (SOURCE_ROW, CELL_PROBLEMS) if name in table]
    unnamed = SOURCE_ROW in table and "name" in table and table["name"].equals(table[SOURCE_ROW])
    return [*found, "name"] if unnamed else found


def _renamed_copies(table: "pd.DataFrame", metric: str, point: Sequence[str]) -> Any:
    """Rows that equal another one in all but their names: [R]."""
    names = [name for name in table if _names_a_row(table, name)]
    text = table.drop(columns=[*_row_numbers(table), *names]).astype(str)
    exact_R = np.array([_digits(value) >= COPY_DIGITS for value in table[metric]])
    return text.duplicated().to_numpy() & exact_R


def _names_a_row(table: "pd.DataFrame", column: Any) -> bool:
    return plain_name(column) in (*IDENTITIES, *NAMES) and bool(table[column].is_unique)


def _digits(value: Any) -> int:
    """Significant digits that a number is written with."""
    try:
        return len(f"{float(value):.12g}".split("e")[0].replace(".", "").replace("-", "").strip("0"))
    except (TypeError, ValueError):
        return 0


def _last_of_runs(
    table: "pd.DataFrame", metric: str, point: Sequence[str], conditions: Sequence[str]
) -> "tuple[pd.DataFrame, list[Exclusion], list[str]]":
    """Of every run that has rows along its training, the last row."""
    identity = identity_column(table)
    if identity is None or "shared_prefix" in table:
        return table, [], []
    progress = _progress(table, identity, point, conditions)
    if progress is None:
        return table, [], []
    keep: list[Any] = []
    cut: list[Any] = []
    for _, rows in split_table(table, [identity, *conditions]):
        own_R = numbers_of(rows, progress)
        measured_R = np.isfinite(numbers_of(rows, metric)) & np.isfinite(own_R)
        if not measured_R.any():
            keep += list(rows.index[-1:])  # left out with its reason where laws look at it
            continue
        last = int(np.flatnonzero(measured_R)[np.argmax(own_R[measured_R])])
        whole = own_R[last] >= LAST_SHARE * np.nanmax(own_R)
        (keep if whole else cut).append(rows.index[last])
    kept = table.loc[table.index.isin(keep)]
    excluded = _exclusions(table, keep, cut, metric)
    shown = source_of(table, identity)
    note = (
        f"{len(table)} rows are {table[identity].nunique()} runs by {shown}, logged along their training: the last"
        f" row of each run is kept. If every row is the end of a decay of its own, name the run as shared_prefix:"
        f" --column shared_prefix={shlex.quote(shown)}"
    )
    return kept, excluded, [note]


def _progress(table: "pd.DataFrame", identity: str, point: Sequence[str], conditions: Sequence[str]) -> str | None:
    """The column along which the rows of a run were logged; None where its rows are not steps of one training."""
    candidates = [column for column in ("tokens", "flops") if column in point]
    candidates += sorted(
        (column for column in columns_of(table) if plain_name(column) in PROGRESS),
        key=lambda one: PROGRESS.index(plain_name(one)),
    )
    keys = [identity, *conditions]
    for column in candidates:
        if any(len(list(split_table(rows, [column]))) > 1 for _, rows in split_table(table, keys)):
            return column
    return None


def _exclusions(table: "pd.DataFrame", keep: Sequence[Any], cut: Sequence[Any], metric: str) -> list[Exclusion]:
    found = []
    last, unfinished = set(keep), set(cut)
    for index, name in zip(table.index, rows_named(table), strict=True):
        if index in unfinished:
            found.append(Exclusion(name=name, law=None, reason=f"its last {metric} is not that of its last step"))
        elif index not in last:
            found.append(Exclusion(name=name, law=None, reason="rows before the last step of the run"))
    return found
