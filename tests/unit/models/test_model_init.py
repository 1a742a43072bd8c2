import pytest
import torch
from torch.testing import assert_close

from vqscale.costing.presets import resolve
from vqscale.models import build

WIDE = {"d_model": 128, "d_key": 32, "n_layer": 2}


def wide(arch, **overrides):
    return build(resolve(arch, "pico", 512, WIDE | overrides), seed=3)


def assert_deviation(tensor, std):
    """Standard deviation and mean within five standard errors."""
    assert tensor.std().item() == pytest.approx(std, rel=5 / (2 * tensor.numel()) ** 0.5)
    assert abs(tensor.mean().item()) < 5 * std / tensor.numel() ** 0.5


@pytest.mark.parametrize("head", ["shga", "mqa", "mha"])
def test_init_of_reference_models_is_fan_in_normal(head):
    model = wide("transformer_vq", head=head)
    assert_deviation(model.embed.weight, 1.0)
    assert_deviation(model.head.weight, 128**-0.5)
    for layer in model.layers:
        for attention in layer.attentions:
            for matrix in (attention.inputs, attention.relative, attention.out):
                assert_deviation(matrix.weight, matrix.weight.shape[1] ** -0.5)
            assert (attention.bias_u == 0).all()
            assert (attention.bias_w == 0).all()
            heads, codes, _ = attention.codebook.key_sum.shape
            assert_deviation(attention.codebook.key_sum, (heads * codes) ** -0.5)
            assert (attention.codebook.count == 1).all()
        for norm in layer.norms:
            assert (norm.gain == 1).all()
            assert (norm.bias == 0).all()
        if layer.feed_forward is not None:
            assert_deviation(layer.feed_forward.up.weight, 128**-0.5)
            assert_deviation(layer.feed_forward.down.weight, layer.feed_forward.down.weight.shape[1] ** -0.5)


def test_init_of_transformer_scales_with_inputs_and_depth():
    model = wide("transformer")
    layers = len(model.layers)
    assert_deviation(model.embed.weight, 128**-0.5)
    assert_deviation(model.head.weight, 128**-0.5)
    for layer in model.layers:
        assert_deviation(layer.attention.qkv.weight, 128**-0.5)
        assert_deviation(layer.feed_forward.gate_up.weight, 128**-0.5)
        for writer in (layer.attention.out, layer.feed_forward.down):
            assert_deviation(writer.weight, (writer.weight.shape[1] * 2 * layers) ** -0.5)


def test_build_depends_on_seed_alone():
    config = resolve("transformer_vq", "pico", 259, {})
    torch.manual_seed(1)
    one = build(config, seed=5).state_dict()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    two = build(config, seed=5).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert_close(one, two, rtol=0, atol=0)
    other = build(config, seed=6).state_dict()
    assert not torch.equal(one["embed.weight"], other["embed.weight"])
    entropy = build(config, seed=None).state_dict()
    assert not torch.equal(one["embed.weight"], entropy["embed.weight"])


def test_build_on_meta_takes_no_memory_for_the_largest_preset():
    model = build(resolve("transformer_vq", "1.3b", 32000, {}), device="meta", seed=0)
    assert all(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    assert sum(parameter.numel() for parameter in model.parameters()) > 1.2e9


def test_codebooks_stay_in_float32_when_a_model_is_cast():
    model = wide("transformer_vq", codebook_size=8, block_length=8).bfloat16()
    assert len(model.codebooks()) == 4
    assert all(codebook.codebook.dtype == torch.float32 for codebook in model.codebooks())
    assert wide("transformer").codebooks() == []
