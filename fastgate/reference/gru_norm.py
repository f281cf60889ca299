"""The gated recurrent unit with layer normalisation, reset after the product.

y_x = gain_x⊙N(x Wx) + b,  y_h = gain_h⊙N(h_prev Wh) + bh    N over all 3H numbers of a row, reference/norm.py
r, z = σ(y_xr + y_hr), σ(y_xz + y_hz)
n = tanh(y_xn + r⊙y_hn)
h = (1−z)⊙n + z⊙h_prev

grad_clip v keeps the gradients of the three sums between ±v, backward. Row vectors: x (N, D), Wx (D, 3H), Wh (H, 3H). Gate
order "rzn" unless `gate_order` says otherwise.
"""

from typing import NamedTuple

import numpy as np

from fastgate import _arguments
from fastgate.reference import sequence
from fastgate.reference.norm import gains, given, normalised, normalised_backward
from fastgate.reference.sequence import clipped, sigmoid

GATES = "rzn"
OPTIONS: dict[str, tuple[str, ...]] = {}


class Options(NamedTuple):
    eps: float
    grad_clip: float | None


class GRUNormForward(NamedTuple):
    h: np.ndarray | None
    h_T: np.ndarray
    cache: sequence.Cache | None


class GRUNormStep(NamedTuple):
    h_next: np.ndarray
    cache: sequence.Cache | None


def _forward(x, states, W, option):
    (h_prev,) = states
    gain_x, gain_h, *_ = gains(W)
    n_x, inverse_x = normalised(x @ W.Wx, option.eps)  # 1
    n_h, inverse_h = normalised(W.left @ W.Wh, option.eps)  # 2
    x_r, x_z, x_n = np.split(gain_x * n_x + W.b, 3, axis=1)  # 3
    h_r, h_z, h_n = np.split(gain_h * n_h + W.bh, 3, axis=1)  # 4
    r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)  # 5
    n = np.tanh(x_n + r * h_n)  # 6
    h = (1 - z) * n + z * h_prev  # 7
    return (h,), (n_x, inverse_x, n_h, inverse_h, r, z, n, h_n)


def _backward(dstates, states_prev, kept, x, W, option):
    (dh,), (h_prev,), (n_x, inverse_x, n_h, inverse_h, r, z, n, h_n) = dstates, states_prev, kept
    gain_x, gain_h, *_ = gains(W)
    dn, dz = dh * (1 - z), dh * (h_prev - n)  # 7
    da_n = clipped(dn * (1 - n**2), option.grad_clip)  # 6
    dr, dh_n = da_n * h_n, da_n * r  # 6
    da_r, da_z = clipped(dr * r * (1 - r), option.grad_clip), clipped(dz * z * (1 - z), option.grad_clip)  # 5
    dy_x, dy_h = np.hstack([da_r, da_z, da_n]), np.hstack([da_r, da_z, dh_n])  # 5, 6
    dgain_h, dbh = (dy_h * n_h).sum(axis=0), dy_h.sum(axis=0)  # 4
    dgain_x, db = (dy_x * n_x).sum(axis=0), dy_x.sum(axis=0)  # 3
    dah = normalised_backward(dy_h * gain_h, n_h, inverse_h)  # 4, 2
    dh_prev, dleft, dWh = dh * z, dah @ W.Wh.T, W.left.T @ dah  # 7, 2, 2
    dax = normalised_backward(dy_x * gain_x, n_x, inverse_x)  # 3, 1
    dx, dWx = dax @ W.Wx.T, x.T @ dax  # 1
    return dx, (dh_prev,), dleft, dWx, dWh, db, dbh, *given(W, (dgain_x, dgain_h))


def _cell(eps, grad_clip):
    option = Options(_arguments.eps(eps), _arguments.bound("grad_clip", grad_clip))
    return sequence.Cell(_forward, _backward, option)


def gru_norm_forward(
    x, h0, Wx, Wh, b=None, *, bh=None, gain_x=None, gain_h=None, gate_order="rzn", eps=1e-5,
    grad_clip=None, recurrent_mask=None, zoneout_h=None, delays=None, period=None, start=0, lengths=None, reverse=False,
    training=True, memory=None, return_sequences=True, out=None,
):  # fmt: skip
    """Run the cell over a sequence; returns (h, h_T, cache).

    gain_x, gain_h: (3H,) or None = ones. eps: number > 0, added to every variance. All else as in gru_forward.
    """
    call = _arguments.forward(
        "gru_norm", x, h0, None, Wx, Wh, b, bh, step=False, gates=GATES, gate_order=gate_order, delays=delays, period=period,
        start=start, lengths=lengths, reverse=reverse, training=training, memory=memory,
        return_sequences=return_sequences, out=out, dtypes=_arguments.REFERENCE,
        recurrent_mask=recurrent_mask, zoneout_h=zoneout_h,
        norm=_arguments.Norm(gain_x, gain_h, None, None),
    )  # fmt: skip
    h, (h_T,), cache = sequence.forward(call, _cell(eps, grad_clip))
    placed = (sequence.placed(call, *result) for result in (("h", h), ("h_T", h_T)))
    return GRUNormForward(*placed, cache)


