"""Which trials of a study a budget pays for, and at which size the whole study would fit the budget."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vqscale.costing.trial_cost import TrialCost
from vqscale.errors import StudyError

if TYPE_CHECKING:
    from vqscale.planning.plan import Plan, PlannedTrial

Unit = Literal["FLOPs", "device-hours", "money"]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What may be spent on the trials that are still to be trained."""

    amount: float
    unit: Unit

    def of(self, cost: TrialCost) -> float:
        """What a trial takes of the budget. Raises StudyError where that is not known."""
        value = {"FLOPs": cost.flops, "device-hours": cost.device_hours, "money": cost.money}[self.unit]
        if value is None:
            need = "price_per_device_hour" if self.unit == "money" else "flops_per_second"
            raise StudyError(f"--budget: {self.unit} cannot be counted without resources.{need}: set it in the study.")
        return value


@dataclass(frozen=True, kw_only=True)
class BudgetStep:
    """Trials that are trained together or not at all: all of one budget of the designs, or a single other trial."""

    budget: float | None
    """Training FLOPs of the designs' budget; None for a single trial."""
    trials: "list[PlannedTrial]"
    cost: float
    """In the unit of the budget check."""
    total: float
    """With all cheaper steps."""
    fits: bool


@dataclass(frozen=True, kw_only=True)
class BudgetCheck:
    budget: Budget
    steps: list[BudgetStep]
    """In the order in which the budget is spent: ascending cost of their most expensive trial."""

    @property
    def needed(self) -> float:
        return self.steps[-1].total if self.steps else 0.0

    @property
    def scale(self) -> float:
        """Factor on the training tokens of every trial (and so on every budget of the designs) at which the whole study
        would cost exactly the budget."""
        return self.budget.amount / self.needed if self.needed else math.inf

    @property
    def fitting(self) -> "list[PlannedTrial]":
        return [planned for step in self.steps if step.fits for planned in step.trials]


def parse_budget(text: str, currency: str, option: str = "--budget") -> Budget:
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
    return Budget(amount=amount, unit=unit)


def check_budget(plan: "Plan", budget: Budget) -> BudgetCheck:
    """The pending trials in ascending cost, and which of them the budget pays for.

    Trials of one budget of the designs fit together or not at all: half of them would not locate its optimum.
    """
    groups: dict[tuple[float | None, str], list[PlannedTrial]] = {}
    for planned in plan.pending:
        own = "" if planned.budget is not None else planned.trial.id
        groups.setdefault((planned.budget, own), []).append(planned)
    ordered = sorted(groups.items(), key=lambda item: max(one.cost.flops for one in item[1]))
    steps: list[BudgetStep] = []
    for (design_budget, _), trials in ordered:
        steps.append(_step(steps, design_budget, trials, budget))
    return BudgetCheck(budget=budget, steps=steps)


def _step(
    before: Sequence[BudgetStep], design_budget: float | None, trials: "list[PlannedTrial]", budget: Budget
) -> BudgetStep:
    cost = sum(budget.of(planned.cost_to_train) for planned in trials)
    total = cost + (before[-1].total if before else 0.0)
    # A total of exactly the budget fits: the budget is what may be spent, not what must be left over.
    return BudgetStep(budget=design_budget, trials=trials, cost=cost, total=total, fits=total <= budget.amount)
