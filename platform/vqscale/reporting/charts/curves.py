"""Training curves of a study's trials, thinned for a page."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from vqscale import storage
from vqscale.reporting.compare import finished

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


def training_curves(home: str, table: pd.DataFrame) -> list[TrainingCurve]:
    """Of every finished trial of the table whose record of metrics lies in the study's folder."""
    if "trial_id" not in table:
        return []
    found = (_read(home, str(trial_id)) for trial_id in finished(table)["trial_id"])
    return [curve for curve in found if curve is not None]


def _read(home: str, trial_id: str) -> TrainingCurve | None:
    uri = storage.join(home, "trials", trial_id, "metrics.jsonl")
    if not storage.exists(uri):
        return None
    rows = [json.loads(line) for line in storage.read_text(uri).splitlines() if line]
    rows = [row for row in rows if row.get("loss") is not None]
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


def _means(rows: list[dict[str, Any]]) -> Iterator[dict[str, float]]:
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
