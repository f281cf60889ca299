"""What RNN, LSTM and GRU share: everything but the constructor's options, which each of them names in a table."""

from __future__ import annotations

import copyreg
import inspect
import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar

import numpy as np

from fastgate import _arguments, _call, _locks, _npz
from fastgate.layers import _buffer, _initial, _judge
from fastgate.layers._types import Array, Lengths, Rng
from fastgate.masks import draw_dropout_mask

MERGES = ("concat", "sum", "mean", "mul")
FORMAT = "fastgate layer 1"
WANTED = "a layer saved by fastgate"
WEIGHTS = ("Wx", "Wh", "b", "bh", "peephole")
SUFFIXES = ("", "_reverse")
F = TypeVar("F")  # what forward returns
KINDS: dict[str, type[Layer]] = {}


class Functions(NamedTuple):
    """The public functions of a cell."""

    forward: Callable[..., Any]
    backward: Callable[..., Any]
    step_forward: Callable[..., Any]
    Forward: Any  # what forward returns
    Cell: Any  # prepared


class LayerGradients(NamedTuple):
    """What backward of RNN and GRU returns; the weights' gradients are in layer.gradients."""

    dx: Array | Any  # (N, T, input_size); None with need_dx=False
    dh0: Array  # (num_layers·num_directions, N, H)


class LSTMLayerGradients(NamedTuple):
    """What backward of LSTM returns; the weights' gradients are in layer.gradients."""

    dx: Array | Any  # (N, T, input_size); None with need_dx=False
    dh0: Array  # (num_layers·num_directions, N, H)
    dc0: Array  # (num_layers·num_directions, N, H)


class LayerState(NamedTuple):
    """The states of streams, of RNN and GRU."""

    h: Array  # (num_layers, N, H)


class LSTMLayerState(NamedTuple):
    """The states of streams, of LSTM."""

    h: Array  # (num_layers, N, H)
    c: Array  # (num_layers, N, H)


class LayerCache:
    """What a layer's forward keeps for its backward. It refers to x and to the layer's weights without copying them: write into
    them after backward, not before."""

    __slots__ = ("_caches", "_halves", "_layer", "_masks", "_sizes")

    def __init__(self, layer: Layer, sizes: tuple[int, int, bool]):
        self._layer = layer
        self._sizes = sizes  # N, T, whether h was returned
        self._caches: list[list[Any]] = []  # of the functions, [layer][direction]
        self._halves: list[list[Array]] = []  # h of both directions, where they were multiplied
        self._masks: list[Array | None] = []  # of the dropout behind each layer

    @property
    def nbytes(self) -> int:
        """Bytes kept besides x and the weights: what the functions' caches hold, inputs of inner layers, masks."""
        caches = [cache for caches in self._caches for cache in caches]
        inner = [caches[0].call.x for caches in self._caches[1:]]
        arrays = [a for a in (*inner, *self._masks, *(h for halves in self._halves for h in halves)) if a is not None]
        return sum(thing.nbytes for thing in (*caches, *arrays))

    def __repr__(self) -> str:
        N, T, _ = self._sizes
        return f"<cache of {type(self._layer).__name__}.forward: N={N}, T={T}, {self.nbytes} bytes>"


