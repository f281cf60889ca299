"""Training on several ranks: the bits of one process, and an end in words whatever goes wrong.

Most tests run the ranks as threads of this process, over a communicator made of a barrier; it moves data as MPI does and
knows nothing of what it moves. Tests at the end start real ranks by mpiexec.
"""

import importlib.util
import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from support import digest, values

import fastgate
from fastgate import parallel
from fastgate.parallel import ParallelError, Shard, World

ROOT = str(Path(fastgate.__file__).parents[1])


class Ended(BaseException):
    """What MPI's Abort does to a rank."""


class Board:
    """What the ranks of one communicator share."""

    def __init__(self, size):
        self.size, self.barrier = size, threading.Barrier(size, timeout=30)
        self.slots, self.sent, self.aborts = [None] * size, [0] * size, []


class Comm:
    """A communicator of threads: every collective is two barriers round a look at what the others have put down."""

    def __init__(self, board, rank):
        self.board, self.rank = board, rank

    def Get_rank(self):
        return self.rank

    def Get_size(self):
        return self.board.size

    def exchange(self, value):
        try:
            self.board.slots[self.rank] = value
            self.board.barrier.wait()
            found = list(self.board.slots)
            self.board.barrier.wait()
        except threading.BrokenBarrierError:
            raise Ended from None
        return found

    def Dup(self):
        self.exchange("Dup")
        return self

    def Free(self):
        pass

    def Abort(self, status):
        self.board.aborts.append((self.rank, status))
        self.board.barrier.abort()
        raise Ended

    def allgather(self, value):
        return self.exchange(value)

    def bcast(self, value, root):
        return self.exchange(value)[root]

    def Allgather(self, mine, result):
        result[...] = np.stack(self.exchange(mine.copy()))

    def Allgatherv(self, mine, to):
        result, counts = to
        parts = self.exchange(mine.copy())
        assert [part.size for part in parts] == list(counts)
        result[...] = np.concatenate(parts)

    def Alltoallv(self, source, to):
        (mine, out), (result, expected) = source, to
        out, begins = out if isinstance(out, tuple) else (out, np.cumsum([0, *out[:-1]]))
        self.board.sent[self.rank] += sum(out) * mine.itemsize
        parts = self.exchange([mine[begin : begin + n].copy() for begin, n in zip(begins, out, strict=True)])
        assert [part.size for part in parts[self.rank]] == list(out)
        mine = [part[self.rank] for part in parts]
        assert [part.size for part in mine] == list(expected)
        result.reshape(-1)[...] = np.concatenate(mine)


def run_ranks(size, function, timeout=30.0, board=None):
    """function(world) on each of `size` ranks; what each returned, or the exception that left its block."""
    board = board or Board(size)
    results = [None] * size

    def run(rank):
        try:
            with World(Comm(board, rank), timeout=timeout) as world:
                results[rank] = function(world)
        except BaseException as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), f"a rank hangs: {results}"
    return results


def run_well(size, function, **options):
    results = run_ranks(size, function, **options)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def words(error):
    return f"{type(error).__name__}: {error}"


# --- the sums


def shard_values(number, dtype=np.float32, shape=(37,)):
    """Values of very different sizes, so that the order of a sum shows in its bits."""
    rng = np.random.default_rng([7, number])
    return (rng.normal(size=shape) * 10.0 ** rng.integers(-3, 4, size=shape)).astype(dtype)


def tree(parts):
    """The definition: neighbours are added, an odd one at the end goes up as it is."""
    while len(parts) > 1:
        pairs = [a + b for a, b in zip(parts[::2], parts[1::2], strict=False)]
        parts = pairs + parts[len(parts) - len(parts) % 2 :]
    return parts[0]


def total(world, S, dtype=np.float32, N=None, steps=1):
    shards = world.shards(N or S, S)
    for _ in range(steps):
        for shard in shards:
            shards.add(shard, shard_values(shard.number, dtype), 0.1 * shard.number**3, weight=1.0)
        result = shards.sum()
    return result


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("S", [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 31, 33])
def test_the_sums_are_the_tree_for_any_number_of_ranks(S, dtype):
    expected = tree([shard_values(s, dtype) for s in range(S)])
    loss = tree([0.1 * s**3 for s in range(S)])
    for R in sorted({1, 2, 3, 4, 5, S - 1, S} & set(range(1, S + 1))):
        for g, found in run_well(R, lambda world: total(world, S, dtype, steps=2)):
            assert g.dtype == dtype
            assert g.tobytes() == expected.tobytes(), R
            assert found == loss


def test_the_order_shows():
    """Else the test above would prove nothing."""
    parts = [shard_values(s) for s in range(12)]
    assert (tree(parts) != sum(parts[1:], start=parts[0])).any()
    assert (tree(parts) != tree(parts[::-1])).any()


def test_without_ranks_there_is_no_block_needed():
    g, loss = total(World(), 5)
    assert g.tobytes() == tree([shard_values(s) for s in range(5)]).tobytes()
    assert loss == tree([0.1 * s**3 for s in range(5)])


