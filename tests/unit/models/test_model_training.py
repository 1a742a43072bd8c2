import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from vqkernels import CodeStatistics, update_codebooks
from vqscale.models.layers import drop_residual

LEARNERS = [("transformer_vq", "shga"), ("transformer_full", "shga"), ("transformer", None)]
LEARNERS += [("gla", None), ("transformer_window", None), ("longvq", "whole"), ("mega", "whole")]


def loss_of(model, tokens_BT):
    output = model(tokens_BT[:, :-1])
    return F.cross_entropy(output["logits"].flatten(0, 1), tokens_BT[:, 1:].flatten()) + output["commit"], output


def test_activation_checkpointing_changes_nothing(kind, make_model, tokens_BT):
    model = make_model(kind, dropout_residual=0.2, dropout_layer=0.3)
    results = []
    for model.activation_checkpointing in (False, True):
        torch.manual_seed(4)
        loss, output = loss_of(model, tokens_BT)
        gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        results.append((loss, output["commit"], output["code_stats"], [g for g in gradients if g is not None]))
    assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)


def test_every_parameter_gets_a_gradient(kind, make_model, tokens_BT):
    model = make_model(kind, absolute_positions=True, tie_embeddings=True)
    loss_of(model, tokens_BT)[0].backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []
    assert not any(buffer.requires_grad for buffer in model.buffers())


def test_code_statistics_come_once_a_codebook_and_count_every_token(make_model, tokens_BT):
    model = make_model(("transformer_vq", "mha"))
    output = model(tokens_BT)
    assert len(output["code_stats"]) == len(model.codebooks()) == 2
    for statistics in output["code_stats"]:
        assert type(statistics) is tuple
        assert_close(CodeStatistics(*statistics).count_GS.sum(-1), torch.full((2,), 38.0))
    assert model.eval()(tokens_BT)["code_stats"] == []


def test_commit_is_summed_over_layers_and_not_over_checkpointed_recomputation(make_model, tokens_BT):
    model = make_model(("transformer_vq", "shga"))
    total = 0.0
    for statistics in model(tokens_BT)["code_stats"]:
        total += CodeStatistics(*statistics).squared_error / tokens_BT.numel()
    assert_close(model(tokens_BT)["commit"], total, check_dtype=False)


@pytest.mark.parametrize("kind", LEARNERS)
def test_model_learns_a_repeated_sequence(kind, make_model):
    model = make_model(kind).float()
    tokens_BT = torch.arange(13).repeat(2)[None].expand(4, -1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(25):
        loss, output = loss_of(model, tokens_BT)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        statistics = [CodeStatistics(*one) for one in output["code_stats"]]
        update_codebooks(model.codebooks(), statistics)
    assert (loss - output["commit"]).item() < 0.5


def test_drop_residual_keeps_the_mean_and_drops_whole_examples():
    torch.manual_seed(0)
    update_BTD = torch.ones(4000, 2, 3)
    dropped = drop_residual(update_BTD, 0.0, 0.25, True)
    by_example = dropped.flatten(1)
    assert (by_example == by_example[:, :1]).all()
    assert_close(by_example[:, 0].unique(), torch.tensor([0.0, 1 / 0.75]))
    assert by_example[:, 0].mean().item() == pytest.approx(1.0, abs=0.05)
    assert drop_residual(update_BTD, 0.5, 0.25, True).mean().item() == pytest.approx(1.0, abs=0.05)
    assert drop_residual(update_BTD, 0.5, 0.25, False) is update_BTD


def test_dropout_acts_in_training_only(kind, make_model, tokens_BT):
    drops = {"dropout_residual": 0.3, "dropout_layer": 0.3}
    if make_model(kind).config.relative:
        drops["dropout_sinusoid"] = 0.3
    for name, rate in drops.items():
        model = make_model(kind, **{name: rate})
        assert not torch.equal(model(tokens_BT)["logits"], model(tokens_BT)["logits"])
        model.eval()
        assert torch.equal(model(tokens_BT)["logits"], model(tokens_BT)["logits"])
