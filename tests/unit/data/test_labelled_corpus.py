"""Labelled corpora: what is written is what is read, at any address; damage and unrecognised files are refused."""

from pathlib import Path

import numpy as np
import pytest

from vqscale.data.corpus import open_corpus, open_text
from vqscale.data.labelled.corpus import LabelledCorpus
from vqscale.data.labelled.format import Example, LabelledManifest, Layout, Vocabulary
from vqscale.data.labelled.prepare import prepare_labelled
from vqscale.data.labelled.source import Labelled
from vqscale.data.manifests import read_manifest
from vqscale.data.prepare import prepare
from vqscale.data.shards import SPLITS
from vqscale.errors import CorpusError


def example(layout: Layout, random: np.random.Generator) -> Example:
    tokens = tuple(random.integers(0, 50, size=random.integers(5, 40)) for _ in range(layout.sequences))
    if layout.labels == "sequence":
        return Example(tokens, label=int(random.integers(len(layout.classes))))
    positions = np.sort(random.choice(len(tokens[0]), size=3, replace=False))
    return Example(tokens, None, positions, random.integers(0, 3, size=3), random.integers(0, 9, size=3))


@pytest.fixture
def source(made_source):
    """Ten random examples of each split."""

    def make(layout: Layout):
        random = np.random.default_rng(0)
        return made_source(layout, [Labelled(SPLITS[number % 3], example(layout, random)) for number in range(30)])

    return make


@pytest.fixture
def made(source):
    """A source, and the corpus prepared from it."""

    def make(layout: Layout, out: Path | str, **options: int):
        origin = source(layout)
        prepare_labelled(origin, str(out), **options)
        corpus = open_corpus(str(out))
        assert isinstance(corpus, LabelledCorpus)
        return origin, corpus

    return make


def equal(left: Example, right: Example) -> bool:
    pairs = [*zip(left.tokens, right.tokens, strict=True), (left.positions, right.positions)]
    pairs += [(left.labels, right.labels), (left.distances, right.distances)]
    same = (np.array_equal(one, other) if one is not None else other is None for one, other in pairs)
    return left.label == right.label and all(same)


@pytest.mark.parametrize("name_of_layout", ["of_sequences", "of_pairs", "of_tokens"])
@pytest.mark.parametrize("shard_tokens", [40, 10**6])
def test_labelled_corpus_holds_the_examples_in_order(name_of_layout, shard_tokens, made, request, tmp_path):
    layout = request.getfixturevalue(name_of_layout)
    origin, corpus = made(layout, tmp_path / "out", shard_tokens=shard_tokens)
    for name in SPLITS:
        split = corpus.split(name)
        given = [one.example for one in origin.made if one.split == name]
        assert len(split) == len(given) == 10
        assert all(equal(split.example(index), one) for index, one in enumerate(given))
        assert split.lengths.tolist() == [max(map(len, one.tokens)) for one in given]
        assert (len(split.record.shards) == 1) == (shard_tokens == 10**6)


def test_labelled_manifest_counts_classes_and_lengths(made, of_tokens, tmp_path):
    origin, corpus = made(of_tokens, tmp_path / "out")
    record = corpus.manifest.splits["train"]
    given = [one.example for one in origin.made if one.split == "train"]
    labels = np.concatenate([one.labels for one in given])
    assert record.class_counts == tuple(np.bincount(labels, minlength=3).tolist())
    lengths = sorted(len(one.tokens[0]) for one in given)
    assert record.lengths == (lengths[0], lengths[0], lengths[4], lengths[9], lengths[9])
    assert (corpus.classes, corpus.labels, corpus.vocab_size) == (("a", "b", "c"), "token", 50)
    assert corpus.uri == str(tmp_path / "out")


def test_labelled_corpus_on_another_file_system_is_the_same(made, of_pairs, tmp_path):
    origin, local = made(of_pairs, tmp_path / "out")
    _, remote = made(of_pairs, "memory://labelled/out")
    assert remote.fingerprint == local.fingerprint
    assert equal(remote.split("test").example(9), origin.made[29].example)


