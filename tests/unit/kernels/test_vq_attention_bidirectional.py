"""VQ attention in both directions: definition, gradients, padding, memories, cost."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from vqkernels import laplace, nearest_code, vq_attention_bidirectional


def _inputs(length=29, block_length=4, heads=4, d_key=5, size=6, padding=False, positions=True, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    floats = {"q": normal(2, heads, length, d_key), "k": normal(2, 2, length, d_key), "v": normal(2, 2, length, 7)}
    if positions:
        floats |= {"bias_u_HK": normal(heads, d_key), "bias_w_HK": normal(heads, d_key)}
        floats["rel_key_GMK"] = normal(2, 2 * block_length + 1, d_key)
    options = {"block_length": block_length, "codebook_GSK": normal(2, size, d_key)}
    mask = torch.rand(2, length, generator=generator) > 0.3
    if padding:
        options["mask_BT"] = mask
    options["code_BGT"] = nearest_code(floats["k"], options["codebook_GSK"], options.get("mask_BT"))
    return floats, options


def _call(floats, options, backend="auto"):
    named = {name: x for name, x in floats.items() if name not in "qkv"}
    return vq_attention_bidirectional(floats["q"], floats["k"], floats["v"], **named, **options, backend=backend)


def _run(floats, options, backend="auto"):
    """Output and gradients of a fixed random projection of it."""
    leaf = {name: x.detach().clone().requires_grad_() for name, x in floats.items()}
    out = _call(leaf, options, backend)
    probe = torch.randn(out.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(out.dtype)
    return {"out": out.detach(), **dict(zip(leaf, torch.autograd.grad(out, list(leaf.values()), probe), strict=True))}


def _by_pairs(floats, block_length, codebook_GSK, code_BGT, mask_BT=None, function="softmax", exact_window=True):
    """The formula, token by token."""
    q, k, v, rel_key = (floats[name] for name in ("q", "k", "v", "rel_key_GMK"))
    batch, heads, length, _ = q.shape
    reach = rel_key.shape[1] // 2
    out = torch.zeros(batch, heads, length, v.shape[3], dtype=q.dtype)
    for b in range(batch):
        real = [j for j in range(length) if mask_BT is None or mask_BT[b, j]]
        for h in range(heads):
            g = h * k.shape[1] // heads
            for i in real:
                score = []
                for j in real:
                    exact = exact_window and abs(i // block_length - j // block_length) <= 1
                    key = k[b, g, j] if exact else codebook_GSK[g, code_BGT[b, g, j]]
                    content = (q[b, h, i] + floats["bias_u_HK"][h]) @ key
                    score.append(content / len(real) if function == "laplace" else content)
                    if abs(i - j) <= reach:
                        score[-1] = score[-1] + (q[b, h, i] + floats["bias_w_HK"][h]) @ rel_key[g, i - j + reach]
                score = torch.stack(score)
                out[b, h, i] = (laplace(score) if function == "laplace" else score.softmax(0)) @ v[b, g, real]
    return out


@pytest.mark.parametrize("backend", ["naive", "blockwise"])
@pytest.mark.parametrize("function", ["softmax", "laplace"])
@pytest.mark.parametrize("exact_window", [True, False])
@pytest.mark.parametrize("padding", [True, False])
def test_bidirectional_any_case_equals_sum_over_pairs(padding, exact_window, function, backend):
    floats, options = _inputs(length=19, padding=padding)
    options |= {"function": function, "exact_window": exact_window}
    torch.testing.assert_close(_call(floats, options, backend), _by_pairs(floats, **options), rtol=0, atol=1e-12)


@pytest.mark.parametrize("padding", [True, False])
@pytest.mark.parametrize("function", ["softmax", "laplace"])
@pytest.mark.parametrize(("positions", "exact_window"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize(("length", "block_length"), [(1, 4), (3, 4), (8, 4), (12, 4), (29, 4), (13, 1), (9, 16)])
def test_bidirectional_values_and_gradients_equal_naive(
    length, block_length, positions, exact_window, function, padding, assert_same
):
    floats, options = _inputs(length, block_length, padding=padding, positions=positions)
    options |= {"function": function, "exact_window": exact_window}
    assert_same(_run(floats, options), _run(floats, options, "naive"))


@pytest.mark.parametrize("function", ["softmax", "laplace"])
@pytest.mark.parametrize(("chunk", "heads"), [(1, 2), (2, 6), (3, 2), (7, 6)])
def test_bidirectional_many_chunks_equal_naive(heads, chunk, function, monkeypatch, assert_same):
    monkeypatch.setattr("vqkernels.windows.attend.MOST_BLOCKS", chunk)
    floats, options = _inputs(length=38, heads=heads, padding=True)
    options["function"] = function
    assert_same(_run(floats, options), _run(floats, options, "naive"))


def test_bidirectional_quantised_window_does_not_depend_on_the_block_length():
    floats, options = _inputs(padding=True)
    options["exact_window"] = False
    outs = [_call(floats, {**options, "block_length": length}) for length in (4, 5, 7, 29, 64)]
    for out in outs[1:]:
        torch.testing.assert_close(out, outs[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", ["naive", "blockwise"])
@pytest.mark.parametrize("exact_window", [True, False])
def test_bidirectional_key_gradient_comes_from_neighbouring_blocks_only(exact_window, backend):
    floats, options = _inputs(heads=2, positions=False)
    found = _run(floats, {**options, "exact_window": exact_window}, backend)["k"]
    far = torch.stack([options["codebook_GSK"][g][options["code_BGT"][:, g]] for g in range(2)], 1)
    near = (floats["k"] if exact_window else far).clone().requires_grad_()
    block = torch.arange(29) // 4
    mine = (block[:, None] - block).abs() <= 1
    score = torch.where(mine, floats["q"] @ near.transpose(-1, -2), floats["q"] @ far.transpose(-1, -2))
    out = score.softmax(-1) @ floats["v"]
    probe = torch.randn(out.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    torch.testing.assert_close(found, torch.autograd.grad(out, near, probe)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("function", ["softmax", "laplace"])
@pytest.mark.parametrize("exact_window", [True, False])
def test_bidirectional_padding_of_nan_changes_nothing_and_gets_no_gradient(exact_window, function, assert_same):
    floats, options = _inputs(padding=True)
    options["mask_BT"][1] = False
    options |= {"function": function, "exact_window": exact_window}
    padding = ~options["mask_BT"][:, None, :, None]
    poisoned = {**floats, **{name: floats[name].masked_fill(padding, float("nan")) for name in "qkv"}}
    found = _run(poisoned, {**options, "code_BGT": options["code_BGT"].masked_fill(padding[..., 0], 3)})
    assert_same(found, _run(floats, options), 0.0)
    for name in ("out", *"qkv"):
        assert not found[name].masked_select(padding).any()


@pytest.mark.parametrize("function", ["softmax", "laplace"])
@pytest.mark.parametrize("length", [1, 5, 8, 17])
def test_bidirectional_padded_sequence_equals_the_sequence_alone(length, function):
    floats, options = _inputs()
    options["function"] = function
    alone = {name: x[:, :, :length] if name in "qkv" else x for name, x in floats.items()}
    expected = _call(alone, {**options, "code_BGT": options["code_BGT"][:, :, :length]})
    mask_BT = (torch.arange(29) < length).expand(2, -1)
    found = _call(floats, {**options, "mask_BT": mask_BT})
    torch.testing.assert_close(found[:, :, :length], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("function", ["softmax", "laplace"])
def test_bidirectional_memories_hold_no_trace_of_huge_values_in_the_window(function):
    """A total less the window's part would have lost the small values to rounding; sums of what is seen have not."""
    floats, options = _inputs(length=32, heads=2, d_key=2, size=1, positions=False)
    floats["q"] = torch.ones_like(floats["q"]).float()
    floats["k"] = torch.full_like(floats["k"], -4000.0).float()  # its own key keeps the window's weights at zero
    floats["v"] = torch.ones_like(floats["v"]).float()
    floats["v"][:, :, 12:20] = 1e12
    codes = {"codebook_GSK": torch.zeros(2, 1, 2), "code_BGT": torch.zeros(2, 2, 32, dtype=torch.int64)}
    out = _call(floats, {**options, **codes, "function": function})
    weight = 1.0 if function == "softmax" else 20 * laplace(torch.tensor(0.0)).item()
    torch.testing.assert_close(out[:, :, 16], torch.full((2, 2, 7), weight), rtol=1e-6, atol=0)


