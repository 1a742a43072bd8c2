"""From designs to trials: training tokens from exact FLOPs, what is dropped and why, and sizes moved by results."""

import json
from typing import Any

import pytest

from vqscale.costing.trial_cost import estimated_memory_bytes
from vqscale.errors import StudyError
from vqscale.planning.centre import exact
from vqscale.planning.plan import Plan, plan

SIZES = ["d16x2", "d24x2", "pico", "nano", "micro", "milli"]
BUDGETS = [1e10, 3e10, 1e11]
ISOFLOP = {"type": "isoflop", "budgets": BUDGETS, "sizes": SIZES}


def sizes_at(planned: Plan, budget: float) -> list[str | None]:
    return [one.trial.preset for one in planned.trials if one.budget == budget and one.trial.train.seed == 0]


def test_isoflop_training_tokens_are_within_half_an_update_of_the_budget(make: Any) -> None:
    planned = plan(make(design=[ISOFLOP | {"axes": {"model.arch": ["transformer_vq", "transformer"]}}]))
    assert {one.budget for one in planned.trials} == set(BUDGETS)
    for one in planned.trials:
        update = one.cost.flops / one.cost.steps
        assert one.budget is not None
        assert abs(one.cost.flops - one.budget) <= update / 2


def test_isoflop_without_per_budget_takes_all_sizes_that_can_be_trained(make: Any) -> None:
    planned = plan(make(design=[ISOFLOP]))
    assert len(planned.trials) + len(planned.dropped) == len(SIZES) * len(BUDGETS)
    assert {one.reason.split(":")[0] for one in planned.dropped} == {"too few training tokens"}
    assert all(one.cost.steps >= 30 for one in planned.trials)
    assert all(one.stage is None for one in planned.trials)


@pytest.mark.parametrize(
    ("tokens", "steps"),
    [
        (30 * 512, 30),  # exactly minimum_steps is enough
        (29 * 512 + 256, 30),  # half an update is rounded up,
        (30 * 512 + 256, 31),  # to odd numbers as well,
        (29 * 512 + 255, None),  # and less than half down: 29 updates
    ],
)
def test_design_of_minimum_steps_is_trained_and_one_below_is_dropped(make: Any, tokens: int, steps: int | None) -> None:
    design = {"type": "codebook", "sizes": ["pico"], "codebook_sizes": [16, 32], "tokens": [tokens]}
    planned = plan(make(design=[design]))
    assert [one.cost.steps for one in planned.trials] == ([] if steps is None else [steps, steps])
    reason = "too few training tokens: 29 updates of 512 tokens, fewer than minimum_steps 30"
    assert [one.reason for one in planned.dropped] == ([reason, reason] if steps is None else [])


def test_isoflop_takes_the_sizes_nearest_to_the_expected_optimum(make: Any) -> None:
    planned = plan(make(design=[ISOFLOP | {"per_budget": 3, "minimum_steps": 1}]))
    chosen = sizes_at(planned, 3e10)
    assert len(chosen) == 3
    ratios = {one.trial.preset: one.cost.tokens_per_parameter for one in planned.trials if one.budget == 3e10}
    assert min(ratios.values()) < 20 < max(ratios.values())
    assert {one.reason.split(" to N")[0] for one in planned.dropped} == {"not among the 3 sizes nearest"}
    assert any("C = 3e10: optimum expected at N =" in note for note in planned.notes)


def test_isoflop_repeats_seeds_at_the_smallest_budget_alone(make: Any) -> None:
    planned = plan(make(design=[ISOFLOP | {"smallest_budget_seeds": [0, 1, 2]}]))
    seeds = {budget: {one.trial.train.seed for one in planned.trials if one.budget == budget} for budget in BUDGETS}
    assert seeds == {1e10: {0, 1, 2}, 3e10: {0}, 1e11: {0}}


def test_isoflop_is_recentred_by_the_results_of_smaller_budgets(make: Any, end: Any) -> None:
    study = make(design=[ISOFLOP | {"per_budget": 3, "minimum_steps": 1}])
    before = plan(study)
    trained = [one for one in before.trials if one.budget == 1e10]
    trained.sort(key=lambda one: one.cost.parameters_non_embedding)
    places = []
    for slope in (1, -1):  # the smallest of them is best, then the largest
        for place, one in enumerate(trained):
            end(before, one, loss=3.0 + slope * place)
        after = plan(study)
        assert sizes_at(after, 1e10) == sizes_at(before, 1e10)
        assert any("C = 3e10" in note and "best size at 1e10 FLOPs" in note for note in after.notes)
        places.append(sum(SIZES.index(str(size)) for size in sizes_at(after, 1e11)))
    assert places[0] < places[1]


