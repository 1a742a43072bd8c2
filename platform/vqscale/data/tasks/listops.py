"""ListOps (Nangia and Bowman 2018) by the rules of Long Range Arena (google-research/long-range-arena@cd31e5c,
lra_benchmarks/data/listops.py): nested MIN, MAX, MED and SM (sum modulo 10) of digits, prefix notation.
"""

import random
from collections.abc import Callable
from typing import ClassVar, Final

import numpy as np
from pydantic import Field, field_validator

from vqscale.data.labelled.format import Example, Layout, Vocabulary
from vqscale.data.shards import SplitName
from vqscale.data.tasks.generator import Generator
from vqscale.errors import CorpusError

OPERATORS: Final = ("[MIN", "[MAX", "[MED", "[SM")
END: Final = "]"
LISTOPS_SYMBOLS: Final = ("<pad>", *OPERATORS, END, *(str(digit) for digit in range(10)))
ID_OF: Final = {symbol: number for number, symbol in enumerate(LISTOPS_SYMBOLS)}
DIGIT_SYMBOLS: Final = tuple(str(digit) for digit in range(10))
LISTOPS_VOCABULARY: Final = Vocabulary(size=len(LISTOPS_SYMBOLS), rule="place in symbols", symbols=LISTOPS_SYMBOLS)
_OPERATOR_SHARE = 0.25
"""Probability that a node above the deepest level is an operator (the reference's VALUE_P)."""
_TREES = 200_000
"""Trees drawn for one example before the options are taken to be impossible."""


class ListOps(Generator):
    """Random trees whose length is within `length`, both ends included. The defaults are those of Long Range Arena.

    Lengths count as in the reference: an operator, its arguments, its closing bracket. Trees of other lengths are
    rejected, so the distribution is that of the reference (whose 500 < length < 2000 is 501:1999 here).
    """

    name: ClassVar[str] = "listops"

    examples: tuple[int, int, int] = (96_000, 2_000, 2_000)
    length: tuple[int, int] = (501, 1999)
    max_depth: int = Field(default=10, ge=2, le=100)
    max_args: int = Field(default=10, ge=2)

    @field_validator("length")
    @classmethod
    def _span(cls, length: tuple[int, int]) -> tuple[int, int]:
        if not 4 <= length[0] <= length[1]:
            raise ValueError(f"{length} must be two lengths in order, the first at least 4: an operator of two digits")
        return length

    def layout(self) -> Layout:
        return Layout(classes=DIGIT_SYMBOLS, labels="sequence", vocabulary=LISTOPS_VOCABULARY)

    def draw(self, split: SplitName, index: int, attempt: int) -> Example:
        # Python's generator: random() gives the same numbers in every version, and single numbers are fast.
        uniform = random.Random(f"listops {self.seed} {split} {index} {attempt}").random
        for _ in range(_TREES):
            ids: list[int] = []
            value = self._node(1, ids, uniform)
            if value is not None and self.length[0] <= len(ids):
                return Example((np.array(ids, dtype=np.uint16),), label=value)
        raise CorpusError(
            f"length: none of {_TREES:,} random trees has a length in {self.length} with max_depth {self.max_depth} "
            f"and max_args {self.max_args}. Widen the range."
        )

    def _node(self, depth: int, ids: list[int], uniform: Callable[[], float]) -> int | None:
        """Append a random node to `ids` and return its value; None as soon as the expression is too long."""
        if depth == self.max_depth or uniform() > _OPERATOR_SHARE:
            value = int(uniform() * 10)
            ids.append(ID_OF["0"] + value)
            return value
        count = 2 + int(uniform() * (self.max_args - 1))
        operator = int(uniform() * len(OPERATORS))
        ids.append(1 + operator)
        values = []
        for _ in range(count):
            value_or_none = self._node(depth + 1, ids, uniform)
            if value_or_none is None or len(ids) >= self.length[1]:
                return None
            values.append(value_or_none)
        ids.append(ID_OF[END])
        return evaluate_operator(OPERATORS[operator], values)


def evaluate_operator(operator: str, values: list[int]) -> int:
    """The value of one operator; the median of an even count is rounded down, as by the reference's int()."""
    if operator == "[MIN":
        return min(values)
    if operator == "[MAX":
        return max(values)
    if operator == "[SM":
        return sum(values) % 10
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) // 2
