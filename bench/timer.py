"""The one timer: contenders run in one process, in alternating bursts, so that drift of the machine meets all alike.

A burst is a number of calls of one contender, timed together, that lasts about BURST seconds (one call where a call is longer).
A round is one burst of every contender; the order is rotated from round to round. The time of a contender is the median of
its bursts. A ratio is peer / ours of these medians; its spread is the quartiles of the ratios round by round.
"""

import gc
import math
import statistics
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

BURST = 0.02  # seconds a burst should last
LEAD_IN = 0.1  # share of a burst's calls that run untimed before it, so that the weights are in the caches
MIN_ROUNDS, MAX_ROUNDS = 3, 50
LONG_CALL = 0.02  # seconds from which on a call fills the caches itself and needs no lead-in


@dataclass(frozen=True)
class Timing:
    """Seconds per call, one number per burst, in the order of the rounds."""

    bursts: list[float]
    calls: int  # in each burst

    @property
    def median(self) -> float:
        return statistics.median(self.bursts)


class Ratio(NamedTuple):
    """How many times as long as ours a peer takes: above 1 we are ahead. `low` and `high` are quartiles."""

    median: float
    low: float
    high: float


def ratio(peer: Timing, ours: Timing) -> Ratio:
    by_round = [p / o for p, o in zip(peer.bursts, ours.bursts, strict=True)]
    low, high = quartiles(by_round)
    return Ratio(peer.median / ours.median, low, high)


def quartiles(values: list[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def geometric_mean(values: list[float]) -> float:
    return math.exp(statistics.fmean(math.log(v) for v in values)) if values else math.nan


def measure(
    calls: dict[str, Callable[[], Any]],
    budget: float,
    pause: float = 0.0,
    sweep: Callable[[], Any] | None = None,
) -> dict[str, Timing]:
    """Time every call in `calls` within about `budget` seconds altogether (never fewer than MIN_ROUNDS rounds).

    pause  seconds of rest before each burst: other libraries' workers keep spinning after a threaded call.
    sweep  called untimed before every call to empty the caches; a burst is then one cold call.
    """
    bursts: dict[str, list[float]] = {name: [] for name in calls}
    with garbage_collection_off():
        spent = time.perf_counter()
        sizes = {name: 1 if sweep else _calls_per_burst(call) for name, call in calls.items()}
        lead_ins = {name: 0 if sweep else _lead_in(calls[name], sizes[name]) for name in calls}
        spent = time.perf_counter() - spent
        order = list(calls)
        rounds = MAX_ROUNDS
        done = 0
        while done < rounds:
            start = time.perf_counter()
            for name in order:
                time.sleep(pause)
                if sweep:
                    sweep()
                bursts[name].append(_burst(calls[name], sizes[name], lead_ins[name]))
            order.append(order.pop(0))
            done += 1
            spent += time.perf_counter() - start
            left = int((budget - spent) / (time.perf_counter() - start))
            rounds = min(MAX_ROUNDS, max(MIN_ROUNDS, done + left))
    return {name: Timing(bursts[name], sizes[name]) for name in calls}


@contextmanager
def garbage_collection_off():
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _burst(call: Callable[[], Any], size: int, lead_in: int) -> float:
    for _ in range(lead_in):
        call()
    start = time.perf_counter()
    for _ in range(size):
        call()
    return (time.perf_counter() - start) / size


def _calls_per_burst(call: Callable[[], Any]) -> int:
    """Double the number of calls until they last a quarter of a burst: warms up on the way."""
    size = 1
    while (seconds := _burst(call, size, 0) * size) < BURST / 4:
        size *= 2
    return max(1, round(BURST / seconds * size))


def _lead_in(call: Callable[[], Any], size: int) -> int:
    return 0 if _burst(call, 1, 0) > LONG_CALL else max(1, round(LEAD_IN * size))
