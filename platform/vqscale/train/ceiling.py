"""What a device reaches in plain matrix products: the ceiling that FLOP/s shares (MFU) refer to."""

import functools
import time
from collections.abc import Callable

import torch

from vqscale.train.metrics import synchronise

SIZES = {"cpu": (1024, 2048), "cuda": (4096, 8192)}
"""Edges of the square factors: large enough to fill the device, small enough for a few dozen products per second."""
SECONDS = 0.4
"""Time for which products of each size are repeated."""


@functools.cache
def matmul_ceiling(device_type: str, precision: str, *, clock: Callable[[], float] = time.perf_counter) -> float:
    """The highest FLOP/s of any product on one device.

    The fastest, not the mean: other load can only slow a product down, and too low a ceiling makes every share look
    better than it is. Measured once per process, with its number of threads.
    """
    return max(_best(torch.device(device_type), precision, size, clock) for size in SIZES[device_type])


def _best(device: torch.device, precision: str, size: int, clock: Callable[[], float]) -> float:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    # Constant, not random: drawing from the generator would change the dropout of the trial that asks first.
    factor = torch.full((size, size), 0.5, device=device, dtype=dtype)
    product = factor @ factor  # warm-up: the first product loads kernels and allocates workspace
    times: list[float] = []
    while len(times) < 3 or sum(times) < SECONDS:
        synchronise(device)
        start = clock()
        torch.mm(factor, factor, out=product)
        synchronise(device)
        times.append(clock() - start)
    return 2 * size**3 / min(times)  # an n x n product takes n^3 multiply-adds, two FLOPs each
