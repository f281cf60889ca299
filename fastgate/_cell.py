"""What LSTMCell, GRUCell, RNNCell and their kin share: weights that are judged, copied and packed once, for many calls.

A public class names its `_cell`, `_gates` and `_Forward`, and derives from PreparedCell or PreparedCellWithC. All that a call
reads of a cell is one _kernels.Prepared, taken at its beginning, so a cell may be updated while other threads use it.
"""

import copyreg
from types import GenericAlias

from fastgate import _arguments, _call, _kernels


class _Cell(_kernels.Holder):
    def __class_getitem__(cls, dtype):
        """For annotations: LSTMCell[np.float32]."""
        return GenericAlias(cls, dtype)

    def _prepare(
        self, Wx, Wh, b, bh, kernel, option=_call.PLAIN, peephole=None, Wr=None, delays=None, period=None, norm=None,
        alpha=None, **options,
    ):  # fmt: skip
        """`kernel`: the name in csrc/cells.def, `option`: its options there; `options`: the other ones of the constructor."""
        order = options.get("gate_order")
        weights = _arguments.weights(Wx, Wh, b, bh, peephole, Wr, self._gates, order, delays, period, norm=norm, alpha=alpha)
        self._options = options
        self._hold(_kernels.Prepared(kernel, option, weights))

    def update(self, Wx, Wh, b=None, *, bh=None):
        """Take other weights, of the same sizes and dtype, as the constructor does; a bias that is not given is zeros.

        Calls that are running, and caches of calls that have run, keep the weights that they began with. Errors as in the
        constructor; the cell is unchanged then.
        """
        self._update(Wx, Wh, b, bh)

    def _update(self, Wx, Wh, b, bh, peephole=None, Wr=None, norm=None, alpha=None):
        held = self._held()
        like = held.weights
        weights = _arguments.weights(
            Wx, Wh, b, bh, peephole, Wr, self._gates, like.gate_order, *_rhythm(like), like, norm, alpha
        )  # fmt: skip
        self._hold(_kernels.Prepared(held.kernel, held.option, weights))

    def _judge(self, prepared, x, h, c, masks, **options):
        w = prepared.weights
        recurrent_mask, zoneout_h, zoneout_c = masks
        delays, period = _rhythm(w)
        return _arguments.forward(
            self._cell, x, h, c, w.Wx, w.Wh, w.b, w.bh, gates=self._gates, has_c=self._has_c, gate_order=w.gate_order,
            dtypes=(w.dtype,), input_size=w.D, peephole=w.peephole, Wr=w.Wr, delays=delays, period=period,
            recurrent_mask=recurrent_mask, zoneout_h=zoneout_h, zoneout_c=zoneout_c, norm=w.norm, alpha=w.alpha, **options,
        )  # fmt: skip

    def _run(self, x, h0, c0, masks, lengths, reverse, start, training, memory, return_sequences, out):
        prepared = self._held()
        call = self._judge(
            prepared, x, h0, c0, masks, step=False, lengths=lengths, reverse=reverse, start=start, training=training,
            memory=memory,
            return_sequences=return_sequences, out=out,
        )  # fmt: skip
        return self._Forward._make(_call.forward_prepared(call, prepared))

    def _step_in_words(self, prepared, x, h_prev, c_prev, out, start, *masks):
        if self._has_c and type(out) is tuple:
            if len(out) != 2:
                raise ValueError(f"out: expected (h_next, c_next), got a tuple of {len(out)}")
            out = dict(zip(("h_next", "c_next"), out, strict=True))
        call = self._judge(prepared, x, h_prev, c_prev, masks, step=True, start=start, training=False, out=out)
        return tuple(_call.forward_prepared(call, prepared)[:-1])

    @property
    def Wx(self):
        """(D, G·H), the cell's own copy, read-only."""
        return self._held().weights.Wx[...]

    @property
    def Wh(self):
        """(H, G·H), or (P, G·H) beside a Wr; with delays one for each. The cell's own copy, read-only. None: a leaky cell
        without it."""
        Wh = self._held().weights.Wh
        return None if Wh is None else Wh[...]

    @property
    def b(self):
        """(G·H,), the cell's own copy, read-only; or None."""
        b = self._held().weights.b
        return None if b is None else b[...]

    @property
    def bh(self):
        """(G·H,), the cell's own copy, read-only; or None."""
        bh = self._held().weights.bh
        return None if bh is None else bh[...]

    @property
    def period(self):
        """(H,) int64, the cell's own copy, read-only; or None."""
        _, period = _rhythm(self._held().weights)
        return None if period is None else period[...]

    @property
    def delays(self):
        """(K,) int64, read-only; or None."""
        delays, _ = _rhythm(self._held().weights)
        return None if delays is None else delays[...]

    @property
    def input_size(self):
        """D, the width of x."""
        return self._held().weights.D

    @property
    def hidden_size(self):
        """H, the width of the states; beside a Wr that of c."""
        return self._held().weights.H

    @property
    def dtype(self):
        """float32 or float64, that of all arrays of a call."""
        return self._held().weights.dtype

    @property
    def nbytes(self):
        """Bytes of the copies and of the packed weights."""
        held = self._held()
        arrays = (*_arrays(held.weights), *(held.weights.norm or ()), held.weights.alpha)
        return held.memory.size + sum(getattr(a, "nbytes", 0) for a in arrays)

    def __repr__(self):
        w = self._held().weights
        delays, period = _rhythm(w)
        options = [f"{name}={value!r}" for name, value in self._options.items() if value is not None and value is not False]
        words = [
            f"D={w.D}",
            f"H={w.H}",
            *[f"P={w.P}"] * (w.Wr is not None),
            str(w.dtype),
            *["peephole"] * (w.peephole is not None),
            *["no Wh"] * (w.Wh is None),
            *[f"alpha={w.alpha}" if isinstance(w.alpha, float) else "alpha"] * (w.alpha is not None),
            *([] if delays is None else [f"delays={tuple(delays.tolist())}"]),
            *["period"] * (period is not None),
            *["gain_c"] * (w.norm is not None and w.norm.gain_c is not None),
            *options,
        ]
        return f"<{type(self).__name__}: {', '.join(words)}>"

    def __reduce__(self):
        held = self._held()
        w = held.weights
        weights = (*_arrays(w), w.norm, w.alpha, w.gate_order, *_rhythm(w))
        return copyreg.__newobj__, (type(self),), (vars(self), held.kernel, held.option, *weights)

    def __setstate__(self, state):
        attributes, kernel, option, *arrays, norm, alpha, gate_order, delays, period = state
        vars(self).update(attributes)
        weights = _arguments.weights(*arrays, self._gates, gate_order, delays, period, norm=norm, alpha=alpha)
        self._hold(_kernels.Prepared(kernel, option, weights))


