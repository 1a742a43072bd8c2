"""Key-value pairs among filler: the base of both recall tasks.

Ids: 0 padding; keys 1..K; values; fillers. A label is the number of a value, at the position of a queried key.
"""

from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from vqscale.data.labelled.format import Example, Layout, Vocabulary
from vqscale.data.shards import SPLITS, SplitName
from vqscale.data.tasks.generator import Generator

TokenIds = npt.NDArray[np.int64]


class Recalling(Generator):
    """Options of a task whose examples query the values of keys, and whose lengths may differ between splits."""

    ADDED: ClassVar[frozenset[str]] = frozenset({"train_lengths"})

    examples: tuple[int, int, int] = (50_000, 1_000, 3_000)
    length: int = Field(default=256, gt=0)
    """Tokens of an example, for splits without lengths of their own."""
    train_lengths: tuple[int, ...] = ()
    """Tokens of training examples, in turn. In short examples the answers are near, which is learned first."""
    validation_lengths: tuple[int, ...] = ()
    """Tokens of validation examples, in turn."""
    test_lengths: tuple[int, ...] = ()
    """Tokens of test examples, in turn."""
    pairs: int = Field(default=8, gt=0)
    """Key-value pairs of an example; the keys are all different, values may repeat."""
    keys: int = Field(default=64, gt=1)
    values: int = Field(default=64, gt=1)
    """Number of values, which are the classes."""
    fillers: int = Field(default=64, gt=0)
    """Number of filler tokens, which have no meaning."""

    def lengths_of(self, split: SplitName) -> tuple[int, ...]:
        own = {"train": self.train_lengths, "validation": self.validation_lengths, "test": self.test_lengths}
        return own[split] or (self.length,)

    def length_of(self, split: SplitName, index: int) -> int:
        lengths = self.lengths_of(split)
        return lengths[index % len(lengths)]

    @model_validator(mode="after")
    def _pairs_fit(self) -> Self:
        if self.pairs > self.keys:
            raise ValueError(f"pairs: {self.pairs} need as many different keys, there are {self.keys}")
        shortest = min(length for split in SPLITS for length in self.lengths_of(split))
        if shortest < 4 * self.pairs:
            raise ValueError(
                f"length: {shortest} tokens are too few for {self.pairs} pairs; use {4 * self.pairs} or more"
            )
        return self

    @property
    def first_filler(self) -> int:
        return 1 + self.keys + self.values

    def layout(self) -> Layout:
        first_value, first_filler = 1 + self.keys, self.first_filler
        rule = f"0 padding, keys from 1, values from {first_value}, {self.filler_rule} from {first_filler}"
        return Layout(
            classes=tuple(f"value {number}" for number in range(self.values)),
            labels="token",
            vocabulary=Vocabulary(size=first_filler + self.filler_ids, rule=rule),
            distances=True,
        )

    @property
    def filler_rule(self) -> str:
        return "fillers"

    @property
    def filler_ids(self) -> int:
        return self.fillers

    def draw_pairs(self, random: np.random.Generator) -> tuple[TokenIds, TokenIds]:
        """Different keys (as ids) and the numbers of their values, [pairs] each; ids of values begin at 1 + keys."""
        keys = 1 + random.choice(self.keys, size=self.pairs, replace=False)
        return keys, random.integers(self.values, size=self.pairs)

    def query(self, tokens: TokenIds, positions: TokenIds, labels: TokenIds, answers: TokenIds) -> Example:
        """An example with queries at `positions`, whose values are at the positions `answers`."""
        order = np.argsort(positions)
        return Example(
            (tokens,),
            positions=positions[order],
            labels=labels[order],
            distances=(positions - answers)[order],
        )
