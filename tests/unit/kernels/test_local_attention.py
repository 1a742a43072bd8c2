"""Local attention: definition, gradients, padding, documents, carried state, cost."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vqkernels import LocalState, laplace, local_attention

FLAGS = {"plain": (), "padding": ("mask_BT",), "documents": ("doc_start_BT",), "both": ("mask_BT", "doc_start_BT")}


def _inputs(length=23, block_length=4, causal=True, heads=4, d_key=5, d_value=7, flags=(), positions=True, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    floats = {
        "q": normal(2, heads, length, d_key),
        "k": normal(2, 2, length, d_key),
        "v": normal(2, 2, length, d_value),
    }
    if positions:
        floats |= {"bias_u_HK": normal(heads, d_key), "bias_w_HK": normal(heads, d_key)}
        floats["rel_key_GMK"] = normal(2, block_length + 1 if causal else 2 * block_length + 1, d_key)
    drawn = {"mask_BT": torch.rand(2, length, generator=generator) > 0.3}
    drawn["doc_start_BT"] = torch.rand(2, length, generator=generator) < 0.15
    return floats, {"block_length": block_length, "causal": causal, **{name: drawn[name] for name in flags}}


def _run(floats, options, backend="auto"):
    """Output and gradients of a fixed random projection of it."""
    leaf = {name: x.detach().clone().requires_grad_() for name, x in floats.items()}
    named = {name: x for name, x in leaf.items() if name not in "qkv"}
    out, _ = local_attention(leaf["q"], leaf["k"], leaf["v"], **named, **options, backend=backend)
    probe = torch.randn(out.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(out.dtype)
    return {"out": out.detach(), **dict(zip(leaf, torch.autograd.grad(out, list(leaf.values()), probe), strict=True))}


def _by_pairs(floats, block_length, causal, mask_BT=None, doc_start_BT=None, function="softmax", reach=None):
    """The formula, token by token."""
    q, k, v = (floats[name] for name in "qkv")
    rel_key = floats["rel_key_GMK"]
    batch, heads, length, _ = q.shape
    real = torch.ones(batch, length, dtype=torch.bool) if mask_BT is None else mask_BT
    document = torch.zeros(batch, length) if doc_start_BT is None else doc_start_BT.long().cumsum(1)
    out = torch.zeros(batch, heads, length, v.shape[3], dtype=q.dtype)
    nearest = 0 if causal else -(rel_key.shape[1] // 2)
    for b in range(batch):
        for h in range(heads):
            g = h * k.shape[1] // heads
            for i in range(length):
                first = (i // block_length - 1) * block_length
                last = i if causal else (i // block_length + 2) * block_length - 1
                seen = [j for j in range(max(first, 0), min(last, length - 1) + 1) if real[b, i] and real[b, j]]
                seen = [j for j in seen if document[b, i] == document[b, j] and (not reach or abs(i - j) < reach)]
                if not seen:
                    continue
                score = torch.stack([(q[b, h, i] + floats["bias_u_HK"][h]) @ k[b, g, j] for j in seen])
                score = score / len(seen) if function == "laplace" else score
                for n, j in enumerate(seen):
                    if 0 <= i - j - nearest < rel_key.shape[1]:
                        score[n] += (q[b, h, i] + floats["bias_w_HK"][h]) @ rel_key[g, i - j - nearest]
                weight = laplace(score) if function == "laplace" else score.softmax(0)
                out[b, h, i] = weight @ v[b, g, seen]
    return out


@pytest.mark.parametrize("backend", ["naive", "blockwise"])
@pytest.mark.parametrize("function", ["softmax", "laplace"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("flags", "reach"), [((), None), (("mask_BT", "doc_start_BT"), 3)])
def test_local_attention_any_case_equals_sum_over_pairs(backend, function, causal, flags, reach):
    floats, options = _inputs(length=18, causal=causal, flags=flags)
    options |= {"function": function, "reach": reach}
    expected = _by_pairs(floats, **options)
    torch.testing.assert_close(_run(floats, options, backend)["out"], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS.keys())
@pytest.mark.parametrize("function", ["softmax", "laplace"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("length", "block_length"), [(1, 4), (3, 4), (4, 4), (8, 4), (23, 4), (23, 1), (23, 5), (9, 16)]
)
def test_local_attention_values_and_gradients_equal_naive(length, block_length, causal, function, flags, assert_same):
    floats, options = _inputs(length, block_length, causal, flags=flags)
    options["function"] = function
    assert_same(_run(floats, options), _run(floats, options, "naive"))


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS.keys())
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("d_value", [5, 7])  # as wide as the keys, or not: PyTorch's attention chooses another way
@pytest.mark.parametrize("reach", [None, 1, 5])
def test_local_attention_without_positions_equals_naive(reach, d_value, causal, flags, assert_same):
    floats, options = _inputs(causal=causal, d_value=d_value, flags=flags, positions=False)
    options["reach"] = reach
    assert_same(_run(floats, options), _run(floats, options, "naive"))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("reach", [1, 3, 5])
def test_local_attention_with_reach_does_not_depend_on_the_block_length(reach, causal, assert_same):
    floats, options = _inputs(causal=causal)
    options["reach"] = reach
    assert_same(_run(floats, options), _run(floats, {**options, "block_length": 7}))


@pytest.mark.parametrize("function", ["softmax", "laplace"])
@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_local_attention_many_chunks_equal_one(causal, positions, function, monkeypatch, assert_same):
    floats, options = _inputs(length=37, causal=causal, flags=FLAGS["both"], positions=positions)
    options["function"] = function
    whole = _run(floats, options)
    monkeypatch.setattr("vqkernels.windows.attend.MOST_BLOCKS", 2)
    assert_same(_run(floats, options), whole)


@pytest.mark.parametrize("function", ["softmax", "laplace"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("positions", [True, False])
def test_local_attention_padding_of_nan_changes_nothing_and_gets_no_gradient(positions, causal, function, assert_same):
    floats, options = _inputs(causal=causal, d_value=5, flags=("mask_BT",), positions=positions)
    options["mask_BT"][1] = False
    options["function"] = function
    padding = ~options["mask_BT"][:, None, :, None]
    expected = _run(floats, options)
    poisoned = {**floats, **{name: floats[name].masked_fill(padding, float("nan")) for name in "qkv"}}
    found = _run(poisoned, options)
    assert_same(found, expected, 0.0)
    for name in ("out", *"qkv"):
        assert not found[name].masked_select(padding).any()


def _part(floats, options, start, stop):
    cut = {name: x[:, :, start:stop] if name in "qkv" else x for name, x in floats.items()}
    flags = {name: x[:, start:stop] for name, x in options.items() if name in ("mask_BT", "doc_start_BT")}
    return cut, {**options, **flags}


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS.keys())
@pytest.mark.parametrize("function", ["softmax", "laplace"])
@pytest.mark.parametrize("cuts", [[4, 8, 12], [3, 4, 5, 21], [1, 2, 10, 13], list(range(1, 23))])
@pytest.mark.parametrize(("positions", "reach"), [(True, None), (False, 5)])
def test_local_attention_segments_equal_the_whole(cuts, function, flags, positions, reach):
    floats, options = _inputs(flags=flags, positions=positions)
    options |= {"function": function, "reach": reach}
    whole, after = _call(floats, options, None)
    outs, state = [], None
    for start, stop in zip([0, *cuts], [*cuts, 23], strict=True):
        out, state = _call(*_part(floats, options, start, stop), state)
        outs.append(out)
    torch.testing.assert_close(torch.cat(outs, 2), whole, rtol=0, atol=1e-12)
    assert state.position == after.position
    assert torch.equal(state.real_BU, after.real_BU)
    real = state.real_BU[:, None, :, None]
    for found, expected in zip(state[:2], after[:2], strict=True):
        assert torch.equal(found * real, expected * real)


def _call(floats, options, state, backend="auto"):
    named = {name: x for name, x in floats.items() if name not in "qkv"}
    given = {**options, **named, "state": state, "return_state": True, "backend": backend}
    return local_attention(floats["q"], floats["k"], floats["v"], **given)


@pytest.mark.parametrize("cut", [3, 4, 9])
def test_local_attention_carried_state_passes_gradients(cut):
    floats, options = _inputs(flags=FLAGS["both"])
    expected = _run(floats, options)
    leaf = {name: x.clone().requires_grad_() for name, x in floats.items()}
    first, state = _call(*_part(leaf, options, 0, cut), None)
    second, _ = _call(*_part(leaf, options, cut, 23), state)
    out = torch.cat([first, second], 2)
    probe = torch.randn(out.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    for name, found in zip(leaf, torch.autograd.grad(out, list(leaf.values()), probe), strict=True):
        torch.testing.assert_close(found, expected[name], rtol=0, atol=1e-11)


def test_local_attention_from_an_empty_state_equals_no_state():
    floats, options = _inputs()
    state = LocalState.empty(2, 2, 5, 7, 4, dtype=torch.float64)
    assert torch.allclose(_call(floats, options, state)[0], _call(floats, options, None)[0], rtol=0, atol=1e-13)
    assert state.lead == 4
    assert state.nbytes == 2 * 2 * 8 * (5 + 7) * 8 + 2 * 8


def test_local_attention_state_has_the_same_size_at_any_position():
    sizes = set()
    for length in (1, 5, 40):
        floats, options = _inputs(length)
        sizes.add(_call(floats, options, None)[1].nbytes)
    assert len(sizes) == 1


@pytest.mark.parametrize("causal", [True, False])
def test_local_attention_cost_is_linear_in_the_length(causal):
    flops = []
    for length in (128, 256, 512):
        floats, options = _inputs(length, causal=causal)
        with FlopCounterMode(display=False) as counter:
            _run(floats, options)
        flops.append(counter.get_total_flops())
    first, second = flops[1] - flops[0], flops[2] - flops[1]
    assert 1.9 * first <= second <= 2.1 * first


@pytest.mark.parametrize("function", ["softmax", "laplace"])
@pytest.mark.parametrize("causal", [True, False])
def test_local_attention_bfloat16_is_near_float64(causal, function):
    floats, options = _inputs(causal=causal, flags=("mask_BT",))
    options["function"] = function
    expected = _run(floats, options)["out"]
    found = _run({name: x.bfloat16() for name, x in floats.items()}, options)["out"]
    assert found.dtype == torch.bfloat16
    assert (found.double() - expected).abs().max() < 0.06 * expected.abs().max()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"function": "relu"}, "function: got 'relu'"),
        ({"backend": "triton"}, "backend: got 'triton'"),
        ({"reach": 6}, "reach: got 6 with block_length 4"),
        ({"reach": 0}, "reach: got 0"),
        ({"causal": False, "return_state": True, "rel_key_GMK": None}, "state: got causal=False"),
        ({"causal": False}, r"rel_key: got distances up to|rel_key: got shape"),
        ({"block_length": 3}, "rel_key: got distances up to 4 for block_length 3"),
        ({"state": LocalState.empty(2, 2, 5, 7, 3)}, "block_length: got 4 with a state of 3"),
        ({"state": LocalState.empty(2, 2, 6, 7, 4)}, "state keys: got shape"),
    ],
)
def test_local_attention_arguments_that_do_not_fit_are_refused(changes, message):
    floats, options = _inputs()
    floats["rel_key_GMK"] = floats["rel_key_GMK"] if "causal" not in changes else torch.zeros(2, 12, 5).double()
    given = {**options, **{name: x for name, x in floats.items() if name not in "qkv"}, **changes}
    with pytest.raises(ValueError, match=message):
        local_attention(floats["q"], floats["k"], floats["v"], **given)


def test_laplace_meets_squared_relu_in_value_and_slope():
    x = torch.tensor(0.5**0.5, dtype=torch.float64, requires_grad=True)
    value = laplace(x)
    assert value.item() == pytest.approx(0.5, abs=1e-6)
    assert torch.autograd.grad(value, x)[0].item() == pytest.approx(2 * 0.5**0.5, abs=2e-6)
    assert laplace(torch.tensor(0.0)).item() == pytest.approx(0.0061, abs=1e-4)
