"""Data-parallel training on more than one machine, by MPI: a fixed order of every sum, so the bits of one process.

The batch of N rows is cut into S shards, whatever the number of ranks R <= S. With L_s the loss of shard s (the mean over its
rows) and g_s its gradient,

    L = Σ_s w_s L_s      g = Σ_s w_s g_s      w_s = N_s / N

are the loss and the gradient of the mean over the batch. Both sums are taken along one binary tree over the shards: shard 2k
and shard 2k+1 first, then their sums likewise, where an odd one at the end goes up as it is. A rank has neighbouring shards; it
adds up the subtrees that lie in its hands while they are computed, so it keeps O(log S) gradients. Elements are then exchanged
so that each rank owns 1/R of them (one Alltoallv), finishes the tree for those, and gives them to all (another one). Which
rank held what changes who adds, never what is added to what: 1, 2, 3 or 4 ranks give the same bits, and every rank has them.

A rank first sends as many gradients as it has subtrees: one where R and S are powers of 2, at most 2 log2 S, never more than
it has shards; and then one. In the first case that is what a ring all-reduce moves. Rounding errors grow with log S.

Every exchange begins with a meeting, one message of 24 bytes from each rank, in which all say what they are about to do, with
which shapes, dtypes and settings. If they differ, or if one of them has failed, all of them raise the same ParallelError.

    with connect() as world:                               # mpiexec -n 4 python train.py
        shards = world.shards(N)
        for x, y in batches:                               # the whole batch, the same on every rank
            for shard in shards:                           # those of this rank
                loss, gradient = loss_and_gradient(x[shard.rows], y[shard.rows])
                shards.add(shard, gradient, loss)
            gradient, loss = shards.sum()                  # the same on every rank
            clip_grad_norm([gradient], 1.0)
            optimizer.update(parameters, gradient)
        world.checkpoint("model.npz", {"parameters": parameters})

The tree, pairwise summation, and its rounding error: Higham 2002, "Accuracy and stability of numerical algorithms", chapter 4.
The exchange, slices to their owners and back: Thakur, Rabenseifner, Gropp 2005, "Optimization of collective communication
operations in MPICH".
"""

import fcntl
import hashlib
import json
import math
import operator
import os
import platform
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastgate import _arguments, _npz
from fastgate._version import __version__
from fastgate._witness import SPOKEN
from fastgate.config import get_config
from fastgate.threads import cpu_limit, get_num_threads, set_num_threads

Value = TypeVar("Value")

_FAILED, _END = "failed", "the end"  # what a rank is at, beside the names of its calls
_STARTED = "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"  # how many processes mpiexec started: Open MPI; MPICH, Intel MPI
_THREADS = "FASTGATE_NUM_THREADS", "OMP_NUM_THREADS"


class ParallelError(RuntimeError):
    """The ranks disagree, or one of them has failed: raised by all that are well, with the same words."""


class Shard(NamedTuple):
    """A piece of the batch."""

    number: int  # s = 0 … S-1
    rows: slice  # rows of the batch, s N // S to (s + 1) N // S
    weight: float  # N_s / N


class _Rank(NamedTuple):
    """Where a rank runs."""

    host: str
    machine: str
    pids: str  # the namespace in which `pid` means something
    pid: int
    cpus: frozenset[int]


def connect(*, timeout: float = 1800.0) -> "World":
    """The World of all processes that mpiexec started, over mpi4py; of one process where there was no mpiexec.

    timeout: as in World.

    ImportError without mpi4py (the extra `mpi`). ParallelError where mpiexec started several processes and MPI sees one: then
    mpiexec belongs to another MPI than mpi4py does, and each process would train, and write, alone.
    """
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py is there, an MPI is not
        raise ImportError(f"fastgate.parallel.connect needs mpi4py ({error}): pip install 'fastgate[mpi]'") from None
    started = max((int(os.environ.get(name, "")) for name in _STARTED if os.environ.get(name, "").isdecimal()), default=1)
    if MPI.COMM_WORLD.Get_size() == 1 < started:
        engine = MPI.Get_library_version().split("\n")[0].strip("\0 ")
        raise ParallelError(f"mpiexec started {started} processes, MPI sees 1: it is not the mpiexec of {engine}")
    return World(MPI.COMM_WORLD, timeout=timeout)


