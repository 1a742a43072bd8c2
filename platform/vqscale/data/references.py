"""Baselines without a model: order-0 entropy and general-purpose compressors on the same held-out text."""

import gzip
import lzma

import numpy as np

from vqscale.data.corpus import TokenSplit
from vqscale.errors import CorpusError

_XZ_9_DICTIONARY = 64 << 20


def text_references(split: TokenSplit, tokens: int) -> dict[str, float]:
    """Bits per byte of the text of the first `tokens` tokens of `split`, and the number of its bytes.

    Keys: `bytes`; `unigram_bpb`, the entropy of the byte frequencies (the best that a model without context can
    reach); `gzip_bpb` and `xz_bpb`, the sizes of `gzip -9` and `xz -9`, container included. They see the whole text
    before they write; a language model does not.
    """
    text = split.corpus.tokenizer.decode(split.read(0, min(tokens, len(split))))
    if not text:
        raise CorpusError(f"split: the first {tokens} tokens of {split.name} of {split.corpus.uri} hold no text.")
    return {
        "bytes": len(text),
        "unigram_bpb": _entropy(text),
        "gzip_bpb": 8 * len(gzip.compress(text, 9, mtime=0)) / len(text),
        "xz_bpb": 8 * _xz_size(text) / len(text),
    }


def _entropy(text: bytes) -> float:
    counts = np.bincount(np.frombuffer(text, np.uint8), minlength=256)
    shares = counts[counts > 0] / len(text)
    return float(-(shares * np.log2(shares)).sum())


def _xz_size(text: bytes) -> int:
    """Size of `xz -9`. A dictionary larger than the text would only cost memory: 674 MiB at the preset's own size."""
    dictionary = min(_XZ_9_DICTIONARY, max(4096, len(text)))
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": dictionary}]
    return len(lzma.compress(text, format=lzma.FORMAT_XZ, filters=filters))
