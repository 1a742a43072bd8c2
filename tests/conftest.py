"""Shared by all tests: one thread (small products lose on two), a home of their own, a small corpus."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from vqscale.data.prepare import prepare

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for named corpora that no user's files are in."""
    folder = tmp_path_factory.mktemp("home")
    before = os.environ.get("VQSCALE_HOME")
    os.environ["VQSCALE_HOME"] = str(folder)
    yield folder
    if before is None:
        del os.environ["VQSCALE_HOME"]
    else:
        os.environ["VQSCALE_HOME"] = before


@pytest.fixture(scope="session")
def corpus_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A corpus of 400 short documents of made-up sentences (about 200 kB): learnable, and quick to prepare."""
    folder = tmp_path_factory.mktemp("text")
    words = ["the", "cache", "holds", "one", "mean", "a", "code", "and", "every", "query", "reads", "it", "once"]
    generator = random.Random(0)
    for index in range(400):
        sentences = (" ".join(generator.choices(words, k=generator.randint(5, 15))) + "." for _ in range(8))
        (folder / f"{index:03d}.txt").write_text("\n".join(sentences))
    out = str(tmp_path_factory.mktemp("corpus") / "small")
    prepare(str(folder), out)
    return out
