"""How held-out text is cut for evaluation: contiguous sequences, or whole documents.

Both give pairs (start, length): tokens start .. start + length are read (length + 1 of them), and each but the first is
predicted from those before it.
"""

from typing import NamedTuple

import numpy as np

from vqscale.data.corpus import TokenSplit
from vqscale.data.tokenize import EOS

_CHUNK = 1 << 20


def sequences(split: TokenSplit, context: int, limit_tokens: int | None = None) -> list[tuple[int, int]]:
    """Contiguous sequences of `context` predicted tokens from the beginning of the split; the last may be shorter.

    At most `limit_tokens` tokens are predicted, each once.
    """
    end = _last_predicted(split, limit_tokens)
    return [(start, min(context, end - start)) for start in range(0, end, context)]


def documents(split: TokenSplit, limit_tokens: int | None = None) -> list[tuple[int, int]]:
    """Whole documents in order: each is prompted by the end-of-document token before it and predicted to its own end.

    The first document has no token before it, so its own first token is the prompt. At most `limit_tokens` tokens are
    predicted: the last document may be cut. The split is scanned in constant memory.
    """
    end = _last_predicted(split, limit_tokens)
    found, prompt = [], 0
    for offset in range(0, end + 1, _CHUNK):
        chunk = split.read(offset, min(_CHUNK, end + 1 - offset))
        for finish in (np.flatnonzero(chunk == EOS) + offset).tolist():
            found.append((prompt, finish - prompt))
            prompt = finish
    return [pair for pair in (*found, (prompt, end - prompt)) if pair[1] > 0]


class TextCounts(NamedTuple):
    """Number of words (separated by white space) and of line ends of a text."""

    words: int
    line_ends: int


def text_counts(split: TokenSplit, limit_tokens: int | None = None) -> TextCounts:
    """Counts for the tokens that are predicted; a word that is cut at the end counts. The text is held in memory."""
    ids = split.read(1, _last_predicted(split, limit_tokens))
    documents = np.split(ids, np.flatnonzero(ids == EOS))  # no word continues from one document into the next
    texts = [split.corpus.tokenizer.decode(document) for document in documents]
    return TextCounts(sum(len(text.split()) for text in texts), sum(text.count(b"\n") for text in texts))


def _last_predicted(split: TokenSplit, limit_tokens: int | None) -> int:
    return len(split) - 1 if limit_tokens is None else min(limit_tokens, len(split) - 1)
