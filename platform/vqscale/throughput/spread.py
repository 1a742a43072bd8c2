"""How far apart two measurements of one ratio may be, from processes that each measured it."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.9
"""Share of second measurements that the interval is meant to hold."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A ratio, and between which values a second measurement by as many processes would find it."""

    value: float
    low: float
    high: float
    freedom: int
    """Degrees of freedom: processes less one. With none `low` and `high` are the range of the repeats of the only
    process, which says nothing about another one."""


def spread_of(by_process: Sequence[Sequence[float]]) -> Spread:
    """Of the positive ratios of every process's repeats.

    The value is the geometric mean of the processes' medians. A second value has the same variance s^2 / P about the
    truth, so that the two differ by a t with P - 1 degrees of freedom times s sqrt(2 / P). The interval holds all
    repeats besides: t assumes processes that vary alike, and a disturbance is often the tail of what there is.
    """
    from scipy import stats  # slow to load, and pages are made without it

    middles = [math.log(statistics.median(ratios)) for ratios in by_process]
    value, freedom = statistics.fmean(middles), len(middles) - 1
    every = [math.log(ratio) for ratios in by_process for ratio in ratios]
    half = 0.0
    if freedom:
        reach = float(stats.t.ppf((1 + LEVEL) / 2, freedom))
        half = reach * statistics.stdev(middles) * math.sqrt(2 / len(middles))
    ends = min([*every, value - half]), max([*every, value + half])
    return Spread(value=math.exp(value), low=math.exp(ends[0]), high=math.exp(ends[1]), freedom=freedom)


def split(seconds: Sequence[float], counts: Sequence[int]) -> list[list[float]]:
    """Repeats by process; all belong to one where nothing is said."""
    parts, start = [], 0
    for count in counts or [len(seconds)]:
        parts.append(list(seconds[start : start + count]))
        start += count
    return parts
