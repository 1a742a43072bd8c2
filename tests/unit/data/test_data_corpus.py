import fsspec
import numpy as np
import pytest

from vqscale.data import verify as verify_module
from vqscale.data.corpora import corpus_folder, list_corpora, resolve_corpus
from vqscale.data.corpus import open_corpus
from vqscale.data.evaluation import documents, sequences
from vqscale.data.prepare import prepare
from vqscale.data.tokenize import EOS
from vqscale.errors import CorpusError


def flip_byte(path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        value = file.read(1)[0]
        file.seek(position)
        file.write(bytes([value ^ 0x10]))


def test_split_read_crosses_shards(corpus_of):
    corpus = corpus_of(5000, shard_tokens=700)
    whole = corpus_of(5000, shard_tokens=10_000).split("train").read(0, 4001)
    tokens = corpus.split("train")
    assert (len(tokens), len(tokens.record.shards), tokens.documents) == (4001, 6, 1)
    for start, length in [(0, 4001), (699, 2), (700, 700), (650, 1500), (0, 0), (4001, 0), (1400, 0), (4000, 1)]:
        assert tokens.read(start, length).tolist() == whole[start : start + length].tolist()


def test_split_read_inside_a_shard_is_no_copy(corpus_of):
    tokens = corpus_of(5000).split("train")
    assert np.shares_memory(tokens.read(1000, 300), tokens.read(1100, 200))
    assert not tokens.read(0, 10).flags.writeable


@pytest.mark.parametrize(("start", "length"), [(-1, 5), (3999, 3), (5000, 1)])
def test_split_read_outside_is_an_error(corpus_of, start, length):
    with pytest.raises(IndexError, match="train"):
        corpus_of(5000).split("train").read(start, length)


def test_corpus_says_how_many_bytes_of_text_a_token_has(texts, tmp_path):
    prepare(str(texts), str(tmp_path / "out"), tokenizer="bpe", vocab_size=300)
    corpus = open_corpus(str(tmp_path / "out"))
    tokens = corpus.split("train")
    ids = tokens.read(0, len(tokens))
    assert corpus.vocab_size == 300
    assert corpus.token_bytes[ids].sum() == tokens.record.bytes
    assert corpus.bytes_per_token == tokens.record.bytes / len(tokens)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("opened_before", [False, True])
def test_corpus_flipped_byte_is_found_in_its_shard(texts, tmp_path, share, opened_before):
    prepare(str(texts), str(tmp_path / "out"), shard_tokens=8000)
    if opened_before:
        open_corpus(str(tmp_path / "out"))
    shard = tmp_path / "out" / "train-00001.arrow"
    flip_byte(shard, round(share * (shard.stat().st_size - 1)))
    with pytest.raises(CorpusError, match=r"train-00001.arrow is damaged"):
        open_corpus(str(tmp_path / "out"))


def test_corpus_verified_once_is_not_hashed_again(texts, tmp_path, monkeypatch):
    prepare(str(texts), str(tmp_path / "out"))
    hashed = []
    sha256 = verify_module.file_sha256
    monkeypatch.setattr(verify_module, "file_sha256", lambda path: hashed.append(path.name) or sha256(path))
    for _ in range(2):
        open_corpus(str(tmp_path / "out"))
    assert sorted(hashed) == ["test-00000.arrow", "train-00000.arrow", "validation-00000.arrow"]


def test_corpus_opens_without_a_writable_home(texts, tmp_path, monkeypatch):
    prepare(str(texts), str(tmp_path / "out"))
    monkeypatch.setenv("VQSCALE_HOME", "/proc/nowhere")
    assert len(open_corpus(str(tmp_path / "out")).split("train"))


@pytest.mark.parametrize("name", ["train-00000.arrow", "tokenizer.json"])
def test_corpus_missing_file_is_named(texts, tmp_path, name):
    prepare(str(texts), str(tmp_path / "out"), tokenizer="bpe", vocab_size=300)
    (tmp_path / "out" / name).unlink()
    with pytest.raises(CorpusError, match=name):
        open_corpus(str(tmp_path / "out"))


def test_corpus_damaged_tokenizer_is_named(texts, tmp_path):
    prepare(str(texts), str(tmp_path / "out"), tokenizer="bpe", vocab_size=300)
    flip_byte(tmp_path / "out" / "tokenizer.json", 200)
    with pytest.raises(CorpusError, match=r"tokenizer\.json is damaged"):
        open_corpus(str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"dtype"', '"type"', "damaged at (dtype|type)"),
        ('"format": 1', '"format": 2', "damaged at format"),
        ('"vocab_size": 259', '"vocab_size": 260', "fingerprint does not match"),
        ("{", "", "damaged at its start"),
    ],
)
def test_corpus_damaged_manifest_is_named(texts, tmp_path, old, new, message):
    prepare(str(texts), str(tmp_path / "out"))
    path = tmp_path / "out" / "manifest.json"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(CorpusError, match=message):
        open_corpus(str(tmp_path / "out"))


