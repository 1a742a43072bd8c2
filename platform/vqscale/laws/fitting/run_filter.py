"""From a table to the runs of one fit: which runs count, how they are split, and what is left out and why."""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vqscale.laws.fitting.points import LARGEST_ROUNDING, SAME_POINT, budgets_of, level_values, levels
from vqscale.laws.forms.catalogue import Array, Law
from vqscale.laws.io.schema import Exclusion, Where
from vqscale.results.foreign.reading import CELL_PROBLEMS, SOURCE_ROW, SOURCES

if TYPE_CHECKING:
    import pandas as pd

RECIPE_COLUMNS = (
    *("lr", "learning_rate", "peak_lr", "max_lr", "base_lr", "batch_tokens", "batch_size", "bs", "global_batch_size"),
    *(
        "tokens_per_batch",
        "weight_decay",
        "wd",
        "warmup",
        "warmup_steps",
        "warmup_ratio",
        "beta1",
        "beta2",
        "adam_beta1",
    ),
    *("adam_beta2", "momentum", "eps", "adam_eps", "adam_epsilon", "dropout", "grad_clip", "max_grad_norm"),
)
"""Where these vary at one point of a law, the best recipe represents the point: a law describes tuned runs. Tables from
elsewhere may name them behind a prefix, as in `params.lr` and `config.lr`."""

IDENTITIES = ("run", "run_name", "runname", "run_id", "run_uuid", "trial_id")
"""Columns that name a run: rows that share a value are of one run."""
NAMES = ("name", "display_name", "id")
"""Columns that name a row, or else a run."""
PROGRESS = ("step", "_step", "global_step", "iteration", "iter", "step_number", "epoch", "_runtime", "_timestamp")
"""Columns that grow in a run."""
SEED_NAMES = ("seed", "random_seed", "data_seed", "init_seed", "rng", "replicate", "rep", "repeat", "trial", "fold")
"""Columns that tell replicates apart."""
LOGGED_STEPS = 7
"""Distances between the rows of one name, at least, before they are taken for those of a log."""
EVEN = 0.6
"""The middle distance over the largest, at least, for rows that were logged every so many steps."""

_ROW = "_row"
"""Column that numbers the rows of a table while it is split."""

Key = tuple[str | int | float | None, ...]

_LETTERS = {"codebook_size": "S", "context": "T", "tokens": "D", "parameters_non_embedding": "N", "block_length": "L"}
_ALWAYS = ("arch", "codebook_size", "context")
"""Columns that every label names."""


def names_of(table: "pd.DataFrame") -> list[str]:
    """What to call each run: its name, its id, or its row."""
    by_name = {plain_name(column): column for column in reversed(columns_of(table))}
    for name in (*NAMES, *IDENTITIES):
        if name in by_name and table[by_name[name]].notna().all():
            return [str(value) for value in table[by_name[name]]]
    return [f"row {index}" for index in table.index]


def rows_named(table: "pd.DataFrame") -> list[str]:
    """What to call each row where it is left out: its run, and its place in a file from elsewhere."""
    names = names_of(table)
    if SOURCE_ROW not in table:
        return names
    return [name if name == row else f"{name} ({row})" for name, row in zip(names, table[SOURCE_ROW], strict=True)]


def groups_of(table: "pd.DataFrame") -> list[str] | None:
    """Which run each row belongs to, where a run has several rows; None where each row is its own.

    WSD trials of several token budgets that share a prefix share weights, data and noise up to their decays: they are
    one run, and resampling them apart would make intervals too narrow.
    """
    if "shared_prefix" in table and table["shared_prefix"].duplicated().any() and table["shared_prefix"].notna().all():
        return [str(value) for value in table["shared_prefix"]]
    column = identity_column(table)
    return None if column is None else [str(value) for value in table[column]]


def told_apart(table: "pd.DataFrame") -> bool:
    """Whether a column says which of the rows at one point are separate runs: a seed, or a name for every row."""
    for column in columns_of(table):
        unnamed = SOURCE_ROW in table and table[column].equals(table[SOURCE_ROW])
        if plain_name(column) in (*SEED_NAMES, "shared_prefix"):
            return True
        if plain_name(column) in (*NAMES, *IDENTITIES) and not unnamed and table[column].is_unique:
            return True
    return False


def identity_column(table: "pd.DataFrame") -> str | None:
    """The column that names the run of each row, where runs have several rows; None where each row is its own.

    A name alone is not enough: in a table of four sizes at ten token budgets it may be that of the model. Its rows must
    be evenly spaced along the training, as they are logged.
    """
    by_name = {plain_name(column): column for column in reversed(columns_of(table))}
    for name in (*IDENTITIES, *NAMES):
        column = by_name.get(name)
        if column is None or not table[column].notna().all() or not table[column].duplicated().any():
            continue
        of_runs = name in IDENTITIES or plain_name(source_of(table, column)) in IDENTITIES
        if _one_size_each(table, column) and (of_runs or _logged_evenly(table, column)):
            return column
    return None


