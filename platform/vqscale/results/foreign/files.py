"""The cells of a table file as they are: CSV with any usual separator, JSON, JSON Lines, Parquet, also compressed."""

import bz2
import csv
import gzip
import io
import json
import lzma
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from vqscale.errors import StorageError

TEXT = ("csv", "tsv", "txt")
JSON = ("json", "jsonl", "ndjson")
SUFFIXES = (*TEXT, *JSON, "parquet")
"""Of tables that are read; text and JSON also behind `.gz`, `.bz2` or `.xz`."""
_OPENERS = {"gz": gzip.decompress, "bz2": bz2.decompress, "xz": lzma.decompress}
_BOMS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_SEPARATORS = (",", ";", "\t", "|")
_BLANKS = " "
"""Any number of blanks, where no other separator cuts the lines: the usual one of numpy.savetxt."""
_RULE = re.compile(r"\s*(?::?-{2,}:?|:-:)\s*")
_SAMPLE = 50
"""Lines by which a separator is recognised."""
_LONGEST_CELL = 2**31 - 1
_CONTAINERS = ("summary", "config", "summary_metrics")
"""Columns in which the table that Weights & Biases' export recipe writes holds a Python mapping as text."""


@dataclass(frozen=True, kw_only=True)
class RawTable:
    """Columns of cells, each text or what JSON and Parquet hold; None: nothing."""

    columns: dict[str, list[Any]]
    rows: list[str]
    """Where every row is in the file: `line 5`."""
    separator: str = ","
    notes: list[str] = field(default_factory=list)
    """What was left out or taken for something, as sentences."""


def suffix_of(uri: str) -> str | None:
    """The kind of table that a name says, one of `SUFFIXES`; None where it says none."""
    parts = uri.rsplit("/", 1)[-1].lower().split(".")
    if parts[-1] in _OPENERS:
        parts = parts[:-1]
    return parts[-1] if len(parts) > 1 and parts[-1] in SUFFIXES else None


def without_suffix(uri: str) -> str:
    """`runs` of runs.csv and of runs.csv.gz."""
    stem = uri.rsplit(".", 1)[0] if uri.lower().rsplit(".", 1)[-1] in _OPENERS else uri
    return stem.rsplit(".", 1)[0]


def own_columns(uri: str, data: bytes) -> set[str]:
    """The columns of a .parquet file, or of a .csv file with commas; none where there is neither."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = uri.lower()
    if name.endswith(".parquet"):
        try:
            return set(pq.read_schema(io.BytesIO(data)).names)
        except (pa.ArrowException, OSError):
            return set()
    first = re.split(rb"[\r\n]", data, maxsplit=1)[0].decode("utf-8", errors="replace") if name.endswith(".csv") else ""
    return set(first.replace('"', "").split(","))


def parse_file(uri: str, data: bytes) -> RawTable:
    """The cells of a file with one of `SUFFIXES`. Raises StorageError for one that holds no table."""
    kind = suffix_of(uri)
    try:
        if kind == "parquet":
            return _from_parquet(data)
        text = _decoded(uri, _unpacked(uri, data))
        table = _from_text(text, kind or "csv") if kind in TEXT else _from_json(text, lines=kind != "json")
    except (ValueError, OSError, csv.Error, RecursionError) as error:  # OSError: pyarrow's, for a damaged page
        raise StorageError(f"{uri}: not a readable table ({error})") from error
    if not table.rows:
        raise StorageError(f"{uri}: the table has no rows")
    return _unfolded(table)


def _unpacked(uri: str, data: bytes) -> bytes:
    opener = _OPENERS.get(uri.lower().rsplit(".", 1)[-1])
    try:
        return opener(data) if opener else data
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise StorageError(f"{uri}: cannot be unpacked ({error})") from error


def _decoded(uri: str, data: bytes) -> str:
    encoding = next((name for mark, name in _BOMS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise StorageError(
            f"{uri}: is no UTF-8 text ({error.reason} at byte {error.start}). Save it as UTF-8."
        ) from None


def _from_text(text: str, kind: str) -> RawTable:
    lines = io.StringIO(text, newline="").readlines()
    skipped = 0
    declared = re.fullmatch(r"sep=(.)\s*", lines[0]) if lines else None  # how Excel is told the separator
    if declared:
        skipped = 1
    while skipped < len(lines) and (not lines[skipped].strip() or lines[skipped].startswith("#")):
        skipped += 1
    body = lines[skipped:]
    if not body:
        raise ValueError("it is empty")
    separator = declared[1] if declared else _separator(body, kind)
    if skipped and lines[skipped - 1].startswith("#"):  # a comment, or a header as numpy.savetxt writes it
        named = lines[skipped - 1]
        named = named if "#" in named[1:] else named.lstrip("# ")
        if len(_cells(named, separator)) == len(_cells(body[0], separator)) > 1:
            body, skipped = [named, *body], skipped - 1
    records = _records(body, separator, skipped)
    number, header = next(records)
    if sum(_is_number(cell) for cell in header) > len(header) / 2:
        raise ValueError(f"line {number} is no header: it holds numbers. Name the columns in the first line")
    return _rectangular([cell.strip() for cell in header], list(records), separator)


def _records(lines: Sequence[str], separator: str, skipped: int) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of every record that is neither blank nor a rule."""
    if separator == _BLANKS:
        yield from ((skipped + start, line.split()) for start, line in enumerate(lines, start=1) if line.strip())
        return
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
        start = 1
        for cells in reader:
            if separator == "|" and len(cells) > 2 and not cells[0].strip() and not cells[-1].strip():
                cells = cells[1:-1]  # Markdown
            if any(cell.strip() for cell in cells) and not all(_RULE.fullmatch(cell) for cell in cells):
                yield skipped + start, cells
            start = reader.line_num + 1
    finally:
        csv.field_size_limit(before)


