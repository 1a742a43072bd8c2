"""Documents from files: text, JSON Lines and Parquet, plain or compressed, at any fsspec URI, in constant memory.

A source gives *pieces*: at most one MiB of UTF-8 each, cut at line ends where there are any, so that a document of any
size can be streamed.
"""

import codecs
import io
import json
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, Literal, NamedTuple, Protocol

import fsspec

from vqscale import storage
from vqscale.data.archives import archive_members, damage_named, forward_stream, is_hidden, seekable
from vqscale.data.shards import SplitName
from vqscale.errors import CorpusError

PIECE = 1 << 20
BINARY = "binary"
"""The `encoding` that takes bytes as they are."""

Format = Literal["auto", "text", "jsonl", "parquet"]
SplitRule = Literal["document-hash", "contiguous", "own"]

_JSONL = {".jsonl", ".ndjson", ".jsonlines"}
_PARQUET = {".parquet", ".pq"}


class Piece(NamedTuple):
    """A part of a document. `last`: the document ends with it. `split`: the source's own split. `read`: source bytes so
    far."""

    data: bytes
    last: bool
    split: SplitName | None = None
    read: int = 0


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

    def files(self) -> list["SourceFile"]:
        """The files that will be read; CorpusError where there are none."""
        ...

    def identity(self) -> dict[str, Any]:
        """Everything that the text depends on, as JSON: another identity means another corpus."""
        ...

    def pieces(self) -> Iterator[Piece]: ...


@dataclass(frozen=True)
class SourceFile:
    """One file of a source; `stamp` changes when its content does."""

    fs: fsspec.AbstractFileSystem
    path: str
    size: int
    stamp: str

    def identity(self) -> list[str | int]:
        return [self.path, self.size, self.stamp]


@dataclass(frozen=True, kw_only=True)
class FileSource:
    """A file, a folder (all files below it, sorted, without hidden ones) or a glob; archives are opened."""

    uri: str
    format: Format = "auto"
    text_column: str = "text"
    encoding: str = "utf-8"
    split: SplitName | None = None
    split_rule: SplitRule = "document-hash"
    counts_words: bool = False

    def describe(self) -> str:
        return self.uri

    def files(self) -> list[SourceFile]:
        return list_files(self.uri)

    def identity(self) -> dict[str, Any]:
        options = [self.format, self.text_column, self.encoding, self.split]
        return {"files": [file.identity() for file in self.files()], "options": options}

    def pieces(self) -> Iterator[Piece]:
        require_encoding(self.encoding)
        done = 0
        for file in self.files():
            with damage_named(file.path), file.fs.open(file.path, "rb") as raw:
                for name, stream in archive_members(file.path, raw):
                    for data, last in self._documents(name, stream):
                        yield Piece(data, last, self.split, done + min(raw.tell(), file.size))
            done += file.size

    def _documents(self, name: str, stream: IO[bytes]) -> Iterator[tuple[bytes, bool]]:
        kind = _format(name) if self.format == "auto" else self.format
        if kind == "parquet":
            texts = parquet_texts(name, stream, self.text_column)
        elif kind == "jsonl":
            texts = _jsonl_texts(name, stream, self.text_column, self.encoding)
        else:
            yield from cut(utf8_chunks(name, stream, self.encoding))
            return
        for text in texts:
            yield from cut(iter([text]))


def _format(name: str) -> Format:
    suffix = posixpath.splitext(name)[1].lower()
    return "jsonl" if suffix in _JSONL else "parquet" if suffix in _PARQUET else "text"


def list_files(uri: str) -> list[SourceFile]:
    """The files of `uri` (a file, a folder or a glob), sorted by path; CorpusError if there are none."""
    fs, path = storage.filesystem(uri)
    fs.invalidate_cache()
    with damage_named(uri):
        if fs.isfile(path):
            found = {path: fs.info(path)}
        elif fs.isdir(path):
            found = {
                name: info for name, info in fs.find(path, detail=True).items() if not is_hidden(name[len(path) :])
            }
        else:
            found = {name: info for name, info in fs.glob(path, detail=True).items() if info["type"] == "file"}
    if not found:
        raise CorpusError(
            f"source: {uri} is no file, no folder with files and no pattern that matches any. Check the path."
        )
    return [_source_file(fs, name, found[name]) for name in sorted(found)]


