"""The role of every parameter of every architecture, and which of them weight decay applies to."""

import re
from typing import Any

import pytest
from torch import nn

from vqscale.costing.presets import resolve
from vqscale.models import build
from vqscale.models.roles import decayed, parameter_roles
from vqscale.study.model import PLAIN
from vqscale.study.trial import DECAYED

TEXT = """
embed.weight embedding
head.weight matrix
"""
RELATIVE = """
layers.*.attentions.*.inputs.weight matrix
layers.*.attentions.*.relative.weight matrix
layers.*.attentions.*.out.weight matrix
layers.*.attentions.*.bias_u bias
layers.*.attentions.*.bias_w bias
layers.*.norms.*.gain gain
layers.*.norms.*.bias bias
"""
SQUARED_RELU = """
layers.*.feed_forward.up.weight matrix
layers.*.feed_forward.down.weight matrix
"""
LLAMA = """
layers.*.attention_norm.gain gain
layers.*.feed_forward_norm.gain gain
layers.*.feed_forward.gate_up.weight matrix
layers.*.feed_forward.down.weight matrix
final_norm.gain gain
"""
ROTARY = """
layers.*.attention.qkv.weight matrix
layers.*.attention.out.weight matrix
"""
LINEAR = """
layers.*.attention.inputs.weight matrix
layers.*.attention.decay_down.weight matrix
layers.*.attention.decay_up.weight matrix
layers.*.attention.decay_bias bias
layers.*.attention.gain gain
layers.*.attention.out.weight matrix
"""
GATED = """
layers.*.attention.inputs.weight matrix
layers.*.attention.inputs.bias bias
layers.*.attention.values.weight matrix
layers.*.attention.values.bias bias
layers.*.attention.out.weight matrix
layers.*.attention.q_gain gain
layers.*.attention.q_shift bias
layers.*.attention.k_gain gain
layers.*.attention.k_shift bias
layers.*.attention.bias_u bias
layers.*.feed_forward.up.weight matrix
layers.*.feed_forward.down.weight matrix
"""
POSITIONS = """
layers.*.attention.bias_w bias
layers.*.attention.relative.weight matrix
"""
OMEGA = """
layers.*.attention.memory.omega recurrence
"""
EMA = """
layers.*.attention.memory.forwards.alpha recurrence
layers.*.attention.memory.forwards.beta recurrence
layers.*.attention.memory.forwards.delta recurrence
layers.*.attention.memory.forwards.gamma recurrence
"""
S4D = """
layers.*.attention.memory.forwards.log_dt recurrence
layers.*.attention.memory.forwards.log_a_real recurrence
layers.*.attention.memory.forwards.a_imag recurrence
layers.*.attention.memory.forwards.c recurrence
"""
RMS = """
layers.*.norms.*.gain gain
"""
CENTRED = """
layers.*.norms.*.gain gain
layers.*.norms.*.bias bias
"""
SCALE = """
layers.*.norms.*.scale gain
"""
FINAL = """
final_norm.gain gain
"""
CLASSES = """
embed.weight embedding
head.hidden.weight matrix
head.bias bias
head.out.weight matrix
"""
SIGNAL = """
embed.weight gain
embed.bias bias
head.hidden.weight matrix
head.bias bias
head.out.weight matrix
"""


def both(table: str) -> str:
    """With the second recurrence of a model that is not causal."""
    return table + table.replace("forwards", "backwards")


