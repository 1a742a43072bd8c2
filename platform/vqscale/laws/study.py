"""Fit the laws of a study: one fit for each law and subset that supports it, a refusal with its reason for each other.

How a table in which size, horizon, codebook, context and architecture vary is split (before `group` overrides it):

law                     x              one fit for each combination of
power_n                 N              architecture, head, codebook size S, context T, tokens D
power_d                 D              architecture, head, S, T, model size
power_c                 C              architecture, head, S, T; only the compute-efficient frontier is fitted
codebook                S              architecture, head, T, D, model size
chinchilla(_tied)       N, D           architecture, head, S, T: L(N, D | S, T)
codebook_*              N, D, S        architecture, head, T
context_*               N, D, T        architecture, head, S
joint_*                 N, D, S, T     architecture, head

and always of corpus, block length, segment, precision and schedule. Seeds are pooled: each is a run. Where runs at one
point differ in learning rate or batch size, the best recipe stands for the point.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import pandas as pd
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from vqscale.errors import FitError
from vqscale.laws.cell import Settings, fit_cell, make_cell
from vqscale.laws.forms import N_COLUMN, SEGMENT_SHARE, Law, named_law
from vqscale.laws.problem import DELTA, Objective
from vqscale.laws.record import Convention, Fit, Refusal, StudyFits
from vqscale.laws.select import best_recipe, cells, data_hash, label, usable

_COUNTS = {N_COLUMN: Convention(), "parameters": Convention(parameters="total")}


@dataclass(frozen=True, kw_only=True)
class _Request:
    metric: str
    group: Sequence[str] | None
    settings: Settings


def fit_study(
    table: pd.DataFrame,
    laws: Sequence[str],
    *,
    bootstrap: int = 200,
    group: Sequence[str] | None = None,
    metric: str | None = None,
    n_column: str = N_COLUMN,
    objective: Objective | None = None,
    hold_out_from: float | None = None,
    sensitivity: bool = True,
    seed: int = 0,
) -> StudyFits:
    """Fit every named law to every subset of `table`.

    `group`: columns to split by, in place of the law's own. `metric`: column to fit; without one, `bpb` if every
    finished run has it, otherwise `loss`. `n_column`: which count is N. `bootstrap`: refits for the intervals, 0 for
    none. `objective`: what is minimised; by default the Huber loss of log residuals, delta 1e-3. `hold_out_from`:
    training FLOPs from which runs enter no fit and are predicted; without it all runs are fitted and the hold-out
    sets aside the largest fifth. `sensitivity`: whether the influence of every run is recorded.

    Raises FitError for an unknown law and for a table with neither `bpb` nor `loss`.
    """
    chosen = [named_law(name, n_column=n_column) for name in laws]
    metric = metric or default_metric(table)
    _require(table, [metric, *(group or ()), *(["flops"] if hold_out_from is not None else [])])
    settings = Settings(
        bootstrap=bootstrap,
        seed=seed,
        objective=objective or Objective(delta=DELTA),
        convention=_COUNTS.get(n_column, Convention()),
        hold_out_from=hold_out_from,
        sensitivity=sensitivity,
    )
    request = _Request(metric=metric, group=group, settings=settings)
    table = _with_segment_share(table)
    # On matrices this small BLAS threads gain nothing, and waiting for each other on a busy machine they cost seconds.
    with threadpool_limits(limits=1, user_api="blas"):
        outcomes = [_fit_law(table, law, request) for law in chosen]
    excluded = list(chain.from_iterable(outcome.excluded for outcome in outcomes))
    return StudyFits(
        fits=list(chain.from_iterable(outcome.fits for outcome in outcomes)),
        refusals=list(chain.from_iterable(outcome.refusals for outcome in outcomes)),
        excluded=[entry for index, entry in enumerate(excluded) if entry not in excluded[:index]],
    )


def default_metric(table: pd.DataFrame) -> str:
    """`bpb` where every finished run has it (comparable across tokenizers and codebooks), otherwise `loss`."""
    finished = table[table["status"] == "finished"] if "status" in table else table
    if "bpb" in table and len(finished) and finished["bpb"].notna().all():
        return "bpb"
    return "loss"


def _require(table: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in table]
    if missing:
        raise FitError(
            f"column {missing[0]!r} is missing; the table has {', '.join(map(str, table.columns))}. "
            f"Name it with --column {missing[0]}=YOUR_COLUMN."
        )


def _with_segment_share(table: pd.DataFrame) -> pd.DataFrame:
    """The table with segment / context: what must agree between contexts is whether, not where, back-propagation
    stops."""
    if not {"segment", "context"} <= set(table):
        return table
    return table.assign(**{SEGMENT_SHARE: table["segment"] / table["context"]})


def _fit_law(table: pd.DataFrame, law: Law, request: _Request) -> StudyFits:
    try:
        _require(table, law.axes)
    except FitError as error:
        return StudyFits(refusals=[_impossible(law, len(table), str(error))])
    metric, settings = request.metric, request.settings
    columns = law.cell if request.group is None else tuple(request.group)
    needed = [] if settings.hold_out_from is None else ["flops"]
    runs, excluded = usable(table, law, metric, needed)
    if runs.empty:
        return StudyFits(refusals=[_impossible(law, 0, "no finished run on its axes")], excluded=excluded)
    digest = data_hash(table, ["trial_id", "name", "status", metric, *law.axes, *columns])
    fits: list[Fit] = []
    refusals: list[Refusal] = []
    for where, cell in cells(runs, columns):
        chosen, worse = best_recipe(cell, law, metric)
        excluded += worse
        made = make_cell(law, where, label(where, runs), chosen, metric, settings.hold_out_from)
        outcome = fit_cell(made, settings, digest=digest)
        if isinstance(outcome, Fit):
            fits.append(outcome)
        else:
            refusals.append(outcome)
    return StudyFits(fits=fits, refusals=refusals, excluded=excluded)


def _impossible(law: Law, runs: int, reason: str) -> Refusal:
    return Refusal(law=law.name, where={}, label="all runs", n_runs=runs, kind="not possible", reason=reason)
