import multiprocessing
import os
import signal
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from vqscale.data import prepare as prepare_module
from vqscale.data.corpus import open_corpus
from vqscale.data.manifests import read_manifest
from vqscale.data.prepare import prepare
from vqscale.data.shards import SPLITS
from vqscale.data.sources import FileSource, Piece
from vqscale.data.splits import hash_split
from vqscale.data.tokenize import EOS
from vqscale.errors import CorpusError, StorageError


@dataclass
class Generated:
    """A source of `count` documents that breaks before document `breaks_at`."""

    count: int
    breaks_at: int | None = None
    size: int = 1000
    split_rule: str = "document-hash"
    counts_words: bool = False
    asked: list[int] = field(default_factory=list)

    def describe(self) -> str:
        return "generated"

    def files(self) -> list[Any]:
        return []

    def identity(self) -> dict[str, Any]:
        return {"count": self.count, "size": self.size}

    def pieces(self) -> Iterator[Piece]:
        for number in range(self.count):
            if number == self.breaks_at:
                raise KeyboardInterrupt
            self.asked.append(number)
            half = f"{number} ".encode() * (self.size // 2 // len(f"{number} "))
            yield Piece(half, False)
            yield Piece(half, True)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def text(folder: Path, split: str) -> bytes:
    tokens = open_corpus(str(folder)).split(split)
    return tokens.corpus.tokenizer.decode(tokens.read(0, len(tokens)))


def test_prepare_text_lands_in_the_split_of_its_hash(texts, tmp_path):
    manifest = prepare(str(texts), str(tmp_path / "out"))
    expected = dict.fromkeys(SPLITS, b"")
    for path in sorted(texts.iterdir()):
        expected[hash_split(path.read_bytes(), (0.9, 0.05, 0.05))] += path.read_bytes()
    assert {name: text(tmp_path / "out", name) for name in SPLITS} == expected
    assert sum(record.documents for record in manifest.splits.values()) == 60
    assert all(record.tokens == record.bytes + record.documents for record in manifest.splits.values())
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "home") == ["out", "texts"]


def test_prepare_every_document_ends_with_eos(texts, tmp_path):
    prepare(str(texts), str(tmp_path / "out"))
    tokens = open_corpus(str(tmp_path / "out")).split("train")
    ids = tokens.read(0, len(tokens))
    assert ids[-1] == EOS
    assert np.count_nonzero(ids == EOS) == tokens.documents


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
def test_prepare_contiguous_cuts_at_the_fractions(tmp_path, tokenizer):
    data = ("zwölf Boxkämpfer jagen " * 2000).encode()
    for name, part in {"1.txt": data[:7020], "2.txt": data[7020:]}.items():
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(part)
    options = {"tokenizer": tokenizer, "vocab_size": 280 if tokenizer == "bpe" else None}
    prepare(str(tmp_path / "in"), str(tmp_path / "out"), split="contiguous", encoding="binary", **options)
    parts = [text(tmp_path / "out", name) for name in SPLITS]
    assert b"".join(parts) == data
    cuts = [len(parts[0]), len(parts[0]) + len(parts[1])]
    slack = 1 if tokenizer == "bpe" else 0  # bpe moves on to the next character
    assert all(0 <= cut - round(len(data) * share) <= slack for cut, share in zip(cuts, (0.9, 0.95), strict=True))


def test_prepare_is_independent_of_address_and_packing(texts, tmp_path):
    first = prepare(str(texts), str(tmp_path / "a"))
    again = prepare(str(texts / "*.txt"), str(tmp_path / "elsewhere" / "b"))
    assert first.fingerprint == again.fingerprint


@pytest.mark.parametrize(
    "options",
    [{"tokenizer": "bpe", "vocab_size": 270}, {"split": "contiguous"}, {"fractions": (0.8, 0.1, 0.1)}],
)
def test_prepare_other_content_gets_another_fingerprint(texts, tmp_path, options):
    plain = prepare(str(texts), str(tmp_path / "a"))
    assert prepare(str(texts), str(tmp_path / "b"), **options).fingerprint != plain.fingerprint


def test_prepare_shards_hold_exactly_what_was_asked(texts, tmp_path):
    whole = prepare(str(texts), str(tmp_path / "a"))
    manifest = prepare(str(texts), str(tmp_path / "b"), shard_tokens=777)
    for name, record in manifest.splits.items():
        assert [shard.tokens for shard in record.shards[:-1]] == [777] * (len(record.shards) - 1)
        assert (record.tokens, record.bytes, record.documents) == (
            whole.splits[name].tokens,
            whole.splits[name].bytes,
            whole.splits[name].documents,
        )
        assert text(tmp_path / "a", name) == text(tmp_path / "b", name)