def _cells(line: str, separator: str) -> list[str]:
    return line.split() if separator == _BLANKS else line.split(separator)


def _separator(lines: Sequence[str], kind: str) -> str:
    """The separator that cuts header and rows into the same number of cells, most of them."""
    if kind == "tsv":
        return "\t"
    sample = lines[:_SAMPLE]
    if len(lines) > _SAMPLE and sample[-1].count('"') % 2:
        sample = sample[:-1]
    best, found = (0, 0), ","
    for separator in _SEPARATORS:
        widths = [len(cells) for cells in csv.reader(sample, delimiter=separator) if any(cells)]
        if not widths or widths[0] < 2:
            continue
        agreeing = sum(width == widths[0] for width in widths)
        best, found = max((best, found), ((agreeing, widths[0]), separator))
    blanks = {len(line.split()) for line in sample if line.strip()}
    return _BLANKS if best[0] == 0 and len(blanks) == 1 and blanks != {1} else found


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _rectangular(header: list[str], records: list[tuple[int, list[str]]], separator: str) -> RawTable:
    """The records as columns; rows of another width than the header's are left out and named."""
    width = len(header)
    if records and all(len(cells) == width + 1 for _, cells in records):
        if all(not cells[-1].strip() for _, cells in records):  # a separator at the end of every row
            records = [(number, cells[:-1]) for number, cells in records]
        else:  # R's write.table: the column of row names has no header
            header, width = ["", *header], width + 1
    wrong = [(number, len(cells)) for number, cells in records if len(cells) != width]
    kept = [(number, cells) for number, cells in records if len(cells) == width]
    notes = []
    if wrong:
        hint = " A number with commas needs quotes where commas separate cells."
        hint = hint if separator == "," and any(count > width for _, count in wrong) else ""
        named = ", ".join(f"line {number} ({count})" for number, count in wrong[:3])
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        text = f"{named}{more}: not the {width} cells of the header.{hint}"
        if not kept:
            raise ValueError(text)
        notes.append(f"left out {text}")
    columns: dict[str, list[Any]] = {}
    for place, name in enumerate(header):
        cells = [cells[place] for _, cells in kept]
        if not name and (not any(cell.strip() for cell in cells) or place == 0):
            continue  # an index, or a separator at the end
        columns[_unique(name or f"column {place + 1}", place, columns, header)] = cells
    return RawTable(columns=columns, rows=[f"line {number}" for number, _ in kept], separator=separator, notes=notes)


def _unique(name: str, place: int, columns: dict[str, list[Any]], header: list[str]) -> str:
    """The name of a column; where the header has it twice, with its place, so that it can be named."""
    return f"{name} (column {place + 1})" if header.count(name) > 1 or name in columns else name


