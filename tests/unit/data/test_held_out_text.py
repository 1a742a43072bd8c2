"""Which held-out text is evaluated: spread over all documents, the same for every trial of a corpus."""

from typing import Any

import numpy as np
import pytest

from vqscale.data.corpus import Corpus, open_text
from vqscale.data.evaluation import HeldOutText, document_ends, documents, held_out_pieces, sequences
from vqscale.data.prepare import prepare
from vqscale.data.tokenize import EOS
from vqscale.study.trial import TrainConfig


def train(**values: Any) -> TrainConfig:
    recipe: dict[str, Any] = {"context": 64, "tokens": 4096, "batch_tokens": 1024, "lr": 0.01}
    return TrainConfig(**recipe | values)


@pytest.fixture
def corpus(tmp_path: Any) -> Corpus:
    """Three hundred documents of 20 to 400 bytes; all of them are of the training split, which is taken as held out."""
    folder, random = tmp_path / "many", np.random.default_rng(3)
    folder.mkdir()
    for number in range(300):
        size = int(random.integers(20, 400))
        (folder / f"{number:03}.txt").write_bytes(random.integers(97, 122, size=size).astype(np.uint8).tobytes())
    prepare(str(folder), str(tmp_path / "corpus"), shard_tokens=5000)
    return open_text(str(tmp_path / "corpus"))


def predicted(pieces: list[tuple[int, int]]) -> list[int]:
    return [token for start, length in pieces for token in range(start + 1, start + length + 1)]


def test_spread_text_is_the_same_at_every_context_and_predicts_every_token_once(corpus: Corpus) -> None:
    split = corpus.split("train")
    texts = [
        predicted(held_out_pieces(split, train(context=context, evaluation_tokens=16_384)))
        for context in (64, 128, 512, 1024)
    ]
    assert len(set(texts[0])) == len(texts[0]) == 16_384
    assert all(text == texts[0] for text in texts[1:])


def test_spread_text_comes_from_all_over_the_split(corpus: Corpus) -> None:
    split = corpus.split("train")
    text = HeldOutText(split, train(evaluation_tokens=8192))
    quarters = np.histogram([start for start, _ in text.pieces], bins=4, range=(0, len(split)))[0]
    assert sum(length for _, length in text.pieces) == 8192
    assert quarters.min() > 0
    assert len(text.documents) > 40  # sixteen blocks of 512 tokens, each of two or three documents


def test_start_text_is_the_beginning_of_the_split_as_before(corpus: Corpus) -> None:
    split = corpus.split("train")
    start = train(evaluation_sample="start", evaluation_tokens=1000)
    assert held_out_pieces(split, start) == sequences(split, 64, limit_tokens=1000)
    whole = start.model_copy(update={"evaluation_by": "documents"})
    assert held_out_pieces(split, whole) == documents(split, limit_tokens=1000)


def test_text_depends_on_neither_seed_nor_recipe(corpus: Corpus) -> None:
    split = corpus.split("train")
    first = held_out_pieces(split, train(evaluation_tokens=4096))
    assert held_out_pieces(split, train(evaluation_tokens=4096, seed=7, lr=0.5, batch_tokens=2048)) == first


@pytest.mark.parametrize("tokens", [10_000_000, 65_536])
@pytest.mark.parametrize("by", ["contiguous", "documents"])
def test_split_that_holds_fewer_tokens_is_evaluated_whole(corpus: Corpus, tokens: int, by: str) -> None:
    split = corpus.split("validation")
    assert len(split) < tokens
    spread = held_out_pieces(split, train(evaluation_tokens=tokens, evaluation_by=by, context=96, batch_tokens=960))
    start = train(evaluation_tokens=tokens, evaluation_by=by, context=96, batch_tokens=960, evaluation_sample="start")
    assert spread == held_out_pieces(split, start)
    assert sorted(predicted(spread)) == list(range(1, len(split)))


