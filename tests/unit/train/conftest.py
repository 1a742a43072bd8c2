"""Trials small enough for a second, on the plain engine unless a test says otherwise."""

from collections.abc import Callable
from typing import Any

import pytest

from vqscale.data.corpus import open_corpus
from vqscale.models.presets import resolve
from vqscale.study.trial import TrainConfig, Trial

MakeTrial = Callable[..., Trial]


@pytest.fixture(scope="session")
def make_trial(corpus_uri: str) -> MakeTrial:
    corpus = open_corpus(corpus_uri)

    def make(arch: str = "transformer_vq", model: dict[str, Any] | None = None, **train: Any) -> Trial:
        recipe = {
            "context": 64, "tokens": 64 * 8 * 12, "batch_tokens": 64 * 8, "lr": 0.01, "engine": "plain",
            "evaluation_tokens": 2048,
        } | train  # fmt: skip
        dims = {"codebook_size": 16, "block_length": 16} if arch == "transformer_vq" else {}
        return Trial(
            model=resolve(arch, "pico", corpus.vocab_size, dims | (model or {})),
            train=TrainConfig(**recipe),
            preset="pico",
            corpus=corpus_uri,
            corpus_fingerprint=corpus.fingerprint,
        )

    return make
