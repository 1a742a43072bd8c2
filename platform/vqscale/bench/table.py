"""The table of a throughput measurement: its columns, its files, and what follows from it."""

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vqscale import storage
from vqscale.results.table import read_table

PARQUET = "throughput.parquet"
CSV = "throughput.csv"
BASELINES = ("transformer_full", "transformer")
_FINGERPRINT = b"vqscale.fingerprint"


class Row(NamedTuple):
    """One architecture at one T. What was not measured is None."""

    arch: str
    head: str | None
    preset: str
    parameters_non_embedding: int
    context: int
    batch: int
    tokens_per_second: float | None
    """Median of the repeats; `_low` and `_high` are the slowest and the fastest of them."""
    tokens_per_second_low: float | None
    tokens_per_second_high: float | None
    peak_memory_bytes: int | None
    """Bytes of tensors alive at the peak of one update."""
    device: str
    threads: int
    precision: str
    repeats: int
    status: str
    """"ok" or "out of memory"."""


_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("arch", "head", "preset")),
        *((name, pa.int64()) for name in ("parameters_non_embedding", "context", "batch")),
        *((f"tokens_per_second{end}", pa.float64()) for end in ("", "_low", "_high")),
        *(("peak_memory_bytes", pa.int64()), ("device", pa.string()), ("threads", pa.int64())),
        *(("precision", pa.string()), ("repeats", pa.int64()), ("status", pa.string())),
    ]
)
assert _SCHEMA.names == list(Row._fields)


def as_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """The rows as a table with the types that reading it back gives."""
    table: pd.DataFrame = pa.Table.from_pylist([row._asdict() for row in rows], schema=_SCHEMA).to_pandas()
    return table


def write(table: pd.DataFrame, folder: str, fingerprint: str) -> None:
    """Write both files to `folder`; the Parquet file knows which measurement it holds."""
    arrow = pa.Table.from_pandas(table, schema=_SCHEMA, preserve_index=False)
    buffer = io.BytesIO()
    pq.write_table(arrow.replace_schema_metadata({_FINGERPRINT: fingerprint.encode()}), buffer)
    csv = arrow.to_pandas(types_mapper=lambda kind: pd.Int64Dtype() if pa.types.is_int64(kind) else None)
    storage.write_text(storage.join(folder, CSV), csv.to_csv(index=False))
    storage.write_bytes(storage.join(folder, PARQUET), buffer.getvalue())


def stored(folder: str, fingerprint: str | None = None) -> pd.DataFrame | None:
    """The table in `folder`, or None: where there is none, or it holds another measurement than `fingerprint`.

    Raises StorageError for a file that is no table.
    """
    uri = storage.join(folder, PARQUET)
    if not storage.exists(uri):
        return None
    table = read_table(uri)
    metadata: dict[bytes, bytes] = pq.read_schema(io.BytesIO(storage.read_bytes(uri))).metadata or {}
    if fingerprint is not None and metadata.get(_FINGERPRINT) != fingerprint.encode():
        return None
    return table


def ratios(table: pd.DataFrame) -> pd.DataFrame:
    """VQ against each baseline: columns context, baseline, speed_ratio and memory_ratio, both above 1 in VQ's favour.

    Ratios of medians of one run. A pair of which one ran out of memory has no row.
    """
    ran = {(row["arch"], row["context"]): row for row in table[table["status"] == "ok"].to_dict("records")}
    rows: list[dict[str, Any]] = []
    for context in sorted({context for _, context in ran}):
        ours = ran.get(("transformer_vq", context))
        for baseline in BASELINES:
            theirs = ran.get((baseline, context))
            if ours and theirs:
                speed = ours["tokens_per_second"] / theirs["tokens_per_second"]
                memory = theirs["peak_memory_bytes"] / ours["peak_memory_bytes"]
                rows.append({"context": context, "baseline": baseline, "speed_ratio": speed, "memory_ratio": memory})
    return pd.DataFrame(rows, columns=["context", "baseline", "speed_ratio", "memory_ratio"])
