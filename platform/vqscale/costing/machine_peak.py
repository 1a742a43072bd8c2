"""FLOP/s of this machine's processor, for estimates of time before any trial has run. Loads no torch."""

import functools
import statistics
import time

import numpy as np

MATRIX_SIZE = 1024
"""Edge of the square factors: 2 n^3 = 2.1 GFLOP per product, about ten milliseconds."""
PRODUCTS = 5


@functools.cache
def processor_peak_flops() -> float:
    """FLOP/s of fp32 matrix products in NumPy with all threads of its BLAS: the median after a warm-up.

    Only for estimates. The share of peak that a trial reports refers to `vqscale.train.ceiling`, measured
    in the worker with the framework that trains.
    """
    factor = np.full((MATRIX_SIZE, MATRIX_SIZE), 0.5, dtype=np.float32)
    product = factor @ factor  # warm-up: starts the threads of the BLAS
    seconds = []
    for _ in range(PRODUCTS):
        start = time.perf_counter()
        np.matmul(factor, factor, out=product)
        seconds.append(time.perf_counter() - start)
    return 2.0 * MATRIX_SIZE**3 / statistics.median(seconds)
