"""Every test has a home of its own, and small corpora to read."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vqscale.data.corpus import Corpus, open_text
from vqscale.data.labelled.format import Layout, Vocabulary
from vqscale.data.labelled.source import Labelled
from vqscale.data.prepare import prepare


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "home"
    monkeypatch.setenv("VQSCALE_HOME", str(folder))
    return folder


@pytest.fixture
def texts(tmp_path) -> Path:
    """A folder of 60 files of different length; the last one holds more than ASCII."""
    folder = tmp_path / "texts"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(60):
        words = (f"word{value}" for value in random.integers(0, 40, size=20 + number))
        (folder / f"{number:02}.txt").write_text(" ".join(words) + "\n", "utf-8")
    (folder / "59.txt").write_text("Grüße aus Åbo, 日本語 🙂\n" * 20, "utf-8")
    return folder


@pytest.fixture
def corpus_of(tmp_path) -> Callable[..., Corpus]:
    """Makes a corpus of `count` bytes in one document, split 0.8 / 0.1 / 0.1 in order."""

    def make(count: int, shard_tokens: int = 1000) -> Corpus:
        source = tmp_path / f"source-{count}.txt"
        source.write_bytes(np.random.default_rng(1).integers(32, 127, size=count).astype(np.uint8).tobytes())
        out = tmp_path / f"corpus-{count}-{shard_tokens}"
        fractions = (0.8, 0.1, 0.1)
        prepare(str(source), str(out), split="contiguous", fractions=fractions, shard_tokens=shard_tokens)
        return open_text(str(out))

    return make


@dataclass(frozen=True)
class Made:
    """Examples from memory, with the layout they claim."""

    made_layout: Layout
    made: list[Labelled]

    def describe(self) -> str:
        return "made"

    def identity(self) -> dict[str, Any]:
        return {"made": [str(one) for one in self.made], "layout": self.made_layout.model_dump()}

    def layout(self) -> Layout:
        return self.made_layout

    def extent(self) -> tuple[int, int | None]:
        return 0, None

    def walk(self) -> Iterator[Labelled]:
        yield from self.made


@pytest.fixture
def made_source() -> Callable[[Layout, list[Labelled]], Made]:
    return Made


@pytest.fixture
def of_sequences() -> Layout:
    return Layout(classes=("no", "yes"), labels="sequence", vocabulary=Vocabulary(size=50, rule="itself"))


@pytest.fixture
def of_pairs(of_sequences) -> Layout:
    return of_sequences.model_copy(update={"sequences": 2})


@pytest.fixture
def of_tokens(of_sequences) -> Layout:
    update = {"classes": ("a", "b", "c"), "labels": "token", "distances": True}
    return of_sequences.model_copy(update=update)