def test_labelled_fingerprint_depends_on_content_and_layout(made, source, of_sequences, tmp_path):
    _, first = made(of_sequences, tmp_path / "first")
    real = source(of_sequences.model_copy(update={"real_inputs": True}))
    changed = source(of_sequences)
    changed.made[0].example.tokens[0][0] ^= 1
    others = [prepare_labelled(other, str(tmp_path / str(number))) for number, other in enumerate((real, changed))]
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 3


def test_labelled_corpus_asked_for_again_is_not_made_again(source, of_sequences, tmp_path):
    stages: list[str] = []
    prepare_labelled(source(of_sequences), str(tmp_path / "out"))
    prepare_labelled(source(of_sequences), str(tmp_path / "out"), progress=lambda stage, *_: stages.append(stage))
    assert stages == ["complete"]


def test_labelled_corpus_in_place_of_another_is_refused_unless_overwritten(source, of_tokens, of_sequences, tmp_path):
    out = str(tmp_path / "out")
    prepare_labelled(source(of_sequences), out)
    with pytest.raises(CorpusError, match="--overwrite"):
        prepare_labelled(source(of_tokens), out)
    assert prepare_labelled(source(of_tokens), out, overwrite=True) == read_manifest(out)


def test_labelled_preparation_that_failed_leaves_nothing(made_source, source, of_sequences, tmp_path):
    with pytest.raises(CorpusError, match="test of made would be empty"):
        prepare_labelled(made_source(of_sequences, source(of_sequences).made[:2]), str(tmp_path / "out"))
    assert list(tmp_path.glob("*out*")) == []


def test_labelled_examples_without_tokens_are_left_out_and_counted(source, of_sequences, tmp_path):
    origin = source(of_sequences)
    origin.made.append(Labelled("train", Example((np.array([], dtype=int),), label=0)))
    manifest = prepare_labelled(origin, str(tmp_path / "out"))
    assert (manifest.splits["train"].examples, manifest.source.empty_documents) == (10, 1)


def test_labelled_shard_that_is_damaged_is_refused(made, of_sequences, tmp_path):
    made(of_sequences, tmp_path / "out")
    shard = tmp_path / "out" / "test-00000.arrow"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(bytes(content))
    with pytest.raises(CorpusError, match=r"test-00000.arrow is damaged"):
        open_corpus(str(tmp_path / "out"))


def test_labelled_manifest_that_is_edited_is_refused(made, of_sequences, tmp_path):
    made(of_sequences, tmp_path / "out")
    place = tmp_path / "out" / "manifest.json"
    place.write_text(place.read_text().replace('"yes"', '"maybe"'))
    with pytest.raises(CorpusError, match="fingerprint does not match"):
        open_corpus(str(tmp_path / "out"))


def test_labelled_corpus_where_text_is_needed_is_refused(made, of_sequences, tmp_path):
    made(of_sequences, tmp_path / "out")
    with pytest.raises(CorpusError, match="labelled examples, not text"):
        open_text(str(tmp_path / "out"))


def test_text_corpus_keeps_its_own_manifest(texts, tmp_path):
    manifest = prepare(str(texts), str(tmp_path / "out"))
    assert open_text(str(tmp_path / "out")).manifest == manifest
    assert not isinstance(read_manifest(str(tmp_path / "out")), LabelledManifest)
    assert '"task"' not in (tmp_path / "out" / "manifest.json").read_text()


def test_layout_of_labelled_pairs_of_tokens_is_refused(of_tokens):
    with pytest.raises(ValueError, match="one sequence only"):
        Layout.model_validate(of_tokens.model_dump() | {"sequences": 2})


@pytest.mark.parametrize(("size", "allowed"), [(1, False), (2, True), (2**32, True), (2**32 + 1, False)])
def test_vocabulary_has_at_least_two_ids_and_fits_32_bits(size, allowed):
    if allowed:
        assert Vocabulary(size=size, rule="itself").size == size
        return
    with pytest.raises(ValueError, match="size"):
        Vocabulary(size=size, rule="itself")
