"""`vqscale plan`: the trials of a study and their cost, before anything runs."""

import dataclasses
import json
from typing import Annotated, Any

import typer

from vqscale.cli.console import make_console
from vqscale.cli.plan_view import show
from vqscale.cli.throughput_view import cells
from vqscale.errors import StudyError
from vqscale.plan.budget import BudgetCheck, check_budget, parse_budget
from vqscale.plan.plan import Plan
from vqscale.plan.plan import plan as make_plan
from vqscale.study.throughput_study import ThroughputStudy, load_any
from vqscale.throughput.measurement import read_measurement
from vqscale.throughput.plan import ThroughputPlan, plan_throughput


def plan(
    study: Annotated[str, typer.Argument(help="Study file.")],
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
    spec = load_any(study)
    if isinstance(spec, ThroughputStudy):
        if budget is not None:
            raise StudyError(f"{study}: --budget: a throughput study trains nothing. Leave the option out.")
        plan_speed(plan_throughput(spec, source=study), as_json=as_json)
        return
    planned = make_plan(spec, source=study, allow_changed=True)
    answer = None if budget is None else check_budget(planned, parse_budget(budget, spec.resources.currency))
    if as_json:
        print(json.dumps(as_values(planned, answer), indent=2))  # noqa: T201
        return
    show(planned, make_console(), answer)


def plan_speed(planned: ThroughputPlan, *, as_json: bool) -> None:
    """The cells of a throughput study with their state, and those that cannot be measured with the reason."""
    done = [read_measurement(planned.study.folder, one.id(cell)) is not None for one, cell in planned.cells]
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


def as_values(planned: Plan, answer: BudgetCheck | None = None) -> dict[str, Any]:
    """A plan as plain JSON values; what is not known is null."""
    pending = [p.cost_to_train for p in planned.pending]
    trials = [
        {
            "id": p.trial.id,
            "name": p.trial.name,
            "fingerprint": p.trial.fingerprint,
            "status": p.result.status if p.result else "pending",
            "origins": p.origins,
            "budget": p.budget,
            "aspect_ratio": p.trial.model.d_model / p.trial.model.n_layer,
            "held_out": planned.hold_out_from is not None and p.cost.flops >= planned.hold_out_from,
            "model": p.trial.model.model_dump(),
            "train": p.trial.train.model_dump(),
            "cost": dataclasses.asdict(p.cost),
            "shared_steps": p.shared_steps,
        }
        for p in planned.trials
    ]
    values = {
        "study": planned.study.study,
        "folder": planned.study.folder,
        "trials": trials,
        "dropped": [dataclasses.asdict(one) for one in planned.dropped],
        "notes": planned.notes,
        "hold_out_from": planned.hold_out_from,
        "total": {
            "trials": len(trials),
            "pending": len(planned.pending),
            "flops": sum(p.cost.flops for p in planned.trials),
            "tokens": sum(p.cost.tokens for p in planned.trials),
            "flops_pending": sum(cost.flops for cost in pending),
            "shared_steps": sum(p.shared_steps for p in planned.pending),
            "seconds_pending": _total([cost.seconds for cost in pending]),
            "device_hours_pending": _total([cost.device_hours for cost in pending]),
            "money_pending": _total([cost.money for cost in pending]),
            "currency": planned.study.resources.currency,
        },
        "speed_source": planned.speed_source,
    }
    return values if answer is None else values | {"budget": _answer(answer)}


def _answer(answer: BudgetCheck) -> dict[str, Any]:
    return {
        **dataclasses.asdict(answer.budget),
        "needed": answer.needed,
        "scale": answer.scale if answer.steps else None,
        "fits": [planned.trial.id for planned in answer.fitting],
        "steps": [
            {"budget": step.budget, "trials": len(step.trials), "cost": step.cost, "fits": step.fits}
            for step in answer.steps
        ],
    }


def _total(values: list[float | None]) -> float | None:
    """The sum; None where a part of it is not known."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