def _rhythm(weights):
    """delays, period."""
    rhythm = weights.rhythm
    return (None, None) if rhythm is None else (rhythm.delays, rhythm.period)


def _arrays(weights):
    """Wx, Wh, b, bh, peephole, Wr."""
    return weights.Wx, weights.Wh, weights.b, weights.bh, weights.peephole, weights.Wr


class PreparedCell(_Cell, _kernels.Cell):
    _has_c = False

    def forward(
        self, x, h0=None, *, recurrent_mask=None, zoneout_h=None, lengths=None, reverse=False, start=0, training=True,
        memory=None, return_sequences=True, out=None,
    ):  # fmt: skip
        """Run the cell over sequences; returns (h, h_T, cache).

        Arguments, results and errors as those of the function that the class is named after, bit for bit; the cache goes to its
        backward twin. Weights' gradients are in C order, as the cell's own copies are.
        """
        masks = recurrent_mask, zoneout_h, None
        return self._run(x, h0, None, masks, lengths, reverse, start, training, memory, return_sequences, out)


class NormalisedCell:
    """What normalised cells have besides."""

    def _of_norm(self, name):
        norm = self._held().weights.norm
        gain = None if norm is None else getattr(norm, name)
        return None if gain is None else gain[...]

    @property
    def gain_x(self):
        """(G·H,), the cell's own copy, read-only; or None."""
        return self._of_norm("gain_x")

    @property
    def gain_h(self):
        """(G·H,), the cell's own copy, read-only; or None."""
        return self._of_norm("gain_h")


class PreparedCellWithC(_Cell, _kernels.CellWithC):
    _has_c = True

    def forward(
        self, x, h0=None, c0=None, *, recurrent_mask=None, zoneout_h=None, zoneout_c=None, lengths=None, reverse=False,
        start=0, training=True, memory=None, return_sequences=True, out=None,
    ):  # fmt: skip
        """Run the cell over sequences; returns (h, h_T, c_T, cache).

        Arguments, results and errors as those of the function that the class is named after, bit for bit; the cache goes to its
        backward twin. Weights' gradients are in C order, as the cell's own copies are.
        """
        masks = recurrent_mask, zoneout_h, zoneout_c
        return self._run(x, h0, c0, masks, lengths, reverse, start, training, memory, return_sequences, out)
