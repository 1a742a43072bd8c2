"""One law fitted to one subset of a table: the fit with everything that is recorded of it, or the refusal."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vqscale.laws.decisions.frontier import fit_frontiers, near_the_optimum
from vqscale.laws.fitting.bootstrap import RECORDED_REFITS, Draws, bootstrap, parameter_intervals
from vqscale.laws.fitting.fit import FitStatus, Minimum, disagreement, solve
from vqscale.laws.fitting.identifiability import too_small
from vqscale.laws.fitting.points import point_numbers
from vqscale.laws.fitting.problem import Objective, make_problem
from vqscale.laws.fitting.run_filter import groups_of, lower_envelope, names_of, told_apart
from vqscale.laws.forms.catalogue import RUNS_PER_PARAMETER, Array, Law, derived, evaluate_law
from vqscale.laws.forms.curves import law_curves
from vqscale.laws.io.schema import LOSS_UNITS, Convention, Fit, Refusal, RefusalKind, Span, Where
from vqscale.laws.validation.holdout import FittedLaw, HoldOutRuns, Refit, hold_out, r_squared, run_points
from vqscale.laws.validation.influence import influences
from vqscale.laws.validation.marks import MINIMUM_FREEDOM, MINIMUM_UNITS, MOST_ON_BOUND, beaten_by_one, marks_of
from vqscale.laws.validation.variants import NEAR_OPTIMUM, AxesByConvention, axes_by_convention, variants

if TYPE_CHECKING:
    import pandas as pd

REFITS_ON_BOUND = 0.05
"""Share of the refits that may end on a bound before the fit warns; above `MOST_ON_BOUND` it is marked."""


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """Settings of every fit: `bootstrap` refits drawn with `seed`, the objective, and what counts as N and C."""

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
class Subset:
    """The runs of one subset and the law for them: `x` [R, A], `losses` [R], and `order` [R], which ranks runs by size.

    `held` [R]: runs that the fit must not contain, because the study holds them out.
    """

    law: Law
    where: Where
    label: str
    metric: str
    selection: str
    names: list[str]
    groups: list[str] | None
    """Which run each row belongs to; None: each row is a run of its own."""
    x: Array
    losses: Array
    flops: Array | None
    """Training FLOPs, NaN where a run has none; None where no run has any."""
    order: Array
    order_name: str
    held: NDArray[np.bool_]
    other_axes: AxesByConvention
    """`x` as other conventions count it."""

    def take(self, rows_R: NDArray[np.bool_]) -> "Subset":
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
            other_axes={name: x if isinstance(x, str) else x[rows_R] for name, x in self.other_axes.items()},
        )

    @property
    def fitted(self) -> "Subset":
        return self.take(~self.held)

    @property
    def units(self) -> int:
        """Runs of their own, which the bootstrap draws."""
        return len(self.losses) if self.groups is None else len(set(self.groups))

    @property
    def points(self) -> int:
        """Distinct points."""
        return len(np.unique(point_numbers(self.law.letters, self.x)))

    @property
    def observations(self) -> int:
        """Points of runs of their own: rows of one run at one point are one."""
        points = point_numbers(self.law.letters, self.x).tolist()
        return len(set(zip(self.groups or range(len(points)), points, strict=True)))

    @property
    def freedom(self) -> int:
        """Degrees of freedom that the law leaves."""
        return self.observations - self.law.free_parameters


def make_subset(
    law: Law, where: Where, label: str, runs: "pd.DataFrame", metric: str, hold_out_from: float | None = None
) -> Subset:
    """The subset `where` as one law sees it. `hold_out_from`: training FLOPs from which runs are held out."""
    used = lower_envelope(runs, law.axes[0], metric) if law.frontier else runs
    x_RA: Array = used[list(law.axes)].to_numpy(dtype=np.float64)
    flops = _flops(used)
    order_R, order_name = _order(law, flops, x_RA)
    held_R = np.zeros(len(used), dtype=bool)
    if hold_out_from is not None:
        assert flops is not None
        held_R = flops >= hold_out_from
    return Subset(
        law=law,
        where=where,
        label=label,
        metric=metric,
        selection=_selection(law, len(runs), len(used), int(held_R.sum()), hold_out_from),
        names=names_of(used),
        groups=_units(law, used, x_RA),
        x=x_RA,
        losses=used[metric].to_numpy(dtype=np.float64),
        flops=flops,
        order=order_R,
        order_name=order_name,
        held=held_R,
        other_axes=axes_by_convention(law, used),
    )


def fit_subset(subset: Subset, settings: FitSettings, *, digest: str) -> Fit | Refusal:
    """The fit of the subset's law, or the reason why its runs do not identify it. `digest` identifies the table."""
    fitted = subset.fitted
    reason = too_small(subset.law, fitted.x)
    if reason:
        return _refusal(subset, "too few runs", reason + _held_out_note(subset))
    problem = make_problem(subset.law, fitted.x, fitted.losses, settings.objective)
    minimum = solve(problem)
    if minimum.status is not FitStatus.CONVERGED:
        return _refusal(subset, "not supported", f"{minimum.status}: {minimum.reason}")
    refits = settings.bootstrap if _has_intervals(fitted) else 0
    draws = bootstrap(minimum, fitted.x, refits, settings.seed, fitted.groups)
    fit = _record(subset, minimum, draws, settings, digest)
    return _with_sensitivity(fit, subset, minimum) if settings.sensitivity else fit


