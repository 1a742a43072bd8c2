"""Needle in a haystack: a few key-value pairs at random depths of a long filler, queried at the end."""

from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from vqscale.data.corpora import resolve_corpus
from vqscale.data.corpus import TokenSplit, open_text
from vqscale.data.labelled.format import Example
from vqscale.data.shards import SPLITS, SplitName
from vqscale.data.tasks.pairs import Recalling, TokenIds


class Needle(Recalling):
    """`pairs` pairs at random places in the filler; the last `pairs` tokens are their keys, each with its label.

    `text`: the name or URI of a corpus of text, whose tokens are the filler: a window of its split of the same name.
    """

    name: ClassVar[str] = "needle"

    pairs: int = Field(default=1, gt=0)
    text: str | None = None

    @model_validator(mode="after")
    def _text_is_long_enough(self) -> Self:
        for name in SPLITS if self.text is not None else ():
            longest, held = max(self.lengths_of(name)), len(self._texts[name])
            if held < longest:
                raise ValueError(f"text: {name} of {self.text} has {held} tokens, {longest} are needed")
        return self

    @cached_property
    def _texts(self) -> dict[SplitName, TokenSplit]:
        corpus = open_text(resolve_corpus(self.text or ""))
        return {name: corpus.split(name) for name in SPLITS}

    def identity(self) -> dict[str, Any]:
        """The text enters by its fingerprint, not by its address."""
        value = super().identity()
        if self.text is not None:
            value["options"] = value["options"] | {"text": self._texts["train"].corpus.fingerprint}
        return value

    @property
    def filler_rule(self) -> str:
        return "fillers" if self.text is None else "the ids of a text"

    @property
    def filler_ids(self) -> int:
        return self.fillers if self.text is None else self._texts["train"].corpus.vocab_size

    def draw(self, split: SplitName, index: int, attempt: int) -> Example:
        random, length = self.random(split, index, attempt), self.length_of(split, index)
        keys, labels = self.draw_pairs(random)
        tokens = self.first_filler + self._filler(split, length, random)
        # Pairs of neighbouring tokens before the queries, none overlapping, all sets equally likely.
        haystack = length - self.pairs
        starts = np.sort(random.choice(haystack - self.pairs, size=self.pairs, replace=False)) + np.arange(self.pairs)
        tokens[starts], tokens[starts + 1] = keys, 1 + self.keys + labels
        order = random.permutation(self.pairs)
        positions = np.arange(haystack, length)
        tokens[positions] = keys[order]
        return self.query(tokens, positions, labels[order], starts[order] + 1)

    def _filler(self, split: SplitName, length: int, random: np.random.Generator) -> TokenIds:
        if self.text is None:
            return random.integers(self.fillers, size=length)
        text = self._texts[split]
        return text.read(int(random.integers(len(text) - length + 1)), length).astype(np.int64)
