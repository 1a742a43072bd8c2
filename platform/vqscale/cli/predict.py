"""`vqscale predict`: what the fits of a study say of a budget, a size, a horizon, a loss or a sum of money."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

import pandas as pd
import typer

from vqscale.cli.console import make_console
from vqscale.cli.predict_view import print_answers, print_losses
from vqscale.errors import FitError, StudyError
from vqscale.laws import Fit, read_fits
from vqscale.laws.decisions.optimum import Asked
from vqscale.laws.decisions.predictions import Prediction, read_predictions
from vqscale.laws.decisions.predictions import score as scored
from vqscale.laws.decisions.query import Answer, Loss, answer, at, loss_at
from vqscale.laws.decisions.surface import leading
from vqscale.plan.budget import parse_allowance
from vqscale.plan.plan import plan
from vqscale.results import Target, locate, read_table
from vqscale.workflow.fit_options import price_of
from vqscale.workflow.predictions import register_pending, show_scores

ASKED: dict[str, Asked] = {
    "compute": "compute", "params": "parameters", "tokens": "tokens", "loss": "loss", "money": "money"
}  # fmt: skip
"""Options, and what they ask of a law."""
Question = dict[str, float | str]
"""Option -> what was given with it."""
Outcome = Answer | Loss | str
"""A string is the reason why there is no answer."""


def predict(
    target: Annotated[str, typer.Argument(help="Study folder, study .yaml, or a .csv or .parquet table of runs.")],
    compute: Annotated[float | None, typer.Option(min=0, help="Training FLOPs to spend.")] = None,
    params: Annotated[float | None, typer.Option(min=0, help="Parameters N; with --tokens the loss there.")] = None,
    tokens: Annotated[float | None, typer.Option(min=0, help="Training tokens D.")] = None,
    loss: Annotated[float | None, typer.Option(min=0, help="Loss to reach, in the unit of the fit.")] = None,
    money: Annotated[str | None, typer.Option(help="Money to spend, in the study's currency: 50usd.")] = None,
    law: Annotated[str | None, typer.Option(help="Law. Default: the first that was fitted in N and D.")] = None,
    arch: Annotated[str | None, typer.Option(help="Architecture. Default: every one that has a fit.")] = None,
    context: Annotated[int | None, typer.Option(help="Context length T.")] = None,
    codebook: Annotated[int | None, typer.Option(help="Codebook size S.")] = None,
    register: Annotated[
        bool, typer.Option("--register", help="Register predictions of all planned trials that are not trained.")
    ] = False,
    score: Annotated[bool, typer.Option("--score", help="Compare registered predictions with the runs.")] = False,
    fits: Annotated[str | None, typer.Option(help="Folder or URI with fits.json. Default: the target's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Predict the best configuration, with intervals, from the fits of `vqscale fit`; refuse what they cannot support.

    Name one of compute, params, tokens, loss and money. With both --params and --tokens: the loss of that run.

    --register keeps what the fits say of trials that are planned and not trained; --score compares it with the runs.

    Example: vqscale predict runs/quickstart --compute 1e13

    Example: vqscale predict runs/quickstart --register

    Example: vqscale predict runs/quickstart --params 1e6 --tokens 2e7 --arch transformer_vq
    """
    place = locate(target, fits)
    table = read_table(place.table)
    if register or score:
        _keep(place, table, register=register, as_json=as_json)
        return
    asked = _asked(compute=compute, params=params, tokens=tokens, loss=loss, money=money)
    chosen = choose_fits(read_fits(place.folder).fits, law, arch, context, codebook)
    fixed = {letter: float(value) for letter, value in (("S", codebook), ("T", context)) if value is not None}
    outcomes = [(fit, _ask(fit, asked, fixed, table, place)) for fit in chosen]
    if all(isinstance(outcome, str) for _, outcome in outcomes):
        reasons = "; ".join(f"{fit.label}: {why}" for fit, why in outcomes)
        raise FitError(f"{target}: nothing can be predicted. {reasons}")
    if as_json:
        typer.echo(json.dumps([_as_value(fit, outcome) for fit, outcome in outcomes], indent=2))
    else:
        _print(outcomes, table)


