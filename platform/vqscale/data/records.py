"""Records of JSON Lines, JSON, separated tables and Parquet: the text of one column, and its time if one is named.

A column is a name or a path: `event.message` is the member `message` of `event`, `messages.0.content` takes the first
entry of a list. A column whose own name has dots comes first.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import IO, Any, NamedTuple, TextIO

from vqscale.data.archives import forward_stream, seekable
from vqscale.data.decoding import PIECE, Decoder, without_mark
from vqscale.errors import CorpusError

MOST_RECORD = 1 << 28
"""Characters of one record at most: it is held in memory, and a file without line ends would fill it."""
_SHOWN_NAMES = 30


class Record(NamedTuple):
    """One record. `fault`: why it cannot be read. Neither `text` nor `fault`: it has no text (`lack` says how)."""

    place: str
    text: bytes | None = None
    fault: str | None = None
    lack: str = ""
    lacks_column: bool = False
    time: object = None


@dataclass(frozen=True)
class Columns:
    """The column of the text, and that of the time if it is needed."""

    text: str
    time: str | None = None

    @property
    def options(self) -> Iterator[tuple[str, str]]:
        """(option that names it, column) of each."""
        yield "text_column", self.text
        if self.time is not None:
            yield "time_column", self.time

    def check_schema(self, name: str, schema: Any) -> list[list[str | int]]:
        """The paths of the columns in a Parquet file; CorpusError if one is missing or the text's is no text."""
        paths = [parquet_path(name, schema, column, option) for option, column in self.options]
        _require_text(name, schema, paths[0], self.text)
        return paths

    @cached_property
    def steps(self) -> frozenset[str]:
        """Every name on the way to a value."""
        return frozenset(step for _, column in self.options for step in (column, *column.split(".")))


class _Missing:
    """A column that a record does not have."""


MISSING = _Missing()


def lookup(value: Any, path: str) -> Any:
    """The value at `path` in nested objects and lists, or MISSING. A name with dots comes before a path."""
    if isinstance(value, list):
        index, _, rest = path.partition(".")
        if not (index.isascii() and index.isdigit() and len(index) < 10) or int(index) >= len(value):
            return MISSING
        return lookup(value[int(index)], rest) if rest else value[int(index)]
    if not isinstance(value, dict):
        return MISSING
    if path in value:
        return value[path]
    end = path.rfind(".")
    while end > 0:
        found = lookup(value[path[:end]], path[end + 1 :]) if path[:end] in value else MISSING
        if found is not MISSING:
            return found
        end = path.rfind(".", 0, end)
    return MISSING