@pytest.mark.parametrize(
    ("S", "R", "gradients"), [(8, 2, 1), (16, 4, 1), (8, 8, 1), (12, 3, 1), (12, 4, 2), (12, 5, 2), (31, 2, 4)]
)
def test_a_rank_sends_its_subtrees_and_no_more(S, R, gradients):
    board = Board(R)
    run_well(R, lambda world: total(world, S), board=board)
    slices = [(r + 1) * 37 // R - r * 37 // R for r in range(R)]
    assert max(sent - R * n * 4 for sent, n in zip(board.sent, slices, strict=True)) == gradients * 37 * 4


@pytest.mark.parametrize(("S", "R"), [(1, 1), (8, 2), (12, 4), (12, 5), (31, 2), (64, 64), (33, 9), (100, 7)])
def test_the_model_of_the_cost_knows_what_is_sent(S, R):
    from bench.parallel import subtrees

    board = Board(R)
    run_well(R, lambda world: total(world, S), board=board)
    if R > 1:
        slices = [(r + 1) * 37 // R - r * 37 // R for r in range(R)]
        assert [4 * (37 * m + R * n) for m, n in zip(subtrees(S, R), slices, strict=True)] == board.sent
    else:
        assert subtrees(S, 1) == [1]


def test_gradients_by_name_of_any_layout():
    """A mapping gives a dict in its order; strides, byte order and protection of what is given do not matter."""

    def step(world, plain):
        shards = world.shards(9, 9)
        for shard in shards:
            a, b = shard_values(shard.number, shape=(3, 5)), shard_values(shard.number + 50, shape=(7,))
            given = {"b": b, "a": a}
            if not plain:
                strided = np.zeros((5, 6), np.float32).T[::2]
                strided[...] = a
                given = {"b": b.astype(">f4"), "a": strided}
                for array in given.values():
                    array.flags.writeable = False
            before = digest(given)
            shards.add(shard, given, 1.0)
            assert digest(given) == before
        return shards.sum()[0]

    plain = step(World(), True)
    assert list(plain) == ["b", "a"]
    weighted = [np.float32(1 / 9) * shard_values(s, shape=(3, 5)) for s in range(9)]
    assert plain["a"].tobytes() == tree(weighted).tobytes()
    for found in run_well(4, lambda world: step(world, False)):
        assert found.keys() == plain.keys()
        for name, g in found.items():
            assert g.tobytes() == plain[name].tobytes()
            assert g.flags.writeable


def test_results_are_the_callers():
    """What was returned stays as it is, and what is done to it changes no later sum."""
    for R in (1, 3):

        def steps(world):
            shards, kept = world.shards(5, 5), []
            for step in range(4):
                for shard in shards:
                    shards.add(shard, shard_values(10 * step + shard.number), weight=1.0)
                g, _ = shards.sum()
                kept.append((g, g.copy()))
                if step == 1:
                    g[...] = np.nan
            return kept

        for kept in run_well(R, steps):
            for step, (g, copy) in enumerate(kept):
                expected = tree([shard_values(10 * step + s) for s in range(5)])
                np.testing.assert_array_equal(copy, expected)
                np.testing.assert_array_equal(g, expected if step != 1 else np.nan)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 0), (2,), (8,), (33,)])
def test_gradients_smaller_than_the_number_of_ranks(shape):
    def step(world):
        shards = world.shards(6, 6)
        for shard in shards:
            shards.add(shard, shard_values(shard.number, shape=shape), weight=1.0)
        return shards.sum()[0]

    expected = tree([np.asarray(shard_values(s, shape=shape)) for s in range(6)])
    for g in run_well(4, step):
        assert g.shape == shape
        assert g.tobytes() == np.asarray(expected).tobytes()


def test_what_is_not_finite_is_summed_on_all_ranks():
    """Without a warning, which could end one rank in the middle of an exchange."""

    def step(world):
        shards = world.shards(4, 4)
        for shard in shards:
            g = np.full(9, 3e38, np.float32)
            g[0], g[1:3] = np.inf, (np.inf, -np.inf)[shard.number % 2]
            shards.add(shard, g, np.inf, weight=2.0 if shard.number else 1.0)
        return shards.sum()

    for g, loss in [*run_well(3, step), step(World())]:
        assert g[0] == np.inf
        assert np.isnan(g[1:3]).all()
        assert (g[3:] == np.inf).all()
        assert loss == np.inf


@pytest.mark.parametrize(("N", "S", "R"), [(17, 5, 1), (17, 5, 3), (16, 12, 4), (9, 9, 2), (7, 1, 1)])
def test_the_sums_are_those_of_the_whole_batch(N, S, R):
    rng = np.random.default_rng(5)
    T, D, H = 6, 3, 7
    x, y = values(rng, (N, T, D)), values(rng, (N, T, H))
    weights = {"Wx": values(rng, (D, 4 * H)), "Wh": values(rng, (H, 4 * H)), "b": values(rng, (4 * H,))}
    h, _, _, cache = fastgate.lstm_forward(x, None, None, *weights.values())
    whole = fastgate.lstm_backward((h - y) / N, cache)
    expected = {"Wx": whole.dWx, "Wh": whole.dWh, "b": whole.db}

    def step(world):
        shards = world.shards(N, S)
        for shard in shards:
            h, _, _, cache = fastgate.lstm_forward(x[shard.rows], None, None, *weights.values())
            d = h - y[shard.rows]
            rows = shard.rows.stop - shard.rows.start
            g = fastgate.lstm_backward(d / rows, cache)
            shards.add(shard, {"Wx": g.dWx, "Wh": g.dWh, "b": g.db}, 0.5 * (d * d).sum() / rows)
        return shards.sum()

    for g, loss in run_well(R, step):
        assert loss == pytest.approx(0.5 * ((h - y) ** 2).sum() / N, rel=1e-13)
        for name, array in g.items():
            np.testing.assert_allclose(array, expected[name], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("N", "S", "R"), [(1, 1, 1), (16, 12, 4), (17, 12, 5), (33, 7, 3), (100, None, 16)])
def test_shards_cover_the_batch_once(N, S, R):
    def cut(world):
        shards = world.shards(N, S)
        assert shards.rows == slice(next(iter(shards)).rows.start, list(shards)[-1].rows.stop)
        assert len(shards) == len(list(shards))
        assert str(N) in repr(shards)
        return list(shards)

    found = [shard for rank in run_well(R, cut) for shard in rank]
    assert [shard.number for shard in found] == list(range(S or 16))
    assert np.concatenate([np.arange(N)[shard.rows] for shard in found]).tolist() == list(range(N))
    sizes = [shard.rows.stop - shard.rows.start for shard in found]
    assert max(sizes) - min(sizes) <= 1
    assert [shard.weight for shard in found] == [size / N for size in sizes]


