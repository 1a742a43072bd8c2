"""Curves over positions, drawn from tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from vqscale.formatting import short_count
from vqscale.reporting.charts.style import architecture, present, with_kinds
from vqscale.reporting.compare import finished

DRAWN_CURVES = 9
_COMPARED_AT = ["preset", "tokens", "corpus_fingerprint"]
"""Columns that runs must share to be compared by position; losses at positions of different text are not comparable."""


@dataclass(frozen=True, kw_only=True)
class PositionCurve:
    """Loss of one run over the positions of its context."""

    label: str
    arch: str
    size: str
    """Preset and training tokens, the same of all curves."""
    pieces: Sequence[tuple[int, int]]
    """Positions [start, end)."""
    nats: Sequence[float]
    """Mean loss of each piece, nats per token."""


def position_curves(table: pd.DataFrame) -> list[PositionCurve]:
    """Loss by position of every architecture, codebook and context at one size and token budget; at most nine.

    The size and budget at which most of them were trained: curves of unequal models would compare their sizes.
    """
    if "loss_by_position" not in table:
        return []
    runs = with_kinds(finished(table))
    runs = runs[[bool(_pieces(value)) for value in runs["loss_by_position"]]]
    if runs.empty:
        return []
    keys = ["arch", "codebook_size", "context"]
    best = _same_size(runs.sort_values("loss").drop_duplicates([*_COMPARED_AT, *keys]), keys)
    ordered = best.sort_values(["context", "arch", "codebook_size"], ascending=False)
    return [_series(row) for _, row in ordered.head(DRAWN_CURVES).iterrows()]


def _same_size(runs: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """The runs of the size and token budget with most variants; of equals, the one with the lowest loss."""
    groups = [group for _, group in runs.groupby(_COMPARED_AT, dropna=False)]
    return max(groups, key=lambda group: (len(group.drop_duplicates(keys)), -group["loss"].min()))


def _pieces(value: Any) -> list[dict[str, float]]:
    return value if isinstance(value, list) else []


def _series(row: "pd.Series[Any]") -> PositionCurve:
    codes = f", S {int(row['codebook_size'])}" if present(row["codebook_size"]) else ""
    pieces = _pieces(row["loss_by_position"])
    return PositionCurve(
        label=f"{architecture(row['arch'])}{codes}, T {int(row['context'])}",
        arch=str(row["arch"]),
        size=f"{row['preset']}, D {short_count(row['tokens'])}",
        pieces=[(int(piece["start"]), int(piece["end"])) for piece in pieces],
        nats=[piece["nats"] for piece in pieces],
    )
