"""Compressors on held-out text, with and without the training text, and the file that keeps them."""

import functools
import gzip
import lzma
import signal
import threading
from typing import Any

import numpy as np
import pyppmd
import pytest

from vqscale.data import references as module
from vqscale.data.corpus import Corpus, open_text
from vqscale.data.prepare import prepare
from vqscale.data.references import PPMD_MEMORY, PPMD_ORDER, ppmd, ppmd_size, text_references
from vqscale.errors import CorpusError
from vqscale.results.references import Level, References, parse_references, references_of

WORDS = ("held", "out", "text", "spread", "over", "documents", "window", "state", "loss", "token")


def text_of(random: np.random.Generator, count: int) -> bytes:
    return (" ".join(random.choice(WORDS, size=count)) + "\n").encode()


@pytest.fixture
def corpus(tmp_path: Any) -> Corpus:
    folder, random = tmp_path / "texts", np.random.default_rng(0)
    folder.mkdir()
    for number in range(80):
        (folder / f"{number:02}.txt").write_bytes(text_of(random, 300))
    prepare(str(folder), str(tmp_path / "corpus"))
    return open_text(str(tmp_path / "corpus"))


def level(found: References, by: str, text: str, *, after: bool) -> Level:
    (one,) = [one for one in found.levels if (one.by, one.text, one.training_bytes > 0) == (by, text, after)]
    return one


def texts(corpus: Corpus) -> tuple[bytes, bytes]:
    return tuple(  # type: ignore[return-value]
        corpus.tokenizer.decode(split.read(0, len(split))) for split in map(corpus.split, ("train", "validation"))
    )


def test_levels_after_the_training_text_are_differences_of_the_tools_sizes(corpus: Corpus) -> None:
    train, held_out = texts(corpus)
    found = text_references(corpus, "spread 512 by 128", read_bytes=len(train))
    near = train[-32768:]
    assert (found.split_bytes, found.training_bytes) == (len(held_out), len(train))
    expected = {
        ("gzip", False): len(gzip.compress(held_out, 9)),
        ("gzip", True): len(gzip.compress(near + held_out, 9)) - len(gzip.compress(near, 9)),
        ("xz", False): len(lzma.compress(held_out, preset=9)),
        ("xz", True): len(lzma.compress(train + held_out, preset=9)) - len(lzma.compress(train, preset=9)),
    }
    for (by, after), size in expected.items():
        one = level(found, by, "split", after=after)
        assert one.bpb == 8 * size / len(held_out)
        assert one.training_bytes == (min(len(train), 32768) if by == "gzip" and after else len(train) * after)


def test_levels_of_the_evaluated_text_are_of_exactly_that_text(corpus: Corpus) -> None:
    split = corpus.split("validation")
    found = text_references(corpus, "start 300", read_bytes=1000)
    text = corpus.tokenizer.decode(split.read(1, 300))
    assert found.evaluated_bytes == len(text)
    assert found.evaluated_documents == 1
    assert level(found, "gzip", "evaluated", after=False).bpb == 8 * len(gzip.compress(text, 9)) / len(text)
    after = sorted(one.training_bytes for one in found.levels if one.by == "ppmd" and one.text == "evaluated")
    assert after == [0, 1000, corpus.split("train").record.bytes]


def test_text_that_is_read_before_makes_every_window_cheaper(corpus: Corpus) -> None:
    found = text_references(corpus, "spread 2000 by 500", read_bytes=4096)
    for by in ("gzip", "xz"):
        for text in ("evaluated", "split"):
            assert level(found, by, text, after=True).bpb < level(found, by, text, after=False).bpb
    ppmds = [one for one in found.levels if (one.by, one.text) == ("ppmd", "evaluated")]
    by_training = sorted(ppmds, key=lambda one: one.training_bytes)
    assert [one.bpb for one in by_training] == sorted((one.bpb for one in ppmds), reverse=True)


def test_whole_split_that_is_evaluated_is_measured_but_for_its_first_token(corpus: Corpus) -> None:
    found = text_references(corpus, "spread 10000000 by 2048", read_bytes=10)
    assert found.evaluated_bytes == corpus.split("validation").record.bytes - 1
    assert found.evaluated_documents == found.split_documents == corpus.split("validation").documents


