"""The named corpora of the literature, read from their raw data files, with their own splits."""

import os
import re
import sys
import sysconfig
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO, Any, ClassVar, cast

import fsspec
import numpy as np

from vqscale import storage
from vqscale.data.archives import archive_members, damage_named, is_archive, seekable
from vqscale.data.decoding import BINARY, Decoder, utf8_chunks
from vqscale.data.files import SourceFile, list_files
from vqscale.data.records import Columns, parquet_records
from vqscale.data.shards import SPLITS, SplitName
from vqscale.data.sources import FileSource, Piece, Source, SplitRule, cut
from vqscale.data.wholeness import asked_partly, partly, require_whole
from vqscale.errors import CorpusError


@dataclass(frozen=True)
class HutterFile:
    """`enwik8` (Hutter) or `text8` (Mahoney: the letters a to z and spaces), plain or packed: 100,000,000 bytes, of
    which 90, 5 and 5 million in order are the splits, by the convention of the field.
    """

    uri: str
    name: str
    partial: bool = False
    split_rule: ClassVar[SplitRule] = "contiguous"
    counts_words: ClassVar[bool] = False
    BYTES: ClassVar[int] = 100_000_000

    @property
    def _file(self) -> FileSource:
        return FileSource(uri=self.uri, format="text", encoding=BINARY)

    def describe(self) -> str:
        return f"{self.name} at {self.uri}{partly(self.partial)}"

    def files(self) -> list[SourceFile]:
        files = list_files(self.uri)
        if all(file.inner == file.path and not is_archive(file.path) for file in files):
            self._require(sum(file.size for file in files))
        return files

    def _require(self, size: int) -> None:
        if not self.partial:
            require_whole(self.uri, self.name, "bytes", {"": size}, {"": self.BYTES})

    def identity(self) -> dict[str, Any]:
        return {"loader": self.name, "files": self._file.identity()} | asked_partly(self.partial)

    def pieces(self) -> Iterator[Piece]:
        size = 0
        for piece in self._file.pieces():
            size += len(piece.data)
            yield piece
        self._require(size)


@dataclass(frozen=True)
class PG19:
    """The release of PG-19 (Rae et al. 2020): `train/*.txt`, `validation/*.txt`, `test/*.txt`, one book per file.

    Words are counted, since results are reported as perplexity per word: exp(total nats / words).
    """

    uri: str
    partial: bool = False
    BOOKS: ClassVar[Mapping[str, int]] = {"train": 28_602, "validation": 50, "test": 100}
    split_rule: ClassVar[SplitRule] = "own"
    counts_words: ClassVar[bool] = True

    @cached_property
    def _parts(self) -> list[FileSource]:
        return [FileSource(uri=storage.join(self.uri, split, "*.txt"), split=split) for split in SPLITS]

    def describe(self) -> str:
        return f"PG-19 at {self.uri}{partly(self.partial)}"

    def files(self) -> list[SourceFile]:
        files = {str(part.split): part.files() for part in self._parts}
        if not self.partial:
            require_whole(self.uri, "PG-19", "books", {name: len(found) for name, found in files.items()}, self.BOOKS)
        return [file for found in files.values() for file in found]

    def identity(self) -> dict[str, Any]:
        return {"loader": "pg19", "files": [file.identity() for file in self.files()]} | asked_partly(self.partial)

    def pieces(self) -> Iterator[Piece]:
        done = 0
        for part in self._parts:
            read = 0
            for piece in part.pieces():
                read = piece.read
                yield piece._replace(read=done + read)
            done += read


@dataclass(frozen=True)
class WikiText103:
    """WikiText-103 (Merity et al. 2016): `wiki.{train,valid,test}.tokens` or `.raw`, or the Parquet files of the Hub
    (`train-*.parquet` ...), in a folder or archive; other files in it are not read. A document is an article.

    Words and lines are counted; the usual perplexity per word counts every line end as a word too.
    """

    uri: str
    partial: bool = False
    LINES: ClassVar[Mapping[str, int]] = {"train": 1_801_350, "validation": 3_760, "test": 4_358}
    """Of every variant: rows of the Hub's files are the lines of the others."""
    split_rule: ClassVar[SplitRule] = "own"
    counts_words: ClassVar[bool] = True

    def describe(self) -> str:
        return f"WikiText-103 at {self.uri}{partly(self.partial)}"

    def files(self) -> list[SourceFile]:
        return list_files(self.uri)

    def identity(self) -> dict[str, Any]:
        files = [file.identity() for file in self.files()]
        return {"loader": "wikitext103", "files": files} | asked_partly(self.partial)

    def pieces(self) -> Iterator[Piece]:
        done = 0
        lines: Counter[str] = Counter()
        for file in self.files():
            with damage_named(file.path), file.open() as raw:
                for name, stream in archive_members(file.path, raw):
                    split = _wikitext_split(name)
                    if split is not None:
                        for article in _articles(_wikitext_lines(name, stream)):
                            lines[split] += article.count(b"\n")
                            read = done + min(raw.tell(), file.size)
                            yield from (Piece(data, last, split, read) for data, last in cut(iter([article])))
            done += file.size
        if not self.partial:
            require_whole(self.uri, "WikiText-103", "lines", lines, self.LINES)


