"""A plan as plain JSON values."""

import dataclasses
from typing import Any

from vqscale.planning.budget import BudgetCheck
from vqscale.planning.plan import Plan


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
        "damaged": planned.damaged,
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
