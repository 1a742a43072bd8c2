"""Models that read to both sides, against attention written out pair by pair."""

import pytest
import torch
from torch.testing import assert_close

from vqkernels import BackendUnavailableError, CodeStatistics, nearest_code
from vqscale.models.transformer import rotate
from vqscale.models.transformer_full import FullAttention
from vqscale.models.transformer_vq import VQAttention, attention_backend

EXACT = {"rtol": 1e-9, "atol": 1e-10}
BOTH_WAYS = {"causal": False, "classes": 13, "pooling": "none"}


def read(model, tokens_BT, mask_BT=None):
    """What the last layer gives: heads differ between language models and classifiers."""
    kept = []
    handle = model.layers[-1].register_forward_hook(lambda module, args, out: kept.append(out[0]))
    model(tokens_BT, mask_BT=mask_BT)
    handle.remove()
    return kept[0]


def relative_pairs(attention, k_BGTK, code_BGT=None):
    """Key and relative key of every pair [B, G, T, T, K]: distances up to one block where keys have codes."""
    length = k_BGTK.shape[2]
    place = torch.arange(length)
    distance_TU = place[:, None] - place
    reach = length if code_BGT is None else attention.block_length
    rel_MK = attention.relative_keys(reach, k_BGTK)
    rel_TUK = rel_MK[:, distance_TU.clamp(-reach, reach) + reach]
    rel_TUK = rel_TUK * (distance_TU.abs() <= reach)[..., None]
    keys = k_BGTK[:, :, None].expand(-1, -1, length, -1, -1)
    if code_BGT is not None:
        block = place // attention.block_length
        far_TU = (block[:, None] - block).abs() > 1
        book_GSK = attention.codebook.codebook.to(k_BGTK.dtype)
        coded = torch.stack([book_GSK[g][code_BGT[:, g].clamp(min=0)] for g in range(len(book_GSK))], dim=1)
        keys = torch.where(far_TU[..., None], coded[:, :, None], keys)
    return keys, rel_TUK


def mix_by_definition(attention, q_BHTK, k_BGTK, v_BGTV, u_HK, w_HK, segment, code_BGT=None):
    keys_BGTUK, rel_GTUK = relative_pairs(attention, k_BGTK, code_BGT)
    repeats = q_BHTK.shape[1] // k_BGTK.shape[1]
    keys_BHTUK, rel_HTUK = keys_BGTUK.repeat_interleave(repeats, 1), rel_GTUK.repeat_interleave(repeats, 0)
    score = torch.einsum("bhtk,bhtuk->bhtu", q_BHTK + u_HK[:, None], keys_BHTUK)
    score = score + torch.einsum("bhtk,htuk->bhtu", q_BHTK + w_HK[:, None], rel_HTUK)
    if segment.mask is not None:
        score = score.masked_fill(~segment.mask[:, None, None], -1e9)
    return score.softmax(-1) @ v_BGTV.repeat_interleave(repeats, 1)


def padded(tokens_BT):
    mask = torch.ones_like(tokens_BT, dtype=torch.bool)
    mask[0, 15:] = False
    mask[1, 3:] = False
    return mask


@pytest.fixture
def both_ways(kind, make_model):
    return make_model(kind, **BOTH_WAYS).eval()


def with_gradients(model, tokens_BT, mask_BT):
    """What the last layer says of real tokens, and the gradients of all layers."""
    out = read(model, tokens_BT, mask_BT)
    out = out if mask_BT is None else out[mask_BT]
    return out, torch.autograd.grad(out.square().sum(), list(model.layers.parameters()))


@pytest.mark.parametrize("with_padding", [False, True])
@pytest.mark.parametrize("head", ["shga", "mqa", "mha"])
def test_full_attention_both_ways_equals_its_definition(head, with_padding, make_model, tokens_BT, monkeypatch):
    model = make_model(("transformer_full", head), **BOTH_WAYS)
    mask = padded(tokens_BT) if with_padding else None
    whole = with_gradients(model, tokens_BT, mask)
    monkeypatch.setattr("vqscale.models.transformer_full.FULL_ATTENTION_CHUNK", 5)
    chunked = with_gradients(model, tokens_BT, mask)

    def mix(self, q, k, v, segment, state, return_state, backend):
        u, w = self.bias_u * self.scale, self.bias_w * self.scale
        return mix_by_definition(self, q, k, v, u, w, segment), q.new_zeros(()), (), ()

    monkeypatch.setattr(FullAttention, "mix", mix)
    expected = with_gradients(model, tokens_BT, mask)
    assert_close(whole, expected, **EXACT)
    assert_close(chunked, expected, **EXACT)