def test_corpus_missing_names_the_command():
    with pytest.raises(CorpusError, match="vqscale data prepare"):
        open_corpus("/nowhere/at/all")


def test_corpus_remote_is_read_from_the_cache(texts, tmp_path, home):
    manifest = prepare(str(texts), "memory://far/corpus")
    prepare(str(texts), str(tmp_path / "out"))
    near, far = open_corpus(str(tmp_path / "out")).split("train"), open_corpus("memory://far/corpus").split("train")
    assert near.read(0, len(near)).tolist() == far.read(0, len(far)).tolist()
    assert (home / "shards" / manifest.fingerprint / "train-00000.arrow").exists()


def test_corpus_remote_damage_is_found_and_repaired(texts, tmp_path):
    prepare(str(texts), "memory://bad/corpus")
    memory = fsspec.filesystem("memory")
    right = memory.cat_file("/bad/corpus/test-00000.arrow")
    memory.pipe_file("/bad/corpus/test-00000.arrow", right[:-1] + b"?")
    with pytest.raises(CorpusError, match=r"test-00000.arrow is damaged"):
        open_corpus("memory://bad/corpus")
    memory.pipe_file("/bad/corpus/test-00000.arrow", right)
    assert len(open_corpus("memory://bad/corpus").split("test"))


def test_resolve_stdlib_is_prepared_once_and_listed(monkeypatch, tmp_path):
    library = tmp_path / "python"
    for number in range(80):
        (library / f"package{number % 5}").mkdir(parents=True, exist_ok=True)
        (library / f"package{number % 5}" / f"module{number}.py").write_text(f"value = {number}\n")
    (library / "test").mkdir()
    (library / "test" / "broken.py").write_bytes(b"\xff")
    monkeypatch.setattr("vqscale.data.loaders.sysconfig.get_path", lambda name: str(library))
    stages = []
    uri = resolve_corpus("stdlib", progress=lambda *report: stages.append(report))
    assert uri == corpus_folder("stdlib") == list_corpora()[0]
    assert sum(record.documents for record in open_corpus(uri).manifest.splits.values()) == 80
    count = len(stages)
    assert resolve_corpus("stdlib", progress=lambda *report: stages.append(report)) == uri
    assert len(stages) == count == 80


def test_resolve_name_is_looked_up_in_the_home(texts):
    prepare(str(texts), corpus_folder("mine"))
    assert resolve_corpus("mine") == corpus_folder("mine")


@pytest.mark.parametrize(
    ("name", "command"), [("unknown", "prepare SOURCE --out .*unknown"), ("enwik8", "prepare FILES --as enwik8")]
)
def test_resolve_unknown_name_says_how_to_make_it(name, command):
    with pytest.raises(CorpusError, match=command):
        resolve_corpus(name)


def test_resolve_uri_is_kept():
    assert resolve_corpus("s3://bucket/corpus/") == "s3://bucket/corpus"


def test_sequences_predict_every_token_once(corpus_of):
    tokens = corpus_of(5000).split("test")
    found = sequences(tokens, context=64)
    predicted = [position for start, length in found for position in range(start + 1, start + length + 1)]
    assert predicted == list(range(1, len(tokens)))
    assert [length for _, length in found[:-1]] == [64] * (len(found) - 1)


def test_sequences_stop_at_the_limit(corpus_of):
    found = sequences(corpus_of(5000).split("test"), context=64, limit_tokens=150)
    assert found == [(0, 64), (64, 64), (128, 22)]


def test_documents_are_whole_and_prompted_by_the_end_before(texts, tmp_path):
    prepare(str(texts), str(tmp_path / "out"))
    tokens = open_corpus(str(tmp_path / "out")).split("train")
    found = documents(tokens)
    assert len(found) == tokens.documents
    for index, (start, length) in enumerate(found):
        row = tokens.read(start, length + 1)
        assert row[-1] == EOS
        assert (row[0] == EOS) == (index > 0)
        assert np.count_nonzero(row[1:] == EOS) == 1
    assert sum(length for _, length in found) == len(tokens) - 1
    assert sum(length for _, length in documents(tokens, limit_tokens=1000)) == 1000
