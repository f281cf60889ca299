"""What the layers of all cells share: everything but the constructor's options, which each of them names in a table, and its
own weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np

from fastgate import _arguments, _call
from fastgate.layers import _initial, _judge
from fastgate.layers._parameters import Parameters, plus, times
from fastgate.layers._types import Array, Lengths, Rng, Shapes
from fastgate.masks import draw_dropout_mask, draw_zoneout_mask

MERGES = ("concat", "sum", "mean", "mul")
WEIGHTS = ("Wx", "Wh", "b", "bh", "gain_x", "gain_h", "alpha", "peephole", "gain_c", "beta_c", "Wr")
GAINS = ("gain_x", "gain_h", "gain_c")  # ones at first
SUFFIXES = ("", "_reverse")
RATES = ("recurrent_dropout", "zoneout_h", "zoneout_c")  # of masks that every call of a function in training has anew
F = TypeVar("F")  # what forward returns


class Functions(NamedTuple):
    """The public functions of a cell."""

    forward: Callable[..., Any]
    backward: Callable[..., Any]
    step_forward: Callable[..., Any]
    Forward: Any  # what forward returns
    Cell: Any  # prepared


class LayerGradients(NamedTuple):
    """What backward of a layer without c returns; the weights' gradients are in layer.gradients."""

    dx: Array | Any  # (N, T, input_size); None with need_dx=False
    dh0: Array  # (num_layers·num_directions, N, H)


class LSTMLayerGradients(NamedTuple):
    """What backward of a layer with c returns; the weights' gradients are in layer.gradients."""

    dx: Array | Any  # (N, T, input_size); None with need_dx=False
    dh0: Array  # (num_layers·num_directions, N, H), or P wide with proj_size=P
    dc0: Array  # (num_layers·num_directions, N, H)


class LayerState(NamedTuple):
    """The states of streams, of a layer without c."""

    h: Array  # (num_layers, N, H)


class LSTMLayerState(NamedTuple):
    """The states of streams, of a layer with c."""

    h: Array  # (num_layers, N, H), or P wide with proj_size=P
    c: Array  # (num_layers, N, H)


class NumberedLayerState(NamedTuple):
    """The states of streams, of a layer with a period and without c."""

    h: Array  # (num_layers, N, H)
    start: Array  # (N,) int64, the number of each stream's next step


class NumberedLSTMLayerState(NamedTuple):
    """The states of streams, of a layer with a period and with c."""

    h: Array  # (num_layers, N, H)
    c: Array  # (num_layers, N, H)
    start: Array  # (N,) int64, the number of each stream's next step


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
        around = [mask for cache in caches for mask in cache.call.masks or ()]
        halves = [h for halves in self._halves for h in halves]
        return sum(thing.nbytes for thing in (*caches, *inner, *around, *halves, *self._masks) if thing is not None)

    def __repr__(self) -> str:
        N, T, _ = self._sizes
        return f"<cache of {type(self._layer).__name__}.forward: N={N}, T={T}, {self.nbytes} bytes>"


