"""The data of a report, read once: table, fits, and the other files of a study's folder."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from vqscale.laws import Fit, StudyFits
from vqscale.laws.decisions.predictions import Prediction, read_predictions
from vqscale.laws.decisions.surface import leading_fits
from vqscale.laws.io.schema import LOSS_UNITS, Frontier, Optimum
from vqscale.laws.study_fits import default_metric
from vqscale.reporting.charts.curves import TrainingCurve, training_curves
from vqscale.reporting.charts.style import Scheme, architecture, kind_of, present, with_kinds
from vqscale.reporting.compare import finished
from vqscale.reporting.references import KnownReferences
from vqscale.results.estimates import estimate_errors


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Everything that figures and pages are made from."""

    study: Mapping[str, Any]
    """The study's values, or of a table from elsewhere its name under `study` and a `question`."""
    table: pd.DataFrame
    fits: StudyFits
    references: KnownReferences | None = None
    throughput: pd.DataFrame | None = None
    curves: list[TrainingCurve] = field(default_factory=list)
    estimates: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Estimates of the plan beside measurements, one row per trial."""
    predictions: list[Prediction] = field(default_factory=list)
    """Registered before their runs had ended."""
    damages: list[str] = field(default_factory=list)
    """Files of the study that hold less than was written, one sentence each."""

    @cached_property
    def metric(self) -> str:
        """The loss that is compared: the one that was fitted, or else the table's own."""
        return self.fits.fits[0].metric if self.fits.fits else default_metric(self.table)

    @cached_property
    def unit(self) -> str:
        return LOSS_UNITS.get(self.metric, self.metric).replace("token", "label" if self.classifies else "token")

    @cached_property
    def classifies(self) -> bool:
        """Whether the table is one of classifiers."""
        return "task" in self.table and set(self.table["task"]) == {"classification"}

    @cached_property
    def runs(self) -> pd.DataFrame:
        """Finished runs with a loss."""
        runs = finished(self.table)
        return runs[runs[self.metric].notna()] if self.metric in runs else runs.iloc[:0]

    @cached_property
    def scheme(self) -> Scheme:
        return Scheme.of([*with_kinds(self.table).get("arch", ()), *(kind_of(fit.where) for fit in self.fits.fits)])

    @cached_property
    def leading(self) -> list[Fit]:
        """The law in N and D of every architecture: of several subsets the one with most runs."""
        found = largest_fits(leading_fits(self.fits.fits))
        return sorted(found, key=lambda fit: self.scheme.place(kind_of(fit.where)))

    @cached_property
    def held_out(self) -> set[str]:
        """Names of the runs that a leading fit predicts without being fitted to them."""
        return {point.name for fit in self.leading for point in fit.holdout.points}

    def name(self, where: Mapping[str, Any], label: str) -> str:
        """Name of a subset on the page: its architecture where no other subset has it, else its label."""
        arch = kind_of(where)
        if not present(arch):
            return label
        alone = len(self._labels.get(str(arch), {label}) | {label}) == 1
        return architecture(arch) if alone else label.replace(str(where["arch"]), architecture(arch), 1)

    @cached_property
    def _labels(self) -> dict[str, set[str]]:
        """Of every architecture the subsets that the page names."""
        found: dict[str, set[str]] = {}
        named = [(fit.where, fit.label) for fit in self.leading]
        named += [(one.where, one.label) for one in self.fits.isoflops if one.rows]
        for one in self.fits.comparisons:
            named += [(one.where, one.label), (one.base, one.base_label)]
        for where, label in named:
            found.setdefault(str(kind_of(where)), set()).add(label)
        return found


def largest_fits(fits: Iterable[Fit]) -> list[Fit]:
    """Of every architecture and head the fit with most runs, in the order of their first."""
    largest: dict[tuple[Any, Any], Fit] = {}
    for fit in fits:
        key = kind_of(fit.where), fit.where.get("head")
        if key not in largest or fit.n_runs > largest[key].n_runs:
            largest[key] = fit
    return list(largest.values())


def shown_frontier(fit: Fit) -> Frontier | None:
    """The fit's frontier by exact FLOPs where there is one, else by 6ND."""
    return min(fit.frontiers, key=lambda one: one.cost != "exact", default=None)


def over_trained(fit: Fit, one: Optimum) -> float:
    """The budget of an optimum over the largest one that was trained, the held-out runs with the others."""
    fitted = one.flops / one.beyond
    return one.flops / max([fitted, *(point.flops for point in fit.holdout.points if point.flops)])


def gather(
    *,
    study: Mapping[str, Any],
    table: pd.DataFrame,
    fits: StudyFits,
    references: KnownReferences | None = None,
    throughput: pd.DataFrame | None = None,
    home: str | None = None,
    damages: Sequence[str] = (),
) -> ReportData:
    """`home`: the study's folder, with its trials and its plan; None for a table from elsewhere.

    `damages`: what was found damaged while the other values were read.
    """
    found = list(damages)
    return ReportData(
        study=study,
        table=table,
        fits=fits,
        references=references,
        throughput=throughput,
        curves=training_curves(home, table, found.append) if home else [],
        estimates=estimate_errors(home, table, found.append) if home else pd.DataFrame(),
        predictions=read_predictions(home) if home else [],
        damages=found,
    )
