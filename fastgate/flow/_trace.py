"""What the instruments look at: the states of a model on some sequences, and the gradients of a loss with respect to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastgate
from fastgate import _arguments, _cell, reference
from fastgate.layers import _judge
from fastgate.layers._layer import Layer
from fastgate.layers._types import Lengths, Rng
from fastgate.reference import sequence

Array = NDArray[Any]
TOTALS = ("dh_total", "dc_total")
WEIGHTS = ("Wx", "Wh", "b", "bh", "peephole", "Wr", "alpha")
# Of a cell, what its steps are made of; grad_clip is not among it: it changes what a backward pass gives, not the Jacobians.
OPTIONS = ("activation", "output", "candidate", "coupled", "cell_clip", "preact_clip", "reset", "update", "gate_order")
CELLS = ("rnn", "lstm", "gru", "leaky", "memory")
CONFIG = (
    "input_size", "hidden_size", "num_layers", "bidirectional", "merge", "dropout", "b", "bh", "peephole", "Wh", "alpha",
    "learn_alpha", "proj_size", "period", "dtype", "grad_clip", *OPTIONS,
)  # fmt: skip
BLOCKS = ("state", "h", "c")


@dataclass(frozen=True)
class Trace:
    """One layer in one direction, or one prepared cell, on N sequences, as it was then. Past a row's length all is 0."""

    name: str  # "LSTMCell", "layer 0", "layer 1, reverse"
    suffix: str  # what the names of a layer's weights end in: "0", "1_reverse"; "" of a cell
    cell: str  # "rnn", "lstm", "gru", "leaky", "memory"
    weights: dict[str, Array]  # by the names of the function's arguments
    options: dict[str, Any]  # of a leaky cell also an alpha that is constant, and Wh=None
    x: Array  # (N, T, D), of an inner layer its own input
    h: Array  # (N, T, H); beside a projection all of h is P wide
    c: Array | None  # (N, T, H)
    h0: Array  # (N, H)
    c0: Array | None
    lengths: NDArray[np.int64]  # (N,)
    reverse: bool
    dh_total: Array  # (N, T, H), dL/dh_t
    dc_total: Array | None
    gradients: dict[str, Array] = field(default_factory=dict)  # of the weights: dWx, dWh, …; empty where they were not computed
    period: NDArray[np.int64] | None = None  # (H,), of units that hold: the k-th step of a row, from 0, moves those it divides

    def __repr__(self) -> str:
        N, T, D = self.x.shape
        return f"<Trace of {self.name}: {self.cell}, N={N}, T={T}, D={D}, H={self.hidden_size}>"

    @property
    def has_c(self) -> bool:
        return self.c is not None

    @property
    def gates(self) -> str:
        """The letters of the gates, in canonical order."""
        return getattr(reference, self.cell).GATES

    @cached_property
    def alive(self) -> NDArray[np.bool_]:
        """(N, T), where a row has a step."""
        return np.arange(self.x.shape[1]) < self.lengths[:, None]

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """(N, T), the time of each row's k-th step; steps that a row does not have stand last."""
        times = np.arange(self.x.shape[1])
        return np.where(self.alive & self.reverse, self.lengths[:, None] - 1 - times, times)

    @cached_property
    def held(self) -> NDArray[np.bool_] | None:
        """(N, T, H), where a unit holds its states; None without a period."""
        if self.period is None:
            return None
        number = np.empty_like(self.order)
        np.put_along_axis(number, self.order, np.broadcast_to(np.arange(self.x.shape[1]), number.shape), axis=1)
        return self.alive[..., None] & (number[..., None] % self.period != 0)

    @cached_property
    def moves(self) -> NDArray[np.bool_]:
        """(N, T, H), where a row has a step and a unit moves."""
        alive = np.broadcast_to(self.alive[..., None], (*self.alive.shape, self.hidden_size))
        return alive if self.held is None else alive & ~self.held

    @property
    def hidden_size(self) -> int:
        """H."""
        return self.weights["Wx"].shape[1] // len(self.gates)

    def zoneout(self, held: NDArray[np.bool_] | None) -> dict[str, NDArray[np.bool_]]:
        """The masks that make units hold, as the cell's functions take them: a share of 1 is the whole."""
        return {} if held is None else {f"zoneout_{p}": held for p in ("h", "c")[: 1 + self.has_c]}

    def in_order(self, a: Array) -> Array:
        """(N, T, …) with each row's steps in the order of computation."""
        return np.take_along_axis(a, self.order.reshape(*self.order.shape, *[1] * (a.ndim - 2)), axis=1)

    def previous(self, name: str) -> Array:
        """(N, T, H), h_{t-1} or c_{t-1} at t."""
        states, first = getattr(self, name), getattr(self, f"{name}0")
        before = np.concatenate([first[:, None], self.in_order(states)[:, :-1]], axis=1)
        back = np.empty_like(before)
        np.put_along_axis(back, self.order[..., None], before, axis=1)
        return back * self.alive[..., None]

    def function(self, what: str) -> Any:
        return getattr(fastgate, f"{self.cell}_{what}")

    def arguments(self) -> dict[str, Any]:
        """Weights and options, as the cell's functions take them; arrays in float64."""
        given = self.weights | self.options
        return {name: a.astype(np.float64) if isinstance(a, np.ndarray) else a for name, a in given.items()}

    def definition(self) -> tuple[Any, sequence.Weights, Any]:
        """(cell, canonical weights, judged call) of the reference, in float64."""
        step = getattr(reference, f"{self.cell}_step_forward")
        states = (None,) * (1 + self.has_c)
        cache = step(np.empty((0, len(self.weights["Wx"]))), *states, **self.arguments()).cache
        return cache.cell, sequence.canonical_weights(cache.call), cache.call

    def flat(self, a: Array) -> Array:
        """(ΣT, …) in float64, the rows that are alive."""
        return a[self.alive].astype(np.float64)

    def spread(self, rows: Array, fill: float = 0.0) -> Array:
        """(N, T, …) of (ΣT, …)."""
        whole = np.full((*self.alive.shape, *rows.shape[1:]), fill, rows.dtype)
        whole[self.alive] = rows
        return whole


