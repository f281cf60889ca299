"""Gated recurrent unit with layer normalisation."""

from fastgate import _arguments, _call, _cell
from fastgate.reference.gru_norm import GATES, GRUNormForward, GRUNormStep


def _option(eps, grad_clip):
    """The options as the kernel reads them."""
    return _call.clipping(_call.PLAIN._replace(eps=_arguments.eps(eps)), grad_clip)


def gru_norm_forward(
    x, h0, Wx, Wh, b=None, *, bh=None, gain_x=None, gain_h=None, gate_order="rzn", eps=1e-5,
    grad_clip=None, recurrent_mask=None, zoneout_h=None, delays=None, period=None, start=0, lengths=None, reverse=False,
    training=True, memory=None, return_sequences=True, out=None,
):  # fmt: skip
    """Run the cell over sequences; returns (h, h_T, cache).

    Axes batch first: x (N, T, D), h (N, T, H). Gate order "rzn"; z keeps h_prev; the reset gate comes after the product.
    Weights multiply from the right: x @ Wx, with Wx (D, 3H). Each of the two products passes through a layer normalisation N
    of its own, over all 3H numbers of a row:

        N(v) = (v - mean(v)) / sqrt(variance(v) + eps)      over a row, variance = mean((v - mean(v))**2)
        y_x = gain_x * N(x_t Wx) + b                        blocks r z n
        y_h = gain_h * N(h_{t-1} Wh) + bh
        r, z = sigmoid(y_xr + y_hr), sigmoid(y_xz + y_hz)
        n = tanh(y_xn + r * y_hn)
        h_t = (1 - z) * n + z * h_{t-1}

    Ba, Kiros and Hinton (2016), "Layer Normalization", arXiv:1607.06450; this is the variant of haste's LayerNormGRU, one
    normalisation for each product. The supplement of the paper normalises the candidate's products apart from those of r and z.

    Parameters
    ----------
    x : (N, T, D) float32 or float64. All arrays of a call have its dtype.
    h0 : (N, H), or (H,) for all rows, or None = zeros
    Wx : (D, 3H)
    Wh : (H, 3H)
    b : (3H,) or None, input bias
    bh : (3H,) or None, recurrent bias; its part of n lies inside r * (…)
    gain_x, gain_h : (3H,) or None = ones, in the gate order of the weights
    gate_order : a permutation of "rzn"
        The order of the 3 blocks of H columns in Wx, Wh, b, bh, gain_x, gain_h, and in their gradients.
    eps : number > 0 that float32 holds
        Added to each variance. A row of equal numbers gives zeros, and finite gradients that grow as 1 / sqrt(eps): so does
        h_{t-1} Wh of a first state of zeros.
    grad_clip : number > 0, or None
        In backward, each gradient of the sums that sigmoid and tanh take is clipped before anything is made of it (Graves
        2013, arXiv:1308.0850, 2.1).
    delays : as in gru_forward; N is taken of the sum over the delays.
    period : as in gru_forward. A unit that holds takes part in the means of the others, as its products are formed with
        theirs.
    recurrent_mask, zoneout_h, start, lengths, reverse, training, memory, return_sequences, out : as in gru_forward.

    Returns
    -------
    h : (N, T, H), in the memory order of x. h_T : (N, H), the final state.
    cache : what gru_norm_backward needs. It refers to x, weights, gains and masks: write into them after backward, not
        before.

    Raises
    ------
    ValueError, TypeError
        Naming the argument that does not fit, before anything is computed. Nothing is ever converted in silence.
    MemoryError, OverflowError
        Sizes that no memory holds. Every array is unchanged.

    The result has the same bits whatever the batch a row sits in, its padding, the chunks in which a sequence is fed,
    strides and alignment, and at every instruction-set level with FMA.
    """
    call = _arguments.forward(
        "gru_norm", x, h0, None, Wx, Wh, b, bh, step=False, gates=GATES, gate_order=gate_order, delays=delays, period=period,
        start=start, lengths=lengths, reverse=reverse, training=training, memory=memory,
        return_sequences=return_sequences, out=out,
        recurrent_mask=recurrent_mask, zoneout_h=zoneout_h,
        norm=_arguments.Norm(gain_x, gain_h, None, None),
    )  # fmt: skip
    return GRUNormForward._make(_call.forward(call, "gru_norm", _option(eps, grad_clip)))


def gru_norm_backward(dh, cache, dh_T=None, *, need=None, out=None):
    """The gradients of gru_norm_forward; returns (dx, dh0, dWx, dWh, …).

    dh : (N, T, H) or None = zeros. dh_T : (N, H) or None = zeros. cache : from gru_norm_forward. need, out : as in
    gru_backward, with the same names.

    Returns (dx, dh0, dWx, dWh), then db, dbh, dgain_x, dgain_h for those that were given to forward, each in the shape of its
    argument. Errors as in gru_norm_forward.
    """
    call = _arguments.cache(cache, _call.Cache, "gru_norm", False)
    return _call.backward(cache, _arguments.backward(call, dh, dh_T, need=need, out=out))


