"""What the tests of adapters share: sizes, dtypes, and recurrent nets as plain loops, in the conventions of any source.

Each takes x (N, T, D), the first states (N, H) and weights, gates in the order of `order`, and returns h (N, T, H), the last
states, and a function of dh (N, T, H), for lstm also of dc_T, that returns (dx, dh0[, dc0], dWx, dWh, db).

rnn     h = tanh(x Wx + h Wh + b)
lstm    i f g o
gru     z r n; the reset gate before the product, z the share of the new state
"""

import numpy as np
import pytest

# (N, T, D, H)
SIZES = [
    (3, 5, 4, 6), (1, 1, 1, 1), (1, 9, 7, 8), (2, 1, 17, 9), (7, 3, 8, 15), (4, 2, 31, 16), (5, 4, 3, 17), (2, 3, 9, 31),
    (9, 2, 16, 33),
]  # fmt: skip
sizes = pytest.mark.parametrize("size", SIZES, ids=str)
dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])


def assert_close(found, expected, name=""):
    """As near as the dtype of `found` knows: 1e-10 of the largest value in float64, 64 units of rounding in float32."""
    assert found.shape == expected.shape, name
    limit = 1e-10 if found.dtype == np.float64 else 64 * np.finfo(np.float32).eps
    assert np.abs(found - expected).max(initial=0) <= limit * np.abs(expected).max(initial=1), name


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def rnn(x, h, Wx, Wh, b):
    states = [h]
    for x_t in x.swapaxes(0, 1):
        states.append(np.tanh(x_t @ Wx + states[-1] @ Wh + b))

    def step_back(t, dh):
        da = dh * (1 - states[t + 1] ** 2)
        return (da @ Wh.T,), da, states[t]

    return _steps(x, states), states[-1], lambda dh: _backward(dh, (np.zeros_like(h),), x, Wx, Wh, b, step_back)


def lstm(x, h, c, Wx, Wh, b, order):
    states, cells, gates = [h], [c], []
    for x_t in x.swapaxes(0, 1):
        a = dict(zip(order, np.split(x_t @ Wx + states[-1] @ Wh + b, 4, axis=1), strict=True))
        k = {gate: (np.tanh if gate == "g" else sigmoid)(a[gate]) for gate in order}
        cells.append(k["f"] * cells[-1] + k["i"] * k["g"])
        states.append(k["o"] * np.tanh(cells[-1]))
        gates.append(k)

    def step_back(t, dh, dc):
        k, tanh_c = gates[t], np.tanh(cells[t + 1])
        dc = dc + dh * k["o"] * (1 - tanh_c**2)
        dk = {"i": dc * k["g"], "f": dc * cells[t], "g": dc * k["i"], "o": dh * tanh_c}
        slope = {gate: 1 - k[gate] ** 2 if gate == "g" else k[gate] * (1 - k[gate]) for gate in order}
        da = np.hstack([dk[gate] * slope[gate] for gate in order])
        return (da @ Wh.T, dc * k["f"]), da, states[t]

    def backward(dh, dc_T=0):
        return _backward(dh, (np.zeros_like(h), np.zeros_like(c) + dc_T), x, Wx, Wh, b, step_back)

    return _steps(x, states), states[-1], cells[-1], backward


def gru(x, h, Wx, Wh, b, order):
    H = h.shape[1]
    block = {gate: slice(k * H, (k + 1) * H) for k, gate in enumerate(order)}
    states, gates = [h], []
    for x_t in x.swapaxes(0, 1):
        h = states[-1]
        z, r = (sigmoid(x_t @ Wx[:, block[gate]] + h @ Wh[:, block[gate]] + b[block[gate]]) for gate in "zr")
        n = np.tanh(x_t @ Wx[:, block["n"]] + (r * h) @ Wh[:, block["n"]] + b[block["n"]])
        states.append((1 - z) * h + z * n)
        gates.append((z, r, n))

    def backward(dh):
        dx, dh_next = np.empty_like(x), np.zeros_like(states[0])
        dWx, dWh, db = np.zeros_like(Wx), np.zeros_like(Wh), np.zeros_like(b)
        for t in reversed(range(x.shape[1])):
            (z, r, n), h = gates[t], states[t]
            d = dh[:, t] + dh_next
            da = {"n": d * z * (1 - n**2), "z": d * (n - h) * z * (1 - z)}
            drh = da["n"] @ Wh[:, block["n"]].T
            da["r"] = drh * h * r * (1 - r)
            dh_next = d * (1 - z) + drh * r
            for gate in "zr":
                dh_next = dh_next + da[gate] @ Wh[:, block[gate]].T
            dx[:, t] = sum(da[gate] @ Wx[:, block[gate]].T for gate in order)
            for gate in order:
                dWx[:, block[gate]] += x[:, t].T @ da[gate]
                dWh[:, block[gate]] += (r * h if gate == "n" else h).T @ da[gate]
                db[block[gate]] += da[gate].sum(axis=0)
        return dx, dh_next, dWx, dWh, db

    return _steps(x, states), states[-1], backward


def _steps(x, states):
    return np.stack(states[1:], axis=1) if len(states) > 1 else np.empty((*x.shape[:2], states[0].shape[1]), x.dtype)


def _backward(dh, dstates, x, Wx, Wh, b, step_back):
    """Back over time; step_back(t, dh, …) returns the gradients of the states before, of the pre-activation, and h before."""
    dx, dWx, dWh, db = np.empty_like(x), np.zeros_like(Wx), np.zeros_like(Wh), np.zeros_like(b)
    for t in reversed(range(x.shape[1])):
        dstates, da, h_prev = step_back(t, dh[:, t] + dstates[0], *dstates[1:])
        dx[:, t] = da @ Wx.T
        dWx, dWh, db = dWx + x[:, t].T @ da, dWh + h_prev.T @ da, db + da.sum(axis=0)
    return dx, *dstates, dWx, dWh, db
