"""Codebooks over two processes: equal bit for bit, and equal to one process that saw the whole batch."""

import pytest
import torch

from vqkernels import Codebook, code_statistics, nearest_code, update_codebooks


def _codebooks():
    found = [Codebook(2, 8, 4), Codebook(1, 5, 3)]
    for seed, codebook in enumerate(found):
        codebook.reset_parameters(torch.Generator().manual_seed(seed))
        codebook.count[:, 0] = 1e-4  # dead from the beginning
    return found


def _train(codebooks, part):
    """Three updates on a part of every batch."""
    for step in range(3):
        statistics = []
        for layer, codebook in enumerate(codebooks):
            generator = torch.Generator().manual_seed(10 * step + layer)
            n_head, _, d_key = codebook.key_sum.shape
            k = torch.randn(4, n_head, 24, d_key, generator=generator)[part]
            statistics.append(code_statistics(k, nearest_code(k, codebook.codebook), codebook.codebook))
        update_codebooks(codebooks, statistics)
    return [buffer for codebook in codebooks for buffer in (*codebook.buffers(), *codebook.telemetry().values())]


def _of_rank(rank):
    return _train(_codebooks(), slice(2 * rank, 2 * rank + 2))


@pytest.fixture(scope="module")
def both(two_ranks):
    return two_ranks.run(_of_rank)


def test_codebooks_of_two_ranks_are_equal_bit_for_bit(both):
    assert all(torch.equal(a, b) for a, b in zip(*both, strict=True))


def test_codebooks_of_two_ranks_equal_those_of_one(both):
    for a, b in zip(both[0], _train(_codebooks(), slice(None)), strict=True):
        torch.testing.assert_close(a, b)