_WIKITEXT = re.compile(r"wiki\.(train|valid|test)\.(?:tokens|raw)|(train|validation|test)-\d+-of-\d+\.parquet")


def _wikitext_split(name: str) -> SplitName | None:
    match = _WIKITEXT.fullmatch(PurePosixPath(name).name)
    if match is None:
        return None
    found = match[1] or match[2]
    return cast(SplitName, "validation" if found == "valid" else found)


def _wikitext_lines(name: str, stream: IO[bytes]) -> Iterator[bytes]:
    if name.endswith(".parquet"):
        for row in parquet_records(name, stream, Columns("text"), Decoder("utf-8")):
            if row.fault:
                raise CorpusError(f"source: {row.place} {row.fault}. Download the file again.")
            yield row.text or b" \n"  # a row of the Hub is a line; blank lines are empty rows there
        return
    held = b""
    for chunk in utf8_chunks(name, stream, "utf-8"):
        *lines, held = (held + chunk).split(b"\n")
        yield from (line + b"\n" for line in lines)
    if held:
        yield held


def _articles(lines: Iterator[bytes]) -> Iterator[bytes]:
    """Articles: the lines from one title ` = Title = ` (after a blank line; sections have two signs) to the next."""
    article: list[bytes] = []
    blank_before = True
    for line in lines:
        if blank_before and _is_title(line) and any(held.strip() for held in article):
            yield b"".join(article)
            article = []
        article.append(line)
        blank_before = not line.strip()
    yield b"".join(article)


def _is_title(line: bytes) -> bool:
    text = line.rstrip()
    return text.startswith(b" = ") and text.endswith(b" =") and not text.startswith(b" = =") and len(text) > 4


@dataclass(frozen=True)
class ImageNet64:
    """Downsampled ImageNet 64x64 (Chrabaszcz et al. 2017) in its **npz** release: `train_data_batch_1.npz` ... and
    `val_data.npz`, or the zip files that hold them. Its pickled release is refused: pickles can run code.

    A document is an image: 12,288 bytes, rows top down, red green blue interleaved (the files hold three planes).
    The first `train_images` of the training images are for training, the rest for validation, the official
    validation images for testing, as in Transformer-VQ.
    """

    uri: str
    partial: bool = False
    train_images: int = 1_200_000
    IMAGES: ClassVar[Mapping[str, int]] = {"train": 1_281_167, "val": 50_000}
    split_rule: ClassVar[SplitRule] = "own"
    counts_words: ClassVar[bool] = False

    def describe(self) -> str:
        return f"ImageNet 64x64 at {self.uri}{partly(self.partial)}"

    def files(self) -> list[SourceFile]:
        return sorted(list_files(self.uri), key=_batch_number)

    def identity(self) -> dict[str, Any]:
        files = [file.identity() for file in self.files()]
        return {"loader": "imagenet64", "files": files, "train": self.train_images} | asked_partly(self.partial)

    def pieces(self) -> Iterator[Piece]:
        done = 0
        images: Counter[str] = Counter()
        for file in self.files():
            with damage_named(file.path), file.open() as raw:
                for name, stream in archive_members(file.path, raw):
                    official = _imagenet_split(name)
                    for image in _images(name, stream) if official else ():
                        images[str(official)] += 1
                        split = self._split(official, images["train"])
                        yield Piece(image, True, split, done + min(raw.tell(), file.size))
            done += file.size
        if not self.partial:
            require_whole(self.uri, "ImageNet 64x64", "images", images, self.IMAGES)

    def _split(self, official: str | None, trained: int) -> SplitName:
        if official == "val":
            return "test"
        return "train" if trained <= self.train_images else "validation"


