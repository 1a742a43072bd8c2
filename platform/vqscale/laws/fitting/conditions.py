"""Columns of a table from elsewhere whose values no single law describes: evaluation sets, tokenizers, optimisers.

Two rows at the same N and D differ by the seed, by the recipe, of which the best represents the point, or by something
that shifts the whole law. The last kind is recognised in two ways: by its name, where a column holds text, and by its
effect, where the losses at the same points differ by the value of a column far beyond their scatter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vqscale.laws.fitting.points import levels
from vqscale.laws.fitting.run_filter import (
    PROGRESS,
    SEED_NAMES,
    columns_of,
    identity_column,
    is_continuous,
    numbers_of,
    plain_name,
    recipe_columns,
    rounding_of,
)
from vqscale.laws.forms.catalogue import Array

if TYPE_CHECKING:
    import pandas as pd

CONDITION_NAMES = (
    *("dataset", "dataset_name", "data", "data_name", "corpus", "corpus_name", "train_data", "training_data", "mix"),
    *("eval_set", "evalset", "eval_data", "eval_dataset", "evaluation", "evaluation_set", "eval", "validation_set"),
    *("val_set", "test_set", "split", "task", "benchmark", "domain", "subset", "language", "lang", "metric"),
    *("metric_name", "architecture", "model_type", "model_family", "family", "model_class", "attention", "optimizer"),
    *("optimiser", "tokenizer", "tokeniser", "scheduler", "lr_schedule", "lr_scheduler", "precision", "dtype"),
)
"""Columns of text that always split a table."""
STATUS_NAMES = ("status", "state")
LARGEST_P = 1e-3
"""Chance at most that seeds alone would make the losses of a column's values differ as they do."""
ROWS_PER_VALUE = 3
"""Rows that a column has for each of its values, at least: measured columns have a value of their own in every row."""
MOST_SHOWN = 4
MIXED_SHARE = 0.5
"""Share of the variance of the log loss that lies within points, from which on a table is not fitted: no law in the
point's coordinates explains the other half."""
MIXED_POINTS = 3
"""Points with several rows, at least, before they are judged."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Columns that split a table, and sentences that say so."""

    columns: tuple[str, ...] = ()
    descriptions: tuple[str, ...] = ()


def conditions_of(table: "pd.DataFrame", metric: str, point: Sequence[str], split_by: Sequence[str]) -> Conditions:
    """The columns of `table` that split it. `point`: those of N, D and C; `split_by`: those that split it anyway."""
    cell_R = _cells(table, [*point, *recipe_columns(table), *(name for name in split_by if name in table)])
    chosen: list[str] = []
    along: dict[str, list[str]] = {}
    for column in _candidates(table, metric, point, split_by):
        value_R = _codes(table[column])
        goes_with = next((one for one in chosen if _determines(_codes(table[one]), value_R)), None)
        if goes_with is not None:
            if not table[column].astype(str).equals(table[goes_with].astype(str)):  # no second name of one column
                along.setdefault(goes_with, []).append(column)
        elif _named(table, column) or _shifts(table, metric, value_R, cell_R):
            chosen.append(column)
            cell_R = _codes_of_pairs(cell_R, value_R)
    return Conditions(
        columns=tuple(chosen),
        descriptions=tuple(_description(table, column, along.get(column, [])) for column in chosen),
    )


def _description(table: "pd.DataFrame", column: str, along: Sequence[str]) -> str:
    values = sorted({str(value) for value in table[column].dropna()})
    more = f" and {len(values) - MOST_SHOWN} more" if len(values) > MOST_SHOWN else ""
    with_it = f"; {', '.join(along)} changes with it" if along else ""
    return (
        f"Each {column} ({', '.join(values[:MOST_SHOWN])}{more}{with_it}) is fitted on its own."
        " --group names other columns to split by."
    )


def _candidates(table: "pd.DataFrame", metric: str, point: Sequence[str], split_by: Sequence[str]) -> list[str]:
    """Columns with a few values, each in several rows, that are neither a quantity of a law nor a recipe, nor names."""
    taken = {metric, *point, *split_by, *recipe_columns(table), identity_column(table)}
    found = []
    for column in columns_of(table):
        name = plain_name(column)
        if column in taken or is_continuous(column) or name in (*SEED_NAMES, *STATUS_NAMES, *PROGRESS):
            continue
        values = len(np.unique(_codes(table[column])))
        if 2 <= values <= len(table) / ROWS_PER_VALUE:
            found.append(column)
    return sorted(found, key=lambda column: not _named(table, column))  # named ones first, otherwise in table order


def _named(table: "pd.DataFrame", column: str) -> bool:
    text = table[column].dropna()
    return plain_name(column) in CONDITION_NAMES and bool(len(text)) and not _is_numeric(text)


def _is_numeric(values: "pd.Series[Any]") -> bool:
    return values.dtype.kind in "iuf"


