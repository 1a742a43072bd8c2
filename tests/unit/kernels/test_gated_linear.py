"""Gated linear attention: chunks against the recurrence, values and every gradient."""

import pytest
import torch
from torch.testing import assert_close

from vqkernels import gated_linear_attention

EXACT = {"rtol": 1e-9, "atol": 1e-10}
NAMES = ("q", "k", "v", "log_decay", "state")


def problem(length, *, batch=2, heads=2, d_key=4, d_value=3, strength=1.0, seed=0, dtype=torch.float64):
    """Inputs that need a gradient; `strength` is the mean of minus the log decay."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(batch, heads, *shape, generator=generator, dtype=torch.float64)

    values = [draw(length, d_key), draw(length, d_key), draw(length, d_value)]
    values.append(-strength * torch.rand(batch, heads, length, d_key, generator=generator, dtype=torch.float64) * 2)
    values.append(draw(d_key, d_value))
    return [value.to(dtype).requires_grad_() for value in values]


def run(inputs, **options):
    q, k, v, log_decay, state = inputs
    return gated_linear_attention(q, k, v, log_decay, state_BHKV=state, return_state=True, **options)


def values_and_gradients(inputs, **options):
    out, state = run(inputs, **options)
    loss = (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum() + state.square().sum()
    gradients = torch.autograd.grad(loss, inputs)
    return {"out": out, "after": state} | dict(zip(NAMES, gradients, strict=True))


def flags(length, *places, value=True):
    result = torch.full((2, length), not value)
    for row, column in places:
        result[row, column] = value
    return result


@pytest.mark.parametrize("strength", [0.0, 0.05, 1.0, 50.0, 2000.0])
@pytest.mark.parametrize(("length", "chunk"), [(1, 64), (2, 64), (7, 4), (16, 4), (37, 8), (64, 64), (65, 32), (5, 1)])
def test_chunks_equal_the_recurrence_with_every_gradient(length, chunk, strength):
    inputs = problem(length, strength=strength)
    expected = values_and_gradients(inputs, backend="naive")
    assert_close(values_and_gradients(inputs, chunk_length=chunk), expected, **EXACT)


@pytest.mark.parametrize("length", [1, 9, 37])
def test_padding_and_documents_in_chunks_equal_the_recurrence_with_every_gradient(length):
    inputs = problem(length)
    places = [(row, place) for row, place in ((0, 0), (0, 5), (0, 6), (1, 17), (1, 36)) if place < length]
    mask = flags(length, *[(1, place) for place in (3, 4, 5, 20, 35, 36) if place < length], value=False)
    options = {"doc_start_BT": flags(length, *places), "mask_BT": mask}
    expected = values_and_gradients(inputs, backend="naive", **options)
    assert_close(values_and_gradients(inputs, chunk_length=8, **options), expected, **EXACT)


@pytest.mark.parametrize("backend", ["chunked", "naive"])
def test_padding_of_nan_changes_neither_values_nor_gradients(backend):
    inputs, mask = problem(21), flags(21, (0, 0), (0, 9), (1, 19), (1, 20), value=False)
    padded = mask[:, None, :, None]
    hidden = [torch.where(padded, x, torch.nan).detach().requires_grad_() for x in inputs[:4]] + inputs[4:]
    expected = values_and_gradients(inputs, backend=backend, mask_BT=mask)
    assert_close(values_and_gradients(hidden, backend=backend, mask_BT=mask), expected, rtol=0, atol=0)
    assert not expected["out"].masked_select(~padded).any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"backend": "triton"}, "backend: got 'triton'"),
        ({"mask_BT": torch.ones(2, 8, dtype=torch.bool)}, "mask: got"),
        ({"doc_start_BT": torch.ones(2, 9)}, "doc_start: got torch.float32"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        run(problem(9), **options)


@pytest.mark.parametrize("backend", ["naive", "chunked"])
def test_recurrence_follows_its_equation(backend):
    q, k, v, log_decay, state = (x[:1, :1].detach() for x in problem(3))
    out, after = gated_linear_attention(q, k, v, log_decay, state_BHKV=state, return_state=True, backend=backend)
    expected = state[0, 0]
    for t in range(3):
        expected = log_decay[0, 0, t].exp().diag() @ expected + torch.outer(k[0, 0, t], v[0, 0, t])
        assert_close(out[0, 0, t], q[0, 0, t] @ expected)
    assert_close(after[0, 0], expected)


@pytest.mark.parametrize("cuts", [[1, 2, 3], [17], [8, 16, 32]])
def test_segments_with_a_carried_state_equal_the_whole(cuts):
    inputs = problem(37)
    expected, last = run(inputs, chunk_length=8)
    state, outs = inputs[-1], []
    for begin, end in zip([0, *cuts], [*cuts, 37], strict=True):
        part = [x[:, :, begin:end] for x in inputs[:4]]
        out, state = run([*part, state], chunk_length=8)
        outs.append(out)
    assert_close(torch.cat(outs, dim=2), expected, **EXACT)
    assert_close(state, last, **EXACT)


def test_documents_equal_documents_alone_exactly():
    """The state in front of a document counts as zero there, whatever it holds."""
    inputs = problem(21, strength=0.01)
    inputs[-1] = (1e6 * inputs[-1]).detach()
    out, after = run(inputs, doc_start_BT=flags(21, (0, 6), (1, 6)), chunk_length=8)
    alone, alone_after = gated_linear_attention(*(x[:, :, 6:] for x in inputs[:4]), return_state=True, chunk_length=8)
    assert_close(out[:, :, 6:], alone, **EXACT)
    assert_close(after, alone_after, **EXACT)


def test_padding_equals_its_absence():
    inputs = problem(12)
    kept = [0, 1, 2, 6, 7, 8, 9]
    mask = flags(12, *[(row, place) for row in (0, 1) for place in (3, 4, 5, 10, 11)], value=False)
    out, after = run(inputs, mask_BT=mask, chunk_length=4)
    fewer, fewer_after = run([*(x[:, :, kept] for x in inputs[:4]), inputs[-1]], chunk_length=4)
    assert_close(out[:, :, kept], fewer, **EXACT)
    assert_close(after, fewer_after, **EXACT)
    assert (out[:, :, 3:6] == 0).all()


@pytest.mark.parametrize("chunk", [64, 1024])
@pytest.mark.parametrize("strength", [1e-4, 0.04, 30.0])
def test_float32_stays_near_float64_over_65536_tokens(chunk, strength):
    inputs = problem(65536, batch=1, heads=1, strength=strength, dtype=torch.float32)
    exact = [x.detach().double() for x in inputs]
    out, after = run([x.detach() for x in inputs], chunk_length=chunk)
    expected, expected_after = run(exact)
    assert (out - expected).abs().max() < 1e-5 * expected.abs().max()
    assert (after - expected_after).abs().max() < 1e-5 * expected_after.abs().max()


def test_float32_gradients_of_strong_decay_stay_finite_and_near_float64():
    inputs = problem(512, strength=60.0, dtype=torch.float32)
    inputs[3].data[:, :, ::7] *= 1e-3
    got = values_and_gradients(inputs)
    expected = values_and_gradients([x.detach().double().requires_grad_() for x in inputs])
    for name, value in got.items():
        assert value.isfinite().all()
        assert_close(value, expected[name], rtol=1e-3, atol=1e-5, check_dtype=False)


def test_autocast_does_not_reach_the_recurrence():
    inputs = problem(40, dtype=torch.float32)
    expected = run(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(run(inputs), expected, rtol=0, atol=0)
    out, state = run([x.bfloat16() for x in inputs])
    assert (out.dtype, state.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("q", (2, 2, 0, 4), ["q", "(2, 2, 0, 4)", "tokens >= 1"]),
        ("k", (2, 2, 5, 3), ["k", "(2, 2, 5, 3)", "(2, 2, 5, 4)"]),
        ("v", (2, 2, 4, 3), ["v", "(2, 2, 5, 3)"]),
        ("log_decay", (2, 1, 5, 4), ["log_decay", "(2, 2, 5, 4)"]),
        ("state", (2, 2, 3, 3), ["state", "(2, 2, 4, 3)"]),
    ],
)
def test_arguments_that_do_not_fit_are_refused(name, shape, words):
    inputs = problem(5)
    inputs[NAMES.index(name)] = torch.zeros(shape, dtype=torch.float64)
    with pytest.raises(ValueError, match="got shape") as error:
        run(inputs)
    assert all(word in str(error.value) for word in words)


def test_chunk_length_that_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match=r"chunk_length: got 12.*power of two"):
        run(problem(5), chunk_length=12)