def test_the_default_cut_is_that_of_twelve():
    assert len(World().shards(48)) == 12
    assert len(World().shards(5)) == 5


@pytest.mark.parametrize("dtype", ["f4", ">f8", "i2", "?", "c16", "S3"])
@pytest.mark.parametrize("shape", [(), (5,), (0,), (2, 3)])
def test_gather_rows(dtype, shape):
    rng = np.random.default_rng(2)
    expected = (100 * rng.normal(size=(11, *shape))).astype(dtype)

    def gather(world):
        shards = world.shards(11, 5)
        mine = np.zeros_like(expected)
        mine[shards.rows] = expected[shards.rows]
        return shards.gather_rows(mine)

    for R in (1, 2, 3, 5):
        for found in run_well(R, gather):
            assert found.dtype == expected.dtype
            assert found.tobytes() == expected.tobytes()


# --- what ranks tell each other


def test_any_gather_share():
    def talk(world):
        return (
            world.any(world.rank == 2),
            world.any(False),
            world.gather(world.rank**2),
            world.share(lambda: {"by": world.rank}),
        )

    assert run_well(3, talk) == [(True, False, [0, 1, 4], {"by": 0})] * 3
    assert talk(World()) == (False, False, [0], {"by": 0})


def test_a_world_says_what_it_is():
    def facts(world):
        assert len(world.processes) == world.size
        assert all(process.endswith(f":{os.getpid()}") for process in world.processes)
        assert set(world.seconds) == {"waiting", "moving"}
        return world.rank, world.size, world.machines, repr(world)

    assert run_well(2, facts) == [(rank, 2, 1, f"World(rank {rank} of 2)") for rank in range(2)]
    assert World().processes[0].endswith(f":{os.getpid()}")


def test_time_is_counted():
    def slow(world):
        if world.rank == 1:
            time.sleep(0.3)
        world.any(False)
        return world.seconds["waiting"]

    first, second = run_well(2, slow)
    assert first > 0.25
    assert first > second


def all_fail(size, function, message, kind=ParallelError):
    for rank, result in enumerate(run_ranks(size, function)):
        assert type(result) is kind, (rank, result)
        assert str(result) == message


def test_ranks_that_disagree():
    all_fail(4, lambda world: world.agree({"seed": 1, "hidden": 64 if world.rank == 3 else 128}),
             "hidden: ranks 0-2 have 128, rank 3 has 64")  # fmt: skip
    all_fail(5, lambda world: world.agree({"a": world.rank in (0, 1, 3)}), "a: ranks 0, 1, 3 have True, ranks 2, 4 have False")
    all_fail(
        2, lambda world: world.agree({"b": 1} if world.rank else {"b": 1, "c": "x"}), "c: rank 0 has 'x', rank 1 has nothing"
    )
    found = run_ranks(2, lambda world: world.agree({"weights": np.full(5000, 1.0 + (np.arange(5000) == world.rank + 2000))}))
    assert "weights: rank 0 has (5000,) float64 with digest " in str(found[0])
    same = {"x": np.arange(9.0), "seed": 3, 5: None}
    run_well(2, lambda world: world.agree(same if world.rank else dict(reversed(same.items()))))


def test_ranks_with_other_gradients():
    def step(world, shape, dtype):
        shards = world.shards(4, 4)
        for shard in shards:
            shards.add(shard, {"Wx": np.ones(shape, dtype), "b": np.ones(3, dtype)})
        return shards.sum()

    all_fail(3, lambda world: step(world, (2, 3 + (world.rank == 1)), np.float32),
             "gradient Wx: ranks 0, 2 have (2, 3) float32, rank 1 has (2, 4) float32")  # fmt: skip
    all_fail(2, lambda world: in_order(world, ("b", "Wx") if world.rank else ("Wx", "b")),
             "gradients: rank 0 has Wx, b, rank 1 has b, Wx")  # fmt: skip
    all_fail(2, lambda world: in_order(world, ("Wx", "b")[: 2 - world.rank]),
             "gradients: rank 0 has Wx, b, rank 1 has Wx; gradient b: rank 0 has (3,) float64, rank 1 has nothing")  # fmt: skip
    all_fail(2, lambda world: step(world, (2, 3), np.float64 if world.rank else np.float32),
             "gradient Wx: rank 0 has (2, 3) float32, rank 1 has (2, 3) float64; "
             "gradient b: rank 0 has (3,) float32, rank 1 has (3,) float64")  # fmt: skip


def in_order(world, names):
    shards = world.shards(4, 4)
    for shard in shards:
        shards.add(shard, {name: np.ones(3) for name in names})
    return shards.sum()


def test_ranks_with_other_batches():
    all_fail(2, lambda world: world.shards(10 + world.rank, 4), "N: rank 0 has 10, rank 1 has 11")
    all_fail(2, lambda world: world.shards(10, 4 + world.rank), "shards: rank 0 has 4, rank 1 has 5")
    all_fail(2, lambda world: world.shards(4).gather_rows(np.zeros((4, 2 + world.rank))),
             "array: rank 0 has [[4, 2], '<f8'], rank 1 has [[4, 3], '<f8']")  # fmt: skip


def test_ranks_at_different_calls():
    def part(world):
        if world.rank == 1:
            world.any(True)
        elif world.rank == 2:
            world.gather(1)
        else:
            world.agree({})

    all_fail(4, part, "the ranks are not at the same place: ranks 0, 3 are at agree, rank 1 is at any, rank 2 is at gather")
    all_fail(3, lambda world: world.any(True) if world.rank else None,
             "the ranks are not at the same place: rank 0 is at the end, ranks 1, 2 are at any")  # fmt: skip


