"""Scaling laws of a study or of a table from elsewhere: fitted, drawn, written, shown in the study's MLflow run."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from vqscale.laws import LAWS, StudyFits, fit_study, write_fits
from vqscale.laws.fitting.problem import Objective
from vqscale.laws.forms.catalogue import N_COLUMN
from vqscale.reporting import gather, write_figures
from vqscale.results import Target, locate
from vqscale.study.spec import Study
from vqscale.sweep.events import StudyEvents
from vqscale.workflow.artifacts import mirror
from vqscale.workflow.fit_options import study_settings
from vqscale.workflow.tables import report_reading, runs_of

DEFAULT_BOOTSTRAP = 200
"""Refits for the intervals of a table that no study file describes."""


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """What to fit, and how; None leaves it to the study file, or to the defaults of a table from elsewhere."""

    laws: Sequence[str] | str | None = None
    bootstrap: int | None = None
    group: Sequence[str] | None = None
    """Columns to split by, for the law's own."""
    metric: str | None = None
    """Column to fit; bits per byte where complete, else the loss."""
    n_column: str = "parameters_non_embedding"
    columns: Sequence[str] = ()
    """NAME=YOUR_COLUMN, for a table with other names: N, D, C, loss, or a name of the platform's."""
    units: Sequence[str] = ()
    """NAME=UNIT of N, D or C: k, M, B, T or a number."""
    seed: int = 0
    """Of the bootstrap."""
    objective: Objective = field(default_factory=Objective)
    hold_out_from: float | None = None
    """Training FLOPs from which runs are only predicted."""


@dataclass(frozen=True, kw_only=True)
class FitRun:
    """What was fitted, and where it is."""

    place: Target
    table: pd.DataFrame
    fits: StudyFits
    written: list[str]
    """URIs."""


def fit_target(target: str | Study, options: FitOptions, *, out: str | None = None, events: StudyEvents) -> FitRun:
    """Fit the laws of a study folder, a study file or a table of runs; writes fits and figures to its folder or `out`.

    Laws that the data cannot support are refusals among the fits, with reasons. Raises StorageError where no table is
    found, FitError for options that do not fit the table.
    """
    place = locate(target, out)
    place.require_writable()
    runs = runs_of(
        place, columns=options.columns, units=options.units, metric=options.metric, n_column=options.n_column
    )
    report_reading(runs.reading, place.name, events)
    table = runs.table
    n_column = runs.n_column if options.n_column == N_COLUMN else options.n_column
    laws = [options.laws] if isinstance(options.laws, str) else options.laws
    spec = place.study.fit if place.study else None
    bootstrap = spec.bootstrap if spec else DEFAULT_BOOTSTRAP
    fits = fit_study(
        table,
        laws or (spec.laws if spec else fittable_laws(table, n_column)),
        bootstrap=bootstrap if options.bootstrap is None else options.bootstrap,
        group=None if options.group is None else runs.names(options.group),
        metric=options.metric,
        n_column=n_column,
        seed=options.seed,
        objective=options.objective,
        computed=runs.reading.computed if runs.reading else (),
        **study_settings(place.study, table, options.hold_out_from),
    )
    fits = fits.model_copy(update={"reading": runs.reading})
    figures = write_figures(gather(study={}, table=table, fits=fits), place.folder)
    written = [*write_fits(fits, place.folder), *figures]
    mirror(place, written, fits, events)
    return FitRun(place=place, table=table, fits=fits, written=written)


def fittable_laws(table: pd.DataFrame, n_column: str) -> list[str]:
    """The laws whose axes a table from elsewhere has, without those on request; power_n where it has none, to be
    refused by name."""
    axes = {
        name: [n_column if axis == "parameters_non_embedding" else axis for axis in law.axes]
        for name, law in LAWS.items()
        if not law.on_request
    }
    return [name for name, needed in axes.items() if set(needed) <= set(table.columns)] or ["power_n"]
