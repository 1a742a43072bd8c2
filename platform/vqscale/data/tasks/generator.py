"""The base of all generators: options, and examples that are unique across all splits."""

import contextlib
import hashlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, field_validator

from vqscale.data.labelled.format import Example, Layout
from vqscale.data.labelled.source import Labelled
from vqscale.data.shards import SPLITS, SplitName
from vqscale.errors import CorpusError
from vqscale.study.frozen import Frozen

_TRIES = 1000
"""Draws for one example before the generator is taken to have no new ones."""
_CHUNK = 64
"""Examples that a process draws at a time."""


class Generator(Frozen):
    """A named, seeded source of labelled examples; its fields are its options.

    An example is a function of the options, its split and its number; it is drawn again if it has occurred before.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    """Raised whenever the same options give other examples."""

    seed: int = Field(default=0, ge=0)
    examples: tuple[int, int, int]
    """Number of examples of train, validation and test."""

    @field_validator("examples")
    @classmethod
    def _counts(cls, examples: tuple[int, int, int]) -> tuple[int, int, int]:
        if min(examples) < 1:
            raise ValueError(f"{examples} must be three positive numbers: train, validation, test")
        return examples

    def layout(self) -> Layout:
        raise NotImplementedError

    def draw(self, split: SplitName, index: int, attempt: int) -> Example:
        """Example `index` of `split`; `attempt`: how many draws of it had occurred before."""
        raise NotImplementedError

    def random(self, split: SplitName, index: int, attempt: int) -> np.random.Generator:
        """Random numbers for one draw of one example."""
        return np.random.default_rng([self.seed, SPLITS.index(split), index, attempt])

    def describe(self) -> str:
        options = ", ".join(f"{key} {value}" for key, value in self.model_dump().items())
        return f"generator {self.name}: {options}"

    def identity(self) -> dict[str, Any]:
        return {"generator": self.name, "version": self.version, "options": super().identity()}

    def extent(self) -> tuple[int, int]:
        return 0, sum(self.examples)

    def walk(self) -> Iterator[Labelled]:
        return InProcesses(self, 1).walk()


@dataclass(frozen=True)
class InProcesses:
    """A generator whose examples are drawn by several processes in parallel; the examples are the same."""

    generator: Generator
    processes: int

    def describe(self) -> str:
        return self.generator.describe()

    def identity(self) -> dict[str, Any]:
        return self.generator.identity()

    def layout(self) -> Layout:
        return self.generator.layout()

    def extent(self) -> tuple[int, int]:
        return self.generator.extent()

    def walk(self) -> Iterator[Labelled]:
        seen: set[bytes] = set()
        with contextlib.ExitStack() as stack:
            workers = self._workers(stack)
            for split, count in zip(SPLITS, self.generator.examples, strict=True):
                for index, first in enumerate(self._firsts(split, count, workers)):
                    yield Labelled(split, self._unseen(split, index, first, seen), len(seen))

    def _workers(self, stack: contextlib.ExitStack) -> ProcessPoolExecutor | None:
        if self.processes < 1:
            raise CorpusError(f"processes: {self.processes} cannot draw examples. Use 1 or more.")
        if self.processes == 1:
            return None
        context = multiprocessing.get_context("spawn")
        workers = ProcessPoolExecutor(self.processes, mp_context=context, initializer=_end_with_parent)
        stack.callback(workers.shutdown, wait=True, cancel_futures=True)
        return workers

    def _firsts(self, split: SplitName, count: int, workers: ProcessPoolExecutor | None) -> Iterator[Example]:
        """The first draw of every example, in order; workers are a few chunks ahead."""
        chunks = (range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK))
        if workers is None:
            for chunk in chunks:
                yield from (self.generator.draw(split, index, 0) for index in chunk)
            return
        ahead: deque[Future[list[Example]]] = deque()
        for chunk in chunks:
            with _undisturbed():
                ahead.append(workers.submit(_drawn, self.generator, split, chunk))
            if len(ahead) > 2 * self.processes:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()

    def _unseen(self, split: SplitName, index: int, first: Example, seen: set[bytes]) -> Example:
        for attempt in range(_TRIES):
            example = self.generator.draw(split, index, attempt) if attempt else first
            # 16 bytes per example in memory, whatever its length; a collision would only cost a new draw.
            content = hashlib.blake2b(b"|".join(tokens.tobytes() for tokens in example.tokens), digest_size=16).digest()
            if content not in seen:
                seen.add(content)
                return example
        raise CorpusError(
            f"examples: {self.generator.name} found only {len(seen)} different examples with these options. "
            "Ask for fewer examples, or for longer ones."
        )


def _end_with_parent() -> None:
    """Let a worker end when its parent was killed: it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Within it, Ctrl-C and a request to end wait: a worker that is being started would lose its parent half-way.

    Workers inherit that Ctrl-C is blocked, which a terminal sends to them too; they end when the parent tells them.
    """
    if threading.current_thread() is not threading.main_thread():  # only it may set handlers
        yield
        return
    waiting: list[int] = []
    before = {number: signal.signal(number, lambda found, _: waiting.append(found)) for number in _ENDING}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)
        if waiting:
            signal.raise_signal(waiting[0])


_ENDING = (signal.SIGINT, signal.SIGTERM)


def _drawn(generator: Generator, split: SplitName, indices: range) -> list[Example]:
    return [generator.draw(split, index, 0) for index in indices]


def span(value: str, field: str) -> tuple[int, int]:
    """The values of `MIN:MAX` on a command line, both included. Raises CorpusError."""
    low, separator, high = value.partition(":")
    if not separator or not low.strip().isdecimal() or not high.strip().isdecimal():
        raise CorpusError(f"{field}: {value!r} is no range. Write two numbers, as in 20:512.")
    return int(low), int(high)


def three(value: str, field: str) -> tuple[int, ...]:
    """The numbers of train, validation and test on a command line. Raises CorpusError."""
    found = numbers(value, field)
    if len(found) != 3:
        raise CorpusError(f"{field}: {value!r} must be three numbers: train, validation, test, as in 60000,2000,2000.")
    return found


def numbers(value: str, field: str) -> tuple[int, ...]:
    """Whole numbers on a command line, separated by commas. Raises CorpusError."""
    parts = value.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise CorpusError(f"{field}: {value!r} is no list of numbers. Separate them by commas, as in 256,1024.")
    return tuple(int(part) for part in parts)