@pytest.mark.parametrize("error", [ValueError("x: expected 3, got 4"), KeyboardInterrupt(), SystemExit(3)])
def test_an_exception_on_one_rank(error):
    def part(world):
        world.any(False)
        if world.rank == 1:
            raise error
        total(world, 6)

    results = run_ranks(3, part)
    assert results[1] is error
    for result in (results[0], results[2]):
        assert words(result) == f"ParallelError: rank 1: {words(error) if str(error) else type(error).__name__}"


def test_an_exception_on_several_ranks():
    def part(world):
        if world.rank:
            raise ValueError("odd" if world.rank % 2 else "even")
        world.any(False)

    results = run_ranks(5, part)
    assert words(results[0]) == "ParallelError: ranks 1, 3: ValueError: odd; ranks 2, 4: ValueError: even"
    assert [str(result) for result in results[1:]] == ["odd", "even"] * 2


def test_an_exception_on_all_ranks_stays_what_it_is():
    results = run_ranks(3, lambda world: 1 / 0)
    assert [words(result) for result in results] == ["ZeroDivisionError: division by zero"] * 3


def test_an_exception_in_what_rank_0_does_for_all():
    def failing(world):
        world.share(lambda: [][world.rank])

    results = run_ranks(3, failing)
    assert words(results[0]) == "IndexError: list index out of range"
    assert [words(result) for result in results[1:]] == ["ParallelError: rank 0: IndexError: list index out of range"] * 2


def test_a_failure_that_is_handled_by_all_ends_nothing():
    def part(world):
        try:
            world.share(lambda: [][0])
        except (IndexError, ParallelError):
            pass
        return world.any(world.rank == 0)

    assert run_well(3, part) == [True] * 3


def test_an_exception_in_the_middle_of_an_exchange_ends_all_ranks(capfd):
    class Broken(Comm):
        def Alltoallv(self, *_):
            raise OSError("the cable is out")

    board = Board(2)
    results = [None, None]

    def run(rank):
        try:
            with World((Broken if rank else Comm)(board, rank)) as world:
                total(world, 4)
        except BaseException as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [type(result) for result in results] == [Ended, Ended]
    assert (1, 1) in board.aborts
    assert (
        "fastgate.parallel: rank 1: OSError: the cable is out, in the middle of sum; the run ends here"
        in capfd.readouterr().err
    )


def test_a_rank_that_does_not_come_ends_all_ranks(capfd):
    """Here Abort ends the watching thread with Ended, and the waiting rank with it."""
    late = threading.Event()

    def part(world):
        if world.rank == 1:
            late.wait(20)
        world.any(False)

    board = Board(2)
    board.barrier = threading.Barrier(2, timeout=10)
    hook, threading.excepthook = threading.excepthook, lambda args: late.set()
    try:
        results = run_ranks(2, part, timeout=0.4, board=board)
    finally:
        threading.excepthook = hook
    assert all(isinstance(result, Ended) for result in results)
    assert board.aborts[0] == (0, 1)
    text = "fastgate.parallel: rank 0 waited 0.4 s for the others at any; one of them is stopped, or cannot be reached"
    assert text in capfd.readouterr().err


def test_a_world_is_used_once_and_in_its_block():
    def part(world):
        return world

    world = run_well(2, part)[0]
    with pytest.raises(RuntimeError, match="any: expected within a `with World"):
        world.any(True)
    with pytest.raises(RuntimeError, match="entered before"):
        world.__enter__()
    with pytest.raises(RuntimeError, match="shards: expected within a `with World"):
        World(Comm(Board(2), 0)).shards(4)


# --- the machine


