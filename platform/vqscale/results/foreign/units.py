"""Whether N, D and C can be what their columns say, and what is computed where one of the three is missing."""

from collections.abc import Mapping
from itertools import product

import numpy as np
from numpy.typing import NDArray

from vqscale.results.foreign.cells import PETAFLOP_DAY as PF_DAY

Array = NDArray[np.float64]

N, D, C = "parameters_non_embedding", "tokens", "flops"
LETTER_OF = {N: "N", "parameters": "N", D: "D", C: "C"}
FORMULAS = {C: "6 N D", D: "C / (6 N)", N: "C / (6 D)"}
FURTHEST_FROM_6ND = 10.0
"""Factor between C and 6ND beyond which one of the three is in another unit: attention, embeddings and rematerialised
activations stay below it."""
_PLAUSIBLE = {N: (1e3, 1e14), D: (1e4, 1e16), C: (1e9, 1e29)}
_RATIO = (0.1, 1e6)
"""Tokens per parameter."""
_FACTORS = {
    N: {"": 1.0, "thousands": 1e3, "millions": 1e6, "billions": 1e9},
    D: {"": 1.0, "thousands": 1e3, "millions": 1e6, "billions": 1e9, "trillions": 1e12},
    C: {"": 1.0, "GFLOPs": 1e9, "TFLOPs": 1e12, "PFLOPs": 1e15, "EFLOPs": 1e18, "ZFLOPs": 1e21, "PF-days": PF_DAY},
}  # fmt: skip
_OPTION = {"thousands": "k", "millions": "M", "billions": "B", "trillions": "T"}
_TYPICAL_RATIO = 20.0
"""Tokens per parameter of a compute-optimal run (Hoffmann et al. 2022, arXiv 2203.15556): of several units that are
possible, those nearest to it are likelier."""


def computed_measure(values: Mapping[str, Array]) -> tuple[str, Array] | None:
    """The one of N, D and C that is missing and its values [R], by C = 6ND; None unless just one is missing."""
    missing = [name for name in (N, D, C) if name not in values]
    if len(missing) != 1:
        return None
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        if missing == [C]:
            return C, 6 * values[N] * values[D]
        return missing[0], values[C] / (6 * values[D if missing == [N] else N])


def unit_notes(values: Mapping[str, Array], names: Mapping[str, str]) -> list[str]:
    """What cannot be in the columns as measured, with the likely units and the option that states them.

    `names`: the columns of the file, by the platform's names.
    """
    medians = {name: float(np.nanmedian(values[name])) for name in (N, D, C) if name in values and _any(values[name])}
    problem = _problem(medians)
    if problem is None:
        return []
    likely = _likely_units(medians)
    shown = ", ".join(f"{LETTER_OF[name]} = {value:.4g} ({names[name]})" for name, value in medians.items())
    if not likely:
        advice = "State the units: --unit N=M, --unit D=B, --unit C=1e18"
        return [f"units: {problem}. Medians: {shown}. {advice}"]
    guess = " and ".join(f"{LETTER_OF[name]} in {unit}" for name, unit in likely.items())
    options = " ".join(f"--unit {LETTER_OF[name]}={_stated(name, unit)}" for name, unit in likely.items())
    return [
        f"units: {problem}. Medians: {shown}. Probably {guess}: state it with {options}. Exponents do not depend on"
        " units; N*, D*, C and the coefficients do"
    ]


def _stated(name: str, unit: str) -> str:
    return _OPTION.get(unit) or f"{_FACTORS[name][unit]:g}".replace("e+", "e")


def _any(values: Array) -> bool:
    return bool(np.isfinite(values).any())


def _problem(medians: Mapping[str, float]) -> str | None:
    """What contradicts itself, as text; None where nothing does."""
    for name, value in medians.items():
        low, high = _PLAUSIBLE[name]
        if not low <= value <= high:
            what = {N: "parameters", D: "training tokens", C: "training FLOPs"}[name]
            return f"a median of {value:.4g} {what} cannot be"
    if N in medians and D in medians:
        ratio = medians[D] / medians[N]
        if not _RATIO[0] <= ratio <= _RATIO[1]:
            return f"{ratio:.3g} training tokens per parameter cannot be"
        if (
            C in medians
            and not 1 / FURTHEST_FROM_6ND <= medians[C] / (6 * medians[N] * medians[D]) <= FURTHEST_FROM_6ND
        ):
            return f"C is {medians[C] / (6 * medians[N] * medians[D]):.3g} times 6ND"
    return None


def _likely_units(medians: Mapping[str, float]) -> dict[str, str]:
    """The units that remove every contradiction: as few as possible, then nearest to C = 6ND and a usual D / N."""
    names = list(medians)
    best: tuple[tuple[float, ...], dict[str, str]] | None = None
    for units in product(*(_FACTORS[name] for name in names)):
        scaled = {name: medians[name] * _FACTORS[name][unit] for name, unit in zip(names, units, strict=True)}
        if _problem(scaled) is not None:
            continue
        changed = {name: unit for name, unit in zip(names, units, strict=True) if unit}
        ratio = abs(np.log(scaled[D] / scaled[N] / _TYPICAL_RATIO)) if {N, D} <= set(scaled) else 0.0
        six = abs(np.log(scaled[C] / (6 * scaled[N] * scaled[D]))) if {N, D, C} <= set(scaled) else 0.0
        # A factor of ten in C against 6ND counts like one in D / N.
        rank = (float(len(changed)), float(ratio + six))
        if best is None or rank < best[0]:
            best = (rank, changed)
    return best[1] if best else {}
