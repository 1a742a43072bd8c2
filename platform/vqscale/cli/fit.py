"""`vqscale fit`: scaling laws of a study or of any table."""

from enum import StrEnum
from typing import Annotated

import pandas as pd
import typer

from vqscale.cli.console import make_console
from vqscale.cli.fit_view import print_fits
from vqscale.errors import FitError
from vqscale.laws import LAWS, StudyFits, fit_study, write_fits
from vqscale.laws.fitting.problem import DELTA, Objective
from vqscale.report import gather, write_figures
from vqscale.results import locate, read_table
from vqscale.workflow.artifacts import mirror
from vqscale.workflow.fit_options import study_settings
from vqscale.workflow.predictions import show_scores


class Residual(StrEnum):
    LOG = "log"
    RAW = "raw"


def fit(
    target: Annotated[str, typer.Argument(help="Study folder, study .yaml, or a .csv or .parquet table of runs.")],
    law: Annotated[list[str] | None, typer.Option(help=f"Law to fit, repeatable: {', '.join(LAWS)}.")] = None,
    bootstrap: Annotated[int | None, typer.Option(min=0, help="Refits for the intervals; 0 for none.")] = None,
    group: Annotated[list[str] | None, typer.Option(help="Column to split by, repeatable, for the law's own.")] = None,
    metric: Annotated[str | None, typer.Option(help="Column to fit. Default: bpb where complete, else loss.")] = None,
    n: Annotated[
        str,
        typer.Option(
            "--n", help="What counts as N: a column, or non_embedding, total, non_embedding_codebooks, total_codebooks."
        ),
    ] = "parameters_non_embedding",
    column: Annotated[list[str] | None, typer.Option(help="NAME=YOUR_COLUMN, for a table with other names.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    residual: Annotated[Residual, typer.Option(help="Residuals of log loss, or of the loss itself.")] = Residual.LOG,
    delta: Annotated[
        float, typer.Option(min=0, help="Threshold of the Huber loss, in the residual's unit; 0: least squares.")
    ] = DELTA,
    hold_out_from: Annotated[
        float | None,
        typer.Option(help="Training FLOPs from which runs are only predicted. Default: the study's."),
    ] = None,
    out: Annotated[str | None, typer.Option(help="Folder or URI for fits.json, fits.csv and figures.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print fits and refusals as JSON.")] = False,
) -> None:
    """Fit scaling laws with intervals and a hold-out; say why where the data cannot support one.

    Example: vqscale fit runs/quickstart --law power_n --law chinchilla --bootstrap 1000

    Example: vqscale fit published.csv --law chinchilla --column parameters_non_embedding=N --column tokens=D
    """
    place = locate(target, out)
    table = rename(read_table(place.table), column or [])
    spec = place.study.fit if place.study else None
    fits = fit_study(
        table,
        law or (spec.laws if spec else _supported(table, n)),
        bootstrap=bootstrap if bootstrap is not None else spec.bootstrap if spec else 200,
        group=group,
        metric=metric,
        n_column=n,
        seed=seed,
        objective=Objective(delta=delta or None, residual=residual.value),
        **study_settings(place.study, table, hold_out_from),
    )
    figures = write_figures(gather(study={}, table=table, fits=fits), place.folder)
    written = [*write_fits(fits, place.folder), *figures]
    mirror(place, written, fits, make_console(stderr=as_json))
    if as_json:
        typer.echo(fits.model_dump_json(indent=2))
    else:
        print_fits(fits, make_console(), written)
        show_scores(place.folder, table, make_console())
    if not fits.fits:
        raise FitError(f"{target}: no law could be fitted. {_first_reason(fits)}")


def rename(table: pd.DataFrame, pairs: list[str]) -> pd.DataFrame:
    """The table with the columns that NAME=YOUR_COLUMN pairs name under the names that the laws know."""
    for pair in pairs:
        name, _, own = pair.partition("=")
        if own not in table:
            raise FitError(
                f"--column {pair}: the table has no column {own!r}, only {', '.join(map(str, table.columns))}"
            )
        table = table.assign(**{name: table[own]})
    return table


def _supported(table: pd.DataFrame, n_column: str) -> list[str]:
    """The laws whose axes a table from elsewhere has, but for those on request; power_n where it has none, to be
    refused by name."""
    axes = {
        name: [n_column if axis == "parameters_non_embedding" else axis for axis in law.axes]
        for name, law in LAWS.items()
        if not law.on_request
    }
    return [name for name, needed in axes.items() if set(needed) <= set(table.columns)] or ["power_n"]


def _first_reason(fits: StudyFits) -> str:
    refusal = fits.refusals[0]
    return f"First reason: {refusal.law}, {refusal.label}: {refusal.reason}"
