"""One layer against its equations, written out token by token (Lingle 2024 and its reference code)."""

import math

import torch
from torch.testing import assert_close

from vqscale.models.layers import RMSNorm, SwiGLU, sinusoids
from vqscale.models.transformer import rotate
from vqscale.models.transformer_full import by_distance
from vqscale.study.model import HEADED


def rms(x):
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def relative_key(attention, distance, width, base=1e5):
    """(R_d W_r) tau^-1/2 of every key/value head."""
    frequency = torch.tensor([base ** (-2 * i / width) for i in range(width // 2)], dtype=torch.float64)
    row = torch.cat([(distance * frequency).sin(), (distance * frequency).cos()])
    key = attention.relative.weight @ row
    return key.view(attention.config.n_kv_head, -1) * attention.config.d_key**-0.25


def attention_by_definition(attention, norm, x_TD, reach, codebook_GSK):
    """Update [T, D] of one attention sub-layer on one sequence; `codebook_GSK` None leaves keys as they are."""
    config = attention.config
    heads, groups, d_key, d_value = config.n_head, config.n_kv_head, config.d_key, config.d_value
    tilde = rms(x_TD) * norm.gain + norm.bias
    sizes = [heads * d_key, groups * d_key, groups * d_value]
    gated = config.head == "shga"
    weights = attention.inputs.weight.split([*sizes, *([heads * d_value] if gated else [])])
    q, k, v = (tilde @ weight.T for weight in weights[:3])
    q = rms(q.view(-1, heads, d_key)) * d_key**-0.25
    k = rms(k.view(-1, groups, d_key)) * d_key**-0.25
    v = v.view(-1, groups, d_value)
    if gated:
        v = v * v.sigmoid()
    if codebook_GSK is not None:
        for g in range(groups):
            distance = (k[:, g, None] - codebook_GSK[g]).square().sum(-1)
            k[:, g] = codebook_GSK[g][distance.argmin(-1)]
    u, w = attention.bias_u * d_key**-0.25, attention.bias_w * d_key**-0.25
    out = torch.zeros(len(x_TD), heads, d_value, dtype=x_TD.dtype)
    for i in range(len(x_TD)):
        for h in range(heads):
            g = h // (heads // groups)
            logits = []
            for j in range(i + 1):
                logit = (q[i, h] + u[h]) @ k[j, g]
                if i - j <= reach:
                    logit = logit + (q[i, h] + w[h]) @ relative_key(attention, i - j, config.d_model)[g]
                logits.append(logit)
            out[i, h] = torch.stack(logits).softmax(0) @ v[: i + 1, g]
    out = out.flatten(1)
    if gated:
        gate = tilde @ weights[3].T
        out = out * (gate * gate.sigmoid())
    return out @ attention.out.weight.T


def layer_by_definition(layer, x_TD, reach, codebooks):
    for attention, norm, codebook in zip(layer.attentions, layer.norms, codebooks, strict=False):
        x_TD = x_TD + attention_by_definition(attention, norm, x_TD, reach, codebook)
    if layer.feed_forward is not None:
        norm = layer.norms[1]
        hidden = (rms(x_TD) * norm.gain + norm.bias) @ layer.feed_forward.up.weight.T
        x_TD = x_TD + hidden.clamp(min=0).square() @ layer.feed_forward.down.weight.T
    return x_TD


@torch.no_grad()
def test_relative_models_follow_their_equations(kind, make_model, tokens_BT):
    if kind[0] not in HEADED:
        return
    model = make_model(kind)
    row = tokens_BT[0, :14]
    x_TD = model.embed.weight[row]
    for index, layer in enumerate(model.layers):
        per_layer = len(layer.attentions)
        if kind[0] == "transformer_vq":
            own = model.codebooks()[index * per_layer : (index + 1) * per_layer]
            x_TD = layer_by_definition(layer, x_TD, 4, [one.codebook.double() for one in own])
        else:
            x_TD = layer_by_definition(layer, x_TD, len(row), [None] * per_layer)
    assert_close(model(row[None])["logits"][0], x_TD @ model.head.weight.T, rtol=1e-6, atol=1e-7)


@torch.no_grad()
def test_tied_head_has_final_norm_and_scale(make_model, tokens_BT):
    model = make_model(("transformer_vq", "shga"), tie_embeddings=True)
    last = []
    model.layers[-1].register_forward_hook(lambda module, args, out: last.append(out[0]))
    logits = model(tokens_BT)["logits"]
    normed = rms(last[0]) * model.final_norm.gain + model.final_norm.bias
    assert model.head is None
    assert_close(logits, normed @ model.embed.weight.T * 0.005)


@torch.no_grad()
def test_untied_reference_model_has_no_final_norm(make_model):
    assert make_model(("transformer_vq", "shga")).final_norm is None
    assert make_model(("transformer", None)).final_norm is not None


@torch.no_grad()
def test_absolute_positions_add_scaled_sinusoids(make_model, tokens_BT):
    model = make_model(("transformer_vq", "shga"), absolute_positions=True)
    seen = []
    model.layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(tokens_BT)
    expected = model.embed.weight[tokens_BT] + model.positions.scale * sinusoids(torch.arange(19), 16, 1e5)
    assert_close(seen[0], expected)


def test_sinusoids_begin_with_sines_then_cosines():
    table = sinusoids(torch.tensor([0, 3]), 4, 100.0)
    expected = [[0, 0, 1, 1], [math.sin(3), math.sin(0.3), math.cos(3), math.cos(0.3)]]
    assert_close(table, torch.tensor(expected, dtype=torch.float64))


def test_rms_norm_does_not_centre():
    norm = RMSNorm(2, bias=True)
    norm.initialise(torch.Generator())
    assert_close(norm(torch.tensor([[3.0, 4.0]])), torch.tensor([[3.0, 4.0]]) / math.sqrt(12.5))


def test_rotate_makes_products_depend_on_distance_alone():
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    near = (rotate(q, 7, 1e4) * rotate(k, 4, 1e4)).sum()
    far = (rotate(q, 90, 1e4) * rotate(k, 87, 1e4)).sum()
    assert_close(near, far, rtol=1e-5, atol=1e-5)
    assert_close(rotate(q, 0, 1e4), q)


def test_by_distance_moves_scores_to_their_keys():
    rows, keys = 3, 5
    scores = torch.arange(keys - 1, -1, -1).expand(rows, keys).double()
    moved = by_distance(scores)
    for row in range(rows):
        for key in range(keys - rows + row + 1):
            assert moved[row, key] == keys - rows + row - key


def test_swiglu_gates_with_silu():
    layer = SwiGLU(4, 6, std_down=0.5)
    for part in (layer.gate_up, layer.down):
        part.initialise(torch.Generator().manual_seed(0))
    x = torch.ones(1, 2, 4)
    gate, up = layer.gate_up.weight.split(6)
    hidden = (x @ gate.T) * (x @ gate.T).sigmoid() * (x @ up.T)
    assert_close(layer(x), hidden @ layer.down.weight.T)
