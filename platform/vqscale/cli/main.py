"""The `vqscale` command: parse, call, print. Exit codes: 0 done, 1 the work failed, 2 the request was wrong."""

import os
import sys

import typer
from rich.console import Console

from vqscale.cli import data
from vqscale.cli.autotune import autotune
from vqscale.cli.doctor import doctor
from vqscale.cli.export import export
from vqscale.cli.fit import fit
from vqscale.cli.jobs import logs, status, stop, submit
from vqscale.cli.next import next_command
from vqscale.cli.plan import plan
from vqscale.cli.predict import predict
from vqscale.cli.recipe import recipe
from vqscale.cli.report import report
from vqscale.cli.run import run
from vqscale.cli.throughput import throughput
from vqscale.cli.ui import ui
from vqscale.errors import StudyInterruptedError, UserError, WorkFailedError

app = typer.Typer(
    name="vqscale",
    help="Scaling-law studies of linear-time, vector-quantised transformers: plan, train, fit, report.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(data.app, name="data")
STUDIES = (plan, run, recipe, fit, predict, export, report, throughput, autotune, ui, doctor)
for command in (*STUDIES, submit, status, logs, stop):
    app.command()(command)
app.command("next")(next_command)


def main() -> None:
    """Entry point of the console script."""
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        app(standalone_mode=True)
    except UserError as error:
        errors.print(f"[red]error:[/red] {_escape(str(error))}")
        sys.exit(2)
    except WorkFailedError as error:
        errors.print(f"[red]failed:[/red] {_escape(str(error))}")
        sys.exit(1)
    except StudyInterruptedError as error:
        errors.print(f"Stopped. {error} What was trained is kept: the same command goes on from there.")
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _escape(text: str) -> str:
    return text.replace("[", r"\[")
