"""What every generator shares: its options, and examples that occur once in all splits."""

import hashlib
from collections.abc import Iterator
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import Field, field_validator

from vqscale.data.labelled.format import Example, Layout
from vqscale.data.labelled.source import Labelled
from vqscale.data.shards import SPLITS, SplitName
from vqscale.errors import CorpusError
from vqscale.study.frozen import Frozen

_TRIES = 1000
"""Draws for one example before the generator is said to have no more."""


class Generator(Frozen):
    """A named, seeded source of labelled examples; the fields are its options, and they decide every example.

    An example is a function of the options, its split and its number, drawn again if it has occurred before.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    """Another one where the same options give other examples."""

    seed: int = Field(default=0, ge=0)
    examples: tuple[int, int, int]
    """Examples of train, validation and test."""

    @field_validator("examples")
    @classmethod
    def _counts(cls, examples: tuple[int, int, int]) -> tuple[int, int, int]:
        if min(examples) < 1:
            raise ValueError(f"{examples} must be three positive numbers: train, validation, test")
        return examples

    def layout(self) -> Layout:
        raise NotImplementedError

    def draw(self, split: SplitName, index: int, attempt: int) -> Example:
        """Example `index` of `split`; `attempt` counts how often it had occurred before."""
        raise NotImplementedError

    def random(self, split: SplitName, index: int, attempt: int) -> np.random.Generator:
        """Random numbers for one example alone."""
        return np.random.default_rng([self.seed, SPLITS.index(split), index, attempt])

    def describe(self) -> str:
        options = ", ".join(f"{key} {value}" for key, value in self.model_dump().items())
        return f"generator {self.name}: {options}"

    def identity(self) -> dict[str, Any]:
        return {"generator": self.name, "version": self.version, "options": super().identity()}

    def extent(self) -> tuple[int, int]:
        return 0, sum(self.examples)

    def walk(self) -> Iterator[Labelled]:
        seen: set[bytes] = set()
        made = 0
        for split, count in zip(SPLITS, self.examples, strict=True):
            for index in range(count):
                example = self._unseen(split, index, seen)
                made += 1
                yield Labelled(split, example, made)

    def _unseen(self: Self, split: SplitName, index: int, seen: set[bytes]) -> Example:
        for attempt in range(_TRIES):
            example = self.draw(split, index, attempt)
            content = hashlib.blake2b(b"|".join(tokens.tobytes() for tokens in example.tokens), digest_size=16).digest()
            if content not in seen:
                seen.add(content)
                return example
        raise CorpusError(
            f"examples: {self.name} found no more than {len(seen)} different examples with these options. "
            "Ask for fewer, or for longer ones."
        )


def span(value: str, field: str) -> tuple[int, int]:
    """`MIN:MAX` of a command line, both included."""
    low, separator, high = value.partition(":")
    if not separator or not low.strip().isdecimal() or not high.strip().isdecimal():
        raise CorpusError(f"{field}: {value!r} is no span. Write two numbers, as in 20:512.")
    return int(low), int(high)


def numbers(value: str, field: str) -> tuple[int, ...]:
    """Whole numbers of a command line, separated by commas."""
    parts = value.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise CorpusError(f"{field}: {value!r} is no list of numbers. Separate them by commas, as in 256,1024.")
    return tuple(int(part) for part in parts)
