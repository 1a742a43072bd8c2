"""The ceiling of matrix products, with a clock that the test moves."""

import itertools

import pytest

from vqscale.train.ceiling import SIZES, matmul_ceiling


def test_ceiling_is_the_fastest_product_of_any_size(monkeypatch):
    monkeypatch.setitem(SIZES, "cpu", (8, 16))
    seconds = itertools.cycle([0.3, 0.1, 0.2])
    now = itertools.accumulate(itertools.chain.from_iterable((0.0, taken) for taken in seconds))
    assert matmul_ceiling("cpu", "fp32", clock=lambda: next(now)) == pytest.approx(2 * 16**3 / 0.1)


def test_ceiling_of_this_processor_is_a_speed():
    assert matmul_ceiling("cpu", "fp32") > 1e8