@pytest.mark.parametrize(
    ("cpus", "limits", "threads"),
    [
        ([range(8)] * 4, [8] * 4, [2] * 4),
        ([range(8)] * 3, [8] * 3, [2] * 3),
        ([range(4)] * 8, [4] * 8, [1] * 8),
        ([range(4), range(4, 8)], [4, 4], [4, 4]),
        ([range(4), range(4, 8), range(8)], [4, 4, 8], [2, 2, 4]),
        ([range(64)] * 4, [6] * 4, [1] * 4),
        ([range(64)] * 2, [6] * 2, [3] * 2),
    ],
)
def test_ranks_of_a_machine_share_its_cpus(monkeypatch, cpus, limits, threads):
    """cpus: those that each rank may run on; limits: of its CPU quota."""
    for name in ("FASTGATE_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    own = threading.local()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(cpus[own.rank]), raising=False)
    monkeypatch.setattr(parallel, "cpu_limit", lambda: limits[own.rank])
    monkeypatch.setattr(parallel, "get_num_threads", lambda: limits[own.rank])
    chosen = [[] for _ in cpus]
    monkeypatch.setattr(parallel, "set_num_threads", lambda number: chosen[own.rank].append(number))

    class Placed(Comm):
        def Get_rank(self):
            own.rank = self.rank
            return self.rank

    board = Board(len(cpus))

    def run(rank):
        with World(Placed(board, rank)) as world:
            world.any(False)

    workers = [threading.Thread(target=run, args=(rank,)) for rank in range(len(cpus))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert chosen == [[now, before] for now, before in zip(threads, limits, strict=True)]


@pytest.mark.parametrize("name", ["FASTGATE_NUM_THREADS", "OMP_NUM_THREADS", None])
def test_a_number_of_threads_that_was_set_stays(monkeypatch, name):
    monkeypatch.setattr(parallel, "cpu_limit", lambda: 8)
    monkeypatch.setattr(parallel, "get_num_threads", lambda: 8 if name else 5)
    monkeypatch.setattr(parallel, "set_num_threads", lambda _: pytest.fail("set"))
    for variable in ("FASTGATE_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(variable, raising=False)
    if name:
        monkeypatch.setenv(name, "8")
    run_well(2, lambda world: None)


# --- files


def test_checkpoint_and_load(tmp_path):
    rng = np.random.default_rng(1)
    arrays = {
        "file": values(rng, (3, 4), np.float32),
        "m/Wx": values(rng, (5,)),
        "step": np.int64(7),
        "big": values(rng, (2, 3)).astype(">f8"),
        "order": np.asfortranarray(values(rng, (4, 3))),
        "none": np.zeros((0, 4)),
        "name": np.array("ä"),
    }

    def part(world):
        world.checkpoint(tmp_path / "a.npz", arrays if world.rank == 0 else {})
        return world.load(tmp_path / "a.npz")

    for found in (part(World()), *run_well(3, part)):
        assert found.keys() == arrays.keys()
        for name, array in found.items():
            np.testing.assert_array_equal(array, arrays[name])
            assert array.dtype == np.asarray(arrays[name]).dtype
    with np.load(tmp_path / "a.npz", allow_pickle=False) as found:
        np.testing.assert_array_equal(found["m/Wx"], arrays["m/Wx"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_a_checkpoint_that_fails_leaves_the_last_one(tmp_path, monkeypatch):
    world = World()
    world.checkpoint(tmp_path / "a.npz", {"p": np.arange(3)})
    before = (tmp_path / "a.npz").read_bytes()
    write = np.lib.format.write_array

    def full(file, array, **options):
        write(file, array, **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    results = run_ranks(2, lambda world: world.checkpoint(tmp_path / "a.npz", {"p": np.arange(9)}))
    assert words(results[0]) == "OSError: [Errno 28] No space left on device"
    assert words(results[1]) == "ParallelError: rank 0: OSError: [Errno 28] No space left on device"
    assert (tmp_path / "a.npz").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def npz(path, name="p.npy", content=b"", method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as members:
        members.writestr(name, content)


def npy(shape, dtype="<f8", body=b""):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue() + body


def claiming(path):
    """A file whose table of contents agrees with its array's header: 64 GiB that are not there."""
    npz(path, content=npy((2**33,)))
    with zipfile.ZipFile(path, "a") as members:
        part = members.infolist()[0]
        part.file_size = part.compress_size = part.file_size + 2**36
        members.writestr("q.npy", npy((0,)))


def pickled():
    file = io.BytesIO()
    np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    return file.getvalue()


def twice(path):
    with zipfile.ZipFile(path, "a") as members, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        members.writestr("p.npy", npy((0,)))


BAD_FILES = {
    "empty": (lambda path: path.write_bytes(b""), "not a zip file"),
    "noise": (lambda path: path.write_bytes(bytes(range(256)) * 9), "not a zip file"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-40]), "not a zip file"),
    "compressed": (
        lambda path: npz(path, content=npy((9,), body=bytes(72)), method=zipfile.ZIP_DEFLATED),
        "it is compressed",
    ),
    "pickle": (lambda path: npz(path, content=pickled()), "p.npy has not the size of (1,) object"),
    "huge": (lambda path: npz(path, content=npy((2**40,))), "p.npy has not the size of (1099511627776,) float64"),
    "claims": (claiming, "its entries are larger than the file"),
    "pipe": (lambda path: (path.unlink(), os.mkfifo(path)), "it is no regular file"),
    "twice": (twice, "two entries have one name"),
    "negative": (lambda path: npz(path, content=npy((-1, -8), body=bytes(64))), ""),
    "short": (lambda path: npz(path, content=npy((9,), body=bytes(71))), "p.npy has not the size of (9,) float64"),
    "no array": (lambda path: npz(path, content=b"hello"), ""),
    "header": (lambda path: npz(path, content=npy((9,)).replace(b"descr", b"descx")), ""),
    "version": (lambda path: npz(path, content=b"\x93NUMPY\x09\x00" + bytes(200)), "version (9, 0)"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(tmp_path, name):
    spoil, text = BAD_FILES[name]
    path = tmp_path / "a.npz"
    World().checkpoint(path, {"p": np.arange(3)})
    spoil(path)
    with pytest.raises(ValueError, match=r"^path: expected the \.npz file of a checkpoint, got .*a\.npz") as found:
        World().load(path)
    assert text in str(found.value)


def test_a_file_that_is_not_there(tmp_path):
    results = run_ranks(2, lambda world: world.load(tmp_path / "a.npz"))
    assert type(results[0]) is FileNotFoundError
    assert str(results[1]).startswith("rank 0: FileNotFoundError")


# --- bad calls


def shard_of(shards):
    return next(iter(shards))


BAD_CALLS = {
    "comm": (lambda w: World("mpi"), TypeError, "comm: expected an mpi4py communicator or None, got str"),
    "timeout": (lambda w: World(timeout=0), ValueError, "timeout: expected a number > 0, got 0"),
    "timeout none": (lambda w: World(timeout=None), TypeError, "timeout: expected a number > 0, got None"),
    "facts": (lambda w: w.agree([1]), TypeError, "facts: expected a mapping of names to values, got list"),
    "flag": (lambda w: w.any(1), TypeError, "flag: expected True or False, got int 1"),
    "N": (lambda w: w.shards(0), ValueError, "N: expected at least 1 (the number of ranks), got 0"),
    "N float": (lambda w: w.shards(2.0), TypeError, "N: expected an integer, got float"),
    "count": (lambda w: w.shards(4, 0), ValueError, "count: expected at least 1 (the number of ranks), got 0"),
    "count large": (lambda w: w.shards(4, 5), ValueError, "count: expected at most N = 4, got 5"),
    "shard": (lambda w: w.shards(4).add(0, np.ones(3)), TypeError, "shard: expected a Shard, got int"),
    "shard order": (
        lambda w: (s := w.shards(4)).add(list(s)[1], np.ones(3)),
        ValueError,
        "shard: expected the next of this rank, Shard(number=0, rows=slice(0, 1, None), weight=0.25), got Shard(number=1",
    ),
    "shard of others": (
        lambda w: w.shards(4).add(Shard(0, slice(0, 9), 1.0), np.ones(3)),
        ValueError,
        "shard: expected the next",
    ),
    "gradient int": (
        lambda w: (s := w.shards(4)).add(shard_of(s), np.ones(3, int)),
        TypeError,
        "gradient: expected float32 or float64, got int64",
    ),
    "gradient none": (
        lambda w: (s := w.shards(4)).add(shard_of(s), {"a": np.ones(3), "b": None}),
        TypeError,
        "gradient['b']: expected an array of float32 or float64, got None",
    ),
    "gradient mixed": (
        lambda w: (s := w.shards(4)).add(shard_of(s), {"a": np.ones(3), "b": np.ones(3, "f4")}),
        TypeError,
        "gradient['b']: expected float64 as gradient['a'], got float32",
    ),
    "gradient empty": (lambda w: (s := w.shards(4)).add(shard_of(s), {}), ValueError, "gradient: expected at least one array"),
    "gradient masked": (
        lambda w: (s := w.shards(4)).add(shard_of(s), np.ma.ones(3)),
        TypeError,
        "gradient: expected an array, got a masked",
    ),
    "loss": (lambda w: (s := w.shards(4)).add(shard_of(s), np.ones(3), "low"), TypeError, "loss: expected a number, got str"),
    "loss array": (
        lambda w: (s := w.shards(4)).add(shard_of(s), np.ones(3), np.ones(2)),
        TypeError,
        "loss: expected a number, got ndarray",
    ),
    "weight": (
        lambda w: (s := w.shards(4)).add(shard_of(s), np.ones(3), 0.0, -1),
        ValueError,
        "weight: expected a number >= 0, got -1",
    ),
    "weight inf": (
        lambda w: (s := w.shards(4)).add(shard_of(s), np.ones(3), 0.0, np.inf),
        ValueError,
        "weight: expected a finite number",
    ),
    "sum": (lambda w: w.shards(4).sum(), ValueError, "sum: expected after all 4 shards of this rank were added, got 0"),
    "rows": (lambda w: w.shards(4).gather_rows(np.ones((5, 4))), ValueError, "array: expected 4 rows, got the shape (5, 4)"),
    "rows scalar": (lambda w: w.shards(4).gather_rows(np.float64(4)), ValueError, "array: expected 4 rows, got the shape ()"),
    "rows objects": (
        lambda w: w.shards(1).gather_rows(np.array([{}])),
        TypeError,
        "array: expected numbers, got Python objects",
    ),
    "arrays": (
        lambda w: w.checkpoint("a.npz", [np.ones(3)]),
        TypeError,
        "arrays: expected a mapping of names to arrays, got list",
    ),
    "objects": (
        lambda w: w.checkpoint("a.npz", {"a": [{}]}),
        TypeError,
        "arrays['a']: expected a name that is a string, and numbers",
    ),
    "names": (lambda w: w.checkpoint("a.npz", {1: [2]}), TypeError, "arrays[1]: expected a name that is a string, and numbers"),
    "path": (lambda w: w.checkpoint(7, {}), TypeError, "path: expected a path, got int"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    call, kind, message = BAD_CALLS[name]
    with pytest.raises(kind) as found:
        call(World())
    assert str(found.value).startswith(message), str(found.value)
    assert list(tmp_path.iterdir()) == []


def test_a_refused_shard_leaves_the_sums_as_they_were():
    shards = World().shards(3, 3)
    for shard in shards:
        others = (np.ones(36, np.float32), np.ones(37), {"a": np.ones(37, np.float32)}) if shard.number else ()
        for bad in (np.ones(37, int), *others):
            with pytest.raises((TypeError, ValueError), match="gradient: "):
                shards.add(shard, bad)
        shards.add(shard, shard_values(shard.number), weight=1.0)
    with pytest.raises(ValueError, match="shard: expected no other, all 3 of this rank were added"):
        shards.add(shard, shard_values(0))
    assert shards.sum()[0].tobytes() == tree([shard_values(s) for s in range(3)]).tobytes()


def test_too_few_rows_for_the_ranks():
    all_fail(3, lambda world: world.shards(2), "N: expected at least 3 (the number of ranks), got 2", ValueError)
    all_fail(3, lambda world: world.shards(8, 2), "count: expected at least 3 (the number of ranks), got 2", ValueError)


# --- imports


def python(code, **environment):
    environment = os.environ | {"PYTHONPATH": ROOT} | environment
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, text=True, capture_output=True, timeout=60, check=False
    )


def test_imports_are_paid_when_entered():
    code = (
        "import sys, fastgate; assert 'fastgate.parallel' not in sys.modules\n"
        "import fastgate.parallel as p; assert 'mpi4py' not in sys.modules and 'zmq' not in sys.modules\n"
        "sys.modules['mpi4py'] = None\n"
        "with p.World() as world: assert world.shards(4).world is world and world.any(True)\n"
        "try: p.connect()\n"
        "except ImportError as error: print(error)\n"
    )
    found = python(code)
    assert found.stderr == ""
    assert found.stdout.startswith("fastgate.parallel.connect needs mpi4py")
    assert "pip install 'fastgate[mpi]'" in found.stdout


def test_the_demo_says_what_it_needs():
    code = (
        "import sys; sys.modules['mpi4py'] = None\n"
        "from fastgate.__main__ import main\n"
        "sys.exit(main(['demo', '--mpi', '--steps', '1']))\n"
    )
    found = python(code)
    assert found.returncode == 2
    assert found.stderr.startswith("fastgate demo: error: --mpi")
    assert found.stderr.endswith("pip install 'fastgate[mpi]'\n")


# --- real ranks

MPIEXEC = shutil.which("mpiexec", path=os.path.dirname(sys.executable)) or shutil.which("mpiexec")
WITHOUT = [name for name in ("mpi4py", "threadpoolctl") if not importlib.util.find_spec(name)] + (
    [] if MPIEXEC else ["mpiexec"]
)


def mpi(test):
    reason = f"needs {' and '.join(WITHOUT)}: pip install mpi4py mpich threadpoolctl"
    return pytest.mark.beside(pytest.mark.skipif(bool(WITHOUT), reason=reason)(test))


WORDS = "the quick brown fox jumps over the lazy dog; a black cat sleeps.\n" * 40
SIZES = "--hidden 12 --layers 2 --embedding 7 --batch 9 --shards 7 --length 8 --text words.txt --sample 0 --no-picture".split()


def start(ranks, *arguments, launcher=MPIEXEC):
    """python `arguments` on real ranks; 0 ranks: without mpiexec."""
    command = ([launcher, "-n", str(ranks)] if ranks else []) + [sys.executable, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": ROOT}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # A session of its own, so that a hang can be ended by its group.
    return subprocess.Popen(command, env=environment, text=True, start_new_session=True, **pipes)


def finish(process, timeout=60):
    """(status, stdout, stderr); a hang is a failure, and is ended."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"no end within {timeout} s: {out}{err}")
    return process.returncode, out, err


def demo(ranks, *options, **how):
    return start(ranks, "-m", "fastgate", "demo", "--mpi", *SIZES, "--backend", "c", *options, **how)


def resumed(ranks, path, *options):
    fixed = ["--resume", path, "--sample", 0, "--no-picture", "--backend", "c"]
    status, _, err = finish(start(ranks, "-m", "fastgate", "demo", "--mpi", *fixed, *options))
    assert (status, err) == (0, "")


def alone(path, steps, *options):
    """The same demo on this process, without MPI."""
    from fastgate.__main__ import main

    assert main(["demo", *SIZES, "--backend", "c", "--model", str(path), "--steps", str(steps), *options]) == 0
    return contents(path)


def contents(path):
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def assert_same_model(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].tobytes() == b[name].tobytes(), name


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text(WORDS, encoding="utf-8")
    return tmp_path


@mpi
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_the_demo_on_real_ranks(folder, ranks):
    """50 steps, the weights and all else bit for bit those of one process; 25 of them on one rank less, resumed."""
    status, out, err = finish(demo(ranks, "--steps", 25, "--model", "m.npz"))
    assert (status, err) == (0, "")
    assert out.count("step 25/25") == 1
    assert f"ranks     {ranks} on one machine" in out
    assert ("communication took " in out) == (ranks > 1)
    resumed(max(1, ranks - 1), "m.npz", "--steps", 25)
    assert_same_model(contents("m.npz"), alone("alone.npz", 50))


EXAMPLE = Path(__file__).parents[1] / "examples" / "train_on_ranks.py"


@pytest.mark.skipif(not EXAMPLE.exists(), reason="examples/ is not beside tests/")
def test_the_example_alone(folder):
    """200 steps at once, and in two runs, are the same; they learn."""
    outs = [finish(start(0, EXAMPLE, *path)) for path in ([], ["a.npz"])]
    assert [(status, err) for status, _, err in outs] == [(0, "")] * 2
    assert outs[0][1] == outs[1][1]
    losses = [float(line.split()[-1]) for line in outs[0][1].splitlines()[:-1]]
    assert len(losses) == 10
    assert losses[-1] < 0.5 * losses[0]


@mpi
@pytest.mark.skipif(not EXAMPLE.exists(), reason="examples/ is not beside tests/")
def test_the_example_on_real_ranks(folder):
    found = []
    for ranks, path in ((0, "a.npz"), (3, "b.npz")):
        outs = [finish(start(count, EXAMPLE, path)) for count in (ranks, ranks and 2)]
        assert [(status, err) for status, _, err in outs] == [(0, "")] * 2
        found.append([out for _, out, _ in outs])
    assert found[0] == found[1]
    assert_same_model(contents("a.npz"), contents("b.npz"))


@mpi
def test_a_checkpoint_of_4_ranks_goes_on_with_2(folder):
    script = (
        "import sys, numpy as np\n"
        "from fastgate.parallel import connect\n"
        "from test_parallel import shard_values\n"
        "with connect() as world:\n"
        "    p, first = np.zeros(37, np.float32), 0\n"
        "    if len(sys.argv) > 2:\n"
        "        saved = world.load('p.npz')\n"
        "        p, first = saved['p'], int(saved['step'])\n"
        "    shards = world.shards(24, 12)\n"
        "    for step in range(first, int(sys.argv[1])):\n"
        "        for shard in shards:\n"
        "            shards.add(shard, shard_values(100 * step + shard.number) + p, shard.number)\n"
        "        g, loss = shards.sum()\n"
        "        p -= np.float32(0.1) * g\n"
        "    world.agree({'p': p, 'loss': loss})\n"
        "    world.checkpoint('p.npz', {'p': p, 'step': np.int64(sys.argv[1])})\n"
    )
    found = []
    for ranks in ((4, 2), (1, 3)):
        for rank_count, arguments in zip(ranks, (["4"], ["8", "resume"]), strict=True):
            path = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
            assert finish(start(rank_count, "-c", path + script, *arguments)) == (0, "", "")
        found.append(contents("p.npz"))
    assert_same_model(*found)
    assert np.abs(found[0]["p"]).min() > 0


def killed_in_the_middle(launcher, rank=1):
    """A demo one of whose ranks gets SIGKILL after its first save: (status, stderr, the process that died)."""
    process = demo(3, "--steps", 10**6, "--save-every", 7, "--model", "m.npz", launcher=launcher)
    lines = iter(process.stdout.readline, "")
    names = next(line for line in lines if "processes" in line).split()[1:]
    end = time.monotonic() + 60
    while not os.path.exists("m.npz") and time.monotonic() < end:
        time.sleep(0.02)
    victim = int(names[rank].rpartition(":")[2])
    os.kill(victim, signal.SIGKILL)
    status, out, err = finish(process, timeout=30)
    return status, out + err, victim


@mpi
def test_a_rank_that_is_killed_leaves_the_last_checkpoint(folder):
    status, said, victim = killed_in_the_middle(MPIEXEC)
    assert status != 0
    assert said.count(f"fastgate.parallel: rank 1 (process {victim}) died; the run ends here\n") == 1
    steps = len(contents("m.npz")["c/losses"])
    assert steps >= 7
    assert steps % 7 == 0
    resumed(2, "m.npz", "--steps", 5)
    assert_same_model(contents("m.npz"), alone("alone.npz", steps + 5))


@mpi
@pytest.mark.parametrize("rank", [0, 1])
def test_a_death_that_the_launcher_does_not_care_for(folder, rank):
    """MPICH's gforker leaves the others running, or ends them a little later and then has the status 0."""
    launcher = shutil.which("mpiexec.gforker", path=os.path.dirname(MPIEXEC))
    if launcher is None or not hasattr(os, "pidfd_open"):
        pytest.skip("needs mpiexec.gforker and pidfd_open")
    status, said, victim = killed_in_the_middle(launcher, rank)
    assert status != 0 or "signaled with Quit" in said
    assert said.count(f"fastgate.parallel: rank {rank} (process {victim}) died; the run ends here\n") == 1
    assert len(contents("m.npz")["c/losses"]) % 7 == 0


@mpi
def test_a_rank_with_another_hidden_size(folder):
    common = [sys.executable, "-m", "fastgate", "demo", "--mpi", *SIZES, "--steps", "5", "--model", "m.npz"]
    command = [MPIEXEC, "-n", "2", *common, ":", "-n", "1", *common, "--hidden", "13"]
    found = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": ROOT}, text=True, capture_output=True, timeout=60, check=False
    )
    assert found.returncode != 0
    assert found.stderr.count("fastgate demo: error: --hidden: ranks 0, 1 have 12, rank 2 has 13\n") == 1
    assert not os.path.exists("m.npz")


@mpi
def test_ctrl_c_saves(folder):
    process = demo(3, "--steps", 10**6, "--save-every", 0, "--model", "m.npz")
    for line in process.stdout:
        if line.startswith("step"):
            break
    process.send_signal(signal.SIGINT)
    status, out, _ = finish(process)
    assert status != 0
    assert "saved     m.npz" in out
    steps = len(contents("m.npz")["c/losses"])
    assert steps < 10**6
    assert_same_model(contents("m.npz"), alone("alone.npz", steps))


@mpi
def test_more_ranks_than_shards(folder):
    status, _, err = finish(demo(3, "--steps", 1, "--shards", 2))
    assert status != 0
    assert err == "fastgate demo: error: --shards 2: expected at least the number of ranks, 3\n"


@mpi
def test_a_real_rank_that_fails(folder):
    """Tracebacks of ranks run into each other, within a line, too; so each rank writes its last line to a file of its own."""
    script = (
        "import sys, traceback\n"
        "from pathlib import Path\n"
        "from fastgate.parallel import connect\n"
        "with connect() as world:\n"
        "    def write(kind, error, trace):\n"
        "        Path(str(world.rank)).write_text(traceback.format_exception_only(error)[-1])\n"
        "    sys.excepthook = write\n"
        "    world.any(False)\n"
        "    if world.rank == 1: raise ValueError('x: expected 3, got 4')\n"
        "    world.gather(1)\n"
    )
    status, _, _ = finish(start(3, "-c", script), timeout=30)
    assert status != 0
    words = "ValueError: x: expected 3, got 4\n"
    others = f"fastgate.parallel.ParallelError: rank 1: {words}"
    assert [Path(str(rank)).read_text() for rank in range(3)] == [others, words, others]


@mpi
def test_a_real_rank_that_is_stopped():
    script = (
        "import os, signal\n"
        "from fastgate.parallel import connect\n"
        "with connect(timeout=1.5) as world:\n"
        "    if world.rank == 1: os.kill(os.getpid(), signal.SIGSTOP)\n"
        "    world.gather(1)\n"
    )
    status, _, err = finish(start(2, "-c", script), timeout=30)
    assert status != 0
    assert "fastgate.parallel: rank 0 waited 1.5 s for the others at gather; one of them is stopped" in err


@mpi
def test_a_witness_that_is_killed():
    script = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from fastgate.parallel import connect\n"
        "with connect() as world:\n"
        "    if world.rank == 0: os.kill(int(Path(f'/proc/self/task/{os.getpid()}/children').read_text()), signal.SIGKILL)\n"
        "    while True: world.gather(1)\n"
    )
    if not os.path.exists("/proc/self/task"):
        pytest.skip("needs /proc")
    status, _, err = finish(start(2, "-c", script), timeout=30)
    assert status != 0
    assert "fastgate.parallel: the witness of rank 0 died; the run ends here" in err


@mpi
@pytest.mark.parametrize("variable", ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"])
def test_an_mpiexec_of_another_mpi(variable):
    """Each of its processes sees itself alone."""
    code = "import os; from mpi4py import MPI\n"
    code += f"os.environ[{variable!r}] = '4'; import fastgate.parallel as p; p.connect()"
    found = python(code)
    assert "ParallelError: mpiexec started 4 processes, MPI sees 1: it is not the mpiexec of " in found.stderr
