"""Nearest code and sums by code in Triton, interpreted on a CPU in float32."""

import pytest
import torch

from vqkernels import nearest_code as definition
from vqkernels.gpu import nearest, segment_sum
from vqkernels.gpu.runtime import config, forced
from vqkernels.quantize.statistics import _sums_by_code


def _normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _codes(n_set, n_row, size, seed=0):
    return torch.randint(-1, size, (n_set, n_row), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("length", "size", "d_key"),
    [(1, 1, 1), (70, 50, 24), (33, 100, 96), (64, 64, 16)],
)
def test_nearest_code_of_any_size_is_that_of_pytorch(unwritten_is_nan, length, size, d_key):
    k, codebook = _normal(2, 3, length, d_key), _normal(3, size, d_key, seed=1)
    mask = torch.rand(2, length, generator=torch.Generator().manual_seed(2)) > 0.2
    assert torch.equal(nearest.nearest_code(k, codebook, mask), definition(k, codebook, mask))
    assert torch.equal(nearest.nearest_code(k, codebook, None), definition(k, codebook))


def test_nearest_code_tie_across_tiles_goes_to_the_lowest_index(unwritten_is_nan):
    codebook = _normal(1, 1, 8).round().expand(1, 90, 8).clone()  # whole numbers: no rounding in any order
    codebook[0, :5] += 10.0
    code = nearest.nearest_code(codebook[:, None, -1:].expand(1, 1, 40, 8), codebook, None)
    assert (code == 5).all()


def test_nearest_code_padding_that_is_not_finite_disturbs_no_other_token(unwritten_is_nan):
    k, codebook = _normal(1, 2, 40, 16), _normal(2, 20, 16, seed=1)
    mask = torch.arange(40)[None] % 3 != 0
    expected = definition(k, codebook, mask)
    assert torch.equal(
        nearest.nearest_code(k.masked_fill(~mask[:, None, :, None], float("nan")), codebook, mask), expected
    )


@pytest.mark.parametrize("tiles", [{"BT": 16, "BS": 16, "BK": 16}, {"BT": 32, "BS": 16, "BK": 32}])
def test_nearest_code_forced_tiles_change_nothing(unwritten_is_nan, tiles):
    k, codebook = _normal(1, 2, 37, 40), _normal(2, 41, 40, seed=1)
    with forced(nearest.KERNEL, config(32, 4, 2, **tiles)):
        assert torch.equal(nearest.nearest_code(k, codebook, None), definition(k, codebook))


def test_nearest_code_of_a_codebook_in_pieces_is_that_of_their_sum(unwritten_is_nan, monkeypatch):
    # As with bfloat16 keys, in operands that the interpreter can multiply.
    k, codebook = _normal(1, 2, 50, 24).bfloat16(), _normal(2, 40, 24, seed=1)
    expected = definition(k, codebook)
    launch, exact = nearest.KERNEL.launch, nearest.bfloat16_pieces(codebook)
    assert torch.equal(exact.float().sum(0), codebook)

    def widened(_, grid, arguments, **options):
        keys, pieces, *others = arguments
        launch(grid, (keys.float(), pieces.float(), *others), **options | {"dtype": torch.float32})

    monkeypatch.setattr(type(nearest.KERNEL), "launch", widened)
    assert torch.equal(nearest.nearest_code(k, codebook, None), expected)


@pytest.mark.parametrize(("n_set", "n_row", "width", "size"), [(1, 1, 1, 1), (3, 70, 40, 50), (2, 33, 80, 100)])
def test_segment_sum_of_any_size_is_that_of_pytorch(unwritten_is_nan, n_set, n_row, width, size):
    row, code = _normal(n_set, n_row, width), _codes(n_set, n_row, size)
    total, count = segment_sum.segment_sum(row, code, size)
    expected, expected_count = _sums_by_code(row, code, size)
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(count, expected_count)


def test_segment_sum_in_parts_is_that_of_pytorch_and_repeats_bit_for_bit(unwritten_is_nan, monkeypatch):
    monkeypatch.setattr(segment_sum, "_LEAST_ROWS", 24)
    row, code = _normal(2, 100, 20), _codes(2, 100, 7)
    total, count = segment_sum.segment_sum(row, code, 7)
    again, _ = segment_sum.segment_sum(row, code, 7)
    expected, expected_count = _sums_by_code(row, code, 7)
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(count, expected_count)
    assert torch.equal(total, again)


def test_segment_sum_without_rows_is_zero(unwritten_is_nan):
    total, count = segment_sum.segment_sum(_normal(2, 0, 20), _codes(2, 0, 7), 7)
    assert (total == 0).all()
    assert (count == 0).all()


def test_segment_sum_rows_left_out_may_hold_anything(unwritten_is_nan):
    row, code = _normal(1, 50, 20), _codes(1, 50, 6)
    expected = segment_sum.segment_sum(row, code, 6)[0]
    poisoned = row.masked_fill((code < 0)[..., None], float("nan"))
    assert torch.equal(segment_sum.segment_sum(poisoned, code, 6)[0], expected)


def test_segment_sum_gradient_is_a_gather(unwritten_is_nan):
    row, code = _normal(2, 40, 12).requires_grad_(), _codes(2, 40, 5)
    total, count = segment_sum.segment_sum(row, code, 5)
    assert not count.requires_grad
    probe = _normal(2, 5, 12, seed=3)
    (found,) = torch.autograd.grad(total, row, probe)
    reference = row.detach().double().requires_grad_()
    hot = torch.nn.functional.one_hot(code + 1, 6)[..., 1:].double()
    (expected,) = torch.autograd.grad(hot.transpose(1, 2) @ reference, reference, probe.double())
    torch.testing.assert_close(found.double(), expected)


@pytest.mark.parametrize("tiles", [{"BS": 16, "BD": 32, "BN": 16}, {"BS": 32, "BD": 16, "BN": 32}])
def test_segment_sum_forced_tiles_change_nothing(unwritten_is_nan, tiles):
    row, code = _normal(1, 37, 40), _codes(1, 37, 41)
    with forced(segment_sum.KERNEL, config(32, 4, 2, **tiles)):
        total, count = segment_sum.segment_sum(row, code, 41)
    expected, expected_count = _sums_by_code(row, code, 41)
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(count, expected_count)


def test_operators_pass_opcheck():
    k, codebook, mask = _normal(1, 2, 20, 8), _normal(2, 5, 8), torch.ones(1, 20, dtype=torch.bool)
    torch.library.opcheck(nearest.nearest_code, (k, codebook, mask))
    torch.library.opcheck(nearest.nearest_code, (k, codebook, None))
    torch.library.opcheck(segment_sum.segment_sum, (_normal(2, 20, 8).requires_grad_(), _codes(2, 20, 5), 5))


def test_operators_compile_as_one_graph():
    def step(k, codebook):
        code = nearest.nearest_code(k, codebook, None)
        return segment_sum.segment_sum(k[0].square(), code[0], codebook.shape[1])[0]

    k, codebook = _normal(1, 2, 20, 8).requires_grad_(), _normal(2, 5, 8)
    found = torch.compile(step, fullgraph=True, backend="aot_eager")(k, codebook)
    expected = step(k, codebook)
    assert torch.equal(found, expected)
    probe = _normal(2, 5, 8, seed=3)
    assert torch.equal(*(torch.autograd.grad(out, k, probe)[0] for out in (found, expected)))
