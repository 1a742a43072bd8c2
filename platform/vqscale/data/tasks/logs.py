"""System logs with one label per line, in the format of loghub's BGL and Thunderbird: is this line an alert?"""

from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from typing import IO, ClassVar, NamedTuple

import numpy as np

from vqscale.data.labelled.format import BYTES, Example, Layout
from vqscale.data.labelled.source import Labelled
from vqscale.data.shards import SPLITS, SplitName
from vqscale.data.signatures import HEAD, foreign
from vqscale.data.tasks.raw_files import FEWEST, RawFiles
from vqscale.data.tokenize import ByteTokenizer
from vqscale.errors import CorpusError

_TOKENIZER = ByteTokenizer()


NORMAL = b"-"
MOST_TAGS = 1000
"""Different tags of alerts at most (BGL has 41): more are times, hosts or words of a log without labels."""
_LONGEST_TAG = 100
_REMEDY = "Logs without labels are text: prepare them without --as."


def _shown(tags: Counter[bytes]) -> str:
    return ", ".join(repr(tag.decode("utf-8", "replace")) for tag, _ in tags.most_common(3))


class _Line(NamedTuple):
    """The text of a line without its label, line end included."""

    text: bytes
    tag: bytes


class LabelledLogs(RawFiles):
    """Lines whose first word is `-` (normal) or the tag of an alert; the model reads the rest of each line.

    A sequence holds as many whole lines as fit into `length` bytes, in order; every line end has a label. A longer line
    is cut, its line end kept. Splits are in order of files and lines, which in one log is that of time: the first lines
    for training, the last ones for testing.
    """

    name: ClassVar[str] = "labelled-logs"
    uses: ClassVar[frozenset[str]] = frozenset({"length", "fractions"})
    default_length: ClassVar[int | None] = 4096

    def layout(self) -> Layout:
        return Layout(classes=("normal", "alert"), labels="token", vocabulary=BYTES)

    @cached_property
    def _bounds(self) -> list[int]:
        """Bytes of text at which validation and test begin. CorpusError if the first words are no labels."""
        total = normal = 0
        tags: Counter[bytes] = Counter()
        for line, _ in self.each(self._lines):
            total += len(line.text)
            if line.tag == NORMAL:
                normal += 1
            else:
                tags[line.tag[:_LONGEST_TAG]] += 1
                self._require_tags(tags)
        self._require_both(normal, tags)
        fractions = self.options.fractions or self.default_fractions
        return [round(total * share) for share in (fractions[0], fractions[0] + fractions[1])]

    def _require_tags(self, tags: Counter[bytes]) -> None:
        if len(tags) > MOST_TAGS:
            raise CorpusError(
                f"classes: the lines of {self.uri} begin with more than {MOST_TAGS:,} different words, such as "
                f"{_shown(tags)}: these are no labels. {_REMEDY}"
            )

    def _require_both(self, normal: int, tags: Counter[bytes]) -> None:
        alerts = tags.total()
        if min(normal, alerts) < FEWEST:
            raise CorpusError(
                f"classes: {self.uri} has {normal:,} normal lines, which begin with '-', and {alerts:,} alerts, which "
                f"begin with a tag{f' such as {_shown(tags)}' if tags else ''}. It needs {FEWEST} of each at least. "
                f"{_REMEDY}"
            )

    def _lines(self, name: str, stream: IO[bytes]) -> Iterator[_Line]:
        for number, line in enumerate(stream, start=1):
            if number == 1 and (wrong := foreign(name, line[:HEAD])) is not None:
                raise CorpusError(f"source: {name} is {wrong[0]}, not a log. {wrong[1]}, or leave it out.")
            tag, space, text = line.rstrip(b"\r\n").partition(b" ")
            if not line.strip():
                continue
            if not space or not tag:
                raise CorpusError(
                    f"source: {name} line {number} has no label: its first word is '-' or the tag of an alert. "
                    f"{_REMEDY}"
                )
            yield _Line(text[: (self.length or 1) - 1] + b"\n", tag)

    def walk(self) -> Iterator[Labelled]:
        held: list[_Line] = []
        size = done = read = 0
        for line, read in self.each(self._lines):
            if held and (size + len(line.text) > (self.length or 0) or self._split(done) != self._split(done + size)):
                yield Labelled(self._split(done), _window(held), read)
                done, size, held = done + size, 0, []
            held.append(line)
            size += len(line.text)
        if held:
            yield Labelled(self._split(done), _window(held), read)

    def _split(self, offset: int) -> SplitName:
        return SPLITS[int(np.searchsorted(self._bounds, offset, side="right"))]


def _window(lines: list[_Line]) -> Example:
    ends = np.cumsum([len(line.text) for line in lines]) - 1
    text = b"".join(line.text for line in lines)
    labels = np.array([int(line.tag != NORMAL) for line in lines])
    return Example((_TOKENIZER.encode(text),), positions=ends, labels=labels)
