"""Training curves of a study's trials, thinned for a page."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd

from vqscale import storage
from vqscale.reporting.compare import finished
from vqscale.results.metrics_rows import Row, read_rows

POINTS_PER_CURVE = 90


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
    """Of every finished trial of the table whose record of metrics lies in the study's folder.

    A damaged record is reported to `warn` and drawn as far as it can be read; without it, DamagedFileError is raised.
    """
    if "trial_id" not in table:
        return []
    found = (_read(home, str(trial_id), warn) for trial_id in finished(table)["trial_id"])
    return [curve for curve in found if curve is not None]


def _read(home: str, trial_id: str, warn: Callable[[str], None] | None) -> TrainingCurve | None:
    rows = read_rows(storage.join(home, "trials", trial_id), warn)
    rows = [row for row in rows if "loss" in row]
    if len(rows) < 2:
        return None
    thinned = list(_means(rows))
    has_bpb = all(row.get("bpb") is not None for row in rows)
    return TrainingCurve(
        trial_id=trial_id,
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