def test_isoflop_that_is_not_recentred_ignores_results(make: Any, end: Any) -> None:
    study = make(design=[ISOFLOP | {"per_budget": 3, "minimum_steps": 1, "recentre": False}])
    before = plan(study)
    for place, one in enumerate(one for one in before.trials if one.budget == 1e10):
        end(before, one, loss=2.0 + place)
    assert sizes_at(plan(study), 1e11) == sizes_at(before, 1e11)


def test_trials_finished_elsewhere_on_the_grid_stay_in_the_study(make: Any, end: Any) -> None:
    whole = plan(make(design=[ISOFLOP | {"minimum_steps": 1}]))
    for one in whole.trials:
        end(whole, one, status="failed" if one.trial.preset == "pico" else "finished", loss=2.0)
    some = plan(make(design=[ISOFLOP | {"per_budget": 3, "minimum_steps": 1}]))
    done = {one.trial.id for one in some.trials if one.done}
    assert done == {one.trial.id for one in whole.trials if one.trial.preset != "pico"}


def test_budgets_that_round_to_one_name_are_two_budgets(make: Any) -> None:
    design = ISOFLOP | {"budgets": [1.5e10, 1.6e10], "sizes": ["pico"]}
    planned = plan(make(design=[design]))
    assert [one.budget for one in planned.trials] == [1.5e10, 1.6e10]
    assert len({one.trial.id for one in planned.trials}) == 2
    assert exact(1.5e18) == "1.5e18" != exact(2.4e18)


def test_trial_of_two_designs_exists_once_and_waits_for_none(make: Any) -> None:
    context = {"type": "context", "contexts": [64, 128], "sizes": ["pico"], "budgets": [1e11]}
    sizes = ["d16x2", "d24x2", "pico"]
    alone = plan(make(design=[ISOFLOP | {"sizes": sizes, "per_budget": 3}]))
    planned = plan(make(design=[ISOFLOP | {"sizes": sizes, "per_budget": 3}, context]))
    assert len(planned.trials) == len(alone.trials) + 1
    (shared,) = [one for one in planned.trials if one.origins == ("isoflop", "context")]
    assert (shared.budget, shared.stage) == (1e11, None)
    same = next(one for one in alone.trials if one.trial.id == shared.trial.id)
    assert (same.origins, same.stage) == (("isoflop",), 1e11)


def test_design_makes_the_trial_that_a_sweep_makes(make: Any) -> None:
    (one,) = plan(make(design=[ISOFLOP | {"budgets": [1e10, 1e11], "sizes": ["pico"], "hold_out": 1}])).trials[:1]
    train = {"context": 64, "tokens": one.cost.tokens, "batch_tokens": 512, "lr": 0.01}
    assert plan(make(train=train)).trials[0].trial.fingerprint == one.trial.fingerprint


def test_ladder_trains_each_size_for_multiples_of_its_parameters(make: Any) -> None:
    design = {"type": "ladder", "sizes": ["pico", "nano"], "tokens_per_parameter": [5, 20]}
    planned = plan(make(design=[design]))
    ratios = [(one.trial.preset, one.cost.tokens_per_parameter) for one in planned.trials]
    assert [preset for preset, _ in ratios] == ["pico", "pico", "nano", "nano"]
    assert [ratio for _, ratio in ratios] == pytest.approx([5, 20, 5, 20], rel=0.01)
    assert planned.hold_out_from == pytest.approx(0.97 * planned.trials[2].cost.flops)


def test_ladder_with_sizes_out_of_order_is_refused(make: Any) -> None:
    design = {"type": "ladder", "sizes": ["nano", "pico"], "tokens_per_parameter": [20]}
    with pytest.raises(StudyError, match=r"design\.0: sizes: .*ascending order of N"):
        plan(make(design=[design]))


def test_context_compares_at_equal_compute_and_at_equal_tokens(make: Any) -> None:
    design = {
        "type": "context",
        "contexts": [64, 128, 256],
        "sizes": ["pico"],
        "budgets": [3e10],
        "tokens": [65536],
        "axes": {"model.arch": ["transformer"]},
    }
    planned = plan(make(design=[design]))
    equal = [one for one in planned.trials if one.budget is not None]
    assert [one.trial.train.context for one in equal] == [64, 128, 256]
    for one in equal:
        assert abs(one.cost.flops - 3e10) <= one.cost.flops / one.cost.steps / 2
    assert {one.cost.tokens for one in planned.trials if one.budget is None} == {65536}
    assert any("train.evaluation_context: 256" in note for note in planned.notes)


