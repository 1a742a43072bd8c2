"""A look at every file of a source before long work begins, so that all that cannot be read are named at once."""

from collections.abc import Callable, Iterator
from typing import IO

from vqscale.data.archives import damage_named, forward_stream, is_archive
from vqscale.data.decoding import BINARY, Decoder, not_text, require_encoding
from vqscale.data.files import SourceFile, unreadable
from vqscale.data.records import json_line
from vqscale.data.signatures import HEAD
from vqscale.data.sources import FileSource, Format
from vqscale.data.times import LogClock
from vqscale.errors import CorpusError

_LARGEST_PACKED = 256 << 20
"""Bytes of an archive above which its members are not examined: a compressed tar has to be unpacked for that."""
_RECORDS = 100


def examine(
    source: FileSource, files: list[SourceFile], report: Callable[[int], None], *, by_time: bool, most: float
) -> None:
    """Raise CorpusError that names every file of which the beginning cannot be read as the source's options say.

    `most`: the share of records that may lack a text. `report` is called with the bytes of the files examined.
    """
    require_encoding(source.encoding)
    if source.errors != "strict" and source.encoding == BINARY:
        raise CorpusError(f"errors: {source.errors!r} has no meaning for --encoding binary. Leave it out.")
    problems: list[str] = []
    kinds: set[Format] = set()
    unseen, seen = False, 0
    done = 0
    for file in files:
        report(done)
        done += file.size
        if is_archive(file.path) and file.size > _LARGEST_PACKED:
            unseen = True
            continue
        try:
            with damage_named(file.path), file.open() as raw:
                for name, stream in source.members(file, raw):
                    seen += 1
                    kinds.add(source.format_of(name))
                    problems += _problems(source, name, stream, by_time, most)
        except CorpusError as error:
            problems.append(str(error))
    if problems:
        raise CorpusError(unreadable(problems, max(seen, len(files))))
    report(done)
    if kinds == {"text"} and not unseen:
        _refuse_columns(source)


def _refuse_columns(source: FileSource) -> None:
    """Columns that are named for plain text would be ignored."""
    for option in ("text_column", "time_column"):
        column = getattr(source, option)
        if column != getattr(FileSource, option):
            raise CorpusError(
                f"{option}: {column!r} names a column, but {source.uri} is read as plain text, by its name. "
                "Set --format jsonl, json, csv or parquet, or leave the column out."
            )


def _problems(source: FileSource, name: str, stream: IO[bytes], by_time: bool, most: float) -> Iterator[str]:
    kind = source.format_of(name)
    if by_time and kind != "text" and source.time_column is None:
        yield f"time_column: {name} holds records. Name the column of their time with --time-column."
        return
    try:
        if kind == "parquet":
            _examine_parquet(source, name, stream)
        else:
            _examine_text(source, kind, name, stream.read(HEAD), by_time, most)
    except CorpusError as error:
        yield str(error)


def _examine_parquet(source: FileSource, name: str, stream: IO[bytes]) -> None:
    """The schema, where it can be read without unpacking the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not stream.seekable():
        return
    try:
        schema = pq.ParquetFile(stream).schema_arrow
    except pa.ArrowException as error:
        raise CorpusError(f"source: {name} is no readable Parquet file ({error}).") from error
    source.columns.check_schema(name, schema)


def _examine_text(source: FileSource, kind: Format, name: str, head: bytes, by_time: bool, most: float) -> None:
    if wrong := not_text(name, head, source.encoding):
        raise CorpusError(f"source: {name} {wrong[0]}. {wrong[1]}, or leave it out.")
    if source.encoding == BINARY or not head:
        return
    is_whole = len(head) < HEAD
    text = Decoder(source.encoding, source.errors).head(name, head, is_whole)
    if kind == "text" and by_time:
        LogClock().start(text, name)
    elif kind == "jsonl":
        _examine_lines(source, name, text, is_whole, most)
    elif kind in ("csv", "tsv") and (is_whole or b"\n" in text):
        next(source.records(kind, name, forward_stream(iter([text])), Decoder("utf-8")), None)


def _examine_lines(source: FileSource, name: str, text: bytes, is_whole: bool, most: float) -> None:
    """The first records: none may be damaged, and one at least must have the column."""
    lines = text.decode("utf-8").removeprefix("\ufeff").split("\n")
    decoder = Decoder("utf-8", source.errors)
    found = [
        json_line(f"{name} line {number}", line, source.columns, decoder)
        for number, line in enumerate(lines[:_RECORDS] if is_whole else lines[: min(_RECORDS, len(lines) - 1)], start=1)
        if line.strip()
    ]
    faults = [fault for record in found if (fault := source.fault(record))]
    if faults and source.errors != "skip":
        raise CorpusError(faults[0])
    if found and all(record.lacks_column for record in found) and most < 1:
        raise CorpusError(
            f"text_column: {found[0].place} {found[0].lack}, and no other of its first {len(found):,} records has it. "
            "Name the column with --text-column."
        )
