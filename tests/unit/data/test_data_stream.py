import hashlib
import time

import numpy as np
import pytest

from vqscale.data.permutation import Permutation
from vqscale.data.stream import TokenStream
from vqscale.errors import CorpusError


def stream(corpus, **changes) -> TokenStream:
    options = {"batch": 6, "length": 16, "context": 16, "seed": 3} | changes
    return TokenStream(corpus.split("train"), **options)


@pytest.fixture
def corpus(corpus_of):
    return corpus_of(5000, shard_tokens=700)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 1000, 4097])
def test_permutation_is_a_bijection(size):
    order = Permutation(size, 7, 0)(np.arange(size))
    assert sorted(order.tolist()) == list(range(size))


def test_permutation_is_the_one_that_every_fingerprint_was_trained_with():
    """Values from `_reference_order`, written out: the order of data must never change under one fingerprint."""
    orders = {
        (10, (3, 1)): [3, 8, 9, 7, 4, 1, 5, 0, 6, 2],
        (16, (0, 0)): [0, 6, 4, 9, 8, 13, 15, 3, 11, 14, 7, 10, 1, 12, 5, 2],
        (1000, (7, 2)): [49, 942, 307, 363, 354, 242, 3, 987],
    }
    for (size, key), expected in orders.items():
        order = Permutation(size, *key)(np.arange(size))
        assert order[: len(expected)].tolist() == expected
        assert _reference_order(size, *key)[: len(expected)] == expected


def _reference_order(size: int, *key: int) -> list[int]:
    """Eight rounds of a balanced Feistel network on integers of Python, cycle-walked into [0, size)."""
    bits = max(1, -(-(size - 1).bit_length() // 2))
    digest = hashlib.sha512(",".join(map(str, (size, *key))).encode()).digest()
    keys = [int.from_bytes(digest[8 * turn : 8 * turn + 8], "little") for turn in range(8)]

    def mixed(value: int) -> int:  # SplitMix64's finaliser
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
        return value ^ value >> 31

    def network(value: int) -> int:
        left, right = divmod(value, 2**bits)
        for one in keys:
            left, right = right, left ^ mixed(right ^ one) % 2**bits
        return left * 2**bits + right

    order = []
    for index in range(size):
        value = network(index)
        while value >= size:
            value = network(value)
        order.append(value)
    return order


def test_permutation_depends_on_every_part_of_its_key():
    orders = {tuple(Permutation(100, *key)(np.arange(100)).tolist()) for key in [(0, 0), (0, 1), (1, 0), (10,)]}
    assert len(orders) == 4


def test_permutation_mixes_like_a_random_one():
    """Mean distance of neighbours is n / 3 for a random permutation, fixed points are 1 on average."""
    size = 5000
    order = Permutation(size, 1, 2)(np.arange(size))
    assert np.abs(np.diff(order)).mean() == pytest.approx(size / 3, rel=0.05)
    assert np.count_nonzero(order == np.arange(size)) < 8


@pytest.mark.parametrize("context", [16, 64])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_stream_epoch_gives_every_token_once(corpus, context, world):
    """The ledger: every input position of an epoch once, over all ranks and steps, and targets right behind."""
    streams = [stream(corpus, context=context, rank=rank, world=world) for rank in range(world)]
    sequences = streams[0].sequences
    assert sequences == (len(corpus.split("train")) - 1) // context
    tokens = corpus.split("train").read(0, len(corpus.split("train")))
    per_sequence = context // 16
    ledger: list[tuple[int, int, int]] = []
    for step in range(2 * (-(-sequences // 6)) * per_sequence):
        for rank, part in enumerate(streams):
            rows = part.batch(step)
            for place, (start, row) in enumerate(zip(part.starts(step), rows, strict=True), start=rank * 6 // world):
                assert row.tolist() == tokens[start : start + 17].tolist()
                ledger.append((step // per_sequence * 6 + place, step % per_sequence, int(start)))
    for epoch in (0, 1):
        starts = sorted(start for number, _, start in ledger if number // sequences == epoch)
        assert len(set(starts)) == sequences * per_sequence
        assert set(np.diff(starts)) == {16}
        assert starts[0] >= 0
        assert starts[-1] + 16 < len(tokens)


@pytest.mark.parametrize("context", [16, 48])
def test_stream_global_batch_is_the_same_for_any_world(corpus, context):
    for step in (0, 1, 41, 1000):
        whole = stream(corpus, context=context).batch(step)
        for world in (2, 3, 6):
            ranks = [stream(corpus, context=context, rank=rank, world=world).batch(step) for rank in range(world)]
            assert np.array_equal(np.concatenate(ranks), whole)


def test_stream_batches_are_int64_with_targets(corpus):
    rows = stream(corpus, world=2, rank=1).batch(0)
    assert (rows.shape, rows.dtype) == ((3, 17), np.int64)


def test_stream_is_a_function_of_seed_and_step(corpus):
    first, again, other = stream(corpus), stream(corpus), stream(corpus, seed=4)
    later = first.batch(17)
    assert np.array_equal(again.batch(17), later)
    assert np.array_equal(first.batch(17), later)
    assert not np.array_equal(other.batch(17), later)
    assert not np.array_equal(first.batch(18), later)


def test_stream_any_step_is_reached_at_once(corpus):
    far = stream(corpus)
    began = time.perf_counter()
    far.batch(10**9)
    assert time.perf_counter() - began < 0.5
    assert far.epoch(10**9) == 6 * 10**9 // far.sequences


def test_stream_epochs_differ_in_order(corpus):
    part = stream(corpus, batch=1)
    first, second = ([int(part.starts(epoch * part.sequences + n)[0]) for n in range(20)] for epoch in (0, 1))
    assert first != second


def test_stream_rows_continue_through_their_sequences(corpus):
    part = stream(corpus, context=64)
    assert [part.starts_sequence(step) for step in range(9)] == [True, False, False, False] * 2 + [True]
    starts = np.stack([part.starts(step) for step in range(8)])
    assert np.array_equal(np.diff(starts[:4], axis=0), np.full((3, 6), 16))
    assert np.array_equal(np.diff(starts[4:], axis=0), np.full((3, 6), 16))
    last, following = part.batch(0), part.batch(1)
    assert np.array_equal(last[:, -1], following[:, 0])


def test_stream_windows_always_start_a_new_sequence(corpus):
    assert all(stream(corpus).starts_sequence(step) for step in range(5))


def test_stream_batch_larger_than_an_epoch_spans_several(corpus):
    part = stream(corpus, batch=600)
    assert part.sequences == 250
    starts = part.starts(0)
    assert [len(set((starts[:250] // 16).tolist())), len(set((starts[250:500] // 16).tolist()))] == [250, 250]


def test_stream_description_names_what_decides_it(corpus):
    assert stream(corpus).description == stream(corpus, world=2, rank=1).description
    assert stream(corpus).description != stream(corpus, seed=5).description
    assert stream(corpus).description["corpus"] == corpus.fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"world": 4, "batch": 6}, "batch: 6 sequences cannot be shared by 4"),
        ({"context": 40}, "context: 40 is no multiple of the 16"),
        ({"context": 4096}, "context: a sequence needs 4096 .* has 4001. Use a shorter context"),
    ],
)
def test_stream_impossible_request_is_refused(corpus, changes, message):
    with pytest.raises(CorpusError, match=message):
        stream(corpus, **changes)
