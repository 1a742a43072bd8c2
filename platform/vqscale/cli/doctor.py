"""`vqscale doctor`: what works on this machine, what does not, and how to fix it."""

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated

import typer

from vqscale.cli.console import make_console, styled
from vqscale.errors import WorkFailedError

if TYPE_CHECKING:
    from vqscale.submit.doctor import Check

_COLOURS = {"ok": "green", "warning": "yellow", "broken": "red"}


def doctor(
    study: Annotated[str | None, typer.Argument(help="A study: its corpus, storage and tracking too.")] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Also start a local Ray cluster and a task on it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at versions, devices, Ray, DeepSpeed, disk and tracking. The exit code is 1 when something is broken.

    Example: vqscale doctor study.yaml --deep
    """
    from vqscale.submit.doctor import diagnose

    checks = diagnose(study, deep=deep)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(check) for check in checks], indent=2))
    else:
        _print(checks)
    broken = [check.name for check in checks if check.state == "broken"]
    if broken:
        raise WorkFailedError(f"{', '.join(broken)}: broken; the last column says how to fix it")


def _print(checks: "list[Check]") -> None:
    from rich.table import Table

    table = Table(box=None, padding=(0, 1), header_style="dim")
    for title in ("check", "state", "found", "how to fix it"):
        table.add_column(title, overflow="fold")
    for check in checks:
        colour = _COLOURS[check.state]
        table.add_row(check.name, styled(f"[{colour}]{{}}[/{colour}]", check.state), check.found, check.fix or "")
    make_console().print(table)
