"""One law on one subset of a table: the fit with everything that is recorded of it, or the refusal."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import pandas as pd

from vqscale.laws.bootstrap import MINIMUM_DISTINCT, Draws, bootstrap, distinct_values, interval
from vqscale.laws.fit import DELTA, FitStatus, Minimum, make_problem, solve
from vqscale.laws.forms import Array, Law, predict
from vqscale.laws.holdout import hold_out, points, r_squared
from vqscale.laws.record import Convention, Curve, CurvePoint, Fit, Interval, Method, Refusal, RefusalKind, Where
from vqscale.laws.select import frontier, names_of

UNITS = {"loss": "nats a token", "bpb": "bits a byte"}
CURVE_POINTS = 36
"""Within the data."""
MOST_CURVES = 6


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The runs of one fit: `x` [R, A], `losses` [R], and `order` [R], by which the hold-out calls a run large."""

    law: Law
    where: Where
    label: str
    metric: str
    selection: str
    names: list[str]
    x: Array
    losses: Array
    order: Array
    order_name: str


def make_cell(law: Law, where: Where, label: str, runs: pd.DataFrame, metric: str) -> Cell:
    chosen = frontier(runs, law.axes[0], metric) if law.frontier else runs
    selection = "all finished runs of the subset"
    if law.frontier:
        selection = f"compute-efficient frontier: the {len(chosen)} of {len(runs)} runs that no cheaper run beats"
    x_RA: Array = chosen[list(law.axes)].to_numpy(dtype=np.float64)
    order_R, order_name = _order(law, chosen, x_RA)
    return Cell(
        law=law,
        where=where,
        label=label,
        metric=metric,
        selection=selection,
        names=names_of(chosen),
        x=x_RA,
        losses=chosen[metric].to_numpy(dtype=np.float64),
        order=order_R,
        order_name=order_name,
    )


def fit_cell(cell: Cell, *, digest: str, refits: int, seed: int) -> Fit | Refusal:
    """`digest` identifies the table, `refits` and `seed` are those of the bootstrap."""
    reason = _too_small(cell)
    if reason:
        return _refusal(cell, "too few runs", reason)
    problem = make_problem(cell.x, cell.losses)
    minimum = solve(problem)
    if minimum.status is not FitStatus.CONVERGED:
        return _refusal(cell, "not supported", f"{minimum.status}: {minimum.reason}")
    draws = bootstrap(problem, minimum, refits, seed)
    return _record(cell, minimum, draws, digest, seed)


def _order(law: Law, runs: pd.DataFrame, x_RA: Array) -> tuple[Array, str]:
    """Large on the law's axis, or in training FLOPs where the law has two axes and the table has them."""
    if len(law.axes) == 1:
        return x_RA[:, 0], law.letters[0]
    if "flops" in runs and runs["flops"].notna().all():
        return runs["flops"].to_numpy(dtype=np.float64), "training FLOPs C"
    return x_RA.prod(axis=1), "product N D"


def _too_small(cell: Cell) -> str:
    law = cell.law
    if len(cell.losses) < law.minimum_runs:
        return f"{len(cell.losses)} usable runs; {law.form} needs at least {law.minimum_runs}"
    for letter, distinct in zip(law.letters, distinct_values(cell.x), strict=True):
        if distinct < MINIMUM_DISTINCT:
            return f"{distinct} distinct values of {letter}; the law needs at least {MINIMUM_DISTINCT}"
    return ""


def _refusal(cell: Cell, kind: RefusalKind, reason: str) -> Refusal:
    return Refusal(
        law=cell.law.name, where=cell.where, label=cell.label, n_runs=len(cell.losses), kind=kind, reason=reason
    )


