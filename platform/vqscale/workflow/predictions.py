"""Predictions of a study's own trials: registered before they are trained, compared with them afterwards."""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from vqscale import storage
from vqscale.errors import FitError, StudyError
from vqscale.laws import LAWS, Fit, fit_study, read_fits
from vqscale.laws.decisions.predictions import (
    Prediction,
    PredictionScore,
    read_predictions,
    register,
    score_predictions,
)
from vqscale.planning.pending_predictions import predict_pending
from vqscale.planning.plan import Plan, plan
from vqscale.results import Target, locate, read_table, write_table
from vqscale.sweep.events import StudyEvents
from vqscale.workflow.fit_options import study_settings


def before_stage(stage: Plan, events: StudyEvents) -> None:
    """Fit what is trained by now, and register what that predicts for the trials about to be trained.

    Where no law in N and D can be fitted yet, nothing is registered; the training continues in any case.
    """
    study = stage.study
    laws = [name for name in study.fit.laws if {"N", "D"} <= set(LAWS[name].letters)]
    if not laws or all(result.status != "finished" for result in stage.results):
        return
    events.phase("fitting what is trained, to predict the next trials")
    uri = storage.join(study.folder, "results.parquet")
    write_table(stage.results, uri)
    table = read_table(uri)
    try:
        settings = study_settings(study, table)
        fits = fit_study(table, laws, bootstrap=study.fit.bootstrap, sensitivity=False, **settings).fits
        new = register_pending(stage, fits, table)
    except FitError as error:
        events.message(f"no predictions before this stage: {error}", "warning")
        return
    if new:
        events.message(
            f"Registered {len(new)} predictions in predictions.json, before their runs, by fit"
            f" {', '.join(sorted({one.fit for one in new}))}.",
        )


def register_pending(planned: Plan, fits: Sequence[Fit], table: pd.DataFrame) -> list[Prediction]:
    """Predictions for all trials of a plan that have no record, added to the study's registry; returns the new ones."""
    folder = planned.study.folder
    new = predict_pending(planned.trials, fits, read_predictions(folder))
    if new:
        register(folder, new, table)
    return new


class Registry(NamedTuple):
    """The registered predictions of a folder beside the runs of its table."""

    scores: list[PredictionScore]
    pending: list[Prediction]
    """Their runs have not finished."""


def scored_registry(folder: str, table: pd.DataFrame) -> Registry:
    """Compare what was registered in a folder with what the runs of its table gave."""
    known = read_predictions(folder)
    scores = score_predictions(known, table)
    return Registry(scores, still_open(known, scores))


def still_open(known: Sequence[Prediction], scores: Sequence[PredictionScore]) -> list[Prediction]:
    """The predictions whose runs have not finished."""
    scored = {_key(one.prediction) for one in scores}
    return [one for one in known if _key(one) not in scored]


def _key(one: Prediction) -> tuple[object, ...]:
    """What tells registered predictions apart, without comparing each with every other."""
    return one.trial_id, one.name, one.fit, one.metric, one.registered_at, tuple(sorted(one.x.items()))


def keep_predictions(
    target: str, *, fits: str | None = None, register: bool
) -> tuple[Target, list[Prediction], Registry]:
    """Register (if asked) what the fits predict for a study's pending trials, and score the registry by the runs.

    Raises StudyError for a table without a study.
    """
    place = locate(target, fits)
    table = read_table(place.table)
    if place.study is None:
        raise StudyError(f"{place.table}: is a table without a study: it has no planned trials to register.")
    new: list[Prediction] = []
    if register:
        planned = plan(place.study, source=place.folder, allow_changed=True)
        new = register_pending(planned, read_fits(place.folder, place.fit_command).fits, table)
    return place, new, scored_registry(place.folder, table)
