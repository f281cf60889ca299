"""The long short-term memory.

a = x Wx + h_prev Wh + b + bh
i, f, o = σ(a_i), σ(a_f), σ(a_o),  g = tanh(a_g)
c = f⊙c_prev + i⊙g
h = o⊙tanh(c)

Row vectors: x (N, D), Wx (D, 4H), Wh (H, 4H). Gate order "ifgo" unless `gate_order` says otherwise.
"""

from typing import NamedTuple

import numpy as np

from fastgate import _arguments
from fastgate.reference import sequence
from fastgate.reference.sequence import sigmoid

GATES = "ifgo"
OPTIONS: dict[str, tuple[str, ...]] = {}


class LSTMForward(NamedTuple):
    h: np.ndarray | None
    h_T: np.ndarray
    c_T: np.ndarray
    cache: sequence.Cache | None


class LSTMStep(NamedTuple):
    h_next: np.ndarray
    c_next: np.ndarray
    cache: sequence.Cache | None


def _forward(x, states, W, _):
    h_prev, c_prev = states
    a = x @ W.Wx + h_prev @ W.Wh + W.b + W.bh  # 1
    a_i, a_f, a_g, a_o = np.split(a, 4, axis=1)
    i, f, g, o = sigmoid(a_i), sigmoid(a_f), np.tanh(a_g), sigmoid(a_o)  # 2
    c = f * c_prev + i * g  # 3
    h = o * np.tanh(c)  # 4
    return (h, c), (i, f, g, o, c)


def _backward(dstates, states_prev, kept, x, W, _):
    (dh, dc), (h_prev, c_prev), (i, f, g, o, c) = dstates, states_prev, kept
    do = dh * np.tanh(c)  # 4
    dc = dc + dh * o * (1 - np.tanh(c) ** 2)  # 4
    di, df, dg, dc_prev = dc * g, dc * c_prev, dc * i, dc * f  # 3
    da = np.hstack([di * i * (1 - i), df * f * (1 - f), dg * (1 - g**2), do * o * (1 - o)])  # 2
    dx, dWx = da @ W.Wx.T, x.T @ da  # 1
    dh_prev, dWh = da @ W.Wh.T, h_prev.T @ da  # 1
    db = dbh = da.sum(axis=0)  # 1
    return dx, (dh_prev, dc_prev), dWx, dWh, db, dbh


CELL = sequence.Cell(_forward, _backward)


def lstm_forward(
    x, h0, c0, Wx, Wh, b=None, *, bh=None, gate_order="ifgo", lengths=None, reverse=False, training=True, memory=None,
    return_sequences=True, out=None,
):  # fmt: skip
    """Run the cell over a sequence; returns (h, h_T, c_T, cache).

    Axes (N, T, D), batch first; gate order "ifgo"; weights multiply from the right.

    x: (N, T, D). h0, c0: (N, H), (H,) or None = zeros. Wx: (D, 4H). Wh: (H, 4H). b, bh: (4H,) or None.
    gate_order: a permutation of "ifgo"; weights come and gradients return in it.
    lengths: (N,) integers 0..T; outputs past a row's length are 0, h_T and c_T are the states at the row's own end.
    reverse: run from a row's last step to its first; h keeps the order of x.
    training: False keeps nothing for backward, cache is None. return_sequences: False returns h = None.
    memory: judged, and otherwise without meaning here: the definition keeps everything.
    out: an array for h, or a dict with any of h, h_T, c_T; where it overlaps an input, as if the input had been copied.
    h: (N, T, H). h_T, c_T: (N, H). The cache refers to x and the weights, it does not copy them.
    """
    call = _arguments.forward(
        "lstm", x, h0, c0, Wx, Wh, b, bh, step=False, gates=GATES, has_c=True, gate_order=gate_order, lengths=lengths,
        reverse=reverse, training=training, memory=memory, return_sequences=return_sequences, out=out,
        dtypes=_arguments.REFERENCE,
    )  # fmt: skip
    h, (h_T, c_T), cache = sequence.forward(call, CELL)
    return LSTMForward(
        sequence.placed(call, "h", h),
        sequence.placed(call, "h_T", h_T),
        sequence.placed(call, "c_T", c_T),
        cache,
    )