def _record(cell: Cell, minimum: Minimum, draws: Draws, digest: str, seed: int) -> Fit:
    law, values = cell.law, minimum.parameters
    fitted = points(cell.names, cell.x, cell.losses, values)
    held = hold_out(law, cell.names, cell.x, cell.losses, cell.order, cell.order_name)
    refits = len(draws.parameters)
    r2_fit = r_squared(cell.losses, np.array([point.predicted for point in fitted]))
    settings = [law.name, cell.where, digest, cell.metric, list(law.axes), DELTA, refits, seed]
    return Fit(
        id=hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12],
        law=law.name,
        form=law.form,
        terms=law.terms,
        where=cell.where,
        label=cell.label,
        convention=Convention(),
        axes=list(law.axes),
        letters=list(law.letters),
        metric=cell.metric,
        unit=UNITS.get(cell.metric, cell.metric),
        parameters=dict(zip(law.parameters, values.tolist(), strict=True)),
        derived=_derived(law, values),
        intervals=_intervals(law, draws),
        status=minimum.status.value,
        objective=minimum.objective,
        method=_method(minimum),
        n_runs=len(cell.losses),
        points=fitted,
        curves=_curves(cell, values, draws),
        r2_fit=1.0 if r2_fit is None else r2_fit,
        r2_holdout=held.r2,
        holdout=held,
        bootstrap=refits,
        bootstrap_seed=seed,
        bootstrap_on_bound=draws.on_bound,
        selection=cell.selection,
        warnings=_warnings(cell, draws),
        data_hash=digest,
        versions={package: version(package) for package in ("vqscale", "numpy", "scipy")},
    )


def _method(minimum: Minimum) -> Method:
    return Method(
        solver="L-BFGS-B from every start, the best polished by trust-region Newton steps",
        objective="sum of Huber losses of log residuals",
        residual="log",
        delta=DELTA,
        starts=minimum.starts,
        starts_agreeing=minimum.starts_agreeing,
        tolerance=1e-15,
        decrease_in_reach=minimum.decrease,
        condition=minimum.condition,
        cross_check=None,
    )


def _derived(law: Law, values_P: Array) -> dict[str, float]:
    """Exponents of the compute-optimal allocation, arXiv 2203.15556 equation 4, for C proportional to N D."""
    if law.name != "chinchilla":
        return {}
    alpha, beta = float(values_P[2]), float(values_P[4])
    return {"a": beta / (alpha + beta), "b": alpha / (alpha + beta)}


def _intervals(law: Law, draws: Draws) -> dict[str, Interval]:
    if not len(draws.parameters):
        return {}
    found = {name: interval(draws.parameters[:, index]) for index, name in enumerate(law.parameters)}
    derived = [_derived(law, draw) for draw in draws.parameters]
    return found | {name: interval(np.array([values[name] for values in derived])) for name in derived[0]}


def _curves(cell: Cell, values: Array, draws: Draws) -> list[Curve]:
    """The law along its first axis, from the smallest run to ten times the largest."""
    first = cell.x[:, 0]
    inside = np.geomspace(first.min(), first.max(), CURVE_POINTS)
    beyond = np.geomspace(first.max(), 10 * first.max(), CURVE_POINTS // 3)
    x_X = np.concatenate([inside, beyond[1:]])
    return [_curve(x_X, fixed, values, draws) for fixed in _fixed_values(cell)]


def _fixed_values(cell: Cell) -> Iterable[dict[str, float]]:
    if len(cell.law.axes) == 1:
        return [{}]
    distinct = np.unique(cell.x[:, 1])
    chosen = np.unique(np.linspace(0, len(distinct) - 1, min(MOST_CURVES, len(distinct))).round().astype(int))
    return [{cell.law.axes[1]: float(distinct[index])} for index in chosen]


def _curve(x_X: Array, fixed: dict[str, float], values: Array, draws: Draws) -> Curve:
    x_XA = np.stack([x_X, *(np.full_like(x_X, value) for value in fixed.values())], axis=1)
    loss_X = predict(values.tolist(), x_XA).tolist()
    low_X: list[float | None] = [None] * len(x_X)
    high_X: list[float | None] = [None] * len(x_X)
    if len(draws.parameters):
        refits_BX = np.stack([predict(draw.tolist(), x_XA) for draw in draws.parameters])
        low_X, high_X = (np.percentile(refits_BX, level, axis=0).tolist() for level in (5, 95))
    rows = zip(x_X.tolist(), loss_X, low_X, high_X, strict=True)
    return Curve(fixed=fixed, points=[CurvePoint(x=x, loss=y, low90=low, high90=high) for x, y, low, high in rows])


def _warnings(cell: Cell, draws: Draws) -> list[str]:
    found = []
    parameters, refits = len(cell.law.parameters), len(draws.parameters)
    if len(cell.losses) < 2 * parameters:
        found.append(f"{len(cell.losses)} runs for {parameters} parameters: the intervals are rough")
    if draws.on_bound > 0.05 * refits:
        found.append(
            f"{draws.on_bound} of {refits} refits ended on a bound of the search: the true uncertainty is larger "
            "than the intervals say"
        )
    return found
