"""Every method of the diagonal scan against a recurrence written down in numpy, values and gradients."""

import functools
import itertools

import numpy as np
import pytest
import torch

from vqkernels import diagonal_scan, diagonal_step
from vqkernels.state_space.api import _METHODS
from vqkernels.state_space.chunked import chunked_scan

METHODS = ["recurrent", "chunked"]
KINDS = ["real", "complex"]
NAMES = ("x_BTD", "decay_DN", "input_DN", "output_DN", "state_BDN")
LENGTHS = [1, 2, 31, 32, 33, 64, 200]


def _case(kind="real", length=150, *, batch=2, width=3, size=4, state=True, documents=False, padding=False, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape, complex_=kind == "complex"):
        dtype = torch.complex128 if complex_ else torch.float64
        return torch.randn(*shape, generator=generator, dtype=dtype)

    magnitude = 1 - torch.logspace(-4, -0.01, width * size, dtype=torch.float64).view(width, size)
    sign = torch.tensor([1.0, -1.0] * (width * size), dtype=torch.float64)[: width * size].view(width, size)
    phase = torch.exp(1j * normal(width, size, complex_=False)) if kind == "complex" else sign
    tensors = {
        "x_BTD": normal(batch, length, width, complex_=False),
        "decay_DN": magnitude * phase,
        "input_DN": normal(width, size),
        "output_DN": normal(width, size),
    }
    if state:
        tensors["state_BDN"] = normal(batch, width, size)
    if padding:
        tensors["mask_BT"] = torch.rand(batch, length, generator=generator) > 0.25
    if documents:
        tensors["doc_start_BT"] = torch.rand(batch, length, generator=generator) < 0.03
    return tensors


def _recurrence(case):
    """The definition, with numpy and one loop over everything."""
    arrays = {name: tensor.numpy() for name, tensor in case.items()}
    x, q = arrays["x_BTD"], arrays["decay_DN"]
    y, last = np.zeros(x.shape), np.zeros((len(x), *q.shape), dtype=q.dtype)
    for b, d, n in itertools.product(range(len(x)), *map(range, q.shape)):
        h = arrays["state_BDN"][b, d, n] if "state_BDN" in arrays else 0.0
        for t in range(x.shape[1]):
            seen = "mask_BT" not in arrays or arrays["mask_BT"][b, t]
            if "doc_start_BT" in arrays and arrays["doc_start_BT"][b, t]:
                h = 0.0
            h = q[d, n] * h + arrays["input_DN"][d, n] * (x[b, t, d] if seen else 0.0)
            y[b, t, d] += (arrays["output_DN"][d, n] * h).real if seen else 0.0
        last[b, d, n] = h
    return torch.from_numpy(y), torch.from_numpy(last)


def _gradients(case, method, *, whole=False):
    """Gradients by name of a random projection of outputs and, unless the sequence is `whole`, of the last state."""
    leaf = {n: x.detach().clone().requires_grad_() if n in NAMES else x for n, x in case.items()}
    parts = diagonal_scan(**leaf, method=method, return_state=not whole)[: 1 if whole else 2]
    generator = torch.Generator().manual_seed(7)
    probes = [torch.randn(part.shape, generator=generator, dtype=part.dtype) for part in parts]
    floats = [n for n in leaf if n in NAMES]
    return dict(zip(floats, torch.autograd.grad(parts, [leaf[n] for n in floats], probes), strict=True))


def _part(case, start, stop):
    return {n: x[:, start:stop] if n in ("x_BTD", "mask_BT", "doc_start_BT") else x for n, x in case.items()}


def _assert_close(found, expected, tolerance=1e-11):
    scale = expected.abs().max().clamp(min=1e-3)
    assert ((found - expected).abs().max() / scale).item() <= tolerance


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flags", [{}, {"documents": True}, {"padding": True}, {"documents": True, "padding": True}])
def test_scan_every_method_equals_the_recurrence(method, kind, flags):
    for length, state in zip(LENGTHS, itertools.cycle([True, False]), strict=False):
        case = _case(kind, length, state=state, **flags)
        y, last = diagonal_scan(**case, method=method, return_state=True)
        wanted, wanted_last = _recurrence(case)
        _assert_close(y, wanted)
        _assert_close(last, wanted_last)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flags", [{}, {"documents": True, "padding": True}])
@pytest.mark.parametrize("length", LENGTHS)
def test_chunked_every_gradient_equals_the_definitions(kind, flags, length):
    case = _case(kind, length, **flags)
    expected = _gradients(case, "recurrent")
    for name, found in _gradients(case, "chunked").items():
        _assert_close(found, expected[name], 1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 128])
