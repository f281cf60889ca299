"""Attention over the states of an encoder. Neither padding nor the batch counts: sums over a row's states are taken in their
order, or over its own states alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgate.layers import _affine
from fastgate.layers._types import Array
from fastgate.structures._structure import silent

Counts = NDArray[np.int64]


@silent
def summed(a: Array) -> Array:
    """Over axis 1, one by one, so the zeros of padding count as nothing."""
    return a.cumsum(axis=1)[:, -1:].sum(axis=1)


@silent
def softmax(e: Array) -> Array:
    """Along the last axis."""
    a = np.exp(e - e.max(axis=-1, keepdims=True))
    return a / a.sum(axis=-1, keepdims=True)


@silent
def softmax_backward(da: Array, a: Array) -> Array:
    """de from the gradient of a = softmax(e)."""
    return a * (da - (a * da).cumsum(axis=-1)[..., -1:])  # one by one, so the zeros of padding count as nothing


@silent
def dot(h: Array, keys: Array) -> tuple[Array, Array]:
    """The contexts (T, H) and the weights (T, S) of queries h (T, H) over keys (S, H), S > 0."""
    a = softmax(_affine.forward(h, keys.T, training=False)[0])
    return _affine.forward(a, keys, training=False)[0], a


@silent
def dot_backward(dcontext: Array, a: Array, h: Array, keys: Array) -> tuple[Array, Array]:
    """(dh, dkeys) of `dot`."""
    de = softmax_backward(dcontext @ keys.T, a)
    return de @ keys, a.T @ dcontext + de.T @ h


@silent
def additive(q: Array, projected: Array, v: Array, keys: Array, lengths: Counts, active: Any) -> tuple[Array, Array]:
    """The contexts (N, H) and weights (N, S) of queries q (N, A), one for each row: e = v · tanh(q + projected)."""
    S = projected.shape[1]
    context = np.zeros((len(q), keys.shape[2]), q.dtype)
    if S == 0:
        return context, np.zeros((len(q), 0), q.dtype)
    e = _affine.forward(np.tanh(q[:, None] + projected), v[:, None], training=False)[0][..., 0]
    inside = (np.arange(S) < lengths[:, None]) & np.reshape(active, (-1, 1))
    e = np.where(inside, e, -np.inf)
    top = e.max(axis=1, keepdims=True)
    a = np.exp(e - np.where(inside.any(axis=1, keepdims=True), top, 0))
    total = a.cumsum(axis=1)[:, -1:]  # one by one, so the zeros of padding count as nothing
    a /= np.where(total > 0, total, 1)
    for s in range(S):
        context += a[:, s, None] * keys[:, s]
    return context, a


@silent
def additive_backward(
    dcontext: Array, a: Array, q: Array, projected: Array, v: Array, keys: Array
) -> tuple[Array, Array, Array, Array]:
    """(dq, dprojected, dv, dkeys) of `additive`; a is 0 for what took no part."""
    z = np.tanh(q[:, None] + projected)
    de = softmax_backward(np.einsum("nh,nsh->ns", dcontext, keys), a)
    dinner = de[..., None] * v * (1 - z * z)
    return summed(dinner), dinner, np.einsum("ns,nsa->a", de, z), a[..., None] * dcontext[:, None]
