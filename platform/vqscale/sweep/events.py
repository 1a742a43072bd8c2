"""What happens while a study runs, for code that shows or records it."""

from typing import Literal

from vqscale.planning.plan import Plan
from vqscale.results.metrics_rows import Row
from vqscale.results.result import Result
from vqscale.study.trial import Trial

Level = Literal["info", "warning"]


class StudyEvents:
    """Override what is of interest; every method does nothing by default.

    Methods are called in the thread that runs the study. What they raise ends the study.
    """

    def stage_started(self, stage: Plan) -> None:
        """Training of the pending trials of `stage` begins."""

    def phase(self, text: str, trial: Trial | None = None) -> None:
        """What is done from now on: by a trial until its next row or, without one, before any trial of the stage
        trains."""

    def row(self, trial: Trial, row: Row) -> None:
        """A trial has read its metrics."""

    def retried(self, trial: Trial, error: str) -> None:
        """An attempt of a trial failed and is tried again."""

    def ended(self, trial: Trial, result: Result) -> None:
        """A trial has ended and its record is written."""

    def stage_ended(self) -> None:
        """No trial of the stage trains any more; called also when the stage was interrupted."""

    def message(self, text: str, level: Level = "info") -> None:
        """A sentence for the user, without markup."""


class Broadcast(StudyEvents):
    """Several listeners as one, called in order."""

    def __init__(self, *listeners: StudyEvents) -> None:
        self._listeners = listeners

    def stage_started(self, stage: Plan) -> None:
        for listener in self._listeners:
            listener.stage_started(stage)

    def phase(self, text: str, trial: Trial | None = None) -> None:
        for listener in self._listeners:
            listener.phase(text, trial)

    def row(self, trial: Trial, row: Row) -> None:
        for listener in self._listeners:
            listener.row(trial, row)

    def retried(self, trial: Trial, error: str) -> None:
        for listener in self._listeners:
            listener.retried(trial, error)

    def ended(self, trial: Trial, result: Result) -> None:
        for listener in self._listeners:
            listener.ended(trial, result)

    def stage_ended(self) -> None:
        for listener in self._listeners:
            listener.stage_ended()

    def message(self, text: str, level: Level = "info") -> None:
        for listener in self._listeners:
            listener.message(text, level)
