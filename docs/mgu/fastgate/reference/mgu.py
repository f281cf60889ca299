"""The minimal gated unit.

f = σ(x Wxf + h_prev Whf + b_f + bh_f)
n = tanh(x Wxn + b_n + f⊙(h_prev Whn + bh_n))
h = (1−f)⊙h_prev + f⊙n

Row vectors: x (N, D), Wx (D, 2H), Wh (H, 2H). Gate order "fn" unless `gate_order` says otherwise.
"""

from typing import NamedTuple

import numpy as np

from fastgate import _arguments
from fastgate.reference import sequence
from fastgate.reference.sequence import sigmoid

GATES = "fn"
OPTIONS: dict[str, tuple[str, ...]] = {}


class MGUForward(NamedTuple):
    h: np.ndarray | None
    h_T: np.ndarray
    cache: sequence.Cache | None


class MGUStep(NamedTuple):
    h_next: np.ndarray
    cache: sequence.Cache | None


def _forward(x, states, W, _):
    (h_prev,) = states
    ax = x @ W.Wx + W.b  # 1
    ah = W.left @ W.Wh + W.bh  # 2
    (ax_f, ax_n), (ah_f, ah_n) = np.split(ax, 2, axis=1), np.split(ah, 2, axis=1)
    f = sigmoid(ax_f + ah_f)  # 3
    n = np.tanh(ax_n + f * ah_n)  # 4
    h = (1 - f) * h_prev + f * n  # 5
    return (h,), (f, n, ah_n)


def _backward(dstates, states_prev, kept, x, W, _):
    (dh,), (h_prev,), (f, n, ah_n) = dstates, states_prev, kept
    dn, df = dh * f, dh * (n - h_prev)  # 5
    dax_n = dn * (1 - n**2)  # 4
    df, dah_n = df + dax_n * ah_n, dax_n * f  # 4
    da_f = df * f * (1 - f)  # 3
    dax, dah = np.hstack([da_f, dax_n]), np.hstack([da_f, dah_n])
    dh_prev, dleft = dh * (1 - f), dah @ W.Wh.T  # 5, 2
    dWh, dbh = W.left.T @ dah, dah.sum(axis=0)  # 2
    dx, dWx, db = dax @ W.Wx.T, x.T @ dax, dax.sum(axis=0)  # 1
    return dx, (dh_prev,), dleft, dWx, dWh, db, dbh


CELL = sequence.Cell(_forward, _backward)


def mgu_forward(
    x, h0, Wx, Wh, b=None, *, bh=None, gate_order="fn", recurrent_mask=None, zoneout_h=None, delays=None, period=None, start=0,
    lengths=None, reverse=False,
    training=True, memory=None, return_sequences=True, out=None,
):  # fmt: skip
    """Run the cell over a sequence; returns (h, h_T, cache). Axes (N, T, D); gate order "fn"; 1 − f keeps h_prev.

    x: (N, T, D). h0: (N, H), (H,) or None = zeros. Wx: (D, 2H). Wh: (H, 2H). b, bh: (2H,) or None. Options as gru_forward.
    """
    call = _arguments.forward(
        "mgu", x, h0, None, Wx, Wh, b, bh, step=False, gates=GATES, gate_order=gate_order, delays=delays, period=period,
        start=start, lengths=lengths, reverse=reverse, training=training, memory=memory, return_sequences=return_sequences,
        out=out, dtypes=_arguments.REFERENCE, recurrent_mask=recurrent_mask, zoneout_h=zoneout_h,
    )  # fmt: skip
    h, (h_T,), cache = sequence.forward(call, CELL)
    return MGUForward(sequence.placed(call, "h", h), sequence.placed(call, "h_T", h_T), cache)


def mgu_backward(dh, cache, dh_T=None, *, need=None, out=None):
    """The gradients of mgu_forward: (dx, dh0, dWx, dWh), then db and dbh of the biases that were given."""
    call = _arguments.cache(cache, sequence.Cache, "mgu", False)
    judged = _arguments.backward(call, dh, dh_T, need=need, out=out)
    return sequence.gradients_type("MGUGradients", judged.names)(*sequence.backward(cache, judged))


def mgu_ragged_forward(
    x, h0, Wx, Wh, b=None, *, bh=None, offsets=None, batch_sizes=None, gate_order="fn", recurrent_mask=None, zoneout_h=None,
    delays=None, period=None, start=0, reverse=False, training=True, memory=None, return_sequences=True, out=None,
):  # fmt: skip
    """Run the cell over sequences on flat rows; returns (h, h_T, cache). Arguments as gru_ragged_forward."""
    call = _arguments.forward(
        "mgu", x, h0, None, Wx, Wh, b, bh, step=False, gates=GATES, gate_order=gate_order, delays=delays, period=period,
        start=start, ragged=True, offsets=offsets, batch_sizes=batch_sizes, reverse=reverse, training=training, memory=memory,
        return_sequences=return_sequences, out=out, dtypes=_arguments.REFERENCE, recurrent_mask=recurrent_mask,
        zoneout_h=zoneout_h,
    )  # fmt: skip
    h, (h_T,), cache = sequence.forward(call, CELL)
    return MGUForward(sequence.placed(call, "h", h), sequence.placed(call, "h_T", h_T), cache)


def mgu_ragged_backward(dh, cache, dh_T=None, *, need=None, out=None):
    """The gradients of mgu_ragged_forward: (dx, dh0, dWx, dWh), then db and dbh of the biases that were given."""
    call = _arguments.cache(cache, sequence.Cache, "mgu", False, ragged=True)
    judged = _arguments.backward(call, dh, dh_T, need=need, out=out)
    return sequence.gradients_type("MGUGradients", judged.names)(*sequence.backward(cache, judged))


def mgu_step_forward(
    x, h_prev, Wx, Wh, b=None, *, bh=None, gate_order="fn", recurrent_mask=None, zoneout_h=None, delays=None, period=None,
    start=0, training=True, out=None,
):  # fmt: skip
    """One step; returns (h_next, cache). x: (N, D). h_prev: (N, H), (H,) or None = zeros. Weights as in mgu_forward."""
    call = _arguments.forward(
        "mgu", x, h_prev, None, Wx, Wh, b, bh, step=True, gates=GATES, gate_order=gate_order, delays=delays, period=period,
        start=start, training=training, out=out, dtypes=_arguments.REFERENCE, recurrent_mask=recurrent_mask,
        zoneout_h=zoneout_h,
    )  # fmt: skip
    (h_next,), cache = sequence.step_forward(call, CELL)
    return MGUStep(sequence.placed(call, "h_next", h_next), cache)


def mgu_step_backward(dh_next, cache, *, need=None, out=None):
    """The gradients of mgu_step_forward: (dx, dh_prev, dWx, dWh), then db and dbh of the biases that were given."""
    call = _arguments.cache(cache, sequence.Cache, "mgu", True)
    judged = _arguments.backward(call, dh_next, need=need, out=out)
    return sequence.gradients_type("MGUStepGradients", judged.names)(*sequence.step_backward(cache, judged))