def _units(law: Law, runs: "pd.DataFrame", x_RA: Array) -> list[str] | None:
    """What is resampled together: the rows of a run; where nothing tells the runs at a point apart, those of a point.

    Five evaluations or copies of a run hold no more than one does; five seeds do.
    """
    named = groups_of(runs)
    if named is not None or told_apart(runs):
        return named
    point_R = point_numbers(law.letters, x_RA)
    return None if len(np.unique(point_R)) == len(point_R) else [f"point {number}" for number in point_R.tolist()]


def _resampled(subset: Subset) -> str:
    """What the bootstrap drew, as text."""
    rows, points = len(subset.losses), subset.points
    if subset.groups is None:
        return f"{rows} runs" if points == rows else f"{rows} runs at {points} points"
    units = subset.units
    if subset.groups[0].startswith("point ") and units == points:
        return f"{points} points, with all rows of each: no column tells the runs of its {rows} rows apart"
    return f"{units} runs, with all rows of each: {rows} rows"


def _flops(runs: "pd.DataFrame") -> Array | None:
    if "flops" not in runs:
        return None
    flops = runs["flops"].to_numpy(dtype=np.float64, na_value=np.nan)
    known = np.where((flops > 0) & np.isfinite(flops), flops, np.nan)
    return known if np.isfinite(known).any() else None


def _order(law: Law, flops_R: Array | None, x_RA: Array) -> tuple[Array, str]:
    """What ranks runs by size, [R], and its name: the law's axis, or training FLOPs where it has more than one."""
    if len(law.axes) == 1:
        return x_RA[:, 0], law.letters[0]
    if flops_R is not None and np.isfinite(flops_R).all():
        return flops_R, "training FLOPs C"
    # 6ND without its constant: the same order.
    return x_RA[:, [law.letters.index("N"), law.letters.index("D")]].prod(axis=1), "product N D"


def _selection(law: Law, runs: int, used: int, held: int, hold_out_from: float | None) -> str:
    text = "all finished runs of the subset"
    if law.frontier:
        text = f"compute-efficient frontier: the {used} of {runs} runs that no cheaper run beats"
    if hold_out_from is not None:
        text += f"; {held} of them, from {hold_out_from:.4g} training FLOPs on, are held out by the study's design"
    return text


def _held_out_note(subset: Subset) -> str:
    held = int(subset.held.sum())
    return f" ({held} more are held out by the study's design)" if held else ""


def refitter(subset: Subset, objective: Objective) -> Refit:
    """Fits the subset's law to some of its rows, without the cross-check, which is done once, on all of them."""

    def refit(rows_R: NDArray[np.bool_]) -> FittedLaw | str:
        part = subset.take(rows_R)
        reason = too_small(subset.law, part.x)
        if reason:
            return reason
        minimum = solve(make_problem(subset.law, part.x, part.losses, objective), check=False)
        if minimum.status is not FitStatus.CONVERGED:
            return f"{minimum.status}: {minimum.reason}"
        found = dict(zip(subset.law.parameters, minimum.parameters.tolist(), strict=True))
        exponents = {name: found[name] for name in subset.law.exponents}
        exponents |= {name: float(value) for name, value in derived(subset.law, minimum.parameters).items()}
        return FittedLaw(predict=lambda x_RA: evaluate_law(subset.law, minimum.parameters, x_RA), exponents=exponents)

    return refit


def hold_out_runs(subset: Subset) -> HoldOutRuns:
    return HoldOutRuns(
        names=subset.names,
        x=subset.x,
        loss=subset.losses,
        order=subset.order,
        order_name=subset.order_name,
        minimum=subset.law.minimum_runs,
        hold_out=subset.held if subset.held.any() else None,
    )


def _refusal(subset: Subset, kind: RefusalKind, reason: str) -> Refusal:
    return Refusal(
        law=subset.law.name,
        where=subset.where,
        label=subset.label,
        n_runs=int(np.sum(~subset.held)),
        kind=kind,
        reason=reason,
    )


