"""A sequence to a sequence: an encoder, a decoder, and what the one tells the other."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastgate import _arguments
from fastgate.layers import _affine, _judge
from fastgate.layers._layer import RATES, Layer, Prepared
from fastgate.layers._parameters import plus
from fastgate.layers._symbols import SymbolRows
from fastgate.layers._types import Array, Lengths, Rng
from fastgate.structures import _attention
from fastgate.structures._structure import (
    Cell,
    Outputs,
    Shapes,
    Structure,
    StructureCache,
    Tape,
    TapeBackward,
    config_of,
    lengths_of,
    within,
    zeros_of,
)

CONTEXTS = ("initial", "input", "both", "additive", "dot")
_FED = ("input", "both", "additive")  # the decoder's x has the context beside y


class EncoderDecoderGradients(NamedTuple):
    """What backward returns; the weights' gradients are in `gradients`."""

    dx: Array | Any  # (N, S, input_size); None with need_dx=False
    dy: Array | Any  # (N, T, target_size); None with need_dx=False


def _width_of_h(config):
    return config.get("proj_size") or config["hidden_size"]


class EncoderDecoder(Structure):
    """An encoder reads x, a decoder writes o, given the symbols before, y.

        hs, state = encoder.forward(x)                          hs (N, S, H), state h_S (and c_S)
        C = h_S of the last layer

    context    the decoder
    "initial"  h = decoder.forward(y, state);            o = h V + c     Sutskever, Vinyals and Le (2014)
    "input"    h = decoder.forward([y, C]), from zeros;  o = h V + c     Cho et al. (2014); C at every step
    "both"     h = decoder.forward([y, C], state);       o = h V + c
    "additive" step by step, from `state`; attention of variable length, Bahdanau, Cho and Bengio (2015), its output plain:
                   e_ts = va · tanh(h_{t-1} Wa + hs_s Ua);   a_t = softmax(e_t);   C_t = Σ_s a_ts hs_s
                   h_t = decoder.step([y_t, C_t], h_{t-1});  o_t = [h_t, C_t] V + c
    "dot"      h = decoder.forward(y, state); attention behind it, Luong, Pham and Manning (2015), global, dot:
                   a_t = softmax_s(h_t · hs_s);   C_t = Σ_s a_ts hs_s
                   h̃_t = tanh([C_t, h_t] Wc);     o_t = h̃_t V + c

    input_size, hidden_size : D, H; with proj_size=P, h, hs, C and h̃ are P wide, and P stands for H in V, Wa, Ua, va, Wc.
    target_size : the width of y. output_size : K, the width of o.
    cell : "rnn", "lstm", "gru", …, of both. rng, and any other argument of the layers (num_layers, dropout, dtype, …) : as
        there, but for bidirectional and period; no dropout and no zoneout with "additive".
    Weights: encoder.Wx0 …, decoder.Wx0 …, V, c, and Wa (H, H), Ua (H, H), va (H,) or Wc (2H, H), in one flat array:
    parameters, weights, gradients, grads, state_dict, save, load as in layers. Fresh matrices of its own are uniform (Glorot
    and Bengio 2010), va as a column, c is zeros.

    forward(x, y, *, lengths=None, y_lengths=None, training=True, rng=None) -> (o, state, cache)
        x (N, S, D) with lengths (N,), y (N, T, target_size) with y_lengths (N,): padding, even NaN, influences nothing.
        o (N, T, K), zeros past y's length. state : the decoder's last one. A row without x has the context 0.
    backward(do, cache, *, accumulate=False, need_dx=True) -> (dx, dy)
    decoder_step(x, lengths=None, E=None, *, remaining=False) -> (step, state) : for fastgate.decode.
    attention(cache) -> (N, T, S) : a, where each step of y looked, with "additive" and "dot".

    A row has the same bits in any batch, padding and number of threads, and step by step. What does not fit is a ValueError or
    TypeError that names the argument, before anything is computed.
    """

    _kind = "EncoderDecoder"
    _options: ClassVar[tuple[str, ...]] = ("input_size", "hidden_size", "target_size", "output_size", "context", "cell")

    def __init__(
        self, input_size: int, hidden_size: int, target_size: int, output_size: int, *,
        context: Literal["initial", "input", "both", "additive", "dot"] = "initial",
        cell: Cell = "gru", rng: Rng = None, **options: Any,
    ):  # fmt: skip
        self._create(self._judged(input_size, hidden_size, target_size, output_size, context, cell, **options), rng)

    @classmethod
    def _judged(cls, input_size, hidden_size, target_size, output_size, context, cell, **options) -> dict[str, Any]:
        config = {
            "input_size": _judge.size("input_size", input_size),
            "hidden_size": _judge.size("hidden_size", hidden_size),
            "target_size": _judge.size("target_size", target_size),
            "output_size": _judge.size("output_size", output_size),
            "context": _arguments.option("context", context, CONTEXTS),
        }
        config = cls._judged_cell(config, cell, options)
        if config.get("bidirectional"):
            raise ValueError("bidirectional: expected False, the decoder goes on from the encoder's last state; got True")
        for name in ("dropout", *RATES):
            if config.get(name) and context == "additive":
                raise ValueError(f'{name}: expected 0 with context="additive", got {config[name]}')
        return config

    @classmethod
    def _plan(cls, config):
        H, cell, options = config["hidden_size"], config["cell"], cls._cell_options(config)
        width = config["target_size"] + _width_of_h(config) * (config["context"] in _FED)
        return {
            "encoder": (cell, config_of(cell, config["input_size"], H, options)),
            "decoder": (cell, config_of(cell, width, H, options)),
        }

    @classmethod
    def _own(cls, config: dict[str, Any]) -> Shapes:
        H, K, context = _width_of_h(config), config["output_size"], config["context"]
        shapes: Shapes = {}
        if context == "additive":
            shapes = {"Wa": (("H", "H"), (H, H)), "Ua": (("H", "H"), (H, H)), "va": (("H",), (H,))}
        if context == "dot":
            shapes = {"Wc": (("2H", "H"), (2 * H, H))}
        V = (("2H", "K"), (2 * H, K)) if context == "additive" else (("H", "K"), (H, K))
        return shapes | {"V": V, "c": (("K",), (K,))}

    def _create(self, config, rng):
        super()._create(config, rng)
        if "va" in self._weights:
            limit = (6 / (len(self._weights["va"]) + 1)) ** 0.5
            self._weights["va"][...] = self._rng.uniform(-limit, limit, len(self._weights["va"]))

    @property
    def encoder(self) -> Layer:
        """The layer that reads x, whose weights lie in `parameters`."""
        return self._parts["encoder"]

    @property
    def decoder(self) -> Layer:
        """The layer that writes, whose weights lie in `parameters`."""
        return self._parts["decoder"]

    @property
    def target_size(self) -> int:
        """The width of y."""
        return self._config["target_size"]

    @property
    def output_size(self) -> int:
        """K, the width of o."""
        return self._config["output_size"]

    @property
    def context(self) -> str:
        """What the encoder tells the decoder."""
        return self._config["context"]

    # --- forward -----------------------------------------------------------------------------------------------------

    def forward(
        self, x: Array, y: Array, *, lengths: Lengths = None, y_lengths: Lengths = None, training: bool = True, rng: Rng = None
    ) -> Outputs:
        """(o, state, cache); see the class."""
        training = _arguments.flag("training", training)
        x = _judge.rows(x, self._dtype, ("N", "S", "D"), self._config["input_size"])
        N, S, _ = x.shape
        W = self.target_size
        y = _arguments._array("y", y, (self._dtype,), "the structure")[...]
        if y.ndim != 3 or y.shape[0] != N or y.shape[2] != W:
            raise ValueError(f"y: expected (N, T, target_size) = ({N}, T, {W}), got {y.shape}")
        judged, own = lengths_of(lengths, N, S), lengths_of(y_lengths, N, y.shape[1], "y_lengths")
        return self._run(x, within(y, own), judged, own, training, rng)

    def _run(self, x, y, lengths, y_lengths, training, rng):
        (N, S, _), T, layer = x.shape, y.shape[1], self.decoder
        rng = None if rng is None else _judge.generator(rng)
        attention = self.context in ("additive", "dot")
        hs, *last, encoded = self.encoder.forward(x, lengths=lengths, training=training, return_sequences=attention, rng=rng)
        kept: dict[str, Any] = {"encoded": encoded, "hs": hs, "shape": (N, S, T), "y_lengths": y_lengths}
        kept["lengths"] = np.full(N, S) if lengths is None else lengths
        kept["steps"] = np.full(N, T) if y_lengths is None else y_lengths
        if self.context == "additive":
            out, after = self._additive(y, hs, last, kept, training)
        else:
            if self.context in _FED:
                y = np.concatenate([y, np.repeat(last[0][-1][:, None], T, axis=1)], axis=2)
            first = [None] * len(last) if self.context == "input" else last
            h, *after, kept["decoded"] = layer.forward(y, *first, lengths=y_lengths, training=training, rng=rng)
            out = h if self.context != "dot" else self._dot(h, hs, kept, training)
        o, kept["output"] = _affine.forward(out, self._weights["V"], self._weights["c"], training=training)
        cache = StructureCache(self, **kept) if training else None
        return Outputs(within(o, y_lengths), layer._State._make(after), cache)

    def _dot(self, h, hs, kept, training):
        joined = np.concatenate([np.zeros_like(h), h], axis=2)
        H, weights = h.shape[2], []
        for n, (S, T) in enumerate(zip(kept["lengths"], kept["steps"], strict=True)):
            a = None
            if S and T:
                joined[n, :T, :H], a = _attention.dot(h[n, :T], hs[n, :S])
            weights.append(a)
        kept["weights"], kept["h"] = weights, h
        out, kept["mixed"] = _affine.forward(joined, self._weights["Wc"], activation="tanh", training=training)
        return out

    def _additive(self, y, hs, last, kept, training):
        W, layer, (N, T) = self._weights, self.decoder, y.shape[:2]
        tapes = [Tape(layer, weights, training) for weights in layer._live]
        projected, kept["projected_cache"] = _affine.forward(hs, W["Ua"], training=training)
        states = [tuple(a[k] for a in last) for k in range(layer.num_layers)]
        H = layer._P
        out, before, q, weights = np.zeros((N, T, 2 * H), self._dtype), np.empty((N, T, H), self._dtype), [], []
        for t in range(T):
            active = kept["steps"] > t
            before[:, t] = states[-1][0]
            q.append(_affine.forward(before[:, t], W["Wa"], training=False)[0])
            context, a = _attention.additive(q[t], projected, W["va"], hs, kept["lengths"], active)
            weights.append(a)
            x = np.concatenate([y[:, t], context], axis=1)
            held = None if kept["y_lengths"] is None else active
            for k, tape in enumerate(tapes):
                states[k] = tape.forward(x, states[k], held)
                x = states[k][0]
            out[:, t, :H], out[:, t, H:] = x, context
        kept |= {"tapes": tapes, "projected": projected, "before": before, "q": q, "weights": weights}
        return out, [np.stack(parts) for parts in zip(*states, strict=True)]

    # --- backward ----------------------------------------------------------------------------------------------------

    def backward(
        self, do: Array | None, cache: Any, *, accumulate: bool = False, need_dx: bool = True
    ) -> EncoderDecoderGradients:
        """(dx, dy), and the gradients of the weights in `gradients`; see the class. do : (N, T, K) or None = zeros."""
        accumulate, need_dx = _arguments.flag("accumulate", accumulate), _arguments.flag("need_dx", need_dx)
        kept = self._cache_of(cache)
        (N, _, T), K = kept["shape"], self.output_size
        do = np.zeros((N, T, K), self._dtype) if do is None else self._array("do", do, ("N", "T", "K"), (N, T, K))
        with self._writing(accumulate):
            return self._run_backward(within(do, kept["y_lengths"]), kept, need_dx)

    def _run_backward(self, do, kept, need_dx):
        layer: Any = self.decoder
        dout = self._output_backward(do, kept["output"])
        dhs, W = None, self.target_size
        if self.context == "additive":
            dy, dlast, dhs = self._additive_backward(dout, kept)
        else:
            if self.context == "dot":
                dout, dhs = self._dot_backward(dout, kept)
            dy, *dlast = layer.backward(dout, kept["decoded"], accumulate=True, need_dx=need_dx or self.context in _FED)
            if self.context == "input":
                dlast = [np.zeros_like(a) for a in dlast]
            if self.context in _FED:
                dlast[0][-1] += _attention.summed(dy[..., W:])
        encoder: Any = self.encoder
        dx = encoder.backward(dhs, kept["encoded"], *dlast, accumulate=True, need_dx=need_dx).dx
        return EncoderDecoderGradients(dx, np.ascontiguousarray(dy[..., :W]) if need_dx else None)

    def _dot_backward(self, dout, kept):
        dW = np.empty_like(self._weights["Wc"])
        djoined = _affine.backward(dout, kept["mixed"], dW)
        self._add("Wc", dW)
        h, hs = kept["h"], kept["hs"]
        H = h.shape[2]
        dh, dhs = djoined[..., H:].copy(), np.zeros_like(hs)
        for n, (S, T) in enumerate(zip(kept["lengths"], kept["steps"], strict=True)):
            if S and T:
                more, dhs[n, :S] = _attention.dot_backward(djoined[n, :T, :H], kept["weights"][n], h[n, :T], hs[n, :S])
                dh[n, :T] += more
        return dh, dhs

    def _additive_backward(self, dout, kept):
        W, layer, hs = self._weights, self.decoder, kept["hs"]
        H, wide = layer._P, self.target_size
        N, _, T = kept["shape"]
        backs = [TapeBackward(tape) for tape in kept["tapes"]]
        dstates = [zeros_of(layer, N) for _ in backs]
        dy, dq = np.empty((N, T, wide), self._dtype), np.empty((N, T, H), self._dtype)
        dhs, dprojected, dva = np.zeros_like(hs), np.zeros_like(kept["projected"]), np.zeros_like(W["va"])
        for t in reversed(range(T)):
            dx = dout[:, t, :H]
            for k in reversed(range(len(backs))):
                dh, *rest = dstates[k]
                dx, dstates[k] = backs[k].backward((dh + dx, *rest))
            dy[:, t] = dx[:, :wide]
            dcontext = dx[:, wide:] + dout[:, t, H:]
            dq[:, t], dinner, dv, dkeys = _attention.additive_backward(
                dcontext, kept["weights"][t], kept["q"][t], kept["projected"], W["va"], hs
            )
            dva += dv
            plus(dprojected, dinner)
            plus(dhs, dkeys)
            dh, *rest = dstates[-1]
            dstates[-1] = (dh + _affine.forward(dq[:, t], W["Wa"].T, training=False)[0], *rest)
        for back, written in zip(backs, layer._written, strict=True):
            for name, gradient in back.weights().items():
                plus(written[f"d{name}"], gradient)
        dUa, dWa = np.empty_like(W["Ua"]), np.empty_like(W["Wa"])
        plus(dhs, _affine.backward(dprojected, kept["projected_cache"], dUa))
        _affine.backward(dq, _affine.forward(kept["before"], W["Wa"])[1], dWa, need_dx=False)
        for name, gradient in (("Ua", dUa), ("Wa", dWa), ("va", dva)):
            self._add(name, gradient)
        return dy, [np.stack(parts) for parts in zip(*dstates, strict=True)], dhs

    def attention(self, cache: Any) -> Array:
        """The weights a (N, T, S) of a forward call in training: a[n, t] says where step t of row n looked, and its sum is 1.

        Zeros past the lengths of y and of x, and in a row without x. A structure whose context is neither "additive" nor "dot"
        has none: ValueError. To see what a decoding looked at, run forward over its symbols.
        """
        kept = self._cache_of(cache)
        if self.context not in ("additive", "dot"):
            raise ValueError(f'cache: expected that of a structure with context="additive" or "dot", got "{self.context}"')
        N, S, T = kept["shape"]
        a = np.zeros((N, T, S), self._dtype)
        for k, weights in enumerate(kept["weights"]):
            if self.context == "additive":
                a[:, k] = weights
            elif weights is not None:
                a[k, : weights.shape[0], : weights.shape[1]] = weights
        return a

    # --- decoding ----------------------------------------------------------------------------------------------------

    def decoder_step(
        self, x: Array, lengths: Lengths = None, E: Array | None = None, *, remaining: bool = False
    ) -> tuple[DecoderStep, Any]:  # fmt: skip
        """(step, state) for fastgate.decode: what the decoder says of each row of x, symbol by symbol.

        x, lengths : as in forward. E : (number of symbols, target_size), a symbol's row is y; None takes one-hot rows,
        target_size wide. remaining : True makes the last column of y the symbols still to come, for decode's lengths=, as y had
        it in training; E then is target_size - 1 wide. The weights are those of now: after training, ask for another one. A
        beam forks a number and the decoder's state, not the encoder's.

            step, state = model.decoder_step(x)
            found = fastgate.decode.beam(step, y0, state, width=8, eos=1, max_length=50)
        """
        x = _judge.rows(x, self._dtype, ("N", "S", "D"), self._config["input_size"])
        judged = lengths_of(lengths, *x.shape[:2])
        symbols = SymbolRows(E, self.target_size, "target_size", self._dtype, "the structure", remaining)
        step = DecoderStep(self, x, judged, symbols)
        return step, step.first


