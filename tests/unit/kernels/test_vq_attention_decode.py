"""Decode in PyTorch: in place it equals the whole sequence, and as a function it has the gradients of one token."""

import pytest
import torch

from vqkernels import BackendUnavailableError, DecodeState, VQState, decode_step, vq_attention_decode

BIASES = ("bias_u_HK", "bias_w_HK", "rel_key_GMK")


def _tokens(case, i, names=("q", "v", "code")):
    return [getattr(case, name)[:, :, i] for name in names]


def _options(case, i):
    flags = {"mask_B": case.options.get("mask_BT"), "doc_start_B": case.options.get("doc_start_BT")}
    return {
        **{name: case.options[name] for name in BIASES if name in case.options},
        **{name: flag[:, i] for name, flag in flags.items() if flag is not None},
    }


@pytest.mark.parametrize("extra", [{}, {"documents": True, "padding": True}], ids=["plain", "documents and padding"])
@pytest.mark.parametrize("start", [0, 3, 4, 9, 14])
def test_decode_step_from_any_position_equals_the_whole(start, extra, random_case):
    case = random_case(length=27, heads=4, kv_heads=2, **extra)
    whole, after = case.run("naive")
    before = case.part(0, start).run()[1] if start else VQState.empty(2, 2, 6, 5, 7, 4, dtype=torch.float64)
    kept = [part.clone() for part in before[:4]]
    state = DecodeState.from_state(before)
    for i in range(start, 27):
        out = decode_step(*_tokens(case, i), case.codebook, state, **_options(case, i))
        torch.testing.assert_close(out, whole[:, :, i], rtol=0, atol=1e-12)
    found = state.to_state()
    assert found.position == after.position
    assert torch.equal(found.code_BGU, after.code_BGU)
    assert torch.equal(found.count_BGS, after.count_BGS)
    torch.testing.assert_close(found.mean_BGSV, after.mean_BGSV, rtol=0, atol=1e-12)
    assert all(torch.equal(a, b) for a, b in zip(before[:4], kept, strict=True))


@pytest.mark.parametrize("position", [0, 3, 7, 9, 12])
def test_decode_gradients_equal_those_of_one_token_of_attention(position, random_case, assert_same):
    case = random_case(length=position + 1, heads=4, kv_heads=2)
    state = case.part(0, position).run()[1] if position else VQState.empty(2, 2, 6, 5, 7, 4, dtype=torch.float64)

    def gradients(function):
        last, leaf = case.part(position, position + 1).leaves()
        value, mean = (x.detach().clone().requires_grad_() for x in (state.value_BGUV, state.mean_BGSV))
        leaf = {**leaf, "state value": value, "state mean": mean}
        out = function(last, state._replace(value_BGUV=value, mean_BGSV=mean))
        found = torch.autograd.grad(out.square().sum(), list(leaf.values()), allow_unused=True)
        return {name: grad for name, grad in zip(leaf, found, strict=True) if grad is not None}

    def decoded(last, before):
        names = ("q", "k", "v", "code")
        return vq_attention_decode(*_tokens(last, 0, names), last.codebook, before, **_options(last, 0))[0]

    assert_same(gradients(decoded), gradients(lambda last, before: last.run("naive", before)[0]))


def test_decode_step_of_bfloat16_is_near_float32(random_case):
    case = random_case(length=41, dtype=torch.float32)
    whole, _ = case.run("naive")
    narrow = case.to(torch.bfloat16)
    state = DecodeState.from_state(narrow.part(0, 40).run()[1])
    out = decode_step(*_tokens(narrow, 40), narrow.codebook, state, **_options(narrow, 40))
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), whole[:, :, 40], rtol=0, atol=0.05)


def test_decode_state_does_not_grow():
    state = DecodeState.from_state(VQState.empty(1, 1, 6, 5, 7, 4))
    before = state.nbytes
    for _ in range(40):
        decode_step(torch.zeros(1, 1, 5), torch.zeros(1, 1, 7), torch.zeros(1, 1).long(), torch.zeros(1, 6, 5), state)
    assert state.nbytes == before
    assert state.position.item() == 40


@pytest.mark.parametrize(
    ("message", "change"),
    {
        "v: got shape": {"v_BGV": torch.zeros(1, 1, 7)},
        "state window": {"v_BGV": torch.zeros(2, 1, 9)},
        "mask: got dtype": {"mask_B": torch.ones(2)},
        "backend: got 'naive'": {"backend": "naive"},
    }.items(),
)
def test_decode_step_wrong_argument_raises(message, change, random_case):
    case = random_case()
    state = DecodeState.from_state(case.run()[1])
    q, v, code = _tokens(case, 0)
    arguments = {"q_BHK": q, "v_BGV": v, "code_BG": code, "codebook_GSK": case.codebook, **change}
    with pytest.raises(ValueError, match=f"^{message}"):
        decode_step(**arguments, state=state)


def test_decode_step_triton_that_cannot_run_raises(random_case, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    case = random_case(dtype=torch.float32)
    state = DecodeState.from_state(case.run()[1])
    with pytest.raises(BackendUnavailableError, match="backend: got 'triton'"):
        decode_step(*_tokens(case, 0), case.codebook, state, backend="triton")