MEAN = {"classes": 3, "pooling": "mean", "causal": False}
TABLE: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    *(
        (arch, {"head": head} | more, {}, TEXT + RELATIVE + ("" if head == "shga" else SQUARED_RELU))
        for arch, more in (
            ("transformer_vq", {}),
            ("transformer_full", {}),
            ("transformer_full", {"bias": "window"}),
        )
        for head in ("shga", "mqa", "mha")
    ),
    ("transformer", {}, {}, TEXT + ROTARY + LLAMA),
    ("transformer_window", {}, {}, TEXT + ROTARY + LLAMA),
    ("gla", {}, {}, TEXT + LINEAR + LLAMA),
    *((arch, {}, {}, TEXT + GATED + POSITIONS + OMEGA + EMA + RMS + FINAL) for arch in ("longvq", "mega")),
    ("mega", {"bias": "window"}, {}, TEXT + GATED + POSITIONS + OMEGA + EMA + RMS + FINAL),
    *(
        (arch, {"structured_memory": "s4d"}, {}, TEXT + GATED + POSITIONS + OMEGA + S4D + RMS + FINAL)
        for arch in ("longvq", "mega")
    ),
    ("longvq", {"global_memory": False}, {}, TEXT + GATED + POSITIONS + OMEGA + EMA + RMS + FINAL),
    ("longvq", {"local_window": False}, {}, TEXT + GATED + OMEGA + EMA + RMS + FINAL),
    ("longvq", {"structured_memory": "none", "gates": False}, {}, TEXT + GATED + POSITIONS + RMS + FINAL),
    ("mega", {"norm": "scale", "prenorm": False}, {}, TEXT + GATED + POSITIONS + OMEGA + EMA + SCALE),
    ("mega", {"norm": "layer"}, {}, TEXT + GATED + POSITIONS + OMEGA + EMA + CENTRED + FINAL),
    # Classifiers: mean or last token, a class for every token, two sequences, samples of a signal.
    ("transformer_vq", {}, MEAN, CLASSES + RELATIVE),
    ("transformer_full", {"head": "mqa"}, MEAN | {"sequences": 2}, CLASSES + RELATIVE + SQUARED_RELU),
    ("transformer", {}, MEAN, CLASSES + ROTARY + LLAMA),
    ("transformer_window", {}, MEAN, CLASSES + ROTARY + LLAMA),
    ("gla", {}, MEAN, CLASSES + LINEAR + LLAMA),
    ("longvq", {}, {"classes": 3, "pooling": "last"}, CLASSES + GATED + POSITIONS + OMEGA + EMA + RMS + FINAL),
    ("longvq", {}, {"classes": 3, "pooling": "none"}, CLASSES + GATED + POSITIONS + OMEGA + EMA + RMS + FINAL),
    (
        "longvq",
        {"norm": "batch"},
        MEAN | {"real_inputs": True},
        SIGNAL + GATED + POSITIONS + OMEGA + both(EMA) + CENTRED + FINAL,
    ),
    ("mega", {"structured_memory": "s4d"}, MEAN, CLASSES + GATED + POSITIONS + OMEGA + both(S4D) + RMS + FINAL),
]


def made(arch: str, settings: dict[str, Any], task: dict[str, Any]) -> nn.Module:
    return build(resolve(arch, "pico", 13, settings, task), device="meta", seed=None)


@pytest.mark.parametrize(("arch", "settings", "task", "table"), TABLE, ids=str)
def test_role_of_every_parameter_is_the_tables(arch, settings, task, table):
    roles = parameter_roles(made(arch, settings, task))
    found = {(re.sub(r"\.\d+\.", ".*.", name), role) for name, role in roles.items()}
    assert found == {tuple(line.split()) for line in table.splitlines() if line}


def test_role_of_tied_and_absolute_positions_are_those_of_embedding_and_gain():
    roles = parameter_roles(made("transformer_vq", {"tie_embeddings": True, "absolute_positions": True}, {}))
    outside = {name: role for name, role in roles.items() if not name.startswith("layers.")}
    assert outside == {
        "embed.weight": "embedding",
        "positions.scale": "gain",
        "final_norm.gain": "gain",
        "final_norm.bias": "bias",
    }


def test_weight_decay_applies_to_matrices_and_embeddings_alone():
    assert DECAYED == ("matrix", "embedding")
    names = set(decayed(made("longvq", {"structured_memory": "s4d"}, {})))
    assert {re.sub(r"\.\d+\.", ".*.", name) for name in names} == {
        "embed.weight",
        "head.weight",
        "layers.*.attention.inputs.weight",
        "layers.*.attention.values.weight",
        "layers.*.attention.relative.weight",
        "layers.*.attention.out.weight",
        "layers.*.feed_forward.up.weight",
        "layers.*.feed_forward.down.weight",
    }


@pytest.mark.parametrize(("arch", "settings", "task", "_"), TABLE, ids=str)
def test_parameters_with_decay_are_those_of_two_dimensions_in_plain_architectures_only(arch, settings, task, _):
    """Why trials of these keep their identity, and those of others do not (`Trial.fingerprint`)."""
    model = made(arch, settings, task)
    matrices = {name for name, parameter in model.named_parameters() if parameter.ndim > 1}
    assert (set(decayed(model)) == matrices) == (arch in PLAIN)


def test_parameter_without_a_role_is_an_error():
    class Unknown(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(nn.Linear(2, 2).weight)

    with pytest.raises(AssertionError, match=r"Unknown\.gain has no role: add it to vqscale\.models\.roles\.ROLES"):
        parameter_roles(nn.Sequential(Unknown()))
