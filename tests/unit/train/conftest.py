"""Trials small enough for a second, on the plain engine unless a test says otherwise."""

import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch.distributed as dist

from vqscale.costing.presets import resolve
from vqscale.data.corpus import open_text
from vqscale.planning.plan import plan
from vqscale.study.spec import parse_study
from vqscale.study.trial import TrainConfig, Trial

MakeTrial = Callable[..., Trial]


@pytest.fixture(scope="session")
def make_trial(corpus_uri: str) -> MakeTrial:
    corpus = open_text(corpus_uri)

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


@pytest.fixture(scope="session")
def make_classifier(make_labelled: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> MakeTrial:
    """A trial on `Marked` examples as planning makes it."""
    storage = str(tmp_path_factory.mktemp("runs"))

    def make(
        kind: str,
        arch: str = "transformer_vq",
        model: dict[str, Any] | None = None,
        longest: int = 60,
        updates: int = 12,
        **train: Any,
    ) -> Trial:
        context, pairs = (16, 2) if kind == "pair" else (64, 1)
        batch = 32 * pairs * context
        recipe = {
            "context": context, "tokens": updates * batch, "batch_tokens": batch, "lr": 0.01, "engine": "plain",
        } | train  # fmt: skip
        dims = {"arch": arch, "preset": "pico", "codebook_size": 16, "block_length": 16, "causal": True}
        study = parse_study(
            {
                "study": "marked",
                "task": "classification",
                "data": {"corpus": make_labelled(kind, longest)},
                "model": dims | (model or {}),
                "train": recipe,
                "storage": storage,
            },
            source="test",
        )
        (planned,) = plan(study).trials
        return planned.trial

    return make


@pytest.fixture(scope="session")
def process_group() -> Iterator[None]:
    """A gloo group of one: what Ray Train sets up before a worker's function runs.

    One for all tests: DeepSpeed keeps the first group of a process, and fails on it once it is destroyed.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    names = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    dist.init_process_group("gloo")
    yield
    dist.destroy_process_group()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
