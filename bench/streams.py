"""Many live streams: a pool that steps them together, beside loops that step one after the other.

python -m bench.streams                      the shapes of SHAPES
python -m bench.streams 1000,64,64 GRU       streams,D,H of a cell

A row is one step of all streams, in random order. Loops: a prepared cell, states in place; the plain step function; the NumPy
reference. All four must return the same numbers, the first three the same bits, or it is an error and no row.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

import fastgate
from fastgate import reference

from .timer import CLOCKS, measure, ratio

SHAPES = [(100, 16, 32), (1000, 16, 32), (1000, 64, 64), (1000, 128, 128), (10_000, 64, 64), (1000, 256, 256)]
LIMIT = 1e-5  # of the reference, float32


def case(streams: int, D: int, H: int, cell: str) -> tuple[dict[str, Callable[[], np.ndarray]], Callable[[], None]]:
    """Name -> one step of all streams, (streams, H) in the order of ids; and what puts all states back to zeros."""
    rng = np.random.default_rng([streams, D, H])
    layer = getattr(fastgate, cell)(D, H, rng=rng)
    W = [layer.weights[name] for name in ("Wx0", "Wh0", "b0")]
    options = {"bh": layer.weights["bh0"]} if "bh0" in layer.weights else {}
    x, y = rng.standard_normal((streams, D), np.float32), np.empty((streams, H), np.float32)
    pool = fastgate.StreamPool(layer, streams)
    ids = rng.permutation(pool.open(streams))
    prepared = getattr(fastgate, f"{cell}Cell")(*W, **options)
    parts = 2 if cell == "LSTM" else 1
    kept = {name: np.zeros((parts, streams, 1, H), np.float32) for name in ("prepared", "function", "NumPy")}
    rows = [(x[n : n + 1], y[n : n + 1]) for n in range(streams)]
    at = {name: [tuple(a[:, n]) for n in range(streams)] for name, a in kept.items()}  # a row's states, views (1, H)

    def together() -> np.ndarray:
        return pool.step(ids, x, out=y)

    def by_prepared_cell() -> np.ndarray:
        for (x_n, y_n), states in zip(rows, at["prepared"], strict=True):
            prepared.step(x_n, *states, out=states if parts == 2 else states[0])
            y_n[...] = states[0]
        return y

    def by(name: str, module: Any) -> Callable[[], np.ndarray]:
        step = getattr(module, f"{cell.lower()}_step_forward")

        def loop() -> np.ndarray:
            for (x_n, y_n), states in zip(rows, at[name], strict=True):
                for state, new in zip(states, step(x_n, *states, *W, training=False, **options), strict=False):
                    state[...] = new
                y_n[...] = states[0]
            return y

        return loop

    def anew() -> None:
        pool.reset(ids)
        for a in kept.values():
            a[...] = 0

    calls = {
        "pool": together,
        "prepared": by_prepared_cell,
        "function": by("function", fastgate),
        "NumPy": by("NumPy", reference),
    }
    return calls, anew


def check(calls: dict[str, Callable[[], np.ndarray]], anew: Callable[[], None]) -> None:
    """Three steps from zeros: the same numbers, and from fastgate the same bits."""
    found = {}
    for name, call in calls.items():
        anew()
        found[name] = [call().copy() for _ in range(3)][-1]
    for name, y in found.items():
        distance = np.abs(y - found["pool"]).max()
        if distance > (LIMIT if name == "NumPy" else 0):
            raise SystemExit(f"{name} differs from the pool by {distance}")


def main() -> None:
    arguments = sys.argv[1:]
    shape = [tuple(map(int, word.split(","))) for word in arguments if word[0].isdigit()]
    cells = [word for word in arguments if not word[0].isdigit()] or ["LSTM", "GRU"]
    print(f"Steps per second, and time of a loop / time of the pool. {fastgate.get_num_threads()} threads, float32.")
    print(f"{'cell':5} {'streams':>8} {'D':>4} {'H':>4} {'steps/s':>12} {'prepared':>10} {'function':>10} {'NumPy':>10}")
    for cell in cells:
        for streams, D, H in shape or SHAPES:
            calls, anew = case(streams, D, H, cell)
            check(calls, anew)
            timings = measure(calls, budget=4.0, clock=CLOCKS["wall"])
            ratios = [ratio(timings[name], timings["pool"]).median for name in calls if name != "pool"]
            rate = streams / timings["pool"].median
            print(f"{cell:5} {streams:8} {D:4} {H:4} {rate:12,.0f} " + " ".join(f"{r:10.1f}" for r in ratios), flush=True)


if __name__ == "__main__":
    main()