def test_prepare_empty_documents_are_counted_and_left_out(texts, tmp_path):
    (texts / "empty.txt").touch()
    manifest = prepare(str(texts), str(tmp_path / "out"))
    assert manifest.source.empty_documents == 1
    assert sum(record.documents for record in manifest.splits.values()) == 60


@pytest.mark.parametrize("breaks_at", [0, 57, 199])
@pytest.mark.parametrize(
    "options",
    [{}, {"split": "contiguous"}, {"tokenizer": "bpe", "vocab_size": 300}],
    ids=["hash", "contiguous", "bpe"],
)
def test_prepare_interrupted_resumes_to_equal_bytes(tmp_path, monkeypatch, breaks_at, options):
    monkeypatch.setattr(prepare_module, "COMMIT_BYTES", 25_000)
    prepare(Generated(200), str(tmp_path / "whole"), shard_tokens=50_000, **options)
    with pytest.raises(KeyboardInterrupt):
        prepare(Generated(200, breaks_at), str(tmp_path / "out"), shard_tokens=50_000, **options)
    assert not (tmp_path / "out").exists()
    with pytest.raises(CorpusError, match=r"no manifest\.json"):
        open_corpus(str(tmp_path / "out"))
    prepare(Generated(200), str(tmp_path / "out"), shard_tokens=50_000, **options)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not list(tmp_path.glob(".prepare-*"))


def test_prepare_interrupted_while_writing_tokenises_only_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_module, "COMMIT_BYTES", 25_000)
    with pytest.raises(KeyboardInterrupt):
        prepare(Generated(200, breaks_at=150), str(tmp_path / "out"))
    encoded: list[int] = []
    encode = prepare_module.ByteTokenizer.encode
    monkeypatch.setattr(
        prepare_module.ByteTokenizer, "encode", lambda self, text: encoded.append(len(text)) or encode(self, text)
    )
    prepare(Generated(200), str(tmp_path / "out"))
    assert len(encoded) < 2 * 200 - 2 * 120


def test_prepare_with_other_options_restarts(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_module, "COMMIT_BYTES", 25_000)
    with pytest.raises(KeyboardInterrupt):
        prepare(Generated(200, breaks_at=100), str(tmp_path / "out"), shard_tokens=50_000)
    prepare(Generated(200), str(tmp_path / "out"), shard_tokens=35_000)
    prepare(Generated(200), str(tmp_path / "whole"), shard_tokens=35_000)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def _prepare_and_die(out: str) -> None:
    prepare_module.COMMIT_BYTES = 25_000

    def die(stage: str, done: int, total: int | None) -> None:
        die.calls += 1
        if die.calls == 250:
            os.kill(os.getpid(), signal.SIGKILL)

    die.calls = 0
    prepare(Generated(200), out, shard_tokens=50_000, progress=die)


def test_prepare_killed_resumes_to_equal_bytes(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_prepare_and_die, args=(str(tmp_path / "out"),))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (tmp_path / ".prepare-out" / "state.json").exists()
    prepare(Generated(200), str(tmp_path / "out"), shard_tokens=50_000)
    prepare(Generated(200), str(tmp_path / "whole"), shard_tokens=50_000)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_prepare_large_input_needs_little_memory(tmp_path):
    with (tmp_path / "big.txt").open("wb") as file:
        for number in range(30):
            file.write(f"line {number:02} of a long text\n".encode() * 50_000)
    assert (tmp_path / "big.txt").stat().st_size == 30 * 50_000 * 23
    tracemalloc.start()
    prepare(str(tmp_path / "big.txt"), str(tmp_path / "out"), split="contiguous", shard_tokens=2**22)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16e6


def test_prepare_complete_corpus_is_left_alone(texts, tmp_path):
    first = prepare(str(texts), str(tmp_path / "out"))
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    stages = []
    assert prepare(str(texts), str(tmp_path / "out"), progress=lambda *report: stages.append(report[0])) == first
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
    assert stages == ["complete"]


