"""What LSTMCell, GRUCell and RNNCell share: weights that are judged, copied and packed once, for many calls."""

from functools import partial

from fastgate import _arguments, _call, _kernels


class PreparedCell:
    """A public class names its `_cell`, `_gates` and `_has_c`, and derives from _kernels.Cell or CellWithC, which do a step."""

    def _prepare(self, Wx, Wh, b, bh, order, kernel, option=0, **options):
        """`order` of the gates; `kernel`: the name in csrc/cells.def, `option`: its fg_sequence.option; `options`: those of
        the constructor."""
        weights = _arguments.weights(Wx, Wh, b, bh, self._gates, order)
        self._kernel, self._option = _kernels.CELLS[kernel], option
        self._order, self._options = order, options
        self._take(weights)

    def _take(self, weights):
        self._weights = weights
        self._hold(_kernels.Prepared(self._kernel, self._option, weights[3:7], weights.position))

    def update(self, Wx, Wh, b=None, *, bh=None):
        """Take other weights, of the same sizes and dtype. They are copied. Calls that are running, and caches of calls
        that have run, keep the weights that they began with. Errors as in the constructor; the cell is unchanged then."""
        self._take(_arguments.weights(Wx, Wh, b, bh, self._gates, self._order, like=self._weights))

    def _judge(self, x, h, c, **options):
        w = self._weights
        options |= {"gates": self._gates, "has_c": self._has_c, "gate_order": self._order}
        return _arguments.forward(self._cell, x, h, c, w.Wx, w.Wh, w.b, w.bh, **options)

    def _forward(self, x, h0, c0, **options):
        prepared = self.prepared
        return _call.run_forward(self._judge(x, h0, c0, step=False, **options), self._kernel, self._option, prepared)

    def _step_in_words(self, x, h_prev, c_prev, out):
        if self._has_c and type(out) is tuple:
            if len(out) != 2:
                raise ValueError(f"out: expected (h_next, c_next), got a tuple of {len(out)}")
            out = dict(zip(("h_next", "c_next"), out, strict=True))
        prepared = self.prepared
        call = self._judge(x, h_prev, c_prev, step=True, training=False, out=out)
        return tuple(_call.run_forward(call, self._kernel, self._option, prepared)[:-1])

    @property
    def Wx(self):
        """The cell's own copy, read-only; so are Wh, b, bh."""
        return self._weights.Wx

    @property
    def Wh(self):
        return self._weights.Wh

    @property
    def b(self):
        return self._weights.b

    @property
    def bh(self):
        return self._weights.bh

    @property
    def input_size(self):
        """D"""
        return self._weights.D

    @property
    def hidden_size(self):
        """H"""
        return self._weights.H

    @property
    def dtype(self):
        return self._weights.dtype

    @property
    def nbytes(self):
        """Bytes of the copies and of the packed weights."""
        arrays = (self.Wx, self.Wh, self.b, self.bh)
        return self.prepared.memory.size + sum(a.nbytes for a in arrays if a is not None)

    def __repr__(self):
        words = [
            f"D={self.input_size}",
            f"H={self.hidden_size}",
            str(self.dtype),
            *(f"{k}={v!r}" for k, v in self._options.items()),
        ]
        return f"<{type(self).__name__}: {', '.join(words)}>"

    def __reduce__(self):
        return partial(type(self), bh=self.bh, **self._options), (self.Wx, self.Wh, self.b)
