"""The gated hybrids against their equations, written out token by token (docs/explanation/longvq.md)."""

import math

import pytest
import torch
from torch.testing import assert_close

from vqscale.costing.presets import resolve
from vqscale.models import build
from vqscale.models.base import Segment

EXACT = {"rtol": 1e-6, "atol": 1e-8}
SETTINGS = [
    ("longvq", {}),
    ("longvq", {"attention_function": "laplace"}),
    ("longvq", {"global_memory": False, "norm": "scale"}),
    ("longvq", {"local_window": False, "gates": False}),
    ("longvq", {"structured_memory": "none", "prenorm": False, "norm": "layer"}),
    ("mega", {"structured_memory": "s4d"}),
    ("mega", {}),
    ("mega", {"attention_function": "laplace", "prenorm": False}),
]


def silu(x):
    return x * x.sigmoid()


def rms(x):
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def laplace(x):
    return 0.5 * (1 + torch.erf((x - 0.707107) / (0.282095 * math.sqrt(2))))


def normed(norm, x):
    if hasattr(norm, "scale"):
        return rms(x) * norm.scale
    if norm.bias is None:
        return rms(x) * norm.gain
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.gain + norm.bias


def ema(memory, x_TD):
    """Mega's recurrence, one token after another."""
    p = memory.delta.sigmoid()
    q = 1 - p * memory.alpha.sigmoid()
    h_DN, out = torch.zeros_like(p), []
    for x_D in x_TD:
        h_DN = p * memory.beta * x_D[:, None] + q * h_DN
        out.append((memory.gamma / math.sqrt(p.shape[1]) * h_DN).sum(-1))
    return torch.stack(out)


def state_space(memory, x_TD):
    """x' = A x + u, y = 2 Re(C x), with u held over steps of dt."""
    a_DN = torch.complex(-memory.log_a_real.exp(), memory.a_imag)
    dt_D1 = memory.log_dt.exp()[:, None]
    h_DN, out = torch.zeros_like(a_DN), []
    for x_D in x_TD:
        h_DN = (dt_D1 * a_DN).exp() * h_DN + ((dt_D1 * a_DN).exp() - 1) / a_DN * x_D[:, None]
        out.append(2 * (torch.view_as_complex(memory.c.detach()) * h_DN).sum(-1).real)
    return torch.stack(out)


def structured(memory, x_TD):
    recurrence = ema if hasattr(memory.forwards, "alpha") else state_space
    seen = recurrence(memory.forwards, x_TD)
    if memory.backwards is not None:
        seen = seen + recurrence(memory.backwards, x_TD.flip(0)).flip(0)
    return silu(seen + memory.omega * x_TD)


def relative_key(attention, distance):
    config = attention.config
    frequency = config.position_base ** (-torch.arange(0, config.d_model, 2, dtype=torch.float64) / config.d_model)
    row = torch.cat([(distance * frequency).sin(), (distance * frequency).cos()])
    return attention.relative.weight @ row


