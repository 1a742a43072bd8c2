"""Gated linear attention models: a layer against its equations, documents, padding, direction."""

import pytest
import torch
from torch.testing import assert_close

from vqscale.costing.counts import decode_state_bytes
from vqscale.costing.presets import resolve
from vqscale.errors import StudyError
from vqscale.models import build

EXACT = {"rtol": 1e-9, "atol": 1e-10}
KIND = ("gla", None)


def rms(x):
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def silu(x):
    return x * x.sigmoid()


def mixed_by_definition(mixer, x_TD):
    """Equations of the paper's section 4.4, token by token, for one sequence."""
    config = mixer.config
    H, K, V = config.n_head, config.d_key, config.d_value
    q, k, v, gate = (x_TD @ mixer.inputs.weight.T).split([H * K, H * K, H * V, H * V], dim=-1)
    alpha = (x_TD @ mixer.decay_down.weight.T @ mixer.decay_up.weight.T + mixer.decay_bias).sigmoid() ** (1 / 16)
    outs = []
    state = torch.zeros(H, K, V, dtype=x_TD.dtype)
    for t in range(len(x_TD)):
        heads = []
        for h in range(H):
            keys, values = slice(h * K, (h + 1) * K), slice(h * V, (h + 1) * V)
            state[h] = alpha[t, keys].diag() @ state[h] + torch.outer(k[t, keys], v[t, values])
            heads.append(rms(q[t, keys] / K**0.5 @ state[h]) * mixer.gain)
        outs.append(torch.cat(heads) * silu(gate[t]))
    return torch.stack(outs) @ mixer.out.weight.T


@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
def test_gla_follows_its_equations_and_reads_every_second_layer_backwards(causal, make_model, tokens_BT):
    both_ways = {} if causal else {"causal": False, "classes": 13, "pooling": "none"}
    model = make_model(KIND, n_layer=3, **both_ways)
    x_TD = model.embed(tokens_BT[0])
    for index, layer in enumerate(model.layers):
        turn = (lambda x: x.flip(0)) if not causal and index % 2 else (lambda x: x)
        x_TD = x_TD + turn(mixed_by_definition(layer.attention, turn(layer.attention_norm(x_TD))))
        x_TD = x_TD + layer.feed_forward(layer.feed_forward_norm(x_TD))
    kept = []
    model.layers[-1].register_forward_hook(lambda module, args, out: kept.append(out[0]))
    model(tokens_BT)
    assert_close(kept[0][0], x_TD, **EXACT)


def test_gla_state_keeps_its_size_and_is_float32_under_bfloat16(make_model, tokens_BT):
    model = make_model(KIND).float()
    model.autocast_bf16 = True
    for length in (1, 5, 19):
        state = model(tokens_BT[:, :length], return_state=True)["state"]
        assert [(tensor.shape, tensor.dtype) for layer in state.layers for tensor in layer] == [
            ((2, 2, 4, 8), torch.float32)
        ] * 2
    assert decode_state_bytes(model.config, 19, 2) == decode_state_bytes(model.config, 10**6, 2) == 2 * 2 * 4 * 8 * 4


def test_gla_padding_in_the_middle_equals_its_absence(make_model, tokens_BT):
    model = make_model(KIND)
    mask = torch.ones_like(tokens_BT, dtype=torch.bool)
    mask[:, 4:9] = False
    kept = [*range(4), *range(9, 19)]
    logits = model(tokens_BT, mask_BT=mask)["logits"][:, kept]
    assert_close(logits, model(tokens_BT[:, kept])["logits"], **EXACT)


def test_gla_forgets_with_a_half_life_of_sixteen_tokens_at_first():
    mixer = build(resolve("gla", "pico", 13, {}), seed=0).layers[0].attention
    log_decay = torch.nn.functional.logsigmoid(mixer.decay_bias) / 16
    assert_close(16 * log_decay, torch.full_like(log_decay, 0.5).log())


def test_gla_preset_has_keys_half_as_wide_as_values_that_fill_the_width():
    config = resolve("gla", "190m", 259, {})
    assert (config.n_head * config.d_value, config.n_head * config.d_key) == (768, 384)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [({"n_kv_head": 1}, ["n_kv_head", "own state"]), ({"d_key": 5}, ["d_key", "10", "d_model = 32"])],
)
def test_gla_refuses_dimensions_that_do_not_fit(overrides, words):
    with pytest.raises(StudyError) as error:
        resolve("gla", "pico", 13, overrides)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_gla_of_one_layer_cannot_read_both_ways(make_model):
    with pytest.raises(StudyError, match=r"n_layer: 1.*needs 2"):
        make_model(KIND, n_layer=1, causal=False, classes=2, pooling="mean")
