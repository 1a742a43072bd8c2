"""The least work of a call: useful operations and compulsory bytes, and how fast this device can do either.

A multiply-add counts as two FLOPs; only the causal half is counted, and no padding of tiles.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch

from vqkernels.gpu_check.cases import Case
from vqkernels.gpu_check.timing import milliseconds


@dataclass(frozen=True)
class Ceilings:
    """Measured on the device itself: a large matrix product and a large copy (bytes read plus bytes written)."""

    flops_per_second: float
    bytes_per_second: float


def measure_ceilings(device: torch.device, dtype: torch.dtype, *, small: bool) -> Ceilings:
    """The best of several, each over many calls."""
    side, numbers = (256, 1 << 16) if small else (8192, 1 << 30)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    x = torch.randn(numbers // 2, device=device, dtype=dtype)
    y = torch.empty_like(x)
    product = _best(lambda: torch.mm(a, b), device)
    copy = _best(lambda: y.copy_(x), device)
    return Ceilings(2 * side**3 / product, 2 * x.numel() * x.element_size() / copy)


def _best(work: Callable[[], object], device: torch.device) -> float:
    """Seconds per call: the median of three rounds, the best of three such medians."""
    milliseconds(work, device, 3)
    return min(statistics.median(milliseconds(work, device, 10) for _ in range(3)) for _ in range(3)) / 1e3


@dataclass(frozen=True)
class Work:
    """Useful FLOPs and compulsory bytes of one call."""

    flops: float
    bytes: float

    def share(self, seconds: float, ceilings: Ceilings) -> float:
        """Of the speed that the tighter ceiling allows."""
        return max(self.flops / ceilings.flops_per_second, self.bytes / ceilings.bytes_per_second) / seconds


def vq_work(case: Case, batch: int, length: int, *, backward: bool, item: int = 2) -> Work:
    """Of VQ attention with biases and relative keys, codes given. `item`: bytes of an operand."""
    block, size, k, v = case.block_length, case.size, case.d_key, case.d_value
    window = length // block * _triangle(block) + _triangle(length % block) + max(length - block, 0) * block
    cached = max(length - 2 * block, 0) * size
    near = min(length, block + 1)  # queries that see fewer than L + 1 distances, or as many
    distance = _triangle(near) + (length - near) * (block + 1) if case.biases else 0
    pairs = window + cached
    flops = 2 * (k + v) * pairs + 2 * k * distance
    row = (case.n_head // case.n_kv_head + 1) * (k + v)  # queries and outputs, keys and values
    moved = item * (length * row + 2 * -(-length // block) * size * v)  # and every block's cache, written and read
    if backward:
        flops += 2 * (3 * k + 2 * v) * window + 2 * (2 * k + 2 * v) * cached + 4 * k * distance
        moved *= 3
    return Work(flops * batch * case.n_head, moved * batch * case.n_kv_head)


def _triangle(side: int) -> int:
    return side * (side + 1) // 2


def exact_work(case: Case, batch: int, length: int, *, backward: bool, item: int = 2) -> Work:
    """Of exact causal attention at the same widths, as an ideal kernel would do it."""
    k, v = case.d_key, case.d_value
    pairs = length * (length + 1) / 2
    flops = 2 * (k + v) * pairs
    moved = item * length * 2 * (k + v)
    if backward:
        flops += 2 * (3 * k + 2 * v) * pairs
        moved *= 3
    return Work(flops * batch * case.n_head, moved * batch * case.n_head)
