"""Long Range Arena's own tables: the ListOps release and the retrieval pairs of AAN."""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from typing import IO, ClassVar

import numpy as np

from vqscale.data.archives import forward_stream
from vqscale.data.decoding import utf8_chunks
from vqscale.data.labelled.format import BYTES, Example, Layout
from vqscale.data.shards import SplitName
from vqscale.data.tasks.listops import DIGIT_SYMBOLS, END, ID_OF, LISTOPS_VOCABULARY
from vqscale.data.tasks.raw_files import RawFiles
from vqscale.data.tokenize import ByteTokenizer
from vqscale.errors import CorpusError

_TOKENIZER = ByteTokenizer()
_LONGEST_FIELD = 1 << 28


def _rows(name: str, stream: IO[bytes]) -> Iterator[list[str]]:
    """The rows of a tab-separated table, read line by line; quotes are plain text, as in Long Range Arena."""
    csv.field_size_limit(_LONGEST_FIELD)  # papers are longer than the csv module's default of 128 KiB
    lines = io.TextIOWrapper(forward_stream(utf8_chunks(name, stream, "utf-8")), "utf-8", newline="")
    try:
        yield from csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    except csv.Error as error:
        raise CorpusError(f"source: {name} is no readable table ({error}). Download it again.") from error


class ListOpsRelease(RawFiles):
    """ListOps of the Long Range Arena release: `basic_train.tsv`, `basic_val.tsv`, `basic_test.tsv`."""

    name: ClassVar[str] = "listops"
    published: ClassVar[Mapping[SplitName, int]] = {"train": 96_000, "validation": 2_000, "test": 2_000}
    uses: ClassVar[frozenset[str]] = frozenset({"length"})
    _FILE: ClassVar[re.Pattern[str]] = re.compile(r"(train|val|test)\.tsv$")

    def layout(self) -> Layout:
        return Layout(classes=DIGIT_SYMBOLS, labels="sequence", vocabulary=LISTOPS_VOCABULARY)

    def examples(self, name: str, stream: IO[bytes]) -> Iterator[tuple[SplitName, Example]]:
        match = self._FILE.search(name)
        if match is None:
            return
        split: SplitName = "train" if match[1] == "train" else "validation" if match[1] == "val" else "test"
        for number, row in enumerate(_rows(name, stream), start=1):
            if row != ["Source", "Target"]:
                yield split, self._example(f"{name} line {number}", row)

    def _example(self, place: str, row: list[str]) -> Example:
        if len(row) != 2 or row[1] not in DIGIT_SYMBOLS:
            raise CorpusError(
                f"source: {place} is no expression and digit, separated by a tab. Download the file again."
            )
        symbols = [symbol for symbol in row[0].split() if symbol not in {"(", ")"}]
        unknown = next((symbol for symbol in symbols if symbol not in ID_OF or symbol == "<pad>"), None)
        if unknown is not None:
            raise CorpusError(f"source: {place} has {unknown!r}. ListOps has [MIN, [MAX, [MED, [SM, {END} and digits.")
        ids = np.array([ID_OF[symbol] for symbol in symbols], dtype=np.uint16)
        return Example((ids[: self.length],), label=int(row[1]))


class Retrieval(RawFiles):
    """Pairs of papers of the ACL Anthology Network, as Long Range Arena lays them out: does one cite the other?

    `*.train.tsv`, `*.eval.tsv` and `*.test.tsv` with label, two ids and two texts per row; texts are read as bytes.
    """

    name: ClassVar[str] = "aan"
    published: ClassVar[Mapping[SplitName, int]] = {"train": 147_086, "validation": 18_090, "test": 17_437}
    uses: ClassVar[frozenset[str]] = frozenset({"length"})
    default_length: ClassVar[int | None] = 4000
    _FILE: ClassVar[re.Pattern[str]] = re.compile(r"(train|eval|test)\.tsv$")

    def layout(self) -> Layout:
        return Layout(classes=("unrelated", "cites"), labels="sequence", sequences=2, vocabulary=BYTES)

    def examples(self, name: str, stream: IO[bytes]) -> Iterator[tuple[SplitName, Example]]:
        match = self._FILE.search(name)
        if match is None:
            return
        split: SplitName = "train" if match[1] == "train" else "validation" if match[1] == "eval" else "test"
        for number, row in enumerate(_rows(name, stream), start=1):
            if len(row) != 5 or row[0] not in {"0", "1", "0.0", "1.0"}:
                raise CorpusError(
                    f"source: {name} row {number} is not label (0 or 1), two ids and two texts separated by tabs. "
                    "Download the file again."
                )
            texts = (text.encode("utf-8")[: self.length] for text in row[3:])
            yield split, Example(tuple(_TOKENIZER.encode(text) for text in texts), label=int(float(row[0])))
