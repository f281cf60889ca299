"""Deep transitions: several micro-steps from one state to the next."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from fastgate import _arguments
from fastgate.layers import _judge
from fastgate.layers._layer import RATES, WEIGHTS, Layer
from fastgate.layers._parameters import plus
from fastgate.layers._types import Array, Lengths, Rng
from fastgate.structures._structure import (
    Cell,
    Shapes,
    State,
    StateOutputs,
    Structure,
    StructureCache,
    StructureGradients,
    Tape,
    TapeBackward,
    config_of,
    kind_of,
    lengths_of,
    within,
    zeros_of,
)


class DeepTransition(Structure):
    """A cell whose way from h_{t-1} to h_t has n micro-steps, each with weights of its own; x enters at the first one.

        s_0 = h_{t-1}                               with an LSTM (h, c)
        s_1 = cell(x_t, s_0; Wx0, Wh0, b0)
        s_k = cell(no x, s_{k-1}; Wh{k-1}, b{k-1})  k = 2 … n
        h_t = s_n

    With an RNN it is the DT-RNN of Pascanu, Gulcehre, Cho and Bengio (2014), equation 7; with a GRU the transition of Miceli
    Barone et al. (2017). n = 1 is the plain layer, bit for bit. Gradients have n times as many steps to go from one time to
    another.

    input_size, hidden_size : D, H. micro_steps : n. cell : "rnn", "lstm", "gru", ….
    rng, and any other option of the cell (b, bh, activation, reset, peephole, dtype, …) : as in its layer, for all micro-steps;
        there is one layer of one direction, without dropout, zoneout and period.
    Weights: Wx0 (D, G·H), Wh0 (H, G·H), b0 (G·H,), …, Wh1, b1, …, in one flat array: parameters, weights, gradients, grads,
    state_dict, save, load as in layers. Fresh ones are drawn as those of the cell's layer.

    forward(x, state=None, *, lengths=None, training=True) -> (h, state, cache)
        x (N, T, D), h (N, T, H), zeros past a row's length; state (h,) or (h, c), arrays (1, N, H), as in a layer. With
        proj_size=P, h is P wide.
    backward(dh, cache, dstate=None, *, accumulate=False, need_dx=True) -> (dx, dstate)
    step(x, state=None) -> state : one time step of x (N, D); h is state.h[0].

    It runs step by step, n calls for each time. A row has the same bits in any batch, padding and number of threads, and in
    chunks. What does not fit is a ValueError or TypeError that names the argument, before anything is computed.
    """

    _kind = "DeepTransition"
    _options: ClassVar[tuple[str, ...]] = ("input_size", "hidden_size", "micro_steps", "cell")
    _rebuilt = (*Structure._rebuilt, "_cell_layer")

    def __init__(
        self, input_size: int, hidden_size: int, *, micro_steps: int = 2, cell: Cell = "gru",
        rng: Rng = None, **options: Any,
    ):  # fmt: skip
        self._create(self._judged(input_size, hidden_size, micro_steps, cell, **options), rng)

    @classmethod
    def _judged(cls, input_size, hidden_size, micro_steps, cell, **options) -> dict[str, Any]:
        config = {
            "input_size": _judge.size("input_size", input_size),
            "hidden_size": _judge.size("hidden_size", hidden_size),
            "micro_steps": _judge.size("micro_steps", micro_steps),
        }
        config = cls._judged_cell(config, cell, options)
        for name, only in (("num_layers", 1), ("bidirectional", False), ("dropout", 0.0), *((name, 0.0) for name in RATES)):
            if config.get(name, only) != only:
                raise ValueError(f"{name}: expected {only}, got {config[name]}")
        return config

    @classmethod
    def _plan(cls, config):
        return {}

    @classmethod
    def _number_of_arrays(cls, config: dict[str, Any]) -> int:
        return config["micro_steps"] * (len(cls._of_cell(config)._shapes()) - 1) + 1

    @classmethod
    def _own(cls, config: dict[str, Any]) -> Shapes:
        shapes = cls._of_cell(config)._shapes()
        return {
            f"{name[:-1]}{k}": shape for k in range(config["micro_steps"]) for name, shape in shapes.items()
            if k == 0 or name != "Wx0"
        }  # fmt: skip

    @classmethod
    def _of_cell(cls, config):
        """The layer of the cell, without weights."""
        layer: Any = object.__new__(kind_of(config["cell"]))
        options = cls._cell_options(config)
        layer._config = config_of(config["cell"], config["input_size"], config["hidden_size"], options)
        return layer

    def _allocate(self) -> None:
        layer = self._of_cell(self._config)
        layer._dtype = np.dtype(self._config["dtype"])
        layer._read_config()
        self._cell_layer: Layer = layer
        super()._allocate()

    def _count(self) -> int:
        first, *others = (int(np.prod(sizes, dtype=object)) for _, sizes in self._cell_layer._shapes().values())
        return first + self.micro_steps * sum(others)

    def _create(self, config, rng):
        self._build(config, rng)
        kind: Any = type(self._cell_layer)
        for k in range(config["micro_steps"]):
            drawn = kind(**self._cell_layer._config, rng=self._rng)
            for name, a in drawn.weights.items():
                if k == 0 or name != "Wx0":
                    self._weights[f"{name[:-1]}{k}"][...] = a

    def _sizes_in_words(self) -> str:
        return f"{super()._sizes_in_words()}, micro_steps = {self.micro_steps}"

    @property
    def micro_steps(self) -> int:
        """n, how many calls of the cell make one step."""
        return self._config["micro_steps"]

    def _of_step(self, k: int) -> dict[str, Array]:
        """The arguments of the cell's functions in micro-step k."""
        found = {name: self._weights[f"{name}{k}"] for name in WEIGHTS if f"{name}{k}" in self._weights}
        layer = self._cell_layer
        return found if k == 0 else {"Wx": np.empty((0, len(layer._gates) * layer._H), self._dtype)} | found

    def forward(self, x: Array, state: State = None, *, lengths: Lengths = None, training: bool = True) -> StateOutputs:
        """(h, state, cache); see the class."""
        training = _arguments.flag("training", training)
        x = _judge.rows(x, self._dtype, ("N", "T", "D"), self._config["input_size"])
        N, T, _ = x.shape
        judged = lengths_of(lengths, N, T)
        states = self._first(state, N)
        tapes = [Tape(self._cell_layer, self._of_step(k), training) for k in range(self.micro_steps)]
        h = np.empty((N, T, self._cell_layer._P), self._dtype)
        for t in range(T):
            states = self._step(tapes, x[:, t], states, None if judged is None else judged > t)
            h[:, t] = states[0]
        cache = StructureCache(self, tapes=tapes, lengths=judged, shape=(N, T)) if training else None
        return StateOutputs(within(h, judged), self._as_state(states), cache)

    def step(self, x: Array, state: State = None) -> State:
        """The state after one time step of x (N, D), a named tuple h[, c] of arrays (1, N, H)."""
        x = _judge.rows(x, self._dtype, ("N", "D"), self._config["input_size"])
        tapes = [Tape(self._cell_layer, self._of_step(k), False) for k in range(self.micro_steps)]
        return self._as_state(self._step(tapes, x, self._first(state, len(x)), None))

    def _step(self, tapes, x, states, active):
        for k, tape in enumerate(tapes):
            states = tape.forward(x if k == 0 else x[:, :0], states, active)
        return states

    def _first(self, state, N):
        if state is None:
            return zeros_of(self._cell_layer, N)
        return tuple(a[0] for a in self._state_of("state", state, self._cell_layer, N))

    def _as_state(self, states):
        return self._cell_layer._State._make(a[None].copy() for a in states)

    def backward(
        self, dh: Array | None, cache: Any, dstate: State = None, *, accumulate: bool = False, need_dx: bool = True
    ) -> StructureGradients:
        """(dx, dstate), and the gradients of the weights in `gradients`; see the class. dh : (N, T, H) or None = zeros."""
        accumulate, need_dx = _arguments.flag("accumulate", accumulate), _arguments.flag("need_dx", need_dx)
        kept = self._cache_of(cache)
        (N, T), D, P = kept["shape"], self._config["input_size"], self._cell_layer._P
        letters = ("N", "T", self._cell_layer._letter_of_h)
        dh = np.zeros((N, T, P), self._dtype) if dh is None else self._array("dh", dh, letters, (N, T, P))
        dh = within(dh, kept["lengths"])
        dstates = self._first_gradient(dstate, N)
        backs = [TapeBackward(tape) for tape in kept["tapes"]]
        dx = np.empty((N, T, D), self._dtype) if need_dx else None
        for t in reversed(range(T)):
            dstates = (dstates[0] + dh[:, t], *dstates[1:])
            for back in backs[:0:-1]:
                _, dstates = back.backward(dstates, need_dx=False)
            found, dstates = backs[0].backward(dstates, need_dx=need_dx)
            if dx is not None:
                dx[:, t] = found
        with self._writing(accumulate):
            for k, back in enumerate(backs):
                for name, gradient in back.weights().items():
                    if gradient.size:
                        plus(self._grads[f"{name}{k}"], gradient)
        return StructureGradients(dx, self._as_state(dstates))

    def _first_gradient(self, dstate, N):
        layer = self._cell_layer
        if dstate is None:
            return self._first(None, N)
        return tuple(a[0] for a in self._state_of("dstate", dstate, layer, N))
