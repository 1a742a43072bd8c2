"""Classifiers: padding never matters, two sequences are encoded alike, counts are those of the module."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from vqscale.costing.counts import flops_per_token, parameter_groups, parameters
from vqscale.costing.presets import resolve
from vqscale.models import build
from vqscale.models.base import LanguageModel
from vqscale.models.classifier import pool
from vqscale.study.model import ModelConfig

EXACT = {"rtol": 1e-9, "atol": 1e-10}
LEVELS = 13
ARCHS = ["transformer_vq", "transformer_full", "transformer"]


def config_of(arch: str = "transformer_vq", **settings: Any) -> ModelConfig:
    dims = {"d_model": 16, "n_layer": 2, "d_key": 8}
    dims |= {"codebook_size": 6, "block_length": 4} if arch == "transformer_vq" else {}
    plain = resolve(arch, "pico", LEVELS, dims)
    return ModelConfig(**plain.model_dump() | {"classes": 5, "pooling": "mean"} | settings)


def make(arch: str = "transformer_vq", **settings: Any) -> LanguageModel:
    return build(config_of(arch, **settings), seed=3).double().eval()


def draw(*shape: int) -> torch.Tensor:
    return torch.randint(0, LEVELS, shape, generator=torch.Generator().manual_seed(5))


def padded(rows: list[torch.Tensor], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.zeros(len(rows), width, dtype=torch.int64)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for index, row in enumerate(rows):
        tokens[index, : len(row)], mask[index, : len(row)] = row, True
    return tokens, mask


@pytest.mark.parametrize("pooling", ["mean", "last", "none"])
@pytest.mark.parametrize("arch", ARCHS)
def test_classifier_of_padded_sequences_equals_each_alone(arch: str, pooling: str) -> None:
    model = make(arch, pooling=pooling)
    rows = [draw(7), draw(12), draw(1)]
    tokens, mask = padded(rows, 16)
    together = model(tokens, mask_BT=mask)["logits"]
    for index, row in enumerate(rows):
        alone = model(row[None])["logits"][0]
        found = together[index, : len(row)] if pooling == "none" else together[index]
        assert_close(found, alone, **EXACT)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_classifier_of_two_sequences_compares_their_encodings(pooling: str) -> None:
    model = make(sequences=2, pooling=pooling)
    rows = [draw(7), draw(12), draw(3), draw(9)]
    tokens, mask = padded(rows, 12)
    logits = model(tokens.unflatten(0, (2, 2)), mask_BT=mask.unflatten(0, (2, 2)))["logits"]
    assert logits.shape == (2, 5)
    swapped = model(tokens[[1, 0, 3, 2]].unflatten(0, (2, 2)), mask_BT=mask[[1, 0, 3, 2]].unflatten(0, (2, 2)))
    assert not torch.allclose(logits, swapped["logits"])
    seen: list[torch.Tensor] = []
    model.head.hidden.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(tokens.unflatten(0, (2, 2)), mask_BT=mask.unflatten(0, (2, 2)))
    one, two, product, difference = seen[0].chunk(4, dim=-1)
    assert_close(product, one * two, **EXACT)
    assert_close(difference, one - two, **EXACT)


def test_classifier_of_tokens_continued_with_state_equals_whole() -> None:
    model = make(pooling="none")
    tokens = draw(2, 19)
    whole = model(tokens)["logits"]
    first = model(tokens[:, :8], return_state=True)
    second = model(tokens[:, 8:], state=first["state"])
    assert_close(torch.cat([first["logits"], second["logits"]], dim=1), whole, **EXACT)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_classifier_that_pools_refuses_a_state(pooling: str) -> None:
    model = make(pooling=pooling)
    with pytest.raises(ValueError, match="pools its tokens"):
        model(draw(2, 8), return_state=True)


def test_pool_takes_the_mean_and_the_last_of_what_is_no_padding() -> None:
    x_BTD = torch.arange(12.0).view(2, 3, 2)
    mask_BT = torch.tensor([[True, True, False], [True, False, False]])
    assert_close(pool(x_BTD, mask_BT, "mean"), torch.tensor([[1.0, 2.0], [6.0, 7.0]]))
    assert_close(pool(x_BTD, mask_BT, "last"), torch.tensor([[2.0, 3.0], [6.0, 7.0]]))
    assert_close(pool(x_BTD, None, "last"), x_BTD[:, -1])
    assert_close(pool(x_BTD, None, "mean"), x_BTD.mean(1))


def test_real_inputs_lie_evenly_from_minus_one_to_one() -> None:
    embed = build(config_of(real_inputs=True), seed=0).double().embed
    x_TD = embed(torch.tensor([[0, (LEVELS - 1) // 2, LEVELS - 1]]))[0]
    assert_close(x_TD[0], embed.bias - embed.weight, **EXACT)
    assert_close(x_TD[1], embed.bias, **EXACT)
    assert_close(x_TD[2], embed.bias + embed.weight, **EXACT)


@pytest.mark.parametrize("settings", [{}, {"sequences": 2}, {"real_inputs": True}, {"pooling": "none"}], ids=str)
@pytest.mark.parametrize("arch", ARCHS)
def test_classifier_parameter_count_equals_the_module(arch: str, settings: dict[str, Any]) -> None:
    config = config_of(arch, **settings)
    model = build(config, device="meta", seed=None)
    assert parameters(config) == sum(p.numel() for p in model.parameters())
    groups = parameter_groups(config)
    assert model.head is not None
    assert groups["head"] == sum(p.numel() for p in model.head.parameters())
    assert groups["embedding"] == sum(p.numel() for p in model.embed.parameters())


@pytest.mark.parametrize("settings", [{}, {"sequences": 2}, {"pooling": "none"}], ids=str)
def test_classifier_head_flops_equal_the_counter(settings: dict[str, Any]) -> None:
    config = config_of(**settings)
    model, length = build(config, seed=0), 8
    x_BTD = torch.randn(2 * config.sequences, length, 16, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        model.head(x_BTD, None).square().sum().backward()
    assert flops_per_token(config, length)["head"] * x_BTD.shape[0] * length == counter.get_total_flops()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"classes": None, "pooling": None, "real_inputs": True}, "real_inputs belongs to classifiers"),
        ({"tie_embeddings": True}, "tie_embeddings belongs to language models"),
        ({"sequences": 2, "pooling": "none"}, "two sequences are compared as wholes"),
        ({"pooling": None}, "pooling: None does not fit"),
    ],
)
def test_classifier_settings_that_do_not_fit_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        config_of(**settings)
