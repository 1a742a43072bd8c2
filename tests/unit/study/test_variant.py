"""How a model that differs from its architecture's usual form is distinguished in names and tables."""

import pytest

from vqscale.costing.presets import resolve


@pytest.mark.parametrize(
    ("overrides", "word"),
    [
        ({}, None),
        ({"global_memory": False}, "window-only"),
        ({"state_dim": 16}, None),
        ({"state_dim": 32, "structured_memory": "s4d"}, "s4d+state32"),
        ({"structured_memory": "s4d", "attention_function": "laplace"}, "s4d+laplace"),
        ({"structured_memory": "none", "gates": False}, "no-memory+no-gates"),
        ({"local_window": False, "norm": "layer", "prenorm": False}, "no-window+layer-norm+post-norm"),
    ],
)
def test_variant_names_what_differs_from_the_usual_form(overrides, word):
    assert resolve("longvq", "pico", 259, overrides).variant == word


def test_variant_of_other_architectures_is_none():
    assert resolve("transformer_vq", "pico", 259, {"head": "mha"}).variant is None


def test_variant_tells_windows_apart():
    assert resolve("transformer_window", "pico", 259, {"window": 96}).variant == "w96"


@pytest.mark.parametrize(("pooling", "word"), [("mean", None), ("last", "last"), ("none", None)])
def test_variant_tells_poolings_of_sequences_apart(pooling, word):
    task = {"causal": pooling == "none", "classes": 3, "pooling": pooling}
    assert resolve("longvq", "pico", 259, {}, task).variant == word