def _record(subset: Subset, minimum: Minimum, draws: Draws, settings: FitSettings, digest: str) -> Fit:
    law, values, fitted = subset.law, minimum.parameters, subset.fitted
    # C = 6ND is no measurement: exact FLOPs per token would come out of it, and a frontier by them.
    flops = fitted.flops if settings.convention.flops == "exact" else None
    measured = run_points(fitted.names, fitted.x, fitted.losses, evaluate_law(law, values, fitted.x), flops)
    held = hold_out(hold_out_runs(subset), refitter(subset, settings.objective), subset.flops)
    r2_fit = r_squared(fitted.losses, np.array([point.predicted for point in measured]))
    fit = Fit(
        id=_id(subset, settings, digest),
        law=law.name,
        form=law.form,
        terms=list(law.terms),
        where=subset.where,
        label=subset.label,
        convention=settings.convention,
        axes=list(law.axes),
        letters=list(law.letters),
        metric=subset.metric,
        unit=LOSS_UNITS.get(subset.metric, subset.metric),
        parameters=dict(zip(law.parameters, values.tolist(), strict=True)),
        derived={name: float(value) for name, value in derived(law, values).items()},
        intervals=parameter_intervals(law, draws.parameters),
        status=minimum.status.value,
        objective=minimum.objective,
        method=minimum.method,
        n_runs=len(fitted.losses),
        points=measured,
        curves=law_curves(law, fitted.x, values, draws.parameters),
        exponent_spans={name: Span(low=low, high=high) for name, (low, high) in minimum.spans.items()},
        freedom=fitted.freedom,
        units=fitted.units,
        r2_fit=r2_fit if _many_enough(fitted, fitted.points) else None,
        r2_holdout=held.r2,
        holdout=held,
        resampled=_resampled(fitted),
        bootstrap=len(draws),
        bootstrap_seed=settings.seed,
        bootstrap_on_bound=draws.on_bound,
        draws=draws.parameters[:RECORDED_REFITS].tolist(),
        selection=subset.selection,
        warnings=_warnings(fitted, minimum, draws, settings),
        data_hash=digest,
        versions={package: version(package) for package in ("vqscale", "numpy", "scipy")},
    )
    found, reasons = fit_frontiers(fit, draws.parameters, settings.budgets)
    return fit.model_copy(
        update={"frontiers": found, "warnings": [*fit.warnings, *beaten_by_one(fit), *reasons], "marks": marks_of(fit)}
    )


def _has_intervals(fitted: Subset) -> bool:
    """Whether refits of resamples say anything: see MINIMUM_FREEDOM and MINIMUM_UNITS."""
    return fitted.freedom >= MINIMUM_FREEDOM and fitted.units >= MINIMUM_UNITS


def _many_enough(fitted: Subset, runs: int) -> bool:
    """Whether that many are enough for the law: intervals of fewer runs are rough, R² of fewer points says nothing."""
    return runs >= RUNS_PER_PARAMETER * fitted.law.free_parameters


def _with_sensitivity(fit: Fit, subset: Subset, minimum: Minimum) -> Fit:
    law, fitted = subset.law, subset.fitted
    found = {
        "influences": influences(law, minimum, fitted.x, fitted.names, fitted.groups),
        "variants": variants(
            law,
            fitted.x,
            fitted.losses,
            fitted.order,
            minimum.problem.objective,
            fitted.other_axes,
            near_the_optimum(fit, NEAR_OPTIMUM),
        ),
    }
    return fit.model_copy(update=found)


def _id(subset: Subset, settings: FitSettings, digest: str) -> str:
    # What enters the id and its order are fixed: ids of fits are quoted in files, figures and predictions.
    objective = [settings.objective.delta, settings.objective.residual]
    held = [settings.hold_out_from, settings.bootstrap, settings.seed]
    identity = [subset.law.name, subset.where, digest, subset.metric, list(subset.law.axes), *objective, *held]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]


def _warnings(fitted: Subset, minimum: Minimum, draws: Draws, settings: FitSettings) -> list[str]:
    found = []
    parameters, refits = fitted.law.free_parameters, len(draws)
    if _has_intervals(fitted) and not _many_enough(fitted, fitted.observations):
        found.append(
            f"{fitted.observations} runs for {parameters} constants, {fitted.freedom} degrees of freedom: the intervals"
            " are rough, and R² would say nothing"
        )
    if REFITS_ON_BOUND * refits < draws.on_bound <= MOST_ON_BOUND * refits:
        found.append(
            f"{draws.on_bound} of {refits} refits ended on a bound of the search: the true uncertainty is larger "
            "than the intervals say"
        )
    if refits < settings.bootstrap and _has_intervals(fitted):
        found.append(f"only {refits} of {settings.bootstrap} resamples determine the law: the intervals are rough")
    if difference := disagreement(minimum.method):
        found.append(difference)
    return found
