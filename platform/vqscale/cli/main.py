"""The `vqscale` command: parse, call, print.

Exit codes: 0 done, 1 the work failed, 2 the request was wrong, 130 stopped. Commands import what they need when
they are called, so that `--help` and usage errors load neither torch nor Ray nor the laws.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from vqscale.cli.autotune import autotune
from vqscale.cli.doctor import doctor
from vqscale.cli.export import export
from vqscale.cli.fit import fit
from vqscale.cli.jobs import logs, status, stop, submit
from vqscale.cli.lazy import LazyGroup
from vqscale.cli.next import next_command
from vqscale.cli.plan import plan
from vqscale.cli.predict import predict
from vqscale.cli.recipe import recipe
from vqscale.cli.report import report
from vqscale.cli.run import run
from vqscale.cli.throughput import throughput
from vqscale.cli.ui import ui
from vqscale.errors import StudyInterruptedError, UserError, WorkFailedError
from vqscale.version import __version__

app = typer.Typer(
    name="vqscale",
    help="Scaling-law studies of linear-time, vector-quantised transformers: plan, train, fit, report.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


class DataGroup(LazyGroup):
    MODULE = "vqscale.cli.data"


app.add_typer(
    typer.Typer(no_args_is_help=True, help="Make corpora of text and of labelled examples, and see them."),
    name="data",
    cls=DataGroup,
)
COMMANDS: tuple[Callable[..., None], ...] = (
    *(plan, run, recipe, fit, predict, export, report, throughput, autotune, ui, doctor),
    *(submit, status, logs, stop),
)
for command in COMMANDS:
    app.command()(command)
app.command("next")(next_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vqscale {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the console script."""
    try:
        app(standalone_mode=True)
    except UserError as error:
        _complain("[red]error:[/red] {}", error)
        sys.exit(2)
    except WorkFailedError as error:
        _complain("[red]failed:[/red] {}", error)
        sys.exit(1)
    except StudyInterruptedError as error:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends: one more Ctrl-C would only add a traceback
        _complain("Stopped. {}", error)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _complain(template: str, error: Exception) -> None:
    from vqscale.cli.console import make_console, styled

    make_console(stderr=True).print(styled(template, error), soft_wrap=True)
