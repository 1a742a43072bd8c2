"""Which held-out text is evaluated and how it is cut: contiguous sequences, or whole documents.

Both give pairs (start, length): tokens start .. start + length are read (length + 1 of them), and each but the first is
predicted from those before it. Which pairs there are is a function of the split and the trial's settings alone, so that
every trial of a corpus is evaluated on the same text, however many workers it has.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vqscale.data.corpus import TokenSplit
from vqscale.data.permutation import Permutation
from vqscale.data.tokenize import EOS
from vqscale.study.trial import TrainConfig

SAMPLE_SEED = 0
"""Of the draw of blocks or documents: the same for every trial, whatever its own seed."""
_CHUNK = 1 << 20

Piece = tuple[int, int]
Index = npt.NDArray[np.int64]


class HeldOutText:
    """The held-out text of a trial: its pieces, in the order of the split, and the documents that they are of."""

    def __init__(self, split: TokenSplit, train: TrainConfig) -> None:
        self._ends = document_ends(split)
        self.pieces = held_out_pieces(split, train, self._ends)
        self.documents = documents_of(self.pieces, self._ends)
        """Numbers in the split of the documents that at least one token is predicted of."""

    def units(self, start: int, length: int) -> Index:
        """Of every predicted token of a piece, the place of its document among those that are evaluated."""
        return np.searchsorted(self.documents, np.searchsorted(self._ends, np.arange(start + 1, start + length + 1)))


def held_out_pieces(split: TokenSplit, train: TrainConfig, ends: Index | None = None) -> list[Piece]:
    """What is evaluated under the settings of a trial, in the order of the split; `ends`: `document_ends`, if known."""
    found = stretches(split, train.evaluation_text, ends)
    if train.evaluation_by == "documents":
        return found
    return [piece for stretch in found for piece in _cut(*stretch, train.evaluation_length)]


def stretches(split: TokenSplit, evaluation_text: str, ends: Index | None = None) -> list[Piece]:
    """The text that `TrainConfig.evaluation_text` names, in stretches before these are cut into sequences.

    Drawn blocks, whole documents, or one stretch: the start, or all of a split that holds no more than is asked for.
    """
    sample, asked, *cut = evaluation_text.split()
    tokens, last = int(asked), len(split) - 1
    if cut == ["by", "document"]:
        every = documents(split, ends=ends)
        return drawn(every, tokens) if sample == "spread" else documents(split, limit_tokens=tokens, ends=ends)
    if sample == "start" or tokens >= last:
        return _cut(0, min(tokens, last), max(1, last))
    return drawn(sequences(split, int(cut[1])), tokens)


def documents_of(pieces: Sequence[Piece], ends: Index) -> Index:
    """Numbers of the documents that at least one token of `pieces` is of; an end belongs to the document it ends."""
    borders = np.array([(start + 1, start + length) for start, length in pieces])
    first, last = np.searchsorted(ends, borders[:, 0]), np.searchsorted(ends, borders[:, 1])
    return np.unique(np.concatenate([np.arange(a, b + 1) for a, b in zip(first, last, strict=True)]))


def sequences(split: TokenSplit, context: int, limit_tokens: int | None = None) -> list[Piece]:
    """Contiguous sequences of `context` predicted tokens from the beginning of the split; the last may be shorter.

    At most `limit_tokens` tokens are predicted, each once.
    """
    return _cut(0, _last_predicted(split, limit_tokens), context)


def documents(split: TokenSplit, limit_tokens: int | None = None, ends: Index | None = None) -> list[Piece]:
    """Whole documents in order: each is prompted by the end-of-document token before it and predicted to its own end.

    The first document has no token before it, so its own first token is the prompt. At most `limit_tokens` tokens are
    predicted: the last document may be cut.
    """
    last = _last_predicted(split, limit_tokens)
    ends = document_ends(split) if ends is None else ends
    borders = [0, *ends[ends < last].tolist(), last]
    return [(start, end - start) for start, end in itertools.pairwise(borders) if end > start]


def drawn(pieces: Sequence[Piece], limit_tokens: int) -> list[Piece]:
    """Pieces in a random order until `limit_tokens` tokens are predicted, the last one cut; then in their own order.

    Without replacement, each as likely as any other: tokens of every document count as they do in the whole split.
    """
    found, left = [], limit_tokens
    for place in Permutation(len(pieces), SAMPLE_SEED)(np.arange(len(pieces))).tolist():
        if left <= 0:
            break
        start, length = pieces[place]
        found.append((start, min(length, left)))
        left -= length
    return sorted(found)


def document_ends(split: TokenSplit) -> Index:
    """Places of the end-of-document tokens; the split is read in chunks."""
    chunks = ((offset, split.read(offset, min(_CHUNK, len(split) - offset))) for offset in range(0, len(split), _CHUNK))
    return np.concatenate([np.flatnonzero(chunk == EOS) + offset for offset, chunk in chunks] or [np.zeros(0, int)])


class TextCounts(NamedTuple):
    """Number of words (separated by white space) and of line ends of a text."""

    words: int
    line_ends: int


def text_counts(split: TokenSplit, pieces: Sequence[Piece]) -> TextCounts:
    """Counts for the tokens that are predicted: a word counts where it begins, and at the start of the split."""
    words = lines = 0
    for start, length in pieces:
        ids = split.read(start, length + 1)
        # No word continues from one document into the next.
        parts = np.split(ids[1:], np.flatnonzero(ids[1:] == EOS))
        texts = [split.corpus.tokenizer.decode(part) for part in parts]
        before = split.corpus.tokenizer.decode(ids[:1])
        continued = start > 0 and _in_word(before[-1:]) and _in_word(texts[0][:1])
        words += sum(len(text.split()) for text in texts) - int(continued)
        lines += sum(text.count(b"\n") for text in texts)
    return TextCounts(words, lines)


def _in_word(byte: bytes) -> bool:
    return bool(byte) and not byte.isspace()


def _cut(start: int, length: int, context: int) -> list[Piece]:
    return [(start + offset, min(context, length - offset)) for offset in range(0, length, context)]


def _last_predicted(split: TokenSplit, limit_tokens: int | None) -> int:
    return len(split) - 1 if limit_tokens is None else min(limit_tokens, len(split) - 1)
