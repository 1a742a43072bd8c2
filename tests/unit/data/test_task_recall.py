"""Recall tasks: every label is the value right after the first mention of its key, as far back as it says."""

import numpy as np
import pytest

from vqscale.data.corpus import open_corpus
from vqscale.data.labelled.corpus import LabelledCorpus
from vqscale.data.labelled.prepare import prepare_labelled
from vqscale.data.options import checked
from vqscale.data.shards import SPLITS
from vqscale.data.tasks.generator import InProcesses
from vqscale.data.tasks.needle import Needle
from vqscale.data.tasks.recall import Recall
from vqscale.errors import CorpusError

COUNTS = (40, 10, 30)
RECALL = Recall(examples=COUNTS, length=64, test_lengths=(64, 128, 512), pairs=6, keys=20, values=10, fillers=5)
NEEDLE = Needle(examples=COUNTS, length=64, test_lengths=(64, 128, 512), pairs=3, keys=20, values=10, fillers=5)


def opened(generator, out) -> LabelledCorpus:
    prepare_labelled(generator, str(out))
    corpus = open_corpus(str(out))
    assert isinstance(corpus, LabelledCorpus)
    return corpus


@pytest.mark.parametrize("generator", [RECALL, NEEDLE], ids=["recall", "needle"])
def test_recall_labels_are_the_values_of_the_keys(generator, tmp_path):
    corpus = opened(generator, tmp_path / "out")
    for name in SPLITS:
        split = corpus.split(name)
        for index in range(len(split)):
            example = split.example(index)
            [tokens] = example.tokens
            assert len(example.positions) == generator.pairs
            assert len({int(tokens[position]) for position in example.positions}) == generator.pairs
            for position, label, distance in zip(example.positions, example.labels, example.distances, strict=True):
                key = int(tokens[position])
                assert 1 <= key <= 20
                first = int(np.flatnonzero(tokens == key)[0])
                assert first < position
                assert tokens[first + 1] == 21 + label
                assert position - (first + 1) == distance


@pytest.mark.parametrize("generator", [RECALL, NEEDLE], ids=["recall", "needle"])
def test_recall_keys_and_values_occur_nowhere_else(generator):
    for index in range(20):
        [tokens] = generator.draw("train", index, 0).tokens
        assert np.count_nonzero((tokens >= 1) & (tokens <= 20)) == 2 * generator.pairs
        assert np.count_nonzero((tokens >= 21) & (tokens <= 30)) == generator.pairs
        assert tokens.min() >= 1
        assert tokens.max() <= 35


@pytest.mark.parametrize("generator", [RECALL, NEEDLE], ids=["recall", "needle"])
def test_recall_test_split_holds_every_length_alike_and_training_one(generator, tmp_path):
    corpus = opened(generator, tmp_path / "out")
    assert np.unique(corpus.split("train").lengths).tolist() == [64]
    assert np.unique(corpus.split("validation").lengths).tolist() == [64]
    lengths, counts = np.unique(corpus.split("test").lengths, return_counts=True)
    assert (lengths.tolist(), counts.tolist()) == ([64, 128, 512], [10, 10, 10])


@pytest.mark.parametrize("generator", [RECALL, NEEDLE], ids=["recall", "needle"])
def test_recall_training_lengths_take_turns_and_count_only_where_given(generator, tmp_path):
    mixed = generator.model_copy(update={"train_lengths": (32, 64)})
    corpus = opened(mixed, tmp_path / "out")
    lengths, counts = np.unique(corpus.split("train").lengths, return_counts=True)
    assert (lengths.tolist(), counts.tolist()) == ([32, 64], [20, 20])
    assert np.unique(corpus.split("validation").lengths).tolist() == [64]
    assert "train_lengths" not in generator.identity()["options"]
    assert mixed.identity()["options"]["train_lengths"] == (32, 64)
    with pytest.raises(CorpusError, match="are too few for"):
        checked(type(generator), length=64, pairs=6, train_lengths=(64, 20))


