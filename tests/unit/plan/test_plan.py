"""From a study to priced trials."""

from typing import Any

import pytest

from vqscale.errors import StudyError
from vqscale.plan.plan import plan
from vqscale.study.spec import parse_study


@pytest.fixture
def make(corpus_uri: str, tmp_path: Any) -> Any:
    def study(**sections: Any) -> Any:
        values = {
            "study": "p",
            "data": {"corpus": corpus_uri},
            "model": {"arch": "transformer_vq", "preset": "pico", "codebook_size": 16, "block_length": 16},
            "train": {"context": 64, "tokens": 8192, "batch_tokens": 512, "lr": 0.01, "seeds": [0]},
            "storage": str(tmp_path),
        } | sections
        return parse_study(values, source="test")

    return study


def test_plan_takes_the_product_of_the_axes_of_each_entry(make: Any) -> None:
    sweep = [
        {"model.preset": ["pico", "nano"], "train.context": [32, 64]},
        {"model.arch": ["transformer"], "train.lr": [0.01, 0.02]},
    ]
    names = [planned.trial.name for planned in plan(make(sweep=sweep)).trials]
    assert names == [
        "vq-pico-S16-T32-D8.19k-seed0",
        "vq-pico-S16-T64-D8.19k-seed0",
        "vq-nano-S16-T32-D8.19k-seed0",
        "vq-nano-S16-T64-D8.19k-seed0",
        "transformer-pico-T64-D8.19k-seed0",
        "transformer-pico-T64-D8.19k-seed0",
    ]


def test_plan_trains_a_cell_that_two_entries_name_once(make: Any) -> None:
    study = make(sweep=[{"model.preset": ["pico"]}, {"model.preset": ["pico", "nano"]}])
    assert len(plan(study).trials) == 2


def test_plan_makes_one_trial_a_seed(make: Any) -> None:
    train = {"context": 64, "tokens": 8192, "batch_tokens": 512, "lr": 0.01, "seeds": [0, 1, 2]}
    assert [planned.trial.train.seed for planned in plan(make(train=train)).trials] == [0, 1, 2]


def test_plan_leaves_the_codebook_aside_for_a_quadratic_cell(make: Any) -> None:
    (planned,) = plan(make(sweep=[{"model.arch": ["transformer_full"]}])).trials
    assert planned.trial.model.codebook_size is None


def test_plan_costs_grow_with_size_and_horizon(make: Any) -> None:
    sweep = [{"model.preset": ["pico", "nano"], "train.tokens": [8192, 16384]}]
    costs = [planned.cost for planned in plan(make(sweep=sweep)).trials]
    assert costs[1].flops == pytest.approx(2 * costs[0].flops)
    assert costs[2].flops > costs[0].flops
    assert costs[2].memory_bytes > costs[0].memory_bytes
    assert all(cost.seconds and cost.seconds > 0 for cost in costs)
    assert costs[0].flops > 6 * costs[0].parameters_non_embedding * costs[0].tokens


def test_plan_does_not_depend_on_hardware(make: Any) -> None:
    one = plan(make()).trials[0].trial
    two = plan(make(resources={"workers": 2, "cpus_per_worker": 3}, storage="/elsewhere")).trials[0].trial
    assert one.fingerprint == two.fingerprint


@pytest.mark.parametrize("seeds", [[], 3, ["a"], [1.5]])
def test_plan_refuses_seeds_that_are_no_list_of_numbers(make: Any, seeds: Any) -> None:
    train = {"context": 64, "tokens": 8192, "batch_tokens": 512, "lr": 0.01, "seeds": seeds}
    with pytest.raises(StudyError, match=r"train\.seeds"):
        plan(make(train=train))


def test_plan_names_the_cell_that_is_wrong(make: Any) -> None:
    with pytest.raises(StudyError, match=r"in the cell train\.context = 40"):
        plan(make(sweep=[{"train.context": [64, 40]}]))
