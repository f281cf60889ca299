"""The three designs of the textbook: an output at every step, a recurrence through the output alone, one output at the end."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from fastgate import _arguments
from fastgate.layers import _affine, _judge
from fastgate.layers._layer import Layer, now
from fastgate.layers._types import Array, Lengths, Rng
from fastgate.reference.rnn import OPTIONS
from fastgate.structures._structure import (
    Cell,
    Outputs,
    Shapes,
    State,
    Structure,
    StructureCache,
    StructureGradients,
    config_of,
    lengths_of,
    within,
)


class _LayerAndOutput(Structure):
    """A layer and an affine output."""

    _options = ("input_size", "hidden_size", "output_size", "cell")

    def __init__(
        self, input_size: int, hidden_size: int, output_size: int, *, cell: Cell = "lstm",
        rng: Rng = None, **options: Any,
    ):  # fmt: skip
        self._create(self._judged(input_size, hidden_size, output_size, cell, **options), rng)

    @classmethod
    def _judged(cls, input_size, hidden_size, output_size, cell, **options) -> dict[str, Any]:
        config = {
            "input_size": _judge.size("input_size", input_size),
            "hidden_size": _judge.size("hidden_size", hidden_size),
            "output_size": _judge.size("output_size", output_size),
        }
        return cls._judged_cell(config, cell, options)

    @classmethod
    def _plan(cls, config):
        options = cls._cell_options(config)
        return {"layer": (config["cell"], config_of(config["cell"], config["input_size"], config["hidden_size"], options))}

    def _run_layer(self, x, state, lengths, training, rng, *, return_sequences):
        """What the layer's forward returns, and the lengths, all arguments judged."""
        training = _arguments.flag("training", training)
        layer: Any = self.layer
        x = _judge.rows(x, self._dtype, ("N", "T", "D"), layer.input_size)
        judged = lengths_of(lengths, *x.shape[:2])
        states = self._state_of("state", state, layer, len(x))
        return layer.forward(x, *states, lengths=judged, training=training, return_sequences=return_sequences, rng=rng), judged

    @property
    def layer(self) -> Layer:
        """The layer, whose weights lie in `parameters`."""
        return self._parts["layer"]

    @property
    def output_size(self) -> int:
        """K, the width of o."""
        return self._config["output_size"]


class OutputEveryStep(_LayerAndOutput):
    """An output at every step, the recurrence between the hidden units: the first design.

        h = layer.forward(x, state)                 an RNN, LSTM, GRU, …
        o_t = h_t V + c

    input_size, hidden_size, output_size : D, H, K. cell : "rnn", "lstm", "gru", "leaky", "memory", "lstm_norm" or
        "gru_norm".
    rng, and any other argument of the layer (num_layers, bidirectional, dropout, dtype, …) : as there.
    Weights: layer.Wx0 …, V (output_size of the layer, K), c (K,), in one flat array: parameters, weights, gradients, grads,
    state_dict, save, load as in layers. Fresh V uniform (Glorot and Bengio 2010), c zeros.

    forward(x, state=None, *, lengths=None, training=True, rng=None) -> (o, state, cache)
        x (N, T, D), o (N, T, K), zeros past a row's length; state (h,) or (h, c) as the layer's h0, c0 and h_T, c_T.
    backward(do, cache, dstate=None, *, accumulate=False, need_dx=True) -> (dx, dstate)
        do, dstate : None = zeros; what do holds past a row's length is ignored, even NaN.

    A row has the same bits in any batch, padding and number of threads. What does not fit is a ValueError or TypeError that
    names the argument, before anything is computed. Goodfellow, Bengio and Courville, Deep Learning, figure 10.3, equations
    10.8 to 10.11.
    """

    _kind, _takes_delays = "OutputEveryStep", True

    @classmethod
    def _own(cls, config: dict[str, Any]) -> Shapes:
        width, K = cls._layers(config)["layer"].output_size, config["output_size"]
        return {"V": (("H", "K"), (width, K)), "c": (("K",), (K,))}

    def forward(
        self, x: Array, state: State = None, *, lengths: Lengths = None, training: bool = True, rng: Rng = None
    ) -> Outputs:
        """(o, state, cache); see the class."""
        (h, *after, inner), judged = self._run_layer(x, state, lengths, training, rng, return_sequences=True)
        o, output = _affine.forward(h, self._weights["V"], self._weights["c"], training=training)
        cache = StructureCache(self, inner=inner, output=output, lengths=judged, shape=o.shape) if training else None
        return Outputs(within(o, judged), self.layer._State._make(after), cache)

    def backward(
        self, do: Array | None, cache: Any, dstate: State = None, *, accumulate: bool = False, need_dx: bool = True
    ) -> StructureGradients:
        """(dx, dstate), and the gradients of the weights in `gradients`; see the class."""
        accumulate, need_dx = _arguments.flag("accumulate", accumulate), _arguments.flag("need_dx", need_dx)
        kept, layer = self._cache_of(cache), self.layer
        N, T, K = kept["shape"]
        last = self._state_of("dstate", dstate, layer, N)
        if do is not None:
            do = within(self._array("do", do, ("N", "T", "K"), (N, T, K)), kept["lengths"])
        with self._writing(accumulate):
            dh = None if do is None else self._output_backward(do, kept["output"])
            dx, *first = layer.backward(dh, kept["inner"], *last, accumulate=True, need_dx=need_dx)  # type: ignore[attr-defined]
        return StructureGradients(dx, layer._State._make(first))


