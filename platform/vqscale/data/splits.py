"""Which split a text belongs to: by a hash of the document, by its position in the stream, by its time, or as its
source says."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from vqscale.data.decoding import PIECE
from vqscale.data.shards import SPLITS, SplitName
from vqscale.data.sources import Piece, SplitRule
from vqscale.data.times import LogClock, TimeCuts, Timeline
from vqscale.errors import CorpusError


class SplitSegment(NamedTuple):
    """A part of a document within one split. `last`: the document, or the part of it in this split, ends there."""

    split: SplitName
    data: bytes
    last: bool
    first: bool
    read: int


def split_segments(
    pieces: Iterable[Piece],
    rule: SplitRule,
    fractions: tuple[float, float, float],
    total: int | None,
    times: TimeCuts | None,
    whole_characters: bool,
) -> Iterator[SplitSegment]:
    """`pieces` with their splits.

    `total`: bytes of text in all, needed by "contiguous". `times`: where "time" cuts. `whole_characters`: cuts within
    a text are moved to the next character, for tokenizers that read characters; otherwise "contiguous" cuts at exactly
    `fractions` of `total` bytes.
    """
    if rule == "own":
        return _own(pieces)
    if rule == "document-hash":
        return _by_hash(pieces, fractions)
    if rule == "time":
        assert times is not None, "splits by time need their cuts"
        return _by_time(pieces, times)
    assert total is not None, "contiguous splits need the size of the text"
    return _contiguous(pieces, _cuts(fractions, total), whole_characters)


def hash_split(text: bytes, fractions: tuple[float, float, float]) -> SplitName:
    """The split of a document whose text (its first MiB) is `text`; equal texts always get the same split."""
    # The first 64 bits of the digest as a uniform number in [0, 1).
    point = int.from_bytes(hashlib.sha256(text).digest()[:8], "big") / 2**64
    bounds = itertools.accumulate(fractions)
    return next(
        (name for name, bound in zip(SPLITS, bounds, strict=True) if point < bound), "test"
    )  # sum < 1 by rounding


def _own(pieces: Iterable[Piece]) -> Iterator[SplitSegment]:
    first = True
    for piece in pieces:
        if piece.split is None:
            raise CorpusError("split: this source has no splits of its own. Use document-hash or contiguous.")
        yield SplitSegment(piece.split, piece.data, piece.last, first, piece.read)
        first = piece.last


def _by_hash(pieces: Iterable[Piece], fractions: tuple[float, float, float]) -> Iterator[SplitSegment]:
    first, split = True, SPLITS[0]
    for piece in pieces:
        if first:
            split = hash_split(piece.data, fractions)
        yield SplitSegment(split, piece.data, piece.last, first, piece.read)
        first = piece.last


def measure_times(pieces: Iterable[Piece], fractions: tuple[float, float, float]) -> TimeCuts:
    """Where to cut `pieces` by time. CorpusError if they have no times, or too few."""
    timeline, clock = Timeline(), LogClock()
    for part in _timed(pieces, clock):
        timeline.add(part.time, len(part.data))
    return timeline.cuts(fractions, mixes_zones=clock.mixes_zones)


class _Timed(NamedTuple):
    """A part of a piece that has one time: a whole piece of a record, or lines of a log."""

    time: float
    data: bytes
    last: bool
    read: int


def _timed(pieces: Iterable[Piece], clock: LogClock) -> Iterator[_Timed]:
    first, documents = True, 0
    for piece in pieces:
        documents += first
        if piece.time is not None:
            yield _Timed(piece.time, piece.data, piece.last, piece.read)
        else:
            if first:
                clock.start(piece.data, f"document {documents:,}")
            for time, start, end in clock.runs(piece.data):
                yield _Timed(time, piece.data[start:end], piece.last and end == len(piece.data), piece.read)
        first = piece.last


def _by_time(pieces: Iterable[Piece], times: TimeCuts) -> Iterator[SplitSegment]:
    """Neighbours in one split are one segment of at most `PIECE` bytes. A document ends where its split does."""
    held: list[bytes] = []
    size, split, first, read = 0, SPLITS[0], True, 0
    for part in _timed(pieces, LogClock()):
        other = times.split_of(part.time)
        if held and (other != split or size + len(part.data) > PIECE):
            yield SplitSegment(split, b"".join(held), other != split, first, read)
            held, size, first = [], 0, other != split
        held.append(part.data)
        size, split, read = size + len(part.data), other, part.read
        if part.last:
            yield SplitSegment(split, b"".join(held), True, first, read)
            held, size, first = [], 0, True


def _cuts(fractions: tuple[float, float, float], total: int) -> list[int]:
    """Where validation and test begin, in bytes of text."""
    return [round(total * bound) for bound in itertools.accumulate(fractions)][:2]


def _contiguous(pieces: Iterable[Piece], cuts: list[int], whole_characters: bool) -> Iterator[SplitSegment]:
    position, index, first = 0, 0, True
    for piece in pieces:
        data, start = piece.data, 0
        while index < len(cuts) and position + len(data) - start >= cuts[index]:
            end = start + max(0, cuts[index] - position)
            while whole_characters and end < len(data) and data[end] & 0xC0 == 0x80:
                end += 1
            if end > start or not first:
                yield SplitSegment(SPLITS[index], data[start:end], True, first, piece.read)
            position, start, first, index = position + end - start, end, True, index + 1
        if start < len(data) or not first:
            yield SplitSegment(SPLITS[index], data[start:], piece.last, first, piece.read)
            first = piece.last
            position += len(data) - start
