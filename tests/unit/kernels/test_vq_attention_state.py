"""A sequence cut anywhere, or taken token by token, gives what it gives in one piece."""

import io

import pytest
import torch

from vqkernels import VQState, vq_attention_decode

BACKENDS = ["naive", "blockwise"]
EXTRAS = {"plain": {}, "documents and padding": {"documents": True, "padding": True}}


def _in_parts(case, cuts, backend):
    outs, state = [], None
    for start, stop in zip([0, *cuts], [*cuts, case.q.shape[2]], strict=True):
        out, state = case.part(start, stop).run(backend, state)
        outs.append(out)
    return torch.cat(outs, dim=2), state


def _same_state(found, expected):
    assert found.position == expected.position
    assert torch.equal(found.code_BGU, expected.code_BGU)
    assert torch.equal(found.count_BGS, expected.count_BGS)
    torch.testing.assert_close(found.mean_BGSV, expected.mean_BGSV, rtol=0, atol=1e-12)
    filled = (found.code_BGU >= 0)[..., None]
    torch.testing.assert_close(found.value_BGUV * filled, expected.value_BGUV * filled, rtol=0, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("extra", EXTRAS.values(), ids=EXTRAS.keys())
def test_segments_cut_at_every_place_equal_the_whole(backend, extra, random_case):
    case = random_case(length=22, heads=4, kv_heads=2, **extra)
    whole, after = case.run(backend)
    for cut in range(1, 22):
        out, state = _in_parts(case, [cut], backend)
        torch.testing.assert_close(out, whole, rtol=0, atol=1e-12)
        _same_state(state, after)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("extra", EXTRAS.values(), ids=EXTRAS.keys())
@pytest.mark.parametrize("cuts", [[4, 8, 12, 16, 20], [3, 4, 5, 21], [1, 2, 10, 13, 28], list(range(1, 29))])
def test_segments_many_cuts_equal_the_whole(backend, extra, cuts, random_case):
    case = random_case(length=29, **extra)
    whole, after = case.run(backend)
    out, state = _in_parts(case, cuts, backend)
    torch.testing.assert_close(out, whole, rtol=0, atol=1e-12)
    _same_state(state, after)


@pytest.mark.parametrize("extra", EXTRAS.values(), ids=EXTRAS.keys())
def test_decode_every_position_equals_prefill(extra, random_case):
    case = random_case(length=27, heads=4, kv_heads=2, **extra)
    whole, after = case.run("naive")
    options = {name: case.options[name] for name in ("bias_u_HK", "bias_w_HK", "rel_key_GMK")}
    state = VQState.empty(2, 2, 6, 5, 7, case.block_length, dtype=torch.float64)
    for i in range(27):
        out, state = vq_attention_decode(
            *(x[:, :, i] for x in (case.q, case.k, case.v, case.code)),
            case.codebook,
            state,
            **options,
            mask_B=case.options["mask_BT"][:, i] if extra else None,
            doc_start_B=case.options["doc_start_BT"][:, i] if extra else None,
        )
        torch.testing.assert_close(out, whole[:, :, i], rtol=0, atol=1e-12)
    _same_state(state, after)


def test_decode_after_prefill_without_biases_continues_it(random_case):
    case = random_case(length=19, biases=False)
    whole, _ = case.run()
    _, state = case.part(0, 13).run()
    for i in range(13, 19):
        tokens = (x[:, :, i] for x in (case.q, case.k, case.v, case.code))
        out, state = vq_attention_decode(*tokens, case.codebook, state)
        torch.testing.assert_close(out, whole[:, :, i], rtol=0, atol=1e-12)


@pytest.mark.parametrize("extra", EXTRAS.values(), ids=EXTRAS.keys())
@pytest.mark.parametrize("cut", [3, 4, 9, 14])
def test_blockwise_carried_state_gradients_equal_naive(cut, extra, random_case, gradients, assert_same):
    case = random_case(length=31, heads=4, kv_heads=2, **extra)
    _, state = case.part(0, cut).run()
    rest = case.part(cut, 31)
    assert_same(gradients(rest, "blockwise", state), gradients(rest, "naive", state))


@pytest.mark.parametrize("backend", BACKENDS)
def test_segments_attached_state_gives_the_gradients_of_the_whole(backend, random_case, assert_same):
    case, leaf = random_case(length=30, documents=True, padding=True).leaves()
    probe = torch.randn(case.q.shape[:3] + case.v.shape[3:], dtype=torch.float64, generator=torch.Generator())
    names = [name for name in leaf if name != "k"]  # carried keys are codes
    wanted = torch.autograd.grad(case.run(backend)[0], [leaf[n] for n in names], probe)
    found = torch.autograd.grad(_in_parts(case, [7, 16, 22], backend)[0], [leaf[n] for n in names], probe)
    assert_same(dict(zip(names, found, strict=True)), dict(zip(names, wanted, strict=True)))


def test_state_detached_passes_no_gradient(random_case):
    case, _ = random_case().leaves()
    _, state = case.run()
    assert state.mean_BGSV.requires_grad
    assert state.value_BGUV.requires_grad
    assert not any(part.requires_grad for part in state.detach()[:4])


def test_state_size_does_not_grow_with_the_sequence(random_case):
    case = random_case(length=200)
    sizes = {case.part(0, length).run()[1].nbytes for length in (1, 7, 60, 200)}
    empty = VQState.empty(2, 1, 6, 5, 7, case.block_length, dtype=torch.float64)
    assert sizes == {empty.nbytes}


def test_state_saved_and_loaded_is_the_same(random_case):
    _, state = random_case().run()
    file = io.BytesIO()
    torch.save(state.to_tensors(), file)
    file.seek(0)
    loaded = VQState.from_tensors(torch.load(file, weights_only=True))
    assert loaded.position == state.position
    assert all(torch.equal(a, b) for a, b in zip(loaded[:4], state[:4], strict=True))


def test_state_from_other_tensors_raises():
    with pytest.raises(ValueError, match="state tensors"):
        VQState.from_tensors({"code": torch.zeros(1)})


def test_state_empty_continues_as_no_state(random_case):
    case = random_case()
    empty = VQState.empty(2, 1, 6, 5, 7, case.block_length, dtype=torch.float64)
    torch.testing.assert_close(case.run("blockwise", empty)[0], case.run()[0], rtol=0, atol=1e-13)


def test_state_of_bfloat16_keeps_its_cache_in_float32(random_case):
    case = random_case(length=40).to(torch.bfloat16)
    _, state = case.run()
    assert state.value_BGUV.dtype == torch.bfloat16
    assert state.mean_BGSV.dtype == state.count_BGS.dtype == torch.float32
