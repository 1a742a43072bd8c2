"""Causal VQ attention with Laplace weights: definition, gradients, carried state, cost."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vqkernels import BackendUnavailableError, laplace, resolve_backend

BACKENDS = ["naive", "blockwise"]
EXTRAS = {"plain": {}, "padding": {"padding": True}, "documents": {"documents": True}}
EXTRAS["both"] = {"padding": True, "documents": True}


@pytest.fixture
def laplace_case(random_case):
    def build(**sizes):
        case = random_case(**{"heads": 4, "kv_heads": 2, **sizes})
        return case.with_(options={**case.options, "function": "laplace"})

    return build


def _by_pairs(case):
    """The formula, token by token."""
    u, w, rel_key = (case.options[name] for name in ("bias_u_HK", "bias_w_HK", "rel_key_GMK"))
    batch, heads, length, _ = case.q.shape
    real = case.options.get("mask_BT", torch.ones(batch, length, dtype=torch.bool))
    document = case.options.get("doc_start_BT", torch.zeros(batch, length, dtype=torch.bool)).long().cumsum(1)
    out = torch.zeros(batch, heads, length, case.v.shape[3], dtype=case.v.dtype)
    for b in range(batch):
        for h in range(heads):
            g = h * case.k.shape[1] // heads
            for i in range(length):
                seen = [j for j in range(i + 1) if real[b, i] and real[b, j] and document[b, i] == document[b, j]]
                for j in seen:
                    score = (case.q[b, h, i] + u[h]) @ case.codebook[g, case.code[b, g, j]] / len(seen)
                    if i - j < rel_key.shape[1]:
                        score = score + (case.q[b, h, i] + w[h]) @ rel_key[g, i - j]
                    out[b, h, i] += laplace(score) * case.v[b, g, j]
    return out


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("extra", EXTRAS.values(), ids=EXTRAS.keys())
@pytest.mark.parametrize("distances", [0, 3, 4])
def test_laplace_any_case_equals_sum_over_pairs(backend, extra, distances, laplace_case):
    case = laplace_case(length=23, distances=distances, **extra)
    torch.testing.assert_close(case.run(backend)[0], _by_pairs(case), rtol=0, atol=1e-12)


@pytest.mark.parametrize("extra", EXTRAS.values(), ids=EXTRAS.keys())
@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize(("length", "block_length"), [(1, 4), (3, 4), (8, 4), (29, 4), (13, 1), (9, 16)])
def test_laplace_values_and_gradients_equal_naive(
    length, block_length, biases, extra, laplace_case, gradients, assert_same
):
    case = laplace_case(length=length, block_length=block_length, biases=biases, **extra)
    assert_same(gradients(case, "blockwise"), gradients(case, "naive"))


@pytest.mark.parametrize("extra", EXTRAS.values(), ids=EXTRAS.keys())
@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
def test_laplace_many_chunks_equal_naive(chunk, extra, laplace_case, gradients, assert_same, monkeypatch):
    monkeypatch.setattr("vqkernels.windows.attend.MOST_BLOCKS", chunk)
    for seed in range(2):
        case = laplace_case(length=38, seed=seed, **extra)
        assert_same(gradients(case, "blockwise"), gradients(case, "naive"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("extra", EXTRAS.values(), ids=EXTRAS.keys())
def test_laplace_segments_cut_at_every_place_equal_the_whole(backend, extra, laplace_case):
    case = laplace_case(length=22, **extra)
    whole, _ = case.run(backend)
    for cut in range(1, 22):
        first, state = case.part(0, cut).run(backend)
        second, _ = case.part(cut, 22).run(backend, state)
        torch.testing.assert_close(torch.cat([first, second], 2), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("extra", EXTRAS.values(), ids=EXTRAS.keys())
@pytest.mark.parametrize("chunk", [1, 16])
def test_laplace_token_by_token_equals_the_whole(chunk, extra, laplace_case, monkeypatch):
    monkeypatch.setattr("vqkernels.windows.attend.MOST_BLOCKS", chunk)
    case = laplace_case(length=27, **extra)
    whole, after = case.run("blockwise")
    state = None
    for i in range(27):
        out, state = case.part(i, i + 1).run("blockwise", state)
        torch.testing.assert_close(out[:, :, 0], whole[:, :, i], rtol=0, atol=1e-12)
    assert state.position == after.position
    assert torch.equal(state.count_BGS, after.count_BGS)


@pytest.mark.parametrize("extra", EXTRAS.values(), ids=EXTRAS.keys())
@pytest.mark.parametrize("cut", [3, 4, 9, 14])
@pytest.mark.parametrize("chunk", [1, 16])
def test_laplace_carried_state_gradients_equal_naive(
    chunk, cut, extra, laplace_case, gradients, assert_same, monkeypatch
):
    monkeypatch.setattr("vqkernels.windows.attend.MOST_BLOCKS", chunk)
    case = laplace_case(length=31, **extra)
    _, state = case.part(0, cut).run()
    found, expected = (gradients(case.part(cut, 31), backend, state) for backend in ("blockwise", "naive"))
    assert_same(found, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_laplace_padding_of_nan_changes_nothing_and_gets_no_gradient(backend, laplace_case, gradients, assert_same):
    case = laplace_case(padding=True, documents=True)
    case.options["mask_BT"][1] = False
    padding = ~case.options["mask_BT"][:, None, :, None]
    poisoned = case.with_(**{n: getattr(case, n).masked_fill(padding, float("nan")) for n in "qkv"})
    found = gradients(poisoned, backend)
    assert_same(found, gradients(case, backend), 0.0)
    for name in ("out", *"qkv"):
        assert not found[name].masked_select(padding).any()


def test_laplace_cost_is_linear_in_the_length(laplace_case, gradients):
    flops = []
    for length in (128, 256, 512):
        with FlopCounterMode(display=False) as counter:
            gradients(laplace_case(length=length), "blockwise")
        flops.append(counter.get_total_flops())
    assert flops[2] - flops[1] == 2 * (flops[1] - flops[0])


def test_laplace_bfloat16_is_near_float64(laplace_case):
    case = laplace_case(padding=True, length=64)
    named = {n: x.bfloat16() if torch.is_tensor(x) and x.is_floating_point() else x for n, x in case.options.items()}
    floats = {n: getattr(case, n).bfloat16() for n in ("q", "k", "v", "codebook")}
    found, expected = case.with_(**floats, options=named).run()[0], case.run()[0]
    assert found.dtype == torch.bfloat16
    assert (found.double() - expected).abs().max() < 0.06 * expected.abs().max()


def test_laplace_auto_takes_pytorch_on_every_device_and_triton_is_refused(laplace_case):
    assert resolve_backend("auto", "cuda", torch.float32, "laplace") == "blockwise"
    with pytest.raises(BackendUnavailableError, match="compute the softmax only, not Laplace weights"):
        laplace_case().run("triton")


def test_laplace_unknown_function_is_refused(random_case):
    case = random_case()
    with pytest.raises(ValueError, match="function: got 'relu'; it must be one of 'softmax', 'laplace'"):
        case.with_(options={**case.options, "function": "relu"}).run()
