"""The context length from which on one model trains faster than another, from the lengths that were measured."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

Outside = Literal["below", "beyond"]
"""Outside the measured lengths: already faster at the shortest, or not yet faster at the longest."""


class RatioPoint(NamedTuple):
    """Ratio of the speeds of two models at one T, and between which values a second measurement would lie."""

    context: int
    ratio: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Crossover:
    """Break-even in tokens of context, or on which side of the measured lengths it is. Never extrapolated."""

    at: float | Outside
    low: float | Outside
    """Where the upper ends of the ratios' intervals cross 1; `high`: where the lower ones do."""
    high: float | Outside
    shortest: int
    """The shortest and the longest length at which both ran."""
    longest: int

    def __str__(self) -> str:
        if self.at == "below":
            text = f"below the shortest T measured ({self.shortest:,})"
            return text if self.high == "below" else f"{text}, though a second measurement may find one"
        if self.at == "beyond":
            text = f"none up to T = {self.longest:,}"
            return text if self.low == "beyond" else f"{text}, though a second measurement may find one"
        return f"T = {self.at:,.0f} [{', '.join(self.ends)}]"

    @property
    def ends(self) -> tuple[str, str]:
        """Of the interval, as text."""
        low = f"below {self.shortest:,}" if isinstance(self.low, str) else f"{self.low:,.0f}"
        high = f"beyond {self.longest:,}" if isinstance(self.high, str) else f"{self.high:,.0f}"
        return low, high


def crossover(points: Sequence[RatioPoint]) -> Crossover | None:
    """Break-even of a ratio over T; None where it was not measured at all."""
    if not points:
        return None
    ordered = sorted(points)
    contexts = [point.context for point in ordered]
    return Crossover(
        at=last_rise(contexts, [point.ratio for point in ordered]),
        low=last_rise(contexts, [point.high for point in ordered]),
        high=last_rise(contexts, [point.low for point in ordered]),
        shortest=contexts[0],
        longest=contexts[-1],
    )


def last_rise(contexts: Sequence[int], ratios: Sequence[float]) -> float | Outside:
    """The T from which on the ratio remains at 1 or above; log ratio is interpolated linearly over log T between two
    measured lengths.

    `contexts` ascend. A ratio of exactly 1 counts as break-even.
    """
    if ratios[-1] < 1:
        return "beyond"
    slower = [index for index, ratio in enumerate(ratios) if ratio < 1]
    if not slower:
        return "below"
    last = slower[-1]
    share = -math.log(ratios[last]) / (math.log(ratios[last + 1]) - math.log(ratios[last]))
    return float(contexts[last] * (contexts[last + 1] / contexts[last]) ** share)