def test_prepare_over_another_corpus_needs_overwrite(texts, tmp_path):
    prepare(str(texts), str(tmp_path / "out"), shard_tokens=5000)
    with pytest.raises(CorpusError, match="--overwrite"):
        prepare(str(texts), str(tmp_path / "out"))
    prepare(str(texts), str(tmp_path / "out"), overwrite=True)
    assert len(list((tmp_path / "out").iterdir())) == 4
    open_corpus(str(tmp_path / "out"))


@pytest.mark.parametrize("overwrite", [False, True])
def test_prepare_spares_a_folder_of_other_files(texts, tmp_path, overwrite):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(CorpusError, match=r"thesis\.tex"):
        prepare(str(texts), str(tmp_path / "out"), overwrite=overwrite)
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"


def test_prepare_to_a_file_is_refused(texts, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(CorpusError, match="is a file"):
        prepare(str(texts), str(tmp_path / "out"))


def test_prepare_to_an_unwritable_folder_is_refused(texts):
    with pytest.raises(StorageError, match="cannot be written"):
        prepare(str(texts), "/proc/corpora/out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokenizer": "bpe"}, "bpe needs one"),
        ({"vocab_size": 300}, "bytes has 259"),
        ({"fractions": (0.9, 0.2, 0.05)}, "fractions: .* sum to 1"),
        ({"fractions": (1.0, 0.0, 0.0)}, "fractions: .* positive"),
        ({"shard_tokens": 0}, "shard_tokens: "),
        ({"tokenizer": "words"}, "tokenizer: "),
        ({"tokenizer": "bpe", "vocab_size": 100}, "vocab_size: 100"),
        ({"encoding": "utf-99"}, "encoding: 'utf-99'"),
        ({"encoding": "ascii"}, "59.txt is not ascii at byte 2"),
        ({"split": "own"}, "no splits of its own"),
        ({"format": "jsonl"}, "00.txt line 1 is not JSON"),
        ({"loader": "enwik7"}, "loader: 'enwik7' is not known"),
        ({"loader": "enwik8", "encoding": "latin-1"}, "encoding: 'latin-1' is for files"),
    ],
)
def test_prepare_bad_request_writes_nothing(texts, tmp_path, options, message):
    with pytest.raises(CorpusError, match=message):
        prepare(str(texts), str(tmp_path / "out"), **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["texts"]


def test_prepare_one_document_cannot_be_split_by_hash(tmp_path):
    (tmp_path / "one.txt").write_text("only one")
    with pytest.raises(CorpusError, match=r"would be empty .* --split contiguous"):
        prepare(str(tmp_path / "one.txt"), str(tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["one.txt"]


def test_prepare_source_without_text_is_refused(tmp_path):
    (tmp_path / "one.txt").touch()
    with pytest.raises(CorpusError, match="holds no text"):
        prepare(str(tmp_path / "one.txt"), str(tmp_path / "out"))


def test_prepare_changed_source_is_another_request(texts, tmp_path):
    prepare(str(texts), str(tmp_path / "out"))
    (texts / "00.txt").write_text("changed")
    with pytest.raises(CorpusError, match="another source"):
        prepare(str(texts), str(tmp_path / "out"))


def test_prepare_remote_corpus_equals_the_local_one(texts, tmp_path):
    local = prepare(str(texts), str(tmp_path / "out"), tokenizer="bpe", vocab_size=300)
    remote = prepare(str(texts), "memory://remote/out", tokenizer="bpe", vocab_size=300)
    assert remote == local == read_manifest("memory://remote/out")
    stored = fsspec.filesystem("memory").ls("/remote/out", detail=False)
    assert sorted(name.rsplit("/", 1)[-1] for name in stored) == sorted(contents(tmp_path / "out"))


def _prepare_once(source: str, out: str, queue: Any) -> None:
    stages: list[str] = []
    manifest = prepare(source, out, progress=lambda *report: stages.append(report[0]))
    queue.put((manifest.fingerprint, "write" in stages))


def test_prepare_by_several_processes_happens_once(texts, tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    arguments = (str(texts), str(tmp_path / "out"), queue)
    processes = [context.Process(target=_prepare_once, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    reports = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert len({fingerprint for fingerprint, _ in reports}) == 1
    assert sum(wrote for _, wrote in reports) == 1
    open_corpus(str(tmp_path / "out"))


def test_source_identity_is_what_decides_the_text(texts):
    assert FileSource(uri=str(texts)).identity() == FileSource(uri=str(texts)).identity()
    assert FileSource(uri=str(texts), encoding="latin-1").identity() != FileSource(uri=str(texts)).identity()