def gru_norm_backward(dh, cache, dh_T=None, *, need=None, out=None):
    """The gradients of gru_norm_forward: (dx, dh0, dWx, dWh), then db, dbh, dgain_x, dgain_h of those that
    were given. Arguments as in gru_backward.
    """
    call = _arguments.cache(cache, sequence.Cache, "gru_norm", False)
    judged = _arguments.backward(call, dh, dh_T, need=need, out=out)
    return sequence.gradients_type("GRUNormGradients", judged.names)(*sequence.backward(cache, judged))


def gru_norm_ragged_forward(
    x, h0, Wx, Wh, b=None, *, bh=None, gain_x=None, gain_h=None, offsets=None, batch_sizes=None,
    gate_order="rzn", eps=1e-5, grad_clip=None, recurrent_mask=None, zoneout_h=None, delays=None, period=None, start=0,
    reverse=False, training=True, memory=None, return_sequences=True, out=None,
):  # fmt: skip
    """Run the cell over sequences of different lengths on flat rows, without padding; returns (h, h_T, cache).

    x: (ΣT, D) and offsets or batch_sizes as in gru_ragged_forward, all else as in gru_norm_forward.
    """
    call = _arguments.forward(
        "gru_norm", x, h0, None, Wx, Wh, b, bh, step=False, gates=GATES, gate_order=gate_order, delays=delays, period=period,
        start=start, ragged=True, offsets=offsets, batch_sizes=batch_sizes, reverse=reverse, training=training, memory=memory,
        return_sequences=return_sequences, out=out, dtypes=_arguments.REFERENCE,
        recurrent_mask=recurrent_mask, zoneout_h=zoneout_h,
        norm=_arguments.Norm(gain_x, gain_h, None, None),
    )  # fmt: skip
    h, (h_T,), cache = sequence.forward(call, _cell(eps, grad_clip))
    placed = (sequence.placed(call, *result) for result in (("h", h), ("h_T", h_T)))
    return GRUNormForward(*placed, cache)


def gru_norm_ragged_backward(dh, cache, dh_T=None, *, need=None, out=None):
    """The gradients of gru_norm_ragged_forward, as gru_norm_backward. dh: (ΣT, H)."""
    call = _arguments.cache(cache, sequence.Cache, "gru_norm", False, ragged=True)
    judged = _arguments.backward(call, dh, dh_T, need=need, out=out)
    return sequence.gradients_type("GRUNormGradients", judged.names)(*sequence.backward(cache, judged))


def gru_norm_step_forward(
    x, h_prev, Wx, Wh, b=None, *, bh=None, gain_x=None, gain_h=None, gate_order="rzn",
    eps=1e-5, grad_clip=None, recurrent_mask=None, zoneout_h=None, delays=None, period=None, start=0, training=True, out=None,
):  # fmt: skip
    """One step; returns (h_next, cache).

    x: (N, D). h_prev: (N, H), (H,) or None = zeros. All else as in gru_norm_forward and gru_step_forward.
    """
    call = _arguments.forward(
        "gru_norm", x, h_prev, None, Wx, Wh, b, bh, step=True, gates=GATES, gate_order=gate_order,
        delays=delays, period=period, start=start, training=training, out=out, dtypes=_arguments.REFERENCE,
        recurrent_mask=recurrent_mask, zoneout_h=zoneout_h,
        norm=_arguments.Norm(gain_x, gain_h, None, None),
    )  # fmt: skip
    (h_next,), cache = sequence.step_forward(call, _cell(eps, grad_clip))
    return GRUNormStep(sequence.placed(call, "h_next", h_next), cache)


def gru_norm_step_backward(dh_next, cache, *, need=None, out=None):
    """The gradients of gru_norm_step_forward: (dx, dh_prev, dWx, dWh), then those of what was given."""
    call = _arguments.cache(cache, sequence.Cache, "gru_norm", True)
    judged = _arguments.backward(call, dh_next, need=need, out=out)
    return sequence.gradients_type("GRUNormStepGradients", judged.names)(*sequence.step_backward(cache, judged))
