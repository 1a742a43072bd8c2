"""Shared by all tests: one thread, a home of their own, small corpora, two ranks, an empty MLflow store.

Nothing here loads torch, Ray or MLflow at import: tests of laws, plans and reports start without them.
"""

import os

os.environ |= {
    # before numpy and torch are imported; small products lose on two threads, and each worker has one core
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",  # read when mlflow is imported, which a test may do before vqscale does
}

import faulthandler
import gc
import random
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import psutil
import pytest

from vqscale.data.labelled.format import Example, Layout, Vocabulary
from vqscale.data.labelled.prepare import prepare_labelled
from vqscale.data.labelled.source import Labelled
from vqscale.data.prepare import prepare

if TYPE_CHECKING:
    from ranks import TwoRanks

EXIT_SECONDS = 120
"""How long a process may take to exit after its last test; then it says where it hangs, and ends."""


LONG = ("cli", "workflow", "train", "reporting", "laws")
"""Folders with the files that take longest: first, so that the last files are short and all workers end together."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.parent.name not in LONG)


def pytest_collection_finish() -> None:
    # A million objects of imported packages live to the end: DeepSpeed's engines collect garbage every time they start.
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    faulthandler.dump_traceback_later(EXIT_SECONDS, exit=True, file=sys.__stderr__)


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """No process group, thread or process outlives the tests: each of them can hold up the exit of the interpreter.

    The first fixture of a session, so the last to end.
    """
    yield
    distributed = sys.modules.get("torch.distributed")
    assert distributed is None or not distributed.is_initialized(), "a process group was never destroyed"
    threads = [one for one in threading.enumerate() if not one.daemon and one is not threading.main_thread()]
    assert threads == [], "threads that are no daemons hold up the exit"
    processes = [" ".join(one.cmdline()) for one in psutil.Process().children(recursive=True)]
    # multiprocessing's own process, which ends with this one
    assert [line for line in processes if "resource_tracker" not in line] == [], "processes were never ended"


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


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[TwoRanks]":
    """Two processes of one gloo group, for all distributed tests: `two_ranks.run(function, *arguments)`."""
    from ranks import TwoRanks

    with TwoRanks(tmp_path_factory.mktemp("ranks")) as world:
        yield world


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], str]:
    """`empty_store(file)` puts an empty MLflow database there and returns its URI.

    A copy: making one takes MLflow about a second of migrations.
    """
    from mlflow import MlflowClient

    template = tmp_path_factory.mktemp("mlflow") / "template.db"
    MlflowClient(f"sqlite:///{template}").search_experiments()

    def copy(file: Path) -> str:
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(template, file)
        return f"sqlite:///{file}"

    return copy


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
