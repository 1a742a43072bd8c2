"""`vqscale predict`: what the fits of a study predict for a budget, a size, training tokens, a loss or money."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vqscale.cli.console import make_console

if TYPE_CHECKING:
    from vqscale.laws import Fit
    from vqscale.workflow.queries import Outcome, Predicted


def predict(
    target: Annotated[str, typer.Argument(help="Study folder, study .yaml, or a table of runs (.csv, .jsonl ...).")],
    compute: Annotated[float | None, typer.Option(min=0, help="Training FLOPs to spend.")] = None,
    params: Annotated[float | None, typer.Option(min=0, help="Parameters N; with --tokens the loss there.")] = None,
    tokens: Annotated[float | None, typer.Option(min=0, help="Training tokens D.")] = None,
    loss: Annotated[float | None, typer.Option(min=0, help="Loss to reach, in the unit of the fit.")] = None,
    money: Annotated[str | None, typer.Option(help="Money to spend, in the study's currency: 50usd.")] = None,
    law: Annotated[str | None, typer.Option(help="Law. Default: the first that was fitted in N and D.")] = None,
    arch: Annotated[str | None, typer.Option(help="Architecture. Default: every one that has a fit.")] = None,
    context: Annotated[int | None, typer.Option(help="Context length T.")] = None,
    codebook: Annotated[int | None, typer.Option(help="Codebook size S.")] = None,
    group: Annotated[
        list[str] | None, typer.Option(help="COLUMN=VALUE of a subset that was fitted, repeatable. Default: all.")
    ] = None,
    beyond: Annotated[
        bool, typer.Option("--beyond", help="Answer also more than 100 times outside the runs; marked.")
    ] = False,
    register: Annotated[
        bool, typer.Option("--register", help="Register predictions of all planned trials that are not trained.")
    ] = False,
    score: Annotated[bool, typer.Option("--score", help="Compare registered predictions with the runs.")] = False,
    fits: Annotated[str | None, typer.Option(help="Folder or URI with fits.json. Default: the target's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Predict the best configuration, with intervals, from the fits of `vqscale fit`; refuse what they cannot support.

    Name one of compute, params, tokens, loss and money. With both --params and --tokens: the loss of that run.

    --register keeps what the fits predict for planned trials that are not trained yet; --score compares it with
    the runs.

    Example: vqscale predict runs/quickstart --compute 1e13

    Example: vqscale predict runs/quickstart --register

    Example: vqscale predict runs/quickstart --params 1e6 --tokens 2e7 --arch transformer_vq

    Example: vqscale predict published.csv --compute 1e21 --group dataset=web
    """
    from vqscale.workflow.queries import Selection, named_values, predict_target

    if register or score:
        _keep(target, fits, register=register, as_json=as_json)
        return
    given = {"compute": compute, "params": params, "tokens": tokens, "loss": loss, "money": money}
    question = {name: value for name, value in given.items() if value is not None}
    selection = Selection(law=law, arch=arch, context=context, codebook=codebook, group=named_values(group))
    predicted = predict_target(target, question, selection, fits=fits, beyond=beyond)
    if as_json:
        values = [_as_value(fit, outcome) for fit, outcome in predicted.outcomes]
        values += [one.model_dump(mode="json") for one in predicted.parabolas]
        typer.echo(json.dumps(values, indent=2))
    else:
        _print(predicted)


def _keep(target: str, fits: str | None, *, register: bool, as_json: bool) -> None:
    """Register what the fits predict for a study's pending trials, and show the registry beside the runs."""
    from vqscale.cli.predict_view import print_scores
    from vqscale.workflow.predictions import keep_predictions

    place, new, registry = keep_predictions(target, fits=fits, register=register)
    if as_json:
        registered = [one.model_dump(mode="json") for one in new]
        scores = [one.model_dump(mode="json") for one in registry.scores]
        typer.echo(json.dumps({"registered": registered, "scores": scores}, indent=2))
        return
    console = make_console()
    if register:
        console.print(f"Registered {len(new)} predictions in {place.folder}/predictions.json", markup=False)
    print_scores(registry.scores, registry.pending, console)


def _print(predicted: "Predicted") -> None:
    from vqscale.cli.parabolas_view import print_parabola_answers
    from vqscale.cli.predict_view import print_answers, print_losses
    from vqscale.laws.decisions.query import LossResult, OptimumResult

    console = make_console()
    outcomes = [outcome for _, outcome in predicted.outcomes]
    answers = [one for one in outcomes if isinstance(one, OptimumResult)]
    if answers:
        print_answers(answers, predicted.table, console)
    if predicted.parabolas:
        print_parabola_answers(predicted.parabolas, console)
    print_losses([one for one in outcomes if isinstance(one, LossResult)], console)
    for note in predicted.notes:
        console.print(f"note {note}", markup=False)
    for fit, why in predicted.outcomes:
        if isinstance(why, str):
            console.print(f"refused {fit.law}, {fit.label}: {why}", markup=False)


def _as_value(fit: "Fit", outcome: "Outcome") -> dict[str, Any]:
    if isinstance(outcome, str):
        return {"fit": fit.id, "law": fit.law, "label": fit.label, "where": fit.where, "refused": outcome}
    return outcome.model_dump(mode="json")
