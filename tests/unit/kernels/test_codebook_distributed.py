"""Codebooks over two processes: equal bit for bit, and equal to one process that saw the whole batch."""

import subprocess
import sys

import pytest
import torch
import torch.distributed as dist

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


def _rank(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save(_train(_codebooks(), slice(2 * rank, 2 * rank + 2)), f"{folder}/{rank}.pt")
    dist.barrier()  # a rank that leaves while the other one still talks to it may abort
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    ranks = [subprocess.Popen([sys.executable, __file__, str(rank), str(folder)]) for rank in range(2)]
    assert [rank.wait(timeout=400) for rank in ranks] == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_codebooks_of_two_ranks_are_equal_bit_for_bit(two_ranks):
    assert all(torch.equal(a, b) for a, b in zip(*two_ranks, strict=True))


def test_codebooks_of_two_ranks_equal_those_of_one(two_ranks):
    for a, b in zip(two_ranks[0], _train(_codebooks(), slice(None)), strict=True):
        torch.testing.assert_close(a, b)


if __name__ == "__main__":
    _rank(int(sys.argv[1]), sys.argv[2])