def _source_file(fs: fsspec.AbstractFileSystem, path: str, info: dict[str, Any]) -> SourceFile:
    stamps = (info.get(key) for key in ("ETag", "etag", "mtime", "LastModified", "created"))
    stamp = next((str(value) for value in stamps if value is not None), "")
    return SourceFile(fs, path, int(info["size"] or 0), stamp)


def require_encoding(encoding: str) -> None:
    """Raise CorpusError unless Python has the codec `encoding`, or it is `binary`."""
    if encoding == BINARY:
        return
    try:
        "".encode(encoding)
    except LookupError as error:
        raise CorpusError(
            f"encoding: {encoding!r} is not known. Name one such as utf-8, latin-1, utf-16; or {BINARY}."
        ) from error


def utf8_chunks(name: str, stream: IO[bytes], encoding: str) -> Iterator[bytes]:
    """The text of `stream` as UTF-8; CorpusError with the byte offset where it is not in `encoding`."""
    if encoding == BINARY:
        while chunk := stream.read(PIECE):
            yield chunk
        return
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    offset = 0
    while True:
        chunk = stream.read(PIECE)
        pending = len(decoder.getstate()[0])
        try:
            yield decoder.decode(chunk, not chunk).encode("utf-8")
        except UnicodeDecodeError as error:
            raise CorpusError(
                f"encoding: {name} is not {encoding} at byte {offset - pending + error.start} ({error.reason}). "
                f"Name its real encoding with --encoding, or take its bytes as they are with --encoding {BINARY}."
            ) from error
        if not chunk:
            return
        offset += len(chunk)


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


def _jsonl_texts(name: str, stream: IO[bytes], column: str, encoding: str) -> Iterator[bytes]:
    """The text of every record; blank lines are allowed."""
    decoded = io.TextIOWrapper(forward_stream(utf8_chunks(name, stream, encoding)), "utf-8", newline="\n")
    for number, line in enumerate(decoded, start=1):
        if line.strip():
            yield _json_text(f"{name} line {number}", line, column)


def _json_text(place: str, line: str, column: str) -> bytes:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise CorpusError(f"source: {place} is not JSON ({error}). JSON Lines hold one object per line.") from error
    if not isinstance(record, dict) or column not in record:
        names = ", ".join(sorted(record)) if isinstance(record, dict) else f"a {type(record).__name__}"
        raise CorpusError(
            f"text_column: {place} has no {column!r}; it has {names}. Name the column with --text-column."
        )
    return _utf8(place, column, record[column])


def _utf8(place: str, column: str, text: object) -> bytes:
    if not isinstance(text, str):
        raise CorpusError(f"text_column: {place} holds {type(text).__name__} in {column!r}, not text.")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CorpusError(
            f"source: {place} holds half of a surrogate pair ({error.reason}), which is no valid text."
        ) from error


def parquet_texts(name: str, stream: IO[bytes], column: str) -> Iterator[bytes]:
    """The text of every row, read a few rows at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with seekable(stream) as whole:
        try:
            table = pq.ParquetFile(whole)
            if column not in table.schema_arrow.names:
                names = ", ".join(table.schema_arrow.names)
                raise CorpusError(
                    f"text_column: {name} has no {column!r}; it has {names}. Name the column with --text-column."
                )
            row = 0
            for batch in table.iter_batches(batch_size=256, columns=[column]):
                for text in batch.column(0).to_pylist():
                    row += 1
                    yield _utf8(f"{name} row {row}", column, text)
        except pa.ArrowInvalid as error:
            raise CorpusError(f"source: {name} is no readable Parquet file ({error}).") from error
