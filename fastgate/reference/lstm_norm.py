"""The long short-term memory with layer normalisation.

a = gain_x⊙N(x Wx) + gain_h⊙N(h_prev Wh) + b + bh           N over all 4H numbers of a row, reference/norm.py
i, f, o = σ(a_i), σ(a_f), σ(a_o),  g = tanh(a_g)
c = f⊙c_prev + i⊙g
h = o⊙tanh(c),  with gain_c (H,): h = o⊙tanh(gain_c⊙N(c) + beta_c)

grad_clip v keeps da between ±v, backward. Row vectors: x (N, D), Wx (D, 4H), Wh (H, 4H). Gate order "ifgo" unless
`gate_order` says otherwise.
"""

from typing import NamedTuple

import numpy as np

from fastgate import _arguments
from fastgate.reference import sequence
from fastgate.reference.norm import gains, given, normalised, normalised_backward
from fastgate.reference.sequence import clipped, sigmoid

GATES = "ifgo"
OPTIONS: dict[str, tuple[str, ...]] = {}


class Options(NamedTuple):
    eps: float
    grad_clip: float | None


class LSTMNormForward(NamedTuple):
    h: np.ndarray | None
    h_T: np.ndarray
    c_T: np.ndarray
    cache: sequence.Cache | None


class LSTMNormStep(NamedTuple):
    h_next: np.ndarray
    c_next: np.ndarray
    cache: sequence.Cache | None


def _forward(x, states, W, option):
    _, c_prev = states
    gain_x, gain_h, gain_c, beta_c = gains(W)
    n_x, inverse_x = normalised(x @ W.Wx, option.eps)  # 1
    n_h, inverse_h = normalised(W.left @ W.Wh, option.eps)  # 2
    a = gain_x * n_x + gain_h * n_h + W.b + W.bh  # 3
    a_i, a_f, a_g, a_o = np.split(a, 4, axis=1)
    i, f, g, o = sigmoid(a_i), sigmoid(a_f), np.tanh(a_g), sigmoid(a_o)  # 4
    c = f * c_prev + i * g  # 5
    m, of_c = c, ()
    if gain_c is not None:
        n_c, _ = of_c = normalised(c, option.eps)  # 6
        m = gain_c * n_c + beta_c  # 7
    h = o * np.tanh(m)  # 8
    return (h, c), (n_x, inverse_x, n_h, inverse_h, i, f, g, o, m, *of_c)


def _backward(dstates, states_prev, kept, x, W, option):
    (dh, dc), (_, c_prev), (n_x, inverse_x, n_h, inverse_h, i, f, g, o, m, *of_c) = dstates, states_prev, kept
    gain_x, gain_h, gain_c, _ = gains(W)
    do, dm = dh * np.tanh(m), dh * o * (1 - np.tanh(m) ** 2)  # 8
    dgain_c = dbeta_c = None
    if gain_c is None:
        dc = dc + dm  # 8
    else:
        dgain_c, dbeta_c = (dm * of_c[0]).sum(axis=0), dm.sum(axis=0)  # 7
        dc = dc + normalised_backward(dm * gain_c, *of_c)  # 7, 6
    di, df, dg, dc_prev = dc * g, dc * c_prev, dc * i, dc * f  # 5
    da = np.hstack([di * i * (1 - i), df * f * (1 - f), dg * (1 - g**2), do * o * (1 - o)])  # 4
    da = clipped(da, option.grad_clip)
    dgain_x, dgain_h = (da * n_x).sum(axis=0), (da * n_h).sum(axis=0)  # 3
    dah = normalised_backward(da * gain_h, n_h, inverse_h)  # 3, 2
    dleft, dWh = dah @ W.Wh.T, W.left.T @ dah  # 2
    dax = normalised_backward(da * gain_x, n_x, inverse_x)  # 3, 1
    dx, dWx = dax @ W.Wx.T, x.T @ dax  # 1
    db = dbh = da.sum(axis=0)  # 3
    return dx, (0, dc_prev), dleft, dWx, dWh, db, dbh, *given(W, (dgain_x, dgain_h, dgain_c, dbeta_c))


def _cell(eps, grad_clip):
    option = Options(_arguments.eps(eps), _arguments.bound("grad_clip", grad_clip))
    return sequence.Cell(_forward, _backward, option)


def lstm_norm_forward(
    x, h0, c0, Wx, Wh, b=None, *, bh=None, gain_x=None, gain_h=None, gain_c=None, beta_c=None, gate_order="ifgo", eps=1e-5,
    grad_clip=None, recurrent_mask=None, zoneout_h=None, zoneout_c=None, delays=None, period=None, start=0, lengths=None,
    reverse=False, training=True, memory=None, return_sequences=True, out=None,
):  # fmt: skip
    """Run the cell over a sequence; returns (h, h_T, c_T, cache).

    gain_x, gain_h: (4H,) or None = ones. gain_c: (H,) or None, c is not normalised; beta_c: (H,) or None = zeros, beside
    gain_c only. eps: number > 0, added to every variance. Beside gain_c there is no period. All else as in lstm_forward.
    """
    call = _arguments.forward(
        "lstm_norm", x, h0, c0, Wx, Wh, b, bh, step=False, gates=GATES, has_c=True, gate_order=gate_order, delays=delays,
        period=period, start=start, lengths=lengths, reverse=reverse, training=training, memory=memory,
        return_sequences=return_sequences, out=out, dtypes=_arguments.REFERENCE, recurrent_mask=recurrent_mask,
        zoneout_h=zoneout_h, zoneout_c=zoneout_c, norm=_arguments.Norm(gain_x, gain_h, gain_c, beta_c),
    )  # fmt: skip
    h, (h_T, c_T), cache = sequence.forward(call, _cell(eps, grad_clip))
    placed = (sequence.placed(call, *result) for result in (("h", h), ("h_T", h_T), ("c_T", c_T)))
    return LSTMNormForward(*placed, cache)