@pytest.mark.parametrize("with_padding", [False, True])
@pytest.mark.parametrize("head", ["shga", "mqa", "mha"])
def test_vq_attention_both_ways_equals_its_definition(head, with_padding, make_model, tokens_BT, monkeypatch):
    """Un-quantised keys in the own and both neighbouring blocks, codes beyond, which give keys no gradient."""
    model = make_model(("transformer_vq", head), **BOTH_WAYS).eval()
    mask = padded(tokens_BT) if with_padding else None
    result = with_gradients(model, tokens_BT, mask)

    def mix(self, q, k, v, segment, state, return_state, backend):
        u, w = self.bias_u * self.scale, self.bias_w * self.scale
        code_BGT = nearest_code(k, self.codebook.codebook, segment.mask)
        return mix_by_definition(self, q, k, v, u, w, segment, code_BGT), q.new_zeros(()), (), ()

    monkeypatch.setattr(VQAttention, "mix", mix)
    assert_close(result, with_gradients(model, tokens_BT, mask), **EXACT)


def test_vq_model_both_ways_counts_codes_of_real_tokens_alone(make_model, tokens_BT):
    model = make_model(("transformer_vq", "mha"), **BOTH_WAYS)
    mask = padded(tokens_BT)
    for statistics in model(tokens_BT, mask_BT=mask)["code_stats"]:
        assert_close(CodeStatistics(*statistics).count_GS.sum(-1), torch.full((2,), float(mask.sum())))


def test_vq_model_both_ways_runs_in_pytorch_alone(make_model):
    config = make_model(("transformer_vq", "shga"), **BOTH_WAYS).config
    assert [attention_backend(config, name, "cuda") for name in ("auto", "naive")] == ["blockwise", "naive"]
    with pytest.raises(BackendUnavailableError, match="causal"):
        attention_backend(config, "triton", "cuda")
    assert attention_backend(make_model(("transformer", None)).config, "auto", "cpu") is None


@torch.no_grad()
def test_transformer_both_ways_equals_its_definition(make_model, tokens_BT):
    model = make_model(("transformer", None), n_layer=1, **BOTH_WAYS)
    mask = padded(tokens_BT)
    layer, config = model.layers[0], model.config
    x_BTD = model.embed(tokens_BT)
    q, k, v = layer.attention.qkv(layer.attention_norm(x_BTD)).split(layer.attention.widths, dim=-1)
    q, k, v = (part.unflatten(-1, (config.n_head, -1)).transpose(1, 2) for part in (q, k, v))
    q, k = (rotate(part, 0, config.position_base) for part in (q, k))
    score = (q @ k.transpose(-1, -2) * config.d_key**-0.5).masked_fill(~mask[:, None, None], -1e9)
    x_BTD = x_BTD + layer.attention.out((score.softmax(-1) @ v).transpose(1, 2).flatten(2))
    x_BTD = x_BTD + layer.feed_forward(layer.feed_forward_norm(x_BTD))
    assert_close(read(model, tokens_BT, mask)[mask], x_BTD[mask], **EXACT)


def test_model_both_ways_depends_on_every_token_of_its_row(both_ways, tokens_BT):
    kept = []
    handle = both_ways.embed.register_forward_hook(lambda module, args, out: kept.append(out))
    out = read(both_ways, tokens_BT)
    handle.remove()
    for place in (0, 9, 18):
        (gradient,) = torch.autograd.grad(out[0, place].square().sum(), kept[0], retain_graph=True)
        assert (gradient[0].abs().sum(-1) > 0).all()
        assert (gradient[1] == 0).all()


def test_model_both_ways_sees_no_padding(both_ways, tokens_BT):
    mask = padded(tokens_BT)
    other = torch.where(mask, tokens_BT, (tokens_BT + 3) % 13)
    one, two = (read(both_ways, tokens, mask) for tokens in (tokens_BT, other))
    assert_close(one[mask], two[mask], rtol=0, atol=0)
    assert one.isfinite().all()


def test_model_both_ways_gives_the_same_however_long_the_padding(both_ways, tokens_BT):
    row = tokens_BT[:1, :7]
    alone = read(both_ways, row)
    for length in (8, 12, 19):
        longer = tokens_BT[1:, :length].clone()
        longer[:, :7] = row
        mask = torch.arange(length)[None] < 7
        assert_close(read(both_ways, longer, mask)[:, :7], alone, **EXACT)


def test_model_both_ways_of_one_token_is_finite(both_ways, tokens_BT):
    assert read(both_ways, tokens_BT[:, :1]).isfinite().all()


def test_model_both_ways_refuses_a_state_and_documents(both_ways, make_model, kind, tokens_BT):
    state = make_model(kind)(tokens_BT, return_state=True)["state"]
    starts = torch.zeros_like(tokens_BT, dtype=torch.bool)
    for asked in ({"return_state": True}, {"state": state}):
        with pytest.raises(ValueError, match=r"not causal.*causal: true"):
            both_ways(tokens_BT, **asked)
    with pytest.raises(ValueError, match=r"not causal.*row of its own"):
        both_ways(tokens_BT, doc_start_BT=starts)
