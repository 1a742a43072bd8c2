"""Which part of a study a budget pays for, and what study it would pay for as a whole."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vqscale.costing.trial_cost import Cost
from vqscale.errors import StudyError
from vqscale.plan.plan import Plan, PlannedTrial

Unit = Literal["FLOPs", "device-hours", "money"]


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """What may be spent on the trials that are still to be trained."""

    amount: float
    unit: Unit

    def of(self, cost: Cost) -> float:
        """What a trial takes of it. Raises StudyError where that is not known."""
        value = {"FLOPs": cost.flops, "device-hours": cost.device_hours, "money": cost.money}[self.unit]
        if value is None:
            need = "price_per_device_hour" if self.unit == "money" else "flops_per_second"
            raise StudyError(
                f"--budget: {self.unit} cannot be counted without resources.{need}: state it in the study."
            )
        return value


@dataclass(frozen=True, kw_only=True)
class Step:
    """Trials that are bought together: all of one budget of the designs, or a single other trial."""

    budget: float | None
    trials: list[PlannedTrial]
    cost: float
    """In the unit of the allowance."""
    total: float
    """With all cheaper steps."""
    fits: bool


@dataclass(frozen=True, kw_only=True)
class Answer:
    allowance: Allowance
    steps: list[Step]
    """In the order in which they are bought: ascending cost of their dearest trial."""

    @property
    def needed(self) -> float:
        return self.steps[-1].total if self.steps else 0.0

    @property
    def scale(self) -> float:
        """Factor on every horizon (and so on every budget) at which the whole of it would cost just the allowance."""
        return self.allowance.amount / self.needed if self.needed else math.inf

    @property
    def fitting(self) -> list[PlannedTrial]:
        return [planned for step in self.steps if step.fits for planned in step.trials]


def parse_allowance(text: str, currency: str, option: str = "--budget") -> Allowance:
    """`1e13` is FLOPs, `2h` device-hours, `50usd` money in the study's currency. Raises StudyError for other text."""
    found = re.fullmatch(r"\s*([0-9.]+(?:[eE][-+]?[0-9]+)?)\s*([A-Za-z$€£]*)\s*", text)
    try:
        amount = float(found[1]) if found else math.nan
    except ValueError:
        amount = math.nan
    units: dict[str, Unit] = {"": "FLOPs", "flops": "FLOPs", "h": "device-hours", currency.lower(): "money"}
    unit = units.get(found[2].lower()) if found else None
    if unit is None or not amount > 0 or not math.isfinite(amount):
        raise StudyError(
            f"{option} {text!r}: write FLOPs (1e13), device-hours (2h) or money in resources.currency (50{currency})."
        )
    return Allowance(amount=amount, unit=unit)


def afford(plan: Plan, allowance: Allowance) -> Answer:
    """The pending trials in ascending cost, until the allowance is spent.

    Trials of one budget fit together or not at all: half a budget places no optimum.
    """
    groups: dict[tuple[float | None, str], list[PlannedTrial]] = {}
    for planned in plan.pending:
        own = "" if planned.budget is not None else planned.trial.id
        groups.setdefault((planned.budget, own), []).append(planned)
    ordered = sorted(groups.items(), key=lambda item: max(one.cost.flops for one in item[1]))
    steps: list[Step] = []
    for (budget, _), trials in ordered:
        steps.append(_step(steps, budget, trials, allowance))
    return Answer(allowance=allowance, steps=steps)


def _step(before: Sequence[Step], budget: float | None, trials: list[PlannedTrial], allowance: Allowance) -> Step:
    cost = sum(allowance.of(planned.cost_to_train) for planned in trials)
    total = cost + (before[-1].total if before else 0.0)
    return Step(budget=budget, trials=trials, cost=cost, total=total, fits=total <= allowance.amount)
