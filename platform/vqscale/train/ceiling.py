"""What a device reaches in plain matrix products: the ceiling that shares of it (MFU) refer to."""

import functools
import time
from collections.abc import Callable

import torch

from vqscale.train.metrics import synchronise

SIZES = {"cpu": (1024, 2048), "cuda": (4096, 8192)}
"""Edges of the square factors: large enough to fill the device, small enough for a few dozen products a second."""
SECONDS = 0.4
"""Of products of each size."""


@functools.cache
def matmul_ceiling(device_type: str, precision: str, *, clock: Callable[[], float] = time.perf_counter) -> float:
    """The highest FLOP/s of any product: a disturbance can only lower it, and too low a ceiling flatters.

    Measured once in a process, with its number of threads. A product takes 2 n^3.
    """
    return max(_best(torch.device(device_type), precision, size, clock) for size in SIZES[device_type])


def _best(device: torch.device, precision: str, size: int, clock: Callable[[], float]) -> float:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    factor = torch.full((size, size), 0.5, device=device, dtype=dtype)
    product = factor @ factor  # warm-up
    times: list[float] = []
    while len(times) < 3 or sum(times) < SECONDS:
        synchronise(device)
        start = clock()
        torch.mm(factor, factor, out=product)
        synchronise(device)
        times.append(clock() - start)
    return 2 * size**3 / min(times)