def source_of(table: "pd.DataFrame", column: str) -> str:
    """What a column is called in the file that the table was read from."""
    return str(table.attrs.get(SOURCES, {}).get(column, column))


def named_column(table: "pd.DataFrame", name: str) -> str:
    """The column of the table that is called `name`, here or in its file."""
    if name in table:
        return name
    return next((own for own, source in table.attrs.get(SOURCES, {}).items() if source == name), name)


def columns_of(table: "pd.DataFrame") -> list[str]:
    """The columns of a table, all of which have text as their names."""
    return [name for name in table.columns if isinstance(name, str)]


def _one_size_each(table: "pd.DataFrame", column: str) -> bool:
    """Whether every value of the column belongs to one model size."""
    sizes = [name for name in columns_of(table) if name.startswith("parameters") and table[name].dtype.kind in "iuf"]
    return all(
        len(np.unique(levels(rows[size].to_numpy(dtype=np.float64)))) == 1
        for _, rows in table.groupby(column, sort=False)
        for size in sizes
    )


def _logged_evenly(table: "pd.DataFrame", column: str) -> bool:
    """Whether most values of the column have rows at even distances in tokens or steps."""
    along = [name for name in columns_of(table) if name == "tokens" or plain_name(name) in PROGRESS]
    if not along:
        return False
    steps = [np.diff(np.sort(numbers_of(rows, along[0]))) for _, rows in table.groupby(column, sort=False)]
    even = [len(gaps) >= LOGGED_STEPS and gaps.min() > 0 and np.median(gaps) >= EVEN * gaps.max() for gaps in steps]
    return bool(sum(even) > len(even) / 2)


def numbers_of(table: "pd.DataFrame", column: str) -> Array:
    """The column as numbers: [R]; NaN where one is none."""
    import pandas as pd

    return np.asarray(pd.to_numeric(table[column], errors="coerce"), dtype=np.float64)


def usable_runs(
    table: "pd.DataFrame", law: Law, metric: str, needed: Sequence[str] = ()
) -> "tuple[pd.DataFrame, list[Exclusion]]":
    """The finished runs on which the law is defined and that have what is `needed`, and the others with reasons.

    Only `finished` runs count: a stopped run has not reached the end of its learning-rate schedule. A quadratic
    baseline has no codebook: it is no point of a law in S, and no exclusion either.
    """
    keep: list[int] = []
    excluded: list[Exclusion] = []
    for index, (name, (_, row)) in enumerate(zip(rows_named(table), table.iterrows(), strict=True)):
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
    """The table split by those of `columns` that it has. A missing value is a value like any other.

    Sizes, token budgets, FLOPs and learning rates are equal within the tolerance of `points.levels`, among rows that
    agree in the columns before; a group is named by its middle value.
    """
    present = [column for column in columns if column in table]
    if not present:
        yield {}, table
        return
    groups: dict[Key, list[int]] = {(): list(range(len(table)))}
    for column in present:
        groups = {
            (*key, value): rows
            for key, members in groups.items()
            for value, rows in _by_value(table.iloc[members], column, members).items()
        }
    for values in sorted(groups, key=repr):  # by text: mixed types and None have no order of their own
        yield dict(zip(present, values, strict=True)), table.iloc[sorted(groups[values])]


def _by_value(table: "pd.DataFrame", column: str, rows: Sequence[int]) -> dict[str | int | float | None, list[int]]:
    """The entries of `rows`, one for each row of `table`, by the row's value in `column`."""
    values = table[column]
    if is_continuous(column) and values.dtype.kind in "iuf":
        shown = level_values(values.to_numpy(dtype=np.float64), rounding_of(table, column)).tolist()
    else:
        shown = list(values)
    found: dict[str | int | float | None, list[int]] = {}
    for row, value in zip(rows, shown, strict=True):
        found.setdefault(_plain(value), []).append(row)
    return found


def is_continuous(column: str) -> bool:
    """Whether two values of a column are equal within a tolerance, rather than exactly."""
    return column in ("tokens", "flops", "lr") or column.startswith("parameters")


