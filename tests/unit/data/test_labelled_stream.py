"""Batches of labelled examples: padding, cutting, order."""

import numpy as np
import pytest

from vqscale.data.corpus import open_corpus
from vqscale.data.labelled.corpus import LabelledCorpus, LabelledSplit
from vqscale.data.labelled.format import Example
from vqscale.data.labelled.prepare import prepare_labelled
from vqscale.data.labelled.source import Labelled
from vqscale.data.labelled.stream import NO_LABEL, LabelledStream, collate
from vqscale.data.shards import SPLITS
from vqscale.errors import CorpusError


@pytest.fixture
def split_of(tmp_path, made_source):
    """Makes a train split of examples with these layouts and lengths."""

    def make(layout, lengths) -> LabelledSplit:
        random = np.random.default_rng(1)
        examples = []
        for number, length in enumerate(lengths):
            tokens = tuple(random.integers(1, 50, size=length) for _ in range(layout.sequences))
            if layout.labels == "sequence":
                examples.append(Example(tokens, label=number % 2))
            else:
                positions = np.array([2, length - 1])
                examples.append(Example(tokens, None, positions, np.array([0, 2]), np.array([1, length - 2])))
        rest = [Labelled(name, examples[0]) for name in SPLITS[1:]]
        out = str(tmp_path / f"{layout.labels}{layout.sequences}")
        prepare_labelled(made_source(layout, [*(Labelled("train", one) for one in examples), *rest]), out)
        corpus = open_corpus(out)
        assert isinstance(corpus, LabelledCorpus)
        return corpus.split("train")

    return make


def test_labelled_batch_is_padded_on_the_right_to_a_multiple_of_64(split_of, of_sequences):
    split = split_of(of_sequences, [5, 70, 3])
    batch = collate(split, np.array([0, 1, 2]), context=1000)
    assert batch.tokens_BQT.shape == (3, 1, 128)
    assert batch.mask_BQT.sum(-1).ravel().tolist() == [5, 70, 3]
    assert batch.tokens_BQT[0, 0, :5].tolist() == split.example(0).tokens[0].tolist()
    assert batch.tokens_BQT[~batch.mask_BQT].sum() == 0
    assert batch.label.tolist() == [0, 1, 0]


def test_labelled_batch_is_no_longer_than_the_context_and_keeps_the_first_tokens(split_of, of_sequences):
    split = split_of(of_sequences, [5, 100])
    batch = collate(split, np.array([1]), context=50)
    assert batch.tokens_BQT.tolist() == [[split.example(1).tokens[0][:50].tolist()]]


def test_labelled_batch_of_pairs_pads_each_sequence(split_of, of_pairs):
    split = split_of(of_pairs, [5, 9])
    batch = collate(split, np.array([1]), context=64)
    assert batch.tokens_BQT.shape == (1, 2, 64)
    assert batch.mask_BQT.sum(-1).tolist() == [[9, 9]]
    assert batch.tokens_BQT[0, 1, :9].tolist() == split.example(1).tokens[1].tolist()


def test_labelled_tokens_that_are_cut_keep_the_last_ones_with_their_labels(split_of, of_tokens):
    split = split_of(of_tokens, [10, 100])
    batch = collate(split, np.array([0, 1]), context=64)
    assert batch.label_BT is not None
    assert batch.distance_BT is not None
    assert batch.tokens_BQT[1, 0].tolist() == split.example(1).tokens[0][-64:].tolist()
    assert [(row, int(column)) for row, column in np.argwhere(batch.label_BT != NO_LABEL)] == [(0, 2), (0, 9), (1, 63)]
    assert batch.label_BT[1, 63] == 2
    assert batch.distance_BT[0, [2, 9]].tolist() == [1, 8]
    assert batch.distance_BT[1, 63] == 98


def test_labelled_stream_deals_each_example_once_an_epoch_in_another_order(split_of, of_sequences):
    stream = LabelledStream(split_of(of_sequences, [4] * 12), batch=4, context=64, seed=3)
    epochs = [np.concatenate([stream.batch(step).index_B for step in range(3 * n, 3 * n + 3)]) for n in range(2)]
    assert all(sorted(epoch.tolist()) == list(range(12)) for epoch in epochs)
    assert epochs[0].tolist() != epochs[1].tolist()


def test_labelled_stream_deals_batches_of_like_lengths_in_no_order_of_length(split_of, of_sequences):
    lengths = np.random.default_rng(0).permutation(np.arange(3, 131))
    split = split_of(of_sequences, lengths)
    stream = LabelledStream(split, batch=8, context=192, seed=1)
    dealt = [stream.batch(step).index_B for step in range(16)]
    longest = [int(split.lengths[index].max()) for index in dealt]
    assert all(np.ptp(split.lengths[index]) == 7 for index in dealt)
    assert longest != sorted(longest)
    assert longest != sorted(longest, reverse=True)


def test_labelled_stream_passes_over_the_end_of_an_epoch_without_a_gap(split_of, of_sequences):
    stream = LabelledStream(split_of(of_sequences, [4] * 5), batch=3, context=64, seed=0)
    dealt = np.concatenate([stream.batch(step).index_B for step in range(5)])
    assert sorted(dealt.tolist()) == sorted([0, 1, 2, 3, 4] * 3)


def test_labelled_stream_is_the_same_for_any_world(split_of, of_tokens):
    split = split_of(of_tokens, [5, 200, 70, 9, 130, 66, 3, 12])
    whole = LabelledStream(split, batch=4, context=1000, seed=0)
    parts = [LabelledStream(split, batch=4, context=1000, seed=0, rank=rank, world=2) for rank in range(2)]
    for step in range(4):
        one, others = whole.batch(step), [part.batch(step) for part in parts]
        for name in ("index_B", "tokens_BQT", "mask_BQT", "label_BT", "distance_BT"):
            together = np.concatenate([getattr(other, name) for other in others])
            assert np.array_equal(getattr(one, name), together)
    assert whole.description == parts[1].description


def test_labelled_stream_refuses_a_batch_that_cannot_be_shared(split_of, of_sequences):
    with pytest.raises(CorpusError, match="3 examples cannot be shared by 2 workers"):
        LabelledStream(split_of(of_sequences, [4, 5]), batch=3, context=64, seed=0, world=2)
