import itertools

import pytest
import torch
from torch.testing import assert_close

from vqkernels import BackendUnavailableError
from vqscale.models import ModelState
from vqscale.models.base import document_age

EXACT = {"rtol": 1e-9, "atol": 1e-10}


def in_segments(model, tokens_BT, cuts, doc_start_BT=None):
    state, logits = None, []
    for begin, end in zip([0, *cuts], [*cuts, tokens_BT.shape[1]], strict=True):
        starts = None if doc_start_BT is None else doc_start_BT[:, begin:end]
        output = model(tokens_BT[:, begin:end], state=state, doc_start_BT=starts, return_state=True)
        state = output["state"]
        logits.append(output["logits"])
    return torch.cat(logits, dim=1)


def flags(tokens_BT, *places):
    result = torch.zeros_like(tokens_BT, dtype=torch.bool)
    for row, column in places:
        result[row, column] = True
    return result


def test_model_forward_gives_logits_in_float32_and_nothing_unasked(kind, make_model, tokens_BT):
    model = make_model(kind).float().eval()
    output = model(tokens_BT)
    assert output["logits"].shape == (2, 19, 13)
    assert output["logits"].dtype == torch.float32
    assert output["state"] is None
    assert output["code_stats"] == []
    assert output["commit"].shape == ()
    assert (output["commit"] > 0) == model.config.quantised


@pytest.mark.parametrize("cuts", [[1, 2], [7], [3, 5, 14], [4, 8, 12, 16]])
def test_model_cut_into_segments_with_state_equals_whole(kind, make_model, tokens_BT, cuts):
    model = make_model(kind, absolute_positions=True)
    assert_close(in_segments(model, tokens_BT, cuts), model(tokens_BT)["logits"], **EXACT)


def test_model_token_by_token_after_prefill_equals_whole(kind, make_model, tokens_BT):
    model = make_model(kind).eval()
    assert_close(in_segments(model, tokens_BT, list(range(6, 19))), model(tokens_BT)["logits"], **EXACT)


def test_model_state_saved_and_loaded_continues_alike(kind, make_model, tokens_BT, tmp_path):
    model = make_model(kind, absolute_positions=True)
    starts = flags(tokens_BT, (0, 3))
    state = model(tokens_BT[:, :9], doc_start_BT=starts[:, :9], return_state=True)["state"].detach()
    torch.save(state.to_tensors(), tmp_path / "state.pt")
    loaded = ModelState.from_tensors(torch.load(tmp_path / "state.pt", weights_only=True))
    expected = model(tokens_BT, doc_start_BT=starts)["logits"][:, 9:]
    assert not any(tensor.requires_grad for layer in state.layers for tensor in layer)
    assert_close(model(tokens_BT[:, 9:], state=loaded)["logits"], expected, **EXACT)


@pytest.mark.parametrize("kind", [("transformer_vq", "shga"), ("longvq", "whole"), ("longvq", "window")])
def test_linear_model_state_keeps_its_size(kind, make_model, tokens_BT):
    model = make_model(kind)
    sizes = []
    for length in (1, 5, 19):
        state = model(tokens_BT[:, :length], return_state=True)["state"]
        sizes.append([tensor.shape for layer in state.layers for tensor in layer])
    assert sizes[0] == sizes[1] == sizes[2]


def test_model_logits_depend_on_all_earlier_tokens_and_no_later_one(kind, make_model, tokens_BT):
    model = make_model(kind).eval()
    kept = []
    handle = model.embed.register_forward_hook(lambda module, args, out: kept.append(out))
    logits = model(tokens_BT)["logits"]
    handle.remove()
    for place in (0, 4, 11, 18):
        (gradient,) = torch.autograd.grad(logits[0, place].square().sum(), kept[0], retain_graph=True)
        size_T = gradient[0].abs().sum(-1)
        assert (size_T[: place + 1] > 0).all()
        # A recurrence by FFT rounds, so that later tokens leave a trace of that size.
        rounding = 1e-14 * size_T.max() if model.config.structured_memory in ("ema", "s4d") else 0.0
        assert (size_T[place + 1 :] <= rounding).all()
        assert (gradient[1] == 0).all()


def test_model_documents_in_one_row_equal_documents_alone(kind, make_model, tokens_BT):
    model = make_model(kind, absolute_positions=True).eval()
    starts = flags(tokens_BT, (0, 5), (0, 6), (0, 13), (1, 10))
    logits = model(tokens_BT, doc_start_BT=starts)["logits"]
    for row, borders in ((0, [0, 5, 6, 13, 19]), (1, [0, 10, 19])):
        alone = [model(tokens_BT[row : row + 1, a:b])["logits"] for a, b in itertools.pairwise(borders)]
        assert_close(logits[row : row + 1], torch.cat(alone, dim=1), **EXACT)


