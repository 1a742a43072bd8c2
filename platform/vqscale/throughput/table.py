"""The table of a throughput study: its columns, its files, and the break-even lengths that follow from it."""

import io
import json
import types
import typing
from collections.abc import Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from vqscale import storage
from vqscale.errors import StorageError
from vqscale.results.table import read_table
from vqscale.study.frozen import Frozen
from vqscale.throughput.crossover import RatioPoint, crossover
from vqscale.throughput.measurement import OK

THROUGHPUT_PARQUET = "throughput.parquet"
THROUGHPUT_CSV = "throughput.csv"
BASELINES = ("transformer_full", "transformer")
LINEAR = ("transformer_vq", "longvq", "gla", "transformer_window")
"""Architectures whose time per token does not grow with T: each is compared with the baselines."""
ORDER = ("transformer_vq", *BASELINES, "longvq", "mega", "gla", "transformer_window")
"""Order of the curves on a page."""
ROUND_COLUMNS = ["preset", "context", "batching", "precision", "device_kind"]
"""Columns in which rows agree that were timed in one round."""
CURVE_COLUMNS = ["arch", "head", "codebook_size", "block_length", "backend"]
"""Columns that distinguish the curves over T of one comparison."""
COMPARISON_COLUMNS = ["preset", "batching", "precision", "device_kind"]
"""Columns in which the curves of one comparison agree."""
THROUGHPUT_JSON_COLUMNS = ("step_seconds", "process_repeats", "versions")
"""Columns that hold JSON text in the file."""


class ThroughputRow(Frozen):
    """One cell. What was not measured, or does not exist, is None."""

    study: str
    cell_id: str | None
    """Name and fingerprint of the cell, with which its record is kept; None for one that planning refused."""
    arch: str
    head: str | None
    preset: str
    codebook_size: int | None
    block_length: int | None
    backend: str | None
    """Implementation of VQ attention that ran."""
    parameters: int | None
    parameters_non_embedding: int | None
    context: int
    batch: int
    batching: str
    """How a step is filled over T: `N tokens per step`, or `batch N` sequences."""
    tokens_per_step: int
    precision: str
    device_kind: str
    device: str | None
    threads: int | None
    status: str
    """"ok", "out of memory ...", "skipped: longer than ...", or, from planning, "refused: ..."."""
    repeats: int
    processes: int | None = None
    """That measured the cell, one after another; None where nothing was measured."""
    updates_per_repeat: int | None
    tokens_per_second: float | None = None
    """Of the median repeat; `_low` and `_high` are the slowest and the fastest, `_q1` and `_q3` the quartiles."""
    tokens_per_second_low: float | None = None
    tokens_per_second_q1: float | None = None
    tokens_per_second_q3: float | None = None
    tokens_per_second_high: float | None = None
    ms_per_step: float | None = None
    seconds_per_token: float | None = None
    flops_per_token: float | None
    """Forward and backward, counted from the mathematics (`vqscale.costing.counts`)."""
    flops_per_second: float | None = None
    peak_flops: float | None
    """Highest FLOP/s of large matrix products in `precision` on `device`, measured first, in the same process."""
    mfu: float | None = None
    """`flops_per_second / peak_flops`."""
    peak_memory_bytes: int | None
    ratio_to_transformer_full: float | None = None
    """Speed over that of the baseline at the same T, of ratios within a repeat; `_low`, `_high`: where a second
    measurement by as many processes would lie (`vqscale.throughput.spread`)."""
    ratio_to_transformer_full_low: float | None = None
    ratio_to_transformer_full_high: float | None = None
    ratio_to_transformer: float | None = None
    ratio_to_transformer_low: float | None = None
    ratio_to_transformer_high: float | None = None
    price_per_device_hour: float | None = None
    currency: str | None = None
    cost_per_billion_tokens: float | None = None
    """In `currency`."""
    energy_kwh_per_billion_tokens: float | None = None
    energy_source: str | None = None
    """The counter that measured it, or the power that the study states."""
    step_seconds: list[float]
    """Seconds of one update in every repeat, process after process."""
    process_repeats: list[int] = Field(default_factory=list)
    """How many of them each process made."""
    machine: str | None
    versions: dict[str, str]
    git: str | None
    measured_at: str | None


