"""The learning rate ends exactly at the horizon, whatever its length."""

import itertools

import pytest

from vqscale.study.trial import TrainConfig
from vqscale.train.schedule import learning_rate


def config(steps: int, warmup: float = 0.1) -> TrainConfig:
    return TrainConfig(context=8, tokens=8 * steps, batch_tokens=8, lr=1.0, warmup=warmup, lr_final=0.1)


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
