"""The plain recurrent cell.

a = x Wx + h_prev Wh + b + bh,  h = φ(a);  backward, grad_clip v keeps da between ±v

Row vectors: x (N, D), Wx (D, H), Wh (H, H). Sequences are (N, T, D).
"""

from typing import NamedTuple

import numpy as np

from fastgate import _arguments
from fastgate.reference import sequence
from fastgate.reference.sequence import clipped, sigmoid

GATES = "a"
OPTIONS: dict[str, tuple[str, ...]] = {"activation": ("tanh", "relu", "sigmoid", "identity")}


class Options(NamedTuple):
    activation: str
    grad_clip: float | None


class RNNForward(NamedTuple):
    h: np.ndarray | None
    h_T: np.ndarray
    cache: sequence.Cache | None


class RNNStep(NamedTuple):
    h_next: np.ndarray
    cache: sequence.Cache | None


def activated(a, activation):
    """y = φ(a)."""
    if activation == "tanh":
        return np.tanh(a)
    if activation == "relu":
        return np.maximum(a, 0)
    return sigmoid(a) if activation == "sigmoid" else a


def activation_slope(dy, y, activation):
    """dy⊙φ'(a), which follows from y = φ(a)."""
    if activation == "tanh":
        return dy * (1 - y**2)
    if activation == "relu":
        return np.where(y > 0, dy, 0)
    return dy * y * (1 - y) if activation == "sigmoid" else dy


def _forward(x, states, W, option):
    a = x @ W.Wx + W.left @ W.Wh + W.b + W.bh  # 1
    h = activated(a, option.activation)  # 2
    return (h,), h


def _backward(dstates, states_prev, h, x, W, option):
    (dh,) = dstates
    da = clipped(activation_slope(dh, h, option.activation), option.grad_clip)  # 2
    dx, dWx = da @ W.Wx.T, x.T @ da  # 1
    dleft, dWh = da @ W.Wh.T, W.left.T @ da  # 1
    db = dbh = da.sum(axis=0)  # 1
    return dx, (0,), dleft, dWx, dWh, db, dbh


def _cell(activation, grad_clip):
    activation = _arguments.option("activation", activation, OPTIONS["activation"])
    return sequence.Cell(_forward, _backward, Options(activation, _arguments.bound("grad_clip", grad_clip)))


def rnn_forward(
    x, h0, Wx, Wh, b=None, *, bh=None, activation="tanh", grad_clip=None, recurrent_mask=None, zoneout_h=None, delays=None,
    period=None, start=0, lengths=None, reverse=False, training=True, memory=None, return_sequences=True, out=None,
):  # fmt: skip
    """Run the cell over a sequence; returns (h, h_T, cache).

    Axes (N, T, D), batch first; weights multiply from the right.

    x: (N, T, D). h0: (N, H), (H,) or None = zeros. Wx: (D, H). Wh: (H, H). b, bh: (H,) or None.
    activation: φ, one of "tanh", "relu", "sigmoid", "identity". grad_clip: number > 0 or None, the bound of each step's da in
    backward.
    recurrent_mask: to (N, H), what h_prev is multiplied by where it meets Wh. zoneout_h: to (N, T, H), how much of its
    state a unit keeps: m⊙prev + (1−m)⊙new. Numbers, bools or floats that broadcast; constants of the gradients.
    delays: integers >= 1 that rise, (K,), or None. h_(t-d) Wh[k], summed over d = delays[k], stands where h_prev Wh did. Wh:
    (K, H, H); h0, h_T: (N, d, H), the states of the last d = delays[-1] steps, oldest first, and h0 (d, H) for all rows.
    period: an integer >= 1, integers (H,) or None. Unit j changes its state only at steps t with (start + t) % period[j] == 0,
    t counted as they run, and holds it in between. start: the number of the first step.
    lengths: (N,) integers 0..T; outputs past a row's length are 0, h_T is the state at the row's own end.
    reverse: run from a row's last step to its first; h keeps the order of x.
    training: False keeps nothing for backward, cache is None. return_sequences: False returns h = None.
    memory: judged, and otherwise without meaning here: the definition keeps everything.
    out: an array for h, or a dict with any of h, h_T; where it overlaps an input, as if the input had been copied.
    h: (N, T, H). h_T: (N, H). The cache refers to x and the weights, it does not copy them.
    """
    call = _arguments.forward(
        "rnn", x, h0, None, Wx, Wh, b, bh, step=False, gates=GATES, delays=delays, period=period, start=start, lengths=lengths,
        reverse=reverse, training=training,
        memory=memory, return_sequences=return_sequences, out=out, dtypes=_arguments.REFERENCE,
        recurrent_mask=recurrent_mask, zoneout_h=zoneout_h,
    )  # fmt: skip
    cell = _cell(activation, grad_clip)
    h, (h_T,), cache = sequence.forward(call, cell)
    return RNNForward(sequence.placed(call, "h", h), sequence.placed(call, "h_T", h_T), cache)


