"""The metric rows of a trial while it trains: one JSON object per line in the trial's folder. Loads no torch."""

import json
from collections.abc import Callable, Iterable

from vqscale import storage
from vqscale.errors import MissingFileError
from vqscale.results.own_files import DamagedFileError, json_kind, read_content, replace_text

Row = dict[str, float | int]
"""One row of training metrics: `step`, `tokens`, `loss`, `tokens_per_second`, ..."""
METRICS_FILE = "metrics.jsonl"
FAULTS_NAMED = 3
LARGEST = 2**63
"""Integers beyond it are no measurements, and overflow where they are drawn or sent."""


def metrics_uri(folder: str) -> str:
    """Where the rows of the trial in `folder` are."""
    return storage.join(folder, METRICS_FILE)


def read_rows(folder: str, warn: Callable[[str], None] | None = None, by: str = "step") -> list[Row]:
    """The metric rows of a trial in the order of `by`, each value once; empty before its first checkpoint.

    With `warn`, a damaged file is reported in a sentence that names its lines, and what can be read of it is returned.
    Without, it raises DamagedFileError. Raises StorageError where the store does not give it.
    """
    uri = metrics_uri(folder)
    try:
        rows, fault = _parse(read_content(uri), by)
    except MissingFileError:
        return []
    except DamagedFileError as error:
        rows, fault = [], error.fault
    if fault:
        damaged = DamagedFileError(uri, fault)
        if warn is None:
            raise damaged
        warn(f"{damaged} {len(rows)} of its rows can be read.")
    return rows


def write_rows(folder: str, rows: Iterable[Row]) -> None:
    """Replace the metric rows of a trial."""
    replace_text(metrics_uri(folder), "".join(json.dumps(row) + "\n" for row in rows))


def _parse(content: bytes, by: str) -> tuple[list[Row], str]:
    """Rows in the order of `by`, and what is wrong with the file, if anything."""
    rows: dict[int, Row] = {}
    faults: list[str] = []
    last = 0
    for number, line in enumerate(content.splitlines(), 1):
        try:
            row = _row(line, by)
        except (ValueError, RecursionError) as error:
            faults.append(f"line {number}: {error}")
            continue
        step = int(row[by])
        if step in rows:
            faults.append(f"line {number}: {by} {step} once more; the first one counts")
        elif step < last:
            faults.append(f"line {number}: {by} {step} after {last}")
        rows.setdefault(step, row)
        last = max(last, step)
    more = f"; {len(faults)} faults in all" if len(faults) > FAULTS_NAMED else ""
    return [rows[step] for step in sorted(rows)], "; ".join(faults[:FAULTS_NAMED]) + more


def _row(line: bytes, by: str) -> Row:
    """Raises ValueError that says what is wrong."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError("empty" if not line.strip() else "no JSON") from error
    if not isinstance(row, dict):
        raise ValueError(f"{json_kind(row)}, not an object")
    for name, value in row.items():
        if type(value) not in (int, float) or (type(value) is int and abs(value) > LARGEST):
            raise ValueError(f"{name} is no number")
    for name in (by, "tokens"):
        if not isinstance(row.get(name), int) or row[name] < 1:
            raise ValueError(f"{name} is missing" if name not in row else f"{name} is no whole number above 0")
    return row
