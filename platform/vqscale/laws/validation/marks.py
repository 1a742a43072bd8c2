"""Why not to decide by a fit: sentences derived from the numbers of its record, shown wherever one of them is."""

import math
from collections.abc import Iterator

import numpy as np

from vqscale.formatting import percent
from vqscale.laws.fitting.flatness import describe_spans
from vqscale.laws.fitting.points import point_numbers
from vqscale.laws.io.schema import Fit

LOWEST_R2 = 0.9
"""Below it the runs scatter about the law by a third or more of what they differ by (the root of 1 - 0.9 is 0.32).
The laws of all public tables tried lie above it, the lowest at 0.93: Hoffmann et al.'s 245 runs with their five
outliers."""
WIDE_SPAN = 4 / 3
"""Ratio of the ends of an exponent's span from which the fit is marked: on clean runs it is below 1.25."""
MINIMUM_FREEDOM = 2
"""Degrees of freedom below which no interval is given. In 120 simulated studies each the 90 % interval of an exponent
covered the truth in 66 to 76 % with one degree, in 88 to 95 % with two or more."""

MINIMUM_UNITS = 5
"""Runs of their own below which no interval is given, however many rows each has: all rows of a run are drawn together,
and resamples of one run are all the same."""
MOST_ON_BOUND = 0.1
"""Share of the refits on bounds from which on bounds may be the ends of 90 % intervals."""


def marks_of(fit: Fit) -> list[str]:
    """The sentences, the gravest first."""
    return [*_beaten(fit), *_scattered(fit), *_flat(fit), *_bounded(fit), *_few(fit), *_contradicted(fit)]


def freedom_of(fit: Fit) -> int:
    """Degrees of freedom; of a record of an earlier version counted over its runs."""
    return len(fit.points) - constants_of(fit) if fit.freedom is None else fit.freedom


def constants_of(fit: Fit) -> int:
    """Free constants: in a law without a floor E, which is zero, is none."""
    return len(fit.parameters) - (0 if fit.parameters["E"] else 1)


def beaten_by_one(fit: Fit) -> list[str]:
    """A remark where one baseline of the hold-out is at least as good as the law, and the other is not."""
    better = _better_baselines(fit)
    if not better or len(better) == len(_baselines(fit)):
        return []
    own = percent(fit.holdout.mean_relative_error, 2)
    beside = " and ".join(f"the {name} is off by {percent(error, 2)}" for name, error in better.items())
    return [f"{beside} on the held-out runs, the law by {own}"]


def points_of(fit: Fit) -> int:
    """Distinct points among the runs."""
    return len(np.unique(point_numbers(fit.letters, np.array([point.x for point in fit.points]))))


def _baselines(fit: Fit) -> dict[str, float]:
    return {name: error for name, error in fit.holdout.baselines.items() if error is not None}


def _better_baselines(fit: Fit) -> dict[str, float]:
    own = fit.holdout.mean_relative_error
    return {name: error for name, error in _baselines(fit).items() if own is not None and error <= own}


def _beaten(fit: Fit) -> Iterator[str]:
    others = _baselines(fit)
    if others and len(_better_baselines(fit)) == len(others):
        beside = " and ".join(f"the {name} by {percent(error, 2)}" for name, error in others.items())
        own = percent(fit.holdout.mean_relative_error, 2)
        yield f"off by {own} on the held-out runs, where {beside} is: no better than no law"


def _scattered(fit: Fit) -> Iterator[str]:
    if fit.r2_fit is None or fit.r2_fit >= LOWEST_R2:
        return
    squares = {point.name: (point.measured - point.predicted) ** 2 for point in fit.points}
    worst = max(squares, key=lambda name: squares[name])
    one = f"; {worst} alone makes up more than half of it" if squares[worst] > sum(squares.values()) / 2 else ""
    share = percent(math.sqrt(1 - fit.r2_fit), 0)
    yield f"R² {fit.r2_fit:.2f}: the runs scatter about the law by {share} of what they differ by{one}"


def _flat(fit: Fit) -> Iterator[str]:
    if wide := describe_spans({name: (span.low, span.high) for name, span in fit.exponent_spans.items()}, WIDE_SPAN):
        yield f"{wide} fit equally well (objective within 1 %)"


def _bounded(fit: Fit) -> Iterator[str]:
    if fit.bootstrap_on_bound <= MOST_ON_BOUND * fit.bootstrap:
        return
    without = [name for name in (fit.parameters | fit.derived) if fit.intervals and name not in fit.intervals]
    less = f", and no interval of {', '.join(without)} is given" if without else ""
    yield (
        f"{fit.bootstrap_on_bound} of {fit.bootstrap} refits ended on a bound of the search: the true uncertainty is"
        f" larger than the intervals say{less}"
    )


def _contradicted(fit: Fit) -> Iterator[str]:
    if fit.parabolas is not None and fit.parabolas.text:
        yield fit.parabolas.text


def _few(fit: Fit) -> Iterator[str]:
    constants, freedom, points = constants_of(fit), freedom_of(fit), points_of(fit)
    if freedom < MINIMUM_FREEDOM:
        left = f"{freedom} degree{'' if freedom == 1 else 's'} of freedom"
        yield (
            f"{describe_runs(fit)} for {constants} constants, {left}: nearly any runs lie on such a curve, and no"
            " interval is given"
        )
    elif fit.units is not None and fit.units < MINIMUM_UNITS:
        runs = "one run" if fit.units == 1 else f"{fit.units} runs"
        yield f"all {len(fit.points)} rows are of {runs}: how runs scatter is not known, and no interval is given"
    elif points < constants + MINIMUM_FREEDOM:
        yield (
            f"{points} distinct points ({describe_runs(fit)}) for {constants} constants: nearly any {points} points lie"
            " on such a curve, and the intervals hold the scatter of runs only"
        )


def describe_runs(fit: Fit) -> str:
    """What counts as a run of its own, as text."""
    units = freedom_of(fit) + constants_of(fit)
    return f"{units} runs" if units == len(fit.points) else f"{units} runs ({len(fit.points)} rows)"
