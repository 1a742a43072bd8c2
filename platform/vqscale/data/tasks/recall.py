"""Multi-query associative recall (Arora et al. 2023, "Zoology", arXiv 2312.04927): pairs first, then queries."""

from typing import ClassVar

import numpy as np
from pydantic import Field

from vqscale.data.labelled.format import Example
from vqscale.data.shards import SplitName
from vqscale.data.tasks.pairs import Recalling


class Recall(Recalling):
    """`pairs` pairs at the start, then every key once more, each at its own gap after them, with filler in between.

    Gaps are drawn without replacement with probabilities proportional to gap**(power - 1), so that near queries are
    common (power 1: uniform). As in the paper, queries are at every other position. The paper's filler is one id or any
    token; here filler has ids of its own, so that none is mistaken for a key.
    """

    name: ClassVar[str] = "recall"

    power: float = Field(default=0.01, gt=0)

    def draw(self, split: SplitName, index: int, attempt: int) -> Example:
        random, length = self.random(split, index, attempt), self.length_of(split, index)
        keys, labels = self.draw_pairs(random)
        tokens = self.first_filler + random.integers(self.fillers, size=length)
        start = 2 * self.pairs
        tokens[0:start:2], tokens[1:start:2] = keys, 1 + self.keys + labels
        gaps = np.arange(1, (length - start) // 2 + 1, dtype=np.float64) ** (self.power - 1)
        positions = start + 2 * random.choice(len(gaps), size=self.pairs, replace=False, p=gaps / gaps.sum())
        tokens[positions] = keys
        return self.query(tokens, positions, labels, np.arange(1, start, 2))
