"""The norms of the gated hybrids; batch norm without padding, over ranks, in float32, and never in a causal model."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from vqscale.costing.presets import resolve
from vqscale.errors import StudyError
from vqscale.models.norms import BatchNorm, make_norm, recomputation

EXACT = {"rtol": 1e-9, "atol": 1e-10}
BOTH_WAYS = {"causal": False, "classes": 5, "pooling": "mean", "norm": "batch"}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch_norm():
    norm = BatchNorm(6).double()
    norm.initialise(torch.Generator())
    with torch.no_grad():
        norm.gain += drawn(6, seed=1)
        norm.bias += drawn(6, seed=2)
    return norm


@pytest.fixture
def mask_BT():
    mask = torch.ones(3, 8, dtype=torch.bool)
    mask[1, 5:] = False
    mask[2, 1:] = False
    return mask


def test_batch_norm_equals_pytorchs_on_the_real_tokens(mask_BT):
    norm, x_BTD = batch_norm(), 3 * drawn(3, 8, 6) + 2
    x_BTD.requires_grad_()
    expected = nn.BatchNorm1d(6).double()
    with torch.no_grad():
        expected.weight.copy_(norm.gain)
        expected.bias.copy_(norm.bias)
    weight_ND = drawn(14, 6, seed=3)
    for _ in range(2):
        out_ND, expected_ND = norm(x_BTD, mask_BT)[mask_BT], expected(x_BTD[mask_BT])
        assert_close(out_ND, expected_ND, **EXACT)
        assert_close(
            torch.autograd.grad((out_ND * weight_ND).sum(), [x_BTD, norm.gain, norm.bias]),
            torch.autograd.grad((expected_ND * weight_ND).sum(), [x_BTD, expected.weight, expected.bias]),
            **EXACT,
        )
    norm.eval(), expected.eval()
    assert_close(norm(x_BTD, None).flatten(0, 1), expected(x_BTD.flatten(0, 1)), rtol=1e-5, atol=1e-5)


def test_batch_norm_of_nan_in_padding_changes_neither_values_nor_gradients(mask_BT):
    results = []
    for padding in (1e3, torch.nan):
        norm, x_BTD = batch_norm(), torch.where(mask_BT[..., None], drawn(3, 8, 6), padding).requires_grad_()
        out_ND = norm(x_BTD, mask_BT)[mask_BT]
        out_ND.pow(3).sum().backward()
        results.append((out_ND, x_BTD.grad[mask_BT], norm.gain.grad, norm.mean, norm.variance))
    assert_close(results[0], results[1], rtol=0, atol=0)
    assert results[0][1].isfinite().all()


def test_batch_norm_remembers_no_recomputation(mask_BT):
    norm = batch_norm()
    norm(drawn(3, 8, 6), mask_BT)
    once = norm.mean.clone()
    with recomputation():
        norm(drawn(3, 8, 6), mask_BT)
    assert torch.equal(norm.mean, once)


def test_running_statistics_stay_in_float32_when_a_model_is_cast():
    norm = batch_norm().bfloat16()
    assert {norm.mean.dtype, norm.variance.dtype} == {torch.float32}
    assert norm.gain.dtype == torch.bfloat16
    assert norm(drawn(3, 8, 6).bfloat16(), None).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["rms", "layer", "scale"])
def test_norm_of_a_token_does_not_see_others(kind):
    norm = make_norm(kind, 6).double()
    norm.initialise(torch.Generator())
    x_BTD = drawn(3, 8, 6)
    assert_close(norm(x_BTD)[1:2, 3:4], norm(x_BTD[1:2, 3:4]), **EXACT)


def test_causal_model_refuses_batch_norm():
    with pytest.raises(StudyError, match="would see later ones"):
        resolve("longvq", "pico", 13, {"norm": "batch"})


def test_model_with_batch_norm_keeps_padding_out(make_model, tokens_BT):
    model = make_model(("mega", "whole"), **BOTH_WAYS)
    mask = torch.ones_like(tokens_BT, dtype=torch.bool)
    mask[0, 11:] = False
    other = torch.where(mask, tokens_BT, (tokens_BT + 3) % 13)
    kept = copy.deepcopy(model)
    assert_close(model(tokens_BT, mask_BT=mask)["logits"], kept(other, mask_BT=mask)["logits"], rtol=0, atol=0)
    assert_close(model.state_dict(), kept.state_dict(), rtol=0, atol=0)
    assert not torch.equal(model.layers[0].norms[0].mean, torch.zeros(16))


def test_checkpointed_model_with_batch_norm_trains_alike(make_model, tokens_BT):
    results = []
    for checkpointing in (False, True):
        model = make_model(("mega", "whole"), **BOTH_WAYS)
        model.activation_checkpointing = checkpointing
        logits = model(tokens_BT)["logits"]
        logits.square().sum().backward()
        results.append((logits, [p.grad for p in model.parameters()], list(model.buffers())))
    assert_close(results[0], results[1], **EXACT)