def test_codebook_compares_at_equal_compute(make: Any) -> None:
    design = {"type": "codebook", "codebook_sizes": [16, 64, 1024], "sizes": ["pico"], "budgets": [3e10]}
    planned = plan(make(design=[design]))
    assert [one.trial.model.codebook_size for one in planned.trials] == [16, 64]
    assert planned.trials[0].cost.tokens > planned.trials[1].cost.tokens
    (dropped,) = planned.dropped
    assert "1024 codes are more than the 512 tokens of a batch" in dropped.reason


@pytest.mark.parametrize(
    ("design", "sections", "words"),
    [
        ({"minimum_steps": 10_000}, {}, "too few training tokens"),
        ({"max_epochs": 0.1}, {}, "too many training tokens"),
        ({"axes": {"train.context": [1024]}}, {}, "batch too small"),
        ({"axes": {"train.context": [48]}}, {}, "batch_tokens 512 is no multiple of 48"),
        ({"axes": {"model.block_length": [48]}}, {}, "no multiple of model.block_length 48"),
        ({}, {"resources": {"memory_gib_per_worker": 1e-3}}, "memory_gib_per_worker"),
        ({}, {"resources": {"workers": 3}}, "cannot be shared by 3 workers"),
    ],
)
def test_grid_point_that_cannot_be_trained_is_dropped_with_its_reason(
    make: Any, design: dict[str, Any], sections: dict[str, Any], words: str
) -> None:
    one = {"type": "isoflop", "budgets": [3e10, 1e11], "sizes": ["pico"]} | design
    planned = plan(make(design=[one], **sections))
    assert planned.trials == []
    assert len(planned.dropped) == 2
    assert all(words in dropped.reason for dropped in planned.dropped)


def test_quadratic_grid_point_of_a_codebook_design_is_dropped(make: Any) -> None:
    axes = {"model.arch": ["transformer_vq", "transformer"]}
    design = {"type": "codebook", "codebook_sizes": [16, 32], "sizes": ["pico"], "tokens": [65536], "axes": axes}
    planned = plan(make(design=[design]))
    assert {one.trial.model.arch for one in planned.trials} == {"transformer_vq"}
    assert [one.reason for one in planned.dropped] == ["model.arch: transformer has no codebook"] * 2


@pytest.mark.parametrize(
    ("design", "words"),
    [
        (
            {"sizes": ["giant"]},
            r"test: design\.0: model\.preset: 'giant' is unknown.*in the grid point model\.preset = giant",
        ),
        ({"axes": {"train.lr": ["fast"]}}, r"design\.0: train\.lr: "),
        ({"axes": {"train.batch_tokens": [0]}}, r"design\.0: train\.batch_tokens: 0 is no positive whole number"),
    ],
)
def test_mistake_in_a_design_is_an_error(make: Any, design: dict[str, Any], words: str) -> None:
    with pytest.raises(StudyError, match=words):
        plan(make(design=[ISOFLOP | design]), source="test")


def test_memory_of_exactly_the_limit_is_enough(make: Any) -> None:
    (one,) = plan(make()).trials
    limit = estimated_memory_bytes(one.trial, make()) / 2**30
    assert len(plan(make(resources={"memory_gib_per_worker": limit})).trials) == 1
    with pytest.raises(StudyError, match="memory_gib_per_worker"):
        plan(make(resources={"memory_gib_per_worker": limit * (1 - 1e-9)}))


def test_memory_beyond_the_limit_is_an_error_in_a_sweep(make: Any) -> None:
    with pytest.raises(StudyError, match=r"memory_gib_per_worker: about .* GiB are needed, the limit is 0\.001 GiB"):
        plan(make(resources={"memory_gib_per_worker": 1e-3}))


def test_dropped_grid_point_names_the_tokens_or_the_multiple_of_its_design(make: Any) -> None:
    context = {"type": "context", "sizes": ["pico"], "contexts": [32, 64], "tokens": [512], "budgets": [1e6]}
    ladder = {"type": "ladder", "sizes": ["pico"], "tokens_per_parameter": [0.001], "hold_out": 0}
    by_budget, by_tokens, _, _, by_multiple = plan(make(design=[context, ladder])).dropped
    assert by_tokens.settings == {"train.context": 32, "model.preset": "pico", "train.tokens": 512}
    assert (by_budget.settings, by_budget.budget) == ({"train.context": 32, "model.preset": "pico"}, 1e6)
    assert by_multiple.settings == {"model.preset": "pico", "tokens_per_parameter": 0.001}


def test_dropped_grid_points_are_plain_values(make: Any) -> None:
    planned = plan(make(design=[ISOFLOP]))
    assert json.loads(json.dumps([one.settings for one in planned.dropped]))
