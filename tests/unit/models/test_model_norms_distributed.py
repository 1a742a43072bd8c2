"""Batch norm over two data-parallel ranks equals batch norm over their batches together."""

import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from torch.testing import assert_close

from vqscale.models.norms import BatchNorm


def _batch():
    generator = torch.Generator().manual_seed(0)
    mask_BT = torch.ones(4, 5, dtype=torch.bool)
    mask_BT[1, 2:] = False
    return torch.randn(4, 5, 3, generator=generator, dtype=torch.float64), mask_BT


def _run(x_BTD, mask_BT):
    """Output, gradient of the input and running statistics of one pass."""
    norm = BatchNorm(3).double()
    norm.initialise(torch.Generator())
    x_BTD = x_BTD.clone().requires_grad_()
    out_BTD = norm(x_BTD, mask_BT) * mask_BT[..., None]
    (out_BTD**3).sum().backward()
    return {"out": out_BTD.detach(), "gradient": x_BTD.grad, "mean": norm.mean, "variance": norm.variance}


def _rank(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    x_BTD, mask_BT = _batch()
    own = slice(rank, None, 2)
    torch.save(_run(x_BTD[own], mask_BT[own]), f"{folder}/{rank}.pt")
    dist.barrier()  # a rank that leaves while the other one still talks to it may abort
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    ranks = [subprocess.Popen([sys.executable, __file__, str(rank), str(folder)]) for rank in range(2)]
    assert [rank.wait(timeout=400) for rank in ranks] == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_batch_norm_of_two_ranks_equals_that_of_one(two_ranks):
    expected = _run(*_batch())
    for rank, result in enumerate(two_ranks):
        for name in ("out", "gradient"):
            assert_close(result[name], expected[name][rank::2], rtol=1e-9, atol=1e-10)
        for name in ("mean", "variance"):
            assert_close(result[name], expected[name], rtol=1e-6, atol=1e-6)


if __name__ == "__main__":
    _rank(int(sys.argv[1]), sys.argv[2])
