"""Trials small enough for a second, on the plain engine unless a test says otherwise."""

import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest
import torch.distributed as dist

from vqscale.data.corpus import open_text
from vqscale.data.labelled.format import Example, Layout, Vocabulary
from vqscale.data.labelled.prepare import prepare_labelled
from vqscale.data.labelled.source import Labelled
from vqscale.models.presets import resolve
from vqscale.plan.plan import plan
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


Kind = Literal["sequence", "pair", "token"]
EXAMPLES = {"train": 2048, "validation": 97, "test": 50}
"""Odd numbers: last batches are ragged."""


@dataclass(frozen=True)
class Marked:
    """Noise of 5 to 60 tokens (pairs: to 12) with one of three marks in it, ids 1 to 3: trivial to tell.

    sequence: the class is the mark. pair: whether both sequences have the same. token: the mark comes first, and the
    class at three later positions is the mark; held-out examples may be longer.
    """

    kind: Kind
    longest: int = 60

    def describe(self) -> str:
        return f"marked {self.kind}"

    def identity(self) -> dict[str, Any]:
        return {"marked": self.kind, "longest": self.longest}

    def layout(self) -> Layout:
        return Layout(
            classes=("different", "same") if self.kind == "pair" else ("one", "two", "three"),
            labels="token" if self.kind == "token" else "sequence",
            sequences=2 if self.kind == "pair" else 1,
            vocabulary=Vocabulary(size=16, rule="itself"),
            distances=self.kind == "token",
        )

    def extent(self) -> tuple[int, int | None]:
        return 0, None

    def walk(self) -> Iterator[Labelled]:
        random = np.random.default_rng(0)
        for split, count in EXAMPLES.items():
            for _ in range(count):
                yield Labelled(split, self._draw(random, 60 if split == "train" else self.longest))  # type: ignore[arg-type]

    def _draw(self, random: np.random.Generator, longest: int) -> Example:
        marks = random.integers(1, 4, size=2)
        if self.kind == "pair" and random.integers(2):
            marks[1] = marks[0]
        longest = 12 if self.kind == "pair" else longest
        rows = [random.integers(4, 16, size=random.integers(5, longest + 1)) for _ in range(2)]
        for row, mark in zip(rows, marks, strict=True):
            row[0 if self.kind == "token" else random.integers(len(row))] = mark
        if self.kind == "pair":
            return Example(tuple(rows), int(marks[0] == marks[1]))
        if self.kind == "sequence":
            return Example((rows[0],), int(marks[0]) - 1)
        positions = np.sort(random.choice(np.arange(1, len(rows[0])), size=3, replace=False))
        return Example((rows[0],), None, positions, np.full(3, marks[0] - 1), positions)


MakeLabelled = Callable[..., str]


@pytest.fixture(scope="session")
def make_labelled(tmp_path_factory: pytest.TempPathFactory) -> MakeLabelled:
    """The URI of a corpus of `Marked` examples, made once."""
    made: dict[Marked, str] = {}

    def make(kind: Kind, longest: int = 60) -> str:
        source = Marked(kind, longest)
        if source not in made:
            made[source] = str(tmp_path_factory.mktemp("labelled") / kind)
            prepare_labelled(source, made[source])
        return made[source]

    return make


@pytest.fixture(scope="session")
def make_classifier(make_labelled: MakeLabelled, tmp_path_factory: pytest.TempPathFactory) -> MakeTrial:
    """A trial on `Marked` examples as planning makes it."""
    storage = str(tmp_path_factory.mktemp("runs"))

    def make(
        kind: Kind,
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