def leaf_names(value: Any, prefix: str = "") -> Iterator[str]:
    """The paths of all values of an object."""
    for name, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from leaf_names(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def named(names: Iterable[str]) -> str:
    """Names in one line, long ones and long lists cut."""
    short = [name if len(name) <= 60 else f"{name[:57]}..." for name in names]
    more = f" and {len(short) - _SHOWN_NAMES:,} more" if len(short) > _SHOWN_NAMES else ""
    return (", ".join(short[:_SHOWN_NAMES]) or "no columns") + more


def _remedy(option: str) -> str:
    return f"Name the column with --{option.replace('_', '-')}."


def _text_lines(name: str, text: TextIO) -> Iterator[str]:
    while line := text.readline(MOST_RECORD + 1):
        if len(line) > MOST_RECORD:
            raise CorpusError(
                f"source: {name} has a line of more than {MOST_RECORD:,} characters. If it holds no records by line, "
                "set --format text."
            )
        yield line


def _opened(name: str, stream: IO[bytes], decoder: Decoder, newline: str) -> TextIO:
    chunks = without_mark(decoder.chunks(name, stream))
    return io.TextIOWrapper(forward_stream(chunks), "utf-8", newline=newline)


# JSON


def jsonl_records(name: str, stream: IO[bytes], columns: Columns, decoder: Decoder) -> Iterator[Record]:
    """One record a line; blank lines are allowed."""
    yield from _jsonl(name, _text_lines(name, _opened(name, stream, decoder, "\n")), columns, decoder)


def _jsonl(name: str, lines: Iterable[str], columns: Columns, decoder: Decoder) -> Iterator[Record]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield json_line(f"{name} line {number}", line, columns, decoder)


def json_line(place: str, line: str, columns: Columns, decoder: Decoder) -> Record:
    """The record of one line of JSON."""
    # The C scanner finds names repeated in one object only with a slow hook: used where one occurs twice in the line.
    repeated = any(line.count(f'"{step}"') > 1 for step in columns.steps)
    try:
        value = (_decoder(_Pairs(columns)) if repeated else _DECODER).decode(line)
    except json.JSONDecodeError as error:
        return Record(place, fault=f"is not JSON ({error.msg} at character {error.pos + 1})")
    except RecursionError:
        return Record(place, fault="is nested too deeply to be read")
    except _RepeatedNameError as error:
        return Record(place, fault=f"has {error.args[0]!r} twice in one object")
    return json_record(place, value, columns, decoder)


class _RepeatedNameError(ValueError):
    """An object has a column twice: which one is meant is unknown."""


@dataclass(frozen=True)
class _Pairs:
    columns: Columns

    def __call__(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            for name in sorted(self.columns.steps):
                if names.count(name) > 1:
                    raise _RepeatedNameError(name)
        return found


def _decoder(hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> json.JSONDecoder:
    """Whole numbers become floats: none is needed, and Python refuses to read one of 5,000 digits."""
    return json.JSONDecoder(parse_int=float, object_pairs_hook=hook)


_DECODER = _decoder()
_KINDS = {
    dict: "an object",
    list: "a list",
    str: "a text",
    bool: "true or false",
    float: "a number",
    type(None): "null",
}


def json_record(place: str, value: Any, columns: Columns, decoder: Decoder) -> Record:
    """The record of a parsed value."""
    if not isinstance(value, dict):
        hint = " (a file that is one list is read with --format json)" if isinstance(value, list) else ""
        return Record(place, fault=f"is {_KINDS[type(value)]}, not an object{hint}")
    text = lookup(value, columns.text)
    if text is MISSING:
        lack = f"has no {columns.text!r}; it has {named(leaf_names(value))}"
        return Record(place, lack=lack, lacks_column=True)
    if text is None:
        return Record(place, lack=f"has null in {columns.text!r}")
    if not isinstance(text, str):
        return Record(place, fault=f"has {_KINDS[type(text)]} in {columns.text!r}, not text")
    encoded = decoder.encode(text)
    if encoded is None:
        return Record(place, fault="holds half of a surrogate pair, which is no valid text")
    return Record(place, encoded, time=None if columns.time is None else lookup(value, columns.time))


def json_records(name: str, stream: IO[bytes], columns: Columns, decoder: Decoder) -> Iterator[Record]:
    """The records of a `.json` file: a list of objects, objects one after the other, or JSON Lines."""
    text = _opened(name, stream, decoder, "\n")
    lines = _text_lines(name, text)
    blank, head = 0, ""
    for head in lines:
        if head.strip():
            break
        blank += 1
    if isinstance(_parsed(head), dict):
        yield from _jsonl(name, chain([""] * blank, [head], lines), columns, decoder)
        return
    for number, value in enumerate(_values(name, head, text), start=1):
        yield json_record(f"{name} record {number}", value, columns, decoder)


def _parsed(line: str) -> Any:
    try:
        return _DECODER.decode(line)
    except (ValueError, RecursionError):
        return None


def _values(name: str, buffer: str, text: TextIO) -> Iterator[Any]:
    """The entries of one list, or the values one after the other; a value at a time is in memory."""
    buffer = buffer.lstrip()
    in_list, number = buffer.startswith("["), 0
    at = 1 if in_list else 0
    while True:
        at = _past_separators(buffer, at)
        ended = in_list and buffer[at : at + 1] == "]"
        value, end = (None, -1) if ended or at == len(buffer) else _scan(buffer, at, f"{name} record {number + 1}")
        if end >= 0 and end < len(buffer):
            number, at = number + 1, end
            yield value
            continue
        complete = end == len(buffer)
        more = text.read(max(PIECE, len(buffer) - at))
        buffer, at = buffer[at:] + more, 0
        if len(buffer) > MOST_RECORD:
            raise CorpusError(f"source: {name} record {number + 1} has more than {MOST_RECORD:,} characters.")
        if not more:
            yield from _last_value(name, buffer, number, in_list, [value] if complete else [])
            return


def _past_separators(buffer: str, at: int) -> int:
    while at < len(buffer) and buffer[at] in " \t\r\n,":
        at += 1
    return at


def _scan(buffer: str, at: int, place: str) -> tuple[Any, int]:
    """The value at `at` and its end; -1 if it is not complete, or not JSON."""
    try:
        return _DECODER.raw_decode(buffer, at)
    except json.JSONDecodeError:
        return None, -1
    except RecursionError as error:
        raise CorpusError(f"source: {place} is nested too deeply to be read. Leave it out.") from error


def _last_value(name: str, rest: str, number: int, in_list: bool, last: list[Any]) -> Iterator[Any]:
    """What the end of the file holds: the last value, the end of the list, or something that is not JSON."""
    if last and not in_list:
        yield from last
    elif rest.strip() != ("]" if in_list else ""):
        raise CorpusError(
            f"source: {name} is not JSON from record {number + 1} on: {rest.strip()[:40]!r}. What follows cannot be "
            "found, so it cannot be skipped: correct the file, or leave it out."
        )


# Separated tables

SEPARATORS = (",", ";", "\t", "|")
_ONE_COLUMN = "\x1f"
_LONGEST_CELL = MOST_RECORD


class _Quoted(csv.excel):
    strict = True  # a quote that is never closed would take in the rest of the file


class _Unquoted(csv.excel):
    quoting = csv.QUOTE_NONE


def table_records(
    name: str, stream: IO[bytes], columns: Columns, decoder: Decoder, *, quoted: bool
) -> Iterator[Record]:
    """The rows of a table with a header. `quoted`: cells may be in quotes, and hold separators and line ends then.

    The separator is a comma, semicolon, tab or bar, by the header; a table without quotes is separated by tabs.
    """
    lines = _text_lines(name, _opened(name, stream, decoder, ""))
    header, before = "", -1
    separator = "\t" if not quoted else None
    for header in lines:
        before += 1
        if header[:4].lower() == "sep=" and len(header.strip()) == 5:  # a hint that Excel writes
            separator = header[4]
        elif header.strip():
            break
    else:
        return
    separator = separator or find_separator(header, columns.text)
    csv.field_size_limit(_LONGEST_CELL)
    form = _Quoted if quoted else _Unquoted
    rows = csv.reader(chain([header], lines), form(), delimiter=separator)
    yield from _rows(name, rows, before, columns, decoder)


def find_separator(header: str, column: str) -> str:
    """The separator of a header: one with which `column` is among its names, else the most frequent one."""
    splits = {separator: header_names(header, separator) for separator in SEPARATORS}
    splits = {separator: names for separator, names in splits.items() if len(names) > 1}
    fitting = {separator: names for separator, names in splits.items() if column in names} or splits
    return max(fitting, key=lambda separator: len(fitting[separator]), default=_ONE_COLUMN)


def header_names(header: str, separator: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([header], delimiter=separator), [])]


def _rows(name: str, rows: Any, before: int, columns: Columns, decoder: Decoder) -> Iterator[Record]:
    """The rows of an open table whose header is on line `before + 1`."""
    try:
        names = [cell.strip() for cell in next(rows)]
    except csv.Error as error:
        raise CorpusError(f"source: {name} has no readable header ({error}). Correct it.") from error
    places = {column: _position(name, names, column, option) for option, column in columns.options}
    while True:
        place = f"{name} line {before + rows.line_num + 1}"
        try:
            row = next(rows, None)
        except csv.Error as error:
            hint = f"; {_PLAIN_QUOTES}" if rows.dialect.delimiter == "\t" else ""
            yield Record(place, fault=f"is no row of a table ({error}{hint})")
            continue
        if row is None:
            return
        if row:
            yield _row(place, row, names, columns, places, decoder)


_PLAIN_QUOTES = "if quotes are plain text there, set --format tsv"


def _position(name: str, names: list[str], column: str, option: str) -> int:
    if names.count(column) != 1:
        times = "no" if column not in names else f"{names.count(column)} columns"
        raise CorpusError(
            f"{option}: {name} has {times} {column!r}; its header names {named(names)}. {_remedy(option)}"
        )
    return names.index(column)


def _row(
    place: str, row: list[str], names: list[str], columns: Columns, places: dict[str, int], decoder: Decoder
) -> Record:
    if len(row) < len(names) or any(row[len(names) :]):  # empty cells at the end of a row are harmless
        return Record(place, fault=f"has {len(row)} cells, the header {len(names)}: is its text in quotes?")
    text = row[places[columns.text]]
    time = row[places[columns.time]] if columns.time else None
    return Record(place, decoder.encode(text), time=time)


# Parquet


def parquet_records(name: str, stream: IO[bytes], columns: Columns, decoder: Decoder) -> Iterator[Record]:
    """The rows of a Parquet file, read a few at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with seekable(stream) as whole:
        try:
            table = pq.ParquetFile(whole)
            wanted = columns.check_schema(name, table.schema_arrow)
            row = 0
            for batch in table.iter_batches(batch_size=256, columns=[str(path[0]) for path in wanted]):
                values = [_values_at(batch, path) for path in wanted]
                encoding = _encoding(values[0].type)
                texts = _as_bytes(values[0])
                times = values[1].to_pylist() if columns.time else [None] * len(texts)
                for text, time in zip(texts, times, strict=True):
                    row += 1
                    yield _parquet_record(f"{name} row {row}", text, time, columns, decoder, encoding)
        except pa.ArrowException as error:
            raise CorpusError(f"source: {name} is no readable Parquet file ({error}).") from error


def parquet_path(name: str, schema: Any, column: str, option: str) -> list[str | int]:
    """The way to `column`: a top-level name, then members of structs and indices of lists. CorpusError if none."""
    found = _descend(schema, column)
    if found is None:
        raise CorpusError(
            f"{option}: {name} has no {column!r}; it has {named(parquet_names(schema))}. {_remedy(option)}"
        )
    if schema.names.count(found[0]) > 1:
        raise CorpusError(f"{option}: {name} has {schema.names.count(found[0])} columns {found[0]!r}. Rename one.")
    return found


def _descend(fields: Any, path: str) -> list[str | int] | None:
    """`fields`: a schema, or the type of a column."""
    import pyarrow as pa

    kind = fields if isinstance(fields, pa.DataType) else None
    if kind is not None and _is_list(kind):
        index, _, rest = path.partition(".")
        if not (index.isascii() and index.isdigit() and len(index) < 10):
            return None
        inner = _descend(kind.value_type, rest) if rest else []
        return None if inner is None else [int(index), *inner]
    if kind is not None and not pa.types.is_struct(kind):
        return None
    members = {field.name: field.type for field in fields}
    if path in members:
        return [path]
    end = path.rfind(".")
    while end > 0:
        inner = _descend(members[path[:end]], path[end + 1 :]) if path[:end] in members else None
        if inner is not None:
            return [path[:end], *inner]
        end = path.rfind(".", 0, end)
    return None


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return any(test(kind) for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def parquet_names(fields: Any, prefix: str = "") -> Iterator[str]:
    """The paths of all columns, members of structs included."""
    import pyarrow as pa

    for field in fields:
        if pa.types.is_struct(field.type):
            yield from parquet_names(field.type, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


def _require_text(name: str, schema: Any, path: list[str | int], column: str) -> None:
    import pyarrow as pa

    kind = schema.field(path[0]).type
    for step in path[1:]:
        kind = kind.field(step).type if isinstance(step, str) else kind.value_type
    kind = kind.value_type if pa.types.is_dictionary(kind) else getattr(kind, "storage_type", kind)
    if not (_is_text(kind) or pa.types.is_null(kind)):
        raise CorpusError(
            f"text_column: {name} holds {kind} in {column!r}, not text; it has {named(parquet_names(schema))}. "
            "Name the column with --text-column."
        )


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    tests = ("is_string", "is_large_string", "is_string_view", "is_binary", "is_large_binary", "is_binary_view")
    return any(getattr(pa.types, test)(kind) for test in tests)


def _values_at(batch: Any, path: list[str | int]) -> Any:
    """The values at `path`. Taken by name: `columns=["a.b"]` reads the column of that name and member b of a."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = batch.column(batch.schema.get_field_index(path[0]))
    for step in path[1:]:
        if isinstance(step, str):
            values = pc.struct_field(values, [step])  # null where the struct is
        else:  # list_element refuses rows that are shorter; a slice of fixed size has nulls there
            single = pc.list_slice(values, step, step + 1, return_fixed_size_list=True)
            values = pc.list_element(single, 0)
    values = getattr(values, "storage", values)
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def _encoding(kind: Any) -> str | None:
    """Strings of Parquet are in UTF-8 by its rules; bytes are in the encoding that the user names."""
    import pyarrow as pa

    binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    return None if binary else "utf-8"


def _as_bytes(values: Any) -> list[bytes | None]:
    """Texts as bytes: pyarrow trusts the writer that they are UTF-8, and `to_pylist` of wrong ones raises."""
    import pyarrow as pa

    texts: list[bytes | None] = values.cast(pa.large_binary()).to_pylist()
    return texts


def _parquet_record(
    place: str, text: bytes | None, time: object, columns: Columns, decoder: Decoder, encoding: str | None
) -> Record:
    if text is None:
        return Record(place, lack=f"has null in {columns.text!r}")
    decoded = decoder.decode(text, encoding)
    if decoded is None:
        return Record(place, fault=f"has bytes in {columns.text!r} that are not {encoding or 'in the encoding'}")
    return Record(place, decoded, time=time)
