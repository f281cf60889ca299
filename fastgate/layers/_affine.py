"""activation(x W + b) by the core: one step of the plain cell without a state.

So a row of the result has the same bits in any batch and for any number of threads, as everything else has. Its recurrent
weights, zeros, are as wide as the result; the columns go in blocks, which keeps them small whatever the width.
"""

from typing import Any, Literal

import numpy as np

from fastgate.layers._types import Array
from fastgate.rnn import RNNCell, rnn_backward, rnn_forward

_BLOCK = 64
Activation = Literal["tanh", "relu", "sigmoid", "identity"]


def _blocks(K: int) -> list[slice]:
    return [slice(k, min(k + _BLOCK, K)) for k in range(0, K, _BLOCK)]


def _zeros(W: Array, columns: slice) -> Array:
    k = columns.stop - columns.start
    return np.zeros((k, k), W.dtype)


def forward(
    x: Array, W: Array, b: Array | None = None, *, activation: Activation = "identity", training: bool = True
) -> tuple[Array, Any]:
    """(..., K) from x (..., D), W (D, K), b (K,) or None; and what backward needs, None with training=False."""
    rows = x.reshape(-1, 1, x.shape[-1])
    y = np.empty((len(rows), 1, W.shape[1]), x.dtype)
    caches = []
    for columns in _blocks(W.shape[1]):
        found = rnn_forward(
            rows, None, W[:, columns], _zeros(W, columns), None if b is None else b[columns],
            activation=activation, training=training, out=y[..., columns],
        )  # fmt: skip
        caches.append(found.cache)
    return y.reshape(*x.shape[:-1], W.shape[1]), (caches, x.shape) if training else None


def backward(dy: Array, cache: Any, dW: Array | None = None, db: Array | None = None, *, need_dx: bool = True) -> Any:
    """dx, or None with need_dx=False; the gradients of the weights go into dW and db, where these are given."""
    caches, shape = cache
    rows = dy.reshape(-1, 1, dy.shape[-1])
    dx = None
    for columns, kept in zip(_blocks(dy.shape[-1]), caches, strict=True):
        out = {name: a[..., columns] for name, a in (("dWx", dW), ("db", db)) if a is not None}
        need = (*out, *(("dx",) if need_dx else ()))
        if not need:
            continue
        found = rnn_backward(rows[..., columns], kept, need=need, out=out)
        if need_dx:
            dx = found.dx if dx is None else dx + found.dx
    return None if dx is None else dx.reshape(shape)


class Prepared:
    """The same with weights that are copied and packed once, for single steps: prepared(x (N, D)) -> (N, K)."""

    def __init__(self, W: Array, b: Array | None = None):
        self.shape = W.shape
        self._cells = [
            (columns, RNNCell(W[:, columns], _zeros(W, columns), None if b is None else b[columns], activation="identity"))
            for columns in _blocks(W.shape[1])
        ]

    def __call__(self, x: Array) -> Array:
        y = np.empty((len(x), self.shape[1]), x.dtype)
        for columns, cell in self._cells:
            cell.step(x, out=y[:, columns])
        return y