class DecoderStep:
    """What EncoderDecoder.decoder_step returns: step(y, state, left=None) -> (scores, state), step.select(state, rows). A state
    is (rows of x, h[, c])."""

    def __init__(self, model: EncoderDecoder, x: Array, lengths: NDArray[np.int64] | None, symbols: SymbolRows):
        hs, *last, _ = model.encoder.forward(x, lengths=lengths, training=False)  # type: ignore[attr-defined]
        self._context, self._hs, self._C = model.context, hs, last[0][-1]
        self._lengths = np.full(len(x), x.shape[1]) if lengths is None else lengths
        self._W = {name: model.weights[name].copy() for name in model._own(model._config)}
        self._prepared, self._symbols = Prepared(model.decoder), symbols
        self._output = _affine.Prepared(self._W["V"], self._W["c"])
        self._projected: Any = _affine.forward(hs, self._W["Ua"], training=False)[0] if self._context == "additive" else None
        states = [np.zeros_like(a) for a in last] if self._context == "input" else last
        self.first = (np.arange(len(x)), *states)

    def __call__(self, y: Any, state: Any, left: Any = None) -> tuple[Array, Any]:
        if not isinstance(state, tuple) or len(state) != len(self.first):
            raise TypeError(f"state: expected that of decoder_step, got {_arguments._kind(state)}")
        rows, *states = state
        x = self._symbols.rows(y, left, len(rows))
        context = None
        if self._context == "additive":
            q = _affine.forward(states[0][-1], self._W["Wa"], training=False)[0]
            keys, lengths = self._hs[rows], self._lengths[rows]
            context, _ = _attention.additive(q, self._projected[rows], self._W["va"], keys, lengths, True)
        elif self._context in _FED:
            context = self._C[rows]
        if context is not None:
            x = np.concatenate([x, context], axis=1)
        x, after = self._prepared.step(x, states)
        if self._context == "additive":
            x = np.concatenate([x, context], axis=1)
        if self._context == "dot":
            contexts = np.zeros_like(x)
            for r, n in enumerate(rows):
                if self._lengths[n]:
                    contexts[r] = _attention.dot(x[r : r + 1], self._hs[n, : self._lengths[n]])[0][0]
            joined = np.concatenate([contexts, x], axis=1)
            x, _ = _affine.forward(joined, self._W["Wc"], activation="tanh", training=False)
        return self._output(x), (rows, *after)

    def select(self, state: Any, rows: NDArray[np.int64]) -> Any:
        """The states of these rows, copies; a row may come twice."""
        own, *states = state
        return own[rows], *(np.take(a, rows, axis=1) for a in states)


