"""The files of a source: one file, a folder or a glob, at any fsspec URI."""

import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from vqscale import storage
from vqscale.data.archives import damage_named, inner_name, is_archive, is_hidden
from vqscale.errors import CorpusError
from vqscale.storage_failures import failures_named, is_absence


@dataclass(frozen=True)
class SourceFile:
    """One file of a source; `stamp` changes when its content does."""

    fs: fsspec.AbstractFileSystem
    path: str
    size: int
    stamp: str
    root: int = 0
    """Length of the part of `path` that is the source's own address rather than a name within it."""

    @property
    def inner(self) -> str:
        """The path without endings of compression: its ending says what the content is."""
        return inner_name(self.path)

    def identity(self) -> list[str | int]:
        return [self.path, self.size, self.stamp]

    def open(self) -> IO[bytes]:
        """The file for reading. What its store raises meanwhile is StorageError."""
        return storage.open_for_reading(self.fs, self.path)


@dataclass(frozen=True)
class Pick:
    """Patterns of the files that are read: all if `include` is empty, and none that `exclude` matches.

    A pattern is compared with the path within the source and with its end: `*.txt`, `docs/*`. Members of archives are
    files too.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def wants(self, path: str) -> bool:
        return (not self.include or _matches(path, self.include)) and not _matches(path, self.exclude)

    def wants_file(self, path: str) -> bool:
        """An archive is opened for its members, whatever `include` says of its own name."""
        return not _matches(path, self.exclude) if is_archive(path) else self.wants(path)


def _matches(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(path, pattern) or fnmatchcase(path, f"*/{pattern}") for pattern in patterns)


def list_files(uri: str, pick: Pick | None = None) -> list[SourceFile]:
    """The files of `uri` (a file, a folder or a glob), sorted by path; CorpusError if there are none.

    Of a folder: all files below it except hidden ones. Links to folders are followed, and every folder is read once.
    """
    fs, path = storage.filesystem(uri)
    _require_repeatable(fs, uri, path)
    with damage_named(uri), failures_named(uri, "read"):
        found = _found(fs, path) if isinstance(fs, LocalFileSystem) else _found_remote(fs, path)
    if not found:
        raise CorpusError(
            f"source: {uri} is no file, no folder with files and no pattern that matches any. Check the path."
        )
    root = len(_folder_of(path, found))
    wanted = [name for name in sorted(found) if pick is None or pick.wants_file(name[root:])]
    if not wanted:
        raise CorpusError(f"include: none of the {len(found):,} files of {uri} is left. Check --include and --exclude.")
    return [_source_file(fs, name, found[name], root) for name in wanted]


def _folder_of(path: str, found: Iterable[str]) -> str:
    """The folder that names within the source are relative to, with its last slash; `found` are its files."""
    folder = f"{path.rstrip('/')}/"
    if all(name.startswith(folder) for name in found):
        return folder
    fixed = re.split(r"[*?\[]", path)[0]
    return fixed[: fixed.rfind("/") + 1]


_SHOWN = 20


def unreadable(reasons: list[str], files: int) -> str:
    """The message for files that cannot be read: the reason of one, or a list; `files`: how many there are in all."""
    if len(reasons) == 1:
        return reasons[0]
    shown = "\n".join(f"  {reason}" for reason in reasons[:_SHOWN])
    more = f"\n  and {len(reasons) - _SHOWN:,} more" if len(reasons) > _SHOWN else ""
    return (
        f"source: {len(reasons):,} of {files:,} files cannot be read:\n{shown}{more}\n"
        "Leave files out with --exclude 'PATTERN', or name those to take with --include 'PATTERN'."
    )


def _require_repeatable(fs: fsspec.AbstractFileSystem, uri: str, path: str) -> None:
    """Refuse a stream: a source is read more than once (to measure, to train a tokenizer, to resume)."""
    if uri == "-" or (isinstance(fs, LocalFileSystem) and os.path.exists(path) and not _is_plain(path)):  # noqa: PTH110
        raise CorpusError(f"source: {uri} is a stream, which can be read only once. Save it to a file and name that.")


def _is_plain(path: str) -> bool:
    mode = os.stat(path).st_mode  # noqa: PTH116
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def _found(fs: fsspec.AbstractFileSystem, path: str) -> dict[str, dict[str, Any]]:
    """Path and facts of every file on this machine."""
    if fs.isfile(path):
        return {path: _facts(path)}
    if not fs.isdir(path):
        return {name: _facts(name) for name in fs.glob(path) if os.path.isfile(name)}  # noqa: PTH113
    return {name: _facts(name) for name in _below(path)}


def _found_remote(fs: fsspec.AbstractFileSystem, path: str) -> dict[str, dict[str, Any]]:
    """As `_found`. `isfile` and `isdir` would take a store that does not answer for one that has no such file."""
    try:
        info = fs.info(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        if not is_absence(error):
            raise
        matches = fs.glob(path, detail=True)
        return {name: info for name, info in matches.items() if info["type"] == "file"}
    if info["type"] == "file":
        return {path: info}
    everything = fs.find(path, detail=True)
    return {name: info for name, info in everything.items() if not is_hidden(name[len(path) :])}


def _facts(path: str) -> dict[str, Any]:
    try:
        info = os.stat(path)  # noqa: PTH116
    except OSError:  # a link to nothing: named when it is read
        return {"size": 0}
    return {"size": info.st_size, "mtime": info.st_mtime}


def _below(root: str) -> Iterator[str]:
    """The files below a local folder. Links may form a loop, and fsspec takes a link to a folder for a file."""
    seen: set[tuple[int, int]] = set()
    for folder, below, names in os.walk(root, onerror=_raise, followlinks=True):
        info = os.stat(folder)  # noqa: PTH116
        if (info.st_dev, info.st_ino) in seen:
            below.clear()
            continue
        seen.add((info.st_dev, info.st_ino))
        below[:] = sorted(name for name in below if not is_hidden(name))
        paths = (f"{folder.rstrip('/')}/{name}" for name in names if not is_hidden(name))
        yield from (path for path in paths if not os.path.exists(path) or _is_plain(path))  # noqa: PTH110


def _raise(error: OSError) -> None:
    raise CorpusError(
        f"source: {error.filename} cannot be read ({error.strerror or error}). Change its permissions or leave it out."
    ) from error


def _source_file(fs: fsspec.AbstractFileSystem, path: str, info: dict[str, Any], root: int) -> SourceFile:
    stamps = (info.get(key) for key in ("ETag", "etag", "mtime", "LastModified", "created"))
    stamp = next((str(value) for value in stamps if value is not None), "")
    return SourceFile(fs, path, int(info["size"] or 0), stamp, root)
