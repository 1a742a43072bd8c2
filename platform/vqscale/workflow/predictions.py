"""Predictions of a study's own trials: registered before they are trained, compared with them afterwards."""

from collections.abc import Sequence

import pandas as pd
from rich.console import Console
from rich.markup import escape

from vqscale import storage
from vqscale.cli.predict_view import print_scores
from vqscale.errors import FitError
from vqscale.laws import LAWS, Fit, fit_study
from vqscale.laws.decisions.predictions import Prediction, Score, read_predictions, register, score
from vqscale.plan.pending_predictions import foresee
from vqscale.plan.plan import Plan
from vqscale.results import read_table, write_table
from vqscale.workflow.fit_options import study_settings


def before_stage(stage: Plan, console: Console) -> None:
    """Fit what is trained by now, and register what that says of the trials about to be trained.

    Where no law in N and D stands yet, nothing is registered; the training goes on in any case.
    """
    study = stage.study
    laws = [name for name in study.fit.laws if {"N", "D"} <= set(LAWS[name].letters)]
    if not laws or all(result.status != "finished" for result in stage.results):
        return
    uri = storage.join(study.folder, "results.parquet")
    write_table(stage.results, uri)
    table = read_table(uri)
    try:
        settings = study_settings(study, table)
        fits = fit_study(table, laws, bootstrap=study.fit.bootstrap, sensitivity=False, **settings).fits
        new = register_pending(stage, fits, table)
    except FitError as error:
        console.print(f"[yellow]no predictions before this stage: {escape(str(error))}[/yellow]")
        return
    if new:
        console.print(
            f"Registered {len(new)} predictions in predictions.json, before their runs, by fit"
            f" {', '.join(sorted({one.fit for one in new}))}.",
            highlight=False,
        )


def register_pending(planned: Plan, fits: Sequence[Fit], table: pd.DataFrame) -> list[Prediction]:
    """Predictions for all trials of a plan that have no record, added to the study's registry; returns the new ones."""
    folder = planned.study.folder
    new = foresee(planned.trials, fits, read_predictions(folder))
    if new:
        register(folder, new, table)
    return new


def show_scores(folder: str, table: pd.DataFrame, console: Console) -> None:
    """What was registered in a folder, beside what the runs of its table gave."""
    known = read_predictions(folder)
    scores = score(known, table)
    print_scores(scores, still_open(known, scores), console)


def still_open(known: Sequence[Prediction], scores: Sequence[Score]) -> list[Prediction]:
    """The predictions whose runs have not finished."""
    scored = [one.prediction for one in scores]
    return [one for one in known if one not in scored]