def test_recall_pairs_come_first_and_near_queries_are_common():
    generator = Recall(length=1024, pairs=4)
    examples = [generator.draw("train", index, 0) for index in range(300)]
    assert all(1 <= token <= 64 for example in examples for token in example.tokens[0][0:8:2])
    positions = np.concatenate([example.positions for example in examples])
    assert positions.min() >= 8
    assert np.all(positions % 2 == 0)
    # Of 508 gaps with odds of about 1 / gap, the first 23 hold 0.55 (harmonic numbers) of the first query's odds.
    assert 0.45 < np.mean(positions < 8 + 2 * 23) < 0.6
    uniform = Recall(length=1024, pairs=4, power=1.0)
    positions = np.concatenate([uniform.draw("train", index, 0).positions for index in range(300)])
    assert np.mean(positions < 8 + 2 * 23) < 0.1


def test_needle_depths_fill_the_haystack_and_questions_come_last():
    generator = Needle(length=64)
    examples = [generator.draw("train", index, 0) for index in range(1500)]
    assert all(example.positions.tolist() == [63] for example in examples)
    distances = np.array([int(example.distances[0]) for example in examples])
    assert sorted(set(distances.tolist())) == list(range(1, 63))
    assert np.bincount(distances, minlength=63)[1:].max() < 60


def test_needle_values_are_all_common():
    generator = Needle(length=32, values=8)
    labels = [int(generator.draw("train", index, 0).labels[0]) for index in range(800)]
    assert min(np.bincount(labels, minlength=8)) > 60


def test_needle_in_text_is_a_window_of_the_same_split(corpus_of):
    text = corpus_of(4000)
    generator = Needle(text=text.uri, examples=(5, 2, 2), length=100, keys=7, values=5)
    assert generator.layout().vocabulary.size == 1 + 7 + 5 + 259
    held = bytes((text.split("test").read(0, len(text.split("test"))) - 3).astype(np.uint8))
    example = generator.draw("test", 1, 0)
    before = example.tokens[0][: 99 - int(example.distances[0]) - 1]
    after = example.tokens[0][99 - int(example.distances[0]) + 1 : 99]
    for part in (before, after):
        assert bytes((part - 13 - 3).astype(np.uint8)) in held


def test_needle_in_text_is_identified_by_the_content_of_the_text(corpus_of, tmp_path):
    text = corpus_of(4000)
    here = prepare_labelled(Needle(text=text.uri, examples=(5, 2, 2), length=100), str(tmp_path / "here"))
    moved = tmp_path / "moved"
    (tmp_path / "corpus-4000-1000").rename(moved)
    there = prepare_labelled(Needle(text=str(moved), examples=(5, 2, 2), length=100), str(tmp_path / "there"))
    assert (here.request, here.fingerprint) == (there.request, there.fingerprint)


def test_needle_longer_than_its_text_is_refused(corpus_of):
    with pytest.raises(CorpusError, match=r"text: validation .* has 401 tokens, 500 are needed"):
        checked(Needle, text=corpus_of(4000).uri, validation_lengths=(500,))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": 65}, "pairs: 65 need as many different keys, there are 64"),
        ({"test_lengths": (256, 31)}, "length: 31 tokens are too few for 8 pairs"),
        ({"values": 1}, "values: "),
    ],
)
def test_recall_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(CorpusError, match=message):
        checked(Recall, **options)


def test_recall_drawn_by_two_processes_is_the_same(tmp_path):
    generator = Recall(examples=(150, 10, 10), length=32)
    one = prepare_labelled(generator, str(tmp_path / "one"))
    two = prepare_labelled(InProcesses(generator, 2), str(tmp_path / "two"))
    assert one == two


@pytest.mark.parametrize("kind", [Recall, Needle])
def test_recall_needs_four_tokens_per_pair_at_every_length(kind):
    options = {"length": 64, "pairs": 8, "keys": 20}
    assert kind(**options, test_lengths=(64, 32)).lengths_of("test") == (64, 32)
    with pytest.raises(ValueError, match="length: 31 tokens are too few for 8 pairs; use 32 or more"):
        kind(**options, test_lengths=(64, 31))
