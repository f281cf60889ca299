"""Truncated backpropagation through time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fastgate import _arguments
from fastgate.layers import _judge
from fastgate.layers._layer import Layer, one_direction
from fastgate.layers._types import Array, Lengths, Rng


class Chunk:
    """k1 new steps of truncated_bptt, and the window of up to k2 steps through which their gradients go.

    steps, window : slices of x's time axis, window ending where steps does
    h : (N, k1, output_size), the outputs of the new steps
    state : (h_T,) or (h_T, c_T) behind them, as layer.forward returns them
    """

    def __init__(self, layer: Layer, steps: slice, window: slice, h: Array, state: Any, parts: list[tuple[slice, Any]]):
        self.steps, self.window, self.h, self.state = steps, window, h, state
        self._layer, self._parts = layer, parts

    def backward(
        self, dh: Array | None, dh_T: Array | None = None, dc_T: Array | None = None, *, accumulate: bool = False,
        need_dx: bool = True,
    ) -> Any:  # fmt: skip
        """The gradients of the losses of the new steps, through the window; returns (dx, dh0) or (dx, dh0, dc0) and writes
        those of the weights into layer.gradients.

        dh : as h, or None = zeros. dh_T, dc_T : as state, each or None = zeros. accumulate, need_dx : as layer.backward.

        dx : (N, T, D), T the steps of the window, of which those before `steps` were inputs of earlier chunks, too. dh0, dc0 :
        of the state in which the window begins. Before the next update of the weights; one caller at a time. Errors as in
        layer.backward.
        """
        accumulate = _arguments.flag("accumulate", accumulate)
        need_dx = _arguments.flag("need_dx", need_dx)
        layer = self._layer
        if dh is not None:
            dh = _judge.array("dh", dh, layer.dtype, ("N", "k1", "output_size"), self.h.shape)
        has_c = len(self.state) == 2
        if dc_T is not None and not has_c:
            raise ValueError(f"dc_T: expected None, {type(layer).__name__} has no c")
        last: tuple[Any, ...] = (dh_T, dc_T)[: 1 + has_c]
        dxs = []
        for steps, cache in reversed(self._parts):
            new = slice(max(steps.start, self.steps.start), steps.stop)
            part = None
            if dh is not None and new.start < new.stop:
                part = dh[:, new.start - self.steps.start : new.stop - self.steps.start]
                if new.start > steps.start:
                    before = np.zeros((len(dh), new.start - steps.start, dh.shape[2]), layer.dtype)
                    part = np.concatenate([before, part], axis=1)
            found = layer.backward(part, cache, *last, accumulate=accumulate, need_dx=need_dx)  # type: ignore[attr-defined]
            dxs.append(found.dx)
            last, accumulate = found[1:], True
        dx = None if not need_dx else dxs[0] if len(dxs) == 1 else np.concatenate(dxs[::-1], axis=1)
        return found._replace(dx=dx)


def truncated_bptt(
    layer: Layer, x: Array, k1: int, k2: int | None = None, h0: Array | None = None, c0: Array | None = None, *,
    lengths: Lengths = None, rng: Rng = None, start: int = 0,
) -> Iterator[Chunk]:  # fmt: skip
    """Chunks of k1 steps, whose gradients go back through the last k2 steps: BPTT(k2; k1) of Williams and Peng (1990).

        for chunk in truncated_bptt(layer, x, k1=20, k2=60):
            dh = …                              # gradient of the loss of chunk.h, the outputs of x[:, chunk.steps]
            chunk.backward(dh)
            layer.parameters -= rate * layer.gradients

    layer : an RNN, LSTM, GRU, … of one direction. x : (N, T, D). The last chunk has the steps that are left.
    k1 : an integer > 0. k2 : an integer >= k1; None is k1, plain chunks, each step computed once, but for a last chunk of fewer
        than k1 new steps, whose window has k1, too.
    h0, c0, lengths, rng, start : as in layer.forward. To go on with the next part of long sequences: h0, c0 = chunk.state, and
        of a layer with a period start += T.

    The state in which a window begins is held constant; the gradients are the exact ones of the losses of the new steps, as
    functions of what lies in the window. Where k2 > k1 the steps of the window are run again, with the weights as they are
    then: forward and backward cost k2 / k1 times those of plain chunks, and memory is that of k2 steps. While weights stay the
    same, the h of all chunks are those of layer.forward(x) bit for bit, and so are the states (in layers with dropout or
    zoneout every window draws masks of its own). With k2 >= T the gradients of all chunks together, accumulate=True, are those
    of full BPTT.

    What does not fit is a ValueError or TypeError that names the argument, before the first chunk.
    """
    if not isinstance(layer, Layer):
        raise TypeError(f"layer: expected a layer as fastgate.LSTM is, got {_arguments._kind(layer)}")
    one_direction(layer, "layer")
    k1 = _judge.size("k1", k1)
    k2 = k1 if k2 is None else _judge.size("k2", k2)
    if k2 < k1:
        raise ValueError(f"k2: expected an integer >= k1 = {k1}, or None, got {k2}")
    x = _judge.rows(x, layer.dtype, ("N", "T", "D"), layer.input_size)
    has_c = "c" in layer._State._fields
    if c0 is not None and not has_c:
        raise ValueError(f"c0: expected None, {type(layer).__name__} has no c")
    state = tuple(layer._states(("h0", "c0"), (h0, c0)[: 1 + has_c], len(x)))
    judged = None if lengths is None else _arguments._lengths(lengths, *x.shape[:2])
    rng = None if rng is None else _judge.generator(rng)
    return _chunks(layer, x, k1, k2, state, judged, rng, _arguments._step_number("start", start))


def _chunks(layer, x, k1, k2, state, lengths, rng, number):
    T = x.shape[1]
    for begin in range(0, T, k1):
        end = min(begin + k1, T)
        start, following = max(0, end - k2), max(0, min(end + k1, T) - k2)  # where this window and the next one begin
        if end == T:
            following = start
        parts, hs, now = [], [], state
        for part in (slice(start, following), slice(following, end)):
            if part.start < part.stop:
                own = None if lengths is None else np.clip(lengths - part.start, 0, part.stop - part.start)
                h, *now, cache = layer.forward(x[:, part], *now, lengths=own, rng=rng, start=number + part.start)
                hs.append(h[:, max(begin - part.start, 0) :])
                parts.append((part, cache))
            if part.stop == following:
                state = tuple(now)
        hs = [h for h in hs if h.shape[1]]
        h = hs[0] if len(hs) == 1 else np.concatenate(hs, axis=1)
        yield Chunk(layer, slice(begin, end), slice(start, end), h, tuple(now), parts)
