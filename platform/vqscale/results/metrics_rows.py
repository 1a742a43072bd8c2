"""The metric rows of a trial while it trains: one JSON object per line in the trial's folder. Loads no torch."""

import json
from collections.abc import Iterable

from vqscale import storage

Row = dict[str, float | int]
"""One row of training metrics: `step`, `tokens`, `loss`, `tokens_per_second`, ..."""


def metrics_uri(folder: str) -> str:
    """Where the rows of the trial in `folder` are."""
    return storage.join(folder, "metrics.jsonl")


def read_rows(folder: str) -> list[Row]:
    """The metric rows of a trial, oldest first; empty before its first checkpoint."""
    uri = metrics_uri(folder)
    if not storage.exists(uri):
        return []
    return [json.loads(line) for line in storage.read_text(uri).splitlines()]


def write_rows(folder: str, rows: Iterable[Row]) -> None:
    """Replace the metric rows of a trial."""
    storage.write_text(metrics_uri(folder), "".join(json.dumps(row) + "\n" for row in rows))
