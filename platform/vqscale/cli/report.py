"""`vqscale report`: one HTML page from a study's table and fits."""

import json
from typing import Annotated

import typer

from vqscale.cli.console import make_console, print_written


def report(
    target: Annotated[str, typer.Argument(help="Study folder, study .yaml, or a table of runs (.csv, .jsonl ...).")],
    out: Annotated[str | None, typer.Option(help="Folder or URI with the fits; figures and report go there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write figures and one self-contained HTML page; `vqscale fit` first adds the laws.

    Example: vqscale report runs/quickstart
    """
    from vqscale.cli.messages import Messages
    from vqscale.workflow.report_page import report_target

    written = report_target(target, out=out, events=Messages(make_console(stderr=as_json)))
    if as_json:
        typer.echo(json.dumps(written, indent=2))
    else:
        print_written(written)
