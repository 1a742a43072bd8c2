"""How far outside the runs a value lies: one measure and one wording for every quantity of every prediction."""

from collections.abc import Mapping

from vqscale.errors import FitError
from vqscale.formatting import short_count
from vqscale.laws.forms.catalogue import Array

LARGEST_EXTRAPOLATION = 100.0
"""Furthest outside the runs, in N, D, C or another axis, that a number is given without being asked for."""
ROUNDING = 1.01
"""A value this close to the largest or smallest one is that one, rounded."""
_NOUNS = {"N": "size", "D": "number of tokens", "C": "budget", "S": "codebook", "T": "context"}


def times_beyond(value: float, tried: Array) -> float:
    """Factor by which a value lies above the largest or below the smallest tried; 1 within them."""
    return max(value / float(tried.max()), float(tried.min()) / value, 1.0)


def describe_extrapolation(values: Mapping[str, float], tried: Mapping[str, Array], near: str = "") -> list[str]:
    """A sentence for every letter whose value lies outside what was tried. `near`: which sizes are meant."""
    found = []
    for letter, value in values.items():
        own = tried[letter]
        if times_beyond(value, own) > ROUNDING:
            side, edge = ("largest", float(own.max())) if value > own.max() else ("smallest", float(own.min()))
            shown = f"{edge:.4g}" if letter == "C" else short_count(edge)
            where = near if letter == "N" else ""
            found.append(f"{letter} is {value / edge:.3g} x the {side} {_NOUNS[letter]} tried{where} ({shown})")
    return found


def require_reach(values: Mapping[str, float], tried: Mapping[str, Array], near: str = "") -> None:
    """Raises FitError for a value more than `LARGEST_EXTRAPOLATION` times outside what was tried."""
    far = {
        letter: value
        for letter, value in values.items()
        if times_beyond(value, tried[letter]) > LARGEST_EXTRAPOLATION * ROUNDING
    }
    if far:
        raise FitError(
            f"{'; '.join(describe_extrapolation(far, tried, near))}: more than {LARGEST_EXTRAPOLATION:g} times outside"
            " the runs. Train a nearer run first, or ask with --beyond for a number that no run supports"
        )
