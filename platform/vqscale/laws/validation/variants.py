"""Sensitivity of a fit: the same law under other objectives, other runs and other counts of N and C.

Every variant is a search of its own, like the fit, but not cross-checked and without a bootstrap.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqscale.errors import FitError
from vqscale.laws.fitting.fit import FitStatus, solve
from vqscale.laws.fitting.identifiability import too_small
from vqscale.laws.fitting.points import SAME_BUDGET, axis_levels, budgets_of
from vqscale.laws.fitting.problem import DELTA, Objective, make_problem
from vqscale.laws.forms.catalogue import Array, Law, derived
from vqscale.laws.forms.conventions import (
    N_DESCRIPTIONS,
    describe_convention,
    every_convention,
    flops_under,
    parameters_under,
)
from vqscale.laws.io.schema import Convention, Variant

if TYPE_CHECKING:
    import pandas as pd

OBJECTIVES = {
    "delta 1e-2 on log residuals": Objective(delta=1e-2),
    "delta 1e-3 on log residuals": Objective(delta=DELTA),
    "delta 1e-4 on log residuals": Objective(delta=1e-4),
    "least squares on log residuals": Objective(delta=None),
    "delta 1e-3 on raw residuals": Objective(delta=DELTA, residual="raw"),
}
NEAR_OPTIMUM = 4.0
"""Times the best size of its budget, in either direction, within which a run decides where the optimum is: further out
the form of the law decides with it."""
AxesByConvention = Mapping[str, Array | str]
"""Description of a convention -> x [R, A] as it counts, or the reason why the table does not hold it."""


def axes_by_convention(law: Law, runs: "pd.DataFrame") -> dict[str, Array | str]:
    """The law's axes under every convention that changes one of them."""
    if not {"N", "C"} & set(law.letters):
        return {}
    present_RA = runs[list(law.axes)].to_numpy(dtype=np.float64)
    found: dict[str, Array | str] = {}
    for convention in every_convention():
        name = describe_convention(convention) if "C" in law.letters else N_DESCRIPTIONS[convention.parameters]
        # An exact C is the same under every count of N: only C = 6ND makes variants of a law in C.
        if name in found or ("C" in law.letters and convention.flops == "exact"):
            continue
        try:
            x_RA = _axes_under(law, runs, convention)
        except FitError as error:
            found[name] = str(error)
            continue
        missing = int((~(np.isfinite(x_RA) & (x_RA > 0)).all(axis=1)).sum())
        if missing:
            found[name] = f"{missing} of {len(x_RA)} runs have no such count"
        elif not np.array_equal(x_RA, present_RA):
            found[name] = x_RA
    return found


def _axes_under(law: Law, runs: "pd.DataFrame", convention: Convention) -> Array:
    """x of every run, as the convention counts it: [R, A]. Raises FitError where the table lacks a count."""
    n_R = parameters_under(runs, convention)
    x_RA = runs[list(law.axes)].to_numpy(dtype=np.float64, copy=True)
    for letter, axis in zip(law.letters, x_RA.T, strict=True):
        if letter == "N":
            axis[:] = n_R
        elif letter == "C":
            axis[:] = flops_under(runs, convention, n_R)
    return x_RA


class _Change(NamedTuple):
    kind: Literal["convention", "objective", "runs"]
    description: str
    x: Array
    losses: Array
    objective: Objective


def variants(
    law: Law,
    x_RA: Array,
    loss_R: Array,
    order_R: Array,
    objective: Objective,
    conventions: AxesByConvention,
    near_R: NDArray[np.bool_] | None = None,
) -> list[Variant]:
    """The sensitivity table of a fit.

    `order_R` ranks runs by size. `conventions`: `axes_by_convention` of the same runs. `near_R`: which runs lie within
    `NEAR_OPTIMUM` times of the best size of their budget; None where no budget can be divided.
    """
    found: list[Variant] = []
    for name, x in conventions.items():
        if isinstance(x, str):
            found.append(_refused("convention", name, len(loss_R), x))
        else:
            found.append(_fitted(law, _Change("convention", name, x, loss_R, objective)))
    others = {name: other for name, other in OBJECTIVES.items() if other != objective}
    found += [_fitted(law, _Change("objective", name, x_RA, loss_R, other)) for name, other in others.items()]
    fewer = _fewer(law, x_RA, order_R)
    if near_R is not None:
        fewer[f"runs within {NEAR_OPTIMUM:g} x of the optimum N*(C)"] = near_R
    for name, keep_R in fewer.items():
        found.append(_fitted(law, _Change("runs", name, x_RA[keep_R], loss_R[keep_R], objective)))
    return found


def _fewer(law: Law, x_RA: Array, order_R: Array) -> dict[str, NDArray[np.bool_]]:
    """Runs to keep, by what is left out."""
    found = {}
    # With one axis the smallest budget is the smallest value of the axis.
    if len(law.letters) > 1:
        smallest = budgets_of(order_R, SAME_BUDGET)[0]
        found["without the smallest budget"] = ~np.isin(np.arange(len(order_R)), smallest)
    for letter, level_R in zip(law.letters, axis_levels(law.letters, x_RA).T, strict=True):
        found[f"without the smallest {letter}"] = level_R > 0
        found[f"without the largest {letter}"] = level_R < level_R.max()
    return found


def _fitted(law: Law, change: _Change) -> Variant:
    reason = too_small(law, change.x)
    if reason:
        return _refused(change.kind, change.description, len(change.losses), reason)
    minimum = solve(make_problem(law, change.x, change.losses, change.objective), check=False)
    if minimum.status is not FitStatus.CONVERGED:
        return _refused(change.kind, change.description, len(change.losses), f"{minimum.status}: {minimum.reason}")
    return Variant(
        kind=change.kind,
        description=change.description,
        n_runs=len(change.losses),
        parameters=dict(zip(law.parameters, minimum.parameters.tolist(), strict=True)),
        derived={name: float(value) for name, value in derived(law, minimum.parameters).items()},
        reason=None,
    )


def _refused(kind: Literal["convention", "objective", "runs"], description: str, runs: int, reason: str) -> Variant:
    return Variant(kind=kind, description=description, n_runs=runs, parameters={}, derived={}, reason=reason)