class _Largest(TorchDispatchMode):
    """The most elements of any tensor made."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for x in made if isinstance(made, tuple | list) else [made]:
            if isinstance(x, torch.Tensor):
                self.elements = max(self.elements, x.numel())
        return made


@pytest.mark.parametrize("function", ["softmax", "laplace"])
def test_bidirectional_cost_and_largest_tensor_are_linear_in_the_length(function):
    flops, largest = [], []
    for length in (128, 256, 512):
        floats, options = _inputs(length)
        with FlopCounterMode(display=False) as counter, _Largest() as tensors:
            _run(floats, {**options, "function": function})
        flops.append(counter.get_total_flops())
        largest.append(tensors.elements)
    assert flops[2] - flops[1] == 2 * (flops[1] - flops[0])
    assert largest[2] <= 2.01 * largest[1]
    assert largest[2] < 512 * 512


@pytest.mark.parametrize("function", ["softmax", "laplace"])
def test_bidirectional_bfloat16_is_near_float64(function):
    floats, options = _inputs(padding=True)
    options["function"] = function
    expected = _run(floats, options)["out"]
    found = _run({name: x.bfloat16() for name, x in floats.items()}, options)["out"]
    assert found.dtype == torch.bfloat16
    assert (found.double() - expected).abs().max() < 0.06 * expected.abs().max()


@pytest.mark.parametrize("function", ["softmax", "laplace"])
def test_bidirectional_under_autocast_multiplies_in_bfloat16_and_sums_in_float32(function):
    floats, options = _inputs(length=64, padding=True)
    floats = {name: x.float() for name, x in floats.items()}
    options |= {"function": function, "codebook_GSK": options["codebook_GSK"].float()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = _run(floats, options)
    plain = _run(floats, options)
    for name, expected in plain.items():
        assert found[name].dtype == torch.float32
        assert (found[name] - expected).abs().max() < 0.06 * expected.abs().max()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"function": "relu"}, "function: got 'relu'"),
        ({"backend": "triton"}, "backend: got 'triton'"),
        ({"block_length": 3}, r"rel_key: got distances up to 4 for block_length 3.*use rel_key\[:, 1 : 8\]"),
        ({"rel_key_GMK": torch.zeros(2, 4, 5)}, "rel_key: got shape"),
        ({"mask_BT": torch.ones(2, 29)}, "mask: got dtype torch.float32"),
        ({"code_BGT": torch.zeros(2, 2, 28, dtype=torch.int64)}, "code: got shape"),
    ],
)
def test_bidirectional_arguments_that_do_not_fit_are_refused(changes, message):
    floats, options = _inputs()
    given = {**options, **{name: x for name, x in floats.items() if name not in "qkv"}, **changes}
    with pytest.raises(ValueError, match=message):
        vq_attention_bidirectional(floats["q"], floats["k"], floats["v"], **given)
