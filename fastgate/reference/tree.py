"""Recursive cells over trees, node by node.

Nodes 0..M-1 with inputs x (M, D). children[n] lists the children of node n by position, -1 where there is none.

TreeRNN    a = x Wx + Σ_k h_k Wh_k + b
           h = φ(a)
TreeLSTM   a = x Wx + Σ_k h_k Wh_k + b            with Wx_f and b_f once for each child
           i, f_k, o = σ(a_i), σ(a_fk), σ(a_o),  g = tanh(a_g)
           c = i⊙g + Σ_k f_k⊙c_k
           h = o⊙tanh(c)

Wx (D, 4H), blocks i f g o. Wh (K·H, (3 + K)·H): a block of H rows for each position of a child, blocks of columns i f_1 … f_K
g o. A child that is not there counts as h = c = 0. With Wh of H rows alone, all children share it (child-sum: the products of
h_1 + h_2 + … but for f_k, which sees h_k alone). Tai, Socher and Manning (2015), equations 2 to 8 and 9 to 14.
"""

from typing import NamedTuple

import numpy as np

from fastgate.reference.rnn import activated, activation_slope
from fastgate.reference.sequence import sigmoid


class TreeRNNCache(NamedTuple):
    x: np.ndarray
    children: list[list[int]]
    Wx: np.ndarray
    Wh: np.ndarray
    b: np.ndarray | None
    activation: str
    h: np.ndarray


class TreeLSTMCache(NamedTuple):
    x: np.ndarray
    children: list[list[int]]
    Wx: np.ndarray
    Wh: np.ndarray
    b: np.ndarray | None
    h: np.ndarray
    c: np.ndarray
    kept: list[tuple[np.ndarray, ...]]  # of each node: i, f (one row for each child), g, o


def _roots(children):
    below = {k for row in children for k in row}
    return [n for n in range(len(children)) if n not in below]


def _left_of_Wh(h, children, K):
    """What stands left of Wh: the children's states side by side, or their sum."""
    H = h.shape[1]
    if K == 1:
        return sum((h[k] for k in children if k >= 0), np.zeros(H, h.dtype))
    left = np.zeros((K, H), h.dtype)
    for position, k in enumerate(children):
        if k >= 0:
            left[position] = h[k]
    return left.reshape(K * H)


def _pass_on(dleft, dh, children, K):
    """Its gradient, to the children."""
    for position, k in enumerate(children):
        if k >= 0:
            dh[k] += dleft if K == 1 else np.split(dleft, K)[position]


def tree_rnn_forward(x, children, Wx, Wh, b=None, *, activation="tanh"):
    """(h (M, H), cache)."""
    H = Wx.shape[1]
    K, h = len(Wh) // H, np.zeros((len(x), H), x.dtype)

    def visit(n):
        for k in children[n]:
            if k >= 0:
                visit(k)
        a = x[n] @ Wx + _left_of_Wh(h, children[n], K) @ Wh  # 1
        h[n] = activated(a if b is None else a + b, activation)  # 2

    for root in _roots(children):
        visit(root)
    return h, TreeRNNCache(x, children, Wx, Wh, b, activation, h)


def tree_rnn_backward(dh, cache):
    """(dx, dWx, dWh, db), db None where there is no b. dh (M, H)."""
    x, children, Wx, Wh, b, activation, h = cache
    K, dh = len(Wh) // h.shape[1], dh.copy()
    dx, dWx, dWh, db = np.zeros_like(x), np.zeros_like(Wx), np.zeros_like(Wh), np.zeros_like(Wx[0])

    def visit(n):
        da = activation_slope(dh[n], h[n], activation)  # 2
        dx[n] = da @ Wx.T  # 1
        dWx[...] += np.outer(x[n], da)  # 1
        dWh[...] += np.outer(_left_of_Wh(h, children[n], K), da)  # 1
        db[...] += da  # 1
        _pass_on(da @ Wh.T, dh, children[n], K)  # 1
        for k in children[n]:
            if k >= 0:
                visit(k)

    for root in _roots(children):
        visit(root)
    return dx, dWx, dWh, None if b is None else db


def tree_lstm_forward(x, children, Wx, Wh, b=None):
    """(h (M, H), c (M, H), cache)."""
    H = Wx.shape[1] // 4
    K = len(Wh) // H
    h, c = np.zeros((2, len(x), H), x.dtype)
    kept = [()] * len(x)

    def visit(n):
        for k in children[n]:
            if k >= 0:
                visit(k)
        ax = x[n] @ Wx if b is None else x[n] @ Wx + b  # 1
        ah = _left_of_Wh(h, children[n], K) @ Wh  # 2
        i, g, o = sigmoid(ax[:H] + ah[:H]), np.tanh(ax[2 * H : 3 * H] + ah[-2 * H : -H]), sigmoid(ax[3 * H :] + ah[-H:])  # 3
        f = np.zeros((len(children[n]), H), x.dtype)
        c[n] = i * g  # 4
        for position, k in enumerate(children[n]):
            if k >= 0:
                ahf = h[k] @ Wh[:, H : 2 * H] if K == 1 else ah[(1 + position) * H : (2 + position) * H]  # 5
                f[position] = sigmoid(ax[H : 2 * H] + ahf)  # 6
                c[n] += f[position] * c[k]  # 7
        h[n] = o * np.tanh(c[n])  # 8
        kept[n] = (i, f, g, o)

    for root in _roots(children):
        visit(root)
    return h, c, TreeLSTMCache(x, children, Wx, Wh, b, h, c, kept)


def tree_lstm_backward(dh, dc, cache):
    """(dx, dWx, dWh, db), db None where there is no b. dh, dc (M, H)."""
    x, children, Wx, Wh, b, h, c, kept = cache
    H = h.shape[1]
    K, dh, dc = len(Wh) // H, dh.copy(), dc.copy()
    dx, dWx, dWh, db = np.zeros_like(x), np.zeros_like(Wx), np.zeros_like(Wh), np.zeros_like(Wx[0])

    def visit(n):
        i, f, g, o = kept[n]
        do = dh[n] * np.tanh(c[n])  # 8
        dc[n] += dh[n] * o * (1 - np.tanh(c[n]) ** 2)  # 8
        dax, dah = np.zeros(4 * H, x.dtype), np.zeros(Wh.shape[1], x.dtype)
        for position, k in enumerate(children[n]):
            if k >= 0:
                daf = dc[n] * c[k] * f[position] * (1 - f[position])  # 7, 6
                dc[k] += dc[n] * f[position]  # 7
                dax[H : 2 * H] += daf  # 6
                if K == 1:
                    dh[k] += daf @ Wh[:, H : 2 * H].T  # 5
                    dWh[:, H : 2 * H] += np.outer(h[k], daf)  # 5
                else:
                    dah[(1 + position) * H : (2 + position) * H] = daf  # 5
        dax[:H] = dah[:H] = dc[n] * g * i * (1 - i)  # 4, 3
        dax[2 * H : 3 * H] = dah[-2 * H : -H] = dc[n] * i * (1 - g**2)  # 4, 3
        dax[3 * H :] = dah[-H:] = do * o * (1 - o)  # 3
        dWh[...] += np.outer(_left_of_Wh(h, children[n], K), dah)  # 2
        _pass_on(dah @ Wh.T, dh, children[n], K)  # 2
        dx[n] = dax @ Wx.T  # 1
        dWx[...] += np.outer(x[n], dax)  # 1
        db[...] += dax  # 1
        for k in children[n]:
            if k >= 0:
                visit(k)

    for root in _roots(children):
        visit(root)
    return dx, dWx, dWh, None if b is None else db
