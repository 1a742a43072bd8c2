"""Runs that differ in one thing only, at equal compute or at equal tokens, and how much equal runs differ."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from vqscale.laws.fitting.points import SAME_POINT
from vqscale.reporting.charts.style import present
from vqscale.reporting.compare import EQUAL_COMPUTE

AT_EQUAL = {"compute": "flops", "tokens": "tokens"}
_FIXED = (
    *("corpus_fingerprint", "evaluation_text", "arch", "variant", "head", "d_model", "n_layer", "preset"),
    *("block_length", "precision"),
)
_VARIED = ("codebook_size", "context")
POINT = (*_FIXED, *_VARIED, "parameters_non_embedding", "tokens", "lr", "batch_tokens", "segment")
"""Columns in which runs agree that differ in nothing but the seed."""

Equal = Literal["compute", "tokens"]


@dataclass(frozen=True, kw_only=True)
class EqualGroup:
    """Finished runs of one model that differ in one column, at equal compute or tokens."""

    equal: Equal
    arch: str
    size: str
    """Preset, or width and depth."""
    level: float
    """Median FLOPs or tokens of its runs."""
    values: list[float]
    """Of the column that varies, ascending."""
    losses: list[float]
    """Means over seeds."""
    runs: list["pd.DataFrame"]
    """The rows behind every loss."""

    @property
    def best(self) -> int:
        """Place of the lowest loss."""
        return int(np.argmin(self.losses))

    @property
    def relative(self) -> list[float]:
        """Losses over the lowest, less one."""
        return [loss / min(self.losses) - 1 for loss in self.losses]


def equal_groups(runs: pd.DataFrame, column: str, metric: str, equal: Equal) -> list[EqualGroup]:
    """All groups in which `column` takes two values or more."""
    level = AT_EQUAL[equal]
    if runs.empty or not {column, level, "arch", metric} <= set(runs.columns):
        return []
    known = runs[runs[column].notna() & runs[level].notna()]
    others = [name for name in (*_FIXED, *_VARIED) if name != column and name in known]
    made = [
        _group(members, column, metric, equal)
        for _, rows in known.groupby(others, dropna=False, sort=False)
        if rows[column].nunique() > 1
        for members in _levels(rows, level)
        if members[column].nunique() > 1
    ]
    return sorted(made, key=lambda one: (one.arch, one.level, one.size))


def _levels(rows: pd.DataFrame, level: str) -> Iterator[pd.DataFrame]:
    """Rows within `EQUAL_COMPUTE` of the smallest of them, then the next; tokens are equal within whole updates."""
    near = EQUAL_COMPUTE if level == "flops" else SAME_POINT
    ordered = rows.sort_values(level)
    values, first = ordered[level].to_numpy(dtype=np.float64), 0
    while first < len(values):
        last = int(np.searchsorted(values, (1 + near) * values[first], side="right"))
        yield ordered.iloc[first:last]
        first = last


def _group(members: pd.DataFrame, column: str, metric: str, equal: Equal) -> EqualGroup:
    first = members.iloc[0]
    parts = [_best_recipe(rows, metric) for _, rows in members.groupby(column, sort=True)]
    size = first["preset"] if present(first.get("preset")) else f"d{first['d_model']}x{first['n_layer']}"
    return EqualGroup(
        equal=equal,
        arch=str(first["arch"]),
        size=str(size),
        level=float(members[AT_EQUAL[equal]].median()),
        values=[float(rows[column].iloc[0]) for rows in parts],
        losses=[float(rows[metric].mean()) for rows in parts],
        runs=parts,
    )


def _best_recipe(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Seeds of the recipe with the lowest mean loss, as in the fits of the laws."""
    keys = [name for name in ("lr", "batch_tokens") if name in rows]
    parts = [part for _, part in rows.groupby(keys, dropna=False)] if keys else [rows]
    return min(parts, key=lambda part: float(part[metric].mean()))


@dataclass(frozen=True, kw_only=True)
class SeedNoise:
    """Spread of runs that differ in nothing but the seed."""

    relative: float
    """Standard deviation of the log loss, pooled."""
    runs: int
    points: int


def seed_noise(runs: pd.DataFrame, metric: str) -> SeedNoise | None:
    """None where no point was trained with two seeds."""
    keys = [name for name in POINT if name in runs]
    if "seed" not in runs or not keys or metric not in runs:
        return None
    repeated = [rows for _, rows in runs.groupby(keys, dropna=False) if rows["seed"].nunique() > 1]
    freedom = sum(len(rows) - 1 for rows in repeated)
    if not freedom:
        return None
    # Pooled variance: squares within the points over the sum of their degrees of freedom.
    squares = sum(float(((np.log(rows[metric]) - np.log(rows[metric]).mean()) ** 2).sum()) for rows in repeated)
    return SeedNoise(relative=math.sqrt(squares / freedom), runs=sum(map(len, repeated)), points=len(repeated))
