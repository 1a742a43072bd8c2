"""Compressed files and archives as streams: what is inside, in constant memory.

A name decides how its content is read (`books.tar.xz`: xz, then tar, then every member by its own name). Damage is a
CorpusError that names the file.
"""

import bz2
import contextlib
import gzip
import io
import lzma
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import IO, Any, cast

import zstandard

from vqscale.errors import CorpusError

_LONG_TAR = {".tgz": ".tar.gz", ".tbz2": ".tar.bz2", ".txz": ".tar.xz", ".tzst": ".tar.zst"}
_DAMAGE = (
    EOFError,
    zlib.error,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zstandard.ZstdError,
    tarfile.TarError,
    zipfile.BadZipFile,
    NotImplementedError,  # a zip method this Python cannot read
    RuntimeError,  # an encrypted zip member
)


class _ZstdReader(io.RawIOBase):
    """Reads one or more zstd frames and, unlike the library's own reader, refuses a file that ends inside a frame."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=2**31)  # files made with `zstd --long=31`
        self._frame: Any = None
        self._input = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self._ready and self._fill():
            pass
        count = min(len(target), len(self._ready))
        target[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _fill(self) -> bool:
        """Decompress some more; False at the end of the last frame."""
        self._input = self._input or self._stream.read(1 << 17)
        if not self._input:
            if self._frame is not None:
                raise EOFError("the file ends inside a zstd frame")
            return False
        self._frame = self._frame or self._decompressor.decompressobj()
        self._ready = memoryview(self._frame.decompress(self._input))
        self._input = b""
        if self._frame.eof:
            self._input, self._frame = self._frame.unused_data, None
        return True


_DECOMPRESSORS: dict[str, Callable[[IO[bytes]], IO[bytes]]] = {
    ".gz": lambda stream: cast(IO[bytes], gzip.GzipFile(fileobj=stream, mode="rb")),
    ".bz2": lambda stream: cast(IO[bytes], bz2.BZ2File(stream)),
    ".xz": lambda stream: cast(IO[bytes], lzma.LZMAFile(stream)),
    ".zst": lambda stream: cast(IO[bytes], io.BufferedReader(_ZstdReader(stream), 1 << 17)),
}


def members(name: str, stream: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    """(name, stream) of every plain file in `stream`, whose own name is `name`; a plain file is its only member.

    A member must be read before the next one is asked for. Raises CorpusError for damage, wherever it shows: also in
    the reads of the caller, who must therefore read inside `damage_named(name)`.
    """
    path = PurePosixPath(name)
    suffix = path.suffix.lower()
    if suffix in _LONG_TAR:
        yield from members(str(path.with_suffix(_LONG_TAR[suffix])), stream)
    elif suffix in _DECOMPRESSORS:
        yield from members(str(path.with_suffix("")), _DECOMPRESSORS[suffix](stream))
    elif suffix == ".tar":
        yield from _tar_members(name, stream)
    elif suffix == ".zip":
        yield from _zip_members(name, stream)
    else:
        yield name, stream


def _tar_members(name: str, stream: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for entry in archive:
            archive.members = []  # tarfile keeps every header it met: a million files would fill the memory
            content = archive.extractfile(entry) if entry.isfile() and not is_hidden(entry.name) else None
            if content is not None:
                yield from members(f"{name}/{entry.name}", content)


def _zip_members(name: str, stream: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    with seekable(stream) as whole, zipfile.ZipFile(whole) as archive:
        for entry in archive.infolist():
            if not entry.is_dir() and not is_hidden(entry.filename):
                with archive.open(entry) as content:
                    yield from members(f"{name}/{entry.filename}", content)


def is_hidden(name: str) -> bool:
    """True for names that tools make for themselves (`.git/config`, `__MACOSX/x`)."""
    return any(
        part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts if part not in {".", ".."}
    )


@contextlib.contextmanager
def seekable(stream: IO[bytes]) -> Iterator[IO[bytes]]:
    """`stream` itself if it can seek, else a copy of it on disk that vanishes with the block."""
    if stream.seekable():
        yield stream
        return
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(stream, copy, 1 << 20)
        copy.seek(0)
        yield copy


@contextlib.contextmanager
def damage_named(name: str) -> Iterator[None]:
    """Turn any error of a damaged or unreadable file into a CorpusError that names it."""
    try:
        yield
    except _DAMAGE as error:
        raise CorpusError(
            f"source: {name} is damaged or incomplete ({error}). Fetch it again or leave it out."
        ) from error
    except OSError as error:
        raise CorpusError(f"source: {name} cannot be read ({error.strerror or error}).") from error