def test_ppmd_reproduces_the_text_and_is_the_same_every_time(corpus: Corpus) -> None:
    train, held_out = texts(corpus)
    before, after = ppmd(held_out, train)
    assert (before, after) == ppmd(held_out, train)
    decoder = pyppmd.Ppmd8Decoder(PPMD_ORDER, PPMD_MEMORY, pyppmd.PPMD8_RESTORE_METHOD_CUT_OFF)
    whole = train + held_out
    assert decoder.decode(before + after, len(whole)) == whole
    # What the coder holds back between the two is a few bytes.
    assert ppmd_size(held_out, train) == len(after)
    assert abs(len(ppmd(whole, b"")[1]) - len(ppmd(train, b"")[1]) - len(after)) <= 8


def test_ppmd_is_near_the_entropy_of_a_source_that_it_can_learn() -> None:
    # Ten words in any order: log2(10) bits for a word and its space, 5.6 bytes on average.
    random = np.random.default_rng(1)
    train, text = text_of(random, 60_000), text_of(random, 20_000)
    entropy = 20_000 * np.log2(10) / len(text)
    found = 8 * ppmd_size(text, train) / len(text)
    assert entropy < found < 1.05 * entropy


def test_training_text_is_bounded_and_stated(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_TRAINING", 20_000)
    monkeypatch.setattr(module, "MOST_HELD_OUT", 3_000)
    train, held_out = texts(corpus)
    found = text_references(corpus, "start 500", read_bytes=len(train))
    assert (found.split_bytes, found.split_documents) == (3_000, None)  # a part of a document is none
    assert level(found, "xz", "split", after=True).training_bytes == 17_000  # the rest of the window is for the text
    after = level(found, "ppmd", "split", after=True)
    assert after.training_bytes == 20_000
    assert after.bpb == 8 * ppmd_size(held_out[:3_000], train[-20_000:]) / 3_000


def test_bpe_corpus_is_compressed_as_bytes(tmp_path: Any) -> None:
    folder, random = tmp_path / "texts", np.random.default_rng(0)
    folder.mkdir()
    for number in range(60):
        (folder / f"{number:02}.txt").write_bytes(text_of(random, 300))
    prepare(str(folder), str(tmp_path / "corpus"), tokenizer="bpe", vocab_size=300)
    corpus = open_text(str(tmp_path / "corpus"))
    found = text_references(corpus, "start 200", read_bytes=10_000)
    assert found.evaluated_bytes > 200
    assert found.evaluated_bytes == int(corpus.token_bytes[corpus.split("validation").read(1, 200)].sum())


def test_text_without_any_byte_is_refused(corpus: Corpus) -> None:
    with pytest.raises(CorpusError, match="has no text"):
        text_references(corpus, "start 0", read_bytes=10)


OLD = {"a291832cef03/131072": {"bytes": 131072, "unigram_bpb": 4.4, "gzip_bpb": 3.14, "xz_bpb": 2.86}}


def test_file_of_an_earlier_version_is_of_the_start_by_compressors_that_had_read_nothing() -> None:
    known = parse_references(OLD)
    (found,) = known.values()
    assert found.evaluation_text == "start 131072"
    assert {(one.name, one.training_bytes, one.bpb) for one in found.levels} == {
        ("unigram entropy", 0, 4.4),
        ("gzip -9", 0, 3.14),
        ("xz -9", 0, 2.86),
    }
    for text in ("start 131072", None):
        assert references_of(known, "a291832cef032b57", text) == found
    for other in ("spread 131072 by 2048", "start 65536"):
        assert references_of(known, "a291832cef032b57", other) is None
    assert references_of(known, "b291832cef032b57", "start 131072") is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"a/1": {"gzip_bpb": "3"}}, "a/1 holds no numbers"),
        ({"a/1": {}}, "evaluation_text"),
        ({"a/1": {"gzip_bpb": 3.0}}, "evaluated_bytes"),
        ({"a/1": {"bytes": 5, "gzip_bpb": -3.0}}, "greater than 0"),
        ({"a/1": 3}, "a/1"),
        ({"a/1": {"levels": []}}, "2 faults"),
    ],
)
def test_damaged_file_is_refused_with_what_is_wrong(content: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_references(content)


def test_stop_ends_compressors_in_the_middle_of_their_text(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 256)
    read: list[int] = []
    chunks = module._chunks

    def counted(text: bytes, stop: Any, at: int | None = None) -> Any:
        for chunk in chunks(text, stop):
            read.append(len(chunk))
            if len(read) == at:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            yield chunk

    monkeypatch.setattr(module, "_chunks", counted)
    text_references(corpus, "start 500", read_bytes=1000)
    whole = len(read)
    read.clear()
    monkeypatch.setattr(module, "_chunks", functools.partial(counted, at=whole // 10))
    with pytest.raises(KeyboardInterrupt):
        text_references(corpus, "start 500", read_bytes=1000)
    assert len(read) < whole / 2
