"""Compressed files and archives as streams of their members, in constant memory.

A file's name says how its content is read (`books.tar.xz`: xz, then tar, then every member by its own name). A damaged
file is a CorpusError that names it.
"""

import bz2
import contextlib
import gzip
import io
import lzma
import posixpath
import re
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from typing import IO, Any, cast

import zstandard

from vqscale.errors import CorpusError

_BLOCK = 1 << 17
_LONG_TAR = {".tgz": ".tar.gz", ".tbz2": ".tar.bz2", ".txz": ".tar.xz", ".tzst": ".tar.zst"}
DAMAGE = (
    OSError,
    EOFError,
    zlib.error,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zstandard.ZstdError,
    tarfile.TarError,
    zipfile.BadZipFile,
    NotImplementedError,  # a zip method that this Python cannot read
)


class ByteStream(io.RawIOBase):
    """An iterator of bytes as a stream that can only be read forwards."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._held = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self._held:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._held = memoryview(chunk)
        count = min(len(target), len(self._held))
        target[:count] = self._held[:count]
        self._held = self._held[count:]
        return count


def forward_stream(chunks: Iterator[bytes]) -> IO[bytes]:
    return cast(IO[bytes], io.BufferedReader(ByteStream(chunks), _BLOCK))


def blocks(stream: IO[bytes]) -> Iterator[bytes]:
    while block := stream.read(_BLOCK):
        yield block


def _zstd_blocks(stream: IO[bytes]) -> Iterator[bytes]:
    """The content of one or more frames; the library's own reader accepts a file that ends within a frame."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=2**31)  # files made with `zstd --long=31`
    frame = None
    for block in blocks(stream):
        while block:
            frame = frame or decompressor.decompressobj()
            yield frame.decompress(block)
            block = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("the file ends within a zstd frame")


_DECOMPRESSORS: dict[str, Callable[[IO[bytes]], Iterator[bytes]]] = {
    ".gz": lambda stream: blocks(cast(IO[bytes], gzip.GzipFile(fileobj=stream, mode="rb"))),
    ".bz2": lambda stream: blocks(cast(IO[bytes], bz2.BZ2File(stream))),
    ".xz": lambda stream: blocks(cast(IO[bytes], lzma.LZMAFile(stream))),  # noqa: SIM115 (its owner closes `stream`)
    ".zst": _zstd_blocks,
}


def archive_members(name: str, stream: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    """(name, stream) of every plain file in `stream`, whose own name is `name`; a plain file is its only member.

    A member must be read before the next one is requested. Damage raises one of many exceptions, here or in the
    caller's reads: read within `damage_named(name)`.
    """
    inner, suffix = posixpath.splitext(name)
    suffix = suffix.lower()
    if suffix in _LONG_TAR:
        yield from archive_members(inner + _LONG_TAR[suffix], stream)
    elif suffix in _DECOMPRESSORS:
        yield from archive_members(inner, forward_stream(_DECOMPRESSORS[suffix](_compressed(name, suffix, stream))))
    elif suffix == ".tar":
        yield from _tar_members(name, stream)
    elif suffix == ".zip":
        yield from _zip_members(name, stream)
    else:
        yield name, stream


_MAGIC = {
    ".gz": re.compile(rb"\x1f\x8b"),
    ".bz2": re.compile(rb"BZh"),
    ".xz": re.compile(rb"\xfd7zXZ\x00|\]\x00\x00"),
    ".zst": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
}


def _compressed(name: str, suffix: str, stream: IO[bytes]) -> IO[bytes]:
    """`stream`, which must begin as its name says."""
    head = stream.read(6)
    if head and not _MAGIC[suffix].match(head):
        found = next((f"; it looks like {other}" for other, magic in _MAGIC.items() if magic.match(head)), "")
        raise CorpusError(f"source: {name} is not compressed as its name ends, in {suffix}{found}. Correct its name.")
    if stream.seekable():
        stream.seek(0)
        return stream
    return forward_stream(chain([head], blocks(stream)))


def _tar_members(name: str, stream: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        while (entry := archive.next()) is not None:
            cast(
                Any, archive
            ).members = []  # tarfile keeps every header it has read: a million files would fill the memory
            content = archive.extractfile(entry) if entry.isfile() and not is_hidden(entry.name) else None
            if content is not None:
                yield from archive_members(f"{name}/{entry.name}", forward_stream(blocks(content)))


def _zip_members(name: str, stream: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    with seekable(stream) as whole, zipfile.ZipFile(whole) as archive:
        for entry in archive.infolist():
            if entry.is_dir() or is_hidden(entry.filename):
                continue
            if entry.flag_bits & 1:
                raise CorpusError(f"source: {name}/{entry.filename} is encrypted. Unpack the archive first.")
            with archive.open(entry) as content:
                yield from archive_members(f"{name}/{entry.filename}", forward_stream(blocks(content)))


def inner_name(name: str) -> str:
    """`a.jsonl` of `a.jsonl.gz`."""
    inner, suffix = posixpath.splitext(name)
    return inner_name(inner) if suffix.lower() in _DECOMPRESSORS else name


def is_archive(name: str) -> bool:
    """Whether a file of this name has members: `a.zip`, `a.tar.gz`, `a.tgz`."""
    inner, suffix = posixpath.splitext(name.lower())
    if suffix in _DECOMPRESSORS:
        return is_archive(inner)
    return suffix in {".tar", ".zip"} or suffix in _LONG_TAR


def is_hidden(name: str) -> bool:
    """True for names that tools create for themselves (`.git/config`, `__MACOSX/x`)."""
    return any(part == "__MACOSX" or (part[:1] == "." and part not in {".", ".."}) for part in name.split("/"))


@contextlib.contextmanager
def seekable(stream: IO[bytes]) -> Iterator[IO[bytes]]:
    """`stream` itself if it can seek, else a copy of it on disk that is removed after the block."""
    if stream.seekable():
        yield stream
        return
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(stream, copy, 1 << 20)
        copy.seek(0)
        yield copy


@contextlib.contextmanager
def damage_named(name: str) -> Iterator[None]:
    """Turn any error of a damaged or unreadable file within the block into a CorpusError that names the file."""
    try:
        yield
    except DAMAGE as error:
        if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
            raise CorpusError(f"source: {name} cannot be read ({error.strerror or error}).") from error
        reason = str(error) or type(error).__name__
        raise CorpusError(
            f"source: {name} is damaged or incomplete ({reason}). Download it again or leave it out."
        ) from error
