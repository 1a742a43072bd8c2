"""Names of the baselines with exact keys, and what each changes."""

import math

import pytest

from vqscale.study.baselines import baseline_name, difference


@pytest.mark.parametrize("variant", ["window-bias", "s4d+window-bias", "window-bias+causal"])
def test_baseline_with_the_bias_within_the_window_is_named_quantisation_alone(variant):
    assert baseline_name("transformer_full", variant) == "full attention, bias within L: quantisation alone"
    assert difference("transformer_vq", "transformer_full", variant) == "one thing changed: exact keys"
    assert difference("longvq", "mega", variant) == "one thing changed: exact keys"


@pytest.mark.parametrize("variant", [None, math.nan, "s4d", "no-window"])
def test_baseline_with_the_bias_over_all_distances_changes_two_things(variant):
    two = "two things changed: exact keys and a bias over all distances"
    assert baseline_name("transformer_full", variant) == (
        "full attention, the paper's baseline (bias over all distances)"
    )
    assert difference("transformer_vq", "transformer_full", variant) == two
    assert difference("longvq", "mega", variant) == two


def test_baseline_of_another_architecture_has_no_single_difference():
    assert baseline_name("transformer") is None
    assert difference("transformer_vq", "mega") is None
    assert difference("transformer_vq", "transformer") is None
    assert difference("longvq", "transformer_full", "window-bias") is None
