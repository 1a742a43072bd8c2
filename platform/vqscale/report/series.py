"""Curves drawn from tables, for both kinds of figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from vqscale.report.compare import finished
from vqscale.report.style import architecture, count, present

MOST_POSITIONS = 8
SIZE = ["preset", "tokens"]
"""What runs must share to be compared by position."""


@dataclass(frozen=True, kw_only=True)
class Series:
    label: str
    x: Sequence[float]
    y: Sequence[float]


def positions(table: pd.DataFrame) -> list[Series]:
    """Loss by position of every architecture, codebook and context at one size and horizon; at most eight.

    The size and horizon at which most of them were trained: curves of unequal models would compare their sizes.
    """
    if "loss_by_position" not in table:
        return []
    runs = finished(table)
    runs = runs[[bool(present_list(value)) for value in runs["loss_by_position"]]]
    if runs.empty:
        return []
    keys = ["arch", "codebook_size", "context"]
    best = _same_size(runs.sort_values("loss").drop_duplicates([*SIZE, *keys]), keys)
    ordered = best.sort_values(["context", "arch", "codebook_size"], ascending=False)
    return [_position_series(row) for _, row in ordered.head(MOST_POSITIONS).iterrows()]


def _same_size(runs: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """The runs of the size and horizon with most variants; of equals, the one with the lowest loss."""
    groups = [group for _, group in runs.groupby(SIZE, dropna=False)]
    return max(groups, key=lambda group: (len(group.drop_duplicates(keys)), -group["loss"].min()))


def present_list(value: Any) -> list[dict[str, float]]:
    return value if isinstance(value, list) else []


def _position_series(row: "pd.Series[Any]") -> Series:
    parts = [architecture(row["arch"])]
    if present(row["codebook_size"]):
        parts.append(f"S {int(row['codebook_size'])}")
    parts.append(f"T {int(row['context'])} ({row['preset']}, D {count(row['tokens'])})")
    pieces = present_list(row["loss_by_position"])
    middles = [(piece["start"] + piece["end"]) / 2 for piece in pieces]
    return Series(label=", ".join(parts), x=middles, y=[piece["nats"] for piece in pieces])
