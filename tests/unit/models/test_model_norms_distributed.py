"""Batch norm over two data-parallel ranks equals batch norm over their batches together."""

import torch
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


def _of_rank(rank):
    x_BTD, mask_BT = _batch()
    own = slice(rank, None, 2)
    return _run(x_BTD[own], mask_BT[own])


def test_batch_norm_of_two_ranks_equals_that_of_one(two_ranks):
    expected = _run(*_batch())
    for rank, result in enumerate(two_ranks.run(_of_rank)):
        for name in ("out", "gradient"):
            assert_close(result[name], expected[name][rank::2], rtol=1e-9, atol=1e-10)
        for name in ("mean", "variance"):
            assert_close(result[name], expected[name], rtol=1e-6, atol=1e-6)
