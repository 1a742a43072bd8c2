"""`vqscale plan`: the trials of a study and their cost, before anything runs."""

import dataclasses
import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vqscale.bench import record
from vqscale.bench.plan import ThroughputPlan, plan_throughput
from vqscale.cli.console import make_console
from vqscale.cli.throughput_view import cells
from vqscale.plan.plan import Plan, PlannedTrial
from vqscale.plan.plan import plan as make_plan
from vqscale.study.throughput import ThroughputStudy, load_any
from vqscale.study.trial import count
from vqscale.sweep.progress import duration


def plan(
    study: Annotated[str, typer.Argument(help="Study file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Show every trial of a study with parameters, FLOPs, tokens, memory and time, and the study's total.

    Example: vqscale plan experiments/quickstart/study.yaml
    """
    spec = load_any(study)
    if isinstance(spec, ThroughputStudy):
        plan_speed(plan_throughput(spec, source=study), as_json=as_json)
        return
    planned = make_plan(spec, source=study, allow_changed=True)
    if as_json:
        print(json.dumps(as_values(planned), indent=2))  # noqa: T201
        return
    show(planned, make_console())


def plan_speed(planned: ThroughputPlan, *, as_json: bool) -> None:
    """The cells of a throughput study with their state, and those that cannot be measured with the reason."""
    done = [record.read(planned.study.folder, one.id(cell)) is not None for one, cell in planned.cells]
    if not as_json:
        make_console().print(cells(planned, done))
        return
    known = [
        {"id": one.id(cell), "state": "measured" if measured else "pending", **cell.model_dump()}
        for (one, cell), measured in zip(planned.cells, done, strict=True)
    ]
    refused = [{**one.settings.model_dump(), "reason": one.reason} for one in planned.refused]
    values = {"study": planned.study.study, "folder": planned.study.folder, "cells": known, "refused": refused}
    print(json.dumps(values, indent=2))  # noqa: T201


def as_values(planned: Plan) -> dict[str, Any]:
    """A plan as plain JSON values."""
    trials = [
        {
            "id": p.trial.id,
            "name": p.trial.name,
            "fingerprint": p.trial.fingerprint,
            "status": p.result.status if p.result else "pending",
            "model": p.trial.model.model_dump(),
            "train": p.trial.train.model_dump(),
            "cost": dataclasses.asdict(p.cost),
        }
        for p in planned.trials
    ]
    return {
        "study": planned.study.study,
        "folder": planned.study.folder,
        "trials": trials,
        "total": {
            "trials": len(trials),
            "pending": len(planned.pending),
            "flops": sum(p.cost.flops for p in planned.trials),
            "tokens": sum(p.cost.tokens for p in planned.trials),
            "seconds_pending": sum(p.cost.seconds or 0.0 for p in planned.pending),
        },
        "speed_source": planned.speed_source,
    }


def show(planned: Plan, console: Console) -> None:
    """The plan as a table for people."""
    table = Table(title=f"{planned.study.study}: {planned.study.question}".rstrip(": "), title_justify="left")
    for title in ("trial", "state", "N", "N all", "T", "tokens", "updates", "FLOPs", "memory", "time"):
        table.add_column(title, justify="left" if title in ("trial", "state") else "right", no_wrap=True)
    for p in planned.trials:
        table.add_row(*_row(p))
    console.print(table)
    pending = planned.pending
    resources = planned.study.resources
    console.print(
        f"{len(planned.trials)} trials, {len(pending)} to train: {sum(p.cost.flops for p in pending):.3g} FLOPs,"
        f" {count(sum(p.cost.tokens for p in pending))} tokens, about"
        f" {duration(sum(p.cost.seconds or 0.0 for p in pending))} of {resources.workers} worker(s) with"
        f" {resources.cpus_per_worker} CPU(s) each; trials run side by side where the cluster has room.",
        highlight=False,
    )
    console.print(
        "N counts parameters without embeddings. FLOPs are exact (attention, cache and quantiser included, not 6ND)."
        f" Memory is an estimate a worker; time assumes {planned.speed_source}.",
        style="dim",
        highlight=False,
    )


def _row(p: PlannedTrial) -> tuple[str, ...]:
    cost = p.cost
    return (
        p.trial.name,
        p.result.status if p.result else "pending",
        count(cost.parameters_non_embedding),
        count(cost.parameters),
        str(p.trial.train.context),
        count(cost.tokens),
        str(cost.steps),
        f"{cost.flops:.2e}",
        f"{cost.memory_bytes / 2**20:.0f} MiB",
        duration(cost.seconds) if cost.seconds is not None else "unknown",
    )
