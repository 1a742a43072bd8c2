"""A trial: consistency of its recipe, its name and what enters its identity."""

from typing import Any

import pytest
from pydantic import ValidationError

from vqscale.formatting import short_count
from vqscale.study.model import ModelConfig
from vqscale.study.trial import TrainConfig, Trial

RECIPE: dict[str, Any] = {"context": 256, "tokens": 100_000, "batch_tokens": 4096, "lr": 0.003}
MODEL = ModelConfig(
    arch="transformer_vq", head="shga", vocab_size=259, d_model=32, n_layer=2, d_key=16, d_value=64, n_head=1,
    n_kv_head=1, codebook_size=64, block_length=64,
)  # fmt: skip


def trial(**changes: Any) -> Trial:
    values: dict[str, Any] = {
        "model": MODEL, "train": TrainConfig(**RECIPE), "preset": "pico", "corpus": "/a", "corpus_fingerprint": "f",
    }  # fmt: skip
    return Trial(**(values | changes))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"segment": 100}, "no multiple of segment"),
        ({"batch_tokens": 5000}, "whole sequences"),
        ({"tokens": 100}, "less than one update"),
        ({"context": 0}, "greater than 0"),
        ({"lr": 0.0}, "greater than 0"),
        ({"zero": 4}, "less than or equal to 3"),
        ({"precision": "fp8"}, "fp32"),
        ({"context": "256"}, "integer"),
    ],
)
def test_recipe_that_does_not_fit_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TrainConfig(**(RECIPE | change))


def test_recipe_counts_updates_and_sequences() -> None:
    train = TrainConfig(**RECIPE | {"segment": 64})
    assert (train.steps, train.batch_size, train.segment_length) == (24, 64, 64)


def test_identity_ignores_where_the_corpus_lies() -> None:
    assert trial().fingerprint == trial(corpus="s3://elsewhere/a").fingerprint


def test_identity_follows_corpus_model_and_recipe() -> None:
    other_recipe = TrainConfig(**RECIPE | {"lr": 0.001})
    prints = {
        trial().fingerprint,
        trial(corpus_fingerprint="g").fingerprint,
        trial(train=other_recipe).fingerprint,
        trial(model=MODEL.model_copy(update={"codebook_size": 32})).fingerprint,
    }
    assert len(prints) == 4


def test_identity_is_stable() -> None:
    # A change of this value means that every finished trial of every user is trained again.
    assert trial().id == f"vq-pico-S64-T256-D100k-seed0-{trial().fingerprint[:12]}"
    assert trial().fingerprint == trial().model_copy().fingerprint


def test_short_count_has_three_digits_and_a_unit() -> None:
    assert [short_count(n) for n in (12, 1536, 1_000_000, 2.5e9)] == ["12", "1.54k", "1M", "2.5G"]


def test_setup_is_shared_by_seeds_and_by_nothing_else() -> None:
    setup = trial().setup
    assert trial(train=TrainConfig(**RECIPE, seed=7), corpus="/b", preset=None).setup == setup
    for change in ({"weight_decay": 0.25}, {"clip": None}):
        assert trial(train=TrainConfig(**RECIPE, **change)).setup != setup
    assert trial(model=MODEL.model_copy(update={"dropout_residual": 0.1})).setup != setup
    assert trial(corpus_fingerprint="g").setup != setup


# Of `trial()` as an earlier version had it, which evaluated the first tokens of the split.
BEFORE = "8e1676fb5088b53254fc01cf6281a2a725770470237e5c85fea5ca86539a4718"
PREFIX_BEFORE = "51412c94002e8c5757c9182b51e2a884620752ef312a7723c4f6ad5a8984bcbf"


def test_trial_on_the_start_of_the_split_has_the_identity_that_it_always_had() -> None:
    start = TrainConfig(**RECIPE, evaluation_sample="start")
    assert trial(train=start).fingerprint == BEFORE
    assert trial().fingerprint != BEFORE
    assert trial(train=TrainConfig(**RECIPE, evaluation_block=4096)).fingerprint != trial().fingerprint


def test_shared_updates_do_not_depend_on_the_text_of_the_evaluation() -> None:
    wsd = RECIPE | {"schedule": "wsd"}
    for sample in ({}, {"evaluation_sample": "start"}, {"evaluation_block": 4096}):
        assert trial(train=TrainConfig(**wsd, **sample)).shared_prefix == PREFIX_BEFORE


def test_classifier_has_no_sample_in_its_identity() -> None:
    model = MODEL.model_copy(update={"classes": 10, "pooling": "mean"})
    prints = {
        trial(model=model, train=TrainConfig(**RECIPE, evaluation_sample=s)).fingerprint for s in ("spread", "start")
    }
    assert len(prints) == 1


def test_evaluation_text_names_what_is_evaluated() -> None:
    def text(**train: Any) -> str:
        return TrainConfig(**RECIPE, **train).evaluation_text

    assert text() == "spread 65536 by 2048"
    assert text(evaluation_sample="start") == "start 65536"
    assert text(evaluation_by="documents", evaluation_tokens=9000) == "spread 9000 by document"
    assert text(evaluation_sample="start", evaluation_by="documents") == "start 65536 by document"
    assert text(evaluation_block=8192) == "spread 65536 by 8192"
