"""What a budget pays for."""

import math
from typing import Any

import pytest

from vqscale.errors import StudyError
from vqscale.planning.budget import Budget, check_budget, parse_budget
from vqscale.planning.plan import plan

ISOFLOP = {"type": "isoflop", "budgets": [1e10, 3e10, 1e11], "sizes": ["d16x2", "pico"]}


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [("1e13", 1e13, "FLOPs"), ("2h", 2.0, "device-hours"), ("50usd", 50.0, "money"), ("0.5 USD", 0.5, "money")],
)
def test_budget_is_flops_hours_or_money(text: str, amount: float, unit: str) -> None:
    found = parse_budget(text, "USD")
    assert (found.amount, found.unit) == (amount, unit)


@pytest.mark.parametrize("text", ["", "much", "-1", "0", "5 EUR", "1.2.3", "h"])
def test_budget_of_other_text_is_refused(text: str) -> None:
    with pytest.raises(StudyError, match=r"--budget .*FLOPs \(1e13\), device-hours \(2h\) or money"):
        parse_budget(text, "USD")


def test_budget_check_takes_whole_budgets_in_ascending_order(make: Any) -> None:
    planned = plan(make(design=[ISOFLOP]))
    answer = check_budget(planned, parse_budget("9e10", "USD"))
    assert [step.budget for step in answer.steps] == [1e10, 3e10, 1e11]
    assert [step.fits for step in answer.steps] == [True, True, False]
    assert {one.budget for one in answer.fitting} == {1e10, 3e10}
    assert answer.needed == pytest.approx(sum(one.cost.flops for one in planned.trials))
    assert answer.scale * answer.needed == pytest.approx(9e10)


def test_budget_that_is_exactly_met_is_enough(make: Any) -> None:
    planned = plan(make())
    needed = planned.trials[0].cost.flops
    exactly = check_budget(planned, Budget(amount=needed, unit="FLOPs"))
    assert (exactly.needed, exactly.scale, [step.fits for step in exactly.steps]) == (needed, 1.0, [True])
    assert [one.trial.id for one in exactly.fitting] == [planned.trials[0].trial.id]
    less = check_budget(planned, Budget(amount=math.nextafter(needed, 0), unit="FLOPs"))
    assert ([step.fits for step in less.steps], less.fitting) == ([False], [])


def test_study_scaled_by_the_budget_check_fits_the_budget(make: Any) -> None:
    answer = check_budget(plan(make(design=[ISOFLOP])), parse_budget("9e10", "USD"))
    smaller = ISOFLOP | {"budgets": [answer.scale * budget for budget in (1e10, 3e10, 1e11)], "minimum_steps": 1}
    cost = sum(one.cost.flops for one in plan(make(design=[smaller])).trials)
    assert cost == pytest.approx(9e10, rel=0.02)


def test_budget_check_leaves_out_what_is_done(make: Any, end: Any) -> None:
    study = make(design=[ISOFLOP])
    first = plan(study)
    for one in first.trials:
        if one.budget == 1e10:
            end(first, one, loss=2.0)
    answer = check_budget(plan(study), parse_budget("9e10", "USD"))
    assert [step.budget for step in answer.steps] == [3e10, 1e11]


def test_budget_check_counts_hours_and_money_of_all_workers(make: Any) -> None:
    resources = {"workers": 2, "flops_per_second": 1e9, "price_per_device_hour": 3.0, "currency": "EUR"}
    planned = plan(make(resources=resources))
    (one,) = planned.trials
    assert one.cost.seconds == pytest.approx(one.cost.flops / 2e9)
    assert one.cost.device_hours == pytest.approx(one.cost.flops / 1e9 / 3600)
    assert one.cost.money == pytest.approx(3 * one.cost.flops / 1e9 / 3600)
    assert check_budget(planned, parse_budget("1eur", "EUR")).needed == pytest.approx(one.cost.money)


def test_budget_check_refuses_money_without_a_price(make: Any) -> None:
    with pytest.raises(StudyError, match=r"resources\.price_per_device_hour"):
        check_budget(plan(make()), parse_budget("1usd", "USD"))