def trace(
    model: Any, x: Array, h0: Array | None = None, c0: Array | None = None, *, dh: Array | None = None,
    dh_T: Array | None = None, dc_T: Array | None = None, lengths: Lengths = None, reverse: bool = False, rng: Rng = 0,
    dh_total: Array | None = None, dc_total: Array | None = None,
) -> tuple[Trace, ...]:  # fmt: skip
    """Run a model forward and backward and keep what the instruments look at; a Trace for each layer and direction.

    model : an RNN, LSTM, GRU, Leaky or Memory layer, or a prepared cell (RNNCell(Wx, Wh, b), LSTMCell, …), whose Trace is the
        only one. With a period, a row's first step is number 0.
    x : (N, T, D). h0, c0 : the states before the first step, as the model's forward takes them. lengths : (N,) or None.
        reverse : of a cell, as in its forward.
    dh, dh_T, dc_T : the gradients of the loss, as the model's backward takes them. None of them given stands for a loss that
        looks at the last state alone: dh_T is drawn from a standard normal distribution, for each row and direction of the
        last layer, and brought to length 1.
    dh_total, dc_total : of a cell, what its backward gave for need=(…, "dh_total", "dc_total"); no backward pass is run then.
    rng : a Generator or a seed, for that dh_T, and for the masks of a layer's dropout

    Nothing of the model changes: a layer's gradients and generator stay. What does not fit is a ValueError or TypeError
    that names the argument, in the words of the model's forward and backward.
    """
    rng = _judge.generator(rng)
    _judge_model(model)
    if isinstance(model, Layer):
        if _arguments.flag("reverse", reverse):
            raise ValueError("reverse: expected False for a layer, got True")
        for name, value in (("dh_total", dh_total), ("dc_total", dc_total)):
            if value is not None:
                raise ValueError(f"{name}: expected None for a layer, whose backward pass is run here")
        return _of_layer(model, x, (h0, c0), dh, (dh_T, dc_T), lengths, rng)
    return (_of_cell(model, x, (h0, c0), dh, (dh_T, dc_T), lengths, reverse, rng, (dh_total, dc_total)),)