class World:
    """The ranks of a run, used in a `with` block: `with World(comm) as world`.

    comm: an mpi4py communicator, which is duplicated (its own messages never mix with these), or None: this process alone,
        without MPI; it need not be in a `with` block.
    timeout: seconds that a rank waits for the others before it ends the run; inf: for ever.

    world.rank, world.size: this rank 0 … R-1, and R. In the block, world.machines: the number of machines; world.processes:
    "host:process" of each rank, by which to find a rank in what mpiexec says of a process that died.
    world.seconds: {"waiting": for other ranks, "moving": exchanging data}, since the block was entered.

    All methods are collective: every rank calls them, in one order. On entering, all ranks must have the same versions of
    fastgate and NumPy; and unless set_num_threads or an environment variable has set a number of threads, ranks that may run on
    the same CPUs share them evenly, until the block is left.

    What ends a run, all of it without a hang, and with a nonzero status unless a rank leaves by os._exit(0):
    - ranks that disagree, or call different methods: ParallelError on all of them, which says who has what;
    - an exception that leaves the block on one rank: it goes on there, the others raise ParallelError with its words when
      they come to their next call;
    - a rank that dies or is killed: most launchers then kill the others. Which rank it was says (on Linux) a witness, a small
      process on each machine that watches its ranks from outside; where the launcher does nothing, it ends the run, too;
    - a rank that does not come within `timeout` seconds, or an exception in the middle of an exchange: words, and Abort.

    Bad input: TypeError or ValueError that begins with the argument's name, before anything is sent; other ranks then learn of
    it as of any exception.
    """

    def __init__(self, comm: Any = None, *, timeout: float = 1800.0) -> None:
        self.timeout = _arguments.number("timeout", timeout, positive=True)
        for name in ("Get_rank", "Get_size", "Dup", "Allgather") if comm is not None else ():
            if not hasattr(comm, name):
                raise TypeError(f"comm: expected an mpi4py communicator or None, got {type(comm).__name__}")
        self.rank: int = comm.Get_rank() if comm is not None else 0
        self.size: int = comm.Get_size() if comm is not None else 1
        self.machines, self.processes = 1, [f"{platform.node()}:{os.getpid()}"]
        self.seconds = {"waiting": 0.0, "moving": 0.0}
        self._given = comm
        self._comm: Any = None
        self._over = self._closing = False
        self._inside: tuple[str, float] | None = None  # the call that waits for others, and since when
        self._watch: _Watch | None = None
        self._threads: int | None = None  # as it was

    def __repr__(self) -> str:
        return f"World(rank {self.rank} of {self.size})"

    # --- the block

    def __enter__(self) -> Self:
        if self._over or self._comm is not None:
            raise RuntimeError("World: entered before; a World is used once")
        if self.size > 1:
            self._comm = self._given.Dup()
            try:
                self._enter()
            except BaseException as error:
                self.__exit__(type(error), error, error.__traceback__)
                raise
        return self

    def _enter(self) -> None:
        with self._talking("entering", "moving"):
            ranks = [_Rank(*rank) for rank in self._comm.allgather(tuple(_here()))]
        here = ranks[self.rank]
        self.machines = len({rank.machine for rank in ranks})
        self.processes = [f"{rank.host}:{rank.pid}" for rank in ranks]
        near = [(r, rank) for r, rank in enumerate(ranks) if rank.machine == here.machine]
        self._watch = _Watch(self, {r: rank.pid for r, rank in near if rank.pids == here.pids})
        fma = "without" if get_config()["isa"] == "baseline" else "with"
        self.agree({"fastgate": __version__, "NumPy": np.__version__, "fused multiply-add": fma})
        if get_num_threads() == cpu_limit() and not any(os.environ.get(name) for name in _THREADS):
            self._threads = get_num_threads()
            set_num_threads(_fair_threads(here.cpus, [rank.cpus for _, rank in near], cpu_limit()))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._comm is None:
            return
        try:
            if not self._over and error is not None:
                self._meet(_FAILED, {"error": _in_words(error)})
            elif not self._over:
                self._meet(_END, {})
                self._closing = True
                self._meet(_END, {})
        finally:
            self._closing = self._over = True
            if self._watch is not None:
                self._watch.stop()
            if self._threads is not None:
                set_num_threads(self._threads)
        if error is None:
            self._comm.Free()

    # --- what all ranks do together

    def agree(self, facts: Mapping[str, Any]) -> None:
        """All ranks have the same facts (settings, seeds, sizes), or all raise ParallelError.

        facts: {name: value}; values are compared by their repr, arrays by shape, dtype and bytes. The error names each fact
        that differs, and who has what: `hidden: ranks 0-2 have 128, rank 3 has 64`.
        """
        if not isinstance(facts, Mapping):
            raise TypeError(f"facts: expected a mapping of names to values, got {type(facts).__name__}")
        self._meet("agree", dict(sorted((str(name), _fact(value)) for name, value in facts.items())))

    def any(self, flag: bool) -> bool:
        """Whether the flag is true on any rank; the same answer on all. For example, whether somebody pressed Ctrl-C."""
        return any(self._meet("any", {}, int(_arguments.flag("flag", flag))))

    def gather(self, value: Value) -> list[Value]:
        """The values of all ranks, rank 0's first, on every rank. Values are pickled."""
        self._meet("gather", {})
        if self.size == 1:
            return [value]
        with self._talking("gather", "moving"):
            return self._comm.allgather(value)

    def share(self, function: Callable[[], Value]) -> Value:
        """Rank 0 calls function(); what it returns, pickled, is returned on every rank. For reading and writing files.

        An exception in it is raised on rank 0; the others raise ParallelError with its words.
        """
        self._meet("share", {})
        value = failure = None
        if self.rank == 0:
            try:
                value = function()
            except Exception as error:
                failure = error
        if self.size > 1:
            with self._talking("share", "waiting"):
                words, value = self._comm.bcast((_in_words(failure) if failure else None, value), 0)
            if words is not None and self.rank != 0:
                raise ParallelError(f"rank 0: {words}")
        if failure is not None:
            raise failure
        return value  # type: ignore[return-value]

    def shards(self, N: int, count: int | None = None) -> "Shards":
        """The cut of a batch of N rows into `count` shards, this rank's part of them: see Shards.

        count: S, from the number of ranks to N. It decides the order of the sums, so it stays the same when a run goes on with
            another number of ranks. Default: 12, which 1, 2, 3, 4, 6 and 12 ranks share evenly; N if that is less, R if that
            is more.
        """
        return Shards(self, N, count)

    def checkpoint(self, path: str | os.PathLike[str], arrays: Mapping[str, Any]) -> None:
        """Rank 0 writes {name: array} as an .npz file; all ranks return when it is on disk, or raise what went wrong.

        It is written beside its place, forced to disk and renamed, so that a crash at any time leaves the file before or the
        new one. What other ranks pass is not looked at. Arrays of Python objects are a TypeError.
        """
        self.share(lambda: _write(path, arrays))

    def load(self, path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
        """The {name: array} that `checkpoint` wrote, read by rank 0, on every rank.

        Nothing is unpickled, and a file cannot ask for more memory than it has bytes: whatever is no such file is a
        ValueError that begins with `path`.
        """
        return self.share(lambda: _read(path))

    # --- inside

    def _meet(self, call: str, facts: dict[str, Any], number: int = 0) -> list[int]:
        """All ranks are at the same call with the same facts, or ParallelError. Returns the numbers of all ranks."""
        if self.size == 1:
            return [number]
        if self._over or self._comm is None:
            raise RuntimeError(f"{call}: expected within a `with World(comm) as world:` block that has not failed")
        digest = hashlib.blake2b(json.dumps([call, facts]).encode(), digest_size=15).digest()
        mine = np.frombuffer(bytes([call == _FAILED]) + digest + number.to_bytes(8, "little", signed=True), np.uint8)
        ranks = np.empty((self.size, mine.size), np.uint8)
        with self._talking(call, "waiting"):
            self._comm.Allgather(mine, ranks)
            if not ranks[:, 0].any() and (ranks[:, :16] == ranks[0, :16]).all():
                return ranks[:, 16:].copy().view("<i8").ravel().tolist()
            self._over = self._closing = True
            met = self._comm.allgather((call, facts))
        if call == _FAILED:
            return []
        raise ParallelError(_difference(met))

    @contextmanager
    def _talking(self, call: str, kind: str) -> Iterator[None]:
        """An exchange: timed, watched, and not left half done."""
        begin = time.monotonic()
        self._inside = (call, begin)
        try:
            yield
        except BaseException as error:
            self._abort(f"rank {self.rank}: {_in_words(error)}, in the middle of {call}")
        finally:
            self._inside = None
            self.seconds[kind] += time.monotonic() - begin

    def _abort(self, words: str | None) -> NoReturn:
        """Ends all ranks at once."""
        if words is not None:
            os.write(2, f"fastgate.parallel: {words}; the run ends here\n".encode())
        if self._watch is not None and self._watch.witness is not None:
            self._watch.send_home()  # the words are said
        self._comm.Abort(1)
        os._exit(1)


class Shards:
    """A batch of N rows in S shards, and the sums over them. Made by World.shards.

    Iterating gives the shards of this rank in rising order: numbers rank·S // R to (rank + 1)·S // R - 1.
    shards.count, shards.N: S and N. shards.rows: the rows of this rank, a slice.

    In every step each rank adds all of its shards, in order, and then takes the sums.
    """

    def __init__(self, world: World, N: int, count: int | None = None) -> None:
        self.world = world
        self.N = _integer("N", N, world.size, "the number of ranks")
        count = max(min(12, self.N), world.size) if count is None else count
        self.count = _integer("count", count, world.size, "the number of ranks")
        if self.count > self.N:
            raise ValueError(f"count: expected at most N = {self.N}, got {self.count}")
        S, R = self.count, world.size
        first = [rank * S // R for rank in range(R + 1)]
        cuts = [s * self.N // S for s in range(S + 1)]
        self._own = [
            Shard(s, slice(cuts[s], cuts[s + 1]), (cuts[s + 1] - cuts[s]) / self.N)
            for s in range(first[world.rank], first[world.rank + 1])
        ]
        self.rows = slice(self._own[0].rows.start, self._own[-1].rows.stop)
        self._rows = [cuts[first[rank + 1]] - cuts[first[rank]] for rank in range(R)]
        self._places = [_subtrees(first[rank], first[rank + 1], S) for rank in range(R)]
        self._facts: dict[str, Any] = {"N": self.N, "shards": S}
        world._meet("shards", self._facts)
        self._layout: _Layout | None = None
        self._added = 0
        self._stack: list[_Node] = []
        self._spare: list[NDArray[Any]] = []

    def __repr__(self) -> str:
        return f"Shards({self.N} rows in {self.count}, rank {self.world.rank} of {self.world.size} has {len(self)})"

    def __len__(self) -> int:
        return len(self._own)

    def __iter__(self) -> Iterator[Shard]:
        return iter(self._own)

    def add(self, shard: Shard, gradient: Any, loss: float = 0.0, weight: float | None = None) -> None:
        """Adds weight · gradient and weight · loss of one shard to the sums.

        shard: the next of this rank's. gradient: one array, or a mapping of names to arrays; float32 or float64, one dtype,
        the same shapes in every shard; it is copied. weight: w_s, default shard.weight, which makes a mean over rows out of
        means over the rows of a shard; where rows count for more or less (lengths, a mask), the shard's share of them.
        Infinities and NaN are summed as they are, without a warning; clip_grad_norm shows them.
        """
        if self._added == len(self._own):
            raise ValueError(f"shard: expected no other, all {len(self)} of this rank were added; take sum() first")
        expected = self._own[self._added]
        if not isinstance(shard, Shard):
            raise TypeError(f"shard: expected a Shard, got {type(shard).__name__}")
        if shard != expected:
            raise ValueError(f"shard: expected the next of this rank, {expected}, got {shard}")
        w = expected.weight if weight is None else _arguments.number("weight", weight)
        if not math.isfinite(w):
            raise ValueError(f"weight: expected a finite number >= 0, got {w}")
        try:
            loss = float(loss)
        except (TypeError, ValueError):
            raise TypeError(f"loss: expected a number, got {type(loss).__name__}") from None
        layout, arrays = _laid_out(gradient)
        if self._layout is None or (self._added == 0 and layout != self._layout):
            self._layout, self._spare = layout, []
        elif layout != self._layout:
            raise ValueError(f"gradient: expected what shard {self._own[0].number} had, {self._layout}; got {layout}")
        flat = self._spare.pop() if self._spare else np.empty(layout.size, layout.dtype)
        with np.errstate(all="ignore"):
            for out, array in zip(layout.views(flat), arrays, strict=True):
                np.multiply(array, layout.dtype.type(w), out=out)
            self._added += 1
            _push(self._stack, _Node(0, expected.number, flat, w * loss), self.count, self._spare)

    def sum(self) -> tuple[Any, float]:
        """(g, L): the sums of what all ranks added, one array or a dict of arrays as given; the same on every rank.

        The arrays are new; those of a dict are views of one flat array, in the order of the dict. The next step may begin.
        """
        if self._layout is None or self._added < len(self._own):
            raise ValueError(f"sum: expected after all {len(self)} shards of this rank were added, got {self._added}")
        layout, stack, world = self._layout, self._stack, self.world
        self._stack, self._added = [], 0
        world._meet("sum", self._facts | layout.facts)
        if world.size == 1:
            g, loss = stack[0].gradient, stack[0].loss
        else:
            losses = np.empty(sum(map(len, self._places)))
            with world._talking("sum", "moving"):
                world._comm.Allgatherv(np.array([node.loss for node in stack]), [losses, [*map(len, self._places)]])
            g = self._gather_sum(stack, layout)
            root: list[_Node] = []
            for (level, place), loss in zip(_in_order(self._places), losses.tolist(), strict=True):
                _push(root, _Node(level, place, _NOTHING, loss), self.count, [])
            loss = root[0].loss
            self._spare += [node.gradient for node in stack]
        return layout.shaped(g), loss

    def gather_rows(self, array: NDArray[Any]) -> NDArray[Any]:
        """An array whose first axis is the batch, with the rows of each rank as that rank has them; the same on every rank.

        array (N, …): only this rank's rows are read. For states that are carried from batch to batch.
        """
        array = np.asarray(array)
        if array.ndim == 0 or len(array) != self.N:
            raise ValueError(f"array: expected {self.N} rows, got the shape {array.shape}")
        if array.dtype.hasobject:
            raise TypeError("array: expected numbers, got Python objects")
        world = self.world
        world._meet("gather_rows", self._facts | {"array": [list(array.shape), array.dtype.str]})
        if world.size == 1:
            return array.copy()
        result = np.empty(array.shape, array.dtype)
        width = array.nbytes // self.N  # bytes: any dtype, also one that MPI has no name for
        with world._talking("gather_rows", "moving"):
            mine = np.ascontiguousarray(array[self.rows]).reshape(-1).view(np.uint8)
            _to_all(world._comm, mine, result.reshape(-1).view(np.uint8), [rows * width for rows in self._rows])
        return result

    def _gather_sum(self, stack: "list[_Node]", layout: "_Layout") -> NDArray[Any]:
        """Slices of the subtrees to their owners, the rest of the tree there, and the slices of the sum to all."""
        world, R, P = self.world, self.world.size, layout.size
        cuts = [rank * P // R for rank in range(R + 1)]
        sizes = [end - begin for begin, end in pairwise(cuts)]
        own = sizes[world.rank]
        with world._talking("sum", "moving"):
            sent = np.concatenate([node.gradient[cuts[r] : cuts[r + 1]] for r in range(R) for node in stack])
            received = np.empty((sum(map(len, self._places)), own), layout.dtype)
            world._comm.Alltoallv(
                [sent, [len(stack) * n for n in sizes]], [received, [len(places) * own for places in self._places]]
            )
            root: list[_Node] = []
            with np.errstate(all="ignore"):
                for (level, place), values in zip(_in_order(self._places), received, strict=True):
                    _push(root, _Node(level, place, values, 0.0), self.count, [])
            result = np.empty(P, layout.dtype)
            _to_all(world._comm, root[0].gradient, result, sizes)
        return result


# --- the tree ----------------------------------------------------------------------------------------------------

_NOTHING: NDArray[Any] = np.empty(0)


class _Node(NamedTuple):
    """The sum over the shards place·2^level … (place + 1)·2^level - 1, as far as they exist."""

    level: int
    place: int
    gradient: NDArray[Any]
    loss: float


def _push(stack: list[_Node], node: _Node, S: int, spare: list[NDArray[Any]]) -> None:
    """Puts the next node on a stack of rising places, joined with its left neighbours into the largest subtrees there are.

    Arrays are added in place, left += right; one that is no longer needed goes to `spare`.
    """
    level, place, gradient, loss = node
    while True:
        if place % 2 and stack and stack[-1][:2] == (level, place - 1):
            left = stack.pop()
            spare.append(gradient)
            gradient = np.add(left.gradient, gradient, out=left.gradient)
            loss = left.loss + loss
        elif place == 0 or place % 2 or (place + 1) << level < S:  # the root, or a neighbour is still to come
            break
        level, place = level + 1, place // 2
    stack.append(_Node(level, place, gradient, loss))


def _subtrees(begin: int, end: int, S: int) -> list[tuple[int, int]]:
    """(level, place) of the largest subtrees of which shards begin … end-1 are made, in rising order."""
    stack: list[_Node] = []
    for s in range(begin, end):
        _push(stack, _Node(0, s, _NOTHING, 0.0), S, [])
    return [node[:2] for node in stack]


def _in_order(places: list[list[tuple[int, int]]]) -> list[tuple[int, int]]:
    return [place for rank in places for place in rank]


def _to_all(comm: Any, mine: NDArray[Any], result: NDArray[Any], sizes: list[int]) -> None:
    """What every rank has, one after the other, to every rank: an Alltoallv that sends the same to each.

    Its messages are whole. MPICH cuts those of an Allgatherv into pieces of 32 KiB and waits for each: with more ranks than
    CPUs, 3.3 million floats on 4 ranks took 0.4 s that way, and 0.01 s this way.
    """
    R = len(sizes)
    comm.Alltoallv([mine, ([mine.size] * R, [0] * R)], [result, sizes])


# --- gradients ---------------------------------------------------------------------------------------------------


class _Layout(NamedTuple):
    """Names and shapes of gradients in one flat array; a single array has the name None."""

    names: tuple[str | None, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        return sum(map(math.prod, self.shapes))

    @property
    def facts(self) -> dict[str, Any]:
        pairs = zip(self.names, self.shapes, strict=True)
        facts = {f"gradient{'' if name is None else f' {name}'}": f"{shape} {self.dtype}" for name, shape in pairs}
        return {"gradients": ", ".join(map(str, self.names))} | dict(sorted(facts.items()))

    def __str__(self) -> str:
        return (
            ", ".join(f"{'' if n is None else f'{n} '}{shape}" for n, shape in zip(*self[:2], strict=True)) + f" {self.dtype}"
        )

    def views(self, flat: NDArray[Any]) -> list[NDArray[Any]]:
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])[:-1]
        return [part.reshape(shape) for part, shape in zip(np.split(flat, ends), self.shapes, strict=True)]

    def shaped(self, flat: NDArray[Any]) -> Any:
        views = self.views(flat)
        return views[0] if self.names == (None,) else dict(zip(self.names, views, strict=True))


def _laid_out(gradient: Any) -> tuple[_Layout, list[NDArray[Any]]]:
    """The layout of a gradient, one array or a mapping, and its arrays."""
    if isinstance(gradient, Mapping):
        if not gradient:
            raise ValueError("gradient: expected at least one array, got an empty mapping")
        names = list(gradient)
        arrays = [_arguments._array(f"gradient[{name!r}]", a, _arguments.KERNEL) for name, a in gradient.items()]
    else:
        names, arrays = [None], [_arguments._array("gradient", gradient, _arguments.KERNEL)]
    dtype = arrays[0].dtype.newbyteorder("=")
    for name, array in zip(names, arrays, strict=True):
        if array.dtype.newbyteorder("=") != dtype:
            raise TypeError(f"gradient[{name!r}]: expected {dtype} as gradient[{names[0]!r}], got {array.dtype}")
    return _Layout(tuple(names), tuple(a.shape for a in arrays), dtype), arrays


def _integer(name: str, value: Any, least: int, words: str) -> int:
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}") from None
    if value < least:
        raise ValueError(f"{name}: expected at least {least} ({words}), got {value}")
    return value


# --- files -------------------------------------------------------------------------------------------------------


def _write(path: str | os.PathLike[str], arrays: Mapping[str, Any]) -> None:
    if not isinstance(arrays, Mapping):
        raise TypeError(f"arrays: expected a mapping of names to arrays, got {type(arrays).__name__}")
    ready = {name: np.asanyarray(array) for name, array in arrays.items()}
    for name, array in ready.items():
        if not isinstance(name, str) or array.dtype.hasobject:
            raise TypeError(f"arrays[{name!r}]: expected a name that is a string, and numbers; got {array.dtype}")
    _npz.write_arrays(path, ready)


def _read(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    with _npz.Npz(path, "the .npz file of a checkpoint") as file:
        return {name: file.read_new(name) for name in file.entries}


# --- words -------------------------------------------------------------------------------------------------------


def _fact(value: Any) -> str:
    if not isinstance(value, np.ndarray):
        return repr(value)
    digest = hashlib.blake2b(np.ascontiguousarray(value).tobytes(), digest_size=4).hexdigest()
    return f"{value.shape} {value.dtype} with digest {digest}"


def _in_words(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _named(ranks: list[int]) -> str:
    """rank 3; ranks 0-2, 5."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    words = ", ".join(f"{a}-{b}" if b > a + 1 else f"{a}, {b}" if b > a else f"{a}" for a, b in runs)
    return f"{'ranks' if len(ranks) > 1 else 'rank'} {words}"


def _difference(met: list[tuple[str, dict[str, Any]]]) -> str:
    """What the ranks differ in, in words."""
    failed = [(rank, facts["error"]) for rank, (call, facts) in enumerate(met) if call == _FAILED]
    if failed:
        texts = [text for _, text in failed]
        return "; ".join(
            f"{_named([rank for rank, other in failed if other == text])}: {text}" for text in dict.fromkeys(texts)
        )

    def grouped(values: list[Any], one: str, more: str) -> str:
        groups = {str(value): [rank for rank, other in enumerate(values) if other == value] for value in values}
        return ", ".join(f"{_named(ranks)} {one if len(ranks) == 1 else more} {text}" for text, ranks in groups.items())

    calls = [call for call, _ in met]
    if len(set(calls)) > 1:
        return f"the ranks are not at the same place: {grouped(calls, 'is at', 'are at')}"
    names = list(dict.fromkeys(name for _, facts in met for name in facts))
    different = {name: [facts.get(name, "nothing") for _, facts in met] for name in names}
    return "; ".join(
        f"{name}: {grouped(values, 'has', 'have')}"
        for name, values in different.items()
        if any(value != values[0] for value in values)
    )


# --- the machine -------------------------------------------------------------------------------------------------


def _here() -> _Rank:
    """Where this rank runs. Ranks with one boot of a kernel are on one machine."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            machine = file.read().strip()
        pids = os.readlink("/proc/self/ns/pid")
    except OSError:
        machine = pids = ""
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return _Rank(platform.node(), machine or platform.node(), pids, os.getpid(), frozenset(cpus))


def _fair_threads(own: frozenset[int], near: list[frozenset[int]], limit: int) -> int:
    """How many threads a rank may use: each CPU is shared by those of this machine that may run on it (`near`, the CPUs of
    each, its own among them); a quota that holds for one rank (a limit below its CPUs) is shared by all of them."""
    share = sum(1 / sum(cpu in cpus for cpus in near) for cpu in own)
    quota = limit // len(near) if limit < len(own) else len(own)
    return max(1, min(int(share + 1e-9), quota))


def _descriptor(pid: int) -> int | None:
    """A descriptor that becomes readable when a process ends; None where the system has no such thing."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _started_witness(ranks: dict[int, tuple[int, int]]) -> "subprocess.Popen[bytes] | None":
    """_witness.py for {rank: (process, pipe)}, watching; None where it could not see them, or cannot be started."""
    fds = [_descriptor(pid) for pid, _ in ranks.values()]
    for fd in fds:
        if fd is not None:
            os.close(fd)
    if None in fds or not sys.executable:
        return None
    script = os.path.join(os.path.dirname(__file__), "_witness.py")
    command = [sys.executable, "-I", "-S", script, *(f"{rank}:{pid}:{pipe}" for rank, (pid, pipe) in ranks.items())]
    try:
        witness = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    except OSError:
        return None
    assert witness.stdout is not None
    witness.stdout.read(1)  # it watches
    return witness


def _pipe() -> tuple[int, int]:
    """A pipe whose writing end has a high number if it may: that of a dying process is then closed before its sockets."""
    reading, writing = os.pipe()
    try:
        high = fcntl.fcntl(writing, fcntl.F_DUPFD_CLOEXEC, 900)
    except OSError:  # fewer files are allowed
        return reading, writing
    os.close(writing)
    return reading, high


class _Watch:
    """A thread that waits for the timeout, and for the end of the witness (_witness.py), whom the first rank of a machine
    starts. near: {rank: process} of the ranks that it can see."""

    def __init__(self, world: World, near: dict[int, int]) -> None:
        self.world = world
        self.witness: subprocess.Popen[bytes] | None = None
        self.ended, self.end = _pipe()
        with world._talking("entering", "moving"):
            pipes = world._comm.allgather(self.ended)
            if world.rank == min(near) and len(set(near.values())) == len(near):  # ranks are processes
                self.witness = _started_witness({rank: (pid, pipes[rank]) for rank, pid in near.items()})
            witness = world._comm.allgather(self.witness.pid if self.witness else 0)[min(near)]
        self.seen = [self.ended]
        if witness and (fd := _descriptor(witness)) is not None:
            self.seen.append(fd)
        self.thread = threading.Thread(target=self.run, name="fastgate.parallel", daemon=True)
        self.thread.start()

    def run(self) -> None:
        poll = select.poll()
        for fd in self.seen:
            poll.register(fd, select.POLLIN)
        tick = min(1.0, self.world.timeout / 4)
        while True:
            ready = poll.poll(1000 * tick)
            if self.world._closing or any(fd == self.ended for fd, _ in ready):
                return
            if ready and self.witness is not None and self.witness.wait() != SPOKEN:
                self.world._abort(f"the witness of rank {self.world.rank} died")
            elif ready:
                time.sleep(0.0 if self.witness else 0.2)  # the rank that started the witness knows whether it spoke
                self.world._abort(None)
            inside = self.world._inside
            if inside and time.monotonic() - inside[1] > self.world.timeout:
                words = f"rank {self.world.rank} waited {self.world.timeout:g} s for the others at {inside[0]}"
                self.world._abort(f"{words}; one of them is stopped, or cannot be reached")

    def send_home(self) -> None:
        if self.witness:
            try:
                self.witness.communicate(b"x")
            except OSError:  # it has spoken, and gone
                self.witness.wait()
            self.witness = None

    def stop(self) -> None:
        os.write(self.end, b"x")
        self.thread.join()
        for fd in (*self.seen, self.end):
            os.close(fd)
        self.send_home()
