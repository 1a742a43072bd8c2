"""A sentence and its evidence as one value: a number that its evidence does not carry cannot be written.

Sentences are built as ordinary text in which every number went through `fig` and every text that may hold digits of its
own (the name of a run, a reason out of a fit's record) through `named`. `Claim.of` takes the text apart again and
refuses digits that are in neither.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vqscale.formatting import short_count
from vqscale.reporting.charts.style import present

_FIGURE, _NAME, _END = "\ue000", "\ue001", "\ue002"
"""Of Unicode's private use area: no text of a study holds them."""
_MARKED = re.compile(f"{_FIGURE}(?P<figure>.*?){_END}|{_NAME}(?P<name>.*?){_END}", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number as the sentence shows it."""

    text: str
    value: float | None
    """Unrounded; None where it was read out of a text."""
    quantity: str
    """What it is of, with its unit."""


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """How often the points behind a claim were trained."""

    points: int
    repeated: int
    """Points with more than one seed."""
    most: int
    """Seeds of the point that has most."""

    def __str__(self) -> str:
        if not self.points:
            return "not in the table"
        if not self.repeated:
            return "one seed at every point" if self.points > 1 else "one seed"
        if self.points == 1:
            return f"{self.most} seeds"
        if self.repeated == self.points:
            return f"up to {self.most} seeds at each of {self.points} points"
        return f"up to {self.most} seeds at {self.repeated} of {self.points} points, one at the others"


@dataclass(frozen=True, kw_only=True)
class Basis:
    """What a claim rests on. What is not in the records is None, or empty."""

    runs: Sequence[str] = ()
    """Names, or places in the table."""
    seeds: Seeds | None = None
    training_tokens: tuple[float, float] | None = None
    """Fewest and most of a run."""
    held_out: str = ""
    """The held-out text, and how much of it."""
    held_out_tokens: int | None = None
    documents: int | None = None
    """Held-out documents (classifiers: examples)."""
    unit: str = "document"
    baselines: Sequence[str] = ()
    weakened_by: Sequence[str] = ()
    """What would weaken the claim, one sentence each."""
    measured: str = ""
    """What it rests on where that is no run: a timing, the record of a fit."""

    @property
    def tokens_text(self) -> str:
        if self.training_tokens is None:
            return ""
        low, high = self.training_tokens
        return short_count(low) if low == high else f"{short_count(low)} to {short_count(high)}"

    def values(self) -> dict[str, Any]:
        seeds = None
        if self.seeds is not None:
            seeds = {"points": self.seeds.points, "repeated": self.seeds.repeated, "most": self.seeds.most}
        return {
            "runs": list(self.runs),
            "measured": self.measured or None,
            "seeds": seeds,
            "training_tokens": list(self.training_tokens) if self.training_tokens else None,
            "held_out": {"text": self.held_out or None, "tokens": self.held_out_tokens, "documents": self.documents},
            "baselines": list(self.baselines),
            "weakened_by": list(self.weakened_by),
        }


@dataclass(frozen=True, kw_only=True)
class Claim:
    text: str
    basis: Basis
    figures: Sequence[Figure] = field(default_factory=tuple)

    @classmethod
    def of(cls, marked: str, basis: Basis) -> "Claim":
        """Raises ValueError for a digit that is neither a figure's nor a name's."""
        if found := re.search(r"[^\s]*\d[^\s]*", _MARKED.sub("", marked)):
            raise ValueError(f"{found[0]!r} in {plain(marked)!r}: a number without its quantity. Write it with fig().")
        figures = [_figure(one["figure"]) for one in _MARKED.finditer(marked) if one["figure"]]
        return cls(text=plain(marked), basis=basis, figures=tuple(dict.fromkeys(figures)))

    def values(self) -> dict[str, Any]:
        figures = [{"text": one.text, "value": one.value, "quantity": one.quantity} for one in self.figures]
        return {"claim": self.text, "figures": figures, **self.basis.values()}


def fig(value: float | None, text: str, quantity: str) -> str:
    """A number in a sentence: its value, how it is written, and what it is of. Empty where it is written as nothing."""
    known = float(value) if value is not None and present(value) else None
    return f"{_FIGURE}{json.dumps([known, text, quantity])}{_END}" if text else ""


def named(text: object) -> str:
    """A text whose digits are no measurement: a name, a setting, a level that the method sets."""
    return f"{_NAME}{plain(str(text))}{_END}"


def plain(marked: str) -> str:
    """The sentence as readers see it."""
    return _MARKED.sub(lambda one: _figure(one["figure"]).text if one["figure"] else str(one["name"]), marked)


def _figure(text: str) -> Figure:
    value, shown, quantity = json.loads(text)
    return Figure(text=shown, value=value, quantity=quantity)