def gru_norm_ragged_forward(
    x, h0, Wx, Wh, b=None, *, bh=None, gain_x=None, gain_h=None, offsets=None, batch_sizes=None,
    gate_order="rzn", eps=1e-5, grad_clip=None, recurrent_mask=None, zoneout_h=None, delays=None, period=None, start=0,
    reverse=False, training=True, memory=None, return_sequences=True, out=None,
):  # fmt: skip
    """Run the cell over sequences of different lengths on flat rows, without padding; returns (h, h_T, cache).

    x : (ΣT, D), with offsets (N + 1,) or batch_sizes (T,) as in gru_ragged_forward. h : (ΣT, H). All else as in
    gru_norm_forward, whose results these are on the padded batch with lengths=, bit for bit.
    """
    call = _arguments.forward(
        "gru_norm", x, h0, None, Wx, Wh, b, bh, step=False, gates=GATES, gate_order=gate_order, delays=delays, period=period,
        start=start, ragged=True, offsets=offsets, batch_sizes=batch_sizes, reverse=reverse, training=training, memory=memory,
        return_sequences=return_sequences, out=out,
        recurrent_mask=recurrent_mask, zoneout_h=zoneout_h,
        norm=_arguments.Norm(gain_x, gain_h, None, None),
    )  # fmt: skip
    return GRUNormForward._make(_call.forward(call, "gru_norm", _option(eps, grad_clip)))


def gru_norm_ragged_backward(dh, cache, dh_T=None, *, need=None, out=None):
    """The gradients of gru_norm_ragged_forward, as gru_norm_backward: dh (ΣT, H), dx (ΣT, D), row for row as x."""
    call = _arguments.cache(cache, _call.Cache, "gru_norm", False, ragged=True)
    return _call.backward(cache, _arguments.backward(call, dh, dh_T, need=need, out=out))


def gru_norm_step_forward(
    x, h_prev, Wx, Wh, b=None, *, bh=None, gain_x=None, gain_h=None, gate_order="rzn",
    eps=1e-5, grad_clip=None, recurrent_mask=None, zoneout_h=None, delays=None, period=None, start=0, training=True, out=None,
):  # fmt: skip
    """One step; returns (h_next, cache).

    x : (N, D). h_prev : (N, H), (H,) for all rows, or None = zeros. out : array for h_next, or dict with
    "h_next". All else as in gru_norm_forward; zoneout_h broadcasts to (N, H).
    """
    call = _arguments.forward(
        "gru_norm", x, h_prev, None, Wx, Wh, b, bh, step=True, gates=GATES, gate_order=gate_order,
        delays=delays, period=period, start=start, training=training, out=out,
        recurrent_mask=recurrent_mask, zoneout_h=zoneout_h,
        norm=_arguments.Norm(gain_x, gain_h, None, None),
    )  # fmt: skip
    return GRUNormStep._make(_call.forward(call, "gru_norm", _option(eps, grad_clip)))


def gru_norm_step_backward(dh_next, cache, *, need=None, out=None):
    """The gradients of gru_norm_step_forward; returns (dx, dh_prev, dWx, dWh), then those of what was given.

    dh_next : as h_next, or None = zeros. need, out : as in gru_norm_backward.
    """
    call = _arguments.cache(cache, _call.Cache, "gru_norm", True)
    return _call.backward(cache, _arguments.backward(call, dh_next, need=need, out=out))


class GRUNormCell(_cell.NormalisedCell, _cell.PreparedCell):
    """The cell with its weights and gains, prepared for many calls.

    Wx : (D, 3H). Wh : (H, 3H). b, bh, gain_x, gain_h : (3H,) or None. All float32 or all float64. gate_order, eps,
    grad_clip, period : as in gru_norm_forward. Methods, errors and bits as GRUCell, for the functions of gru_norm.
    """

    _cell, _gates, _Forward = "gru_norm", GATES, GRUNormForward

    def __init__(
        self, Wx, Wh, b=None, *, bh=None, gain_x=None, gain_h=None, gate_order="rzn", eps=1e-5,
        grad_clip=None, delays=None, period=None,
    ):  # fmt: skip
        self._prepare(
            Wx, Wh, b, bh, "gru_norm", _option(eps, grad_clip), delays=delays, period=period,
            norm=_arguments.Norm(gain_x, gain_h, None, None), gate_order=gate_order, eps=eps, grad_clip=grad_clip,
        )  # fmt: skip

    def update(self, Wx, Wh, b=None, *, bh=None, gain_x=None, gain_h=None):
        """Take other weights and gains, of the same sizes and dtype, as the constructor does; what is not given is none.

        Calls that are running, and caches of calls that have run, keep the weights that they began with. Errors as in the
        constructor; the cell is unchanged then.
        """
        self._update(Wx, Wh, b, bh, None, None, _arguments.Norm(gain_x, gain_h, None, None))