class FinalOutput(_LayerAndOutput):
    """One output at the end of a sequence: the third design.

        h_T = layer.forward(x, state).h_T           that of the last layer, of both directions side by side
        o = h_T V + c

    input_size, hidden_size, output_size : D, H, K. cell : "rnn", "lstm", "gru", "leaky", "memory", "lstm_norm" or
        "gru_norm".
    rng, and any other argument of the layer (num_layers, bidirectional, dropout, dtype, …) : as there.
    Weights: layer.Wx0 …, V (num_directions·H, K), with proj_size=P (num_directions·P, K), c (K,); all else as in
    OutputEveryStep.

    forward(x, state=None, *, lengths=None, training=True, rng=None) -> (o, state, cache)
        x (N, T, D), o (N, K), from the row's own last step; a row without a step has its first state.
    backward(do, cache, dstate=None, *, accumulate=False, need_dx=True) -> (dx, dstate)

    Deep Learning, figure 10.5.
    """

    _kind, _takes_delays = "FinalOutput", True

    @classmethod
    def _own(cls, config: dict[str, Any]) -> Shapes:
        layer, K = cls._layers(config)["layer"], config["output_size"]
        return {"V": (("H", "K"), (layer.num_directions * layer._P, K)), "c": (("K",), (K,))}

    def forward(
        self, x: Array, state: State = None, *, lengths: Lengths = None, training: bool = True, rng: Rng = None
    ) -> Outputs:
        """(o, state, cache); see the class."""
        (_, *after, inner), _ = self._run_layer(x, state, lengths, training, rng, return_sequences=False)
        last = np.concatenate([now(h) for h in after[0][-self.layer.num_directions :]], axis=1)
        o, output = _affine.forward(last, self._weights["V"], self._weights["c"], training=training)
        cache = StructureCache(self, inner=inner, output=output, shape=o.shape) if training else None
        return Outputs(o, self.layer._State._make(after), cache)

    def backward(
        self, do: Array | None, cache: Any, dstate: State = None, *, accumulate: bool = False, need_dx: bool = True
    ) -> StructureGradients:
        """(dx, dstate), and the gradients of the weights in `gradients`; see the class."""
        accumulate, need_dx = _arguments.flag("accumulate", accumulate), _arguments.flag("need_dx", need_dx)
        kept, layer = self._cache_of(cache), self.layer
        N, K = kept["shape"]
        dh, *rest = self._state_of("dstate", dstate, layer, N)
        if do is not None:
            do = self._array("do", do, ("N", "K"), (N, K))
        with self._writing(accumulate):
            if do is not None:
                halves = np.split(self._output_backward(do, kept["output"]), layer.num_directions, axis=1)
                dh = np.zeros_like(layer._new_states(N)[0]) if dh is None else dh.astype(self._dtype)
                for of_direction, half in zip(dh[-layer.num_directions :], halves, strict=True):
                    now(of_direction)[...] += half
            dx, *first = layer.backward(None, kept["inner"], dh, *rest, accumulate=True, need_dx=need_dx)  # type: ignore[attr-defined]
        return StructureGradients(dx, layer._State._make(first))


