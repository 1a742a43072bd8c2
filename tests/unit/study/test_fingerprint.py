"""Identity: equal values have equal fingerprints, and nothing falls back to its string."""

from pathlib import Path

import pytest

from vqscale.study.fingerprint import canonical, fingerprint


def test_fingerprint_of_equal_numbers_is_equal() -> None:
    assert fingerprint({"a": 1_000_000, "b": [1.0, 2]}) == fingerprint({"b": [1, 2.0], "a": 1e6})


def test_fingerprint_of_close_budgets_differs() -> None:
    assert fingerprint({"flops": 1.5e18}) != fingerprint({"flops": 2.4e18})
    assert fingerprint({"lr": 3e-3}) != fingerprint({"lr": 3.0000001e-3})


def test_fingerprint_tells_true_from_one() -> None:
    assert fingerprint({"a": True}) != fingerprint({"a": 1})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_canonical_refuses_numbers_without_form(value: float) -> None:
    with pytest.raises(ValueError, match="no canonical form"):
        canonical({"x": value})


@pytest.mark.parametrize("value", [Path("/tmp"), {1, 2}, b"bytes", {1: "a"}, object()])
def test_canonical_refuses_types_without_form(value: object) -> None:
    with pytest.raises(TypeError, match="canonical form"):
        canonical({"x": value})
