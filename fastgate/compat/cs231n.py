"""The functions of rnn_layers.py, assignment 3 of the Stanford course CS231n: its names, signatures and conventions.

    from fastgate.compat.cs231n import *        # below or instead of: from cs231n.rnn_layers import *

Axes batch first: x (N, T, D), h (N, T, H). Weights multiply from the right: x @ Wx, Wx (D, H) or (D, 4H), Wh (H, H) or
(H, 4H). Gate order of the LSTM "ifog". A cache is opaque and goes to the backward function of the same name; it refers to x
and the weights: write into them after backward, not before.

float32 and float64. Arrays of different dtypes meet in their common one, as in NumPy's operators; upstream gradients are taken
in the dtype of their forward call. Errors: ValueError and TypeError beginning with the name of the argument, before anything
is computed. Inputs are never written.

Source: CS231n, "Convolutional Neural Networks for Visual Recognition", assignment 3, cs231n/rnn_layers.py.
"""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

import fastgate
from fastgate.compat import _shared
from fastgate.compat._shared import Kept, alike, as_forward, in_words_of, kept_by

__all__ = [
    "rnn_step_forward", "rnn_step_backward", "rnn_forward", "rnn_backward",
    "lstm_step_forward", "lstm_step_backward", "lstm_forward", "lstm_backward",
    "word_embedding_forward", "word_embedding_backward", "temporal_affine_forward", "temporal_affine_backward",
    "temporal_softmax_loss",
]  # fmt: skip

A: TypeAlias = NDArray[Any]
GATES = "ifog"

in_words_of_the_course = in_words_of(h_prev="prev_h", c_prev="prev_c", dh_next="dnext_h", dc_next="dnext_c")


@in_words_of_the_course
def rnn_step_forward(x: A, prev_h: A, Wx: A, Wh: A, b: A) -> tuple[A, Any]:
    """One step of the tanh RNN: next_h = tanh(x Wx + prev_h Wh + b); returns (next_h, cache).

    x (N, D), prev_h (N, H), Wx (D, H), Wh (H, H), b (H,); next_h (N, H).
    """
    return fastgate.rnn_step_forward(*alike(x=x, prev_h=prev_h, Wx=Wx, Wh=Wh, b=b))


@in_words_of_the_course
def rnn_step_backward(dnext_h: A, cache: Any) -> tuple[A, A, A, A, A]:
    """The gradients of rnn_step_forward: dnext_h (N, H) gives (dx, dprev_h, dWx, dWh, db)."""
    dx, dprev_h, dWx, dWh, db = fastgate.rnn_step_backward(as_forward(dnext_h, cache), cache)
    return dx, dprev_h, dWx, dWh, db


def rnn_forward(x: A, h0: A, Wx: A, Wh: A, b: A) -> tuple[A, Any]:
    """The tanh RNN over sequences; returns (h, cache).

    x (N, T, D), h0 (N, H), Wx (D, H), Wh (H, H), b (H,); h (N, T, H).
    """
    h, _, cache = fastgate.rnn_forward(*alike(x=x, h0=h0, Wx=Wx, Wh=Wh, b=b))
    return h, cache


def rnn_backward(dh: A, cache: Any) -> tuple[A, A, A, A, A]:
    """The gradients of rnn_forward: dh (N, T, H), of the loss by each h alone, gives (dx, dh0, dWx, dWh, db)."""
    dx, dh0, dWx, dWh, db = fastgate.rnn_backward(as_forward(dh, cache), cache)
    return dx, dh0, dWx, dWh, db


@in_words_of_the_course
def lstm_step_forward(x: A, prev_h: A, prev_c: A, Wx: A, Wh: A, b: A) -> tuple[A, A, Any]:
    """One step of the LSTM; returns (next_h, next_c, cache).

        i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o); g = tanh(a_g)      a = x Wx + prev_h Wh + b, blocks i f o g
        next_c = f * prev_c + i * g; next_h = o * tanh(next_c)

    x (N, D), prev_h and prev_c (N, H), Wx (D, 4H), Wh (H, 4H), b (4H,); next_h and next_c (N, H).
    """
    given = alike(x=x, prev_h=prev_h, prev_c=prev_c, Wx=Wx, Wh=Wh, b=b)
    return fastgate.lstm_step_forward(*given, gate_order=GATES)


