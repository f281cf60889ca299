"""A call on all threads where the CPUs are not its own: `python -m bench.busy`. Its time / that of one thread.

free      nothing else is started
busy      a process that never rests on the last CPU
confined  to one CPU, though all threads were asked for before

Blocks of calls on one thread and on all take turns; the mean is over all calls of a situation. "of free": over the mean of one
thread in the situation free, which the machine must be quiet for. Numbers are kept in JSON (--out).
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fastgate

from .cases import make_case

ROWS = ["100,1,256,256", "50,8,128,128"]
BLOCK = 50  # calls in a row on as many threads
CPUS = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
SITUATIONS = ("free", "busy", "confined")


@contextmanager
def situation(name: str) -> Iterator[None]:
    hog: subprocess.Popen[bytes] | None = None
    if name == "busy":
        there = {max(CPUS)}
        hog = subprocess.Popen([sys.executable, "-c", f"import os; os.sched_setaffinity(0, {there})\nwhile True: pass"])
        time.sleep(0.5)
    elif name == "confined":
        os.sched_setaffinity(0, {min(CPUS)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, CPUS)
        if hog:
            hog.kill()
            hog.wait()


def ask_for(threads: int) -> None:
    """As if this process might use all CPUs."""
    here = os.sched_getaffinity(0)
    os.sched_setaffinity(0, CPUS)
    fastgate.set_num_threads(threads)
    os.sched_setaffinity(0, here)


def seconds(call: Callable[[], object], calls: int, threads: int) -> tuple[list[float], list[float]]:
    """Seconds of each call on one thread, and on all."""
    one: list[float] = []
    several: list[float] = []
    while len(several) < calls:
        for found, count in ((one, 1), (several, threads)):
            ask_for(count)
            call()
            for _ in range(min(BLOCK, calls - len(found))):
                start = time.perf_counter()
                call()
                found.append(time.perf_counter() - start)
    return one, several


def forward_of(cell: str, shape: tuple[int, int, int, int]) -> Callable[[], object]:
    case = make_case(cell, "forward", *shape)
    forward = getattr(fastgate, f"{cell}_forward")
    return lambda: forward(case.x, *case.states.values(), case.Wx, case.Wh, case.b, training=False)


def measured(cell: str, row: str, calls: int, threads: int) -> Iterator[dict[str, Any]]:
    """A row for each situation; times in seconds."""
    T, N, D, H = map(int, row.split(","))
    call, free = forward_of(cell, (T, N, D, H)), 0.0
    for name in SITUATIONS:
        with fastgate.num_threads(threads), situation(name):
            one, several = seconds(call, calls, threads)
        mean = statistics.fmean(several)
        free = free or statistics.fmean(one)
        yield {
            "cell": cell, "row": row, "situation": name, "calls": calls, "threads": threads,
            "one_thread": statistics.fmean(one), "all_threads": mean, "median": statistics.median(several),
            "ratio": mean / statistics.fmean(one), "ratio_of_free": mean / free,
            "longest": max(several), "longest_one_thread": max(one),
        }  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.busy", description=__doc__)
    parser.add_argument("--rows", nargs="+", default=ROWS, help=f"shapes as T,N,D,H (default: {' '.join(ROWS)})")
    parser.add_argument("--cells", nargs="+", default=["lstm"], help="default: lstm")
    parser.add_argument("--calls", type=int, default=10_000, help="on one thread and on all (default: 10,000)")
    parser.add_argument("--threads", type=int, default=fastgate.get_num_threads(), help="default: as many as there are")
    parser.add_argument("--out", type=Path, default=Path("bench/results/busy.json"))
    chosen = parser.parse_args(arguments)
    if not CPUS:
        raise SystemExit("the CPUs of a process cannot be chosen here")
    print(f"{'cell':5} {'T,N,D,H':15} {'':8} {'1 thread':>9} {'all':>9} {'ratio':>6} {'of free':>8}  longest, of 1 thread (ms)")
    rows = []
    for cell, row in itertools.product(chosen.cells, chosen.rows):
        for found in measured(cell, row, chosen.calls, chosen.threads):
            rows.append(found)
            one, several, longest, of_one = (
                found[name] * 1e3 for name in ("one_thread", "all_threads", "longest", "longest_one_thread")
            )
            print(f"{cell:5} {row:15} {found['situation']:8} {one:9.3f} {several:9.3f} {found['ratio']:6.2f}", end=" ")
            print(f"{found['ratio_of_free']:8.2f}  {longest:.2f}, {of_one:.2f}", flush=True)
    config = fastgate.get_config()
    record = {"cpu": config["cpu"], "isa": config["isa"], "version": fastgate.__version__, "rows": rows}
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