def _judge_model(model: Any) -> None:
    """A layer or cell whose steps are those of the reference's cell, with nothing around them but a period."""
    around: set[str] = set()
    if isinstance(model, Layer):
        around = {name for name, value in model.config.items() if name not in CONFIG and value}
    elif not isinstance(model, _cell._Cell):
        cells = "a layer (RNN, LSTM, GRU, …) or a prepared cell (RNNCell, LSTMCell, GRUCell, …)"
        raise TypeError(f"model: expected {cells}, got {_arguments._kind(model)}")
    elif model.delays is not None:
        around = {"delays"}
    if model._cell not in CELLS:
        raise ValueError(f"model: expected {_arguments._listed(CELLS, 'or', quote='')}, got {model._cell}")
    if around:
        raise ValueError(f"model: expected one without {min(around)}=, which fastgate.flow does not know")


def one(found: Any, name: str = "trace") -> Trace:
    """A Trace, or the only one of a tuple."""
    if isinstance(found, Trace):
        return found
    if isinstance(found, tuple) and found and all(isinstance(t, Trace) for t in found):
        if len(found) == 1:
            return found[0]
        raise ValueError(
            f"{name}: expected one Trace, got {len(found)}, of {', '.join(t.name for t in found)}; pass one of them"
        )
    raise TypeError(f"{name}: expected a Trace, what fastgate.flow.trace returns, got {_arguments._kind(found)}")


def block_of(t: Trace, block: str) -> str:
    _arguments.option("block", block, BLOCKS)
    if block == "c" and not t.has_c:
        raise ValueError(f'block: expected "state" or "h" for {t.cell}, which has no c, got "c"')
    return block


def _probe(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    """Directions of length 1 along the last axis."""
    drawn = rng.standard_normal(shape)
    return (drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)).astype(dtype)


def _of_cell(cell, x, given, dh, upstream, lengths, reverse, rng, totals):
    states, final = (given, upstream) if cell._has_c else (given[:1], upstream[:1])
    for name, value in (("c0", given[1]), ("dc_T", upstream[1]), ("dc_total", totals[1])):
        if value is not None and not cell._has_c:
            raise ValueError(f"{name}: expected None for {type(cell).__name__}, which has no c")
    found = cell.forward(x, *states, lengths=lengths, reverse=reverse)
    call = found.cache.call
    backward = getattr(fastgate, f"{cell._cell}_backward")
    names = TOTALS[: 1 + cell._has_c]
    if any(a is not None for a in totals[: len(names)]):
        for name, value in (("dh", dh), ("dh_T", upstream[0]), ("dc_T", upstream[1])):
            if value is not None:
                raise ValueError(f"{name}: expected None beside dh_total, which holds it already")
        totals = [_arguments._array(name, a, (call.dtype,), "the cell") for name, a in zip(names, totals, strict=False)]
        letters = ("H" if call.Wr is None else "P", "H")
        for name, a, letter, size in zip(names, totals, letters, (call.P, call.H), strict=False):
            _arguments._shape(name, a, ("N", "T", letter), (call.N, call.T, size))
        totals = [np.array(a, call.dtype) for a in totals]
        return _traced(type(cell).__name__, "", cell._options, found.cache, found.h, totals, None)
    if dh is None and all(a is None for a in final):
        final = (_probe(rng, (call.N, call.P), call.dtype), None)[: len(final)]
    need = (*_arguments.gradient_names(call), *names)
    gradients = backward(dh, found.cache, *final, need=need)
    return _traced(
        type(cell).__name__, "", cell._options, found.cache, found.h, [getattr(gradients, n) for n in names], gradients
    )


