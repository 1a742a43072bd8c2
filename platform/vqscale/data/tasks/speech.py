"""Speech Commands (Warden 2018) as raw waveforms: the id of a 16-bit sample is its value plus 32768."""

import io
import re
import struct
import wave
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import IO, ClassVar

import numpy as np
import numpy.typing as npt

from vqscale.data.labelled.format import SAMPLES, Example, Layout
from vqscale.data.labelled.source import Unreadable
from vqscale.data.shards import SplitName
from vqscale.data.tasks.raw_files import RawFiles
from vqscale.data.wholeness import require_whole
from vqscale.errors import CorpusError

_RATE = 16_000
_SILENCE = 2**15
_MOST_BYTES = 1 << 24
"""Bytes that are read of a recording: eight minutes."""
_TEN = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes")
_OTHERS = (
    *("backward", "bed", "bird", "cat", "dog", "eight", "five", "follow", "forward", "four", "happy", "house", "learn"),
    *("marvin", "nine", "one", "seven", "sheila", "six", "three", "tree", "two", "visual", "wow", "zero"),
)
_WAVE = re.compile(r"(?:^|/)([a-z]+)/([^/]+\.wav)$")


class SpeechCommands35(RawFiles):
    """All 35 words of version 2: a folder or archive with the official `validation_list.txt` and `testing_list.txt`.

    A sequence is one second: shorter recordings are padded with silence, longer ones cut (`length` samples).
    """

    name: ClassVar[str] = "speech-commands-35"
    published: ClassVar[Mapping[SplitName, int]] = {"train": 84_843, "validation": 9_981, "test": 11_005}
    uses: ClassVar[frozenset[str]] = frozenset({"length"})
    default_length: ClassVar[int | None] = _RATE
    words: ClassVar[tuple[str, ...]] = tuple(sorted((*_TEN, *_OTHERS)))

    def layout(self) -> Layout:
        return Layout(classes=self.words, labels="sequence", vocabulary=SAMPLES, real_inputs=True)

    def is_one_example(self, path: str) -> bool:
        return _WAVE.search(path) is not None

    @cached_property
    def _split_of(self) -> dict[str, SplitName]:
        """Split of every recording of the official lists, by word and file name."""
        found = {name: split for (name, split), _ in self.each(_listed)}
        sizes = Counter(found.values())
        if sizes and not self.options.partial:
            lists = {name: SpeechCommands35.published[name] for name in sizes}
            require_whole(self.uri, self.name, "listed recordings", sizes, lists)
        if set(found.values()) != {"validation", "test"}:
            raise CorpusError(
                f"source: {self.uri} lacks validation_list.txt or testing_list.txt, which define the splits. "
                "Unpack the whole release."
            )
        return found

    def examples(self, name: str, stream: IO[bytes]) -> Iterator[tuple[SplitName, Example] | Unreadable]:
        match = _WAVE.search(name)
        if match is None or match[1] not in self.words:
            return
        split = self._split_of.get(f"{match[1]}/{match[2]}", "train")
        content = stream.read(_MOST_BYTES)
        try:
            samples = self._second(_samples(content))
        except ValueError as error:
            yield Unreadable(name, str(error))
            return
        yield split, Example((samples,), label=self.words.index(match[1]))

    def _second(self, samples: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
        kept = samples[: self.length]
        return np.pad(kept, (0, (self.length or 0) - len(kept)), constant_values=_SILENCE)


class SpeechCommands10(SpeechCommands35):
    """The ten commands among them (down, go, left, no, off, on, right, stop, up, yes): the subset of S4 and Mega."""

    name: ClassVar[str] = "speech-commands-10"
    uses: ClassVar[frozenset[str]] = frozenset({"length", "partial"})
    published: ClassVar[Mapping[SplitName, int]] = {}  # the sizes of the lists, which hold all words, are compared
    words: ClassVar[tuple[str, ...]] = _TEN


def _listed(name: str, stream: IO[bytes]) -> Iterator[tuple[str, SplitName]]:
    kinds: dict[str, SplitName] = {"validation_list.txt": "validation", "testing_list.txt": "test"}
    split = kinds.get(name.rsplit("/", 1)[-1])
    if split is not None:
        for line in stream.read().decode("utf-8").split():
            yield line, split


def _samples(content: bytes) -> npt.NDArray[np.uint16]:
    """The samples of a recording. Raises ValueError that says what is wrong."""
    try:
        with wave.open(io.BytesIO(content)) as recording:
            form = (recording.getnchannels(), recording.getsampwidth(), recording.getframerate())
            frames = recording.readframes(recording.getnframes())
    except (wave.Error, EOFError, RuntimeError, struct.error) as error:
        raise ValueError(f"no readable wave file: {error or 'it ends early'}") from error
    if form != (1, 2, _RATE):
        raise ValueError(f"{form[0]} channels of {8 * form[1]} bits at {form[2]} Hz, not one of 16 bits at {_RATE} Hz")
    if len(frames) % 2 or not frames:
        raise ValueError("no whole samples")
    return (np.frombuffer(frames, "<i2").astype(np.int32) + _SILENCE).astype(np.uint16)