def seen_keys(config, i, length):
    """Which keys query i sees, and how: exact or by code."""
    keys = range(i + 1) if config.causal else range(length)
    if config.arch == "mega":
        return [(j, False) for j in keys]
    if config.global_memory is False:
        return [(j, False) for j in keys if abs(i - j) <= config.block_length]
    block = config.block_length
    exact = not config.causal and config.local_window
    return [(j, not (exact and abs(i // block - j // block) <= 1)) for j in keys]


def mixed(attention, q_TK, k_TK, v_TV):
    config = attention.config
    laplacian = config.attention_function == "laplace"
    scale, place_scale = (1.0, 1 / config.d_key) if laplacian else (config.d_key**-0.25, config.d_key**-0.25)
    q_TK, k_TK, code_TK = q_TK * scale, k_TK * scale, None
    if config.quantised:
        codes = attention.codebook.codebook[0].double()
        code_TK = codes[(k_TK[:, None] - codes).square().sum(-1).argmin(-1)]
    reach = config.block_length or len(q_TK)
    out = []
    for i in range(len(q_TK)):
        seen = seen_keys(config, i, len(q_TK))
        content = [(q_TK[i] + attention.bias_u[0] * scale) @ (code_TK if by_code else k_TK)[j] for j, by_code in seen]
        place = [
            (q_TK[i] + attention.bias_w[0] * scale) @ relative_key(attention, i - j) * place_scale
            if config.relative and abs(i - j) <= reach
            else torch.zeros((), dtype=torch.float64)
            for j, _ in seen
        ]
        content, place = torch.stack(content), torch.stack(place)
        weight = laplace(content / len(seen) + place) if laplacian else (content + place).softmax(-1)
        out.append(weight @ v_TV[[j for j, _ in seen]])
    return torch.stack(out)


def layer_by_definition(layer, x_TD):
    attention, config = layer.attention, layer.config
    before = (lambda norm, x: normed(norm, x)) if config.prenorm else (lambda norm, x: x)
    after = (lambda norm, x: x) if config.prenorm else (lambda norm, x: normed(norm, x))
    tilde = before(layer.norms[0], x_TD)
    y_TD = tilde if attention.memory is None else structured(attention.memory, tilde)
    parts = (y_TD @ attention.inputs.weight.T + attention.inputs.bias).split(attention.widths, dim=-1)
    z_TK = rms(silu(parts[0]))
    v_TV = silu(tilde @ attention.values.weight.T + attention.values.bias)
    q_TK = z_TK * attention.q_gain[0] + attention.q_shift[0]
    k_TK = z_TK * attention.k_gain[0] + attention.k_shift[0]
    o_TV = mixed(attention, q_TK, k_TK, v_TV)
    if config.gates:
        _, r, u, inner = parts
        h_TD = silu(inner + (o_TV * silu(r)) @ attention.out.weight.T)
        x_TD = x_TD + u.sigmoid() * (h_TD - x_TD)
    else:
        x_TD = x_TD + silu(parts[1] + o_TV @ attention.out.weight.T)
    x_TD = after(layer.norms[0], x_TD)
    hidden = silu(before(layer.norms[1], x_TD) @ layer.feed_forward.up.weight.T)
    return after(layer.norms[1], x_TD + hidden @ layer.feed_forward.down.weight.T)


@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("arch", "settings"), SETTINGS)
def test_gated_hybrids_follow_their_equations(arch, settings, causal, make_model, tokens_BT):
    of_corpus = {} if causal else {"causal": False, "classes": 5, "pooling": "none"}
    model = make_model((arch, "whole"), **settings, **of_corpus)
    row = tokens_BT[0, :14]
    x_TD = model.embed.weight[row]
    for layer in model.layers:
        x_TD = layer_by_definition(layer, x_TD)
    result = []
    model.layers[-1].register_forward_hook(lambda module, args, out: result.append(out[0]))
    model(row[None])
    assert_close(result[0][0], x_TD, **EXACT)


@torch.no_grad()
@pytest.mark.parametrize("arch", ["longvq", "mega"])
def test_laplace_weights_of_a_new_model_are_near_those_of_scores_of_zero(arch):
    """f(0) is 0.0061; a key that weighs much more at first makes an output that grows with the context."""
    task = {"causal": False, "classes": 5, "pooling": "mean"}
    config = resolve(arch, "nano", 13, {"attention_function": "laplace"}, task)
    attention = build(config, seed=0).layers[0].attention
    z_BTK = torch.randn(1, 200, config.d_key, generator=torch.Generator().manual_seed(0))
    q_BHTK, k_BGTK = attention._queries_and_keys(z_BTK)
    ones = torch.ones(1, 1, 200, 1)
    summed = attention.mix(q_BHTK, k_BGTK, ones, Segment(None, None, None, 0), (), False, "auto")[0]
    assert 0.004 < (summed / 200).mean().item() < 0.02