class SequenceAutoencoder(EncoderDecoder):
    """A sequence to itself, through the state in which the encoder ends.

        state = encoder.forward(x)                      C = its last layer's h
        o = decoder.forward(y, state) V + c             context="initial"; "input" and "both" as in EncoderDecoder
        y : x itself, one step later, zeros first       conditional=True; with False y are zeros, and all that the decoder knows
                                                        is the state (Srivastava, Mansimov and Salakhutdinov 2015)

    input_size, hidden_size : D, H. context : "initial", "input" or "both". cell, rng and all others as in EncoderDecoder.
    reverse : True writes the last step first, which is the one nearest in the state (Sutskever et al. 2014; Srivastava et al.
        2015). o keeps the order of x.

    forward(x, *, lengths=None, training=True, rng=None) -> (o, state, cache)
        x (N, T, D), o (N, T, D), to be compared with x; zeros past a row's length.
    backward(do, cache, *, accumulate=False, need_dx=True) -> dx
        What goes through the encoder and through y; where the loss compares o with x, x has another gradient of its own.
    encode(x, lengths=None) -> C (N, H), the code of each row.

    Dai and Le (2015), "Semi-supervised sequence learning".
    """

    _kind = "SequenceAutoencoder"
    _options = ("input_size", "hidden_size", "context", "conditional", "reverse", "cell", "target_size", "output_size")

    def __init__(
        self, input_size: int, hidden_size: int, *, context: Literal["initial", "input", "both"] = "initial",
        conditional: bool = True, reverse: bool = True, cell: Cell = "lstm", rng: Rng = None,
        **options: Any,
    ):  # fmt: skip
        self._create(self._judged(input_size, hidden_size, context, conditional, reverse, cell, **options), rng)

    @classmethod
    def _judged(cls, input_size, hidden_size, context, conditional, reverse, cell, **options) -> dict[str, Any]:  # type: ignore[override]
        context = _arguments.option("context", context, CONTEXTS[:3])
        config = super()._judged(input_size, hidden_size, input_size, input_size, context, cell, **options)
        del config["target_size"], config["output_size"]
        conditional, reverse = _arguments.flag("conditional", conditional), _arguments.flag("reverse", reverse)
        return config | {"conditional": conditional, "reverse": reverse}

    @classmethod
    def _plan(cls, config):
        return super()._plan(config | {"target_size": config["input_size"]})

    @classmethod
    def _own(cls, config: dict[str, Any]) -> Shapes:
        return super()._own(config | {"output_size": config["input_size"]})

    @property
    def target_size(self) -> int:
        """D, as that of x."""
        return self._config["input_size"]

    @property
    def output_size(self) -> int:
        """D, as that of x."""
        return self._config["input_size"]

    def forward(  # type: ignore[override]
        self, x: Array, *, lengths: Lengths = None, training: bool = True, rng: Rng = None
    ) -> Outputs:
        """(o, state, cache); see the class."""
        training = _arguments.flag("training", training)
        x = _judge.rows(x, self._dtype, ("N", "T", "D"), self._config["input_size"])
        N, T, _ = x.shape
        judged = lengths_of(lengths, N, T)
        y = np.zeros((N, T, x.shape[2]), self._dtype)
        if self._config["conditional"]:
            y[:, 1:] = self._turned(within(x, judged), judged)[:, :-1]
            y = within(y, judged)
        o, state, cache = self._run(x, y, judged, judged, training, rng)
        return Outputs(self._turned(o, judged), state, cache)

    def backward(  # type: ignore[override]
        self, do: Array | None, cache: Any, *, accumulate: bool = False, need_dx: bool = True
    ) -> Array | None:
        """dx, and the gradients of the weights in `gradients`; see the class. do : (N, T, D) or None = zeros."""
        kept = self._cache_of(cache)
        (N, _, T), D, lengths = kept["shape"], self._config["input_size"], kept["y_lengths"]
        if do is not None:
            do = self._turned(within(self._array("do", do, ("N", "T", "D"), (N, T, D)), lengths), lengths)
        dx, dy = super().backward(do, cache, accumulate=accumulate, need_dx=need_dx)
        if need_dx and self._config["conditional"]:
            later = np.zeros_like(dy)
            later[:, :-1] = within(dy, lengths)[:, 1:]
            dx = dx + self._turned(later, lengths)
        return dx

    def encode(self, x: Array, lengths: Lengths = None) -> Array:
        """C (N, H), the last state of the encoder's last layer."""
        return self.encoder.forward(x, lengths=lengths, training=False, return_sequences=False).h_T[-1].copy()  # type: ignore[attr-defined]

    def _turned(self, a, lengths):
        """Each row's own steps the other way round, where the decoder writes backwards; padding stays."""
        if not self._config["reverse"]:
            return a
        T = a.shape[1]
        if lengths is None:
            return a[:, ::-1]
        t = np.arange(T)
        at = np.where(t < lengths[:, None], lengths[:, None] - 1 - t, t)
        return np.take_along_axis(a, at[..., None], axis=1)