def rnn_backward(dh, cache, dh_T=None, *, need=None, out=None):
    """The gradients of rnn_forward: (dx, dh0, dWx, dWh), then db and dbh of the biases that were given.

    dh: (N, T, H), dh_T: (N, H), each may be None = zeros. dh past a row's length is ignored.
    need: names of the gradients wanted, the others are None; "dh_total" adds a field (N, T, H), the gradient of the state
    after each step. out: an array for dx, or a dict by name.
    """
    call = _arguments.cache(cache, sequence.Cache, "rnn", False)
    judged = _arguments.backward(call, dh, dh_T, need=need, out=out)
    return sequence.gradients_type("RNNGradients", judged.names)(*sequence.backward(cache, judged))


def rnn_ragged_forward(
    x, h0, Wx, Wh, b=None, *, bh=None, offsets=None, batch_sizes=None, activation="tanh", grad_clip=None, recurrent_mask=None,
    zoneout_h=None, delays=None, period=None, start=0, reverse=False, training=True, memory=None, return_sequences=True,
    out=None,
):  # fmt: skip
    """Run the cell over sequences of different lengths on flat rows, without padding; returns (h, h_T, cache).

    x: (ΣT, D). h0: (N, H), (H,) or None = zeros. Weights and all other options as in rnn_forward. Exactly one of
    offsets: (N + 1,) from 0 to ΣT; time t of sequence n is row offsets[n] + t of x.
    batch_sizes: (T,) > 0, never growing, their sum ΣT; time t of sequence n is row sum(batch_sizes[:t]) + n of x.
    h: (ΣT, H). h_T: (N, H), the states at each sequence's own end.
    """
    call = _arguments.forward(
        "rnn", x, h0, None, Wx, Wh, b, bh, step=False, gates=GATES, delays=delays, period=period, start=start, ragged=True,
        offsets=offsets, batch_sizes=batch_sizes, reverse=reverse, training=training, memory=memory,
        return_sequences=return_sequences, out=out, dtypes=_arguments.REFERENCE, recurrent_mask=recurrent_mask,
        zoneout_h=zoneout_h,
    )  # fmt: skip
    cell = _cell(activation, grad_clip)
    h, (h_T,), cache = sequence.forward(call, cell)
    return RNNForward(sequence.placed(call, "h", h), sequence.placed(call, "h_T", h_T), cache)


def rnn_ragged_backward(dh, cache, dh_T=None, *, need=None, out=None):
    """The gradients of rnn_ragged_forward: (dx, dh0, dWx, dWh), then db and dbh of the biases that were given.

    dh: (ΣT, H), dh_T: (N, H), each may be None = zeros. need, out: as in rnn_backward.
    """
    call = _arguments.cache(cache, sequence.Cache, "rnn", False, ragged=True)
    judged = _arguments.backward(call, dh, dh_T, need=need, out=out)
    return sequence.gradients_type("RNNGradients", judged.names)(*sequence.backward(cache, judged))


def rnn_step_forward(
    x, h_prev, Wx, Wh, b=None, *, bh=None, activation="tanh", grad_clip=None, recurrent_mask=None, zoneout_h=None, delays=None,
    period=None, start=0, training=True, out=None,
):  # fmt: skip
    """One step; returns (h_next, cache).

    x: (N, D). h_prev: (N, H), (H,) or None = zeros. Wx: (D, H). Wh: (H, H). b, bh: (H,) or None.
    delays, period, start: as in rnn_forward; start is the number of this step.
    out: an array for h_next, or a dict {"h_next": array}.
    """
    call = _arguments.forward(
        "rnn", x, h_prev, None, Wx, Wh, b, bh, step=True, gates=GATES, delays=delays, period=period, start=start,
        training=training, out=out, dtypes=_arguments.REFERENCE, recurrent_mask=recurrent_mask, zoneout_h=zoneout_h,
    )  # fmt: skip
    cell = _cell(activation, grad_clip)
    (h_next,), cache = sequence.step_forward(call, cell)
    return RNNStep(sequence.placed(call, "h_next", h_next), cache)


def rnn_step_backward(dh_next, cache, *, need=None, out=None):
    """The gradients of rnn_step_forward: (dx, dh_prev, dWx, dWh), then db and dbh of the biases that were given.

    dh_next: (N, H) or None = zeros. need, out: as in rnn_backward.
    """
    call = _arguments.cache(cache, sequence.Cache, "rnn", True)
    judged = _arguments.backward(call, dh_next, need=need, out=out)
    return sequence.gradients_type("RNNStepGradients", judged.names)(*sequence.step_backward(cache, judged))
