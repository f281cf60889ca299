"""The time layers of the book "Deep Learning from Scratch 2" (common/time_layers.py) and its clip_grads (common/util.py).

    from fastgate.compat.dlfs2 import *         # below: from common.time_layers import *

Axes batch first: xs (N, T, D), hs (N, T, H). Weights multiply from the right: xs @ Wx. Gate order of the LSTM "fgio", of the
GRU "zrn". In the GRU the reset gate comes before the product, and z is the share of the new state.

A layer's `params` are the arrays it was given and its `grads` are arrays of the same shapes; backward writes into grads, in
place, so that lists collected once (model.params, model.grads) stay valid. Between forward and backward params must not change.
forward(xs) returns hs; backward(dhs) returns dxs. The first state is zeros; with stateful=True it is the last one of the call
before, or what set_state gave, until reset_state. After backward `dh` is the gradient of the first h; it goes no further.

Results come in the common dtype of the arrays, float32 or float64, as in NumPy's operators (the book's are always float32);
upstream gradients are taken in the dtype of their forward call. The layers' cells of one step (`layers`) are not there. Errors:
ValueError and TypeError beginning with the name of the argument, before anything is computed or written.

Source: Saito, "Deep Learning from Scratch 2" (O'Reilly Japan, 2018), chapters 5 to 8, and its repository.
"""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

import fastgate
from fastgate.compat._dlfs2_around import Layer, TimeAffine, TimeDropout, TimeEmbedding, TimeSoftmaxWithLoss, clip_grads
from fastgate.compat._shared import alike, as_forward, in_words_of, judge

__all__ = [
    "TimeRNN", "TimeLSTM", "TimeGRU", "TimeBiLSTM", "TimeEmbedding", "TimeAffine", "TimeDropout", "TimeSoftmaxWithLoss",
    "clip_grads",
]  # fmt: skip

A: TypeAlias = NDArray[Any]
in_words_of_the_book = in_words_of(x="xs", h0="h", c0="c", dh="dhs")


class _Recurrent(Layer):
    """A layer of one cell, with its state."""

    _columns = "H"  # of the weights

    def __init__(self, Wx: A, Wh: A, b: A, stateful: bool = False):
        judge("Wx", Wx, ("D", self._columns))
        judge("Wh", Wh, ("H", self._columns))
        judge("b", b, (self._columns,))
        super().__init__(Wx, Wh, b)
        self.stateful = stateful
        self.h: A | None = None
        self.dh: A | None = None

    def set_state(self, h: A | None) -> None:
        self.h = h

    def reset_state(self) -> None:
        self.h = None


class TimeRNN(_Recurrent):
    """The tanh RNN: h = tanh(x Wx + h_prev Wh + b); Wx (D, H), Wh (H, H), b (H,)."""

    @in_words_of_the_book
    def forward(self, xs: A) -> A:
        arrays = alike(xs, self.h if self.stateful else None, *self.params)
        hs, self.h, self.cache = fastgate.rnn_forward(*arrays)
        return hs

    @in_words_of_the_book
    def backward(self, dhs: A) -> A:
        dxs, self.dh, *gradients = fastgate.rnn_backward(as_forward(dhs, self._kept), self._kept)
        self._write(*gradients)
        return dxs


class TimeLSTM(_Recurrent):
    """The LSTM: f, i, o = sigmoid(a_f), sigmoid(a_i), sigmoid(a_o); g = tanh(a_g); c = f c_prev + g i; h = o tanh(c).

    a = x Wx + h_prev Wh + b; Wx (D, 4H), Wh (H, 4H), b (4H,), blocks f g i o.
    """

    _columns = "4H"
    c: A | None = None

    @in_words_of_the_book
    def forward(self, xs: A) -> A:
        arrays = alike(xs, *((self.h, self.c) if self.stateful else (None, None)), *self.params)
        hs, self.h, self.c, self.cache = fastgate.lstm_forward(*arrays, gate_order="fgio")
        return hs

    @in_words_of_the_book
    def backward(self, dhs: A) -> A:
        need = ("dx", "dh0", "dWx", "dWh", "db")
        dxs, self.dh, _, *gradients = fastgate.lstm_backward(as_forward(dhs, self._kept), self._kept, need=need)
        self._write(*gradients)
        return dxs

    def set_state(self, h: A | None, c: A | None = None) -> None:
        self.h, self.c = h, c

    def reset_state(self) -> None:
        self.h, self.c = None, None


class TimeGRU(_Recurrent):
    """The GRU: z, r = sigmoid(a_z), sigmoid(a_r); n = tanh(x Wxn + (r h_prev) Whn + b_n); h = (1 - z) h_prev + z n.

    Wx (D, 3H), Wh (H, 3H), b (3H,), blocks z r n. z is the share of the candidate: update="new" of fastgate.gru_forward.
    """

    _columns = "3H"

    @in_words_of_the_book
    def forward(self, xs: A) -> A:
        xs, h, *params = alike(xs, self.h if self.stateful else None, *self.params)
        hs, self.h, self.cache = fastgate.gru_forward(xs, h, *params, gate_order="zrn", reset="before", update="new")
        return hs

    @in_words_of_the_book
    def backward(self, dhs: A) -> A:
        dxs, self.dh, *gradients = fastgate.gru_backward(as_forward(dhs, self._kept), self._kept)
        self._write(*gradients)
        return dxs


class TimeBiLSTM:
    """Two LSTMs, the first from the first step on, the second from the last step back; hs (N, T, 2H), side by side."""

    def __init__(self, Wx1: A, Wh1: A, b1: A, Wx2: A, Wh2: A, b2: A, stateful: bool = False):
        self.forward_lstm = TimeLSTM(Wx1, Wh1, b1, stateful)
        self.backward_lstm = TimeLSTM(Wx2, Wh2, b2, stateful)
        self.params = self.forward_lstm.params + self.backward_lstm.params
        self.grads = self.forward_lstm.grads + self.backward_lstm.grads

    def forward(self, xs: A) -> A:
        judge("xs", xs, "NTD")
        return np.concatenate((self.forward_lstm.forward(xs), self.backward_lstm.forward(xs[:, ::-1])[:, ::-1]), axis=2)

    def backward(self, dhs: A) -> A:
        judge("dhs", dhs, ("N", "T", "2H"), **{"2H": 2 * len(self.params[1])})
        dh1, dh2 = np.split(dhs, 2, axis=2)
        return self.forward_lstm.backward(dh1) + self.backward_lstm.backward(dh2[:, ::-1])[:, ::-1]
