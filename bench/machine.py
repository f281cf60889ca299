"""What this machine is, and what it can reach: multiply-adds, and bytes read from each cache and from memory.

peak.c does nothing else; without a C compiler, NumPy's products stand in, which reach 80 to 95 % of it. The limits are
the best of many short tries, so that a busy neighbour hardly shows; with several threads, of all of them at once.
"""

import ctypes
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from threading import Barrier
from typing import NamedTuple

import numpy as np

import fastgate

from . import compiled

MIN_TRIES, TRIES = 5, 60
BUDGET = 0.3  # seconds of tries
ROUNDS = 20_000  # of fma_operations in a try
READ = 2**24  # bytes a try of the read bandwidth reads at least
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
TYPICAL = {"L1": 2**15, "L2": 2**20, "L3": 2**25}  # bytes, where the system does not tell
MEMORY, FMA = "memory", "FMA"
LARGEST = 2**29  # bytes of the array that stands for memory, at most


class Limit(NamedTuple):
    """What holds a call back at least: `seconds`, by the multiply-adds or by the reading from a cache."""

    seconds: float
    name: str


def describe(threads: int, dtype: str) -> dict[str, object]:
    config = fastgate.get_config()
    return {
        "cpu": config["cpu"],
        "isa": config["isa"],
        "cores": cores(),
        "threads": [threads],
        "caches": caches(),  # bytes
        "limits": {str(threads): limits(dtype, threads)},
        "measured_by": "peak.c" if library(dtype) else "NumPy's products",
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def limits(dtype: str, threads: int) -> dict[str, float]:
    """Operations per second at the FMA peak, and bytes read per second from each cache and from memory."""
    return {FMA: fma_peak(dtype, threads)} | {place: bandwidth(place, threads) for place in (*caches(), MEMORY)}


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def caches() -> dict[str, int]:
    """Bytes of the caches that hold data, the smallest first."""
    found = {}
    for index in CACHES.glob("index*"):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction" and size.endswith("K"):
            found[f"L{level}"] = int(size[:-1]) * 1024
    return dict(sorted((found or TYPICAL).items()))


def limit(operations: float, nbytes: float, reads_from: int, dtype: str, threads: int = 1) -> Limit:
    """The larger of two times: `operations` at the FMA peak, and `nbytes` read from the cache that holds
    `reads_from` bytes, each thread its part."""
    place = next((name for name, size in caches().items() if reads_from <= size * _private(name, threads)), MEMORY)
    return max(Limit(operations / fma_peak(dtype, threads), FMA), Limit(nbytes / bandwidth(place, threads), place))


def _private(cache_name: str, threads: int) -> int:
    """How many caches of this level `threads` cores have: the last is one for all."""
    return threads if cache_name != list(caches())[-1] else 1


@cache
def fma_peak(dtype: str = "float32", threads: int = 1) -> float:
    """Operations per second of multiply-adds that wait for nothing; a lower bound, NumPy's products, without compiler."""
    if peak := library(dtype):
        return _rate(lambda _: lambda: peak.fma_operations(ROUNDS), threads)
    a = np.full((512, 512), 0.5, dtype)

    def product() -> float:
        a @ a
        return 2.0 * a.size * len(a)

    return _rate(lambda _: product, 1)  # its threads are set


@cache
def bandwidth(place: str, threads: int = 1) -> float:
    """Bytes per second that are read from a cache, or from memory, again and again."""
    size = caches()[place] // 4 if place != MEMORY else min(LARGEST, 4 * max(caches().values()))
    repeats = max(1, READ // size)

    def reader(_: int) -> Callable[[], float]:
        a = np.ones(size // 4 + 1024, np.float32)
        start = -a.ctypes.data % 4096 // 4
        a = a[start : start + size // 4]
        peak = library("float32")

        def read() -> float:
            if peak:
                peak.read_bytes(a.ctypes.data, a.nbytes, repeats)
            else:
                for _ in range(repeats):
                    a.dot(a)
            return float(a.nbytes) * repeats

        return read

    return _rate(reader, threads)


@cache
def library(dtype: str) -> ctypes.CDLL | None:
    """peak.c; None, with a word, where there is no compiler."""
    try:
        peak = compiled.load("peak.c", f"-DREAL={'float' if dtype == 'float32' else 'double'}")
    except OSError as reason:
        print(f"no peak.c ({reason}): the limits of this machine are those of NumPy's products", file=sys.stderr)
        return None
    peak.fma_operations.restype = ctypes.c_double
    peak.fma_operations.argtypes = [ctypes.c_long]
    peak.read_bytes.restype = ctypes.c_uint64
    peak.read_bytes.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long]
    return peak


def _rate(worker: Callable[[int], Callable[[], float]], threads: int) -> float:
    """What `threads` workers, each made by `worker`, do in a second all together; the best of TRIES, within BUDGET."""
    works = [worker(k) for k in range(threads)]
    together = Barrier(threads)

    def rate(work: Callable[[], float]) -> float:
        together.wait()
        start = time.perf_counter()
        return work() / (time.perf_counter() - start)

    rates = []
    end = time.perf_counter() + BUDGET
    with ThreadPoolExecutor(threads) as pool:
        while len(rates) < TRIES and (len(rates) < MIN_TRIES or time.perf_counter() < end):
            rates.append(sum(pool.map(rate, works)))
    return max(rates)
