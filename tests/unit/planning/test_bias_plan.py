"""Both baselines of a quantised model in one study: the bias over all distances, and within the window."""

from typing import Any

import pytest

from vqscale.errors import StudyError
from vqscale.planning.plan import plan


def test_plan_sweeps_the_bias_of_the_architectures_that_have_one(make: Any) -> None:
    sweep = [
        {"model.arch": ["transformer_vq"]},
        {"model.arch": ["transformer_full", "mega"], "model.bias": ["all", "window"]},
    ]
    trials = [planned.trial for planned in plan(make(sweep=sweep)).trials]
    assert [trial.name.removesuffix("-T64-D8.19k-seed0") for trial in trials] == [
        "vq-pico-S16",
        "full-pico",
        "full-window-bias-pico",
        "mega-pico",
        "mega-window-bias-pico",
    ]
    assert [trial.model.block_length for trial in trials] == [16, None, 16, None, 16]


def test_plan_takes_the_bias_of_the_model_section_for_those_that_have_one(make: Any) -> None:
    model = {"preset": "pico", "bias": "window", "block_length": 16}
    sweep = [{"model.arch": ["transformer_vq", "transformer_full", "transformer"]}]
    trials = [planned.trial for planned in plan(make(model=model, sweep=sweep)).trials]
    assert [trial.model.bias for trial in trials] == [None, "window", None]


def test_plan_takes_a_context_that_is_no_multiple_of_the_bias_s_length(make: Any) -> None:
    train = {"context": 40, "tokens": 8000, "batch_tokens": 400, "lr": 0.01, "seeds": [0]}
    model = {"arch": "transformer_full", "preset": "pico", "bias": "window", "block_length": 16}
    (planned,) = plan(make(model=model, train=train)).trials
    assert planned.trial.model.block_length == 16


def test_plan_refuses_a_bias_as_an_axis_of_architectures_without_a_choice(make: Any) -> None:
    sweep = [{"model.arch": ["transformer_vq", "transformer_full"], "model.bias": ["window"]}]
    with pytest.raises(StudyError, match=r"model\.bias: transformer_vq has no such setting.*model\.arch = transf"):
        plan(make(sweep=sweep))
