"""`vqscale plan`: the trials of a study and their cost, before anything runs."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from vqscale.cli.console import make_console
from vqscale.errors import StudyError

if TYPE_CHECKING:
    from vqscale.study.throughput_study import ThroughputStudy


def plan(
    study: Annotated[str, typer.Argument(help="Study file or study folder.")],
    budget: Annotated[
        str | None,
        typer.Option(help="What may be spent: FLOPs (1e13), device-hours (2h), money (50usd). Says what fits it."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Show what a study trains and what it drops, with reasons, exact FLOPs, memory, time and money. Starts nothing.

    Example: vqscale plan experiments/quickstart/study.yaml

    Example: vqscale plan experiments/quickstart/study.yaml --budget 1e12
    """
    from vqscale.cli.plan_values import as_values
    from vqscale.cli.plan_view import show
    from vqscale.planning.budget import check_budget, parse_budget
    from vqscale.planning.plan import plan as make_plan
    from vqscale.study.places import open_any
    from vqscale.study.throughput_study import ThroughputStudy

    spec = open_any(study)
    if isinstance(spec, ThroughputStudy):
        if budget is not None:
            raise StudyError(f"{study}: --budget: a throughput study trains nothing. Leave the option out.")
        _plan_speed(spec, study, as_json=as_json)
        return
    planned = make_plan(spec, source=study, allow_changed=True)
    answer = None if budget is None else check_budget(planned, parse_budget(budget, spec.resources.currency))
    if as_json:
        print(json.dumps(as_values(planned, answer), indent=2))  # noqa: T201
        return
    show(planned, make_console(), answer)


def _plan_speed(spec: "ThroughputStudy", source: str, *, as_json: bool) -> None:
    """The cells of a throughput study with their state, and those that cannot be measured with the reason."""
    from vqscale.cli.throughput_view import cells
    from vqscale.throughput.measurement import read_measurement
    from vqscale.throughput.plan import plan_throughput

    planned = plan_throughput(spec, source=source)
    damaged: list[str] = []
    folder = planned.study.folder
    done = [read_measurement(folder, one.id(cell), damaged.append) is not None for one, cell in planned.cells]
    if not as_json:
        console = make_console()
        console.print(cells(planned, done))
        for sentence in damaged:
            console.print(sentence, style="yellow", markup=False, soft_wrap=True)
        return
    known = [
        {"id": one.id(cell), "state": "measured" if measured else "pending", **cell.model_dump()}
        for (one, cell), measured in zip(planned.cells, done, strict=True)
    ]
    refused = [{**one.settings.model_dump(), "reason": one.reason} for one in planned.refused]
    values = {"study": planned.study.study, "folder": folder, "cells": known, "refused": refused, "damaged": damaged}
    print(json.dumps(values, indent=2))  # noqa: T201
