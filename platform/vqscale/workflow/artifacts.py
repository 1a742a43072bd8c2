"""A study's files and fitted constants in its MLflow run: what `run`, `fit` and `report` write is shown there too."""

import re
from collections.abc import Iterable

from vqscale.address import Address
from vqscale.errors import TrackingError
from vqscale.laws import StudyFits
from vqscale.results import Target
from vqscale.sweep.events import StudyEvents
from vqscale.throughput.table import THROUGHPUT_CSV
from vqscale.track.store import local_file
from vqscale.track.tracker import Tracker
from vqscale.workflow.training import open_tracker

FILES = (
    *("results.parquet", "results.csv", "fits.json", "fits.csv", "predictions.json", "references.json", THROUGHPUT_CSV),
    "report.html",
)
"""Of a study's folder, as far as they exist."""


def mirror(place: Target, written: Iterable[str], fits: StudyFits, events: StudyEvents) -> None:
    """Show what was `written` to a study's folder in its MLflow run, if the study has one already.

    A table from elsewhere, and an analysis that went to another folder, have none. A store that does not answer is
    reported as a message, not raised: the files are there.
    """
    study = place.study
    if study is None or place.folder != study.folder or not _may_have_runs(study.tracking.uri):
        return
    try:
        log_files(open_tracker(study), place.folder, written, fits)
    except TrackingError as error:
        events.message(f"MLflow lacks these files: {error}", "warning")


def log_files(tracker: Tracker, folder: str, written: Iterable[str], fits: StudyFits) -> str:
    """The study's own files and those `written` as artifacts, fitted constants as metrics; returns the run's id.

    Raises TrackingError.
    """
    parent = tracker.study_run()
    names = {*FILES, *(uri.removeprefix(folder + "/") for uri in written if uri.startswith(folder + "/"))}
    tracker.log_folder(parent, folder, sorted(names))
    tracker.log_final(parent, metrics(fits), tokens=0)
    return parent


def metrics(fits: StudyFits) -> dict[str, float | None]:
    """Constants that decide, by law and subset, in names that MLflow takes."""
    found: dict[str, float | None] = {}
    for fit in fits.fits:
        own = f"fit/{fit.law}/{re.sub('[^A-Za-z0-9_.-]+', '_', fit.label)}"
        found |= {f"{own}/{name}": value for name, value in (fit.parameters | fit.derived).items()}
        found[f"{own}/held_out_error"] = fit.holdout.mean_relative_error
        for frontier in fit.frontiers:
            found |= {f"{own}/a_{frontier.cost}": frontier.a.value, f"{own}/b_{frontier.cost}": frontier.b.value}
    return found


def _may_have_runs(uri: Address) -> bool:
    """No database file is made only to hold a fit."""
    file = local_file(uri)
    return file is None or file.exists()
