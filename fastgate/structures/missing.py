"""Inputs with missing values: a mask, the last value carried on, and decays that are learned."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastgate import _arguments
from fastgate.layers import _affine, _judge
from fastgate.layers._layer import RATES, Layer
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
    lengths_of,
    silent,
    within,
)


@silent
def intervals(mask: NDArray[np.bool_], times: Array) -> Array:
    """delta (N, T, D): how long ago each value was last observed, from mask (N, T, D) and the times of the steps (N, T).

    delta_0 = 0;  delta_t = times_t - times_{t-1} + (0 where mask_{t-1}, else delta_{t-1}): Che et al. (2018), equation 2.
    mask : bools. times : float32 or float64, as delta. What does not fit is a ValueError or TypeError that names it.
    """
    mask = _arguments._array("mask", mask, (np.dtype(bool),), cast="bool")
    times = _arguments._array("times", times, _arguments.KERNEL)
    if mask.ndim != 3:
        raise ValueError(f"mask: expected (N, T, D), got {mask.shape}")
    if times.shape != mask.shape[:2]:
        raise ValueError(f"times: expected (N, T) = {mask.shape[:2]} as mask, got {times.shape}")
    delta = np.zeros(mask.shape, times.dtype.newbyteorder("="))
    for t in range(1, mask.shape[1]):
        delta[:, t] = (times[:, t] - times[:, t - 1])[:, None] + np.where(mask[:, t - 1], 0, delta[:, t - 1])
    return delta


class MissingValues(Structure):
    """A layer over inputs of which some are missing: GRU-D of Che, Purushotham, Cho, Sontag and Liu (2018), over any cell.

        m : 1 where x was observed, 0 where it is missing;  delta : since when (`intervals`);  x' : the last value observed
        gamma_x = exp(-max(0, wx * delta + bx))                       each input its own: wx, bx (D,)
        gamma_h = exp(-max(0, delta Wd + bd))                         Wd (D, H), bd (H,)
        x̂_t     = m x_t + (1 - m) (gamma_x x' + (1 - gamma_x) mean)
        h_t     = cell([x̂_t, m_t], gamma_h h_{t-1})                   with an LSTM c is decayed as h is

    input_size, hidden_size : D, H. cell : "rnn", "lstm", "gru", ….
    input_decay : False is gamma_x = 1, the last value carried on. hidden_decay : False is gamma_h = 1; then the layer may have
        any number of layers and both directions, dropout, zoneout and a projection, and runs all steps in one call.
    rng, and any other argument of the layer (num_layers, dropout, dtype, …) : as there.
    Weights: layer.Wx0 (2D, G·H) …, wx, bx, Wd, bd, in one flat array: parameters, weights, gradients, grads, state_dict, save,
    load as in layers. Fresh wx and Wd are uniform in 0..√(6 / (D + H)), so that all decay at first, biases 0.

    forward(x, mask, state=None, *, times=None, mean=None, lengths=None, training=True, rng=None) -> (h, state, cache)
        x (N, T, D), where mask (N, T, D) of bools is False it may hold anything, even NaN. times (N, T), never falling, None =
        0, 1, 2, …. mean (D,), what a value is without news, None = zeros; it stands, too, where nothing has been observed yet.
        h (N, T, output_size), zeros past a row's length.
    backward(dh, cache, dstate=None, *, accumulate=False, need_dx=True) -> (dx, dstate)
        dx : 0 where x was missing; what was carried on from an observed value is in its gradient. times and mean are constants.

    A row has the same bits in any batch, padding and number of threads. What does not fit is a ValueError or TypeError that
    names the argument, before anything is computed. Equations 3 to 9 of the paper.
    """

    _kind = "MissingValues"
    _options: ClassVar[tuple[str, ...]] = ("input_size", "hidden_size", "input_decay", "hidden_decay", "cell")

    def __init__(
        self, input_size: int, hidden_size: int, *, cell: Cell = "gru", input_decay: bool = True,
        hidden_decay: bool = True, rng: Rng = None, **options: Any,
    ):  # fmt: skip
        self._create(self._judged(input_size, hidden_size, cell, input_decay, hidden_decay, **options), rng)

    @classmethod
    def _judged(cls, input_size, hidden_size, cell, input_decay, hidden_decay, **options) -> dict[str, Any]:
        config = {
            "input_size": _judge.size("input_size", input_size),
            "hidden_size": _judge.size("hidden_size", hidden_size),
            "input_decay": _arguments.flag("input_decay", input_decay),
            "hidden_decay": _arguments.flag("hidden_decay", hidden_decay),
        }
        config = cls._judged_cell(config, cell, options)
        if config["hidden_decay"]:
            only_so = {"num_layers": 1, "bidirectional": False, "dropout": 0.0, "proj_size": None} | dict.fromkeys(RATES, 0.0)
            for name, only in only_so.items():
                if config.get(name, only) != only:
                    raise ValueError(f"{name}: expected {only} with hidden_decay=True, got {config[name]}")
        return config

    @classmethod
    def _plan(cls, config):
        options = cls._cell_options(config)
        return {"layer": (config["cell"], config_of(config["cell"], 2 * config["input_size"], config["hidden_size"], options))}

    @classmethod
    def _own(cls, config: dict[str, Any]) -> Shapes:
        D, H = config["input_size"], config["hidden_size"]
        shapes: Shapes = {}
        if config["input_decay"]:
            shapes |= {"wx": (("D",), (D,)), "bx": (("D",), (D,))}
        if config["hidden_decay"]:
            shapes |= {"Wd": (("D", "H"), (D, H)), "bd": (("H",), (H,))}
        return shapes

    def _create(self, config, rng):
        super()._create(config, rng)
        limit = (6 / (config["input_size"] + config["hidden_size"])) ** 0.5
        for name in ("wx", "Wd"):
            if name in self._weights:
                self._weights[name][...] = self._rng.uniform(0, limit, self._weights[name].shape)

    @property
    def layer(self) -> Layer:
        """The layer over [x̂, m], whose weights lie in `parameters`."""
        return self._parts["layer"]

    # --- forward -----------------------------------------------------------------------------------------------------

    @silent
    def forward(
        self, x: Array, mask: NDArray[np.bool_], state: State = None, *, times: Array | None = None, mean: Array | None = None,
        lengths: Lengths = None, training: bool = True, rng: Rng = None,
    ) -> StateOutputs:  # fmt: skip
        """(h, state, cache); see the class."""
        training = _arguments.flag("training", training)
        D, layer = self._config["input_size"], self.layer
        x = _judge.rows(x, self._dtype, ("N", "T", "D"), D)
        N, T, _ = x.shape
        judged = lengths_of(lengths, N, T)
        mask = _arguments._array("mask", mask, (np.dtype(bool),), cast="bool")
        if mask.shape != x.shape:
            raise ValueError(f"mask: expected (N, T, D) = {x.shape} as x, got {mask.shape}")
        mean = np.zeros(D, self._dtype) if mean is None else self._array("mean", mean, ("D",), (D,))
        times = self._times(times, N, T, judged)
        first = self._state_of("state", state, layer, N)
        rng = None if rng is None else _judge.generator(rng)

        mask = within(mask, judged)
        last = np.maximum.accumulate(np.where(mask, np.arange(T)[:, None], -1), axis=1)  # where each value was last observed
        news = np.where(mask, x, self._dtype.type(0))
        carried = np.where(last >= 0, np.take_along_axis(news, np.maximum(last, 0), axis=1), mean) if T else news
        delta = within(intervals(mask, times), judged)
        kept: dict[str, Any] = {"mask": mask, "delta": delta, "carried": carried, "mean": mean, "lengths": judged}
        given = carried
        if self._config["input_decay"]:
            a = self._weights["wx"] * delta + self._weights["bx"]
            kept["active"], kept["gamma"] = a > 0, np.exp(-np.maximum(a, 0))
            given = np.where(mask, carried, mean + kept["gamma"] * (carried - mean))
        joined = np.concatenate([given, mask.astype(self._dtype)], axis=2)
        if self._config["hidden_decay"]:
            h, after = self._decayed(joined, delta, first, judged, kept, training)
        else:
            h, *after, kept["inner"] = layer.forward(joined, *first, lengths=judged, training=training, rng=rng)  # type: ignore[attr-defined]
        cache = StructureCache(self, **kept) if training else None
        return StateOutputs(h, layer._State._make(after), cache)

    def _times(self, times, N, T, lengths):
        if times is None:
            return np.broadcast_to(np.arange(T, dtype=self._dtype), (N, T))
        times = within(self._array("times", times, ("N", "T"), (N, T)), lengths)
        steps = within(np.diff(times, axis=1), None if lengths is None else np.maximum(lengths - 1, 0))
        wrong = ~(steps >= 0) | ~np.isfinite(steps)
        if wrong.any():
            n, t = np.argwhere(wrong)[0]
            raise ValueError(f"times: expected finite times that never fall, got {times[n, t]}, {times[n, t + 1]} in row {n}")
        return times

    def _decayed(self, joined, delta, first, lengths, kept, training):
        layer, (N, T, _) = self.layer, joined.shape
        r, kept["decay"] = _affine.forward(
            delta, self._weights["Wd"], self._weights["bd"], activation="relu", training=training
        )
        decay = np.exp(-r)
        tape = Tape(layer, layer._live[0], training)
        states = tuple(np.zeros((N, layer._H), self._dtype) if a is None else a[0] for a in first)
        h, before = np.empty((N, T, layer._H), self._dtype), []
        for t in range(T):
            active = None if lengths is None else lengths > t
            before.append(states)
            decayed = tuple(decay[:, t] * a for a in states)
            after = tape.forward(joined[:, t], decayed, active)
            if active is not None:  # rows that have ended keep the state as it was, not decayed
                after = tuple(np.where(active[:, None], a, b) for a, b in zip(after, states, strict=True))
            states = after
            h[:, t] = states[0]
        kept |= {"tape": tape, "before": before, "gamma_h": decay}
        return within(h, lengths), [a[None].copy() for a in states]

    # --- backward ----------------------------------------------------------------------------------------------------

    @silent
    def backward(
        self, dh: Array | None, cache: Any, dstate: State = None, *, accumulate: bool = False, need_dx: bool = True
    ) -> StructureGradients:
        """(dx, dstate), and the gradients of the weights in `gradients`; see the class. dh : as h, or None = zeros."""
        accumulate, need_dx = _arguments.flag("accumulate", accumulate), _arguments.flag("need_dx", need_dx)
        kept, layer = self._cache_of(cache), self.layer
        N, T, D = kept["mask"].shape
        sizes = (N, T, layer.output_size)
        dh = np.zeros(sizes, self._dtype) if dh is None else self._array("dh", dh, ("N", "T", "output_size"), sizes)
        dh = within(dh, kept["lengths"])
        upstream = self._state_of("dstate", dstate, layer, N)
        inner = need_dx or self._config["input_decay"]
        with self._writing(accumulate):
            if self._config["hidden_decay"]:
                djoined, first = self._decayed_backward(dh, upstream, kept)
            else:
                djoined, *first = layer.backward(dh, kept["inner"], *upstream, accumulate=True, need_dx=inner)  # type: ignore[attr-defined]
            dgiven: Any = within(djoined[..., :D], kept["lengths"]) if inner else None
            if self._config["input_decay"]:
                drop = np.where(kept["mask"], self._dtype.type(0), dgiven) * kept["gamma"]
                da = np.where(kept["active"], drop * (kept["mean"] - kept["carried"]), self._dtype.type(0))
                self._add("wx", (da * kept["delta"]).sum(axis=(0, 1)))
                self._add("bx", da.sum(axis=(0, 1)))
        dx = None
        if need_dx:
            dx, carry = np.zeros((N, T, D), self._dtype), np.zeros((N, D), self._dtype)
            share = kept["gamma"] * dgiven if self._config["input_decay"] else dgiven
            for t in reversed(range(T)):
                here = kept["mask"][:, t]
                dx[:, t] = np.where(here, dgiven[:, t] + carry, 0)
                carry = np.where(here, self._dtype.type(0), carry + share[:, t])
        return StructureGradients(dx, layer._State._make(first))

    def _decayed_backward(self, dh, upstream, kept):
        layer, (N, T, H) = self.layer, dh.shape
        back, decay, lengths = TapeBackward(kept["tape"]), kept["gamma_h"], kept["lengths"]
        dstates = tuple(np.zeros((N, H), self._dtype) if d is None else d[0] for d in upstream)
        djoined, ddecay = np.empty((N, T, 2 * self._config["input_size"]), self._dtype), np.empty((N, T, H), self._dtype)
        for t in reversed(range(T)):
            dstates = (dstates[0] + dh[:, t], *dstates[1:])
            own = dstates
            if lengths is not None:  # what passes the held state does not pass the cell
                active = (lengths > t)[:, None]
                own = tuple(np.where(active, d, self._dtype.type(0)) for d in dstates)
            djoined[:, t], inside = back.backward(own)
            ddecay[:, t] = sum(a * d for a, d in zip(kept["before"][t], inside, strict=True))
            before = tuple(decay[:, t] * d for d in inside)
            dstates = before if lengths is None else tuple(np.where(active, b, d) for b, d in zip(before, dstates, strict=True))
        for name, gradient in back.weights().items():
            plus(layer._written[0][f"d{name}"], gradient)
        dW, db = np.empty_like(self._weights["Wd"]), np.empty_like(self._weights["bd"])
        _affine.backward(-decay * ddecay, kept["decay"], dW, db, need_dx=False)
        self._add("Wd", dW)
        self._add("bd", db)
        return djoined, [d[None].copy() for d in dstates]
