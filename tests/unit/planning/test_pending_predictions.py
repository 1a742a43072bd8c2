"""Which planned trials belong to the subset of runs that a law was fitted to."""

from types import SimpleNamespace
from typing import Any

import pytest

from vqscale.planning.pending_predictions import covers
from vqscale.planning.plan import plan

AXES = ("parameters_non_embedding", "tokens")


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"arch": "transformer_vq", "context": 64, "segment_share": 0.5}, True),
        ({"arch": "transformer_vq", "context": 64, "segment_share": 1.0}, False),
        ({"arch": "transformer_vq", "context": 128, "segment_share": 0.5}, False),
        ({"arch": "transformer_vq", "colour": "red"}, False),  # a column that no trial has
    ],
)
def test_fit_covers_a_trial_of_equal_columns(make: Any, where: dict[str, Any], expected: bool) -> None:
    train = {"context": 64, "segment": 32, "tokens": 8192, "batch_tokens": 512, "lr": 0.01}
    (one,) = plan(make(train=train)).trials
    fit: Any = SimpleNamespace(where=where, axes=AXES)
    assert covers(fit, one) is expected


def test_fit_with_an_axis_that_is_unknown_before_training_covers_no_trial(make: Any) -> None:
    (one,) = plan(make()).trials
    fit: Any = SimpleNamespace(where={}, axes=(*AXES, "peak_memory_bytes"))
    assert covers(fit, one) is False