def _shifts(table: "pd.DataFrame", metric: str, value_R: NDArray[np.intp], cell_R: NDArray[np.intp]) -> bool:
    """Whether losses in the same cell differ by the value, beyond their scatter: an F-test of the values' means.

    Log losses and indicators of the values are centred in every cell, so that only differences inside cells count.
    """
    loss_R = _positive(table, metric)
    known_R = np.isfinite(loss_R)
    value_R, cell_R = (np.unique(one[known_R], return_inverse=True)[1] for one in (value_R, cell_R))
    log_R = np.log(loss_R[known_R])
    present_RV = (value_R[:, None] == np.arange(1, value_R.max(initial=0) + 1)).astype(np.float64)
    x_RV, y_R = _centred(present_RV, cell_R), _centred(log_R[:, None], cell_R)[:, 0]
    inside_R = np.abs(x_RV).sum(axis=1) > 0  # rows whose cell holds several values
    cells = len(np.unique(cell_R[inside_R]))
    rank = int(np.linalg.matrix_rank(x_RV)) if x_RV.size else 0
    free = int(inside_R.sum()) - cells - rank
    if cells < MIXED_POINTS or rank == 0 or free < 1:
        return False
    from scipy.stats import f as fisher

    x_RV, y_R = x_RV[inside_R], y_R[inside_R]
    fitted_R = x_RV @ np.linalg.lstsq(x_RV, y_R, rcond=None)[0]
    explained, left = float(fitted_R @ fitted_R), float((y_R - fitted_R) @ (y_R - fitted_R))
    if left <= 1e-12 * explained:
        return explained > 0
    return bool(fisher.sf(explained / rank / (left / free), rank, free) < LARGEST_P)


def mixed_rows(table: "pd.DataFrame", metric: str, point: Sequence[str]) -> str:
    """Why the rows at one point cannot be those of one law; empty where they may be."""
    cell_R = _cells(table, point)
    log_R = np.log(_positive(table, metric))
    inside_R = _centred(log_R[:, None], cell_R)[:, 0]
    rows = np.bincount(cell_R)
    total = float(np.sum((log_R - log_R.mean()) ** 2))
    share = float(inside_R @ inside_R) / total if total > 0 else 0.0
    if int((rows > 1).sum()) < MIXED_POINTS or share < MIXED_SHARE:
        return ""
    spread = max(np.exp(np.ptp(log_R[cell_R == cell])) - 1 for cell in np.flatnonzero(rows > 1))
    text = f"rows at one point differ by up to {100 * spread:.0f} % in {metric}, more than the points do"
    differing = _differing(table, metric, point, cell_R)
    if not differing:
        return f"{text}, and no column says why: keep one row for every run"
    return f"{text}, and differ in {', '.join(differing)} too: fit them apart with --group {differing[0]}"


def _differing(table: "pd.DataFrame", metric: str, point: Sequence[str], cell_R: NDArray[np.intp]) -> list[str]:
    """Columns with a few values that differ inside points."""
    named = [
        column for column in _candidates(table, metric, point, ()) if not _determines(cell_R, _codes(table[column]))
    ]
    return named[:MOST_SHOWN]


def _cells(table: "pd.DataFrame", columns: Sequence[str]) -> NDArray[np.intp]:
    """Number of the cell of every row: rows of one cell are equal in all `columns`, quantities within a tolerance."""
    cell_R = np.zeros(len(table), dtype=np.intp)
    for column in columns:
        if is_continuous(column) and _is_numeric(table[column]):
            own_R = np.empty(len(table), dtype=np.intp)
            for cell in np.unique(cell_R):
                rows = np.flatnonzero(cell_R == cell)
                own_R[rows] = _levels(table.iloc[rows], column)
        else:
            own_R = _codes(table[column])
        cell_R = _codes_of_pairs(cell_R, own_R)
    return cell_R


def _levels(table: "pd.DataFrame", column: str) -> NDArray[np.intp]:
    return levels(table[column].to_numpy(dtype=np.float64), rounding_of(table, column))


def _codes(values: "pd.Series[Any]") -> NDArray[np.intp]:
    """Number of every value; a missing value is one of its own."""
    return np.unique(values.astype(str).to_numpy(dtype=str), return_inverse=True)[1]


def _codes_of_pairs(first_R: NDArray[np.intp], second_R: NDArray[np.intp]) -> NDArray[np.intp]:
    return np.unique(np.stack([first_R, second_R]), axis=1, return_inverse=True)[1].reshape(-1)


def _determines(first_R: NDArray[np.intp], second_R: NDArray[np.intp]) -> bool:
    """Whether the second code is a function of the first."""
    return len(np.unique(_codes_of_pairs(first_R, second_R))) == len(np.unique(first_R))


def _centred(columns_RV: Array, cell_R: NDArray[np.intp]) -> Array:
    """The columns less their mean in every cell."""
    sums = np.zeros((int(cell_R.max(initial=0)) + 1, columns_RV.shape[1]))
    np.add.at(sums, cell_R, columns_RV)
    return np.asarray(columns_RV - (sums / np.maximum(np.bincount(cell_R, minlength=len(sums)), 1)[:, None])[cell_R])


def _positive(table: "pd.DataFrame", column: str) -> Array:
    """The column's numbers, NaN where one is missing or not positive."""
    found = numbers_of(table, column)
    return np.where(np.isfinite(found) & (found > 0), found, np.nan)