_IMAGE_BYTES = 3 * 64 * 64
_IMAGENET = re.compile(r"(train)_data_batch_\d+(\.npz)?|(val)_data(\.npz)?")


def _batch_number(file: SourceFile) -> list[int]:
    """Sort key that puts batch 2 before batch 10."""
    return [int(number) for number in re.findall(r"\d+", PurePosixPath(file.path).name)]


def _imagenet_split(name: str) -> str | None:
    match = _IMAGENET.fullmatch(PurePosixPath(name).name)
    if match is None:
        return None
    if not name.endswith(".npz"):
        raise CorpusError(
            f"source: {name} is a pickle, which could run code when it is read. Download the release's npz files."
        )
    return match[1] or match[3]


def _images(name: str, stream: IO[bytes]) -> Iterator[bytes]:
    """The rows of the array `data`, [images, 12288] uint8, one at a time."""
    with seekable(stream) as whole, zipfile.ZipFile(whole) as archive:
        if "data.npy" not in archive.namelist():
            raise CorpusError(f"source: {name} has no array 'data'; it has {', '.join(archive.namelist())}.")
        with archive.open("data.npy") as array:
            shape, fortran_order, dtype = _npy_header(name, array)
            if fortran_order or dtype != np.uint8 or shape[1:] != (_IMAGE_BYTES,):
                raise CorpusError(f"source: {name} holds {dtype} {shape}, not uint8 rows of {_IMAGE_BYTES} bytes.")
            for _ in range(shape[0]):
                row = array.read(_IMAGE_BYTES)
                if len(row) < _IMAGE_BYTES:
                    raise EOFError("the array ends early")
                yield np.frombuffer(row, np.uint8).reshape(3, -1).T.tobytes()


def _npy_header(name: str, array: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(array)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return read(array)
    except ValueError as error:
        raise CorpusError(f"source: {name} holds no readable array ({error}).") from error


@dataclass(frozen=True)
class StandardLibrary:
    """The sources of the running Python's standard library: about 10 MB of text on every machine, without a download.

    Excluded: tests, installed packages, what some distributions omit, and `_sysconfigdata`, which differs by build.
    """

    split_rule: ClassVar[SplitRule] = "document-hash"
    counts_words: ClassVar[bool] = False

    def describe(self) -> str:
        return f"standard library of Python {python_version()}"

    @cached_property
    def _paths(self) -> dict[str, Path]:
        root = Path(sysconfig.get_path("stdlib"))
        found: dict[str, Path] = {}
        for folder, below, names in os.walk(root):
            below[:] = [name for name in below if name not in _LEFT_OUT]
            paths = (
                Path(folder, name) for name in names if name.endswith(".py") and not name.startswith("_sysconfigdata")
            )
            found |= {path.relative_to(root).as_posix(): path for path in paths}
        return dict(sorted(found.items()))

    def files(self) -> list[SourceFile]:
        fs = fsspec.filesystem("file")
        return [SourceFile(fs, name, path.stat().st_size, "") for name, path in self._paths.items()]

    def identity(self) -> dict[str, Any]:
        return {"loader": "stdlib", "python": python_version(), "files": [file.identity() for file in self.files()]}

    def pieces(self) -> Iterator[Piece]:
        read = 0
        for name, path in self._paths.items():
            read += path.stat().st_size
            with damage_named(str(path)), path.open("rb") as stream:
                yield from (Piece(data, last, None, read) for data, last in cut(utf8_chunks(name, stream, "utf-8")))


_LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "turtledemo", "site-packages", "dist-packages", "__pycache__"}


def python_version() -> str:
    return ".".join(str(part) for part in sys.version_info[:3])


LOADERS: dict[str, Callable[[str, bool], Source]] = {
    "enwik8": lambda uri, partial: HutterFile(uri, "enwik8", partial),
    "text8": lambda uri, partial: HutterFile(uri, "text8", partial),
    "pg19": PG19,
    "wikitext103": WikiText103,
    "imagenet64": ImageNet64,
}


def named_source(name: str, uri: str, partial: bool = False) -> Source:
    """The named corpus whose raw data files are at `uri`; CorpusError for an unknown name.

    Each has a known size, and other files are refused unless `partial`.
    """
    if name not in LOADERS:
        raise CorpusError(f"loader: {name!r} is not known. There are {', '.join(LOADERS)}.")
    return LOADERS[name](uri, partial)
