"""`vqscale fit`: scaling laws of a study or of any table."""

from typing import Annotated

import pandas as pd
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vqscale.errors import FitError
from vqscale.laws import LAWS, Fit, Refusal, StudyFits, fit_study, write_fits
from vqscale.report import write_law_figures
from vqscale.results import locate, read_table


def fit(
    target: Annotated[str, typer.Argument(help="Study folder, study .yaml, or a .csv or .parquet table of runs.")],
    law: Annotated[list[str] | None, typer.Option(help=f"Law to fit, repeatable: {', '.join(LAWS)}.")] = None,
    bootstrap: Annotated[int | None, typer.Option(min=0, help="Refits for the intervals; 0 for none.")] = None,
    group: Annotated[list[str] | None, typer.Option(help="Column to split by, repeatable, for the law's own.")] = None,
    metric: Annotated[str | None, typer.Option(help="Column to fit. Default: bpb where complete, else loss.")] = None,
    n: Annotated[str, typer.Option("--n", help="Column that counts as N.")] = "parameters_non_embedding",
    column: Annotated[list[str] | None, typer.Option(help="NAME=YOUR_COLUMN, for a table with other names.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
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
    )
    written = [*write_fits(fits, place.folder), *write_law_figures(fits.fits, place.folder)]
    if as_json:
        typer.echo(fits.model_dump_json(indent=2))
    else:
        print_fits(fits, Console(), written)
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


def print_fits(fits: StudyFits, console: Console, written: list[str]) -> None:
    """Exponents with intervals, hold-out errors, refusals and exclusions, for a person."""
    for law in dict.fromkeys(fit.law for fit in fits.fits):
        console.print(_exponents([fit for fit in fits.fits if fit.law == law]))
    for fit in fits.fits:
        for warning in fit.warnings:
            console.print(f"[yellow]note[/yellow] {fit.law}, {escape(fit.label)}: {escape(warning)}", highlight=False)
    for text in _refusals(fits.refusals):
        console.print(f"[yellow]refused[/yellow] {escape(text)}", highlight=False)
    for entry in fits.excluded:
        console.print(f"[dim]left out[/dim] {escape(entry.name)}: {escape(entry.reason)}", highlight=False)
    for uri in written:
        console.print(f"wrote {escape(uri)}", soft_wrap=True, highlight=False)


def _exponents(fits: list[Fit]) -> Table:
    """One law: a row a subset, an exponent with its 90 % interval a column."""
    names = [name for name in ("alpha", "beta", "a") if name in fits[0].parameters | fits[0].derived]
    table = Table(title=f"{fits[0].law}: {fits[0].form}, in {fits[0].unit}", title_justify="left")
    table.add_column("runs of")
    for column in ("n", *names, "E", "R²", "held out"):
        table.add_column(column, justify="right", no_wrap=column not in names)
    for fit in fits:
        exponents = [f"{_value(fit, name)}\n[dim]{_interval(fit, name)}[/dim]" for name in names]
        e = f"{fit.parameters['E']:.3f}"
        table.add_row(escape(fit.label), str(fit.n_runs), *exponents, e, f"{fit.r2_fit:.4f}", _holdout(fit))
    return table


def _value(fit: Fit, name: str) -> str:
    return f"{(fit.parameters | fit.derived)[name]:.3f}"


def _interval(fit: Fit, name: str) -> str:
    found = fit.intervals.get(name)
    return f"{found.low90:.3f} to {found.high90:.3f}" if found else "no interval"


def _holdout(fit: Fit) -> str:
    error = fit.holdout.mean_relative_error
    return "none" if error is None else f"{100 * error:.2f} %\n[dim]on {len(fit.holdout.points)}[/dim]"


def _refusals(refusals: list[Refusal]) -> list[str]:
    """One line a refusal; subsets with too few runs share one line a law."""
    lines = [f"{one.law}, {one.label}: {one.reason}" for one in refusals if one.kind != "too few runs"]
    for law in dict.fromkeys(one.law for one in refusals):
        few = [one for one in refusals if one.law == law and one.kind == "too few runs"]
        if len(few) == 1:
            lines.append(f"{law}, {few[0].label}: {few[0].reason}")
        elif few:
            most = max(few, key=lambda one: one.n_runs)
            lines.append(f"{law}: {len(few)} subsets with too few runs; the largest is {most.label}: {most.reason}")
    return lines


def _supported(table: pd.DataFrame, n_column: str) -> list[str]:
    """The laws whose axes a table from elsewhere has; power_n where it has none, to be refused by name."""
    axes = {
        name: [n_column if axis == "parameters_non_embedding" else axis for axis in law.axes]
        for name, law in LAWS.items()
    }
    return [name for name, needed in axes.items() if set(needed) <= set(table.columns)] or ["power_n"]


def _first_reason(fits: StudyFits) -> str:
    refusal = fits.refusals[0]
    return f"First reason: {refusal.law}, {refusal.label}: {refusal.reason}"
