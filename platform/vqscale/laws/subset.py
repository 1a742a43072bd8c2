"""One law on one subset of a table: the fit with everything that is recorded of it, or the refusal."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vqscale.laws.decisions.frontier import frontiers
from vqscale.laws.fitting.bootstrap import KEPT, Draws, bootstrap, interval
from vqscale.laws.fitting.fit import FitStatus, Minimum, disagreement, solve
from vqscale.laws.fitting.identifiability import too_small
from vqscale.laws.fitting.problem import Objective, make_problem
from vqscale.laws.fitting.run_filter import frontier, groups_of, names_of
from vqscale.laws.forms.catalogue import ROUGH, Array, Law, derived, predict
from vqscale.laws.forms.curves import curves
from vqscale.laws.io.schema import Convention, Fit, Interval, Refusal, RefusalKind, Where
from vqscale.laws.validation.holdout import Fitted, HeldBack, Refit, hold_out, points, r_squared
from vqscale.laws.validation.influence import influences
from vqscale.laws.validation.variants import Counted, counted, variants

UNITS = {"loss": "nats a token", "bpb": "bits a byte"}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is asked of every fit: `bootstrap` refits drawn with `seed`, the objective, and what counts as N and C."""

    bootstrap: int = 200
    seed: int = 0
    objective: Objective = field(default_factory=Objective)
    convention: Convention = field(default_factory=Convention)
    hold_out_from: float | None = None
    """Training FLOPs from which runs are never fitted, only predicted; None: all are fitted."""
    budgets: Sequence[float] | None = None
    """Training FLOPs at which optima are given; None: over the fitted range and beyond it."""
    sensitivity: bool = True
    """Whether the influence of every run and the variants are recorded."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The runs of one subset, row by row: `x` [R, A], `losses` [R], and `order` [R], by which a run is called large.

    `held` [R]: runs that the fit must not contain, because the study holds them out.
    """

    law: Law
    where: Where
    label: str
    metric: str
    selection: str
    names: list[str]
    groups: list[str] | None
    """Which run each row belongs to; None: each its own."""
    x: Array
    losses: Array
    flops: Array | None
    order: Array
    order_name: str
    held: NDArray[np.bool_]
    counted: Counted
    """The axes as other conventions count them."""

    def take(self, rows_R: NDArray[np.bool_]) -> "Cell":
        """The same subset with some of its rows."""
        kept = np.flatnonzero(rows_R).tolist()
        return replace(
            self,
            names=[self.names[row] for row in kept],
            groups=None if self.groups is None else [self.groups[row] for row in kept],
            x=self.x[rows_R],
            losses=self.losses[rows_R],
            flops=None if self.flops is None else self.flops[rows_R],
            order=self.order[rows_R],
            held=self.held[rows_R],
            counted={words: x if isinstance(x, str) else x[rows_R] for words, x in self.counted.items()},
        )

    @property
    def fitted(self) -> "Cell":
        return self.take(~self.held)


def make_cell(
    law: Law, where: Where, label: str, runs: pd.DataFrame, metric: str, hold_out_from: float | None = None
) -> Cell:
    chosen = frontier(runs, law.axes[0], metric) if law.frontier else runs
    x_RA: Array = chosen[list(law.axes)].to_numpy(dtype=np.float64)
    flops = _flops(chosen)
    order_R, order_name = _order(law, flops, x_RA)
    held_R = np.zeros(len(chosen), dtype=bool)
    if hold_out_from is not None:
        assert flops is not None
        held_R = flops >= hold_out_from
    return Cell(
        law=law,
        where=where,
        label=label,
        metric=metric,
        selection=_selection(law, len(runs), len(chosen), int(held_R.sum()), hold_out_from),
        names=names_of(chosen),
        groups=groups_of(chosen),
        x=x_RA,
        losses=chosen[metric].to_numpy(dtype=np.float64),
        flops=flops,
        order=order_R,
        order_name=order_name,
        held=held_R,
        counted=counted(law, chosen),
    )


def fit_cell(cell: Cell, settings: Settings, *, digest: str) -> Fit | Refusal:
    """`digest` identifies the table."""
    fitted = cell.fitted
    reason = too_small(cell.law, fitted.x)
    if reason:
        return _refusal(cell, "too few runs", reason + _without(cell))
    problem = make_problem(cell.law, fitted.x, fitted.losses, settings.objective)
    minimum = solve(problem)
    if minimum.status is not FitStatus.CONVERGED:
        return _refusal(cell, "not supported", f"{minimum.status}: {minimum.reason}")
    draws = bootstrap(minimum, fitted.x, settings.bootstrap, settings.seed, fitted.groups)
    fit = _record(cell, minimum, draws, settings, digest)
    return _with_sensitivity(fit, cell, minimum) if settings.sensitivity else fit


def _flops(runs: pd.DataFrame) -> Array | None:
    if "flops" not in runs or not runs["flops"].notna().all():
        return None
    return runs["flops"].to_numpy(dtype=np.float64)


def _order(law: Law, flops_R: Array | None, x_RA: Array) -> tuple[Array, str]:
    """Large on the law's axis, or in training FLOPs where the law has more axes and the table has them."""
    if len(law.axes) == 1:
        return x_RA[:, 0], law.letters[0]
    if flops_R is not None:
        return flops_R, "training FLOPs C"
    return x_RA[:, [law.letters.index("N"), law.letters.index("D")]].prod(axis=1), "product N D"


