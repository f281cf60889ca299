"""Peak memory of one call: how far the process grows over what it held before, in a process of its own.

The process has loaded all code by a call on small arrays; what the call returns is part of its peak.
"""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import contenders
from .cases import Unsupported, make_case
from .contenders import ours
from .process import fresh
from .record import Memory

PEERS = ("pytorch", "numpy_loop")  # of those that are found
SMALL = (2, 1, 4, 4)
SELF = Path("/proc/self")


def unavailable() -> str:
    """The reason why the peak cannot be read here, or ""."""
    try:
        _reset()
    except OSError as reason:
        return f"the peak of a process cannot be reset here ({reason})"
    return ""


def measure(shape: tuple[int, int, int, int], cell: str, what: str, dtype: str, threads: int, peers: list[str]) -> Memory:
    peaks = {}
    results = 0
    for name in ("ours", *(peer for peer in PEERS if peer in peers)):
        if found := fresh(threads, of_contender, name, cell, what, shape, dtype, threads):
            label, peaks[label], returned = found
            results = returned if name == "ours" else results
    return Memory(cell, what, *shape, results, peaks)


def of_contender(
    name: str, cell: str, what: str, shape: tuple[int, int, int, int], dtype: str, threads: int
) -> tuple[str, int, int] | None:  # fmt: skip
    """Its name in the tables, the peak of one call and the bytes of its results; None if it has no such call."""
    module = ours if name == "ours" else contenders.find([name])[0][0]
    try:
        contenders.begin(module, make_case(cell, what, *SMALL, dtype), threads).call()
        calls = contenders.begin(module, make_case(cell, what, *shape, dtype), threads)
    except Unsupported:
        return None
    result, grown = peak(calls.call)
    returned = {key: value for key, value in calls.results(result).items() if hasattr(value, "nbytes")}
    return module.NAME, grown, sum(value.nbytes for value in returned.values())


def peak(call: Callable[[], Any]) -> tuple[Any, int]:
    """The value of the call, and by how many bytes the process grew at most."""
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)  # what was freed before is not there to be used again
    _reset()
    before = _status("VmRSS")
    result = call()
    return result, _status("VmHWM") - before


def _reset() -> None:
    """Let the high-water mark start anew."""
    (SELF / "clear_refs").write_text("5")


def _status(name: str) -> int:
    """Bytes."""
    lines = dict(line.split(":", 1) for line in (SELF / "status").read_text().splitlines())
    return int(lines[name].removesuffix("kB")) * 1024
