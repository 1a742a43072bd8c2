"""What fits say of the planned trials that have not been trained: to be registered before they are."""

from collections.abc import Iterable, Sequence
from typing import Any

from vqscale.costing.facts import trial_facts
from vqscale.laws.decisions.predictions import Prediction, predict_run
from vqscale.laws.forms.catalogue import SEGMENT_SHARE
from vqscale.laws.io.schema import Fit
from vqscale.plan.plan import PlannedTrial


def predict_pending(planned: Iterable[PlannedTrial], fits: Sequence[Fit], known: Sequence[Prediction]) -> list[Prediction]:
    """A prediction for every trial without a record, by every law in N and D that was fitted to runs of its kind.

    `known`: what is registered already; a law registers nothing twice that it has said before in the same words.
    """
    said = {(one.trial_id, one.law, one.metric, one.predicted) for one in known}
    laws = [fit for fit in fits if {"N", "D"} <= set(fit.letters)]
    found = (
        predict_run(fit, _place(fit, one), name=one.trial.name, trial_id=one.trial.id)
        for one in planned
        for fit in laws
        if one.result is None and covers(fit, one)
    )
    return [one for one in found if (one.trial_id, one.law, one.metric, one.predicted) not in said]


def covers(fit: Fit, planned: PlannedTrial) -> bool:
    """Whether a trial is one of the subset that was fitted."""
    columns = _columns(planned)
    return {*fit.where, *fit.axes} <= set(columns) and all(columns[key] == value for key, value in fit.where.items())


def _place(fit: Fit, planned: PlannedTrial) -> dict[str, float]:
    columns = _columns(planned)
    return {letter: float(columns[axis] or 0) for letter, axis in zip(fit.letters, fit.axes, strict=True)}


def _columns(planned: PlannedTrial) -> dict[str, Any]:
    """What the results table will hold of the trial, as far as it is known before training."""
    train = planned.trial.train
    return trial_facts("", planned.trial) | {SEGMENT_SHARE: train.segment_length / train.context}
