"""From a table to the runs of one fit: which runs count, how they are split, and what is left out and why."""

import hashlib
import json
import math
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vqscale.laws.forms.catalogue import Law
from vqscale.laws.io.schema import Exclusion, Where

if TYPE_CHECKING:
    import pandas as pd

RECIPE_COLUMNS = ("lr", "batch_tokens")
"""Where these vary at one point of a law, the best recipe represents the point: a law describes tuned runs."""

_LETTERS = {"codebook_size": "S", "context": "T", "tokens": "D", "parameters_non_embedding": "N", "block_length": "L"}
_ALWAYS = ("arch", "codebook_size", "context")
"""Columns that every label names."""


def names_of(table: "pd.DataFrame") -> list[str]:
    """What to call each run: its name, its id, or its row."""
    for column in ("name", "trial_id"):
        if column in table:
            return [str(value) for value in table[column]]
    return [f"row {index}" for index in table.index]


def groups_of(table: "pd.DataFrame") -> list[str] | None:
    """Which run each row belongs to, where a run has several rows; None where each row is its own.

    WSD trials of several token budgets that share a prefix share weights, data and noise up to their decays: they are
    one run, and resampling them apart would make intervals too narrow.
    """
    if "shared_prefix" in table and table["shared_prefix"].duplicated().any() and table["shared_prefix"].notna().all():
        return [str(value) for value in table["shared_prefix"]]
    for column in ("run", "trial_id"):
        if column in table and table[column].notna().all() and table[column].duplicated().any():
            return [str(value) for value in table[column]]
    return None


def usable_runs(
    table: "pd.DataFrame", law: Law, metric: str, needed: Sequence[str] = ()
) -> "tuple[pd.DataFrame, list[Exclusion]]":
    """The finished runs on which the law is defined and that have what is `needed`, and the others with reasons.

    Only `finished` runs count: a stopped run has not reached the end of its learning-rate schedule. A quadratic
    baseline has no codebook: it is no point of a law in S, and no exclusion either.
    """
    keep: list[int] = []
    excluded: list[Exclusion] = []
    for index, (name, (_, row)) in enumerate(zip(names_of(table), table.iterrows(), strict=True)):
        if "codebook_size" in law.axes and _missing(row["codebook_size"]):
            continue
        reason = _unusable(row, [metric, *law.axes, *needed])
        if reason:
            status = "status" in row and row["status"] != "finished"
            excluded.append(Exclusion(name=name, law=None if status else law.name, reason=reason))
        else:
            keep.append(index)
    return table.iloc[keep], excluded


def usual_form(table: "pd.DataFrame") -> "pd.DataFrame":
    """The runs of architectures in their usual form, without ablations.

    A sliding-window transformer always names its width as a variant: that is no ablation.
    """
    if "variant" not in table:
        return table
    return table[table["variant"].isna() | (table["arch"] == "transformer_window")]


def split_table(table: "pd.DataFrame", columns: Sequence[str]) -> "Iterator[tuple[Where, pd.DataFrame]]":
    """The table split by those of `columns` that it has. A missing value is a value like any other."""
    present = [column for column in columns if column in table]
    if not present:
        yield {}, table
        return
    key = [tuple(_plain(value) for value in row) for row in table[present].itertuples(index=False, name=None)]
    for values in sorted(set(key), key=repr):  # by text: mixed types and None have no order of their own
        yield dict(zip(present, values, strict=True)), table[[row == values for row in key]]


def subset_label(where: Where, table: "pd.DataFrame") -> str:
    """Label of the subset `where`: architecture, S and T always, other columns only where their values differ."""
    parts = []
    for column, value in where.items():
        if value is None or not (column in _ALWAYS or _distinguishes(column, where, table)):
            continue
        shown = _in_millions(value) if column == "tokens" else f"{value:,}" if isinstance(value, int | float) else value
        parts.append(str(value) if column == "arch" else f"{_LETTERS.get(column, column)} {shown}")
    return ", ".join(parts) or "all runs"


def _in_millions(tokens: str | int | float) -> str:
    """A token budget in millions, with all its digits where millions would round it."""
    millions = float(tokens) / 1e6
    return f"{millions:g} M" if float(f"{millions:g}") == millions else f"{float(tokens):,.0f}"


def _distinguishes(column: str, where: Where, table: "pd.DataFrame") -> bool:
    """Whether a column distinguishes subsets that the other columns do not."""
    if column == "segment" and where["segment"] == where.get("context"):
        return False
    if column in ("d_model", "n_layer") and where.get("preset"):
        return False
    return bool(table[column].nunique() > 1)


def best_recipe(table: "pd.DataFrame", law: Law, metric: str) -> "tuple[pd.DataFrame, list[Exclusion]]":
    """Of runs that differ only in the recipe (and the seed), those of the recipe with the lowest mean loss."""
    recipe = [column for column in RECIPE_COLUMNS if column in table]
    if not recipe or (table[recipe].nunique(dropna=False) <= 1).all():
        return table, []
    keep: list[Hashable] = []
    excluded: list[Exclusion] = []
    for _, point in split_table(table, law.axes):
        best, *rest = sorted(split_table(point, recipe), key=lambda pair: float(pair[1][metric].mean()))
        keep.extend(best[1].index)
        for _, other in rest:
            reason = f"a better recipe exists at this point ({subset_label(best[0], point)})"
            excluded += [Exclusion(name=name, law=law.name, reason=reason) for name in names_of(other)]
    return table.loc[keep], excluded


def lower_envelope(table: "pd.DataFrame", axis: str, metric: str) -> "pd.DataFrame":
    """The runs that no run at the same or a lower `axis` matches: the compute-efficient frontier, where `axis` is C."""
    # Strictly below: of two equal losses the cheaper run stays.
    ordered = table.sort_values([axis, metric], kind="stable")
    best_before = ordered[metric].cummin().shift(fill_value=np.inf)
    return ordered[ordered[metric] < best_before]


def data_hash(table: "pd.DataFrame", columns: Sequence[str]) -> str:
    """sha256 of the named columns, the same for a table read from Parquet and from CSV."""
    present = [column for column in columns if column in table]
    # Plain values, so that a column with gaps (floats in CSV) hashes like the integers in Parquet.
    rows = [[_plain(value) for value in row] for row in table[present].itertuples(index=False, name=None)]
    return hashlib.sha256(json.dumps([present, rows], allow_nan=False).encode()).hexdigest()


def _unusable(row: "pd.Series[Any]", columns: Sequence[str]) -> str:
    if "status" in row and row["status"] != "finished":
        return str(row["status"])
    for column in columns:
        if _missing(row[column]):
            return f"{column} is missing"
        if not (isinstance(row[column], int | float | np.number) and 0 < float(row[column]) < math.inf):
            return f"{column} is {row[column]!r}, not a positive number"
    return ""


def _missing(value: Any) -> bool:
    import pandas as pd

    return value is None or bool(pd.isna(value))


def _plain(value: Any) -> str | int | float | None:
    """A Python value; a whole float becomes an int, so that 64.0 (a column with gaps) and 64 are one codebook size."""
    if isinstance(value, str):
        return value
    if _missing(value):
        return None
    number = float(value)
    if math.isinf(number):
        return str(number)
    return int(value) if number.is_integer() else number


def rows_of(table: "pd.DataFrame", where: Where) -> "pd.DataFrame":
    """The rows of a subset."""
    for column, value in where.items():
        if column in table:
            table = table[table[column].isna() if value is None else table[column] == value]
    return table
