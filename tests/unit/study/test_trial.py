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