def _keep(place: Target, table: pd.DataFrame, *, register: bool, as_json: bool) -> None:
    """Register what the fits say of a study's pending trials, and show the registry beside the runs."""
    if place.study is None:
        raise StudyError(f"{place.table}: is a table without a study: it has no planned trials to register.")
    new: list[Prediction] = []
    if register:
        planned = plan(place.study, source=place.folder, allow_changed=True)
        new = register_pending(planned, read_fits(place.folder).fits, table)
    if not as_json:
        console = make_console()
        if register:
            console.print(f"Registered {len(new)} predictions in {place.folder}/predictions.json", markup=False)
        show_scores(place.folder, table, console)
        return
    scores = scored(read_predictions(place.folder), table)
    values = {"registered": [one.model_dump(mode="json") for one in new]}
    typer.echo(json.dumps(values | {"scores": [one.model_dump(mode="json") for one in scores]}, indent=2))


def choose_fits(
    fits: Sequence[Fit], law: str | None, arch: str | None, context: int | None, codebook: int | None
) -> list[Fit]:
    """Of every architecture the fit with most runs among those that are asked for. Raises FitError where none is."""
    pool = [fit for fit in fits if fit.law == law] if law else leading(fits) or list(fits)
    wanted = {"arch": arch, "context": context, "codebook_size": codebook}
    found: dict[Any, Fit] = {}
    for fit in pool:
        agrees = all(value is None or fit.where.get(key, value) in (value, None) for key, value in wanted.items())
        key = (fit.where.get("arch"), fit.where.get("head"))
        if agrees and (key not in found or fit.n_runs > found[key].n_runs):
            found[key] = fit
    if not found:
        known = "; ".join(f"{fit.law} of {fit.label}" for fit in fits) or "none"
        of = f"of law {law} and " if law else ""
        raise FitError(f"no fit is {of}what --arch, --context and --codebook say. There are: {known}.")
    return list(found.values())


def _asked(**options: float | str | None) -> Question:
    """What was asked: one option, or params and tokens. Raises FitError for anything else."""
    asked = {name: value for name, value in options.items() if value is not None}
    if len(asked) != 1 and set(asked) != {"params", "tokens"}:
        named = " ".join(f"--{name}" for name in asked) or "nothing"
        raise FitError(f"{named}: name one of --compute, --params, --tokens, --loss and --money, or params and tokens")
    return asked


def _ask(fit: Fit, asked: Question, fixed: dict[str, float], table: pd.DataFrame, place: Target) -> Outcome:
    letters = {"params": "N", "tokens": "D", "compute": "C"}
    try:
        if not {"N", "D"} <= set(fit.letters) or len(asked) == 2:
            x = {letters[name]: float(value) for name, value in asked.items() if name in letters}
            return loss_at(fit, x | fixed)
        ((name, value),) = asked.items()
        amount = _money(str(value), place) if name == "money" else float(value)
        return answer(at(fit, fixed), ASKED[name], amount, table, price_of(place.study) if place.study else None)
    except FitError as error:
        return str(error)


def _money(text: str, place: Target) -> float:
    currency = place.study.resources.currency if place.study else "USD"
    allowance = parse_allowance(text, currency, "--money")
    if allowance.unit != "money":
        raise FitError(f"--money {text}: write an amount in the study's currency, such as 50{currency.lower()}")
    return allowance.amount


def _print(outcomes: Sequence[tuple[Fit, Outcome]], table: pd.DataFrame) -> None:
    console = make_console()
    answers = [one for _, one in outcomes if isinstance(one, Answer)]
    if answers:
        print_answers(answers, table, console)
    print_losses([one for _, one in outcomes if isinstance(one, Loss)], console)
    for fit, why in outcomes:
        if isinstance(why, str):
            console.print(f"refused {fit.law}, {fit.label}: {why}", markup=False)


def _as_value(fit: Fit, outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, str):
        return {"fit": fit.id, "law": fit.law, "label": fit.label, "where": fit.where, "refused": outcome}
    return outcome.model_dump(mode="json")