def write_throughput_table(table: pd.DataFrame, folder: str) -> None:
    """Write both files to `folder`; they hold lists and mappings as JSON text."""
    encoded = table.assign(**{name: [json.dumps(value) for value in table[name]] for name in THROUGHPUT_JSON_COLUMNS})
    arrow = pa.Table.from_pandas(encoded, schema=_schema(), preserve_index=False)
    buffer = io.BytesIO()
    pq.write_table(arrow, buffer)
    csv = arrow.to_pandas(types_mapper=lambda kind: pd.Int64Dtype() if pa.types.is_int64(kind) else None)
    storage.write_text(storage.join(folder, THROUGHPUT_CSV), csv.to_csv(index=False))
    storage.write_bytes(storage.join(folder, THROUGHPUT_PARQUET), buffer.getvalue())


def stored_throughput_table(folder: str) -> pd.DataFrame | None:
    """The table in `folder`; None where there is none.

    Raises StorageError for a file that is no such table, or of another version.
    """
    uri = storage.join(folder, THROUGHPUT_PARQUET)
    return read_throughput_table(uri) if storage.exists(uri) else None


def read_throughput_table(uri: str) -> pd.DataFrame:
    """The table of a .parquet or .csv file. Raises StorageError where it is no table of this version.

    `batching` of earlier versions, `N tokens a step`, is read as `N tokens per step`; they measured in one process.
    """
    table = read_table(uri)
    table = _by_one_process(table)
    if missing := sorted(set(ThroughputRow.model_fields) - set(table.columns)):
        raise StorageError(
            f"{uri}: is no throughput table of this version (it lacks the column {missing[0]}). Measure again: vqscale"
            " throughput STUDY"
        )
    batching = [text.replace("tokens a step", "tokens per step") for text in table["batching"]]
    lists = {name: [json.loads(text) for text in table[name]] for name in ("step_seconds", "process_repeats")}
    return table.assign(batching=batching, **lists)


def _by_one_process(table: pd.DataFrame) -> pd.DataFrame:
    if "processes" in table or "repeats" not in table:
        return table
    counts = [[int(repeats)] if repeats else [] for repeats in table["repeats"]]
    processes = pd.Series([len(count) or None for count in counts], index=table.index, dtype="float64")
    return table.assign(processes=processes, process_repeats=[json.dumps(count) for count in counts])


def crossovers(table: pd.DataFrame) -> pd.DataFrame:
    """Break-even of every linear-time curve with every baseline: columns of COMPARISON, CURVE, baseline, crossover."""
    found: list[dict[str, Any]] = []
    ran = table[table["arch"].isin(LINEAR) & (table["status"] == OK)]
    for _, rows in ran.groupby([*COMPARISON_COLUMNS, *CURVE_COLUMNS], dropna=False, sort=False):
        own = {name: rows[name].iloc[0] for name in (*COMPARISON_COLUMNS, *CURVE_COLUMNS)}
        for baseline in BASELINES:
            at = crossover(ratio_points(rows, baseline))
            if at is not None:
                found.append({**own, "baseline": baseline, "crossover": at})
    return pd.DataFrame(found, columns=[*COMPARISON_COLUMNS, *CURVE_COLUMNS, "baseline", "crossover"])


def ratio_points(curve: pd.DataFrame, baseline: str) -> list[RatioPoint]:
    """The measured ratios of one curve to a baseline, by T."""
    name = f"ratio_to_{baseline}"
    rows = curve[curve[name].notna()].sort_values("context")
    columns = (rows[column].tolist() for column in ("context", name, f"{name}_low", f"{name}_high"))
    return [RatioPoint(int(context), ratio, low, high) for context, ratio, low, high in zip(*columns, strict=True)]


def throughput_frame(rows: Sequence[ThroughputRow]) -> pd.DataFrame:
    """The rows as a table, with the types that reading it back gives."""
    values = [row.model_dump() for row in rows]
    encoded = [value | {name: json.dumps(value[name]) for name in THROUGHPUT_JSON_COLUMNS} for value in values]
    table: pd.DataFrame = pa.Table.from_pylist(encoded, schema=_schema()).to_pandas()
    return table.assign(**{name: [value[name] for value in values] for name in THROUGHPUT_JSON_COLUMNS})


def _schema() -> pa.Schema:
    return pa.schema([(name, _arrow_type(field.annotation)) for name, field in ThroughputRow.model_fields.items()])


def _arrow_type(annotation: Any) -> pa.DataType:
    if isinstance(annotation, types.UnionType):
        annotation = next(kind for kind in typing.get_args(annotation) if kind is not types.NoneType)
    return {int: pa.int64(), float: pa.float64()}.get(annotation, pa.string())
