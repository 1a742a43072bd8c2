"""Whether N, D and C can be what their columns say, and what is computed where one of the three is missing."""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from vqscale.results.foreign.cells import PETAFLOP_DAY as PF_DAY
from vqscale.results.foreign.cells import Array
from vqscale.results.foreign.names import C, D, N

LETTER_OF = {N: "N", "parameters": "N", D: "D", C: "C"}
FORMULAS = {C: "6 N D", D: "C / (6 N)", N: "C / (6 D)"}
_MOST_NAMED = 3
FURTHEST_FROM_6ND = 10.0
"""Factor between C and 6ND beyond which one of the three is in another unit: attention, embeddings and rematerialised
activations stay below it."""
_PLAUSIBLE = {N: (1e3, 1e14), D: (1e4, 1e16), C: (1e9, 1e29)}
_RATIO_RANGE = (0.1, 1e6)
SIX, RATIO = "C / 6ND", "D / N"
_FACTORS = {
    N: {"": 1.0, "thousands": 1e3, "millions": 1e6, "billions": 1e9},
    D: {"": 1.0, "thousands": 1e3, "millions": 1e6, "billions": 1e9, "trillions": 1e12},
    C: {"": 1.0, "GFLOPs": 1e9, "TFLOPs": 1e12, "PFLOPs": 1e15, "EFLOPs": 1e18, "ZFLOPs": 1e21, "PF-days": PF_DAY},
}  # fmt: skip
_OPTION = {"thousands": "k", "millions": "M", "billions": "B", "trillions": "T"}
_TYPICAL = {N: 3e8, D: 1e10, C: 1e19, SIX: 1.0, RATIO: 20.0}
_WEIGHT = {N: 0.1, D: 0.1, C: 0.01, SIX: 1.0, RATIO: 1.0}
"""A usual run, and how much a distance from it counts: of several units that are possible, the nearest is likeliest.
20 tokens per parameter are compute-optimal (Hoffmann et al. 2022, arXiv 2203.15556)."""


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

    `values` [R] of N, D and C, as far as the table has them; `names`: their columns in the file.
    """
    known = [name for name in (N, D, C) if name in values]
    whole_R = np.all([np.isfinite(values[name]) for name in known], axis=0) if known else np.zeros(0, dtype=bool)
    if not whole_R.any():
        return []
    medians = {name: float(np.median(values[name][whole_R])) for name in known}
    # Of each run, because medians of N, D and C are not those of one run.
    product_R = {name: np.log(values[name][whole_R]) for name in known}
    if {N, D, C} <= set(known):
        medians[SIX] = float(np.exp(np.median(product_R[C] - product_R[N] - product_R[D])) / 6)
    if {N, D} <= set(known):
        medians[RATIO] = float(np.exp(np.median(product_R[D] - product_R[N])))
    problem = _problem(medians)
    if problem is None:
        return []
    likely = _likely_units(medians)
    shown = ", ".join(f"{LETTER_OF[name]} = {medians[name]:.4g} ({names[name]})" for name in known)
    guess = " and ".join(f"{LETTER_OF[name]} in {unit}" for name, unit in likely.items())
    options = " ".join(f"--unit {LETTER_OF[name]}={_stated(name, unit)}" for name, unit in likely.items())
    advice = f"Probably {guess}: state it with {options}" if likely else "If a column has a unit, state it: --unit N=M"
    return [
        f"units: {problem}. Medians: {shown}. {advice}. Exponents do not depend on units;"
        " E does not either, but A, B, N* and D* do"
    ]


def odd_rows_note(values: Mapping[str, Array], rows: Sequence[str]) -> list[str]:
    """Rows whose N, D or C can only be in another unit than those of the other rows. `rows`: their places."""
    for name in (N, D, C):
        if name in values and len(found := _outside(values[name], _PLAUSIBLE[name])):
            return [_odd(rows, found, f"{LETTER_OF[name]} = {values[name][found[0]]:.4g}", np.nanmedian(values[name]))]
    if {N, D, C} <= set(values):
        six_R = values[C] / (6 * values[N] * values[D])
        middle = float(np.nanmedian(six_R)) if _any(six_R) else 1.0
        found = _outside(six_R, (middle / FURTHEST_FROM_6ND, middle * FURTHEST_FROM_6ND))
        if len(found):
            return [_odd(rows, found, f"C is {six_R[found[0]]:.3g} times 6ND", middle)]
    return []


def _outside(values_R: Array, limits: tuple[float, float]) -> NDArray[np.intp]:
    """Entries outside the limits, where most are inside; none where most are outside, which is one unit for all."""
    known_R = np.isfinite(values_R)
    outside_R = known_R & ((values_R < limits[0]) | (values_R > limits[1]))
    return np.flatnonzero(outside_R) if 2 * outside_R.sum() < known_R.sum() else np.zeros(0, dtype=np.intp)


def _odd(rows: Sequence[str], found: NDArray[np.intp], text: str, middle: float) -> str:
    named = ", ".join(rows[index] for index in found[:_MOST_NAMED])
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    return (
        f"units: {named}{more} may be in other units than the other rows ({text}, the middle of all is {middle:.4g})."
        " They are fitted as they are: correct them, or the fit is wrong"
    )


def _any(values: Array) -> bool:
    return bool(np.isfinite(values).any())


def _stated(name: str, unit: str) -> str:
    return _OPTION.get(unit) or f"{_FACTORS[name][unit]:g}".replace("e+", "e")


def _problem(medians: Mapping[str, float]) -> str | None:
    """What contradicts itself, as text; None where nothing does."""
    for name, what in ((N, "parameters"), (D, "training tokens"), (C, "training FLOPs")):
        low, high = _PLAUSIBLE[name]
        if name in medians and not low <= medians[name] <= high:
            return f"{medians[name]:.4g} {what} can hardly be"
    if RATIO in medians and not _RATIO_RANGE[0] <= medians[RATIO] <= _RATIO_RANGE[1]:
        return f"{medians[RATIO]:.3g} training tokens per parameter can hardly be"
    if SIX in medians and not 1 / FURTHEST_FROM_6ND <= medians[SIX] <= FURTHEST_FROM_6ND:
        return f"C is {medians[SIX]:.3g} times 6ND"
    return None


def _likely_units(medians: Mapping[str, float]) -> dict[str, str]:
    """The units that remove every contradiction: as few as possible, then the nearest to a usual run."""
    names = [name for name in (N, D, C) if name in medians]
    best: tuple[tuple[int, float], dict[str, str]] | None = None
    for units in product(*(_FACTORS[name] for name in names)):
        scaled = _scaled(medians, dict(zip(names, units, strict=True)))
        if _problem(scaled) is not None:
            continue
        changed = {name: unit for name, unit in zip(names, units, strict=True) if unit}
        distance = sum(abs(np.log(value / _TYPICAL[name])) * _WEIGHT[name] for name, value in scaled.items())
        if best is None or (len(changed), distance) < best[0]:
            best = (len(changed), float(distance)), changed
    return best[1] if best else {}


def _scaled(medians: Mapping[str, float], units: Mapping[str, str]) -> dict[str, float]:
    """The medians in other units; D by C = 6ND where the table has none."""
    factor = {name: _FACTORS[name][units[name]] if name in units else 1.0 for name in (N, D, C)}
    found = {name: medians[name] * factor[name] for name in units}
    if SIX in medians:
        found[SIX] = medians[SIX] * factor[C] / (factor[N] * factor[D])
    if RATIO in medians:
        found[RATIO] = medians[RATIO] * factor[D] / factor[N]
    elif {N, C} <= set(found):
        found[RATIO] = found[C] / (6 * found[N] ** 2)
    elif {D, C} <= set(found):
        found[RATIO] = 6 * found[D] ** 2 / found[C]
    return found
