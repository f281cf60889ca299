"""What a step of data-parallel training costs on this machine, and by a model on more: `mpiexec -n 2 python -m bench.parallel`.

Measured: a shard of the demo's model forward and backward, adding and updating, a meeting of the ranks, an exchange of the
gradient through this machine's memory. Predicted, for R machines of one rank each and S shards:

    T(R) = ⌈S/R⌉ (shard + add) + update + exchange(R)
    exchange(R) = 8 ⌈log2 R⌉ α + 2 (R - 1) α + (m + 1) b (R - 1)/R / β + (Σm / R) add

b bytes of gradient; α seconds for a message to arrive and β bytes per second of a network card; m the subtrees of the rank that
has most, Σm of all. Four small messages of each step (two meetings, the losses, Ctrl-C) go through ⌈log2 R⌉ hops there and
back; each Alltoallv sends R - 1 messages.
"""

import argparse
import math
import time
from collections.abc import Callable

import numpy as np

import fastgate
from fastgate.demo import model
from fastgate.demo.options import Settings
from fastgate.demo.train import Run, one_blas_thread
from fastgate.parallel import World, connect

NETWORKS = {"10 Gbit/s Ethernet": (30e-6, 1.1e9), "100 Gbit/s, RDMA": (3e-6, 11e9)}  # α, β: assumed, typical of such cards
MACHINES = (1, 2, 4, 8, 16, 32, 64)
CHARACTERS = 103


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.parallel", description="See the first lines of bench/parallel.py.")
    for name, value, text in (
        ("hidden", 512, "hidden units of a layer"),
        ("layers", 2, "layers of the LSTM"),
        ("rows", 16, "rows of a shard"),
        ("length", 64, "steps of a row"),
        ("shards", 64, "shards of a batch"),
        ("repeats", 15, "measurements, of which the fastest counts"),
    ):
        parser.add_argument(f"--{name}", type=int, default=value, help=f"{text} (default: {value})")
    return parser.parse_args()


def fastest(repeats: int, function: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of the fastest call: what else runs on a machine only ever adds."""
    times = []
    for _ in range(repeats):
        begin = clock()
        function()
        times.append(clock() - begin)
    return min(times)


class Costs:
    """Seconds of the parts of a step, on this rank, while all ranks measure the same. What is computed is measured in the
    CPU time of its one thread, what is exchanged by the clock on the wall."""

    def __init__(self, world: World, chosen: argparse.Namespace) -> None:
        settings = Settings(hidden=chosen.hidden, layers=chosen.layers, batch=chosen.rows, length=chosen.length)
        rng = np.random.default_rng(0)
        parameters = model.initial(settings, CHARACTERS, rng)
        run = Run("c", settings, parameters)
        ids = rng.integers(CHARACTERS, size=(chosen.rows, chosen.length))
        _, gradients, _ = run.model.loss(ids, ids, run.states)
        self.elements = sum(g.size for g in gradients.values())
        self.nbytes = sum(g.nbytes for g in gradients.values())
        flat, other = np.zeros((2, self.elements), np.float32)

        def update() -> None:
            fastgate.clip_grad_norm(gradients, 1.0)
            run.adam.update(parameters, gradients)

        shards = world.shards(world.size, world.size)

        def exchange() -> None:
            for shard in shards:
                shards.add(shard, flat)
            shards.sum()

        repeats, computing = chosen.repeats, time.thread_time
        self.shard = fastest(repeats, lambda: run.model.loss(ids, ids, run.states), computing)
        self.add = fastest(repeats, lambda: np.add(flat, other, out=flat), computing)
        self.update = fastest(repeats, update, computing)
        flat[...] = 0
        self.meeting = fastest(10 * repeats, lambda: world.any(False))
        self.exchange = fastest(repeats, exchange)


def subtrees(S: int, R: int) -> list[int]:
    """How many subtrees the shards of each rank make, by splitting at the largest power of 2 that fits."""

    def pieces(begin: int, end: int, size: int, low: int) -> int:
        if low >= end or low + size <= begin:
            return 0
        if begin <= low and min(low + size, S) <= end:
            return 1
        return pieces(begin, end, size // 2, low) + pieces(begin, end, size // 2, low + size // 2)

    whole = 2 ** math.ceil(math.log2(S)) if S > 1 else 1
    return [pieces(r * S // R, (r + 1) * S // R, whole, 0) for r in range(R)]


def predicted(costs: Costs, S: int, R: int, alpha: float, beta: float) -> tuple[float, float]:
    """(T(R), exchange(R))."""
    exchange = 0.0
    if R > 1:
        m = subtrees(S, R)
        sent = (max(m) + 1) * costs.nbytes * (R - 1) / R
        exchange = (8 * math.ceil(math.log2(R)) + 2 * (R - 1)) * alpha + sent / beta + sum(m) / R * costs.add
    return math.ceil(S / R) * (costs.shard + costs.add) + costs.update + exchange, exchange


def main() -> None:
    chosen = options()
    with connect() as world, one_blas_thread(), fastgate.num_threads(1):
        costs = Costs(world, chosen)
        if world.rank == 0:
            report(world, chosen, costs)


def report(world: World, chosen: argparse.Namespace, costs: Costs) -> None:
    config = fastgate.get_config()
    print(f"{config['cpu']}, {config['isa']}, {world.size} ranks on {world.machines} machine(s), one thread each")
    print(f"{chosen.layers} x lstm {chosen.hidden}, {costs.elements:,} parameters, {costs.nbytes / 2**20:.1f} MiB of gradient")
    print(f"shards of {chosen.rows} x {chosen.length} characters, {chosen.shards} in a batch\n")
    for name in ("shard", "add", "update", "meeting", "exchange"):
        print(f"{name:9} {1e3 * getattr(costs, name):10.3f} ms")
    if world.size > 1:
        moved = 2 * costs.nbytes * (world.size - 1) / world.size
        print(f"the exchange of {world.size} ranks: {moved / costs.exchange / 1e9:.2f} GB/s sent by each")
    print()
    print("| machines | " + " | ".join(f"{name}: ms, exchange, speed-up, efficiency" for name in NETWORKS) + " |")
    print("| ---: |" + " ---: |" * len(NETWORKS))
    for R in (r for r in MACHINES if r <= chosen.shards):
        cells = []
        for alpha, beta in NETWORKS.values():
            step, exchange = predicted(costs, chosen.shards, R, alpha, beta)
            gain = predicted(costs, chosen.shards, 1, alpha, beta)[0] / step
            cells.append(f"{1e3 * step:.0f}, {exchange / step:.1%}, {gain:.1f}, {gain / R:.0%}")
        print(f"| {R} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
