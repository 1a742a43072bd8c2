"""Fit the laws of a study: one fit for each law and subset that supports it, a refusal with its reason for each other.

How a table in which size, horizon, codebook, context and architecture vary is split (before `group` overrides it):

law                     x              one fit for each combination of
power_n                 N              architecture, head, codebook size S, context T, tokens D
power_d                 D              architecture, head, S, T, model size
power_c                 C              architecture, head, S, T; only the compute-efficient frontier is fitted
codebook                S              architecture, head, T, D, model size
chinchilla*             N, D           architecture, head, S, T: L(N, D | S, T)
codebook_*              N, D, S        architecture, head, T
context_*               N, D, T        architecture, head, S
joint_*                 N, D, S, T     architecture, head

and always of corpus, block length, segment, precision and schedule. Seeds are pooled: each is a run. Where runs at one
point differ in learning rate or batch size, the best recipe stands for the point.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from vqscale.errors import FitError
from vqscale.laws.decisions.compare import Price, compare
from vqscale.laws.fitting.problem import DELTA, Objective
from vqscale.laws.fitting.run_filter import best_recipe, cells, data_hash, label, names_of, usable
from vqscale.laws.forms.catalogue import N_COLUMN, SEGMENT_SHARE, Law, named_law
from vqscale.laws.forms.conventions import every_convention, parameters_under
from vqscale.laws.io.schema import Convention, Exclusion, Fit, Isoflop, Refusal, Selection, StudyFits
from vqscale.laws.subset import Cell, Settings, fit_cell, make_cell, refitter
from vqscale.laws.validation.isoflop import Runs, isoflop
from vqscale.laws.validation.model_selection import LEFT_OUT, Contender, Judged, choose


@dataclass(frozen=True, kw_only=True)
class _Request:
    metric: str
    group: Sequence[str] | None
    settings: Settings


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    """What came of one law; `cells` are all its subsets, refused ones included."""

    cells: list[Cell] = field(default_factory=list)
    fits: list[Fit] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    excluded: list[Exclusion] = field(default_factory=list)


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
    budgets: Sequence[float] | None = None,
    sensitivity: bool = True,
    price: Price | None = None,
    seed: int = 0,
) -> StudyFits:
    """Fit every named law to every subset of `table`.

    `group`: columns to split by, in place of the law's own. `metric`: column to fit; without one, `bpb` if every
    finished run has it, otherwise `loss`. `n_column`: which count is N, a column or one
    of `Convention.parameters`, made from `parameter_groups`. `bootstrap`: refits for the intervals, 0 for none.
    `objective`: what is minimised; by default the Huber loss of log residuals, delta 1e-3. `hold_out_from`: training
    FLOPs from which runs enter no fit and are predicted; without it all runs are fitted and the hold-out sets aside the
    largest fifth. `budgets`: training FLOPs at which optima are given, by default over the fitted range and beyond it.
    `price`: of a device-hour, for comparisons at equal money. `sensitivity`: whether the
    influence of every run and the variants are recorded.

    Raises FitError for an unknown law and for a table with neither `bpb` nor `loss`.
    """
    table, n_column, convention = _counting(table, n_column)
    chosen = [named_law(name, n_column=n_column) for name in laws]
    metric = metric or default_metric(table)
    _require(table, [metric, *(group or ()), *(["flops"] if hold_out_from is not None else [])])
    settings = Settings(
        bootstrap=bootstrap,
        seed=seed,
        objective=objective or Objective(delta=DELTA),
        convention=convention,
        hold_out_from=hold_out_from,
        budgets=budgets,
        sensitivity=sensitivity,
    )
    request = _Request(metric=metric, group=group, settings=settings)
    table = _with_segment_share(table)
    # On matrices this small BLAS threads gain nothing, and waiting for each other on a busy machine they cost seconds.
    with threadpool_limits(limits=1, user_api="blas"):
        outcomes = [_fit_law(table, law, request) for law in chosen]
        isoflops = _isoflops(table, named_law("chinchilla", n_column=n_column), request)
        made = list(chain.from_iterable(outcome.cells for outcome in outcomes))
        selections = _selections(made, request.settings.objective)
        fits = list(chain.from_iterable(outcome.fits for outcome in outcomes))
        comparisons = compare(fits, table, price)
    excluded = list(chain.from_iterable(outcome.excluded for outcome in outcomes))
    return StudyFits(
        fits=fits,
        refusals=list(chain.from_iterable(outcome.refusals for outcome in outcomes)),
        excluded=[entry for index, entry in enumerate(excluded) if entry not in excluded[:index]],
        isoflops=isoflops,
        comparisons=comparisons,
        selections=selections,
    )


def _counting(table: pd.DataFrame, n_column: str) -> tuple[pd.DataFrame, str, Convention]:
    """The table with N in a column, that column, and the convention."""
    for convention in every_convention():
        if n_column == convention.parameters:
            column = f"parameters_{n_column}"
            return table.assign(**{column: parameters_under(table, convention)}), column, convention
    return table, n_column, Convention(parameters="total" if n_column == "parameters" else "non_embedding")


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


def _fit_law(table: pd.DataFrame, law: Law, request: _Request) -> _Outcome:
    try:
        _require(table, law.axes)
    except FitError as error:
        return _Outcome(refusals=[_impossible(law, len(table), str(error))])
    metric, settings = request.metric, request.settings
    columns = law.cell if request.group is None else tuple(request.group)
    needed = [] if settings.hold_out_from is None else ["flops"]
    runs, excluded = usable(table, law, metric, needed)
    if runs.empty:
        return _Outcome(refusals=[_impossible(law, 0, "no finished run on its axes")], excluded=excluded)
    digest = data_hash(table, ["trial_id", "name", "status", metric, *law.axes, *columns])
    made: list[Cell] = []
    for where, cell in cells(runs, columns):
        chosen, worse = best_recipe(cell, law, metric)
        excluded += worse
        made.append(make_cell(law, where, label(where, runs), chosen, metric, settings.hold_out_from))
    outcomes = [fit_cell(one, settings, digest=digest) for one in made]
    return _Outcome(
        cells=made,
        fits=[outcome for outcome in outcomes if isinstance(outcome, Fit)],
        refusals=[outcome for outcome in outcomes if isinstance(outcome, Refusal)],
        excluded=excluded,
    )


def _isoflops(table: pd.DataFrame, law: Law, request: _Request) -> list[Isoflop]:
    """A parabola a budget, for every subset that Chinchilla's law would be fitted to and that has budgets.

    Held-out budgets are shown like the others: a parabola predicts nothing.
    """
    if not {*law.axes, "flops"} <= set(table):
        return []
    runs, _ = usable(table, law, request.metric, ["flops"])
    columns = law.cell if request.group is None else tuple(request.group)
    found = []
    for where, subset in cells(runs, columns):
        chosen, _ = best_recipe(subset, law, request.metric)
        n, d, c, loss = (chosen[name].to_numpy(dtype=np.float64) for name in (*law.axes, "flops", request.metric))
        parabolas = isoflop(where, label(where, runs), Runs(names=names_of(chosen), n=n, d=d, c=c, loss=loss))
        found += [] if parabolas is None else [parabolas]
    return found


def _selections(made: Sequence[Cell], objective: Objective) -> list[Selection]:
    """A choice wherever several laws of the same letters were asked for on the same runs."""
    rivals: dict[str, list[Cell]] = {}
    for cell in made:
        if len(cell.law.letters) > 1:
            key = repr((sorted(cell.law.letters), cell.where, cell.names))
            rivals.setdefault(key, []).append(cell)
    return [_selection(group, objective) for group in rivals.values() if len(group) > 1]


def _selection(group: Sequence[Cell], objective: Objective) -> Selection:
    contenders = [
        Contender(
            law=cell.law.name,
            form=cell.law.form,
            limits=cell.law.limits,
            parameters=len(cell.law.parameters),
            x=cell.x,
            refit=refitter(cell, objective),
        )
        for cell in group
    ]
    first = group[0]
    place = first.law.letters.index
    values = {letter: first.x[:, place(letter)] for letter in LEFT_OUT if letter in first.law.letters}
    judged = Judged(loss=first.losses, order=first.order, values=values, held=first.held)
    return choose(first.where, first.label, contenders, judged)


def _impossible(law: Law, runs: int, reason: str) -> Refusal:
    return Refusal(law=law.name, where={}, label="all runs", n_runs=runs, kind="not possible", reason=reason)
