"""Fit the laws of a study: one fit for each law and subset that identifies it, a refusal with its reason for others.

How a table in which size, token budget, codebook, context and architecture vary is split (before `group` overrides it):

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
point differ in learning rate or batch size, the best recipe represents the point.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from vqscale.errors import FitError
from vqscale.laws.decisions.compare import Price, compare_fits
from vqscale.laws.decisions.parabolas import check_by_parabolas, in_place_of_a_law
from vqscale.laws.fitting.conditions import mixed_rows
from vqscale.laws.fitting.problem import DELTA, Objective
from vqscale.laws.fitting.rows import runs_of_table
from vqscale.laws.fitting.run_filter import (
    best_recipe,
    columns_of,
    data_hash,
    named_column,
    names_of,
    split_table,
    subset_label,
    usable_runs,
)
from vqscale.laws.forms.catalogue import LAWS, MODEL_COLUMNS, N_COLUMN, SEGMENT_SHARE, Law, named_law
from vqscale.laws.forms.conventions import every_convention, parameters_under
from vqscale.laws.io.schema import (
    Convention,
    Exclusion,
    Fit,
    IsoflopParabolas,
    ModelSelection,
    Refusal,
    StudyFits,
    Where,
)
from vqscale.laws.subset import FitSettings, Subset, fit_subset, make_subset, refitter
from vqscale.laws.validation.isoflop import IsoflopRuns, isoflop_parabolas
from vqscale.laws.validation.marks import marks_of
from vqscale.laws.validation.model_selection import LEFT_OUT, CandidateForm, SelectionRuns, select_model
from vqscale.results.foreign.reading import CELL_PROBLEMS, SOURCE_ROW

if TYPE_CHECKING:
    import pandas as pd


_OWN_SPLIT = tuple(dict.fromkeys(column for law in LAWS.values() for column in law.split_by))
"""Columns by which laws split a table, or of which they are laws."""


@dataclass(frozen=True, kw_only=True)
class _Request:
    metric: str
    group: Sequence[str] | None
    conditions: Sequence[str]
    """Columns of this table that split it beside those that laws name."""
    settings: FitSettings

    def columns(self, law: Law, table: "pd.DataFrame") -> tuple[str, ...]:
        """The columns that split the table for a law."""
        if self.group is not None:
            return tuple(self.group)
        own = law.split_by
        # A table from elsewhere names no preset, width or depth: its sizes are told apart by N.
        if MODEL_COLUMNS[0] in own and not set(MODEL_COLUMNS) & set(table):
            own = (*own, *(column for column in columns_of(table) if column.startswith("parameters")))
        return (*own, *(column for column in self.conditions if column not in own))


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    """Result of one law; `subsets` are all its subsets, refused ones included."""

    subsets: list[Subset] = field(default_factory=list)
    fits: list[Fit] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    excluded: list[Exclusion] = field(default_factory=list)


def fit_study(
    table: "pd.DataFrame",
    laws: Sequence[str],
    *,
    bootstrap: int = 200,
    group: Sequence[str] | None = None,
    metric: str | None = None,
    n_column: str = N_COLUMN,
    objective: Objective | None = None,
    hold_out_from: float | None = None,
    budgets: Sequence[float] | None = None,
    computed: Collection[str] = (),
    sensitivity: bool = True,
    price: Price | None = None,
    seed: int = 0,
) -> StudyFits:
    """Fit every named law to every subset of `table`.

    `group`: columns to split by, in place of the law's own. `metric`: column to fit; without one, `bpb` if every
    finished run has it, otherwise `loss`. `n_column`: which count is N, a column or one of `Convention.parameters`,
    made from `parameter_groups`. `bootstrap`: refits for the intervals, 0 for none. `objective`: what is minimised; by
    default the Huber loss of log residuals, delta 1e-3. `hold_out_from`: training FLOPs from which runs enter no fit
    and are predicted; without it all runs are fitted and the hold-out sets aside the largest fifth. `budgets`: training
    FLOPs at which optima are given, by default over the fitted range and beyond it. `price`: of a device-hour, for
    comparisons at equal money. `computed`: columns that were not measured but follow from C = 6ND. `sensitivity`:
    whether the influence of every run and the variants are recorded.

    Raises FitError for an unknown law and for a table with neither `bpb` nor `loss`.
    """
    table, n_column, convention = _counting(table, n_column)
    if "flops" in computed:
        convention = convention.model_copy(update={"flops": "6nd"})
    named = [named_law(name, n_column=n_column) for name in laws]
    metric = metric or default_metric(table)
    group = None if group is None else [named_column(table, column) for column in group]
    require_columns(table, [metric, *(group or ()), *(["flops"] if hold_out_from is not None else [])])
    settings = FitSettings(
        bootstrap=bootstrap,
        seed=seed,
        objective=objective or Objective(delta=DELTA),
        convention=convention,
        hold_out_from=hold_out_from,
        budgets=budgets,
        sensitivity=sensitivity,
    )
    found = runs_of_table(table, metric, [n_column, "tokens", "flops"], _OWN_SPLIT)
    request = _Request(metric=metric, group=group, conditions=found.conditions.columns, settings=settings)
    table = _with_unique_tokens(_with_segment_share(found.table))
    # On matrices this small BLAS threads gain nothing, and waiting for each other on a busy machine they cost seconds.
    with threadpool_limits(limits=1, user_api="blas"):
        outcomes = [_fit_law(table, law, request) for law in named]
        isoflops = _isoflops(table, named_law("chinchilla", n_column=n_column), request)
        made = list(chain.from_iterable(outcome.subsets for outcome in outcomes))
        selections = _selections(made, request.settings.objective)
        refusals = list(chain.from_iterable(outcome.refusals for outcome in outcomes))
        fitted = chain.from_iterable(outcome.fits for outcome in outcomes)
        fits = _chosen_first(_checked(fitted, isoflops), selections)
        isoflops = [_answering(one, fits, refusals, budgets) for one in isoflops]
        comparisons = compare_fits(fits, table, price)
    excluded = [*found.excluded, *chain.from_iterable(outcome.excluded for outcome in outcomes)]
    notes = [note for note in found.notes if group is None or note not in found.conditions.descriptions]
    return StudyFits(
        fits=fits,
        refusals=refusals,
        excluded=[entry for index, entry in enumerate(excluded) if entry not in excluded[:index]],
        isoflops=isoflops,
        comparisons=comparisons,
        selections=selections,
        notes=notes,
    )


def _counting(table: "pd.DataFrame", n_column: str) -> "tuple[pd.DataFrame, str, Convention]":
    """The table with N in a column, that column, and the convention."""
    for convention in every_convention():
        if n_column == convention.parameters:
            column = f"parameters_{n_column}"
            return table.assign(**{column: parameters_under(table, convention)}), column, convention
    return table, n_column, Convention(parameters="total" if n_column == "parameters" else "non_embedding")


def default_metric(table: "pd.DataFrame") -> str:
    """`bpb` where every finished run has it (comparable across tokenizers and codebooks), otherwise `loss`."""
    finished = table[table["status"] == "finished"] if "status" in table else table
    if "bpb" in table and len(finished) and finished["bpb"].notna().all():
        return "bpb"
    return "bpb" if "bpb" in table and "loss" not in table else "loss"


def require_columns(table: "pd.DataFrame", columns: Sequence[str]) -> None:
    """Raises FitError, with the remedy, for the first of `columns` that the table lacks."""
    missing = [column for column in columns if column not in table]
    if missing:
        names = [str(name) for name in table if name not in (SOURCE_ROW, CELL_PROBLEMS)]
        raise FitError(
            f"column {missing[0]!r} is missing; the table has {', '.join(names)}. "
            f"Name it with --column {missing[0]}=YOUR_COLUMN."
        )


def _with_segment_share(table: "pd.DataFrame") -> "pd.DataFrame":
    """The table with segment / context: what must agree between contexts is whether, not where, back-propagation
    stops."""
    if not {"segment", "context"} <= set(table):
        return table
    return table.assign(**{SEGMENT_SHARE: table["segment"] / table["context"]})


def _with_unique_tokens(table: "pd.DataFrame") -> "pd.DataFrame":
    """The table with D over the epochs, where it counts those and not the unique tokens."""
    if "unique_tokens" in table or not {"epochs", "tokens"} <= set(table):
        return table
    epochs = table["epochs"].to_numpy(dtype=np.float64, na_value=np.nan)
    return table.assign(unique_tokens=table["tokens"].to_numpy(dtype=np.float64) / np.where(epochs > 0, epochs, np.nan))


def _fit_law(table: "pd.DataFrame", law: Law, request: _Request) -> _Outcome:
    try:
        require_columns(table, law.axes)
    except FitError as error:
        return _Outcome(refusals=[_impossible(law, len(table), str(error))])
    metric, settings = request.metric, request.settings
    columns = request.columns(law, table)
    needed = [] if settings.hold_out_from is None else ["flops"]
    runs, excluded = usable_runs(table, law, metric, needed)
    if runs.empty:
        return _Outcome(refusals=[_impossible(law, 0, "no finished run on its axes")], excluded=excluded)
    digest = data_hash(table, ["trial_id", "name", "status", metric, *law.axes, *columns])
    made: list[Subset] = []
    mixed: list[Refusal] = []
    for where, rows in split_table(runs, columns):
        tuned, worse = best_recipe(rows, law, metric)
        excluded += worse
        label = subset_label(where, runs)
        if reason := "" if law.frontier else mixed_rows(tuned, metric, law.axes):
            mixed.append(_impossible(law, len(tuned), reason, where, label))
            continue
        made.append(make_subset(law, where, label, tuned, metric, settings.hold_out_from))
    outcomes = [fit_subset(one, settings, digest=digest) for one in made]
    return _Outcome(
        subsets=made,
        fits=[outcome for outcome in outcomes if isinstance(outcome, Fit)],
        refusals=[*mixed, *(outcome for outcome in outcomes if isinstance(outcome, Refusal))],
        excluded=excluded,
    )


def _isoflops(table: "pd.DataFrame", law: Law, request: _Request) -> list[IsoflopParabolas]:
    """One parabola per budget, for every subset that Chinchilla's law would be fitted to and that has budgets.

    Held-out budgets are shown like the others: a parabola predicts nothing.
    """
    if not {*law.axes, "flops"} <= set(table):
        return []
    runs, _ = usable_runs(table, law, request.metric, ["flops"])
    columns = request.columns(law, table)
    found = []
    for where, rows in split_table(runs, columns):
        tuned, _ = best_recipe(rows, law, request.metric)
        n, d, c, loss = (tuned[name].to_numpy(dtype=np.float64) for name in (*law.axes, "flops", request.metric))
        own = IsoflopRuns(names=names_of(tuned), n=n, d=d, c=c, loss=loss)
        parabolas = isoflop_parabolas(where, subset_label(where, runs), own)
        found += [] if parabolas is None else [parabolas.model_copy(update={"metric": request.metric})]
    return found


def _checked(fits: Iterable[Fit], isoflops: Sequence[IsoflopParabolas]) -> list[Fit]:
    """The fits with what the parabolas of the same runs say, and a mark where they disagree."""
    found = []
    for fit in fits:
        own = next((one for one in isoflops if one.where == fit.where), None)
        check = check_by_parabolas(fit, own) if own is not None and fit.letters == ["N", "D"] else None
        if check is not None:
            fit = fit.model_copy(update={"parabolas": check})
            fit = fit.model_copy(update={"marks": marks_of(fit)})
        found.append(fit)
    return found


def _answering(
    found: IsoflopParabolas, fits: Sequence[Fit], refusals: Sequence[Refusal], budgets: Sequence[float] | None
) -> IsoflopParabolas:
    """The parabolas, with their optima where every law in N and D that was asked for is refused for their runs."""
    if any(fit.where == found.where and fit.letters == ["N", "D"] for fit in fits):
        return found
    refused = [one for one in refusals if LAWS[one.law].in_size_and_tokens and one.where in (found.where, {})]
    return in_place_of_a_law(found, f"{refused[0].law}: {refused[0].reason}", budgets) if refused else found


def _selections(made: Sequence[Subset], objective: Objective) -> list[ModelSelection]:
    """Model selection wherever several laws of the same letters were requested on the same runs.

    Laws of repeated data are judged beside those that take all tokens for fresh.
    """
    rivals: dict[str, list[Subset]] = {}
    for subset in made:
        if len(subset.law.letters) > 1:
            key = repr((sorted(set(subset.law.letters) - {"U"}), subset.where, subset.names))
            rivals.setdefault(key, []).append(subset)
    return [_selection(group, objective) for group in rivals.values() if len(group) > 1]


def _chosen_first(fits: Sequence[Fit], selections: Sequence[ModelSelection]) -> list[Fit]:
    """The fits with the form of least held-out error before its rivals, where one of these is no sum of powers.

    The first law in N and D of a subset is the one whose optima are quoted.
    """
    chosen = [
        (one.where, one.chosen)
        for one in selections
        if any(LAWS[candidate.law].general is not None for candidate in one.candidates)
    ]
    return sorted(fits, key=lambda fit: (fit.where, fit.law) not in chosen)


def _selection(group: Sequence[Subset], objective: Objective) -> ModelSelection:
    forms = [
        CandidateForm(
            law=subset.law.name,
            form=subset.law.form,
            limits=subset.law.limits,
            parameters=len(subset.law.parameters),
            x=subset.x,
            refit=refitter(subset, objective),
        )
        for subset in group
    ]
    first = group[0]
    column = first.law.letters.index
    values = {letter: first.x[:, column(letter)] for letter in LEFT_OUT if letter in first.law.letters}
    runs = SelectionRuns(loss=first.losses, order=first.order, values=values, held=first.held)
    return select_model(first.where, first.label, forms, runs)


def _impossible(law: Law, runs: int, reason: str, where: Where | None = None, label: str = "all runs") -> Refusal:
    return Refusal(law=law.name, where=where or {}, label=label, n_runs=runs, kind="not possible", reason=reason)