class Layer(Parameters):
    """The body of all layers of cells; their docstrings are the manual."""

    _cell: ClassVar[str]
    _gates: ClassVar[str]
    _functions: ClassVar[Functions]
    # The cell's own options and what they may be: words, a flag, a number > 0 or None, (None) an order of the gates, or what a
    # function makes of them.
    _choices: ClassVar[dict[str, tuple[str, ...] | type[bool] | type[float] | Callable[[Any], Any] | None]]
    _gains: ClassVar[tuple[str, ...]] = ()  # weights of G·H values that each layer and direction has besides biases
    _Gradients: ClassVar[Any] = LayerGradients
    _State: ClassVar[Any] = LayerState
    _NumberedState: ClassVar[Any] = NumberedLayerState

    _rebuilt = (
        *Parameters._rebuilt, "_D", "_H", "_state_shapes", "_options", "_rates", "_means", "_cycle", "_StreamState", "_live",
        "_written",
    )  # fmt: skip

    def __init_subclass__(cls) -> None:
        if "_functions" in vars(cls):
            cls._kind = _arguments.class_name(cls._cell)
        super().__init_subclass__()

    # --- construction ------------------------------------------------------------------------------------------------

    @classmethod
    def _judged(
        cls, input_size, hidden_size, num_layers, bidirectional, merge, dropout, b, bh, dtype, recurrent_dropout=0.0,
        zoneout_h=0.0, delays=None, period=None, **options,
    ) -> dict[str, Any]:  # fmt: skip
        """The constructor's arguments as plain data, which JSON can hold."""
        config: dict[str, Any] = {
            "input_size": _judge.size("input_size", input_size),
            "hidden_size": _judge.size("hidden_size", hidden_size),
            "num_layers": _judge.size("num_layers", num_layers),
            "bidirectional": _arguments.flag("bidirectional", bidirectional),
            "merge": _arguments.option("merge", merge, MERGES),
            "dropout": _judge.probability("dropout", dropout),
            "recurrent_dropout": _judge.probability("recurrent_dropout", recurrent_dropout),
            "zoneout_h": _judge.probability("zoneout_h", zoneout_h),
            "b": _arguments.flag("b", b),
            "bh": _arguments.flag("bh", bh),
        }
        config["delays"] = _judge.delays(delays)
        config["period"] = _judge.period(period, config["hidden_size"])
        if "c" in cls._State._fields:
            config["zoneout_c"] = _judge.probability("zoneout_c", options.pop("zoneout_c", 0.0))
        cls._judge_own(config, options)
        if options.keys() != cls._choices.keys():
            raise TypeError(f"{cls.__name__}: expected the options {', '.join(cls._choices)}, got {', '.join(options)}")
        for name, allowed in cls._choices.items():
            config[name] = _judge.option(name, options[name], allowed, cls._gates)
        return config | {"dtype": _judge.dtype(dtype).name}

    @classmethod
    def _judge_own(cls, config: dict[str, Any], options: dict[str, Any]) -> None:
        """Moves from `options` to `config`, judged, what this class has besides _choices."""

    def _build(self, config: dict[str, Any], rng: Rng) -> None:
        """Everything but the values of the weights, which are zeros."""
        self._stream: list[tuple[Array, ...]] | None = None  # the states of each layer, never written in place
        self._steps: Array | None = None  # with a period, the number of each stream's next step; never written in place
        super()._build(config, rng)

    def _allocate(self) -> None:
        self._read_config()
        super()._allocate()

    def _read_config(self) -> None:
        """What every call asks for."""
        self._D, self._H = self._config["input_size"], self._config["hidden_size"]
        # Of each state, letters and sizes of a row: with delays, h of the last steps, oldest first.
        delays = self._config.get("delays")
        h = _arguments._past_shape(self._letter_of_h, self._P, delays)
        self._state_shapes = {name: h if name == "h" else (("H",), (self._H,)) for name in self._State._fields}
        self._options = {name: self._config[name] for name in self._choices}
        self._rates = {name: self._config[name] for name in RATES if self._config.get(name)}
        self._means = {name: p for name, p in self._rates.items() if name != "recurrent_dropout"}
        if delays is not None:
            self._options["delays"] = np.array(delays, np.int64)
        self._cycle, self._StreamState = None, self._State  # after so many steps all units stand as at first
        if self._config.get("period") is not None:
            period = self._options["period"] = np.array(self._config["period"], np.int64)
            self._cycle = min(math.lcm(*np.unique(period).tolist()), 2**62)
            self._StreamState = self._NumberedState

    @property
    def _P(self) -> int:
        """The width of h."""
        return self._config.get("proj_size") or self._config["hidden_size"]

    @property
    def _letter_of_h(self) -> str:
        return "P" if self._config.get("proj_size") else "H"

    def _lie_in(self, parameters: Array, gradients: Array) -> None:
        super()._lie_in(parameters, gradients)
        self._live, self._written = self._by_direction(self._weights), self._by_direction(self._grads, "d")

    @classmethod
    def _vectors(cls, config: dict[str, Any]) -> dict[str, int]:
        """Of each weight that is one row, in each layer and direction, how many blocks of H values it has."""
        return {name: len(cls._gates) for name in (*(bias for bias in ("b", "bh") if config[bias]), *cls._gains)}

    @classmethod
    def _number_of_arrays(cls, config: dict[str, Any]) -> int:
        matrices = 1 + config.get("Wh", True) + bool(config.get("proj_size"))
        return config["num_layers"] * (1 + config["bidirectional"]) * (matrices + len(cls._vectors(config)))

    def _sizes_in_words(self) -> str:
        return ", ".join(f"{name} = {self._config[name]}" for name in ("input_size", "hidden_size", "num_layers"))

    def _count(self) -> int:
        G, H, P = len(self._gates), self._H, self._P
        inputs = self._D + (self.num_layers - 1) * self.output_size
        left = P * len(self._config.get("delays") or (1,))
        matrices = G * left * self._config.get("Wh", True) + P * bool(self._config.get("proj_size"))
        vectors = sum(self._vectors(self._config).values())
        return self.num_directions * H * (G * inputs + self.num_layers * (matrices + vectors))

    def _shapes(self) -> Shapes:
        G, D, H, P = len(self._gates), self._config["input_size"], self._config["hidden_size"], self._P
        GH, vectors = f"{G}H" if G > 1 else "H", self._vectors(self._config)
        result: Shapes = {}
        for k in range(self.num_layers):
            for suffix in SUFFIXES[: self.num_directions]:
                result[f"Wx{k}{suffix}"] = (("D" if k == 0 else "output_size", GH), (D, G * H))
                if self._config.get("Wh", True):
                    K = [len(delays)] if (delays := self._config.get("delays")) else []
                    result[f"Wh{k}{suffix}"] = ((*["K"] * len(K), self._letter_of_h, GH), (*K, P, G * H))
                result |= {f"{name}{k}{suffix}": ((GH,), (G * H,)) for name, blocks in vectors.items() if blocks == G}
            D = self.output_size
        # Behind the matrices with rows of G·H values, of which each then begins on a cache line.
        for name, blocks in vectors.items():
            if blocks != G:
                result |= {f"{name}{end}": ((f"{blocks}H" if blocks > 1 else "H",), (blocks * H,)) for end in self._ends()}
        if self._config.get("proj_size"):
            result |= {f"Wr{end}": (("H", "P"), (H, P)) for end in self._ends()}
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
            for Wh, gate in itertools.product(by_delay(W["Wh"]), columns) if "Wh" in W else ():
                Wh[:, gate] = self._fresh_Wh()
            if W.get("Wh", W["Wx"]).ndim == 3:  # what comes over K delays adds up
                W["Wh"] /= self._dtype.type(np.sqrt(len(W["Wh"])))
            for gain in W.keys() & GAINS:
                W[gain][...] = 1
            if "Wr" in W:
                W["Wr"][...] = _initial.glorot_uniform(self._rng, H, self._P)
            bias = W.get("b", W.get("bh"))
            if "f" in self._gates and bias is not None:
                bias[columns[self._gates.index("f")]] = 1

    def _fresh_Wh(self) -> Any:
        """(P, H), of one gate."""
        return _initial.orthogonal(self._rng, self._P, self._H)

    # --- what a layer is ---------------------------------------------------------------------------------------------

    @property
    def input_size(self) -> int:
        """D, the width of x."""
        return self._D

    @property
    def hidden_size(self) -> int:
        """H, the width of a state; beside a projection that of c."""
        return self._H

    @property
    def output_size(self) -> int:
        """The width of h: 2H where two directions are concatenated, else H; with proj_size=P, 2P and P."""
        return self._P * (2 if self.bidirectional and self.merge == "concat" else 1)

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

    def _lines(self) -> list[list[str]]:
        return [[name + end for name in W] for end, W in zip(self._ends(), self._live, strict=True)]

    # --- sequences ---------------------------------------------------------------------------------------------------

    def _run(self, x, given, lengths, training, return_sequences, rng, start):
        training = _arguments.flag("training", training)
        return_sequences = _arguments.flag("return_sequences", return_sequences)
        x = _judge.rows(x, self._dtype, ("N", "T", "D"), self._D)
        N, T, _ = x.shape
        lengths = None if lengths is None else _arguments._integers("lengths", lengths)
        given = self._states(("h0", "c0"), given, N, x if lengths is None or lengths.shape == (T,) else None)
        if lengths is not None:
            lengths = _arguments._lengths(lengths, N, T, x if all(a is None for a in given) else None)
        rng = self._rng if rng is None else _judge.generator(rng)
        start = _arguments._step_number("start", start)
        options = self._options if self._cycle is None else self._options | {"start": start}

        cache = LayerCache(self, (N, T, return_sequences)) if training else None
        final, P = self._new_states(N), self._P
        for k in range(self.num_layers):
            last = k + 1 == self.num_layers
            sequences = return_sequences or not last
            joined = _call.steps_like(x, self.output_size, self._dtype) if sequences and self.output_size > P else None
            halves, caches = [], []
            for d in range(self.num_directions):
                s = k * self.num_directions + d
                out = {name: states[s] for name, states in zip(("h_T", "c_T"), final, strict=False)}
                if joined is not None:
                    out["h"] = joined[..., d * P : (d + 1) * P]
                h, *_, kept = self._functions.forward(
                    x, *(None if states is None else states[s] for states in given), **self._live[s], lengths=lengths,
                    reverse=d == 1, training=training, return_sequences=sequences, out=out, **options,
                    **(self._masks(N, T, rng) if training else self._means),
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

    def _masks(self, N, T, rng):
        """Of recurrent dropout and zoneout, for one call of a function in training."""
        masks: dict[str, Any] = {}
        for name, p in self._rates.items():
            if name == "recurrent_dropout":
                masks["recurrent_mask"] = draw_dropout_mask((N, self._P), p, rng, self._dtype)
            else:
                masks[name] = draw_zoneout_mask((N, T, self._P if name == "zoneout_h" else self._H), p, rng)
        return masks

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

        def fill(flat):
            written = self._written if flat is self._gradients else self._by_direction(self._views(flat), "d")
            return self._gradients_into(written, dh, cache, upstream, need_dx)

        return self._fill_gradients(accumulate, fill)

    def _totals(self, dh, cache, upstream):
        """What the functions' backward calls return, dh_total (and dc_total) too, at [layer · num_directions + direction];
        `gradients` stay."""
        seen = {}
        gradients = self._by_direction(self._views(np.empty_like(self._gradients)), "d")
        self._gradients_into(gradients, dh, cache, upstream, False, seen)
        return [seen[s] for s in range(len(seen))]

    def _gradients_into(self, gradients, dh, cache, upstream, need_dx, seen=None):
        first = self._new_states(cache._sizes[0])
        dx = dh
        for k in reversed(range(self.num_layers)):
            halves = self._split(dx, cache._halves[k])
            dx = None
            for d in range(self.num_directions):
                s = k * self.num_directions + d
                out = gradients[s] | {name: states[s] for name, states in zip(("dh0", "dc0"), first, strict=False)}
                need = (*["dx"] * (k > 0 or need_dx), *out)
                if seen is not None:
                    need = ("dx", *out, *("dh_total", "dc_total")[: len(first)])
                found = self._functions.backward(
                    halves[d], cache._caches[k][d], *(None if states is None else states[s] for states in upstream),
                    need=need, out=out,
                )  # fmt: skip
                if seen is not None:
                    seen[s] = found
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
            return dh[..., : self._P], dh[..., self._P :]
        if self.merge == "mul":
            return times(dh.copy(), halves[1]), times(dh.copy(), halves[0])
        return (times(dh.copy(), self._dtype.type(0.5)) if self.merge == "mean" else dh,) * 2

    def _states(self, names, given, N, x=None):
        """Arrays (num_layers·num_directions, N, …) of states, or None, judged; x: it may be time-major."""
        rows, before = self.num_layers * self.num_directions, ("num_layers·num_directions", "N")
        if x is not None:
            shapes = [(rows, x.shape[1], *row) for _, row in self._state_shapes.values()]
            fits = all(a is None or getattr(a, "shape", None) == shape for a, shape in zip(given, shapes, strict=False))
            x = x if fits and x.shape[1] != N else None
        return [
            None if a is None else _judge.array(name, a, self._dtype, (*before, *letters), (rows, N, *row), time_major=x)
            for name, a, (letters, row) in zip(names, given, self._state_shapes.values(), strict=False)
        ]

    def _new_states(self, N):
        """Arrays for the states of all layers and directions, uninitialised."""
        rows = self.num_layers * self.num_directions
        return [np.empty((rows, N, *row), self._dtype) for _, row in self._state_shapes.values()]

    # --- streams -----------------------------------------------------------------------------------------------------

    def step(self, x: Array) -> Array:
        """One step of N streams: y (N, output_size) from x (N, D), the output of the last layer.

        The states are kept from call to call (`state`) and are zeros at first; N stays the same until `reset`. T steps one by
        one give the bits of forward over the sequence with training=False, whose cache is None. A bidirectional
        layer, and an x that does not fit, is a ValueError; the states are unchanged then. One caller at a time; many
        independent streams: StreamPool.
        """
        one_direction(self, "step")
        x = _judge.rows(x, self._dtype, ("N", "D"), self._D)
        stream = self._stream
        if stream is None:
            stream = [(None,) * len(self._state_shapes)] * self.num_layers  # type: ignore[list-item]
        elif len(x) != len(stream[0][0]):
            N = len(stream[0][0])
            raise ValueError(
                f"x: expected (N, D) = {(N, self._D)} as the streams' states, got {x.shape}; call reset(N={len(x)})?"
            )
        if self._cycle is None:
            self._stream = self._stepped(x, stream, {})
        else:
            steps = np.zeros(len(x), np.int64) if self._steps is None else self._steps
            self._stream, self._steps = self._stepped_by_phase(x, stream, by_phase(steps, self._cycle)), steps + 1
        return now(self._stream[-1][0]).copy()

    def _stepped(self, x, stream, start):
        """The states of each layer after a step."""
        after = []
        for W, states in zip(self._live, stream, strict=True):
            *states, _ = self._functions.step_forward(
                x, *states, **W, training=False, **self._options, **self._means, **start
            )  # fmt: skip
            after.append(tuple(states))
            x = now(states[0])
        return after

    def _stepped_by_phase(self, x, stream, groups):
        """The same where the streams of each group are at a step of this number."""
        if len(groups) == 1:
            return self._stepped(x, stream, {"start": groups[0][0]})
        parts = []
        for start, rows in groups:
            own = [tuple(None if a is None else a[rows] for a in states) for states in stream]
            parts.append(self._stepped(x[rows], own, {"start": start}))
        place = np.argsort(np.concatenate([rows for _, rows in groups]))
        return [tuple(np.concatenate(a)[place] for a in zip(*states, strict=True)) for states in zip(*parts, strict=True)]

    @property
    def state(self) -> Any:
        """The streams' states as they are now, a named tuple h[, c] of arrays (num_layers, N, H), h (…, P) with proj_size=P,
        with delays (…, d, H), that are copies; None before the first step. May be assigned: a tuple of such arrays (those of
        forward, h_T[, c_T], in one), which are copied, or None. With a period, a last field `start`, (N,) int64, is the number
        of each stream's next step; it may be assigned as one integer, that of the steps behind h_T."""
        if self._stream is None:
            return None
        states = [np.stack(states) for states in zip(*self._stream, strict=True)]
        return self._StreamState(*states, *[] if self._steps is None else [self._steps.copy()])

    @state.setter
    def state(self, state: Any) -> None:
        one_direction(self, "state")
        if state is None:
            self._stream = self._steps = None
            return
        numbered = self._cycle is not None
        arrays = _judge.state("state", state, self._state_shapes, (self.num_layers, None), self._dtype, numbered=numbered)
        self._steps = arrays.pop() if numbered else None
        arrays = [a.astype(self._dtype, order="C") for a in arrays]
        self._stream = [tuple(a[k] for a in arrays) for k in range(self.num_layers)]

    def reset(self, N: int | None = None, *, rows: Any = None) -> None:
        """Zero the states of `step`, whose next step is number 0.

        reset() : begin anew, with as many streams as the next x has rows. reset(N) : N streams from zeros.
        rows : integers 0..N-1, or (N,) bools: only these streams begin anew, the others go on.
        """
        one_direction(self, "reset")
        if rows is None and N is None:
            self._stream = self._steps = None
            return
        if rows is None:
            N = _judge.size("N", N, 0)
            rows_of = [row for _, row in self._state_shapes.values()]
            _arguments._affordable(N * max(map(math.prod, rows_of)) * self._dtype.itemsize, 0, f"N: {N} streams")
            self._stream = [tuple(np.zeros((N, *row), self._dtype) for row in rows_of)] * self.num_layers
            self._steps = None if self._cycle is None else np.zeros(N, np.int64)
            return
        if N is not None:
            raise ValueError("rows: expected None where N is given")
        if self._stream is None:
            raise ValueError("rows: expected None, there are no streams before the first step")
        keep = np.ones(len(self._stream[0][0]), bool)
        keep[_judge.places("rows", rows, len(keep))] = False
        self._stream = [tuple(a.copy() for a in states) for states in self._stream]
        for a in itertools.chain(*self._stream):
            a[~keep] = 0
        self._steps = None if self._steps is None else np.where(keep, self._steps, 0)


class PlainLayer(Layer, Generic[F]):
    """A layer whose cell has no c."""

    def forward(
        self, x: Array, h0: Array | None = None, *, lengths: Lengths = None, training: bool = True,
        return_sequences: bool = True, rng: Rng = None, start: int = 0,
    ) -> F:  # fmt: skip
        """Run the layer over sequences; returns (h, h_T, cache).

        x : (N, T, D), any strides. h0 : (num_layers·num_directions, N, H) or None = zeros, layer 0 forward, layer 0 reverse,
        layer 1 …
        lengths : (N,) integers 0..T, in any order, or None. Outputs past a row's length are 0, the reverse direction begins at
            the row's own last step, h_T is the state at the end of each direction's own way, padding (even NaN) influences
            nothing.
        training : False keeps nothing for backward, cache is None, there is no dropout, and zoneout takes its mean.
        return_sequences : False returns only the final states; h is None.
        rng : a numpy Generator or a seed for the masks of dropout and zoneout; None takes the layer's own generator.
        start : of a layer with a period, the number of the first step, so that chunks of a sequence know where they stand

        h : (N, T, output_size), in the memory order of x. h_T : as h0. cache : for backward; it refers to x and the weights.

        Many threads may call it at once. But for masks that are drawn the bits depend on the values alone, as those of the
        function: not on the batch, padding, number of threads, or on the chunks in which the sequence is fed to one direction
        (h0 = the h_T before). What does not fit is a ValueError or TypeError that names the argument, before anything is
        computed.
        """
        return self._run(x, (h0,), lengths, training, return_sequences, rng, start)

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
    _NumberedState = NumberedLSTMLayerState

    def forward(
        self, x: Array, h0: Array | None = None, c0: Array | None = None, *, lengths: Lengths = None, training: bool = True,
        return_sequences: bool = True, rng: Rng = None, start: int = 0,
    ) -> F:  # fmt: skip
        """Run the layer over sequences; returns (h, h_T, c_T, cache).

        x : (N, T, D), any strides. h0, c0 : (num_layers·num_directions, N, H) or None = zeros, layer 0 forward, layer 0
            reverse, layer 1 …; h0 is P wide with proj_size=P, and so are h_T, dh_T and dh0.
        lengths : (N,) integers 0..T, in any order, or None. Outputs past a row's length are 0, the reverse direction begins at
            the row's own last step, h_T and c_T are the states at the end of each direction's own way, padding (even NaN)
            influences nothing.
        training : False keeps nothing for backward, cache is None, there is no dropout, and zoneout takes its mean.
        return_sequences : False returns only the final states; h is None.
        rng : a numpy Generator or a seed for the masks of dropout and zoneout; None takes the layer's own generator.
        start : of a layer with a period, the number of the first step, so that chunks of a sequence know where they stand

        h : (N, T, output_size), in the memory order of x. h_T, c_T : as h0. cache : for backward; it refers to x and the
        weights.

        Many threads may call it at once. But for masks that are drawn the bits depend on the values alone, as those of the
        function: not on the batch, padding, number of threads, or on the chunks in which the sequence is fed to one direction
        (h0, c0 = h_T, c_T before). What does not fit is a ValueError or TypeError that names the argument, before anything is
        computed.
        """
        return self._run(x, (h0, c0), lengths, training, return_sequences, rng, start)

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


def merged(merge: str, h: Array, h_reverse: Array | None = None, *, keep: bool) -> Array:
    """The output of a layer from those of its directions; keep: both are needed as they are where they were multiplied."""
    if h_reverse is None:
        return h
    if merge == "mul":
        return times(h.copy(order="K") if keep else h, h_reverse)
    plus(h, h_reverse)
    return times(h, h.dtype.type(0.5)) if merge == "mean" else h


class Prepared:
    """A prepared cell for each layer, with its present weights; streams after training."""

    def __init__(self, layer: Layer):
        self.cells = [layer._functions.Cell(**W, **layer._options) for W in layer._live]
        self.means = layer._means

    def step(self, x: Array, states: list[Any]) -> tuple[Array, list[Array]]:
        """(the output of the last layer, the states after the step), from x (N, D) and the states before, each with the layers
        along its first axis."""
        after = []
        for k, cell in enumerate(self.cells):
            found = cell.step(x, *(a[k] for a in states), **self.means)
            after.append(found if isinstance(found, tuple) else (found,))
            x = now(after[-1][0])
        return x, [np.stack(parts) for parts in zip(*after, strict=True)]


def now(h: Array) -> Array:
    """h (N, H) of a step; of the last d steps, (N, d, H), that of the last."""
    return h if h.ndim == 2 else h[:, -1]


def by_delay(Wh: Array) -> Array:
    """(K, H, G·H), K = 1 where there are no delays."""
    return Wh if Wh.ndim == 3 else Wh[None]


def by_phase(steps: Array, cycle: int) -> list[tuple[int, Any]]:
    """(number of a step, rows) of groups of streams in which the units of all periods stand alike; all rows, where there is one
    group. steps : (N,), the number of each stream's next step."""
    phases = steps % cycle
    order = np.argsort(phases, kind="stable")
    numbers, first = np.unique(phases[order], return_index=True)
    if len(numbers) < 2:
        return [(int(numbers[0]) if len(numbers) else 0, slice(None))]
    return list(zip(numbers.tolist(), np.split(order, first[1:]), strict=True))


def one_direction(layer: Layer, name: str) -> None:
    if layer.bidirectional:
        raise ValueError(f"{name}: expected a layer of one direction; the reverse one needs the end of the sequence first")
