"""Baselines without a network: general-purpose compressors on the held-out text, with and without the training text."""

import gzip
import lzma
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version

import numpy as np

from vqscale.data.corpus import Corpus, TokenSplit
from vqscale.data.evaluation import document_ends, documents_of, stretches
from vqscale.errors import CorpusError
from vqscale.results.references import Compressor, Level, References

MOST_TRAINING = 64 << 20
"""Bytes of training text that a compressor reads, the last ones: the window of `xz -9`."""
MOST_HELD_OUT = 16 << 20
"""Bytes of the held-out split that are compressed, the first ones."""
GZIP_WINDOW = 32 << 10
"""The window of deflate."""
PPMD_ORDER = 8
PPMD_MEMORY = 512 << 20
AT_ONCE = 2
"""Compressors that run side by side: at 64 MiB `xz -9` takes 0.7 GB."""
_CHUNK = 1 << 20
_WINDOWED: tuple[Compressor, ...] = ("gzip", "xz")
"""Compressors whose output does not tell what of it is the training text's: that is compressed alone, too."""

SETTINGS: dict[Compressor, str] = {
    "unigram": "entropy of the text's own byte frequencies",
    "gzip": "gzip -9, window 32 KiB, container included",
    "xz": "xz -9, dictionary 64 MiB at most, container included",
}


def text_references(corpus: Corpus, evaluation_text: str, *, read_bytes: int) -> References:
    """What compressors make of the validation split, and of what is evaluated of it under that name.

    A figure "after n bytes" is size(last n bytes of the training text, then the held-out text) - size(those n bytes).
    PPMd is a mixture of the byte n-grams up to an order, learned as it reads; it is measured after as many bytes as
    `read_bytes`, too: those that the longest run has read. Takes up to 1.5 GB and, for 64 MiB, a minute or
    two.
    """
    split, train = corpus.split("validation"), corpus.split("train")
    pieces = stretches(split, evaluation_text)
    evaluated = b"".join(_text(split, start + 1, length) for start, length in pieces)
    if not evaluated:
        raise CorpusError(f"split: what is evaluated of {split.name} of {corpus.uri} ({evaluation_text}) has no text.")
    whole = _first_bytes(split, MOST_HELD_OUT)
    training = _last_bytes(train, MOST_TRAINING)
    texts = {"evaluated": evaluated} if evaluated == whole else {"evaluated": evaluated, "split": whole}
    read = training[max(0, len(training) - read_bytes) :]
    return References(
        evaluation_text=evaluation_text,
        evaluated_bytes=len(evaluated),
        evaluated_documents=len(documents_of(pieces, document_ends(split))),
        split_bytes=len(whole),
        split_documents=split.documents if len(whole) == split.record.bytes else None,
        training_bytes=train.record.bytes,
        read_bytes=read_bytes,
        levels=[
            Level.model_validate({"by": by, "text": name, "training_bytes": after, "bpb": 8 * size / len(texts[name])})
            for (name, by, after), size in _sizes(texts, training, read).items()
            if size > 0
        ],
        settings=SETTINGS | {"ppmd": _ppmd_settings()},
    )


def _sizes(texts: dict[str, bytes], training: bytes, read: bytes) -> dict[tuple[str, Compressor, int], float]:
    """Bytes of the compressed texts, by text, compressor and the bytes of training text read before."""
    near = training[-GZIP_WINDOW:]
    # A window that holds the text reaches no further back than what it leaves.
    far = training[max(0, len(training) + max(map(len, texts.values())) - MOST_TRAINING) :]
    jobs: dict[tuple[str, Compressor, int], Callable[[], float]] = {
        ("", "gzip", 0): partial(_gzip, near),
        ("", "xz", 0): partial(_xz, far),
        ("evaluated", "ppmd", len(read)): partial(ppmd_size, texts["evaluated"], read),
    }
    for name, text in texts.items():
        jobs |= {
            (name, "unigram", 0): partial(_entropy, text),
            (name, "gzip", 0): partial(_gzip, text),
            (name, "gzip", len(near)): partial(_gzip, near + text),
            (name, "xz", 0): partial(_xz, text),
            (name, "xz", len(far)): partial(_xz, far + text),
            (name, "ppmd", 0): partial(ppmd_size, text, b""),
            (name, "ppmd", len(training)): partial(ppmd_size, text, training),
        }
    with ThreadPoolExecutor(AT_ONCE) as pool:  # compressors run without Python's lock
        sizes = dict(zip(jobs, pool.map(lambda measure: measure(), jobs.values()), strict=True))
    before = {by: sizes.pop(("", by, 0)) for by in _WINDOWED}
    return {key: size - (before.get(key[1], 0.0) if key[2] else 0.0) for key, size in sizes.items()}


def _text(split: TokenSplit, start: int, length: int) -> bytes:
    return split.corpus.tokenizer.decode(split.read(start, length))


def _first_bytes(split: TokenSplit, most: int) -> bytes:
    return _text(split, 0, min(len(split), round(most / split.corpus.bytes_per_token * 1.05)))[:most]


def _last_bytes(split: TokenSplit, most: int) -> bytes:
    """The last `most` bytes of a split's text, or nearly as many."""
    tokens = min(len(split), round(most / split.corpus.bytes_per_token * 1.05))
    return _text(split, len(split) - tokens, tokens)[-most:]


def _entropy(text: bytes) -> float:
    """In bytes, of the whole text."""
    counts = np.bincount(np.frombuffer(text, np.uint8), minlength=256)
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / len(text))).sum()) / 8


def _gzip(text: bytes) -> int:
    return len(gzip.compress(text, 9, mtime=0))


def _xz(text: bytes) -> int:
    """Size of `xz -9`. A dictionary larger than the text would only cost memory: 674 MiB at the preset's own size."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": min(MOST_TRAINING, max(4096, len(text)))}]
    return len(lzma.compress(text, format=lzma.FORMAT_XZ, filters=filters))


def ppmd(text: bytes, training: bytes) -> tuple[bytes, bytes]:
    """The code of `training` and, after it, that of `text`: one after the other they are one stream of PPMd.

    Where its memory is full, PPMd (variant I, "cut off") forgets its rarest contexts; variant H forgets all of them.
    """
    import pyppmd

    encoder = pyppmd.Ppmd8Encoder(PPMD_ORDER, PPMD_MEMORY, pyppmd.PPMD8_RESTORE_METHOD_CUT_OFF)
    before = b"".join(encoder.encode(training[start : start + _CHUNK]) for start in range(0, len(training), _CHUNK))
    return before, encoder.encode(text) + encoder.flush()


def ppmd_size(text: bytes, training: bytes) -> int:
    """Bytes that `text` takes after `training`, to within the four bytes that the coder holds back."""
    return len(ppmd(text, training)[1])


def _ppmd_settings() -> str:
    return (
        f"PPMd variant I (pyppmd {version('pyppmd')}), byte n-grams up to order {PPMD_ORDER}, memory"
        f" {PPMD_MEMORY >> 20} MiB"
    )
