"""From the fits of a study to the study file of the best run at a budget."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from vqscale import storage
from vqscale.errors import FitError, StudyError
from vqscale.laws import Fit, read_fits
from vqscale.laws.decisions.compare import Price
from vqscale.laws.decisions.optimum import Quantity
from vqscale.laws.decisions.predictions import Prediction, read_predictions, register
from vqscale.laws.decisions.query import OptimumResult, at_fixed_axes, query_optimum
from vqscale.laws.fitting.run_filter import rows_of
from vqscale.planning.budget import Budget, parse_budget
from vqscale.planning.next_study import NextStudy, next_study
from vqscale.planning.pending_predictions import predict_pending
from vqscale.planning.plan import Plan, plan
from vqscale.results import Result, locate, read_table, to_results
from vqscale.study.spec import Study
from vqscale.study.yaml_file import dumped
from vqscale.workflow.fit_options import price_of
from vqscale.workflow.queries import Selection, answering_chains


@dataclass(frozen=True, kw_only=True)
class WrittenStudy:
    """A study file that was written, and the prediction registered for its run."""

    file: str
    header: str
    """The comments at its top."""
    made: NextStudy
    prediction: Prediction
    extrapolation: list[str]
    """What of N, D and C lies outside the fitted runs."""
    marks: list[str]
    """Reasons not to decide by the fit."""


def write_next_study(target: str, budget: str, selection: Selection, *, out: str, beyond: bool = False) -> WrittenStudy:
    """Write the study file of the best run at `budget` to `out`, and register the loss that is predicted for it.

    `budget`: training FLOPs (1e13) or money in the study's currency (50usd). `beyond`: also one more than a hundred
    times outside the runs. Raises StudyError where `out` exists, for
    a table without a study and for a run that cannot be trained, FitError where no fit supports the budget.
    """
    place = locate(target)
    if place.study is None:
        raise StudyError(
            f"{target}: is a table without a study, whose recipe and corpus a next run could take. Name a"
            " study's file or folder."
        )
    if storage.exists(out):
        raise StudyError(f"--out {out}: exists already. Name another file, or remove it.")
    spend = parse_budget(budget, place.study.resources.currency)
    if spend.unit == "device-hours":
        raise StudyError(
            f"--budget {budget}: name FLOPs (1e13) or money; hours depend on the model that is to be found."
        )
    table = read_table(place.table)
    stored = read_fits(place.folder, place.fit_command).fits
    chains = answering_chains(stored, selection, question={"compute": spend.amount})
    fit, best = _best(chains, selection, spend, table, price_of(place.study), beyond)
    made = next_study(
        place.study,
        _runs(table, fit),
        best.optimum.parameters.value,
        best.flops.value,
        f"Does the best run at {best.flops.value:.4g} FLOPs reach what fit {fit.id} of {place.study.study} predicts?",
    )
    prediction = _register(_planned(made.study, out), fit)
    header = _header(f"vqscale next {shlex.quote(target)} --budget {shlex.quote(budget)}", fit, best, made, prediction)
    values = dumped(made.study.model_dump(mode="json", exclude_defaults=True))
    storage.write_text(out, header + values)
    return WrittenStudy(
        file=out,
        header=header,
        made=made,
        prediction=prediction,
        extrapolation=best.optimum.extrapolation,
        marks=fit.marks,
    )


def _best(
    chains: Sequence[Sequence[Fit]],
    selection: Selection,
    spend: Budget,
    table: pd.DataFrame,
    price: Price | None,
    beyond: bool,
) -> tuple[Fit, OptimumResult]:
    """The fit that predicts the lowest loss, of every chain the first that answers. Raises FitError if none does."""
    asked: Quantity = "compute" if spend.unit == "FLOPs" else "money"
    found, refused = [], []
    for chain in chains:
        for one in chain:
            try:
                fit = at_fixed_axes(one, selection.fixed)
                found.append((fit, query_optimum(fit, asked, spend.amount, table, price, beyond=beyond)))
                break
            except FitError as error:
                refused.append(f"{one.law}, {one.label}: {error}")
    if not found:
        raise FitError("nothing can be predicted at this budget. " + "; ".join(refused))
    return min(found, key=lambda pair: pair[1].optimum.loss.value)


def _runs(table: pd.DataFrame, fit: Fit) -> list[Result]:
    """The finished runs of the fit's kind."""
    names = {point.name for point in fit.points}
    runs = rows_of(table, fit.where)
    return to_results(runs[(runs["status"] == "finished") & runs["name"].isin(list(names))])


def _planned(study: Study, source: str) -> Plan:
    """The plan of the one run. Raises StudyError, with the planner's reason, where it cannot be trained."""
    planned = plan(study, source=source)
    if not planned.trials:
        raise StudyError(f"the best run at this budget cannot be trained: {planned.dropped[0].reason}")
    return planned


def _register(planned: Plan, fit: Fit) -> Prediction:
    """The fit's prediction for the run, registered once."""
    folder = planned.study.folder
    known = read_predictions(folder)
    new = predict_pending(planned.trials, [fit], known)
    if new:
        register(folder, new, pd.DataFrame())
        return new[0]
    return next(one for one in known if one.trial_id == planned.trials[0].trial.id and one.fit == fit.id)


def _header(command: str, fit: Fit, best: OptimumResult, made: NextStudy, prediction: Prediction) -> str:
    """What the file is, and which fit it is based on, as comments."""
    loss, limits = prediction.predicted.value, prediction.predicted.interval
    interval = f", 90 % of such runs between {limits.low90:.4f} and {limits.high90:.4f}" if limits else ""
    lines = [
        f"Written by `{command}`.",
        f"Predicted: {loss:.4f} {fit.unit}{interval}.",
        f"By fit {fit.id}: {fit.law} of {fit.label}, table sha256 {fit.data_hash}.",
        f"The budget is {best.flops.value:.6g} FLOPs, {best.optimum.beyond:.3g} x the largest fitted.",
        *(f"Extrapolated: {sentence}." for sentence in best.optimum.extrapolation),
        *(f"Marked: {mark}." for mark in fit.marks),
        *made.notes,
    ]
    return "".join(f"# {line}\n" for line in lines)
