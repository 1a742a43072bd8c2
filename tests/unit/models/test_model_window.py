"""The sliding-window transformer against attention written out, and against `transformer`."""

import pytest
import torch
from torch.testing import assert_close

from vqscale.costing.presets import resolve
from vqscale.models.transformer import rotate

EXACT = {"rtol": 1e-9, "atol": 1e-10}
KIND = ("transformer_window", None)
BOTH_WAYS = {"causal": False, "classes": 13, "pooling": "none"}


def last_layer(model, tokens_BT, **options):
    kept = []
    handle = model.layers[-1].register_forward_hook(lambda module, args, out: kept.append(out[0]))
    model(tokens_BT, **options)
    handle.remove()
    return kept[0]


def layer_by_definition(layer, x_BTD, mask_BT, window):
    config, attention = layer.config, layer.attention
    length = x_BTD.shape[1]
    q, k, v = attention.qkv(layer.attention_norm(x_BTD)).split(attention.widths, dim=-1)
    heads = (config.n_head, config.n_kv_head, config.n_kv_head)
    q, k, v = (x.unflatten(-1, (h, -1)).transpose(1, 2) for x, h in zip((q, k, v), heads, strict=True))
    k, v = (x.repeat_interleave(config.n_head // config.n_kv_head, 1) for x in (k, v))
    q, k = (rotate(x, 0, config.position_base) for x in (q, k))
    distance_TU = torch.arange(length)[:, None] - torch.arange(length)
    seen = (distance_TU.abs() < window) & ((distance_TU >= 0) if config.causal else True)
    score = (q @ k.transpose(-1, -2) * config.d_key**-0.5).masked_fill(~(seen & mask_BT[:, None, None]), -1e9)
    x_BTD = x_BTD + attention.out((score.softmax(-1) @ v).transpose(1, 2).flatten(2))
    return x_BTD + layer.feed_forward(layer.feed_forward_norm(x_BTD))


@torch.no_grad()
@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [1, 3, 12, 30])
def test_window_model_equals_its_definition(window, causal, kv_heads, make_model, tokens_BT):
    model = make_model(KIND, window=window, n_kv_head=kv_heads, **({} if causal else BOTH_WAYS))
    mask = torch.ones_like(tokens_BT, dtype=torch.bool)
    mask[0, 15:] = False
    mask[1, 3:] = False
    x_BTD = model.embed(tokens_BT)
    for layer in model.layers:
        x_BTD = layer_by_definition(layer, x_BTD, mask, window)
    assert_close(last_layer(model, tokens_BT, mask_BT=mask)[mask], x_BTD[mask], **EXACT)


@pytest.mark.parametrize("options", [{}, BOTH_WAYS])
def test_window_as_long_as_the_sequence_equals_the_transformer(options, make_model, tokens_BT):
    window, full = make_model(KIND, window=19, **options), make_model(("transformer", None), seed=3, **options)
    full.load_state_dict(window.state_dict())
    assert_close(window(tokens_BT)["logits"], full(tokens_BT)["logits"], **EXACT)


@pytest.mark.parametrize("window", [1, 4, 7])
def test_window_model_reads_no_further_than_its_window(window, make_model, tokens_BT):
    model = make_model(KIND, window=window, n_layer=1)
    kept = []
    model.embed.register_forward_hook(lambda module, args, out: kept.append(out))
    logits = model(tokens_BT)["logits"]
    (gradient,) = torch.autograd.grad(logits[0, 15].square().sum(), kept[0])
    size_T = gradient[0].abs().sum(-1)
    assert (size_T > 0).nonzero().flatten().tolist() == list(range(16 - window, 16))


@pytest.mark.parametrize("cuts", [[1, 2, 3], [5], [6, 11, 13]])
def test_window_model_in_segments_longer_than_its_window_equals_whole(cuts, make_model, tokens_BT):
    model = make_model(KIND, window=3)
    starts = torch.zeros_like(tokens_BT, dtype=torch.bool)
    starts[0, 4] = starts[1, 12] = True
    state, logits, sizes = None, [], set()
    for begin, end in zip([0, *cuts], [*cuts, 19], strict=True):
        part = model(tokens_BT[:, begin:end], state=state, doc_start_BT=starts[:, begin:end], return_state=True)
        state = part["state"]
        logits.append(part["logits"])
        sizes.add(tuple(tensor.shape for layer in state.layers for tensor in layer))
    assert_close(torch.cat(logits, dim=1), model(tokens_BT, doc_start_BT=starts)["logits"], **EXACT)
    assert len(sizes) == 1


def test_window_is_two_blocks_of_the_preset_unless_given():
    assert resolve("transformer_window", "pico", 13, {}).window == 128
    assert resolve("transformer_window", "190m", 13, {}).window == 1024
    assert resolve("transformer_window", "pico", 13, {"window": 7}).window == 7
