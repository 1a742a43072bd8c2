"""The learning rate ends exactly with the training tokens, however many there are."""

import itertools
from typing import Any

import pytest
from pydantic import ValidationError

from vqscale.study.trial import TrainConfig
from vqscale.train.schedule import learning_rate


def config(steps: int, warmup: float = 0.1, **train: Any) -> TrainConfig:
    return TrainConfig(context=8, tokens=8 * steps, batch_tokens=8, lr=1.0, warmup=warmup, lr_final=0.1, **train)


@pytest.mark.parametrize("steps", [1, 2, 7, 100, 1000])
def test_schedule_last_update_uses_the_final_rate(steps: int) -> None:
    assert learning_rate(steps - 1, config(steps)) == pytest.approx(0.1)


def test_schedule_rises_to_the_peak_and_then_only_falls() -> None:
    rates = [learning_rate(step, config(100)) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[9:]))


def test_schedule_of_a_short_run_is_a_scaled_copy_of_a_long_one() -> None:
    assert learning_rate(9, config(20)) == pytest.approx(learning_rate(99, config(200)), abs=1e-2)


def test_schedule_without_warmup_starts_near_the_peak() -> None:
    assert learning_rate(0, config(1000, warmup=0.0)) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("steps", [2, 7, 100])
def test_schedule_wsd_last_update_uses_the_final_rate(steps: int) -> None:
    assert learning_rate(steps - 1, config(steps, schedule="wsd")) == pytest.approx(0.1)


def test_schedule_wsd_is_stable_between_warmup_and_decay_and_then_falls() -> None:
    rates = [learning_rate(step, config(100, schedule="wsd", decay=0.3)) for step in range(100)]
    assert rates[10:70] == [1.0] * 60
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[69:]))


def test_schedule_wsd_of_two_token_budgets_is_one_up_to_the_decay_of_the_shorter() -> None:
    short, long = (config(steps, schedule="wsd", warmup_tokens=80) for steps in (100, 300))
    assert [learning_rate(step, short) for step in range(80)] == [learning_rate(step, long) for step in range(80)]
    assert learning_rate(80, short) < learning_rate(80, long)


def test_schedule_whose_parts_exceed_the_training_tokens_is_refused() -> None:
    with pytest.raises(ValidationError, match="do not fit the 10 updates"):
        config(10, schedule="wsd", warmup_tokens=40, decay=0.6)
    with pytest.raises(ValidationError, match="do not fit the 10 updates"):
        config(10, warmup_tokens=88)


def test_schedule_linear_falls_by_the_same_step_to_the_final_rate() -> None:
    rates = [learning_rate(step, config(100, schedule="linear")) for step in range(100)]
    steps = [earlier - later for earlier, later in itertools.pairwise(rates[9:])]
    assert rates[9] == 1.0
    assert rates[-1] == pytest.approx(0.1)
    assert steps == pytest.approx([0.9 / 90] * 90)


def test_schedule_linear_may_end_at_nothing() -> None:
    train = TrainConfig(context=8, tokens=800, batch_tokens=8, lr=1.0, schedule="linear", lr_final=0.0)
    assert learning_rate(99, train) == 0.0
    assert learning_rate(98, train) > 0.0