def _from_json(text: str, *, lines: bool) -> RawTable:
    if not lines:
        try:
            return _from_records(*_json_rows(json.loads(text)))
        except json.JSONDecodeError:
            if "\n" not in text.strip():
                raise  # otherwise JSON Lines under another name, perhaps
    rows, places, notes = [], [], []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
            places.append(f"line {number}")
        else:
            notes.append(f"line {number}")
    if not rows:
        raise ValueError("no line is a JSON object")
    more = f" and {len(notes) - 3} more" if len(notes) > 3 else ""
    left_out = [f"left out {', '.join(notes[:3])}{more}: no JSON object"] if notes else []
    return _from_records(rows, places, left_out)


def _json_rows(value: Any) -> tuple[list[dict[str, Any]], list[str], list[str]]:
    """Rows of the layouts that pandas and web tools write: records, columns, split, or records under one key."""
    if isinstance(value, dict) and isinstance(value.get("data"), list) and isinstance(value.get("columns"), list):
        value = [dict(zip(value["columns"], row, strict=True)) for row in value["data"]]
    if isinstance(value, dict):
        held = list(value.values())
        if held and all(isinstance(one, dict) for one in held):
            keys = list(dict.fromkeys(key for one in held for key in one))
            by_run = all(name.isdigit() for name in value) or not all(key.isdigit() for key in keys)
            value = held if by_run else [{name: one.get(key) for name, one in value.items()} for key in keys]
        elif held and all(isinstance(one, list) for one in held) and len({len(one) for one in held}) == 1 < len(held):
            value = [dict(zip(value, row, strict=True)) for row in zip(*held, strict=True)]
        else:
            lists = [one for one in held if isinstance(one, list) and one and isinstance(one[0], dict)]
            value = lists[0] if len(lists) == 1 else value
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise ValueError("it holds no list of objects, one for each run")
    return value, [f"row {index + 1}" for index in range(len(value))], []


def _from_records(rows: list[dict[str, Any]], places: list[str], notes: list[str]) -> RawTable:
    flat = [_flat(row) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    return RawTable(columns={name: [row.get(name) for row in flat] for name in names}, rows=places, notes=notes)


def _flat(row: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested objects as `config.n_params`."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {f"{prefix}{name}": value}
    return found


def _from_parquet(data: bytes) -> RawTable:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(str(error)) from error
    names = [name for name in table.column_names if not re.fullmatch(r"__index_level_\d+__", name)]
    columns: dict[str, list[Any]] = {}
    for place, name in enumerate(table.column_names):
        if name in names:
            columns[_unique(name.strip(), place, columns, names)] = table.column(place).to_pylist()
    return _unfolded(RawTable(columns=columns, rows=[f"row {index + 1}" for index in range(table.num_rows)]))


def _unfolded(table: RawTable) -> RawTable:
    """The table with mappings, also those written as text, as columns of their own."""
    columns: dict[str, list[Any]] = {}
    for name, cells in table.columns.items():
        folded = (
            _mappings(cells) if name.lower() in _CONTAINERS or any(isinstance(one, dict) for one in cells) else None
        )
        if folded is None:
            columns[name] = cells
            continue
        rows = [_flat(one, f"{name}.") for one in folded]
        for key in dict.fromkeys(key for row in rows for key in row):
            columns[key] = [row.get(key) for row in rows]
    return RawTable(columns=columns, rows=table.rows, separator=table.separator, notes=table.notes)


def _mappings(cells: Sequence[Any]) -> list[dict[str, Any]] | None:
    """Cells that all hold a mapping or nothing; None where one does not."""
    found = []
    for cell in cells:
        value = _mapping(cell) if isinstance(cell, str) else cell
        if not isinstance(value, dict | None):
            return None
        found.append(value or {})
    return found if any(found) else None


def _mapping(text: str) -> Any:
    """A mapping in JSON, or as Python prints one; the text itself where it is neither."""
    import ast

    if not text.strip():
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    plain = re.sub(r"(?<=[:,\[ ])(nan|-?inf)(?=[,}\]])", "None", text)
    try:
        return ast.literal_eval(plain)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text