@in_words_of_the_course
def lstm_step_backward(dnext_h: A, dnext_c: A, cache: Any) -> tuple[A, A, A, A, A, A]:
    """The gradients of lstm_step_forward: dnext_h, dnext_c (N, H) give (dx, dprev_h, dprev_c, dWx, dWh, db)."""
    dx, dprev_h, dprev_c, dWx, dWh, db = fastgate.lstm_step_backward(
        as_forward(dnext_h, cache), as_forward(dnext_c, cache), cache
    )
    return dx, dprev_h, dprev_c, dWx, dWh, db


def lstm_forward(x: A, h0: A, Wx: A, Wh: A, b: A) -> tuple[A, Any]:
    """The LSTM over sequences, its cell state beginning with zeros; returns (h, cache).

    x (N, T, D), h0 (N, H), Wx (D, 4H), Wh (H, 4H), b (4H,); h (N, T, H). Equations as in lstm_step_forward.
    """
    x, h0, *weights = alike(x=x, h0=h0, Wx=Wx, Wh=Wh, b=b)
    h, _, _, cache = fastgate.lstm_forward(x, h0, None, *weights, gate_order=GATES)
    return h, cache


def lstm_backward(dh: A, cache: Any) -> tuple[A, A, A, A, A]:
    """The gradients of lstm_forward: dh (N, T, H), of the loss by each h alone, gives (dx, dh0, dWx, dWh, db)."""
    dx, dh0, _, dWx, dWh, db = fastgate.lstm_backward(as_forward(dh, cache), cache, need=("dx", "dh0", "dWx", "dWh", "db"))
    return dx, dh0, dWx, dWh, db


def word_embedding_forward(x: A, W: A) -> tuple[A, Any]:
    """Rows of W (V, D) for the integers 0..V-1 in x (N, T), or of any shape; returns (out (N, T, D), cache)."""
    return _shared.rows(x, W), Kept("word_embedding_forward", x, W)


def word_embedding_backward(dout: A, cache: Any) -> A:
    """The gradient of word_embedding_forward: dout (N, T, D) gives dW (V, D), the rows of a repeated word summed."""
    return _shared.add_rows(dout, *kept_by("word_embedding_forward", cache))


@in_words_of(W="w")
def temporal_affine_forward(x: A, w: A, b: A) -> tuple[A, Any]:
    """An affine map of every step: out = x w + b; x (N, T, D), w (D, M), b (M,); returns (out (N, T, M), cache)."""
    return _shared.affine_forward(x, w, b), Kept("temporal_affine_forward", x, w)


def temporal_affine_backward(dout: A, cache: Any) -> tuple[A, A, A]:
    """The gradients of temporal_affine_forward: dout (N, T, M) gives (dx, dw, db)."""
    return _shared.affine_backward(dout, *kept_by("temporal_affine_forward", cache))


@in_words_of(o="x", K="V")
def temporal_softmax_loss(x: A, y: A, mask: A, verbose: bool = False) -> tuple[float, A]:
    """The cross-entropy of softmax(x) and the classes y where mask is true, summed over all steps and divided by N.

    x (N, T, V) scores, y (N, T) integers 0..V-1, mask (N, T) bools or weights >= 0; where it is 0 a step counts nothing and
    its x and y may be anything. Returns (loss, dx), dx (N, T, V); the loss is 0 for N = 0. verbose prints a line, as the
    course's does.
    """
    _shared.judge("x", x, "NTV")
    N, T, V = x.shape
    mask = np.asarray(mask)
    loss, dx = fastgate.softmax_cross_entropy(x, y, mask.astype(x.dtype) if mask.dtype.kind in "iuf" else mask)
    if verbose:
        print("dx_flat: ", (N * T, V))
    dx /= max(N, 1)
    return loss / max(N, 1), dx
