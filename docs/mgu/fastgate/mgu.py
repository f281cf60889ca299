"""Minimal gated unit."""

from fastgate.reference.mgu import GATES, MGUForward, MGUStep

from fastgate import _arguments, _call, _cell


def mgu_forward(
    x, h0, Wx, Wh, b=None, *, bh=None, gate_order="fn", recurrent_mask=None, zoneout_h=None, delays=None, period=None, start=0,
    lengths=None, reverse=False,
    training=True, memory=None, return_sequences=True, out=None,
):  # fmt: skip
    """Run the cell over sequences; returns (h, h_T, cache).

    Axes batch first: x (N, T, D), h (N, T, H). Gate order "fn"; 1 - f keeps h_prev. Weights multiply from the right.

        f = sigmoid(a_f)                                    a = x_t Wx + h_{t-1} Wh + b + bh, block a_f
        n = tanh(x_t Wxn + b_n + f * (h_{t-1} Whn + bh_n))
        h_t = (1 - f) * h_{t-1} + f * n

    x : (N, T, D) float32 or float64. h0 : (N, H), (H,) for all rows, or None = zeros.
    Wx : (D, 2H). Wh : (H, 2H). b, bh : (2H,) or None.
    gate_order : a permutation of "fn". All other options, promises and errors: as gru_forward.

    Zhou, Wu, Zhang and Zhou (2016), arXiv:1603.09420, with the gate after the product.
    """
    call = _arguments.forward(
        "mgu", x, h0, None, Wx, Wh, b, bh, step=False, gates=GATES, gate_order=gate_order, delays=delays, period=period,
        start=start, lengths=lengths, reverse=reverse, training=training, memory=memory, return_sequences=return_sequences,
        out=out, recurrent_mask=recurrent_mask, zoneout_h=zoneout_h,
    )  # fmt: skip
    return MGUForward._make(_call.forward(call, "mgu"))


def mgu_backward(dh, cache, dh_T=None, *, need=None, out=None):
    """The gradients of mgu_forward; returns (dx, dh0, dWx, dWh, …). Arguments as gru_backward."""
    call = _arguments.cache(cache, _call.Cache, "mgu", False)
    return _call.backward(cache, _arguments.backward(call, dh, dh_T, need=need, out=out))


def mgu_ragged_forward(
    x, h0, Wx, Wh, b=None, *, bh=None, offsets=None, batch_sizes=None, gate_order="fn", recurrent_mask=None, zoneout_h=None,
    delays=None, period=None, start=0, reverse=False, training=True, memory=None, return_sequences=True, out=None,
):  # fmt: skip
    """Run the cell over sequences on flat rows; returns (h, h_T, cache). Arguments as gru_ragged_forward."""
    call = _arguments.forward(
        "mgu", x, h0, None, Wx, Wh, b, bh, step=False, gates=GATES, gate_order=gate_order, delays=delays, period=period,
        start=start, ragged=True, offsets=offsets, batch_sizes=batch_sizes, reverse=reverse, training=training, memory=memory,
        return_sequences=return_sequences, out=out, recurrent_mask=recurrent_mask, zoneout_h=zoneout_h,
    )  # fmt: skip
    return MGUForward._make(_call.forward(call, "mgu"))


def mgu_ragged_backward(dh, cache, dh_T=None, *, need=None, out=None):
    """The gradients of mgu_ragged_forward; returns (dx, dh0, dWx, dWh, …). Arguments as gru_ragged_backward."""
    call = _arguments.cache(cache, _call.Cache, "mgu", False, ragged=True)
    return _call.backward(cache, _arguments.backward(call, dh, dh_T, need=need, out=out))


def mgu_step_forward(
    x, h_prev, Wx, Wh, b=None, *, bh=None, gate_order="fn", recurrent_mask=None, zoneout_h=None, delays=None, period=None,
    start=0, training=True, out=None,
):  # fmt: skip
    """One step; returns (h_next, cache). x : (N, D). h_prev : (N, H), (H,) or None = zeros. Weights as in mgu_forward."""
    call = _arguments.forward(
        "mgu", x, h_prev, None, Wx, Wh, b, bh, step=True, gates=GATES, gate_order=gate_order, delays=delays, period=period,
        start=start, training=training, out=out, recurrent_mask=recurrent_mask, zoneout_h=zoneout_h,
    )  # fmt: skip
    return MGUStep._make(_call.forward(call, "mgu"))


def mgu_step_backward(dh_next, cache, *, need=None, out=None):
    """The gradients of mgu_step_forward; returns (dx, dh_prev, dWx, dWh, …). Arguments as gru_step_backward."""
    call = _arguments.cache(cache, _call.Cache, "mgu", True)
    return _call.backward(cache, _arguments.backward(call, dh_next, need=need, out=out))


class MGUCell(_cell.PreparedCell):
    """The cell with its weights, prepared for many calls. Wx : (D, 2H). Wh : (H, 2H). b, bh : (2H,) or None. As GRUCell."""

    _cell, _gates, _Forward = "mgu", GATES, MGUForward

    def __init__(self, Wx, Wh, b=None, *, bh=None, gate_order="fn", delays=None, period=None):
        self._prepare(Wx, Wh, b, bh, "mgu", delays=delays, period=period, gate_order=gate_order)
