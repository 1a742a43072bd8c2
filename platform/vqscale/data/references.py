"""Baselines without a network: general-purpose compressors on the held-out text, with and without the training text."""

import lzma
import threading
import zlib
from collections.abc import Callable, Iterator
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

Key = tuple[str, Compressor, int]
"""Text, compressor, and bytes of training text that it has read before."""

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


class _StoppedError(Exception):
    """Raised in a compressor's thread once the caller no longer waits for it."""


Stop = threading.Event
Measure = Callable[[Stop], float]


def _all_of(jobs: dict[Key, Measure]) -> dict[Key, float]:
    """What the jobs return. When the user stops the program, they end within a mebibyte of text."""
    stop = Stop()
    pool = ThreadPoolExecutor(AT_ONCE)  # compressors run without Python's lock
    try:
        return dict(zip(jobs, pool.map(lambda measure: measure(stop), jobs.values()), strict=True))
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _chunks(text: bytes, stop: Stop) -> Iterator[bytes]:
    for start in range(0, len(text), _CHUNK):
        if stop.is_set():
            raise _StoppedError
        yield text[start : start + _CHUNK]


def _sizes(texts: dict[str, bytes], training: bytes, read: bytes) -> dict[Key, float]:
    """Bytes of the compressed texts, by text, compressor and the bytes of training text read before."""
    near = training[-GZIP_WINDOW:]
    # A window that holds the text reaches no further back than what it leaves.
    far = training[max(0, len(training) + max(map(len, texts.values())) - MOST_TRAINING) :]
    jobs: dict[Key, Measure] = {
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
    sizes = _all_of(jobs)
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


def _entropy(text: bytes, stop: Stop) -> float:
    """In bytes, of the whole text."""
    counts = sum(np.bincount(np.frombuffer(chunk, np.uint8), minlength=256) for chunk in _chunks(text, stop))
    known = np.asarray(counts)[np.asarray(counts) > 0]
    return float(-(known * np.log2(known / len(text))).sum()) / 8


def _gzip(text: bytes, stop: Stop) -> int:
    encoder = zlib.compressobj(9, wbits=31)  # with the header of gzip
    return sum(len(encoder.compress(chunk)) for chunk in _chunks(text, stop)) + len(encoder.flush())


def _xz(text: bytes, stop: Stop) -> int:
    """Size of `xz -9`. A dictionary larger than the text would only cost memory: 674 MiB at the preset's own size."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": min(MOST_TRAINING, max(4096, len(text)))}]
    encoder = lzma.LZMACompressor(format=lzma.FORMAT_XZ, filters=filters)
    return sum(len(encoder.compress(chunk)) for chunk in _chunks(text, stop)) + len(encoder.flush())


def ppmd(text: bytes, training: bytes, stop: Stop | None = None) -> tuple[bytes, bytes]:
    """The code of `training` and, after it, that of `text`: one after the other they are one stream of PPMd.

    Where its memory is full, PPMd (variant I, "cut off") forgets its rarest contexts; variant H forgets all of them.
    """
    import pyppmd

    stop = stop or Stop()
    encoder = pyppmd.Ppmd8Encoder(PPMD_ORDER, PPMD_MEMORY, pyppmd.PPMD8_RESTORE_METHOD_CUT_OFF)
    before = b"".join(encoder.encode(chunk) for chunk in _chunks(training, stop))
    return before, b"".join(encoder.encode(chunk) for chunk in _chunks(text, stop)) + encoder.flush()


def ppmd_size(text: bytes, training: bytes, stop: Stop | None = None) -> int:
    """Bytes that `text` takes after `training`, to within the four bytes that the coder holds back."""
    return len(ppmd(text, training, stop)[1])


def _ppmd_settings() -> str:
    return (
        f"PPMd variant I (pyppmd {version('pyppmd')}), byte n-grams up to order {PPMD_ORDER}, memory"
        f" {PPMD_MEMORY >> 20} MiB"
    )
