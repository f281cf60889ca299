"""Long short-term memory with layer normalisation."""

from fastgate import _arguments, _call, _cell
from fastgate.reference.lstm_norm import GATES, LSTMNormForward, LSTMNormStep


def _option(eps, grad_clip):
    """The options as the kernel reads them."""
    return _call.clipping(_call.PLAIN._replace(eps=_arguments.eps(eps)), grad_clip)


def lstm_norm_forward(
    x, h0, c0, Wx, Wh, b=None, *, bh=None, gain_x=None, gain_h=None, gain_c=None, beta_c=None, gate_order="ifgo", eps=1e-5,
    grad_clip=None, recurrent_mask=None, zoneout_h=None, zoneout_c=None, delays=None, period=None, start=0, lengths=None,
    reverse=False, training=True, memory=None, return_sequences=True, out=None,
):  # fmt: skip
    """Run the cell over sequences; returns (h, h_T, c_T, cache).

    Axes batch first: x (N, T, D), h (N, T, H). Gate order "ifgo". Weights multiply from the right: x @ Wx, with Wx
    (D, 4H). Each of the two products passes through a layer normalisation N of its own, over all 4H numbers of a row:

        N(v) = (v - mean(v)) / sqrt(variance(v) + eps)      over a row, variance = mean((v - mean(v))**2)
        a = gain_x * N(x_t Wx) + gain_h * N(h_{t-1} Wh) + b + bh     a : (N, 4H), blocks a_i a_f a_g a_o
        i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o);   g = tanh(a_g)
        c_t = f * c_{t-1} + i * g
        h_t = o * tanh(c_t)                                 without gain_c
        h_t = o * tanh(gain_c * N(c_t) + beta_c)            with gain_c: N over the H numbers of a row of c

    The betas of the two products are one with b. Ba, Kiros and Hinton (2016), "Layer Normalization", arXiv:1607.06450, the
    LSTM of the supplement; haste's LayerNormLSTM computes the same with gain_c and beta_c given. LayerNormLSTMCell of
    TensorFlow Addons is another cell: the c that it hands on is the normalised one.

    Parameters
    ----------
    x : (N, T, D) float32 or float64. All arrays of a call have its dtype.
    h0, c0 : (N, H), or (H,) for all rows, or None = zeros
    Wx : (D, 4H)
    Wh : (H, 4H)
    b : (4H,) or None, input bias
    bh : (4H,) or None, recurrent bias; as good as part of b
    gain_x, gain_h : (4H,) or None = ones, in the gate order of the weights
    gain_c : (H,) or None = c is not normalised
    beta_c : (H,) or None = zeros; beside gain_c only
    gate_order : a permutation of "ifgo"
        The order of the 4 blocks of H columns in Wx, Wh, b, bh, gain_x, gain_h, and in their gradients.
    eps : number > 0 that float32 holds
        Added to each variance. A row of equal numbers gives zeros, and finite gradients that grow as 1 / sqrt(eps): so does
        h_{t-1} Wh of a first state of zeros.
    grad_clip : number > 0, or None
        In backward, each gradient of a is clipped before anything is made of it (Graves 2013, arXiv:1308.0850, 2.1).
    delays : as in lstm_forward; N is taken of the sum over the delays.
    period : as in lstm_forward. A unit that holds takes part in the means of the others, as its a is formed with theirs.
        Beside gain_c there is none.
    recurrent_mask, zoneout_h, zoneout_c, start, lengths, reverse, training, memory, return_sequences, out : as in lstm_forward.
        The c that is normalised is that of the equations, before zoneout.

    Returns
    -------
    h : (N, T, H), in the memory order of x. h_T, c_T : (N, H), the final states.
    cache : what lstm_norm_backward needs. It refers to x, weights, gains and masks: write into them after backward, not
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
        "lstm_norm", x, h0, c0, Wx, Wh, b, bh, step=False, gates=GATES, has_c=True, gate_order=gate_order, delays=delays,
        period=period, start=start, lengths=lengths, reverse=reverse, training=training, memory=memory,
        return_sequences=return_sequences, out=out, recurrent_mask=recurrent_mask, zoneout_h=zoneout_h, zoneout_c=zoneout_c,
        norm=_arguments.Norm(gain_x, gain_h, gain_c, beta_c),
    )  # fmt: skip
    return LSTMNormForward._make(_call.forward(call, "lstm_norm", _option(eps, grad_clip)))


def lstm_norm_backward(dh, cache, dh_T=None, dc_T=None, *, need=None, out=None):
    """The gradients of lstm_norm_forward; returns (dx, dh0, dc0, dWx, dWh, …).

    dh : (N, T, H) or None = zeros. dh_T, dc_T : (N, H) or None = zeros. cache : from lstm_norm_forward. need, out : as in
    lstm_backward, with the same names.

    Returns (dx, dh0, dc0, dWx, dWh), then db, dbh, dgain_x, dgain_h, dgain_c, dbeta_c for those that were given to forward,
    each in the shape of its argument. Errors as in lstm_norm_forward.
    """
    call = _arguments.cache(cache, _call.Cache, "lstm_norm", False)
    return _call.backward(cache, _arguments.backward(call, dh, dh_T, dc_T, need=need, out=out))


def lstm_norm_ragged_forward(
    x, h0, c0, Wx, Wh, b=None, *, bh=None, gain_x=None, gain_h=None, gain_c=None, beta_c=None, offsets=None, batch_sizes=None,
    gate_order="ifgo", eps=1e-5, grad_clip=None, recurrent_mask=None, zoneout_h=None, zoneout_c=None, delays=None, period=None,
    start=0, reverse=False, training=True, memory=None, return_sequences=True, out=None,
):  # fmt: skip
    """Run the cell over sequences of different lengths on flat rows, without padding; returns (h, h_T, c_T, cache).

    x : (ΣT, D), with offsets (N + 1,) or batch_sizes (T,) as in lstm_ragged_forward. h : (ΣT, H). All else as in
    lstm_norm_forward, whose results these are on the padded batch with lengths=, bit for bit.
    """
    call = _arguments.forward(
        "lstm_norm", x, h0, c0, Wx, Wh, b, bh, step=False, gates=GATES, has_c=True, gate_order=gate_order, delays=delays,
        period=period, start=start, ragged=True, offsets=offsets, batch_sizes=batch_sizes, reverse=reverse, training=training,
        memory=memory, return_sequences=return_sequences, out=out, recurrent_mask=recurrent_mask, zoneout_h=zoneout_h,
        zoneout_c=zoneout_c, norm=_arguments.Norm(gain_x, gain_h, gain_c, beta_c),
    )  # fmt: skip
    return LSTMNormForward._make(_call.forward(call, "lstm_norm", _option(eps, grad_clip)))


def lstm_norm_ragged_backward(dh, cache, dh_T=None, dc_T=None, *, need=None, out=None):
    """The gradients of lstm_norm_ragged_forward, as lstm_norm_backward: dh (ΣT, H), dx (ΣT, D), row for row as x."""
    call = _arguments.cache(cache, _call.Cache, "lstm_norm", False, ragged=True)
    return _call.backward(cache, _arguments.backward(call, dh, dh_T, dc_T, need=need, out=out))


def lstm_norm_step_forward(
    x, h_prev, c_prev, Wx, Wh, b=None, *, bh=None, gain_x=None, gain_h=None, gain_c=None, beta_c=None, gate_order="ifgo",
    eps=1e-5, grad_clip=None, recurrent_mask=None, zoneout_h=None, zoneout_c=None, delays=None, period=None, start=0,
    training=True, out=None,
):  # fmt: skip
    """One step; returns (h_next, c_next, cache).

    x : (N, D). h_prev, c_prev : (N, H), (H,) for all rows, or None = zeros. out : array for h_next, or dict with any of
    "h_next", "c_next". All else as in lstm_norm_forward; zoneout_h and zoneout_c broadcast to (N, H).
    """
    call = _arguments.forward(
        "lstm_norm", x, h_prev, c_prev, Wx, Wh, b, bh, step=True, gates=GATES, has_c=True, gate_order=gate_order,
        delays=delays, period=period, start=start, training=training, out=out,
        recurrent_mask=recurrent_mask, zoneout_h=zoneout_h, zoneout_c=zoneout_c,
        norm=_arguments.Norm(gain_x, gain_h, gain_c, beta_c),
    )  # fmt: skip
    return LSTMNormStep._make(_call.forward(call, "lstm_norm", _option(eps, grad_clip)))


def lstm_norm_step_backward(dh_next, dc_next, cache, *, need=None, out=None):
    """The gradients of lstm_norm_step_forward; returns (dx, dh_prev, dc_prev, dWx, dWh), then those of what was given.

    dh_next, dc_next : as h_next, c_next, or None = zeros. need, out : as in lstm_norm_backward.
    """
    call = _arguments.cache(cache, _call.Cache, "lstm_norm", True)
    return _call.backward(cache, _arguments.backward(call, dh_next, None, dc_next, need=need, out=out))


class LSTMNormCell(_cell.NormalisedCell, _cell.PreparedCellWithC):
    """The cell with its weights and gains, prepared for many calls.

    Wx : (D, 4H). Wh : (H, 4H). b, bh, gain_x, gain_h : (4H,) or None. gain_c, beta_c : (H,) or None. All float32 or all
    float64. gate_order, eps, grad_clip, period : as in lstm_norm_forward. Methods, errors and bits as LSTMCell, for the
    functions of lstm_norm.
    """

    _cell, _gates, _Forward = "lstm_norm", GATES, LSTMNormForward

    def __init__(
        self, Wx, Wh, b=None, *, bh=None, gain_x=None, gain_h=None, gain_c=None, beta_c=None, gate_order="ifgo", eps=1e-5,
        grad_clip=None, delays=None, period=None,
    ):  # fmt: skip
        self._prepare(
            Wx, Wh, b, bh, "lstm_norm", _option(eps, grad_clip), delays=delays, period=period,
            norm=_arguments.Norm(gain_x, gain_h, gain_c, beta_c), gate_order=gate_order, eps=eps, grad_clip=grad_clip,
        )  # fmt: skip

    def update(self, Wx, Wh, b=None, *, bh=None, gain_x=None, gain_h=None, gain_c=None, beta_c=None):
        """Take other weights and gains, of the same sizes and dtype, as the constructor does; what is not given is none.

        Calls that are running, and caches of calls that have run, keep the weights that they began with. Errors as in the
        constructor; the cell is unchanged then.
        """
        self._update(Wx, Wh, b, bh, None, None, _arguments.Norm(gain_x, gain_h, gain_c, beta_c))

    @property
    def gain_c(self):
        """(H,), the cell's own copy, read-only; or None."""
        return self._of_norm("gain_c")

    @property
    def beta_c(self):
        """(H,), the cell's own copy, read-only; or None."""
        return self._of_norm("beta_c")