@pytest.mark.parametrize("cuts", [[3, 8], [5, 6], [12]])
def test_model_documents_across_segments_equal_whole(kind, make_model, tokens_BT, cuts):
    model = make_model(kind, absolute_positions=True)
    starts = flags(tokens_BT, (0, 5), (1, 12), (1, 13))
    expected = model(tokens_BT, doc_start_BT=starts)["logits"]
    assert_close(in_segments(model, tokens_BT, cuts, starts), expected, **EXACT)


def test_model_documents_that_begin_after_a_plain_segment_are_isolated(kind, make_model, tokens_BT):
    model = make_model(kind).eval()
    state = model(tokens_BT[:, :8], return_state=True)["state"]
    starts = flags(tokens_BT[:, 8:], (0, 0), (1, 3))
    logits = model(tokens_BT[:, 8:], state=state, doc_start_BT=starts)["logits"]
    assert_close(logits[:1], model(tokens_BT[:1, 8:])["logits"], **EXACT)
    assert_close(logits[1:, 3:], model(tokens_BT[1:, 11:])["logits"], **EXACT)


def test_model_padding_is_seen_by_nobody(kind, make_model, tokens_BT):
    model = make_model(kind)
    mask = torch.ones_like(tokens_BT, dtype=torch.bool)
    mask[0, 15:] = False
    mask[1, 6:9] = False
    other = torch.where(mask, tokens_BT, (tokens_BT + 3) % 13)
    one, two = model(tokens_BT, mask_BT=mask), model(other, mask_BT=mask)
    assert_close(one["logits"][mask], two["logits"][mask], rtol=0, atol=0)
    assert_close(one["commit"], two["commit"], rtol=0, atol=0)
    assert_close(one["code_stats"], two["code_stats"], rtol=0, atol=0)
    assert_close(one["logits"][:1, :15], model(tokens_BT[:1, :15])["logits"], **EXACT)
    assert one["logits"].isfinite().all()


def test_model_padding_stays_out_of_carried_state(kind, make_model, tokens_BT):
    model = make_model(kind)
    mask = torch.ones_like(tokens_BT, dtype=torch.bool)
    mask[1, 6:9] = False
    expected = model(tokens_BT, mask_BT=mask)["logits"]
    state = model(tokens_BT[:, :10], mask_BT=mask[:, :10], return_state=True)["state"]
    assert_close(model(tokens_BT[:, 10:], state=state)["logits"], expected[:, 10:], **EXACT)


def test_model_full_attention_equals_vq_attention_over_exact_codes(make_model, tokens_BT):
    """With one code for every key, and no key further than the bias reaches, quantisation changes nothing."""
    dims = {"n_layer": 1, "seed": 3}
    full = make_model(("transformer_full", "mqa"), **dims)
    vq = make_model(("transformer_vq", "mqa"), codebook_size=19, block_length=19, **dims)
    vq.load_state_dict(full.state_dict(), strict=False)
    row = tokens_BT[:1]
    attention = vq.layers[0].attentions[0]
    normed = vq.layers[0].norms[0](vq.embed(row))
    _, k, _, _ = attention._project(normed)
    attention.codebook.key_sum.copy_(k[0].detach())
    assert_close(vq(row)["logits"], full(row)["logits"], rtol=1e-5, atol=1e-6)


def test_full_attention_in_chunks_equals_whole_with_all_gradients(make_model, tokens_BT, monkeypatch):
    model = make_model(("transformer_full", "mha"))
    whole = model(tokens_BT)["logits"]
    expected = torch.autograd.grad(whole.square().sum(), list(model.parameters()))
    monkeypatch.setattr("vqscale.models.transformer_full.FULL_ATTENTION_CHUNK", 5)
    chunked = model(tokens_BT)["logits"]
    assert_close(chunked, whole, **EXACT)
    assert_close(torch.autograd.grad(chunked.square().sum(), list(model.parameters())), expected, **EXACT)


def test_vq_model_backends_agree_and_unavailable_one_is_refused(make_model, tokens_BT):
    model = make_model(("transformer_vq", "shga"))
    model.backend = "naive"
    naive = model(tokens_BT)["logits"]
    model.backend = "blockwise"
    assert_close(model(tokens_BT)["logits"], naive, **EXACT)
    model.backend = "triton"
    with pytest.raises(BackendUnavailableError):
        model(tokens_BT)


def test_model_in_bfloat16_gives_float32_logits_near_float32(kind, make_model, tokens_BT):
    model = make_model(kind, n_layer=1).float().eval()
    expected = model(tokens_BT)["logits"]
    with torch.autocast("cpu", torch.bfloat16):
        autocast = model(tokens_BT)["logits"]
    cast = model.bfloat16()(tokens_BT)["logits"]
    for logits in (autocast, cast):
        assert logits.dtype == torch.float32
        # A rounded key may take another code; most do not.
        assert (logits - expected).abs().median() < 0.03 * expected.std()


def test_document_age_counts_from_the_last_start():
    starts = torch.tensor([[0, 0, 1, 0, 1], [0, 0, 0, 0, 0]], dtype=torch.bool)
    age = document_age(starts, torch.tensor([7, 2]), 5)
    assert age.tolist() == [[7, 8, 0, 1, 0], [2, 3, 4, 5, 6]]