def rounding_of(table: "pd.DataFrame", column: str) -> Array | None:
    """What whole updates may have moved every run's tokens or FLOPs by, relative to them; None where it is unknown."""
    if column not in ("tokens", "flops") or not {"batch_tokens", "tokens"} <= set(table):
        return None
    batch, tokens = (table[name].to_numpy(dtype=np.float64, na_value=np.nan) for name in ("batch_tokens", "tokens"))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(batch / tokens, dtype=np.float64)


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
    if column == "variant" and "arch" in table:  # beside the usual form of its architecture, which has no variant
        return bool(table.loc[table["arch"] == where.get("arch"), column].nunique(dropna=False) > 1)
    return bool(table[column].nunique() > 1)


def plain_name(column: object) -> str:
    """A column's name without the prefix of a tracker: lr of `params.lr`, `config.lr` and `train/lr`."""
    return str(column).strip().rsplit(".", 1)[-1].rsplit("/", 1)[-1].lower().replace("-", "_").replace(" ", "_")


def recipe_columns(table: "pd.DataFrame") -> list[str]:
    """The columns of the table that describe a recipe."""
    return [column for column in columns_of(table) if plain_name(column) in RECIPE_COLUMNS]


def best_recipe(table: "pd.DataFrame", law: Law, metric: str) -> "tuple[pd.DataFrame, list[Exclusion]]":
    """Of runs that differ only in the recipe (and the seed), those of the recipe with the lowest mean loss."""
    recipe = recipe_columns(table)
    if not recipe or (table[recipe].nunique(dropna=False) <= 1).all():
        return table, []
    best = np.zeros(len(table), dtype=bool)
    excluded: list[Exclusion] = []
    numbered = table.assign(**{_ROW: np.arange(len(table))})
    for _, point in split_table(numbered, law.axes):
        first, *rest = sorted(split_table(point, recipe), key=lambda pair: float(pair[1][metric].mean()))
        best[first[1][_ROW]] = True
        for _, other in rest:
            reason = f"a better recipe exists at this point ({subset_label(first[0], point)})"
            excluded += [Exclusion(name=name, law=law.name, reason=reason) for name in rows_named(other)]
    return table[best], excluded  # in the order of the table, so that resamples are those without the others


def lower_envelope(table: "pd.DataFrame", axis: str, metric: str) -> "pd.DataFrame":
    """The runs that no run at the same or a lower `axis` matches: the compute-efficient frontier, where `axis` is C.

    Of one budget only the best run stays, even where it is dearer by a few updates than the others.
    """
    ordered = table.sort_values([axis, metric], kind="stable")
    losses = ordered[metric].to_numpy(dtype=np.float64)
    kept, best = [], np.inf
    for budget in budgets_of(ordered[axis].to_numpy(dtype=np.float64)):
        lowest = int(budget[np.argmin(losses[budget])])  # of two equal losses the cheaper run
        if losses[lowest] < best:  # strictly below: of two equal losses the cheaper run stays
            kept.append(lowest)
            best = losses[lowest]
    return ordered.iloc[kept]


def data_hash(table: "pd.DataFrame", columns: Sequence[str]) -> str:
    """sha256 of the named columns, the same for a table read from Parquet and from CSV."""
    present = [column for column in columns if column in table]
    # Plain values, so that a column with gaps (floats in CSV) hashes like the integers in Parquet.
    rows = [[_plain(value) for value in row] for row in table[present].itertuples(index=False, name=None)]
    return hashlib.sha256(json.dumps([present, rows], allow_nan=False).encode()).hexdigest()


def _unusable(row: "pd.Series[Any]", columns: Sequence[str]) -> str:
    if "status" in row and row["status"] != "finished":
        return str(row["status"])
    problems = row.get(CELL_PROBLEMS, {})
    # A count of FLOPs may be absent where no law needs it, but not be wrong: budgets and hold-outs follow from it.
    counted = ["flops"] if "flops" in row and not _missing(row["flops"]) and "flops" not in columns else []
    for column in (*columns, *counted):
        if column in problems:
            return str(problems[column])
        if _missing(row[column]):
            return f"{column} is missing"
        if not (isinstance(row[column], int | float | np.number) and 0 < float(row[column]) < math.inf):
            return f"{column} is {_shown(row[column])}, not a positive number"
    return ""


def _shown(value: object) -> str:
    """A cell as people write it: 3.0 and 'text', never numpy's own form."""
    return repr(value.item() if isinstance(value, np.generic) else value)


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
            table = table[_agrees(table, column, value)]
    return table


def _agrees(table: "pd.DataFrame", column: str, value: str | int | float | None) -> "pd.Series[bool]":
    if value is None:
        return table[column].isna()
    if is_continuous(column) and not isinstance(value, str):
        rounding = rounding_of(table, column)
        near = SAME_POINT if rounding is None else np.clip(np.nan_to_num(rounding), SAME_POINT, LARGEST_ROUNDING)
        return (table[column].astype(float) / value - 1).abs() <= near
    return table[column] == value