def _of_layer(layer, x, given, dh, upstream, lengths, rng):
    count = 1 + (len(layer._State._fields) > 1)
    for name, value in (("c0", given[1]), ("dc_T", upstream[1])):
        if value is not None and count == 1:
            raise ValueError(f"{name}: expected None for {type(layer).__name__}, which has no c")
    found = layer.forward(x, *given[:count], lengths=lengths, rng=rng)
    N, T, _ = found.cache._sizes
    if dh is None and all(a is None for a in upstream[:count]):
        first = np.zeros((layer.num_layers * layer.num_directions, N, layer._P), layer.dtype)
        first[-layer.num_directions :] = _probe(rng, (layer.num_directions, N, layer._P), layer.dtype)
        upstream = (first, None)
    if dh is not None:
        dh = _arguments._array("dh", dh, (layer.dtype,), "the layer")
        _arguments._shape("dh", dh, ("N", "T", "output_size"), (N, T, layer.output_size))
    upstream = layer._states(("dh_T", "dc_T"), upstream[:count], N)
    traces = []
    for i, gradients in enumerate(layer._totals(dh, found.cache, upstream)):
        k, d = divmod(i, layer.num_directions)
        name, suffix = f"layer {k}" + ", reverse" * d, f"{k}" + "_reverse" * d
        totals = [getattr(gradients, name) for name in TOTALS[:count]]
        traces.append(_traced(name, suffix, layer._options, found.cache._caches[k][d], None, totals, gradients))
    return tuple(traces)


def _traced(name, suffix, options, cache, h, totals, gradients):
    """The Trace of a forward call; h None: it is computed again."""
    call = cache.call
    # Copies: a trace says how things stood, whatever becomes of the weights.
    given = {key: getattr(call, key) for key in WEIGHTS}
    weights = {key: a.copy() for key, a in given.items() if isinstance(a, np.ndarray) and key not in options}
    options = {key: value for key, value in options.items() if key in OPTIONS and value is not None}
    if call.cell == "leaky" and "alpha" not in weights:
        options["alpha"] = (
            np.array(call.alpha, call.dtype) if isinstance(call.alpha, np.ndarray) else float(call.dtype.type(call.alpha))
        )
    if call.Wh is None:
        options["Wh"] = None
    lengths = np.full(call.N, call.T) if call.lengths is None else call.lengths
    period = None if call.rhythm is None else call.rhythm.period
    run = weights | options | {"period": period}
    if h is None:
        states = (call.h0, call.c0)[: 1 + call.has_c]
        forward = getattr(fastgate, f"{call.cell}_forward")
        h = forward(call.x, *states, **run, lengths=call.lengths, reverse=call.reverse, training=False).h
    given = ((call.h0, call.P), (call.c0, call.H))
    h0, c0 = (np.array(np.broadcast_to(call.dtype.type(0) if a is None else a, (call.N, size))) for a, size in given)
    c = _cell_states(call, run, lengths, h0, c0) if call.has_c else None
    kept = {} if gradients is None else {key: a for key, a in gradients._asdict().items() if key[1:] in weights}
    x = np.where((np.arange(call.T) < lengths[:, None])[..., None], call.x, 0)
    dh_total, dc_total = (*totals, None)[:2]
    # fmt: off
    return Trace(
        name, suffix, call.cell, weights, options, x, h, c, h0, c0 if call.has_c else None, lengths, call.reverse,
        dh_total, dc_total, kept, period)
    # fmt: on


def _cell_states(call, run, lengths, h0, c0):
    """c after every step, (N, T, H): steps of a prepared cell, whose bits are those of the sequence."""
    prepared = getattr(fastgate, f"{_arguments.class_name(call.cell)}Cell")(**run)
    states = np.zeros((call.N, call.T, call.H), call.dtype)
    h, c = h0.copy(), c0.copy()
    for step in range(call.T):
        rows = np.flatnonzero(step < lengths)
        times = lengths[rows] - 1 - step if call.reverse else np.full(rows.size, step)
        h[rows], c[rows] = prepared.step(call.x[rows, times], h[rows], c[rows], start=step)
        states[rows, times] = c[rows]
    return states
