"""Many live streams over one layer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgate import _arguments, _locks
from fastgate.layers import _judge
from fastgate.layers._layer import Layer, Prepared, by_phase, now, one_direction
from fastgate.layers._types import Array

_ROWS = 1024  # streams of one kernel call: their states stay in the cache while it runs


class StreamPool:
    """Thousands of independent streams over one layer, stepped together, whichever of them have something to say.

        pool = StreamPool(layer, capacity=10_000)
        ids = pool.open(3)                  # states of zeros
        y = pool.step(ids[:2], x)           # x (2, D) -> y (2, output_size); the third stream waits
        pool.close(ids)

    layer : an RNN, LSTM, GRU, … of one direction. The pool holds prepared cells, that is, copies of its weights: what is
        trained afterwards counts from the next `update` on.
    capacity : the number of streams that may be open at once. Memory for capacity states is reserved (the system hands it out
        when a stream is first used), and scratch for 1024.

    ids : (n,) integers, what open and fork returned, in any order. An id that is out of range or not open is a ValueError, and
        so is one that comes twice where the call writes; everything is judged before anything changes. A closed id may be
        opened again.
    step, snapshot, restore, fork, reset, open, close, update, ids : many threads may call them at once, they take turns.
    capacity, num_open, layer, nbytes : read-only, as ids.

    A stream has the bits of layer.forward over its own inputs, with training=False: who else is stepped with it, in which order
    and in how many calls changes nothing, nor does the number of threads. With a period each stream counts its own steps, and
    those that stand at different ones are stepped in calls of their own. A pool does not pickle; snapshots do.
    """

    def __init__(self, layer: Layer, capacity: int):
        if not isinstance(layer, Layer):
            raise TypeError(f"layer: expected a layer as fastgate.LSTM is, got {_arguments._kind(layer)}")
        one_direction(layer, "layer")
        self._capacity = _judge.size("capacity", capacity)
        self._layer = layer
        self._dtype, self._output_size = layer.dtype, layer.output_size
        shapes, rows = [shape for _, shape in layer._state_shapes.values()], min(self._capacity, _ROWS)
        bytes_of_states = layer.num_layers * self._capacity * sum(map(math.prod, shapes)) * self._dtype.itemsize
        _arguments._affordable(bytes_of_states + 64 * self._capacity, 0, f"capacity: {self._capacity} streams")
        self._states = [np.zeros((layer.num_layers, self._capacity, *shape), self._dtype) for shape in shapes]
        # With a period, the number of each stream's next step.
        self._steps = None if layer._cycle is None else np.zeros(self._capacity, np.int64)
        # Two sets: a layer's outputs are the inputs of the next one.
        self._scratch = [[np.empty((rows, *shape), self._dtype) for shape in shapes] for _ in range(2)]
        self._is_open = np.zeros(self._capacity, bool)
        self._free = np.arange(self._capacity)[::-1].copy()  # a stack, the lowest id on top
        self._num_free = self._capacity
        self._numbers = np.arange(self._capacity)
        self._place = np.zeros(self._capacity, np.int64)  # of an id in the call that is being judged
        self._ids = np.empty((2, self._capacity), np.int64)
        self._flags = np.empty(self._capacity, bool)
        _locks.give_lock(self)
        self._lock: Any
        self.update()

    @property
    def layer(self) -> Layer:
        """The layer whose weights `update` takes."""
        return self._layer

    @property
    def capacity(self) -> int:
        """How many streams may be open at once."""
        return self._capacity

    @property
    def num_open(self) -> int:
        """How many streams are open."""
        return self._capacity - self._num_free

    @property
    def ids(self) -> NDArray[np.int64]:
        """The ids of all open streams, ascending."""
        with self._lock:
            return np.flatnonzero(self._is_open)

    @property
    def nbytes(self) -> int:
        """Bytes of states, tables, scratch and prepared weights."""
        tables = (self._is_open, self._free, self._numbers, self._place, self._ids, self._flags, self._steps)
        arrays = (*self._states, *tables, *(a for scratch in self._scratch for a in scratch))
        return sum(a.nbytes for a in arrays if a is not None) + sum(cell.nbytes for cell in self._prepared.cells)

    def __repr__(self) -> str:
        return f"<StreamPool of {type(self._layer).__name__}: {self.num_open} of {self._capacity} streams open>"

    def update(self) -> None:
        """Take the layer's present weights, for all streams; states stay."""
        prepared = Prepared(self._layer)
        with self._lock:
            self._prepared = prepared

    def open(self, n: int = 1) -> NDArray[np.int64]:
        """Open n streams with states of zeros; returns their ids (n,). Fewer free than n is a ValueError."""
        n = _judge.size("n", n, 0)
        with self._lock:
            ids = self._take(n, "n")
            self._zero(ids)
            return ids

    def close(self, ids: Any) -> None:
        """Close these streams; their ids may be given out again."""
        with self._lock:
            ids = self._judged(ids)
            self._is_open[ids] = False
            self._free[self._num_free : self._num_free + len(ids)] = ids
            self._num_free += len(ids)

    def step(self, ids: Any, x: Array, out: Array | None = None) -> Array:
        """One step of these streams: y (n, output_size), the outputs of the last layer, from x (n, D), row for row.

        out : array for y, any strides. It may overlap x: the result is as if x had been copied first.

        No memory is allocated but the result, and none with out=, where ids are an int64 array and x is native and aligned with
        a contiguous last axis, and the layer has no zoneout, no period and no delays. A call of more than 1024 streams that
        Ctrl-C ends may have stepped some of them.
        """
        with self._lock:
            ids = self._judged(ids)
            n = len(ids)
            x = _judge.rows(x, self._dtype, ("n", "D"), self._layer.input_size)
            if len(x) != n:
                raise ValueError(f"x: expected (n, D) = {(n, self._layer.input_size)} as ids, got {x.shape}")
            given = _arguments.outputs(out, {"y": (n, self._output_size)}, self._dtype, "the layer")
            y = np.empty((n, self._output_size), self._dtype) if given is None else given["y"]
            if given is not None and np.may_share_memory(y, x):
                x = x.copy()
            for begin in range(0, n, _ROWS):
                rows = slice(begin, begin + _ROWS)
                if self._steps is None:
                    y[rows] = self._step(ids[rows], x[rows], self._prepared.means)
                else:
                    self._step_by_phase(ids[rows], x[rows], y[rows])
            return y

    def _step_by_phase(self, ids, x, y):
        for start, rows in by_phase(self._steps[ids], self._layer._cycle):
            y[rows] = self._step(ids[rows], x[rows], self._prepared.means | {"start": start})
            self._steps[ids[rows]] += 1

    def _step(self, ids, x, around):
        """The outputs of the last layer, in scratch."""
        n = len(ids)
        for k, cell in enumerate(self._prepared.cells):
            states = [a[:n] for a in self._scratch[k % 2]]
            for state, kept in zip(states, self._states, strict=True):
                np.take(kept[k], ids, axis=0, out=state, mode="clip")
            cell.step(x, *states, out=tuple(states) if len(states) > 1 else states[0], **around)
            for state, kept in zip(states, self._states, strict=True):
                kept[k][ids] = state
            x = now(states[0])
        return x

    def snapshot(self, ids: Any) -> Any:
        """The states of these streams, a named tuple h[, c] of copies (num_layers, n, H), h (…, P) with proj_size=P; with a
        period one more field, start (n,), the numbers of their next steps. An id may come twice."""
        with self._lock:
            ids = self._judged(ids, distinct=False)
            return self._layer._StreamState(
                *(np.take(a, ids, axis=1) for a in self._states), *[] if self._steps is None else [self._steps[ids]]
            )

    def restore(self, ids: Any, snapshot: Any) -> None:
        """Put states into these streams, as `snapshot` returned them: a tuple of such arrays, which are copied.

        They may come from elsewhere: (h_T, c_T) of layer.forward, which runs a long beginning faster than steps do (with a
        period, (h_T, c_T, number of the next step)); or from the snapshot of other streams, snapshot(parents) with repetitions,
        say, which is what a beam search does.
        """
        with self._lock:
            ids = self._judged(ids)
            layer = self._layer
            sizes, numbered = (layer.num_layers, len(ids)), self._steps is not None
            arrays = _judge.state("snapshot", snapshot, layer._state_shapes, sizes, self._dtype, numbered=numbered)
            if self._steps is not None:
                self._steps[ids] = arrays.pop()
            for kept, a in zip(self._states, arrays, strict=True):
                kept[:, ids] = a

    def fork(self, ids: Any) -> NDArray[np.int64]:
        """Open a stream for each of these, with a copy of its state; returns the new ids (n,). An id may come twice. Fewer free
        streams than ids is a ValueError."""
        with self._lock:
            parents = self._judged(ids, distinct=False)
            states = [np.take(kept, parents, axis=1) for kept in self._states]
            new = self._take(len(parents), "ids")
            for kept, a in zip(self._states, states, strict=True):
                kept[:, new] = a
            if self._steps is not None:
                self._steps[new] = self._steps[parents]
            return new

    def reset(self, ids: Any) -> None:
        """Put these streams' states back to zeros."""
        with self._lock:
            self._zero(self._judged(ids))

    def _zero(self, ids):
        for kept in self._states:
            kept[:, ids] = 0
        if self._steps is not None:
            self._steps[ids] = 0

    def _take(self, n, name):
        """n free ids, open from now on."""
        if n > self._num_free:
            free = f"{self._num_free} free streams of {self._capacity}"
            raise ValueError(f"{name}: expected no more than the {free}, got {n}")
        self._num_free -= n
        ids = self._free[self._num_free : self._num_free + n][::-1].copy()
        self._is_open[ids] = True
        return ids

    def _judged(self, ids, distinct=True):
        """ids as int64 in memory of the pool's own, good until the next call; each open and, with `distinct`, there once."""
        if not (type(ids) is np.ndarray and ids.dtype == np.int64):
            ids = _arguments._integers("ids", ids)
        if ids.ndim != 1:
            raise ValueError(f"ids: expected (n,), got {ids.shape}")
        n = len(ids)
        if n > self._capacity:
            if distinct:
                raise ValueError(f"ids: expected at most capacity = {self._capacity}, got {n}")
            own = np.empty(n, np.int64)
            numbers = flags = None
        else:
            own, numbers, flags = self._ids[0, :n], self._numbers[:n], self._flags[:n]
        own[...] = ids  # a uint64 that does not fit becomes negative
        if n and (own.max() >= self._capacity or own.min() < 0):
            k = int(((own < 0) | (own >= self._capacity)).argmax())
            raise ValueError(f"ids: expected 0..capacity-1 = 0..{self._capacity - 1}, got {ids[k]} in row {k}")
        if not np.take(self._is_open, own, out=flags, mode="clip").all():
            k = int(self._is_open[own].argmin())
            raise ValueError(f"ids: expected open streams, got {own[k]} in row {k}, which is not open")
        if distinct:
            self._place[own] = numbers
            found = np.take(self._place, own, out=self._ids[1, :n], mode="clip")
            if not np.equal(found, numbers, out=flags).all():
                k = int((found != numbers).argmax())
                raise ValueError(f"ids: expected each stream once, got {own[k]} in rows {k} and {found[k]}")
        return own