def test_spread_documents_are_whole_but_for_the_last_and_drawn_from_everywhere(corpus: Corpus) -> None:
    split = corpus.split("train")
    text = HeldOutText(split, train(evaluation_by="documents", evaluation_tokens=5000))
    every = dict(documents(split))
    assert sum(length for _, length in text.pieces) == 5000
    assert sum(every[start] != length for start, length in text.pieces) == 1
    assert len(text.documents) == len(text.pieces)
    assert text.documents.min() < 100
    assert text.documents.max() > len(every) - 100


def test_every_predicted_token_belongs_to_the_document_that_it_is_read_in(corpus: Corpus) -> None:
    split = corpus.split("train")
    ids = split.read(0, len(split))
    text = HeldOutText(split, train(evaluation_tokens=4096))
    for start, length in text.pieces:
        numbers = text.documents[text.units(start, length)]
        assert numbers.tolist() == [
            np.count_nonzero(ids[:token] == EOS) for token in range(start + 1, start + length + 1)
        ]
    assert (document_ends(split) == np.flatnonzero(ids == EOS)).all()


def test_one_document_is_spread_over_its_length(corpus_of: Any) -> None:
    text = HeldOutText(corpus_of(100_000).split("train"), train(evaluation_tokens=4096))
    assert len(text.documents) == 1
    assert max(start for start, _ in text.pieces) > 40_000


def test_thousands_of_tiny_documents_are_told_apart(tmp_path: Any) -> None:
    (tmp_path / "lines.jsonl").write_text("".join(f'{{"text": "{n:04}"}}\n' for n in range(6000)))
    prepare(str(tmp_path / "lines.jsonl"), str(tmp_path / "corpus"))
    split = open_text(str(tmp_path / "corpus")).split("train")
    text = HeldOutText(split, train(evaluation_tokens=8192))
    assert 1600 < len(text.documents) < 1700  # five tokens each, with those that a block cuts
    assert len(np.unique(np.concatenate([text.units(*piece) for piece in text.pieces]))) == len(text.documents)


def test_long_sequences_are_read_whole_and_spread(corpus_of: Any) -> None:
    """As with evaluation_context 16,384 and carried state: no sequence is cut where there is text left."""
    split = corpus_of(200_000).split("train")
    pieces = held_out_pieces(split, train(evaluation_context=16_384, evaluation_tokens=65_536))
    assert [length for _, length in pieces] == [16_384] * 4
    assert len(set(predicted(pieces))) == 65_536


@pytest.mark.parametrize(
    ("values", "block"),
    [
        ({"evaluation_tokens": 65_536}, 2048),
        ({"evaluation_tokens": 65_536, "context": 1024}, 2048),
        ({"evaluation_tokens": 65_536, "context": 4096, "batch_tokens": 4096}, 4096),
        ({"evaluation_tokens": 65_536, "evaluation_context": 3000}, 4096),
        ({"evaluation_tokens": 16_384}, 1024),
        ({"evaluation_tokens": 2048}, 128),
        ({"evaluation_tokens": 3}, 64),
        ({"evaluation_tokens": 10_000_000}, 2048),
        ({"evaluation_tokens": 65_536, "evaluation_block": 8192}, 8192),
    ],
)
def test_blocks_are_small_where_tokens_are_few_and_never_shorter_than_a_sequence(
    values: dict[str, Any], block: int
) -> None:
    assert train(**values).evaluation_block_tokens == block


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"evaluation_block": 32}, "less than the 64 tokens of a held-out sequence"),
        ({"evaluation_block": 64, "evaluation_context": 128}, "less than the 128 tokens"),
        ({"evaluation_block": 128, "evaluation_sample": "start"}, "no meaning with evaluation_sample start"),
        ({"evaluation_block": 128, "evaluation_by": "documents"}, "evaluation_by documents"),
        ({"evaluation_block": 0}, "greater than 0"),
        ({"evaluation_sample": "random"}, "'spread' or 'start'"),
    ],
)
def test_sample_that_makes_no_sense_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        train(**values)
