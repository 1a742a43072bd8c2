"""A study's table, as Parquet or CSV at any fsspec URI.

Nested fields are JSON text in the file, in both formats, so that any tool can read the table; `read_table` turns them
back into lists and dicts. Tables from elsewhere: `vqscale.results.foreign`.
"""

import io
import json
import math
import types
import typing
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from vqscale import storage
from vqscale.errors import StorageError
from vqscale.results.own_files import read_content, replace_bytes
from vqscale.results.result import Result

if TYPE_CHECKING:  # pandas and pyarrow are loaded inside functions: planning reads records and no table
    import pandas as pd
    import pyarrow as pa

RESULT_JSON_COLUMNS = (
    *("parameter_groups", "flops_groups", "loss_by_position", "loss_by_document", "confusion", "class_names"),
    *("accuracy_by_length", "accuracy_by_distance", "versions"),
)
"""Columns that hold JSON text in the file."""
RENAMED_COLUMNS = {"trunk": "shared_prefix"}
"""Columns of tables that earlier versions wrote, by old name: `read_table` gives them their new name."""


def write_table(results: Sequence[Result], uri: str) -> None:
    """Write `results` to `uri` (.parquet or .csv), whole or not at all. An empty study gives an empty table."""
    import pyarrow.parquet as pq

    suffix = _suffix(uri)
    table = _arrow(results)
    buffer = io.BytesIO()
    if suffix == "parquet":
        pq.write_table(table, buffer)
    else:
        table.to_pandas(types_mapper=_nullable).to_csv(buffer, index=False)
    replace_bytes(uri, buffer.getvalue())


def read_table(uri: str) -> "pd.DataFrame":
    """The table at `uri` (.parquet or .csv); a missing number is NaN in the frame, missing text None.

    Raises StorageError where the file is missing or is no such table.
    """
    _suffix(uri)
    if not storage.exists(uri):
        raise StorageError(f"{uri}: no such table. Name a .parquet or .csv file, or run the study first.")
    return parse_table(uri, read_content(uri, _remedy(uri)))


def parse_table(uri: str, content: bytes) -> "pd.DataFrame":
    """The table of a file's content, as `read_table`; `uri` says which format it has."""
    import pandas as pd
    import pyarrow as pa

    suffix, data = _suffix(uri), io.BytesIO(content)
    try:
        frame = pd.read_parquet(data) if suffix == "parquet" else _read_csv(data)
        return _decode(_with_new_names(frame))
    except (ValueError, OSError, pa.ArrowException) as error:  # OSError: pyarrow's, for a damaged page
        raise StorageError(f"{uri}: not a readable {suffix} table ({error}). {_remedy(uri)}".rstrip()) from error


def _remedy(uri: str) -> str:
    """How a study's own table is made again."""
    own = uri.rsplit("/", 1)[-1] in ("results.parquet", "results.csv")
    return "If it is a study's own, `vqscale run` of the study writes it again from its records." if own else ""


def convert_table(source: str, target: str) -> None:
    """Write the table at `source` to `target`, each .parquet or .csv: every column, nested ones as JSON text.

    Integers stay integers, also where some are missing. Raises StorageError as `read_table`.
    """
    import pandas as pd

    read_table(source)
    data = io.BytesIO(storage.read_bytes(source))
    if _suffix(source) == "parquet":
        frame = pd.read_parquet(data, dtype_backend="numpy_nullable")
    else:
        frame = pd.read_csv(data, keep_default_na=False, na_values=[""], dtype_backend="numpy_nullable")
    buffer = io.BytesIO()
    if _suffix(target) == "parquet":
        frame.to_parquet(buffer, index=False)
    else:
        frame.to_csv(buffer, index=False)
    storage.write_bytes(target, buffer.getvalue())


def to_results(table: "pd.DataFrame") -> list[Result]:
    """The records of a table that `write_table` wrote, or a newer version of it.

    Raises pydantic's ValidationError on any other table.
    """
    return [Result.model_validate(_record(row)) for row in table.to_dict("records")]


def _suffix(uri: str) -> str:
    suffix = uri.rsplit(".", 1)[-1].lower()
    if suffix not in ("parquet", "csv"):
        raise StorageError(f"{uri}: a table is a .parquet or .csv file")
    return suffix


def _arrow(results: Sequence[Result]) -> "pa.Table":
    import pyarrow as pa

    schema = pa.schema([(name, _arrow_type(name)) for name in Result.model_fields])
    rows = [result.model_dump(mode="json") for result in results]
    for row in rows:
        row.update(
            {name: json.dumps(row[name], allow_nan=False) for name in RESULT_JSON_COLUMNS if row[name] is not None}
        )
    return pa.Table.from_pylist(rows, schema=schema)


def _arrow_type(name: str) -> "pa.DataType":
    import pyarrow as pa

    kind = _scalar_type(name)
    return {int: pa.int64(), float: pa.float64()}.get(kind, pa.string())


def _scalar_type(name: str) -> type:
    """The type of a field of Result without its `| None`; str for nested and literal fields."""
    annotation = Result.model_fields[name].annotation
    if isinstance(annotation, types.UnionType):
        annotation = next(kind for kind in typing.get_args(annotation) if kind is not types.NoneType)
    return annotation if annotation in (int, float) else str  # type: ignore[return-value]


def _nullable(kind: "pa.DataType") -> Any:
    """Keep integers integers in CSV, also where some are missing."""
    import pandas as pd
    import pyarrow as pa

    return pd.Int64Dtype() if pa.types.is_int64(kind) else None


def _read_csv(data: io.BytesIO) -> "pd.DataFrame":
    import pandas as pd

    known = {name: object for name in Result.model_fields if _scalar_type(name) is str}
    known |= {old: object for old, new in RENAMED_COLUMNS.items() if new in known}
    # Only an empty field is missing: pandas would otherwise read the texts "None", "NA" or "nan" as missing too.
    frame = pd.read_csv(data, keep_default_na=False, na_values=[""], dtype=known)
    for name in frame.columns.intersection(list(known)):
        frame[name] = frame[name].astype(object).where(frame[name].notna(), None)
    return frame


def _with_new_names(frame: "pd.DataFrame") -> "pd.DataFrame":
    return frame.rename(columns={old: new for old, new in RENAMED_COLUMNS.items() if new not in frame})


def _decode(frame: "pd.DataFrame") -> "pd.DataFrame":
    for name in frame.columns.intersection(list(RESULT_JSON_COLUMNS)):
        frame[name] = [json.loads(text) if isinstance(text, str) else text for text in frame[name]]
    return frame


def _record(row: dict[Any, Any]) -> dict[str, Any]:
    # A table that a newer version wrote has columns that this one does not know.
    return {str(name): _value(str(name), value) for name, value in row.items() if name in Result.model_fields}


def _value(name: str, value: Any) -> Any:
    if isinstance(value, float) and math.isnan(value):
        return None
    if name in Result.model_fields and _scalar_type(name) is int and value is not None:
        return int(value)
    return cast(object, value.item()) if hasattr(value, "item") else value