def test_chunked_of_any_chunk_length_equals_the_definition(kind, documents, size, monkeypatch):
    case = _case(kind, 100, documents=documents)
    monkeypatch.setitem(_METHODS, "chunked", functools.partial(chunked_scan, size=size))
    for found, expected in zip(
        diagonal_scan(**case, method="chunked", return_state=True), _recurrence(case), strict=True
    ):
        _assert_close(found, expected)
    expected = _gradients(case, "recurrent")
    for name, found in _gradients(case, "chunked").items():
        _assert_close(found, expected[name], 1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("length", LENGTHS)
def test_fft_values_and_gradients_equal_the_definitions(kind, padding, length):
    case = _case(kind, length, state=False, padding=padding)
    y, last = diagonal_scan(**case, method="fft")
    assert last is None
    _assert_close(y, _recurrence(case)[0])
    expected = _gradients(case, "recurrent", whole=True)
    for name, found in _gradients(case, "fft", whole=True).items():
        _assert_close(found, expected[name], 1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["fft", "chunked"])
def test_scan_of_131072_tokens_in_float32_stays_by_the_float64_recurrence(kind, method):
    generator = torch.Generator().manual_seed(0)
    length, ends = 131_072, [0, 1, 31, 32, 4095, 65_537, 131_071]
    slow = torch.tensor([[1 - 2e-6, 0.99999, 0.99], [0.0, 0.5, -0.9999]])
    decay = slow * torch.exp(1j * torch.tensor([[1e-5, 3.0, 0.1], [2.0, 1.0, 0.5]])) if kind == "complex" else slow
    x, (into, out_of) = torch.randn(1, length, 2, generator=generator), torch.randn(2, 2, 3, generator=generator)
    leaves = [part.requires_grad_() for part in (x, decay.clone(), into.clone(), out_of.clone())]
    y, _ = diagonal_scan(*leaves, method=method)
    state = np.zeros((2, 3), dtype=np.complex128)
    wanted, sample = {}, x[0].double().detach().numpy()
    q, b, c = (part.detach().to(torch.complex128).numpy() for part in leaves[1:])
    for t in range(length):
        state = q * state + b * sample[t][:, None]
        if t in ends:
            wanted[t] = (c * state).sum(1).real
    expected = torch.from_numpy(np.stack([wanted[t] for t in ends]))
    assert (y[0, ends].double() - expected).abs().max() <= 3e-6 * y.abs().max()
    y.square().mean().backward()
    assert all(part.grad.isfinite().all() for part in leaves)


@pytest.mark.parametrize("kind", KINDS)
def test_recurrent_gradients_equal_differences(kind):
    case = _case(kind, 5, batch=1, width=2, size=2)
    names = [n for n in NAMES if n in case]

    def call(*tensors):
        y, last = diagonal_scan(**dict(zip(names, tensors, strict=True)), method="recurrent", return_state=True)
        return y, last

    assert torch.autograd.gradcheck(call, [case[n].requires_grad_() for n in names])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cuts", [[1], [64], [3, 70, 71, 149], list(range(5, 150, 7))])
def test_scan_cut_into_segments_equals_the_whole(method, kind, cuts):
    case = _case(kind, documents=True, padding=True)
    whole, last = diagonal_scan(**case, method=method, return_state=True)
    outputs, state = [], case["state_BDN"]
    for start, stop in itertools.pairwise([0, *cuts, 150]):
        part = {**_part(case, start, stop), "state_BDN": state}
        y, state = diagonal_scan(**part, method=method, return_state=True)
        outputs.append(y)
    _assert_close(torch.cat(outputs, 1), whole)
    _assert_close(state, last)


@pytest.mark.parametrize("kind", KINDS)
def test_step_token_by_token_equals_the_scan(kind):
    case = _case(kind, 90)
    whole, last = diagonal_scan(**case, return_state=True)
    state = case["state_BDN"]
    for t in range(90):
        y, state = diagonal_step(case["x_BTD"][:, t], case["decay_DN"], case["input_DN"], case["output_DN"], state)
        _assert_close(y, whole[:, t])
    _assert_close(state, last)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_scan_document_gets_exactly_nothing_of_what_was_before(method, kind):
    case = _case(kind, 300)
    case["doc_start_BT"] = torch.zeros(2, 300, dtype=torch.bool)
    case["doc_start_BT"][0, [90, 200]] = True
    case["doc_start_BT"][1, 131] = True
    y, last = diagonal_scan(**case, method=method, return_state=True)
    huge = {**case, "x_BTD": case["x_BTD"].clone(), "state_BDN": case["state_BDN"] * 1e30}
    huge["x_BTD"][0, :200] *= 1e30
    huge["x_BTD"][1, :131] *= 1e30
    other, other_last = diagonal_scan(**huge, method=method, return_state=True)
    assert torch.equal(other[0, 200:], y[0, 200:])
    assert torch.equal(other[1, 131:], y[1, 131:])
    assert torch.equal(other_last, last)


@pytest.mark.parametrize("method", METHODS)
def test_scan_padding_of_nan_changes_neither_values_nor_gradients(method):
    case = _case(length=130, padding=True)
    hidden = {**case, "x_BTD": torch.where(case["mask_BT"][..., None], case["x_BTD"], torch.nan)}
    y, last = diagonal_scan(**hidden, method=method, return_state=True)
    wanted, wanted_last = diagonal_scan(**case, method=method, return_state=True)
    assert torch.equal(y, wanted)
    assert torch.equal(last, wanted_last)
    assert not y[~case["mask_BT"]].any()
    found, expected = _gradients(hidden, method), _gradients(case, method)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("method", METHODS)
def test_scan_decay_of_zero_has_the_gradients_of_the_recurrence(method):
    case = _case(length=70)
    case["decay_DN"][0] = 0
    expected = _gradients(case, "recurrent")
    for name, found in _gradients(case, method).items():
        _assert_close(found, expected[name], 1e-10)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_scan_autocast_and_bfloat16_keep_a_float32_state(method, kind):
    case = _case(kind, 130, documents=True)
    single = {n: x.to(x.dtype.to_real() and (torch.complex64 if x.is_complex() else torch.float32))
              if n in NAMES else x for n, x in case.items()}  # fmt: skip
    rounded = {**single, "x_BTD": single["x_BTD"].bfloat16()}
    with torch.autocast("cpu", torch.bfloat16):
        y, last = diagonal_scan(**rounded, method=method, return_state=True)
    assert y.dtype == torch.bfloat16
    assert last.dtype == (torch.complex64 if kind == "complex" else torch.float32)
    wanted, wanted_last = _recurrence({**case, "x_BTD": rounded["x_BTD"].double()})
    _assert_close(last, wanted_last, 1e-5)
    _assert_close(y.double(), wanted, 4e-3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"method": "cumsum"}, "method: got 'cumsum'"),
        ({"method": "fft"}, "method: got 'fft' with state"),
        ({"method": "fft", "state_BDN": None, "return_state": True}, "use 'chunked'"),
        ({"x_BTD": torch.zeros(2, 0, 3)}, "0 tokens"),
        ({"x_BTD": torch.zeros(2, 3)}, "x: got"),
        ({"decay_DN": torch.zeros(4, 4)}, "decay: got shape"),
        ({"input_DN": torch.zeros(3, 5)}, "input: got shape"),
        ({"state_BDN": torch.zeros(1, 3, 4)}, "state: got shape"),
        ({"mask_BT": torch.ones(2, 150)}, "mask: got dtype"),
        ({"doc_start_BT": torch.ones(2, 149, dtype=torch.bool)}, "doc_start: got shape"),
    ],
)
def test_scan_arguments_that_do_not_fit_raise(changed, message):
    with pytest.raises(ValueError, match=message):
        diagonal_scan(**{**_case(), **changed})


@pytest.mark.parametrize("carried", [{}, {"return_state": True}, {"doc_start_BT": torch.zeros(1, 9, dtype=torch.bool)}])
def test_scan_by_default_takes_a_state_or_documents_and_short_sequences_alike(carried):
    case = _case(length=9, batch=1, state=False)
    _assert_close(diagonal_scan(**case, **carried)[0], _recurrence(case)[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [2, 9, 40, 130])
def test_scan_by_default_gives_the_same_bits_whatever_comes_later(kind, length):
    case = _case(kind, length, state=False)
    later = {**case, "x_BTD": case["x_BTD"].clone()}
    later["x_BTD"][:, length // 2 :] *= 1e12
    y, other = diagonal_scan(**case)[0], diagonal_scan(**later)[0]
    assert torch.equal(y[:, : length // 2], other[:, : length // 2])
    assert not torch.equal(y[:, length // 2 :], other[:, length // 2 :])
