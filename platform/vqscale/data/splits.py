"""Which split a text belongs to: by a hash of the document, by its position in the stream, or as its source says."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from vqscale.data.shards import SPLITS, SplitName
from vqscale.data.sources import Piece, SplitRule
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
    whole_characters: bool,
) -> Iterator[SplitSegment]:
    """`pieces` with their splits.

    `total`: bytes of text in all, needed by "contiguous". `whole_characters`: its cuts are moved to the next character,
    for tokenizers that read characters; otherwise they are at exactly `fractions` of `total` bytes.
    """
    if rule == "own":
        return _own(pieces)
    if rule == "document-hash":
        return _by_hash(pieces, fractions)
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
