"""Documents from files: text, JSON Lines, JSON, tables and Parquet, plain or compressed, at any fsspec URI, in constant
memory.

A source gives *pieces*: at most one MiB of UTF-8 each, cut at line ends where there are any, so that a document of any
size can be streamed.
"""

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Any, Literal, NamedTuple, Protocol

from vqscale.data.archives import archive_members, damage_named, is_archive
from vqscale.data.decoding import PIECE, Decoder, Errors, require_encoding
from vqscale.data.files import Pick, SourceFile, list_files, unreadable
from vqscale.data.records import (
    Columns,
    Record,
    json_records,
    jsonl_records,
    parquet_records,
    table_records,
)
from vqscale.data.shards import SplitName
from vqscale.data.times import moment
from vqscale.errors import CorpusError

Format = Literal["auto", "text", "jsonl", "json", "csv", "tsv", "parquet"]
SplitRule = Literal["document-hash", "contiguous", "time", "own"]

_SUFFIXES: dict[str, Format] = {
    **dict.fromkeys((".jsonl", ".ndjson", ".jsonlines"), "jsonl"),
    ".json": "json",
    **dict.fromkeys((".csv", ".tsv", ".tab", ".psv"), "csv"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
}


_READ_AFTER_AN_ERROR = 1 << 30
"""Bytes of files that are read after one that cannot be, to name all of those at once."""


class LeftOut(NamedTuple):
    """A record that is no document of the corpus. `unreadable`: it is damaged, rather than without a text."""

    unreadable: bool
    reason: str


class Piece(NamedTuple):
    """A part of a document.

    `last`: the document ends with it. `split`: the source's own split. `read`: source bytes so far. `time`: of the
    document, if it has one. `bad_bytes`: how many were no text, and replaced or skipped. `left_out`: this is no part of
    a document, but says that a record was left out.
    """

    data: bytes
    last: bool
    split: SplitName | None = None
    read: int = 0
    time: float | None = None
    bad_bytes: int = 0
    left_out: LeftOut | None = None


class Source(Protocol):
    """Documents in a fixed order: every call of `pieces()` gives the same."""

    @property
    def split_rule(self) -> SplitRule:
        """How this source is split unless the user sets another rule."""
        ...

    @property
    def counts_words(self) -> bool:
        """Whether words and lines are counted: for corpora whose results are reported per word."""
        ...

    def describe(self) -> str:
        """A description in one line."""
        ...

    def files(self) -> list[SourceFile]:
        """The files that will be read; CorpusError where there are none."""
        ...

    def identity(self) -> dict[str, Any]:
        """Everything that the text depends on, as JSON: another identity means another corpus."""
        ...

    def pieces(self) -> Iterator[Piece]: ...


@dataclass(frozen=True, kw_only=True)
class FileSource:
    """A file, a folder (all files below it, sorted, without hidden ones) or a glob; archives are opened.

    `errors` says what becomes of bytes that are no text and, if it is "skip", leaves out records that cannot be read.
    """

    uri: str
    format: Format = "auto"
    text_column: str = "text"
    time_column: str | None = None
    encoding: str = "utf-8"
    errors: Errors = "strict"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    apart: str | None = None
    """A folder that is not read: where the corpus goes, which may be inside of the source."""
    split: SplitName | None = None
    split_rule: SplitRule = "document-hash"
    counts_words: bool = False

    def describe(self) -> str:
        return self.uri

    @cached_property
    def pick(self) -> Pick:
        return Pick(self.include, self.exclude)

    @cached_property
    def columns(self) -> Columns:
        return Columns(self.text_column, self.time_column)

    def files(self) -> list[SourceFile]:
        return [file for file in list_files(self.uri, self.pick) if not self._is_apart(file)]

    def _is_apart(self, file: SourceFile) -> bool:
        return self.apart is not None and file.path.startswith(f"{self.apart}/")

    def identity(self) -> dict[str, Any]:
        options = [self.format, self.text_column, self.time_column, self.encoding, self.errors, self.split]
        picked = [list(self.include), list(self.exclude)]
        return {"files": [file.identity() for file in self.files()], "options": options, "picked": picked}

    def format_of(self, name: str) -> Format:
        if self.format != "auto":
            return self.format
        return _SUFFIXES.get(posixpath.splitext(name)[1].lower(), "text")

    def members(self, file: SourceFile, raw: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
        """The members of one file that are read; a plain file is its only one."""
        for name, stream in archive_members(file.path, raw):
            if not is_archive(file.path) or self.pick.wants(name[file.root :]):
                yield name, stream

    def pieces(self) -> Iterator[Piece]:
        require_encoding(self.encoding)
        done = 0
        files = self.files()
        for number, file in enumerate(files):
            try:
                yield from self._pieces_of(file, done)
            except CorpusError as error:
                reasons = [str(error), *self._reasons(files[number + 1 :])]
                raise CorpusError(unreadable(reasons, len(files))) from error
            done += file.size

    def _pieces_of(self, file: SourceFile, done: int) -> Iterator[Piece]:
        """The pieces of one file; `done`: bytes of the files before it."""
        with damage_named(file.path), file.open() as raw:
            for name, stream in self.members(file, raw):
                for piece in self._documents(name, stream):
                    yield piece._replace(split=self.split, read=done + min(raw.tell(), file.size))

    def _reasons(self, files: list[SourceFile]) -> Iterator[str]:
        """Why further files cannot be read, so that one try names them all. Long sources are not read to their end."""
        left = _READ_AFTER_AN_ERROR
        for file in files:
            left -= file.size
            if left < 0:
                return
            try:
                for _ in self._pieces_of(file, 0):
                    pass
            except CorpusError as error:
                yield str(error)

    def _documents(self, name: str, stream: IO[bytes]) -> Iterator[Piece]:
        decoder = Decoder(self.encoding, self.errors)
        kind = self.format_of(name)
        if kind == "text":
            for data, last in cut(decoder.chunks(name, stream)):
                yield Piece(data, last, bad_bytes=decoder.take())
            return
        for record in self.records(kind, name, stream, decoder):
            yield from self._document(record, decoder)

    def records(self, kind: Format, name: str, stream: IO[bytes], decoder: Decoder) -> Iterator[Record]:
        if kind == "jsonl":
            return jsonl_records(name, stream, self.columns, decoder)
        if kind == "json":
            return json_records(name, stream, self.columns, decoder)
        if kind == "parquet":
            return parquet_records(name, stream, self.columns, decoder)
        return table_records(name, stream, self.columns, decoder, quoted=kind == "csv")

    def fault(self, record: Record) -> str | None:
        """Why a record cannot be read, with its place and the remedy; None if it can."""
        fault = record.fault
        if fault is None and record.text is not None and self.time_column is not None and moment(record.time) is None:
            fault = f"has no time in {self.time_column!r} that can be read"
        if fault is None:
            return None
        return f"source: {record.place} {fault}. Correct it, or leave such records out with --errors skip."

    def _document(self, record: Record, decoder: Decoder) -> Iterator[Piece]:
        if fault := self.fault(record):
            if self.errors != "skip":
                raise CorpusError(fault)
            yield Piece(b"", True, left_out=LeftOut(True, f"{record.place} {record.fault or 'has no time'}"))
        elif record.text is None:
            yield Piece(b"", True, left_out=LeftOut(False, f"{record.place} {record.lack}"))
        else:
            time = None if self.time_column is None else moment(record.time)
            bad = decoder.take()
            for data, last in cut(iter([record.text])):
                yield Piece(data, last, time=time, bad_bytes=bad)
                bad = 0


def cut(chunks: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Cut one document's chunks into (piece, whether it is the last): pieces of at most `PIECE` bytes that end after a
    line where there is one, else after a space, else after a whole character."""
    held = b""
    for chunk in chunks:
        held += chunk
        start = 0
        while len(held) - start > PIECE:
            end = _cut_point(held, start, start + PIECE)
            yield held[start:end], False
            start = end
        held = held[start:]
    yield held, True


def _cut_point(data: bytes, start: int, end: int) -> int:
    for separator in (b"\n", b" "):
        position = data.rfind(separator, start, end)
        if position >= 0:
            return position + 1
    for back in range(4):  # a UTF-8 character has at most four bytes; binary data is cut anywhere
        if data[end - back] & 0xC0 != 0x80:
            return end - back
    return end
