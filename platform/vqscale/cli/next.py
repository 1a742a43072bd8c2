"""`vqscale next`: from the fits of a study to the study file of the best run at a budget."""

import json
import shlex
from typing import Annotated

import pandas as pd
import typer
import yaml

from vqscale import storage
from vqscale.cli.console import make_console
from vqscale.cli.predict import choose_fits
from vqscale.cli.predict_view import of
from vqscale.errors import FitError, StudyError
from vqscale.laws import Fit, read_fits
from vqscale.laws.decisions.compare import Price
from vqscale.laws.decisions.optimum import Asked
from vqscale.laws.decisions.predictions import Prediction, read_predictions, register
from vqscale.laws.decisions.query import Answer, answer, at
from vqscale.plan.budget import Allowance, parse_allowance
from vqscale.plan.next_study import NextStudy, next_study
from vqscale.plan.pending_predictions import foresee
from vqscale.plan.plan import Plan, plan
from vqscale.results import Result, locate, read_table, to_results
from vqscale.study.spec import Study
from vqscale.workflow.fit_options import price_of


def next_command(
    study: Annotated[str, typer.Argument(help="Study folder or study .yaml, trained and fitted.")],
    budget: Annotated[str, typer.Option(help="Training FLOPs (1e13) or money in the study's currency (50usd).")],
    arch: Annotated[str | None, typer.Option(help="Architecture. Default: the one of lowest predicted loss.")] = None,
    law: Annotated[str | None, typer.Option(help="Law. Default: the first that was fitted in N and D.")] = None,
    context: Annotated[int | None, typer.Option(help="Context length T.")] = None,
    codebook: Annotated[int | None, typer.Option(help="Codebook size S.")] = None,
    out: Annotated[str, typer.Option(help="Study file to write; an existing one is not replaced.")] = "next.yaml",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Write the study file of the best run at a budget, and register the loss that is predicted for it.

    Example: vqscale next runs/quickstart --budget 1e13 --out next.yaml
    """
    place = locate(study)
    if place.study is None:
        raise StudyError(f"{study}: is a table without a study, whose recipe and corpus a next run could take.")
    if storage.exists(out):
        raise StudyError(f"--out {out}: exists already. Name another file, or remove it.")
    allowance = parse_allowance(budget, place.study.resources.currency)
    if allowance.unit == "device-hours":
        raise StudyError(
            f"--budget {budget}: name FLOPs (1e13) or money; hours depend on the model that is to be found."
        )
    table = read_table(place.table)
    fixed = {letter: float(value) for letter, value in (("S", codebook), ("T", context)) if value is not None}
    fits = choose_fits(read_fits(place.folder).fits, law, arch, context, codebook)
    fit, best = _best([at(fit, fixed) for fit in fits], allowance, table, price_of(place.study))
    made = next_study(
        place.study,
        _runs(table, fit),
        best.optimum.parameters.value,
        best.flops.value,
        f"Does the best run at {best.flops.value:.4g} FLOPs reach what fit {fit.id} of {place.study.study} predicts?",
    )
    planned = _planned(made.study, out)
    prediction = _register(planned, fit)
    header = _header(f"vqscale next {shlex.quote(study)} --budget {shlex.quote(budget)}", fit, best, made, prediction)
    values = yaml.safe_dump(made.study.model_dump(mode="json", exclude_defaults=True), sort_keys=False, width=110)
    storage.write_text(out, header + values)
    if as_json:
        shown = {"file": out, "study": made.study.study, "folder": made.study.folder, "notes": made.notes}
        typer.echo(json.dumps(shown | {"prediction": prediction.model_dump(mode="json")}, indent=2))
        return
    console = make_console()
    console.print(header.replace("# ", "").rstrip(), markup=False)
    console.print(f"wrote {out}; the prediction is registered in {made.study.folder}", markup=False, soft_wrap=True)


def _best(fits: list[Fit], allowance: Allowance, table: pd.DataFrame, price: Price | None) -> tuple[Fit, Answer]:
    """The fit that promises the lowest loss. Raises FitError where none answers."""
    asked: Asked = "compute" if allowance.unit == "FLOPs" else "money"
    found, refused = [], []
    for fit in fits:
        try:
            found.append((fit, answer(fit, asked, allowance.amount, table, price)))
        except FitError as error:
            refused.append(f"{fit.label}: {error}")
    if not found:
        raise FitError("nothing can be predicted at this budget. " + "; ".join(refused))
    return min(found, key=lambda pair: pair[1].optimum.loss.value)


def _runs(table: pd.DataFrame, fit: Fit) -> list[Result]:
    """The finished runs of the fit's kind."""
    names = {point.name for point in fit.points}
    runs = of(table, fit.where)
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
    new = foresee(planned.trials, [fit], known)
    if new:
        register(folder, new, pd.DataFrame())
        return new[0]
    return next(one for one in known if one.trial_id == planned.trials[0].trial.id and one.fit == fit.id)


def _header(command: str, fit: Fit, best: Answer, made: NextStudy, prediction: Prediction) -> str:
    """What the file is, and what it rests on, as comments."""
    loss, limits = prediction.predicted.value, prediction.predicted.interval
    interval = f", 90 % of such runs between {limits.low90:.4f} and {limits.high90:.4f}" if limits else ""
    beyond = best.optimum.beyond
    lines = [
        f"Written by `{command}`.",
        f"Predicted: {loss:.4f} {fit.unit}{interval}.",
        f"By fit {fit.id}: {fit.law} of {fit.label}, table sha256 {fit.data_hash}.",
        f"The budget of {best.flops.value:.6g} FLOPs is {beyond:.3g} times the largest fitted"
        + (": an extrapolation." if beyond > 1 else "."),
        *made.notes,
    ]
    return "".join(f"# {line}\n" for line in lines)
