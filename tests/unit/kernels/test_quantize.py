"""Nearest code, straight-through keys, commitment loss, statistics of a batch."""

import pytest
import torch

from vqkernels import (
    CodeStatistics,
    code_statistics,
    codewords,
    commitment_loss,
    merge_statistics,
    nearest_code,
    straight_through,
)
from vqkernels.quantize import nearest


def _keys(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_nearest_code_is_the_closest_by_distance():
    k, codebook = _keys(2, 3, 50, 5), _keys(3, 9, 5, seed=1)
    expected = torch.cdist(k.double(), codebook.double()).argmin(-1)
    assert torch.equal(nearest_code(k, codebook), expected)


def test_nearest_code_of_a_codeword_is_itself():
    codebook = _keys(2, 17, 4)
    assert torch.equal(nearest_code(codebook[None], codebook), torch.arange(17).expand(1, 2, 17))


@pytest.mark.parametrize("size", [2, 7, 33])
def test_nearest_code_tie_goes_to_the_lowest_index(size):
    k = _keys(2, 1, 40, 6).round()  # whole numbers: products and sums are exact in any order
    codebook = torch.ones(1, size, 6)
    assert (nearest_code(k, codebook) == 0).all()
    codebook[:, 0] = 100.0
    assert (nearest_code(k, codebook) == 1).all()


def test_nearest_code_masked_token_gets_minus_one():
    mask = torch.tensor([[True, False, True]])
    code = nearest_code(_keys(1, 2, 3, 4), _keys(2, 5, 4), mask)
    assert torch.equal(code == -1, ~mask[:, None].expand(1, 2, 3))


def test_nearest_code_bfloat16_keys_are_compared_in_float32():
    k, codebook = _keys(1, 1, 200, 8).bfloat16(), _keys(1, 64, 8, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        code = nearest_code(k, codebook)
    assert torch.equal(code, nearest_code(k.float(), codebook))


def test_nearest_code_in_pieces_is_the_same(monkeypatch):
    k, codebook = _keys(2, 2, 31, 4), _keys(2, 6, 4)
    whole = nearest_code(k, codebook)
    monkeypatch.setattr(nearest, "_MAX_DISTANCES", 50)
    assert torch.equal(nearest_code(k, codebook), whole)


def test_straight_through_value_is_the_codeword_and_gradient_the_identity():
    k, codebook = _keys(2, 3, 10, 4).requires_grad_(), _keys(3, 6, 4).requires_grad_()
    code = nearest_code(k, codebook)
    quantised = straight_through(k, code, codebook)
    torch.testing.assert_close(quantised.detach(), codewords(code, codebook.detach()), rtol=0, atol=0)
    probe = _keys(*k.shape, seed=5)
    (quantised * probe).sum().backward()
    assert torch.equal(k.grad, probe)
    assert codebook.grad is None


def test_straight_through_masked_token_is_zero_without_gradient():
    k = _keys(1, 1, 2, 4).requires_grad_()
    quantised = straight_through(k, torch.tensor([[[1, -1]]]), _keys(1, 3, 4))
    quantised.sum().backward()
    assert torch.equal(quantised[0, 0, 1], torch.zeros(4))
    assert torch.equal(k.grad[0, 0], torch.tensor([[1.0] * 4, [0.0] * 4]))


def test_commitment_loss_is_mean_over_tokens_of_sum_over_heads():
    k, codebook = _keys(2, 3, 4, 5), _keys(3, 6, 5)
    code = nearest_code(k, codebook)
    total = sum(
        (k[b, g, t] - codebook[g, code[b, g, t]]).square().sum() for b in range(2) for g in range(3) for t in range(4)
    )
    torch.testing.assert_close(commitment_loss(k, code, codebook), total / 8)


def test_commitment_loss_gradient_pulls_keys_only():
    k, codebook = _keys(1, 1, 4, 5).requires_grad_(), _keys(1, 6, 5).requires_grad_()
    code = nearest_code(k, codebook)
    commitment_loss(k, code, codebook).backward()
    torch.testing.assert_close(k.grad, 2 * (k.detach() - codewords(code, codebook.detach())) / 4)
    assert codebook.grad is None


def test_commitment_loss_leaves_padding_out():
    k, codebook = _keys(2, 2, 6, 5), _keys(2, 6, 5)
    mask = torch.tensor([[True] * 6, [True] * 2 + [False] * 4])
    code = nearest_code(k, codebook, mask)
    dense = torch.cat([k[:1], k[1:, :, :2].expand(1, 2, 2, 5)], dim=2)
    expected = commitment_loss(dense, nearest_code(dense, codebook), codebook)
    torch.testing.assert_close(commitment_loss(k, code, codebook), expected)
    assert commitment_loss(k, torch.full_like(code, -1), codebook) == 0


def test_statistics_sum_keys_by_code_without_padding():
    k, codebook = _keys(2, 3, 20, 4), _keys(3, 5, 4)
    mask = _keys(2, 20, seed=3) > -0.5
    code = nearest_code(k, codebook, mask)
    found = code_statistics(k, code, codebook)
    for g in range(3):
        for s in range(5):
            took = code[:, g] == s
            torch.testing.assert_close(found.key_sum_GSK[g, s], k[:, g][took].sum(0))
            assert found.count_GS[g, s] == took.sum()
    real = mask[:, None, :, None].expand_as(k)
    torch.testing.assert_close(found.squared_norm, k[real].square().sum())
    torch.testing.assert_close(found.squared_error, (k - codewords(code, codebook))[real].square().sum())


def test_statistics_candidates_are_strided_real_tokens_in_order():
    k, codebook = _keys(2, 1, 6, 3), _keys(1, 4, 3)
    mask = torch.tensor([[True, False, True, True, True, True], [True, True, False, True, True, False]])
    found = code_statistics(k, nearest_code(k, codebook, mask), codebook)
    real = k[:, 0][mask]  # nine rows: numbers 0, 2, 4, 6 are evenly strided
    assert torch.equal(found.candidate_GRK[0], real[[0, 2, 4, 6]])


def test_statistics_fewer_tokens_than_codes_leave_rows_absent():
    k, codebook = _keys(1, 2, 3, 4), _keys(2, 8, 4)
    found = code_statistics(k, nearest_code(k, codebook), codebook)
    assert torch.equal(found.candidate_GRK[:, :3], k[0])
    assert found.candidate_GRK[:, 3:].isnan().all()


def test_statistics_merged_equal_those_of_the_whole_batch():
    k, codebook = _keys(6, 2, 20, 4), _keys(2, 8, 4)
    code = nearest_code(k, codebook)
    whole = code_statistics(k, code, codebook)
    parts = merge_statistics([code_statistics(k[i : i + 2], code[i : i + 2], codebook) for i in (0, 2, 4)])
    for name in CodeStatistics._fields[:4]:
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name))
    assert torch.equal(parts.candidate_GRK, whole.candidate_GRK)


def test_statistics_of_nothing_merged_raise():
    with pytest.raises(ValueError, match="empty sequence"):
        merge_statistics([])