class OutputRecurrence(Structure):
    """The recurrence through the output alone: the second design.

        h_t = activation(x_t Wx + y_{t-1} Wy + b)
        o_t = h_t V + c
        y_t : the target, with teacher forcing; o_t itself, where the model runs freely

    With the targets given no step waits for another one: all steps of all rows are computed in one call, forward and backward,
    and backward is exact. Free running goes step by step, and its gradients go back through the outputs.

    input_size, hidden_size, output_size : D, H, K. activation : "tanh", "relu", "sigmoid" or "identity".
    dtype, rng : as in layers.
    Weights: Wx (D + K, H), the rows of Wy below those of x; b (H,), V (H, K), c (K,); all else as in OutputEveryStep.

    forward(x, y=None, y0=None, *, lengths=None, training=True) -> (o, state, cache)
        x (N, T, D). y (N, T, K), the targets, of which the last one is not used; None runs freely. y0 (N, K) or None = zeros,
        the output before the first step. o (N, T, K), zeros past a row's length. state (y_T,) : what the step behind a row's
        last one takes for y_{t-1}.
    backward(do, cache, *, accumulate=False, need_dx=True) -> (dx, dy0)
        dx (N, T, D), dy0 (N, K). The targets are constants.

    It has less power than a recurrence between hidden units, since the outputs must hold all that is to be remembered. Deep
    Learning, figures 10.4 and 10.6, section 10.2.1; Jordan (1986).
    """

    _kind = "OutputRecurrence"

    def __init__(
        self, input_size: int, hidden_size: int, output_size: int, *,
        activation: Literal["tanh", "relu", "sigmoid", "identity"] = "tanh", dtype: Any = np.float32, rng: Rng = None,
    ):  # fmt: skip
        self._create(self._judged(input_size, hidden_size, output_size, activation, dtype), rng)

    @classmethod
    def _judged(cls, input_size, hidden_size, output_size, activation, dtype) -> dict[str, Any]:
        return {
            "input_size": _judge.size("input_size", input_size),
            "hidden_size": _judge.size("hidden_size", hidden_size),
            "output_size": _judge.size("output_size", output_size),
            "activation": _arguments.option("activation", activation, OPTIONS["activation"]),
            "dtype": _judge.dtype(dtype).name,
        }

    @classmethod
    def _plan(cls, config):
        return {}

    @classmethod
    def _own(cls, config: dict[str, Any]) -> Shapes:
        D, H, K = config["input_size"], config["hidden_size"], config["output_size"]
        return {
            "Wx": (("D + K", "H"), (D + K, H)), "b": (("H",), (H,)), "V": (("H", "K"), (H, K)), "c": (("K",), (K,)),
        }  # fmt: skip

    @property
    def output_size(self) -> int:
        """K, the width of o."""
        return self._config["output_size"]

    def forward(
        self, x: Array, y: Array | None = None, y0: Array | None = None, *, lengths: Lengths = None, training: bool = True
    ) -> Outputs:
        """(o, state, cache); see the class."""
        training = _arguments.flag("training", training)
        D, K = self._config["input_size"], self._config["output_size"]
        x = _judge.rows(x, self._dtype, ("N", "T", "D"), D)
        N, T, _ = x.shape
        judged = lengths_of(lengths, N, T)
        first = np.zeros((N, K), self._dtype) if y0 is None else self._array("y0", y0, ("N", "K"), (N, K))
        if y is not None:
            y = self._array("y", y, ("N", "T", "K"), (N, T, K))
        joined = np.empty((N, T, D + K), self._dtype)
        joined[..., :D] = within(x, judged)
        steps = []
        if y is None:
            before = first
            for t in range(T):  # past a row's end all is 0: it could run away there
                joined[:, t, D:] = before if judged is None else np.where(judged[:, None] > t, before, self._dtype.type(0))
                before, caches = self._outputs(joined[:, t], training)
                steps.append(caches)
        elif T:
            joined[:, 0, D:] = first
            joined[:, 1:, D:] = y[:, :-1]
            joined = within(joined, judged)
        o, caches = self._outputs(joined, training)
        cache = (
            StructureCache(self, all=caches, steps=steps, lengths=judged, shape=(N, T), free=y is None) if training else None
        )
        o = within(o, judged)
        last = o if y is None else within(y, judged)
        ends = np.full(N, T) if judged is None else judged
        state = np.where(ends[:, None] > 0, last[np.arange(N), ends - 1], first) if T else first.copy()
        return Outputs(o, (state,), cache)

    def _outputs(self, joined, training):
        W = self._weights
        h, hidden = _affine.forward(joined, W["Wx"], W["b"], activation=self._config["activation"], training=training)
        o, output = _affine.forward(h, W["V"], W["c"], training=training)
        return o, (hidden, output)

    def backward(
        self, do: Array | None, cache: Any, *, accumulate: bool = False, need_dx: bool = True
    ) -> tuple[Array | None, Array]:
        """(dx, dy0), and the gradients of the weights in `gradients`; see the class."""
        accumulate, need_dx = _arguments.flag("accumulate", accumulate), _arguments.flag("need_dx", need_dx)
        kept = self._cache_of(cache)
        (N, T), D, K = kept["shape"], self._config["input_size"], self._config["output_size"]
        if do is None:
            do = np.zeros((N, T, K), self._dtype)
        do = within(self._array("do", do, ("N", "T", "K"), (N, T, K)), kept["lengths"])
        if kept["free"]:
            do = do.copy()
            for t in range(T - 1, 0, -1):  # what comes back through y_{t-1} = o_{t-1}
                hidden, output = kept["steps"][t]
                do[:, t - 1] += _affine.backward(_affine.backward(do[:, t], output), hidden)[:, D:]
        with self._writing(accumulate):
            hidden, output = kept["all"]
            dh = self._output_backward(do, output)
            dW, db = np.empty_like(self._weights["Wx"]), np.empty_like(self._weights["b"])
            djoined = _affine.backward(dh, hidden, dW, db)
            self._add("Wx", dW)
            self._add("b", db)
        dy0 = djoined[:, 0, D:].copy() if T else np.zeros((N, K), self._dtype)
        return (djoined[..., :D].copy() if need_dx else None), dy0