def _selection(law: Law, runs: int, chosen: int, held: int, hold_out_from: float | None) -> str:
    words = "all finished runs of the subset"
    if law.frontier:
        words = f"compute-efficient frontier: the {chosen} of {runs} runs that no cheaper run beats"
    if hold_out_from is not None:
        words += f"; {held} of them, from {hold_out_from:.4g} training FLOPs on, are held out by the study's design"
    return words


def _without(cell: Cell) -> str:
    held = int(cell.held.sum())
    return f" ({held} more are held out by the study's design)" if held else ""


def refitter(cell: Cell, objective: Objective) -> Refit:
    """Fits the cell's law to some of its rows. Without the cross-check: it is done once, on all of them."""

    def refit(rows_R: NDArray[np.bool_]) -> Fitted | str:
        part = cell.take(rows_R)
        reason = too_small(cell.law, part.x)
        if reason:
            return reason
        minimum = solve(make_problem(cell.law, part.x, part.losses, objective), check=False)
        if minimum.status is not FitStatus.CONVERGED:
            return f"{minimum.status}: {minimum.reason}"
        found = dict(zip(cell.law.parameters, minimum.parameters.tolist(), strict=True))
        exponents = {name: found[name] for name in cell.law.exponents}
        exponents |= {name: float(value) for name, value in derived(cell.law, minimum.parameters).items()}
        return Fitted(predict=lambda x_RA: predict(cell.law, minimum.parameters, x_RA), exponents=exponents)

    return refit


def held_back(cell: Cell) -> HeldBack:
    return HeldBack(
        names=cell.names,
        x=cell.x,
        loss=cell.losses,
        order=cell.order,
        order_name=cell.order_name,
        minimum=cell.law.minimum_runs,
        hold_out=cell.held if cell.held.any() else None,
    )


def _refusal(cell: Cell, kind: RefusalKind, reason: str) -> Refusal:
    return Refusal(
        law=cell.law.name,
        where=cell.where,
        label=cell.label,
        n_runs=int(np.sum(~cell.held)),
        kind=kind,
        reason=reason,
    )


def _record(cell: Cell, minimum: Minimum, draws: Draws, settings: Settings, digest: str) -> Fit:
    law, values, fitted = cell.law, minimum.parameters, cell.fitted
    measured = points(fitted.names, fitted.x, fitted.losses, predict(law, values, fitted.x), fitted.flops)
    held = hold_out(held_back(cell), refitter(cell, settings.objective), cell.flops)
    r2_fit = r_squared(fitted.losses, np.array([point.predicted for point in measured]))
    fit = Fit(
        id=_id(cell, settings, digest),
        law=law.name,
        form=law.form,
        terms=list(law.terms),
        where=cell.where,
        label=cell.label,
        convention=settings.convention,
        axes=list(law.axes),
        letters=list(law.letters),
        metric=cell.metric,
        unit=UNITS.get(cell.metric, cell.metric),
        parameters=dict(zip(law.parameters, values.tolist(), strict=True)),
        derived={name: float(value) for name, value in derived(law, values).items()},
        intervals=_intervals(law, draws),
        status=minimum.status.value,
        objective=minimum.objective,
        method=minimum.method,
        n_runs=len(fitted.losses),
        points=measured,
        curves=curves(law, fitted.x, values, draws.parameters),
        r2_fit=1.0 if r2_fit is None else r2_fit,
        r2_holdout=held.r2,
        holdout=held,
        bootstrap=len(draws),
        bootstrap_seed=settings.seed,
        bootstrap_on_bound=draws.on_bound,
        draws=draws.parameters[:KEPT].tolist(),
        selection=cell.selection,
        warnings=_warnings(fitted, minimum, draws, settings),
        data_hash=digest,
        versions={package: version(package) for package in ("vqscale", "numpy", "scipy")},
    )
    found, reasons = frontiers(fit, draws.parameters, settings.budgets)
    return fit.model_copy(update={"frontiers": found, "warnings": [*fit.warnings, *reasons]})


def _with_sensitivity(fit: Fit, cell: Cell, minimum: Minimum) -> Fit:
    law, fitted = cell.law, cell.fitted
    found = {
        "influences": influences(law, minimum, fitted.x, fitted.names, fitted.groups),
        "variants": variants(law, fitted.x, fitted.losses, fitted.order, minimum.problem.objective, fitted.counted),
    }
    return fit.model_copy(update=found)


def _id(cell: Cell, settings: Settings, digest: str) -> str:
    objective = [settings.objective.delta, settings.objective.residual]
    held = [settings.hold_out_from, settings.bootstrap, settings.seed]
    identity = [cell.law.name, cell.where, digest, cell.metric, list(cell.law.axes), *objective, *held]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]


def _intervals(law: Law, draws: Draws) -> dict[str, Interval]:
    if not len(draws):
        return {}
    found = dict(zip(law.parameters, draws.parameters.T, strict=True)) | derived(law, draws.parameters)
    return {name: interval(values) for name, values in found.items()}


def _warnings(fitted: Cell, minimum: Minimum, draws: Draws, settings: Settings) -> list[str]:
    found = []
    parameters, refits = fitted.law.free_parameters, len(draws)
    if len(fitted.losses) < ROUGH * parameters:
        found.append(f"{len(fitted.losses)} runs for {parameters} parameters: the intervals are rough")
    if draws.on_bound > 0.05 * refits:
        found.append(
            f"{draws.on_bound} of {refits} refits ended on a bound of the search: the true uncertainty is larger "
            "than the intervals say"
        )
    if refits < settings.bootstrap:
        found.append(f"only {refits} of {settings.bootstrap} resamples determine the law: the intervals are rough")
    if difference := disagreement(minimum.method):
        found.append(difference)
    return found
