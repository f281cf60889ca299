"""How a call and its backward stay within `memory=` bytes: csrc/checkpoints.inc does it, here the cheapest way is chosen."""

from bisect import bisect_left, bisect_right
from typing import NamedTuple

from fastgate import _arguments

MOST = 255  # states that are kept between segments; csrc/ recurses so deep


class Plan(NamedTuple):
    segment: int  # steps; 0: all is kept
    checkpoints: int
    nbytes: int  # that the call and its backward take besides arguments and results
    recomputed: float  # steps that backward runs forward again


def choose(call, needs):
    """The plan that runs the fewest steps again. needs(segment, checkpoints) -> (nbytes, recomputed)."""
    whole, copies = Plan(0, 0, *needs(0, 0)), getattr(call.memory, "copies", 0)
    memory = call.memory - copies
    if whole.nbytes <= memory or call.T == 0:
        return whole
    found, least = [], whole
    for segment in _segments(call.T):
        none = Plan(segment, 0, *needs(segment, 0))
        least = min(least, none, key=lambda plan: plan.nbytes)
        if none.nbytes <= memory:
            # What the allocator hands out grows in steps: one more state may cost nothing, or a page.
            counts = _counts(call.T, segment)
            checkpoints = bisect_right(counts, memory, key=lambda count, segment=segment: needs(segment, count)[0]) - 1
            found.append(Plan(segment, checkpoints, *needs(segment, checkpoints)))
    if not found:
        raise _arguments.memory_too_small(call, least.nbytes + copies, _modest(call.T, needs) + copies)
    return min(found, key=lambda plan: plan.recomputed)


def _modest(T, needs):
    """The least bytes with which backward runs no step more than twice again on average."""
    sizes = [needs(0, 0)[0]]
    for segment in _segments(T):
        counts = _counts(T, segment)
        enough = bisect_left(counts, -2 * T, key=lambda count, segment=segment: -needs(segment, count)[1])
        if enough < len(counts):
            sizes.append(needs(segment, enough)[0])
    return min(sizes)


def _counts(T, segment):
    """How many states may be kept between the segments."""
    return range(min(MOST, -(-T // segment) - 1) + 1)


def _segments(T):
    """Steps of a segment worth a look: T over 1, 2, 3, … and from 32 on over numbers that grow by a tenth."""
    sizes, parts = {}, 1.0
    while parts < T:
        sizes[-(-T // int(parts))] = None
        parts = parts + 1 if parts < 32 else parts * 1.1
    return [*sizes, 1] if 1 not in sizes else list(sizes)