class Layer:
    """The body of RNN, LSTM and GRU; their docstrings are the manual."""

    _lock: Any  # of `gradients`
    _cell: ClassVar[str]
    _gates: ClassVar[str]
    _functions: ClassVar[Functions]
    # The cell's own options and what they may be: words, a flag, a number > 0 or None, or (None) an order of the gates.
    _choices: ClassVar[dict[str, tuple[str, ...] | type[bool] | type[float] | None]]
    _peephole: ClassVar[bool] = False  # whether there may be one
    _Gradients: ClassVar[Any] = LayerGradients
    _State: ClassVar[Any] = LayerState

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "_functions" in vars(cls):
            KINDS[cls._cell.upper()] = cls

    # --- construction ------------------------------------------------------------------------------------------------

    @classmethod
    def _judged(
        cls, input_size, hidden_size, num_layers, bidirectional, merge, dropout, b, bh, dtype, **options
    ) -> dict[str, Any]:
        """The constructor's arguments as plain data, which JSON can hold."""
        config: dict[str, Any] = {
            "input_size": _judge.size("input_size", input_size),
            "hidden_size": _judge.size("hidden_size", hidden_size),
            "num_layers": _judge.size("num_layers", num_layers),
            "bidirectional": _arguments.flag("bidirectional", bidirectional),
            "merge": _arguments.option("merge", merge, MERGES),
            "dropout": _judge.probability("dropout", dropout),
            "b": _arguments.flag("b", b),
            "bh": _arguments.flag("bh", bh),
        }
        if cls._peephole:
            config["peephole"] = _arguments.flag("peephole", options.pop("peephole"))
        if options.keys() != cls._choices.keys():
            raise TypeError(f"{cls.__name__}: expected the options {', '.join(cls._choices)}, got {', '.join(options)}")
        for name, allowed in cls._choices.items():
            config[name] = _judge.option(name, options[name], allowed, cls._gates)
        return config | {"dtype": _judge.dtype(dtype).name}

    def _build(self, config: dict[str, Any], rng: Rng) -> None:
        """Everything but the values of the weights, which are zeros."""
        self._rng = _judge.generator(rng)
        self._config = config
        self._stream: list[tuple[Array, ...]] | None = None  # the states of each layer, never written in place
        self._allocate()

    def _allocate(self) -> None:
        self._dtype = np.dtype(self._config["dtype"])
        self._D, self._H = self._config["input_size"], self._config["hidden_size"]
        self._options = {name: self._config[name] for name in self._choices}
        count = self._count()
        words = ", ".join(f"{name} = {self._config[name]}" for name in ("input_size", "hidden_size", "num_layers"))
        _arguments._affordable(2 * count * self._dtype.itemsize, 0, words)
        shapes = {name: sizes for name, (_, sizes) in self._shapes().items()}
        self._parameters, self._gradients = (_buffer.zeros(count, self._dtype) for _ in range(2))
        self._weights: Mapping[str, Array] = MappingProxyType(_buffer.views(self._parameters, shapes))
        self._grads: Mapping[str, Array] = MappingProxyType(_buffer.views(self._gradients, shapes))
        self._live, self._written = self._by_direction(self._weights), self._by_direction(self._grads, "d")
        _locks.give_lock(self)

    def _count(self) -> int:
        """The number of weights, without a list of them."""
        G, H = len(self._gates), self._H
        inputs = self._D + (self.num_layers - 1) * self.output_size
        vectors = G * (self._config["b"] + self._config["bh"]) + 3 * self._config.get("peephole", 0)
        return self.num_directions * H * (G * inputs + self.num_layers * (G * H + vectors))

    def _shapes(self) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
        """Name -> (letters, sizes) of every weight, in the order in which they lie in memory."""
        G, D, H = len(self._gates), self._config["input_size"], self._config["hidden_size"]
        GH = f"{G}H" if G > 1 else "H"
        result: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {}
        for k in range(self.num_layers):
            for suffix in SUFFIXES[: self.num_directions]:
                result[f"Wx{k}{suffix}"] = (("D" if k == 0 else "output_size", GH), (D, G * H))
                result[f"Wh{k}{suffix}"] = (("H", GH), (H, G * H))
                for bias in ("b", "bh"):
                    if self._config[bias]:
                        result[f"{bias}{k}{suffix}"] = ((GH,), (G * H,))
            D = self.output_size
        if self._config.get("peephole"):  # behind the matrices, of which each then begins on a cache line
            result |= {f"peephole{end}": (("3H",), (3 * H,)) for end in self._ends()}
        return result

    def _ends(self) -> list[str]:
        """What the names of weights end in, for each layer and direction: "0", "0_reverse", "1", …"""
        return [f"{k}{suffix}" for k in range(self.num_layers) for suffix in SUFFIXES[: self.num_directions]]

    def _by_direction(self, arrays: Mapping[str, Array], d: str = "") -> list[dict[str, Array]]:
        """For each layer and direction, its arrays by the names of the functions' arguments, or of their gradients."""
        return [{f"{d}{name}": arrays[name + end] for name in WEIGHTS if name + end in arrays} for end in self._ends()]

    def _draw(self) -> None:
        """Fresh weights from the layer's generator, layer by layer, direction by direction, gates in canonical order."""
        position = _arguments.gate_positions(self._gates, self._options.get("gate_order"))
        H = self._H
        columns = [slice(p * H, (p + 1) * H) for p in position]
        for W in self._live:
            for gate in columns:
                W["Wx"][:, gate] = _initial.glorot_uniform(self._rng, len(W["Wx"]), H)
            for gate in columns:
                W["Wh"][:, gate] = _initial.orthogonal(self._rng, H)
            bias = W.get("b", W.get("bh"))
            if "f" in self._gates and bias is not None:
                bias[columns[self._gates.index("f")]] = 1

    # --- what a layer is ---------------------------------------------------------------------------------------------

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments but rng, plain data: type(layer)(**layer.config) is a layer of the same shape."""
        return dict(self._config)

    @property
    def input_size(self) -> int:
        """D, the width of x."""
        return self._D

    @property
    def hidden_size(self) -> int:
        """H, the width of a state."""
        return self._H

    @property
    def output_size(self) -> int:
        """The width of h: 2H where two directions are concatenated, else H."""
        return self._config["hidden_size"] * (2 if self.bidirectional and self.merge == "concat" else 1)

    @property
    def num_layers(self) -> int:
        """How many layers stand one upon the other."""
        return self._config["num_layers"]

    @property
    def bidirectional(self) -> bool:
        """Whether each layer runs in both directions."""
        return self._config["bidirectional"]

    @property
    def num_directions(self) -> int:
        """2 where the layer is bidirectional, else 1."""
        return 1 + self._config["bidirectional"]

    @property
    def merge(self) -> str:
        """How two directions become one output: "concat", "sum", "mean" or "mul"."""
        return self._config["merge"]

    @property
    def dropout(self) -> float:
        """The probability that a value between two layers becomes 0 in training."""
        return self._config["dropout"]

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64, that of all arrays."""
        return self._dtype

    @property
    def num_parameters(self) -> int:
        """How many weights there are, biases too."""
        return self._parameters.size

    @property
    def parameters(self) -> Array:
        """(num_parameters,), all weights, live: what is written here is what the next call computes with."""
        return self._parameters

    @parameters.setter
    def parameters(self, value: Array) -> None:
        _only_in_place("parameters", value, self._parameters)  # layer.parameters -= … ends with this assignment

    @property
    def gradients(self) -> Array:
        """(num_parameters,), what backward wrote, at the places of the weights; zeros at first."""
        return self._gradients

    @gradients.setter
    def gradients(self, value: Array) -> None:
        _only_in_place("gradients", value, self._gradients)

    @property
    def weights(self) -> Mapping[str, Array]:
        """Name -> live view of `parameters`: "Wx0", "Wh0", "b0", "bh0", "Wx0_reverse", …, "Wx1", …"""
        return self._weights

    @property
    def grads(self) -> Mapping[str, Array]:
        """Name of a weight -> live view of `gradients`."""
        return self._grads

    def __repr__(self) -> str:
        defaults = {name: p.default for name, p in inspect.signature(KINDS[self._cell.upper()]).parameters.items()}
        defaults |= {"dtype": "float32", "bh": self._config.get("reset") == "after"}
        words = [f"{name}={value!r}" for name, value in self._config.items() if value != defaults[name]]
        words[:2] = [str(self._D), str(self._H)]
        lines = [f"{type(self).__name__}({', '.join(words)}): {self.num_parameters} parameters"]
        for end, W in zip(self._ends(), self._live, strict=True):
            lines.append("  " + "  ".join(f"{name}{end} {a.shape}" for name, a in W.items()))
        return "\n".join(lines)

    # --- sequences ---------------------------------------------------------------------------------------------------

    def _run(self, x, given, lengths, training, return_sequences, rng):
        training = _arguments.flag("training", training)
        return_sequences = _arguments.flag("return_sequences", return_sequences)
        x = _judge.rows(x, self._dtype, ("N", "T", "D"), self._D)
        N, T, _ = x.shape
        given = self._states(("h0", "c0"), given, N)
        if lengths is not None:
            lengths = _arguments._lengths(lengths, N, T)
        rng = self._rng if rng is None else _judge.generator(rng)

        cache = LayerCache(self, (N, T, return_sequences)) if training else None
        final = [np.empty((self.num_layers * self.num_directions, N, self._H), self._dtype) for _ in given]
        for k in range(self.num_layers):
            last = k + 1 == self.num_layers
            sequences = return_sequences or not last
            joined = _call.steps_like(x, self.output_size, self._dtype) if sequences and self.output_size > self._H else None
            halves, caches = [], []
            for d in range(self.num_directions):
                s = k * self.num_directions + d
                out = {name: states[s] for name, states in zip(("h_T", "c_T"), final, strict=False)}
                if joined is not None:
                    out["h"] = joined[..., d * self._H : (d + 1) * self._H]
                h, *_, kept = self._functions.forward(
                    x, *(None if states is None else states[s] for states in given), **self._live[s], lengths=lengths,
                    reverse=d == 1, training=training, return_sequences=sequences, out=out, **self._options,
                )  # fmt: skip
                halves.append(h)
                caches.append(kept)
            y = joined if joined is not None else merged(self.merge, *halves, keep=training) if sequences else None
            mask = None
            if training and not last and self.dropout:
                mask = draw_dropout_mask(y.shape, self.dropout, rng, self._dtype)
                times(y, mask)
            if cache is not None:
                cache._caches.append(caches)
                cache._halves.append(halves if sequences and self.bidirectional and self.merge == "mul" else [])
                cache._masks.append(mask)
            x = y
        return self._functions.Forward._make((x, *final, cache))

    def _run_backward(self, dh, cache, upstream, accumulate, need_dx):
        accumulate = _arguments.flag("accumulate", accumulate)
        need_dx = _arguments.flag("need_dx", need_dx)
        if type(cache) is not LayerCache or cache._layer is not self:
            ours = type(cache) is LayerCache
            got = f"that of another {type(cache._layer).__name__}" if ours else _arguments.cache_in_words(cache)
            hint = "; call forward with training=True" if cache is None else ""
            raise ValueError(f"cache: expected the cache of this layer's forward, got {got}{hint}")
        N, T, returned = cache._sizes
        if dh is not None:
            dh = _judge.array("dh", dh, self._dtype, ("N", "T", "output_size"), (N, T, self.output_size))
            if not returned:
                raise ValueError(
                    "dh: expected None, as forward was called with return_sequences=False; dh_T takes the final state's"
                )
        upstream = self._states(("dh_T", "dc_T"), upstream, N)
        if accumulate:
            fresh = np.empty_like(self._gradients)
            shapes = {name: a.shape for name, a in self._grads.items()}
            views = self._by_direction(_buffer.views(fresh, shapes), "d")
            result = self._gradients_into(views, dh, cache, upstream, need_dx)
            with self._lock:
                plus(self._gradients, fresh)
            return result
        with self._lock:
            return self._gradients_into(self._written, dh, cache, upstream, need_dx)

    def _gradients_into(self, gradients, dh, cache, upstream, need_dx):
        N = cache._sizes[0]
        first = [np.empty((self.num_layers * self.num_directions, N, self._H), self._dtype) for _ in upstream]
        dx = dh
        for k in reversed(range(self.num_layers)):
            halves = self._split(dx, cache._halves[k])
            dx = None
            for d in range(self.num_directions):
                s = k * self.num_directions + d
                out = gradients[s] | {name: states[s] for name, states in zip(("dh0", "dc0"), first, strict=False)}
                found = self._functions.backward(
                    halves[d], cache._caches[k][d], *(None if states is None else states[s] for states in upstream),
                    need=None if k or need_dx else tuple(out), out=out,
                )  # fmt: skip
                dx = found.dx if dx is None else plus(dx, found.dx)
            if k and cache._masks[k - 1] is not None:
                times(dx, cache._masks[k - 1])
        return self._Gradients._make((dx, *first))

    def _split(self, dh, halves):
        """The gradients of the directions' h from that of their merged output."""
        if dh is None:
            return (None,) * self.num_directions
        if not self.bidirectional:
            return (dh,)
        if self.merge == "concat":
            return dh[..., : self._H], dh[..., self._H :]
        if self.merge == "mul":
            return times(dh.copy(), halves[1]), times(dh.copy(), halves[0])
        return (times(dh.copy(), self._dtype.type(0.5)) if self.merge == "mean" else dh,) * 2

    def _prepared(self) -> list[Any]:
        """A prepared cell for each layer, with its present weights."""
        return [self._functions.Cell(**W, **self._options) for W in self._live]

    def _states(self, names, given, N):
        """Arrays (num_layers·num_directions, N, H) or None, judged."""
        letters, sizes = ("num_layers·num_directions", "N", "H"), (self.num_layers * self.num_directions, N, self._H)
        return [
            None if a is None else _judge.array(name, a, self._dtype, letters, sizes)
            for name, a in zip(names, given, strict=False)
        ]

    # --- streams -----------------------------------------------------------------------------------------------------

    def step(self, x: Array) -> Array:
        """One step of N streams: y (N, H) from x (N, D), the output of the last layer.

        The states are kept from call to call (`state`) and are zeros at first; N stays the same until `reset`. T steps one by
        one give the bits of forward over the sequence. Nothing is kept for backward, there is no dropout. A bidirectional
        layer, and an x that does not fit, is a ValueError; the states are unchanged then. One caller at a time; many
        independent streams: StreamPool.
        """
        one_direction(self, "step")
        x = _judge.rows(x, self._dtype, ("N", "D"), self._D)
        stream = self._stream
        if stream is None:
            stream = [(None,) * len(self._State._fields)] * self.num_layers  # type: ignore[list-item]
        elif len(x) != len(stream[0][0]):
            N = len(stream[0][0])
            raise ValueError(
                f"x: expected (N, D) = {(N, self._D)} as the streams' states, got {x.shape}; call reset(N={len(x)})?"
            )
        after = []
        for W, states in zip(self._live, stream, strict=True):
            *states, _ = self._functions.step_forward(x, *states, **W, training=False, **self._options)
            after.append(tuple(states))
            x = states[0]
        self._stream = after
        return x.copy()

    @property
    def state(self) -> Any:
        """The streams' states as they are now, a named tuple h[, c] of arrays (num_layers, N, H) that are copies; None before
        the first step. May be assigned: a tuple of such arrays (those of forward, h_T[, c_T], in one), which are copied, or
        None."""
        if self._stream is None:
            return None
        return self._State._make(np.stack(states) for states in zip(*self._stream, strict=True))

    @state.setter
    def state(self, state: Any) -> None:
        one_direction(self, "state")
        if state is None:
            self._stream = None
            return
        arrays = _judge.state("state", state, self._State._fields, (self.num_layers, None, self._H), self._dtype)
        arrays = [a.astype(self._dtype, order="C") for a in arrays]
        self._stream = [tuple(a[k] for a in arrays) for k in range(self.num_layers)]

    def reset(self, N: int | None = None, *, rows: Any = None) -> None:
        """Zero the states of `step`.

        reset() : begin anew, with as many streams as the next x has rows. reset(N) : N streams from zeros.
        rows : integers 0..N-1, or (N,) bools: only these streams begin anew, the others go on.
        """
        one_direction(self, "reset")
        if rows is None and N is None:
            self._stream = None
            return
        if rows is None:
            N = _judge.size("N", N, 0)
            _arguments._affordable(N * self._H * self._dtype.itemsize, 0, f"N: {N} streams")
            zeros = np.zeros((N, self._H), self._dtype)
            self._stream = [(zeros,) * len(self._State._fields)] * self.num_layers
            return
        if N is not None:
            raise ValueError("rows: expected None where N is given")
        if self._stream is None:
            raise ValueError("rows: expected None, there are no streams before the first step")
        keep = np.ones(len(self._stream[0][0]), bool)
        keep[_judge.places("rows", rows, len(keep))] = False
        self._stream = [tuple(np.where(keep[:, None], a, self._dtype.type(0)) for a in states) for states in self._stream]

    # --- copies and files --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Array]:
        """Name -> copy of every weight."""
        return {name: a.copy() for name, a in self._weights.items()}

    def load_state_dict(self, mapping: Mapping[str, Any]) -> None:
        """Take the weights of a mapping with exactly the names, shapes and dtype of `weights`; they are copied.

        A missing or unknown name or a shape that differs is a ValueError, another dtype a TypeError; no weight is changed then.
        """
        for name, a in _judge.named("mapping", mapping, self._shapes(), self._dtype).items():
            self._weights[name][...] = a

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an uncompressed .npz: the weights by name and, as JSON under "header", the constructor's arguments.

        The file appears whole or not at all, under exactly this path. Gradients, the states of `step` and the generator are not
        in it.
        """
        header = {"format": FORMAT, "layer": self._cell.upper(), "config": self._config}
        _npz.write(path, header, dict(self._weights))

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, rng: Rng = None) -> Self:
        """The layer that `save` wrote; rng as in the constructor, for dropout.

        Nothing is unpickled, everything is judged before it is read, and loading takes no more memory than the size of the file
        and 64 MiB. A file that is damaged or holds something else is a ValueError, one that cannot be opened an OSError.
        """
        return _load(path, rng, cls)

    def __getstate__(self) -> tuple[dict[str, Any], Array, Array]:
        kept = {name: value for name, value in vars(self).items() if name not in _REBUILT}
        return kept, self._parameters, self._gradients

    def __setstate__(self, state: tuple[dict[str, Any], Array, Array]) -> None:
        kept, parameters, gradients = state
        vars(self).update(kept)
        self._allocate()
        self._parameters[...] = parameters
        self._gradients[...] = gradients

    def __reduce__(self) -> Any:
        return copyreg.__newobj__, (type(self),), self.__getstate__()  # type: ignore[attr-defined]


_REBUILT = (
    "_dtype", "_D", "_H", "_options", "_parameters", "_gradients", "_weights", "_grads", "_live", "_written", "_lock",
)  # fmt: skip


class PlainLayer(Layer, Generic[F]):
    """A layer whose cell has no c."""

    def forward(
        self, x: Array, h0: Array | None = None, *, lengths: Lengths = None, training: bool = True,
        return_sequences: bool = True, rng: Rng = None,
    ) -> F:  # fmt: skip
        """Run the layer over sequences; returns (h, h_T, cache).

        x : (N, T, D), any strides. h0 : (num_layers·num_directions, N, H) or None = zeros, layer 0 forward, layer 0 reverse,
        layer 1 …
        lengths : (N,) integers 0..T, in any order, or None. Outputs past a row's length are 0, the reverse direction begins at
            the row's own last step, h_T is the state at the end of each direction's own way, padding (even NaN) influences
            nothing.
        training : False keeps nothing for backward, cache is None, and there is no dropout.
        return_sequences : False returns only the final states; h is None.
        rng : a numpy Generator or a seed for the masks of dropout; None takes the layer's own generator.

        h : (N, T, output_size), in the memory order of x. h_T : as h0. cache : for backward; it refers to x and the weights.

        Many threads may call it at once. Without dropout the bits depend on the values alone, as those of the function: not on
        the batch, padding, number of threads, or on the chunks in which the sequence is fed to one direction (h0 = the h_T
        before). What does not fit is a ValueError or TypeError that names the argument, before anything is computed.
        """
        return self._run(x, (h0,), lengths, training, return_sequences, rng)

    def backward(
        self, dh: Array | None, cache: Any, dh_T: Array | None = None, *, accumulate: bool = False, need_dx: bool = True
    ) -> LayerGradients:
        """The gradients of forward; returns (dx, dh0) and writes those of the weights into `gradients`.

        dh : (N, T, output_size) or None = zeros; past a row's length it is ignored, even NaN. cache : from this layer's
        forward, good for
            any number of calls. dh_T : as h_T, or None = zeros.
        accumulate : add to `gradients` instead of overwriting them.
        need_dx : False does not compute the gradient of x; dx is None.

        dx : as x, 0 past a row's length. dh0 : (num_layers·num_directions, N, H).

        Many threads may call it at once: `gradients` are always those of whole calls, of one of them or, with accumulate=True,
        the sum of all, added in the order in which they end. Errors as in forward; a call ended by Ctrl-C leaves anything in
        `gradients`.
        """
        return self._run_backward(dh, cache, (dh_T,), accumulate, need_dx)


class LayerWithC(Layer, Generic[F]):
    """A layer whose cell has a second state, c."""

    _Gradients = LSTMLayerGradients
    _State = LSTMLayerState

    def forward(
        self, x: Array, h0: Array | None = None, c0: Array | None = None, *, lengths: Lengths = None, training: bool = True,
        return_sequences: bool = True, rng: Rng = None,
    ) -> F:  # fmt: skip
        """Run the layer over sequences; returns (h, h_T, c_T, cache).

        x : (N, T, D), any strides. h0, c0 : (num_layers·num_directions, N, H) or None = zeros, layer 0 forward, layer 0
            reverse, layer 1 …
        lengths : (N,) integers 0..T, in any order, or None. Outputs past a row's length are 0, the reverse direction begins at
            the row's own last step, h_T and c_T are the states at the end of each direction's own way, padding (even NaN)
            influences nothing.
        training : False keeps nothing for backward, cache is None, and there is no dropout.
        return_sequences : False returns only the final states; h is None.
        rng : a numpy Generator or a seed for the masks of dropout; None takes the layer's own generator.

        h : (N, T, output_size), in the memory order of x. h_T, c_T : as h0. cache : for backward; it refers to x and the
        weights.

        Many threads may call it at once. Without dropout the bits depend on the values alone, as those of the function: not on
        the batch, padding, number of threads, or on the chunks in which the sequence is fed to one direction (h0, c0 = h_T, c_T
        before). What does not fit is a ValueError or TypeError that names the argument, before anything is computed.
        """
        return self._run(x, (h0, c0), lengths, training, return_sequences, rng)

    def backward(
        self, dh: Array | None, cache: Any, dh_T: Array | None = None, dc_T: Array | None = None, *, accumulate: bool = False,
        need_dx: bool = True,
    ) -> LSTMLayerGradients:  # fmt: skip
        """The gradients of forward; returns (dx, dh0, dc0) and writes those of the weights into `gradients`.

        dh : (N, T, output_size) or None = zeros; past a row's length it is ignored, even NaN. cache : from this layer's
            forward, good for any number of calls. dh_T, dc_T : as h_T, c_T, each or None = zeros.
        accumulate : add to `gradients` instead of overwriting them.
        need_dx : False does not compute the gradient of x; dx is None.

        dx : as x, 0 past a row's length. dh0, dc0 : (num_layers·num_directions, N, H).

        Many threads may call it at once: `gradients` are always those of whole calls, of one of them or, with accumulate=True,
        the sum of all, added in the order in which they end. Errors as in forward; a call ended by Ctrl-C leaves anything in
        `gradients`.
        """
        return self._run_backward(dh, cache, (dh_T, dc_T), accumulate, need_dx)


def _only_in_place(name: str, value: Any, own: Array) -> None:
    if value is not own:
        raise AttributeError(
            f"{name}: expected the layer's own array, changed in place; to copy values: layer.{name}[...] = values"
        )


def merged(merge: str, h: Array, h_reverse: Array | None = None, *, keep: bool) -> Array:
    """The output of a layer from those of its directions; keep: both are needed as they are where they were multiplied."""
    if h_reverse is None:
        return h
    if merge == "mul":
        return times(h.copy(order="K") if keep else h, h_reverse)
    plus(h, h_reverse)
    return times(h, h.dtype.type(0.5)) if merge == "mean" else h


def plus(a: Array, b: Array) -> Array:
    """a += b, as silent about infinities as the kernels are."""
    with np.errstate(all="ignore"):
        a += b
    return a


def times(a: Array, b: Array) -> Array:
    """a *= b, as silent."""
    with np.errstate(all="ignore"):
        a *= b
    return a


def one_direction(layer: Layer, name: str) -> None:
    if layer.bidirectional:
        raise ValueError(f"{name}: expected a layer of one direction; the reverse one needs the end of the sequence first")


def load(path: str | os.PathLike[str], *, rng: Rng = None) -> Layer:
    """The layer that its `save` wrote, an RNN, LSTM or GRU as it was.

    rng: as in the constructor, for dropout. Nothing is unpickled, everything is judged before it is read, and loading takes no
    more memory than the size of the file and 64 MiB. A file that is damaged or holds something else is a ValueError, one that
    cannot be opened an OSError.
    """
    return _load(path, rng, Layer)


def _load(path, rng, cls):
    rng = _judge.generator(rng)
    with _npz.Npz(path, WANTED) as file:
        header = file.header()
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise ValueError(f"its header has not the format {FORMAT!r}")
        kind, given = KINDS.get(header["layer"]), header["config"]
        if kind is None:
            raise ValueError(f"its layer is {header['layer']!r}")
        if cls is not Layer and not issubclass(cls, kind):
            raise ValueError(f"it holds {header['layer']}; fastgate.layers.load reads any layer")
        layer = object.__new__(kind if cls is Layer else cls)
        config = kind._judged(**given)
        per_layer = (1 + config["bidirectional"]) * (2 + config["b"] + config["bh"] + config.get("peephole", 0))
        if config["num_layers"] * per_layer + 1 != len(file.entries):
            raise ValueError(f"it has {len(file.entries) - 1} arrays, not those of {config['num_layers']} layers")
        layer._config = config
        for name, (_, sizes) in layer._shapes().items():
            entry = file.entries[name]
            if entry.shape != sizes or entry.dtype != config["dtype"]:
                raise ValueError(f"{name}: expected {sizes} {config['dtype']}, got {entry.shape} {entry.dtype}")
        layer._build(config, rng)
        for name, array in layer._weights.items():
            file.read(name, array)
    return layer
