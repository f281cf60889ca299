"""What this machine is, and what it can reach.

The limits are the best of many short tries, so that a busy neighbour hardly shows.
"""

import os
import time
from collections.abc import Callable
from functools import cache

import numpy as np

import fastgate

from .cases import FORWARD, Case

TRIES = 100
READ = 2**24  # bytes a run of the bandwidth measurement reads at least


def describe(threads: int, dtype: str) -> dict[str, object]:
    config = fastgate.get_config()
    return {
        "cpu": config["cpu"],
        "isa": config["isa"],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": threads,
        "fma_peak": fma_peak(dtype),  # operations per second, at least
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


@cache
def fma_peak(dtype: str = "float32", size: int = 512) -> float:
    """A lower bound of the FMA peak, operations per second: the best of TRIES NumPy products (size × size).

    A good BLAS reaches 80 to 95 % of the peak, so a share of this bound may pass 100 %.
    """
    a = np.full((size, size), 0.5, dtype)
    return 2 * size**3 / _best(lambda: a @ a)


@cache
def read_bandwidth(size: int) -> float:
    """A lower bound of the bytes per second that one reader takes from an array of `size` bytes, again and again,
    so from the cache that holds it: the best of TRIES runs of BLAS' dot product of the array with itself."""
    a = np.full(max(1, size // 4), 0.5, np.float32)
    repeats = max(1, READ // size)

    def read() -> None:
        for _ in range(repeats):
            a.dot(a)

    read()
    return size * repeats / _best(read)


def attainable(case: Case) -> float:
    """Seconds the case takes at the two limits above: each product costs its operations or the reading of its
    weights, whichever is longer. Wh is read at every step, Wx once; backward repeats both and adds the two weight
    gradients."""
    T, N, _, _ = case.sizes

    def product(weight: np.ndarray, readings: int) -> float:
        operations = 2 * T * N * weight.size / fma_peak(weight.dtype.name)
        return max(operations, readings * weight.nbytes / read_bandwidth(weight.nbytes))

    forward = product(case.Wx, 1) + product(case.Wh, T)
    if case.what == FORWARD:
        return forward
    return 2 * forward + product(case.Wx, 1) + product(case.Wh, 1)


def _best(call: Callable[[], object]) -> float:
    seconds = []
    for _ in range(TRIES):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