def lstm_norm_backward(dh, cache, dh_T=None, dc_T=None, *, need=None, out=None):
    """The gradients of lstm_norm_forward: (dx, dh0, dc0, dWx, dWh), then db, dbh, dgain_x, dgain_h, dgain_c, dbeta_c of those
    that were given. Arguments as in lstm_backward.
    """
    call = _arguments.cache(cache, sequence.Cache, "lstm_norm", False)
    judged = _arguments.backward(call, dh, dh_T, dc_T, need=need, out=out)
    return sequence.gradients_type("LSTMNormGradients", judged.names)(*sequence.backward(cache, judged))


def lstm_norm_ragged_forward(
    x, h0, c0, Wx, Wh, b=None, *, bh=None, gain_x=None, gain_h=None, gain_c=None, beta_c=None, offsets=None, batch_sizes=None,
    gate_order="ifgo", eps=1e-5, grad_clip=None, recurrent_mask=None, zoneout_h=None, zoneout_c=None, delays=None, period=None,
    start=0, reverse=False, training=True, memory=None, return_sequences=True, out=None,
):  # fmt: skip
    """Run the cell over sequences of different lengths on flat rows, without padding; returns (h, h_T, c_T, cache).

    x: (ΣT, D) and offsets or batch_sizes as in lstm_ragged_forward, all else as in lstm_norm_forward.
    """
    call = _arguments.forward(
        "lstm_norm", x, h0, c0, Wx, Wh, b, bh, step=False, gates=GATES, has_c=True, gate_order=gate_order, delays=delays,
        period=period, start=start, ragged=True, offsets=offsets, batch_sizes=batch_sizes, reverse=reverse, training=training,
        memory=memory, return_sequences=return_sequences, out=out, dtypes=_arguments.REFERENCE, recurrent_mask=recurrent_mask,
        zoneout_h=zoneout_h, zoneout_c=zoneout_c, norm=_arguments.Norm(gain_x, gain_h, gain_c, beta_c),
    )  # fmt: skip
    h, (h_T, c_T), cache = sequence.forward(call, _cell(eps, grad_clip))
    placed = (sequence.placed(call, *result) for result in (("h", h), ("h_T", h_T), ("c_T", c_T)))
    return LSTMNormForward(*placed, cache)


def lstm_norm_ragged_backward(dh, cache, dh_T=None, dc_T=None, *, need=None, out=None):
    """The gradients of lstm_norm_ragged_forward, as lstm_norm_backward. dh: (ΣT, H)."""
    call = _arguments.cache(cache, sequence.Cache, "lstm_norm", False, ragged=True)
    judged = _arguments.backward(call, dh, dh_T, dc_T, need=need, out=out)
    return sequence.gradients_type("LSTMNormGradients", judged.names)(*sequence.backward(cache, judged))


def lstm_norm_step_forward(
    x, h_prev, c_prev, Wx, Wh, b=None, *, bh=None, gain_x=None, gain_h=None, gain_c=None, beta_c=None, gate_order="ifgo",
    eps=1e-5, grad_clip=None, recurrent_mask=None, zoneout_h=None, zoneout_c=None, delays=None, period=None, start=0,
    training=True, out=None,
):  # fmt: skip
    """One step; returns (h_next, c_next, cache).

    x: (N, D). h_prev, c_prev: (N, H), (H,) or None = zeros. All else as in lstm_norm_forward and lstm_step_forward.
    """
    call = _arguments.forward(
        "lstm_norm", x, h_prev, c_prev, Wx, Wh, b, bh, step=True, gates=GATES, has_c=True, gate_order=gate_order,
        delays=delays, period=period, start=start, training=training, out=out, dtypes=_arguments.REFERENCE,
        recurrent_mask=recurrent_mask, zoneout_h=zoneout_h, zoneout_c=zoneout_c,
        norm=_arguments.Norm(gain_x, gain_h, gain_c, beta_c),
    )  # fmt: skip
    (h_next, c_next), cache = sequence.step_forward(call, _cell(eps, grad_clip))
    return LSTMNormStep(sequence.placed(call, "h_next", h_next), sequence.placed(call, "c_next", c_next), cache)


def lstm_norm_step_backward(dh_next, dc_next, cache, *, need=None, out=None):
    """The gradients of lstm_norm_step_forward: (dx, dh_prev, dc_prev, dWx, dWh), then those of what was given."""
    call = _arguments.cache(cache, sequence.Cache, "lstm_norm", True)
    judged = _arguments.backward(call, dh_next, None, dc_next, need=need, out=out)
    return sequence.gradients_type("LSTMNormStepGradients", judged.names)(*sequence.step_backward(cache, judged))
