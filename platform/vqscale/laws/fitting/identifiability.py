"""Whether runs can determine a law at all, whatever their losses."""

import numpy as np
from numpy.typing import NDArray

from vqscale.laws.fitting.points import SAME_POINT, axis_levels, levels, point_numbers
from vqscale.laws.forms.catalogue import Array, Formula, Law

MINIMUM_DISTINCT = 3
"""Values of an axis: with two, no curvature is determined."""
INDEPENDENT_SHARE = 1e-3
"""Smallest eigenvalue of the correlation of log x with which two terms can be distinguished; with D = 20 N in every run
it is zero."""


def too_small(law: Law, x_RA: Array) -> str:
    """Why these runs cannot determine the law; empty where they may."""
    if len(x_RA) < law.minimum_runs:
        return f"{len(x_RA)} usable runs; {law.form} needs at least {law.minimum_runs}"
    if reason := _never_repeated(law, x_RA):
        return reason
    for letter, distinct in zip(law.letters, distinct_values(law, x_RA), strict=True):
        if letter != "U" and distinct < MINIMUM_DISTINCT:
            return f"{distinct} distinct values of {letter}; the law needs at least {MINIMUM_DISTINCT}"
    points = int(point_numbers(law.letters, x_RA).max()) + 1
    if points < law.minimum_runs:
        return f"{points} distinct points ({len(x_RA)} runs); {law.form} needs at least {law.minimum_runs}"
    return _moving_together(law, x_RA)


def _never_repeated(law: Law, x_RA: Array) -> str:
    """Why a law of repeated data has nothing to go by; empty where it has, and of any other law."""
    if "U" not in law.letters:
        return ""
    epochs_R = x_RA[:, law.letters.index("D")] / x_RA[:, law.letters.index("U")]
    repeated = epochs_R[epochs_R > 1 + SAME_POINT]
    distinct = int(levels(repeated).max()) + 1 if len(repeated) else 0
    if distinct >= MINIMUM_DISTINCT:
        return ""
    return f"{distinct} distinct numbers of epochs D / U above 1; repeated data needs at least {MINIMUM_DISTINCT}"


def _moving_together(law: Law, x_RA: Array) -> str:
    """Which axes are one power of each other in all runs: their terms are not identified."""
    # Unique tokens may be the same in all runs: what is repeated differs with D.
    letters = [letter for letter in law.letters if letter != "U"]
    x_RA = x_RA[:, [law.letters.index(letter) for letter in letters]]
    if x_RA.shape[1] < 2:
        return ""
    share, direction = np.linalg.eigh(np.corrcoef(np.log(x_RA), rowvar=False))
    if share[0] >= INDEPENDENT_SHARE:
        return ""
    # The eigenvector of the smallest eigenvalue: axes with a weight in it make up the near-constant combination.
    together = [letter for letter, part in zip(letters, direction[:, 0].tolist(), strict=True) if abs(part) > 0.1]
    return f"{' and '.join(together)} rise and fall together in all runs: their terms cannot be distinguished"


def distinct_values(formula: Formula, x_RA: Array) -> list[int]:
    """Number of distinct values on every axis."""
    return [len(np.unique(level_R)) for level_R in axis_levels(formula.letters, x_RA).T]


def _counted_levels(formula: Formula, x_RA: Array) -> list[NDArray[np.intp]]:
    """The levels of every axis of which three values are needed."""
    found = axis_levels(formula.letters, x_RA).T
    return [level_R for letter, level_R in zip(formula.letters, found, strict=True) if letter != "U"]


def determines(formula: Formula, weight_BR: Array, x_RA: Array) -> NDArray[np.bool_]:
    """Whether the runs that a weighting keeps have three distinct values on every axis: [B]."""
    enough = np.ones(len(weight_BR), dtype=bool)
    for level_R in _counted_levels(formula, x_RA):
        present = [(weight_BR[:, level_R == level] > 0).any(axis=1) for level in range(int(level_R.max()) + 1)]
        enough &= np.sum(present, axis=0) >= MINIMUM_DISTINCT
    return enough


def determined_without(formula: Formula, member_R: NDArray[np.intp], x_RA: Array) -> NDArray[np.bool_]:
    """Whether the runs without run b still have three distinct values on every axis: [B]."""
    runs = int(member_R.max()) + 1
    enough = np.ones(runs, dtype=bool)
    for level_R in _counted_levels(formula, x_RA):
        # A run takes a level away with it where it alone holds that level.
        pairs = np.unique(np.stack([level_R, member_R]), axis=1)
        holders_L = np.bincount(pairs[0])
        alone_B = np.bincount(pairs[1], weights=holders_L[pairs[0]] == 1, minlength=runs)
        enough &= len(holders_L) - alone_B >= MINIMUM_DISTINCT
    return enough