def lstm_backward(dh, cache, dh_T=None, dc_T=None, *, need=None, out=None):
    """The gradients of lstm_forward: (dx, dh0, dc0, dWx, dWh), then db and dbh of the biases that were given.

    dh: (N, T, H), dh_T, dc_T: (N, H), each may be None = zeros. dh past a row's length is ignored.
    need: names of the gradients wanted, the others are None. out: an array for dx, or a dict by name.
    """
    call = _arguments.cache(cache, sequence.Cache, "lstm", False)
    judged = _arguments.backward(call, dh, dh_T, dc_T, need=need, out=out)
    return sequence.gradients_type("LSTMGradients", judged.names)(*sequence.backward(cache, judged))


def lstm_ragged_forward(
    x, h0, c0, Wx, Wh, b=None, *, bh=None, offsets=None, batch_sizes=None, gate_order="ifgo", reverse=False,
    training=True, memory=None,
    return_sequences=True, out=None,
):  # fmt: skip
    """Run the cell over sequences of different lengths on flat rows, without padding; returns (h, h_T, c_T, cache).

    x: (ΣT, D). h0, c0: (N, H), (H,) or None = zeros. Weights and all other options as in lstm_forward. Exactly one of
    offsets: (N + 1,) from 0 to ΣT; time t of sequence n is row offsets[n] + t of x.
    batch_sizes: (T,) > 0, never growing, their sum ΣT; time t of sequence n is row sum(batch_sizes[:t]) + n of x.
    h: (ΣT, H). h_T, c_T: (N, H), the states at each sequence's own end.
    """
    call = _arguments.forward(
        "lstm", x, h0, c0, Wx, Wh, b, bh, step=False, gates=GATES, has_c=True, gate_order=gate_order, ragged=True,
        offsets=offsets, batch_sizes=batch_sizes, reverse=reverse, training=training, memory=memory,
        return_sequences=return_sequences, out=out, dtypes=_arguments.REFERENCE,
    )  # fmt: skip
    h, (h_T, c_T), cache = sequence.forward(call, CELL)
    return LSTMForward(
        sequence.placed(call, "h", h),
        sequence.placed(call, "h_T", h_T),
        sequence.placed(call, "c_T", c_T),
        cache,
    )


def lstm_ragged_backward(dh, cache, dh_T=None, dc_T=None, *, need=None, out=None):
    """The gradients of lstm_ragged_forward: (dx, dh0, dc0, dWx, dWh), then db and dbh of the biases that were given.

    dh: (ΣT, H), dh_T, dc_T: (N, H), each may be None = zeros. need, out: as in lstm_backward.
    """
    call = _arguments.cache(cache, sequence.Cache, "lstm", False, ragged=True)
    judged = _arguments.backward(call, dh, dh_T, dc_T, need=need, out=out)
    return sequence.gradients_type("LSTMGradients", judged.names)(*sequence.backward(cache, judged))


def lstm_step_forward(x, h_prev, c_prev, Wx, Wh, b=None, *, bh=None, gate_order="ifgo", training=True, out=None):
    """One step; returns (h_next, c_next, cache).

    x: (N, D). h_prev, c_prev: (N, H), (H,) or None = zeros. Wx: (D, 4H). Wh: (H, 4H). b, bh: (4H,) or None.
    out: an array for h_next, or a dict with any of h_next, c_next.
    """
    call = _arguments.forward(
        "lstm", x, h_prev, c_prev, Wx, Wh, b, bh, step=True, gates=GATES, has_c=True, gate_order=gate_order,
        training=training, out=out, dtypes=_arguments.REFERENCE,
    )  # fmt: skip
    (h_next, c_next), cache = sequence.step_forward(call, CELL)
    return LSTMStep(sequence.placed(call, "h_next", h_next), sequence.placed(call, "c_next", c_next), cache)


def lstm_step_backward(dh_next, dc_next, cache, *, need=None, out=None):
    """The gradients of lstm_step_forward: (dx, dh_prev, dc_prev, dWx, dWh), then db and dbh of the biases given.

    dh_next, dc_next: (N, H), each may be None = zeros. need, out: as in lstm_backward.
    """
    call = _arguments.cache(cache, sequence.Cache, "lstm", True)
    judged = _arguments.backward(call, dh_next, None, dc_next, need=need, out=out)
    return sequence.gradients_type("LSTMStepGradients", judged.names)(*sequence.step_backward(cache, judged))
