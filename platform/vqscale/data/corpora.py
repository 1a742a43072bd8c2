"""Named corpora: loaders of their original files, and the home where prepared ones are found by name."""

import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from vqscale import storage
from vqscale.data.home import home_folder
from vqscale.data.prepare import Progress, prepare
from vqscale.data.shards import FORMAT, MANIFEST
from vqscale.data.sources import Piece, SourceFile, SplitRule, cut, utf8_chunks
from vqscale.errors import CorpusError

_NO_PROSE = {
    "test",
    "tests",
    "idle_test",
    "idlelib",
    "lib2to3",
    "turtledemo",
    "site-packages",
    "dist-packages",
    "__pycache__",
}


@dataclass(frozen=True)
class StandardLibrary:
    """The running Python's own sources: about 10 MB of text on every machine, no download.

    Left out: tests, installed packages, what some distributions omit, and `_sysconfigdata`, which differs by build.
    """

    split_rule: SplitRule = "document-hash"
    counts_words: bool = False

    def describe(self) -> str:
        return f"standard library of Python {python_version()}"

    def _paths(self) -> list[tuple[str, Path]]:
        root = Path(sysconfig.get_path("stdlib"))
        found = ((path.relative_to(root), path) for path in root.rglob("*.py"))
        kept = (
            (name.as_posix(), path)
            for name, path in found
            if not _NO_PROSE & set(name.parts) and not name.name.startswith("_sysconfigdata") and path.stat().st_size
        )
        return sorted(kept)

    def files(self) -> list[SourceFile]:
        fs = fsspec.filesystem("file")
        return [SourceFile(fs, name, path.stat().st_size, "") for name, path in self._paths()]

    def identity(self) -> dict[str, Any]:
        return {"python": python_version(), "files": [file.identity() for file in self.files()]}

    def pieces(self) -> Iterator[Piece]:
        read = 0
        for name, path in self._paths():
            read += path.stat().st_size
            with path.open("rb") as stream:
                for data, last in cut(utf8_chunks(name, stream, "utf-8")):
                    yield Piece(data, last, None, read)


def python_version() -> str:
    return ".".join(str(part) for part in sys.version_info[:3])


def stdlib_folder(home: str | None = None) -> str:
    """Where the prepared `stdlib` corpus of this Python lies."""
    return str(corpora_folder(home) / f"stdlib-python{python_version()}-v{FORMAT}")


def corpora_folder(home: str | None = None) -> Path:
    return home_folder(home) / "corpora"


def resolve_corpus(name_or_uri: str, *, home: str | None = None, progress: Progress | None = None) -> str:
    """The URI of a corpus given by name or by URI. `stdlib` is prepared first where it does not exist yet.

    A name is looked up in the user's home (`$VQSCALE_HOME`, else `~/.cache/vqscale`). Any number of processes may ask
    at once: one prepares, the others wait. CorpusError for a name that is not there.
    """
    if name_or_uri == "stdlib":
        folder = stdlib_folder(home)
        prepare(StandardLibrary(), folder, progress=progress)
        return folder
    if "/" in name_or_uri or "://" in name_or_uri or storage.exists(storage.join(name_or_uri, MANIFEST)):
        return storage.absolute(name_or_uri)
    folder = str(corpora_folder(home) / name_or_uri)
    if not storage.exists(storage.join(folder, MANIFEST)):
        raise CorpusError(
            f"corpus: {name_or_uri!r} is neither prepared in {corpora_folder(home)} nor a folder here. "
            f"Make it: vqscale data prepare SOURCE --out {folder}"
        )
    return folder
