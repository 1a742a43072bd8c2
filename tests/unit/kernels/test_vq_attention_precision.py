"""Low precision, autocast, repeatability, and memory that grows no faster than the sequence."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode


def _largest_error(found, expected):
    return {name: (found[name].double() - wanted.double()).abs().max().item() for name, wanted in expected.items()}


@pytest.mark.parametrize("extra", [{}, {"documents": True, "padding": True}], ids=["plain", "documents and padding"])
def test_blockwise_bfloat16_errs_at_most_twice_as_much_as_naive(extra, random_case, gradients):
    sizes = {"batch": 4, "heads": 4, "kv_heads": 2, "length": 200, "d_key": 16, "d_value": 32, "size": 16}
    low = random_case(**sizes, block_length=16, dtype=torch.bfloat16, **extra)
    exact = gradients(low.to(torch.float64), "naive")
    naive = _largest_error(gradients(low, "naive"), exact)
    blockwise = _largest_error(gradients(low, "blockwise"), exact)
    for name, error in blockwise.items():
        assert error <= (2 if name == "out" else 3) * naive[name], f"{name}: {error:.2e}, naive {naive[name]:.2e}"


def test_blockwise_float32_errs_at_most_twice_as_much_as_naive(random_case, gradients):
    low = random_case(length=300, heads=2, d_key=16, d_value=24, size=16, block_length=16, dtype=torch.float32)
    exact = gradients(low.to(torch.float64), "naive")
    naive = _largest_error(gradients(low, "naive"), exact)
    for name, error in _largest_error(gradients(low, "blockwise"), exact).items():
        assert error <= (2 if name == "out" else 3) * naive[name], f"{name}: {error:.2e}, naive {naive[name]:.2e}"


@pytest.mark.parametrize("backend", ["naive", "blockwise"])
def test_vq_attention_autocast_computes_in_bfloat16_and_returns_the_dtype_of_v(backend, random_case):
    case, leaf = random_case(length=30, dtype=torch.float32).leaves()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, state = case.run(backend)
        grads = torch.autograd.grad(out.square().sum(), list(leaf.values()))
    assert out.dtype == torch.float32
    assert state.mean_BGSV.dtype == torch.float32
    assert all(grad.dtype == torch.float32 for grad in grads)
    lowered, _ = case.to(torch.bfloat16).run(backend)
    torch.testing.assert_close(out, lowered.float(), rtol=0, atol=0)


@pytest.mark.parametrize("backend", ["naive", "blockwise"])
def test_vq_attention_mixed_dtypes_follow_v(backend, random_case):
    case = random_case(dtype=torch.float32)
    mixed = case.with_(v=case.v.bfloat16())
    assert mixed.run(backend)[0].dtype == torch.bfloat16


def test_blockwise_two_runs_are_equal_bit_for_bit(random_case, gradients):
    case = random_case(length=120, heads=4, kv_heads=2, documents=True, padding=True, dtype=torch.float32)
    first, second = (gradients(case, "blockwise") for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


class _LargestTensor(TorchDispatchMode):
    """The largest number of elements that any operation gave."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(one, torch.Tensor):
                self.numel = max(self.numel, one.numel())
        return result


def _kept_bytes(case):
    """Bytes of the storages that the backward pass keeps, inputs and output among them."""
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: kept.update({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()}) or x, lambda x: x
    ):
        case, _ = case.leaves()
        out, _ = case.run()
    assert out.requires_grad
    return sum(kept.values())


def test_blockwise_kept_memory_is_linear_with_a_small_constant(random_case):
    sizes = {"batch": 1, "heads": 1, "d_key": 8, "d_value": 16, "size": 32, "block_length": 16, "dtype": torch.float32}
    short, long = (_kept_bytes(random_case(length=length, **sizes)) for length in (2048, 4096))
    tensors = 4096 * (8 + 16 + 16 + 1) * 4 + 4096 * 8  # q, v, out, log-sum-exp, code
    assert long <= 2.05 * short
    assert long <= 1.5 * tensors


def test_blockwise_largest_tensor_is_no_square(random_case, gradients):
    sizes = {"batch": 1, "heads": 1, "d_key": 4, "d_value": 4, "size": 8, "block_length": 8, "dtype": torch.float32}
    largest = []
    for length in (4096, 8192):
        case = random_case(length=length, **sizes)
        with _LargestTensor() as mode:
            gradients(case, "blockwise")
        largest.append(mode.numel)
    assert largest[1] <= 2.05 * largest[0]
    assert largest[1] < 8192 * 200
