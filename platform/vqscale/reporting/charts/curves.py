"""Training curves of a study's trials, thinned for a page."""

import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from vqscale import storage
from vqscale.reporting.compare import finished
from vqscale.results.metrics_rows import Row, metrics_uri, read_rows

POINTS_PER_CURVE = 90
CURVES_PER_ARCHITECTURE = 40
"""More could not be distinguished."""


@dataclass(frozen=True, kw_only=True)
class TrainingCurve:
    """Training loss of one trial: `loss` are means over the steps up to `tokens`."""

    trial_id: str
    tokens: list[float]
    loss: list[float]
    """Nats per token."""
    bpb: list[float]
    """The same in bits per byte; empty where it was not recorded."""


def training_curves(home: str, table: pd.DataFrame, warn: Callable[[str], None] | None = None) -> list[TrainingCurve]:
    """Of the finished trials of the table that are drawn, as far as their records of metrics are in the study's folder.

    A damaged record is reported to `warn` and drawn as far as it can be read; without it, DamagedFileError is raised.
    """
    if "trial_id" not in table:
        return []
    curves: list[TrainingCurve] = []
    for members in by_architecture(table).values():
        found = (_read(home, row, warn) for row in spread(members).to_dict("records"))
        curves += itertools.islice((curve for curve in found if curve is not None), CURVES_PER_ARCHITECTURE)
    return curves


def by_architecture(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The finished trials of every architecture."""
    rows = finished(table)
    return {str(arch): members for arch, members in rows.groupby("arch", dropna=False)} if "arch" in rows else {}


def spread(members: pd.DataFrame) -> pd.DataFrame:
    """The trials in the order in which they are read until enough have curves: first some evenly over their training
    FLOPs, the longest one among them, then the others."""
    ordered = members.sort_values("flops").iloc[::-1]
    first = np.arange(len(ordered)) % -(-len(ordered) // CURVES_PER_ARCHITECTURE) == 0
    both: pd.DataFrame = pd.concat([ordered[first], ordered[~first]])
    return both


def _read(home: str, run: Mapping[Hashable, Any], warn: Callable[[str], None] | None) -> TrainingCurve | None:
    folder = storage.join(home, "trials", str(run["trial_id"]))
    rows = read_rows(folder, warn, by="tokens")
    if warn and rows and rows[-1]["tokens"] < run.get("tokens", 0):  # cut at the end of a line
        warn(f"{metrics_uri(folder)}: its metrics end at {rows[-1]['tokens']} of {run['tokens']} tokens.")
    rows = [row for row in rows if "loss" in row]
    if len(rows) < 2:
        return None
    thinned = list(_means(rows))
    has_bpb = all(row.get("bpb") is not None for row in rows)
    return TrainingCurve(
        trial_id=str(run["trial_id"]),
        tokens=[piece["tokens"] for piece in thinned],
        loss=[piece["loss"] for piece in thinned],
        bpb=[piece["bpb"] for piece in thinned] if has_bpb else [],
    )


def _means(rows: list[Row]) -> Iterator[dict[str, float]]:
    """Means of successive rows, so that at most `POINTS_PER_CURVE` remain; `tokens` are the last ones."""
    width = -(-len(rows) // POINTS_PER_CURVE)
    for start in range(0, len(rows), width):
        piece = rows[start : start + width]
        means = {
            key: sum(row[key] for row in piece) / len(piece)
            for key in ("loss", "bpb")
            if all(row.get(key) is not None for row in piece)
        }
        yield means | {"tokens": float(piece[-1]["tokens"])}
