"""Predictions of fitted laws for planned trials that have not been trained, to be registered before they are."""

from collections.abc import Iterable, Sequence
from typing import Any

from vqscale.costing.facts import trial_facts
from vqscale.laws.decisions.predictions import Prediction, predict_run
from vqscale.laws.forms.catalogue import SEGMENT_SHARE
from vqscale.laws.io.schema import Fit
from vqscale.planning.plan import PlannedTrial


def predict_pending(
    planned: Iterable[PlannedTrial], fits: Sequence[Fit], known: Sequence[Prediction]
) -> list[Prediction]:
    """A prediction for every trial without a record, by every law in N and D that was fitted to a subset it belongs to.

    `known`: predictions that are registered already; the same value of the same law is not registered twice.
    """
    registered = {(one.trial_id, one.law, one.metric, one.predicted) for one in known}
    laws = [fit for fit in fits if {"N", "D"} <= set(fit.letters)]
    found = (
        predict_run(fit, _place(fit, one), name=one.trial.name, trial_id=one.trial.id)
        for one in planned
        for fit in laws
        if one.result is None and covers(fit, one)
    )
    return [one for one in found if (one.trial_id, one.law, one.metric, one.predicted) not in registered]


def covers(fit: Fit, planned: PlannedTrial) -> bool:
    """Whether a trial belongs to the subset of runs that was fitted."""
    columns = _columns(planned)
    return {*fit.where, *fit.axes} <= set(columns) and all(columns[key] == value for key, value in fit.where.items())


def _place(fit: Fit, planned: PlannedTrial) -> dict[str, float]:
    columns = _columns(planned)
    return {letter: float(columns[axis] or 0) for letter, axis in zip(fit.letters, fit.axes, strict=True)}


def _columns(planned: PlannedTrial) -> dict[str, Any]:
    """The columns of the results table that are known before the trial is trained."""
    train = planned.trial.train
    return trial_facts("", planned.trial) | {SEGMENT_SHARE: train.segment_length / train.context}
