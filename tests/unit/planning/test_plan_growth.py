"""Planning takes twice the operations for twice the trials: counted, because a time limit would test the machine."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
from operations import growth

from vqscale.cli.plan_values import as_values
from vqscale.cli.plan_view import totals
from vqscale.costing.facts import failed_result
from vqscale.planning.budget import Budget, check_budget
from vqscale.planning.plan import Plan, plan
from vqscale.results.records import write_result

LINEAR = 2.15
"""Operations at twice the size over those at the size itself: 2 and a little for logarithms; quadratic work gives 4."""
SMALL = 100
SIZES = ["d8x2", "d12x2", "d16x2", "d20x2", "d24x2"]
WSD = {"schedule": "wsd", "warmup_tokens": 1024, "decay": 0.2, "context": 64, "batch_tokens": 512, "lr": 0.01}


def swept(count: int) -> dict[str, Any]:
    axes = {"model.preset": SIZES, "train.lr": [0.001 + 0.00001 * index for index in range(count // len(SIZES))]}
    return {"sweep": [axes]}


def token_budgets(count: int) -> dict[str, Any]:
    """Warm-up-stable-decay: all trials of a size share one prefix."""
    tokens = [512 * (100 + index) for index in range(count // len(SIZES))]
    return {"train": WSD, "sweep": [{"model.preset": SIZES, "train.tokens": tokens}]}


def around_optima(count: int) -> dict[str, Any]:
    """Every learning rate is a family of its own, re-centred by itself."""
    rates = [0.001 + 0.00001 * index for index in range(count // len(SIZES))]
    design = {"type": "isoflop", "budgets": [2e10], "sizes": SIZES, "per_budget": 3, "minimum_steps": 1, "hold_out": 0}
    return {"design": [design | {"axes": {"train.lr": rates}}]}


def many_budgets(count: int) -> dict[str, Any]:
    """One family at very many budgets, of which every other trial is trained."""
    budgets = [2e10 * 1.01**index for index in range(count // len(SIZES))]
    design = {"type": "isoflop", "budgets": budgets, "sizes": SIZES, "per_budget": 4, "minimum_steps": 1, "hold_out": 0}
    return {"design": [design]}


def held_out_ladder(count: int) -> dict[str, Any]:
    rates = [0.001 + 0.00001 * index for index in range(count // len(SIZES))]
    design = {"type": "ladder", "sizes": SIZES, "tokens_per_parameter": [20], "hold_out": 1, "minimum_steps": 1}
    return {"design": [design | {"axes": {"train.lr": rates}}]}


DESIGNS = [swept, token_budgets, around_optima, many_budgets, held_out_ladder]


def record(planned: Plan, every: int) -> None:
    """Leave the record of every n-th trial, each at a speed of its own."""
    for index, one in enumerate(planned.trials[::every]):
        failed = failed_result(planned.study.study, one.trial, error="-", attempts=1, workers=1, started_at="now")
        values = {"status": "finished", "error": None, "loss": 2.0, "flops_per_second": 1e9 + index}
        write_result(failed.model_copy(update=values), planned.folder(one.trial))


@pytest.fixture
def planned_with_records(make: Any) -> Callable[..., Plan]:
    @functools.cache
    def planned(sections: Callable[[int], dict[str, Any]], count: int) -> Plan:
        study = make(study=f"p{count}", **sections(count))
        record(plan(study), every=2)
        return plan(study)

    return planned


@pytest.mark.parametrize("sections", DESIGNS)
def test_plan_of_twice_the_recorded_trials_takes_twice_the_operations(
    planned_with_records: Any, sections: Callable[[int], dict[str, Any]]
) -> None:
    def of_size(count: int) -> Callable[[], object]:
        study = planned_with_records(sections, count).study
        return lambda: plan(study)

    assert growth(of_size, SMALL) < LINEAR


@pytest.mark.parametrize("sections", DESIGNS)
def test_stages_budgets_and_json_of_twice_the_trials_take_twice_the_operations(
    planned_with_records: Any, sections: Callable[[int], dict[str, Any]]
) -> None:
    def all_of(planned: Plan) -> None:
        assert planned.stage({0.0}) is not None
        assert planned.queue
        totals(planned)
        as_values(planned, check_budget(planned, Budget(amount=1e12, unit="FLOPs")))

    def of_size(count: int) -> Callable[[], object]:
        planned = planned_with_records(sections, count)
        return lambda: all_of(Plan(**{name: getattr(planned, name) for name in Plan.__dataclass_fields__}))

    assert growth(of_size, SMALL) < LINEAR
