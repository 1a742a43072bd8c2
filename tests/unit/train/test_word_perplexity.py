"""Perplexity per word, for corpora whose published results use it."""

import math

import pytest
import torch

from vqscale.costing.presets import resolve
from vqscale.data.corpus import open_text
from vqscale.data.evaluation import sequences, text_counts
from vqscale.data.prepare import prepare
from vqscale.models import build
from vqscale.study.trial import TrainConfig
from vqscale.train.evaluate import evaluate_text

BOOK = "It was a cold day.\n\nNobody spoke;  nobody\nlistened.\n"


@pytest.fixture(scope="module")
def books(tmp_path_factory):
    folder = tmp_path_factory.mktemp("books")
    for split in ("train", "validation", "test"):
        (folder / "pg19" / split).mkdir(parents=True)
        for number in range(2):
            (folder / "pg19" / split / f"{number}.txt").write_text(BOOK)
    prepare(str(folder / "pg19"), str(folder / "corpus"), loader="pg19", partial=True)
    return open_text(str(folder / "corpus"))


def test_words_and_line_ends_are_those_of_the_predicted_text(books):
    # The first byte is only a prompt, so the first word lacks its first letter; it is a word all the same.
    split = books.split("validation")
    assert text_counts(split, sequences(split, 1000)) == (2 * 9, 2 * 4)
    assert text_counts(split, sequences(split, 1000, limit_tokens=8)) == (3, 0)


@pytest.mark.parametrize("cut", [1, 2, 5, 7])
def test_words_that_a_cut_goes_through_are_counted_where_they_begin(books, cut):
    split = books.split("validation")
    assert text_counts(split, sequences(split, cut)) == (2 * 9, 2 * 4)


@pytest.mark.parametrize("by", ["contiguous", "documents"])
def test_word_perplexity_is_of_total_nats_over_words(books, by):
    train = TrainConfig(context=32, tokens=32, batch_tokens=32, lr=0.1, evaluation_by=by, evaluation_tokens=60_000)
    model = build(resolve("transformer", "pico", books.vocab_size, {}), seed=0)
    held_out = evaluate_text(model, books, "validation", train, torch.device("cpu"))
    total = held_out.nats * held_out.tokens
    assert held_out.tokens == 2 * (len(BOOK) + 1) - 1
    assert held_out.word_perplexity == pytest.approx(math.exp(total / 18))
    assert held_out.word_perplexity_eol == pytest.approx(math.exp(total / 26))


def test_word_perplexity_is_absent_where_words_are_not_counted(corpus_uri):
    train = TrainConfig(context=32, tokens=32, batch_tokens=32, lr=0.1, evaluation_tokens=256)
    corpus = open_text(corpus_uri)
    model = build(resolve("transformer", "pico", corpus.vocab_size, {}), seed=0)
    held_out = evaluate_text(model, corpus, "validation", train, torch.device("cpu"))
    assert (held_out.word_perplexity, held_out.word_perplexity_eol) == (None, None)
