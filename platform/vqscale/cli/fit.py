"""`vqscale fit`: scaling laws of a study or of any table."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from vqscale.cli.console import make_console
from vqscale.errors import FitError

if TYPE_CHECKING:
    from vqscale.laws import StudyFits

LAW_NAMES = (
    *("power_n", "power_d", "power_c", "codebook", "chinchilla", "chinchilla_tied", "chinchilla_no_floor"),
    *("codebook_additive", "codebook_capacity", "context_additive", "context_capacity", "joint_additive"),
    *("joint_capacity", "chinchilla_coupled", "farseer", "repeated_data", "repeated_data_parameters"),
)
"""The keys of `vqscale.laws.LAWS` (a test compares them), repeated so that `--help` need not load the laws."""


class Residual(StrEnum):
    LOG = "log"
    RAW = "raw"


def fit(
    target: Annotated[str, typer.Argument(help="Study folder, study .yaml, or a table of runs (.csv, .jsonl ...).")],
    law: Annotated[list[str] | None, typer.Option(help=f"Law to fit, repeatable: {', '.join(LAW_NAMES)}.")] = None,
    bootstrap: Annotated[int | None, typer.Option(min=0, help="Refits for the intervals; 0 for none.")] = None,
    group: Annotated[list[str] | None, typer.Option(help="Column to split by, repeatable, for the law's own.")] = None,
    metric: Annotated[str | None, typer.Option(help="Column to fit. Default: bpb where complete, else loss.")] = None,
    n: Annotated[
        str,
        typer.Option(
            "--n", help="What counts as N: a column, or non_embedding, total, non_embedding_codebooks, total_codebooks."
        ),
    ] = "parameters_non_embedding",
    column: Annotated[
        list[str] | None, typer.Option(help="NAME=YOUR_COLUMN: N=params, D=tokens_seen, loss=val_loss.")
    ] = None,
    unit: Annotated[list[str] | None, typer.Option(help="N, D or C = its unit in the table: N=M, D=B, C=1e18.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    residual: Annotated[Residual, typer.Option(help="Residuals of log loss, or of the loss itself.")] = Residual.LOG,
    delta: Annotated[
        float, typer.Option(min=0, help="Threshold of the Huber loss, in the residual's unit; 0: least squares.")
    ] = 1e-3,
    hold_out_from: Annotated[
        float | None,
        typer.Option(help="Training FLOPs from which runs are only predicted. Default: the study's."),
    ] = None,
    out: Annotated[str | None, typer.Option(help="Folder or URI for fits.json, fits.csv and figures.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print fits and refusals as JSON.")] = False,
) -> None:
    """Fit scaling laws with intervals and a hold-out; say why where the data cannot support one.

    Example: vqscale fit runs/quickstart --law power_n --law chinchilla --bootstrap 1000

    Example: vqscale fit published.csv --law chinchilla --column N=size --column loss=final --unit N=M
    """
    from vqscale.cli.fit_view import print_fits
    from vqscale.cli.messages import Messages
    from vqscale.cli.parabolas_view import print_in_place_of_laws
    from vqscale.cli.predict_view import print_scores
    from vqscale.laws.fitting.problem import Objective
    from vqscale.workflow.fits import FitOptions, fit_target
    from vqscale.workflow.predictions import scored_registry

    options = FitOptions(
        laws=law,
        bootstrap=bootstrap,
        group=group,
        metric=metric,
        n_column=n,
        columns=column or [],
        units=unit or [],
        seed=seed,
        objective=Objective(delta=delta or None, residual=residual.value),
        hold_out_from=hold_out_from,
    )
    done = fit_target(target, options, out=out, events=Messages(make_console(stderr=as_json)))
    if as_json:
        typer.echo(done.fits.model_dump_json(indent=2))
    else:
        print_in_place_of_laws(done.fits.isoflops, make_console())
        print_fits(done.fits, make_console(), done.written)
        print_scores(*scored_registry(done.place.folder, done.table), make_console())
    if not done.fits.fits and not any(one.in_place_of for one in done.fits.isoflops):
        raise FitError(f"{target}: no law could be fitted. {_first_reason(done.fits)}")


def _first_reason(fits: "StudyFits") -> str:
    refusal = fits.refusals[0]
    return f"First reason: {refusal.law}, {refusal.label}: {refusal.reason}"
