"""The operators LSTM, GRU and RNN with any of ONNX's functions and with clip, in NumPy: slow, for what no kernel computes.

Equations and functions as the text of the operators has them (https://onnx.ai/onnx/operators); a is the input of a function,
and clip bounds it. Of an LSTM, clip does not bound the input of the last function, h. Judged as a call of a kernel is, and run
over time by fastgate.reference.sequence. A row's result may differ in its last bits with the batch that it is in, as NumPy's
products do.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from fastgate import _arguments
from fastgate.compat._onnx_node import OPERATORS
from fastgate.reference import gru, lstm, rnn, sequence
from fastgate.reference.sequence import sigmoid

# name -> f(a, alpha, beta)
FUNCTIONS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "relu": lambda a, alpha, beta: np.maximum(a, 0),
    "tanh": lambda a, alpha, beta: np.tanh(a),
    "sigmoid": lambda a, alpha, beta: sigmoid(a),
    "affine": lambda a, alpha, beta: alpha * a + beta,
    "leakyrelu": lambda a, alpha, beta: np.where(a >= 0, a, alpha * a),
    "thresholdedrelu": lambda a, alpha, beta: np.where(a < alpha, a.dtype.type(0), a),
    "scaledtanh": lambda a, alpha, beta: alpha * np.tanh(beta * a),
    "hardsigmoid": lambda a, alpha, beta: np.clip(alpha * a + beta, 0, 1),
    "elu": lambda a, alpha, beta: np.where(a >= 0, a, alpha * np.expm1(np.minimum(a, 0))),
    "softsign": lambda a, alpha, beta: a / (1 + np.abs(a)),
    "softplus": lambda a, alpha, beta: np.logaddexp(a, a.dtype.type(0)),
}


def _apply(direction, k, a, clipped=True):
    """Function k of a direction, of a."""
    name, alpha, beta = direction.functions[k]
    if clipped and direction.clip is not None:
        a = np.clip(a, -direction.clip, direction.clip)
    return FUNCTIONS[name](a, alpha, beta)


def _rnn(x, states, W, direction):
    (h_prev,) = states
    h = _apply(direction, 0, x @ W.Wx + h_prev @ W.Wh + W.b + W.bh)
    return (h,), None


def _gru(x, states, W, direction):
    (h_prev,) = states
    H = h_prev.shape[1]
    ax, ah = x @ W.Wx + W.b, h_prev @ W.Wh[:, : 2 * H] + W.bh[: 2 * H]
    r, z = _apply(direction, 0, ax[:, :H] + ah[:, :H]), _apply(direction, 0, ax[:, H : 2 * H] + ah[:, H:])
    Whn, bhn = W.Wh[:, 2 * H :], W.bh[2 * H :]
    ahn = r * (h_prev @ Whn + bhn) if direction.linear_before_reset else (r * h_prev) @ Whn + bhn
    n = _apply(direction, 1, ax[:, 2 * H :] + ahn)
    return ((1 - z) * n + z * h_prev,), None


def _lstm(x, states, W, direction):
    h_prev, c_prev = states
    a_i, a_f, a_g, a_o = np.split(x @ W.Wx + h_prev @ W.Wh + W.b + W.bh, 4, axis=1)
    p_i, p_f, p_o = (0, 0, 0) if W.peephole is None else np.split(W.peephole, 3)
    i, g = _apply(direction, 0, a_i + p_i * c_prev), _apply(direction, 1, a_g)
    f = 1 - i if direction.input_forget else _apply(direction, 0, a_f + p_f * c_prev)
    c = f * c_prev + i * g
    o = _apply(direction, 0, a_o + p_o * c)
    return (o * _apply(direction, 2, c, clipped=False), c), None


_CELLS = {"RNN": (_rnn, rnn), "GRU": (_gru, gru), "LSTM": (_lstm, lstm)}


def forward(
    op_type, direction, x, h0, c0=None, *, Wx, Wh, b=None, bh=None, peephole=None, lengths, return_sequences, out
) -> None:
    """One direction of a node into `out`. Arguments as those of <cell>_forward, weights with the gates in ONNX' order."""
    operator, (step, cell) = OPERATORS[op_type], _CELLS[op_type]
    call = _arguments.forward(
        operator.cell, x, h0, c0, Wx, Wh, b, bh, step=False, gates=cell.GATES, has_c=op_type == "LSTM",
        gate_order=operator.gates or None, lengths=lengths, reverse=direction.reverse, training=False,
        return_sequences=return_sequences, out=out, peephole=peephole,
    )  # fmt: skip
    with np.errstate(all="ignore"):  # as silent as the kernels
        h, states, _ = sequence.forward(call, sequence.Cell(step, None, direction))
    for name, found in zip(("h", "h_T", "c_T"), (h, *states), strict=False):
        if found is not None:
            sequence.placed(call, name, found)
