"""The one timer: contenders run in one process, in alternating bursts, so that the machine's drift meets all.

A burst is a number of calls of one contender, timed together, that lasts about BURST seconds; one call where a
call is longer. A round is one burst of every contender; the order is rotated from round to round. The time of a
contender is the median of its bursts. A ratio is peer / ours of these medians; its spread is the quartiles of the
ratios round by round. A contender with long calls that is several times slower than the fastest takes part in the
first rounds only, until its share of the budget is spent.
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
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
IDLE = 0.05  # share of a pause that threads may be busy
MOST_PAUSES = 20
SLOW = 4  # times as long as the fastest from which on a contender may leave early


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
    rounds_of_both = zip(peer.bursts, ours.bursts, strict=False)  # one of them may have left early
    by_round = [p / o for p, o in rounds_of_both]
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
    clock: Callable[[], float] = time.perf_counter,
    known: dict[str, float] | None = None,
) -> dict[str, Timing]:
    """Time every call in `calls` within about `budget` seconds altogether, in MIN_ROUNDS rounds at least.

    pause  seconds of rest before each burst, again and again until this process is idle: libraries' workers go on spinning
           after a threaded call, ONNX Runtime's for 50 ms.
    sweep  called untimed before every call to empty the caches; a burst is then one cold call.
    clock  time.process_time leaves out the times when another process has the core; for one thread only.
    known  seconds of an earlier call, where there was one: spares a long call a trial.
    """
    bursts: dict[str, list[float]] = {name: [] for name in calls}
    spent = dict.fromkeys(calls, 0.0)  # seconds, by contender
    with garbage_collection_off():
        plans = {}
        for name, call in calls.items():
            with _adding_to(spent, name):
                plans[name] = _plan(call, clock, (known or {}).get(name, 0.0), cold=sweep is not None)
        limit = max(BURST, SLOW * min(plan.seconds for plan in plans.values()))
        share = budget / len(calls)
        staying = [name for name, plan in plans.items() if plan.seconds <= limit]
        order = list(calls)
        rounds = MAX_ROUNDS
        done = 0
        while done < rounds:
            before = sum(spent[name] for name in staying)
            for name in order:
                if done and name not in staying and spent[name] > share:
                    continue
                with _adding_to(spent, name):
                    rest(pause)
                    if sweep:
                        sweep()
                    bursts[name].append(_burst(calls[name], plans[name], clock))
            order.append(order.pop(0))
            done += 1
            so_far = sum(spent[name] for name in staying)
            left = (share * len(staying) - so_far) / (so_far - before)  # rounds
            rounds = min(MAX_ROUNDS, max(MIN_ROUNDS, done + int(left)))
    return {name: Timing(bursts[name], plans[name].calls) for name in calls}


class _Plan(NamedTuple):
    """What a burst of one contender is."""

    seconds: float  # a call takes, about
    calls: int  # timed together
    lead_in: int  # calls before them, untimed


def _plan(call: Callable[[], Any], clock: Callable[[], float], known: float, cold: bool) -> _Plan:
    """Double the number of calls until they last a quarter of a burst: warms up on the way."""
    if known > 2 * BURST:  # a first call may be slow
        return _Plan(known, 1, 0)
    calls = 1
    while (seconds := _burst(call, _Plan(0, calls, 0), clock)) * calls < BURST / 4 and not cold:
        calls *= 2
    if cold or seconds > BURST:  # a long call fills the caches itself and needs no lead-in
        return _Plan(seconds, 1, 0)
    calls = max(1, round(BURST / seconds))
    return _Plan(seconds, calls, max(1, round(LEAD_IN * calls)))


def _burst(call: Callable[[], Any], plan: _Plan, clock: Callable[[], float]) -> float:
    """Seconds per call."""
    for _ in range(plan.lead_in):
        call()
    start = clock()
    for _ in range(plan.calls):
        call()
    return (clock() - start) / plan.calls


def rest(pause: float) -> None:
    """Sleep until no thread of this process is busy any more, at most MOST_PAUSES times as long."""
    for _ in range(MOST_PAUSES if pause else 0):
        start = time.process_time()
        time.sleep(pause)
        if time.process_time() - start < IDLE * pause:
            return


@contextmanager
def _adding_to(spent: dict[str, float], name: str):
    start = time.perf_counter()
    yield
    spent[name] += time.perf_counter() - start


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
