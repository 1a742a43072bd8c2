"""A study from its file to its report: train, fit, measure, draw, log."""

from dataclasses import dataclass

import pandas as pd

from vqscale import storage
from vqscale.errors import StudyInterruptedError, TrackingError
from vqscale.laws import StudyFits, fit_study, write_fits
from vqscale.laws.decisions.predictions import read_predictions
from vqscale.results import Result, locate, read_table
from vqscale.study.spec import Study
from vqscale.sweep.events import StudyEvents
from vqscale.workflow.artifacts import log_files
from vqscale.workflow.fit_options import study_settings
from vqscale.workflow.predictions import Registry, before_stage, scored_registry
from vqscale.workflow.report_page import make_report
from vqscale.workflow.text_references import measure_references
from vqscale.workflow.training import TrainingRun, train_study


@dataclass(frozen=True, kw_only=True)
class StudyRun:
    """A study that was run, and what was made of it."""

    study: Study
    training: TrainingRun
    fits: StudyFits
    registry: Registry
    """Predictions registered before their runs, beside what the runs gave."""
    throughput: pd.DataFrame | None
    """The measurement of the study's `throughput` section, if it has one."""
    written: list[str]
    """URIs of figures and page, the page last."""

    @property
    def results(self) -> list[Result]:
        """One per trial, in the order of the study file."""
        return self.training.results

    @property
    def report(self) -> str:
        """URI of the HTML page."""
        return self.written[-1]

    def table(self) -> pd.DataFrame:
        """The study's table of results, one row per trial."""
        return read_table(storage.join(self.study.folder, "results.parquet"))


class RunEvents(StudyEvents):
    """Events of a whole study: those of its training, and the results of each later step as soon as it is done."""

    def trained(self, training: TrainingRun) -> None:
        """All trials have ended and the table is written."""

    def fitted(self, fits: StudyFits, registry: Registry) -> None:
        """Laws are fitted, and registered predictions are compared with the runs."""

    def throughput_round(self, text: str, done: int, total: int) -> None:
        """The throughput of `text` is measured next, after `done` of `total` rounds."""

    def throughput_measured(self, table: pd.DataFrame) -> None:
        """The throughput section is measured."""


def run_study(
    study: Study, *, source: str = "study", address: str | None = None, allow_changed: bool = False, events: RunEvents
) -> StudyRun:
    """Train what is not trained yet, then fit, measure and report. Safe to call any number of times.

    `address`: of a Ray cluster; None: that of `RAY_ADDRESS`, else one of this machine for as long as it trains.
    `allow_changed`: leave out finished trials that the study no longer describes.
    Raises UserError before anything is started when the request is wrong, StudyInterruptedError when the user stopped
    it, WorkFailedError when the driver process died. A failed trial is no error: its result says `failed`.
    """
    read_predictions(study.folder)  # a damaged registry is refused before anything is trained
    training = train_study(
        study,
        source=source,
        address=address,
        events=events,
        allow_changed=allow_changed,
        before_stage=before_stage,
    )
    events.trained(training)
    try:
        return _after_training(study, training, events)
    except KeyboardInterrupt:
        raise StudyInterruptedError(
            "All trials have their results; fits and report are not complete: the same command makes them."
        ) from None


def _after_training(study: Study, training: TrainingRun, events: RunEvents) -> StudyRun:
    fits = analyse(study)
    measure_references(study, training.results, events)
    registry = scored_registry(study.folder, read_table(storage.join(study.folder, "results.parquet")))
    events.fitted(fits, registry)
    throughput = _measured(study, training, events)
    written = make_report(locate(study), events)
    _log(training, written, fits, events)
    return StudyRun(
        study=study, training=training, fits=fits, registry=registry, throughput=throughput, written=written
    )


def _measured(study: Study, training: TrainingRun, events: RunEvents) -> pd.DataFrame | None:
    if study.throughput is None:
        return None
    from vqscale.workflow.throughput import measure_section  # loads torch, which a study without the section need not

    table = measure_section(study, training.tracker, events, events.throughput_round)
    events.throughput_measured(table)
    return table


def analyse(study: Study) -> StudyFits:
    """Fit the study's laws; the fits are written to its folder."""
    table = read_table(storage.join(study.folder, "results.parquet"))
    settings = study_settings(study, table)
    fits = fit_study(table, study.fit.laws, bootstrap=study.fit.bootstrap, **settings)
    write_fits(fits, study.folder)
    return fits


def _log(training: TrainingRun, written: list[str], fits: StudyFits, events: StudyEvents) -> None:
    """The study's files as artifacts of its MLflow run. By now the work is done: a store that fails is reported."""
    try:
        parent = log_files(training.tracker, training.study.folder, written, fits)
        training.tracker.end(parent, "FAILED" if training.failed else "FINISHED")
    except TrackingError as error:
        events.message(f"MLflow lacks this study's files: {error}", "warning")
