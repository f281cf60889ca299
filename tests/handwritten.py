"""Recurrent cells as people write them in NumPy, for the tests of fastgate.check.

RIGHT      (name, forward, backward, keywords of certify): correct, each in another style
WRONG      (name, forward, backward, keywords of certify, gradient or result that must be named): each with one mistake
"""

import numpy as np


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


# --- right, in many styles --------------------------------------------------------------------------------------------


def rnn_step_forward(x, prev_h, Wx, Wh, b):
    next_h = np.tanh(x @ Wx + prev_h @ Wh + b)
    return next_h, (x, prev_h, Wx, Wh, next_h)


def rnn_step_backward(dnext_h, cache):
    x, prev_h, Wx, Wh, h = cache
    da = dnext_h * (1 - h**2)
    return da @ Wx.T, da @ Wh.T, x.T @ da, prev_h.T @ da, da.sum(axis=0)


def rnn_forward(x, h0, Wx, Wh, b):
    N, T, _ = x.shape
    h, cache, state = np.zeros((N, T, h0.shape[1])), [], h0
    for t in range(T):
        state, step = rnn_step_forward(x[:, t], state, Wx, Wh, b)
        h[:, t] = state
        cache.append(step)
    return h, cache


def rnn_backward(dh, cache):
    N, T, H = dh.shape
    x, _, Wx, Wh, _ = cache[0]
    dx, dWx, dWh, db = np.zeros((N, T, x.shape[1])), np.zeros_like(Wx), np.zeros_like(Wh), np.zeros(H)
    dnext = np.zeros((N, H))
    for t in reversed(range(T)):
        dx[:, t], dnext, a, b, c = rnn_step_backward(dh[:, t] + dnext, cache[t])
        dWx += a
        dWh += b
        db += c
    return dx, dnext, dWx, dWh, db


def no_gradients(dh, cache):
    """A backward whose return was forgotten."""
    rnn_backward(dh, cache)


def joined_forward(x, h0, c0, W, b):
    """An LSTM with one matrix for [x, h], gates f g i o."""
    steps, hs, h, c = [], [], h0, c0
    for t in range(x.shape[1]):
        u = np.concatenate([x[:, t], h], axis=1)
        f, g, i, o = np.split(u @ W + b, 4, axis=1)
        f, g, i, o = sigmoid(f), np.tanh(g), sigmoid(i), sigmoid(o)
        c_prev, c = c, f * c + i * g
        h = o * np.tanh(c)
        hs.append(h)
        steps.append((u, f, g, i, o, c_prev, c))
    return np.stack(hs, axis=1), h, c, (steps, W, x.shape[2])


def joined_backward(dh, dh_T, dc_T, cache):
    steps, W, D = cache
    dx, dW, db, dnext, dc = [], np.zeros_like(W), np.zeros(W.shape[1]), dh_T, dc_T
    for t in reversed(range(len(steps))):
        u, f, g, i, o, c_prev, c = steps[t]
        d = dh[:, t] + dnext
        dc = dc + d * o * (1 - np.tanh(c) ** 2)
        da = np.concatenate(
            [dc * c_prev * f * (1 - f), dc * i * (1 - g * g), dc * g * i * (1 - i), d * np.tanh(c) * o * (1 - o)], axis=1
        )
        dW += u.T @ da
        db += da.sum(axis=0)
        du = da @ W.T
        dx.insert(0, du[:, :D])
        dnext, dc = du[:, D:], dc * f
    return np.stack(dx, axis=1), dnext, dc, dW, db


def column_forward(xt, a_prev, c_prev, W, b):
    """One LSTM step on columns: xt (D, N), W (4H, D + H), gates f i c o."""
    u = np.vstack([xt, a_prev])
    f, i, cc, o = np.split(W @ u + b, 4)
    f, i, cc, o = sigmoid(f), sigmoid(i), np.tanh(cc), sigmoid(o)
    c_next = f * c_prev + i * cc
    return o * np.tanh(c_next), c_next, (u, f, i, cc, o, c_prev, c_next, W, len(xt))


def column_backward(da_next, dc_next, cache):
    u, f, i, cc, o, c_prev, c, W, D = cache
    dc = dc_next + da_next * o * (1 - np.tanh(c) ** 2)
    d = np.vstack([dc * c_prev * f * (1 - f), dc * cc * i * (1 - i), dc * i * (1 - cc**2), da_next * np.tanh(c) * o * (1 - o)])
    du = W.T @ d
    return du[:D], du[D:], dc * f, d @ u.T, d.sum(axis=1, keepdims=True)


def listed_forward(xs, hprev, Wxh, Whh, bh):
    """A plain RNN over a list of (N, D) arrays."""
    hs = {-1: hprev}
    for t, x in enumerate(xs):
        hs[t] = np.tanh(x @ Wxh + hs[t - 1] @ Whh + bh)
    return [hs[t] for t in range(len(xs))], (xs, hs, Wxh, Whh)


def listed_backward(dhs, cache):
    xs, hs, Wxh, Whh = cache
    dxs, dWxh, dWhh, dbh = [None] * len(xs), np.zeros_like(Wxh), np.zeros_like(Whh), np.zeros(len(Whh))
    dhnext = np.zeros_like(hs[0])
    for t in reversed(range(len(xs))):
        draw = (dhs[t] + dhnext) * (1 - hs[t] ** 2)
        dbh += draw.sum(0)
        dWxh += xs[t].T @ draw
        dWhh += hs[t - 1].T @ draw
        dxs[t], dhnext = draw @ Wxh.T, draw @ Whh.T
    return dxs, dhnext, dWxh, dWhh, dbh


def einsum_forward(x, h0, Wx, Wh, b, bh):
    """A GRU, reset after, weights (3, D, H) in r z n."""
    a = np.einsum("ntd,gdh->gtnh", x, Wx) + b[:, None, None]
    h, kept = h0, []
    for t in range(x.shape[1]):
        ah = np.einsum("nk,gkh->gnh", h, Wh) + bh[:, None]
        r, z = sigmoid(a[0, t] + ah[0]), sigmoid(a[1, t] + ah[1])
        n = np.tanh(a[2, t] + r * ah[2])
        kept.append((h, r, z, n, ah[2]))
        h = n + z * (h - n)
    return np.stack([k[0] for k in kept[1:]] + [h], axis=1), h, (x, Wx, Wh, kept)


def einsum_backward(dh, cache, dh_T=None):
    x, Wx, Wh, kept = cache
    d = np.zeros_like(kept[0][0]) if dh_T is None else dh_T.copy()
    dax, dah = np.zeros((3, x.shape[1], *d.shape)), np.zeros((3, x.shape[1], *d.shape))
    for t in reversed(range(x.shape[1])):
        h, r, z, n, q = kept[t]
        d += dh[:, t]
        dn = d * (1 - z) * (1 - n * n)
        dax[:, t] = dn * q * r * (1 - r), d * (h - n) * z * (1 - z), dn
        dah[:, t] = dax[0, t], dax[1, t], dn * r
        d = d * z + np.einsum("gnh,gkh->nk", dah[:, t], Wh)
    states = np.stack([k[0] for k in kept])
    return {
        "dx": np.einsum("gtnh,gdh->ntd", dax, Wx), "dh0": d,
        "dWx": np.einsum("ntd,gtnh->gdh", x, dax), "dWh": np.einsum("tnk,gtnh->gkh", states, dah),
        "db": dax.sum(axis=(1, 2)), "dbh": dah.sum(axis=(1, 2)),
    }  # fmt: skip


class CellWithState:
    """A GRU, reset before, time first, as a class that keeps what it needs; gates z r h."""

    def __init__(self, Wx, Wh, b):
        self.Wx, self.Wh, self.b = Wx, Wh, b

    def forward(self, x, h):
        H, self.steps, hs = h.shape[1], [], []
        Wz, Wr, Wn = np.split(self.Wh, 3, axis=1)
        for x_t in x:
            a = x_t @ self.Wx + self.b
            z, r = sigmoid(a[:, :H] + h @ Wz), sigmoid(a[:, H : 2 * H] + h @ Wr)
            n = np.tanh(a[:, 2 * H :] + (r * h) @ Wn)
            self.steps.append((x_t, h, z, r, n))
            h = (1 - z) * h + z * n
            hs.append(h)
        return np.array(hs)

    def backward(self, dh):
        Wz, Wr, Wn = np.split(self.Wh, 3, axis=1)
        self.dWx, self.dWh, self.db = np.zeros_like(self.Wx), np.zeros_like(self.Wh), np.zeros_like(self.b)
        dx, d = np.zeros((*dh.shape[:2], len(self.Wx))), np.zeros_like(dh[0])
        for t in reversed(range(len(dh))):
            x_t, h, z, r, n = self.steps[t]
            d = d + dh[t]
            da_n = d * z * (1 - n**2)
            dq = da_n @ Wn.T
            da_z, da_r = d * (n - h) * z * (1 - z), dq * h * r * (1 - r)
            da = np.hstack([da_z, da_r, da_n])
            self.dWx += x_t.T @ da
            self.dWh += np.hstack([h.T @ da_z, h.T @ da_r, (r * h).T @ da_n])
            self.db += da.sum(axis=0)
            dx[t] = da @ self.Wx.T
            d = d * (1 - z) + dq * r + da_z @ Wz.T + da_r @ Wr.T
        self.dh0 = d
        return dx


def class_forward(x, h0, Wx, Wh, b):
    cell = CellWithState(Wx, Wh, b)
    return cell.forward(x, h0), cell


def class_backward(dh, cell):
    return cell.backward(dh), cell.dh0, cell.dWx, cell.dWh, cell.db


def dict_forward(params, x, h0):
    h, cache = rnn_forward(x, h0, params["U"], params["V"], params["bias"])
    return cache, h


def dict_backward(dout, cache):
    dx, dh0, dWx, dWh, db = rnn_backward(dout, cache)
    return dx, dh0, {"U": dWx, "V": dWh, "bias": db}


def ragged_forward(x, h0, Wx, Wh, b, mask):
    """A plain RNN with a mask (N, T): a finished row keeps its state, its outputs are 0."""
    h, kept, hs = h0, [], []
    for t in range(x.shape[1]):
        m = mask[:, t : t + 1]
        n = np.tanh(x[:, t] @ Wx + h @ Wh + b)
        kept.append((h, n, m))
        h = np.where(m > 0, n, h)
        hs.append(m * h)
    return np.stack(hs, axis=1), h, (x, Wx, Wh, kept)


def ragged_backward(dh, dlast, cache):
    x, Wx, Wh, kept = cache
    dx, dWx, dWh, db, d = np.zeros_like(x), np.zeros_like(Wx), np.zeros_like(Wh), np.zeros(len(Wh)), dlast
    for t in reversed(range(len(kept))):
        h, n, m = kept[t]
        d = d + m * dh[:, t]
        da = m * d * (1 - n**2)
        dx[:, t] = da @ Wx.T
        dWx, dWh, db = dWx + x[:, t].T @ da, dWh + h.T @ da, db + da.sum(axis=0)
        d = (1 - m) * d + da @ Wh.T
    return dx, d, dWx, dWh, db


def vector_forward(x, h, Wx, Wh, b):
    """A plain relu RNN over one sequence: x (T, D), Wx (H, D)."""
    hs, kept = [], []
    for x_t in x:
        kept.append((x_t, h))
        h = np.maximum(Wx @ x_t + Wh @ h + b, 0)
        hs.append(h)
    return np.array(hs), (kept, hs, Wx, Wh)


def vector_backward(dh, cache):
    kept, hs, Wx, Wh = cache
    dx, dWx, dWh, db, d = np.zeros((len(dh), Wx.shape[1])), np.zeros_like(Wx), np.zeros_like(Wh), np.zeros(len(Wh)), 0
    for t in reversed(range(len(dh))):
        x_t, h = kept[t]
        da = (dh[t] + d) * (hs[t] > 0)
        dx[t], d = Wx.T @ da, Wh.T @ da
        dWx, dWh, db = dWx + np.outer(da, x_t), dWh + np.outer(da, h), db + da
    return dx, d, dWx, dWh, db


# --- an LSTM and a GRU, each with one mistake at a time ---------------------------------------------------------------


def lstm_pair(mistake=None):
    """Whole sequences, gates i f g o, with peepholes (3H,) in the order i f o."""

    def forward(x, h0, c0, Wx, Wh, b, peephole):
        p_i, p_f, p_o = np.split(peephole, 3)
        if mistake == "float32 inside":
            Wx, Wh = Wx.astype(np.float32), Wh.astype(np.float32)
            x, h0 = x.astype(np.float32), h0.astype(np.float32)
        h, c, steps, hs = h0, c0, [], []
        for t in range(x.shape[1]):
            a = x[:, t] @ Wx + h @ Wh + b
            a_i, a_f, a_g, a_o = np.split(a, 4, axis=1)
            i, f, g = sigmoid(a_i + p_i * c), sigmoid(a_f + p_f * c), np.tanh(a_g)
            h_prev, c_prev = h, c
            if mistake == "state aliasing":
                c *= f
                c += i * g
            else:
                c = f * c + i * g
            o = sigmoid(a_o + p_o * c)
            h = o * np.tanh(c)
            steps.append((h_prev, c_prev, i, f, g, o, c, a_g))
            hs.append(h)
        return np.stack(hs, axis=1), h, c, (x, Wx, Wh, peephole, steps)

    def backward(dh, cache, dh_T, dc_T):
        x, Wx, Wh, peephole, steps = cache
        p_i, p_f, p_o = np.split(peephole, 3)
        N, T, H = dh.shape
        dx, dWx, dWh = np.zeros_like(x), np.zeros_like(Wx), np.zeros_like(Wh)
        db, dp = np.zeros(4 * H), np.zeros(3 * H)
        d, dc = dh_T.copy(), dc_T.copy()
        if mistake == "dh_T ignored":
            d[:] = 0
        if mistake == "dc_T ignored":
            dc[:] = 0
        if mistake == "dc_T counted twice":
            dc *= 2
        for t in reversed(range(1 if mistake == "first step left out" else 0, T)):
            h_prev, c_prev, i, f, g, o, c, a_g = steps[t]
            if mistake == "dh only added at the last step":
                d = d + dh[:, t] if t == T - 1 else d
            elif mistake == "dh written over the recurrent gradient":
                d = dh[:, t]
            else:
                d = d + dh[:, t]
            do = d * np.tanh(c) * (o if mistake == "sigmoid' of o without (1 - o)" else o * (1 - o))
            through = a_g if mistake == "tanh' from the pre-activation" else g
            if mistake == "tanh(c) not differentiated":
                dc = dc + d * o + do * p_o
            else:
                dc = dc + d * o * (1 - np.tanh(c) ** 2) + (0 if mistake == "o's peephole not in dc" else do * p_o)
            di, dg = dc * g * i * (1 - i), dc * i * (1 - through**2)
            df = dc * (c if mistake == "forget gate with the new c" else c_prev) * f * (1 - f)
            gates = [di, df, do, dg] if mistake == "gates swapped" else [di, df, dg, do]
            da = np.concatenate(gates, axis=1)
            if mistake == "mean over the batch":
                da = da / N
            dx[:, t] = da @ Wx.T
            dWx += x[:, t].T @ da
            dWh += (steps[t][6] if mistake == "dWh with c" else h_prev).T @ da
            if mistake == "db overwritten at every step":
                db = da.sum(axis=0)
            elif mistake == "db summed over the wrong axis":
                db = db.reshape(-1)[:N] + da.sum(axis=1)
            else:
                db += da.sum(axis=0)
            if not (mistake == "peephole term missing at t = 0" and t == 0):
                dp += np.concatenate([(di * c_prev).sum(0), (df * c_prev).sum(0), (do * c).sum(0)])
            d = da @ Wh.T
            dc = dc * f + (0 if mistake == "peepholes not in dc_prev" else di * p_i + df * p_f)
        if mistake == "weights added to the weight gradient":
            dWx += 0.1 * Wx
        if mistake == "dWh transposed":
            dWh = dWh.T
        if mistake == "clipped":
            dWx = np.clip(dWx, -1, 1)
        if mistake == "dx left out":
            dx[:] = 0
        if mistake == "sign of dWx":
            dWx = -dWx
        if mistake == "rounded to float32 on the way back":
            dWh = dWh.astype(np.float32).astype(np.float64)
        return dx, d, dc, dWx, dWh, db, dp

    return forward, backward


def gru_pair(mistake=None):
    """Whole sequences, gates r z n, reset after."""

    def forward(x, h0, Wx, Wh, b, bh):
        H, h, steps, hs = h0.shape[1], h0, [], []
        for t in range(x.shape[1]):
            ax, ah = x[:, t] @ Wx + b, h @ Wh + bh
            r, z = sigmoid(ax[:, :H] + ah[:, :H]), sigmoid(ax[:, H : 2 * H] + ah[:, H : 2 * H])
            q = ah[:, 2 * H :]
            n = np.tanh(ax[:, 2 * H :] + r * q)
            steps.append((h, r, z, n, q))
            h = (1 - z) * n + z * h
            hs.append(h)
        return np.stack(hs, axis=1), (x, Wx, Wh, steps)

    def backward(dh, cache):
        x, Wx, Wh, steps = cache
        dx, dWx, dWh, d = np.zeros_like(x), np.zeros_like(Wx), np.zeros_like(Wh), 0
        db, dbh = np.zeros(Wx.shape[1]), np.zeros(Wx.shape[1])
        for t in reversed(range(dh.shape[1])):
            h, r, z, n, q = steps[t]
            d = d + dh[:, t]
            dn = d * (1 if mistake == "(1 - z) forgotten" else 1 - z) * (1 - n**2)
            dz = d * ((n - h) if mistake == "sign of dz" else (h - n)) * z * (1 - z)
            dr = dn * (1 if mistake == "dr without the product" else q) * r * (1 - r)
            if mistake == "no gradient through r":
                dr = np.zeros_like(dr)
            dax = np.hstack([dr, dz, dn])
            dah = np.hstack([dr, dz, dn if mistake == "r missing in the recurrent product" else dn * r])
            dx[:, t] = dax @ Wx.T
            dWx, dWh = dWx + x[:, t].T @ dax, dWh + h.T @ dah
            db, dbh = db + dax.sum(0), dbh + dah.sum(0)
            d = dah @ Wh.T + (0 if mistake == "direct path of h_prev missing" else d * z)
        return dx, d, dWx, dWh, db, dbh

    return forward, backward


def in_place_step_backward(dnext_h, dnext_c, cache):
    """dnext_c is updated in place: the caller's array is no longer what it was."""
    u, f, i, cc, o, c_prev, c, W, D = cache
    dnext_c += dnext_h * o * (1 - np.tanh(c) ** 2)
    d = np.vstack([dnext_c * c_prev * f * (1 - f), dnext_c * cc * i * (1 - i), dnext_c * i * (1 - cc**2),
                   dnext_h * np.tanh(c) * o * (1 - o)])  # fmt: skip
    du = W.T @ d
    return du[:D], du[D:], dnext_c * f, d @ u.T, d.sum(axis=1, keepdims=True)


def reused_buffer_pair():
    """The cache holds a buffer that the next step fills with its own numbers."""
    buffer = {}

    def forward(x, prev_h, Wx, Wh, b):
        h = buffer.setdefault(prev_h.shape, np.zeros_like(prev_h))
        h[:] = np.tanh(x @ Wx + prev_h @ Wh + b)
        return h.copy(), (x, prev_h, Wx, Wh, h)

    return forward, rnn_step_backward


def accumulating_pair():
    """The weight gradient is never set to zero between calls."""
    total = {}

    def backward(dh, cache):
        dx, dh0, dWx, dWh, db = rnn_backward(dh, cache)
        total["dWx"] = total.get("dWx", 0) + dWx
        return dx, dh0, total["dWx"], dWh, db

    return rnn_forward, backward


def leaking_pair():
    """The mask is forgotten in backward: the padding gets gradients."""

    def backward(dh, dlast, cache):
        x, Wx, Wh, kept = cache
        return ragged_backward(dh, dlast, (x, Wx, Wh, [(h, n, np.ones_like(m)) for h, n, m in kept]))

    return ragged_forward, backward


RIGHT = [
    ("step by step", rnn_step_forward, rnn_step_backward, {}),
    ("batch first", rnn_forward, rnn_backward, {}),
    ("joined weights", joined_forward, joined_backward, {}),
    ("columns", column_forward, column_backward, {}),
    ("list of steps", listed_forward, listed_backward, {}),
    ("einsum", einsum_forward, einsum_backward, {
        "arguments": {"x": "N T D", "h0": "N H", "Wx": "3 D H", "Wh": "3 H H", "b": "3 H", "bh": "3 H"}, "gates": 3}),
    ("class with state", class_forward, class_backward, {}),
    ("dict of parameters", dict_forward, dict_backward, {
        "arguments": {"params": {"U": "D H", "V": "H H", "bias": "H"}, "x": "N T D", "h0": "N H"}, "outputs": "cache h"}),
    ("ragged by mask", ragged_forward, ragged_backward, {"upstream": {"dlast": "h_T"}}),
    ("one sequence of vectors", vector_forward, vector_backward, {}),
    ("peepholes", *lstm_pair(), {}),
    ("gru", *gru_pair(), {}),
]  # fmt: skip

WRONG = [
    *((f"lstm: {mistake}", *lstm_pair(mistake), {}, what) for mistake, what in {
        "gates swapped": "dWx", "peephole term missing at t = 0": "dpeephole", "weights added to the weight gradient": "dWx",
        "dh only added at the last step": "dWx", "dh written over the recurrent gradient": "dWh", "dh_T ignored": "db",
        "dc_T ignored": "dc0", "dc_T counted twice": "dc0", "db summed over the wrong axis": "db",
        "db overwritten at every step": "db", "tanh' from the pre-activation": "dWx", "tanh(c) not differentiated": "db",
        "o's peephole not in dc": "db", "peepholes not in dc_prev": "dc0", "forget gate with the new c": "dWx",
        "sigmoid' of o without (1 - o)": "dWx", "dWh with c": "dWh", "dWh transposed": "dWh", "first step left out": "dWx",
        "mean over the batch": "db", "clipped": "dWx", "dx left out": "dx", "sign of dWx": "dWx", "float32 inside": "h",
        "rounded to float32 on the way back": "dWh", "state aliasing": "c0",
    }.items()),
    *((f"gru: {mistake}", *gru_pair(mistake), {}, what) for mistake, what in {
        "(1 - z) forgotten": "dWx", "sign of dz": "dWx", "dr without the product": "dWx", "no gradient through r": "dWx",
        "r missing in the recurrent product": "dWh", "direct path of h_prev missing": "dh0",
    }.items()),
    ("dnext_c updated in place", column_forward, in_place_step_backward, {}, "dnext_c"),
    ("cache that a later step overwrites", *reused_buffer_pair(), {}, "dWx"),
    ("gradients that add up over calls", *accumulating_pair(), {}, "dWx"),
    ("padding with gradients", *leaking_pair(), {"upstream": {"dlast": "h_T"}}, "dx"),
]  # fmt: skip


# --- steps of every convention, for identify --------------------------------------------------------------------------

ACTIVATIONS = {
    "tanh": np.tanh, "sigmoid": sigmoid, "relu": lambda a: np.maximum(a, 0), "identity": lambda a: a,
    "softsign": lambda a: a / (1 + np.abs(a)), "hard_sigmoid": lambda a: np.clip(0.2 * a + 0.5, 0, 1),
}  # fmt: skip
LAYOUTS = ("x @ Wx + h @ Wh", "Wx @ x + Wh @ h", "[x, h] @ W", "W @ [x, h]", "[h, x] @ W", "W @ [h, x]")


def weights_in(layout, Wx, Wh):
    """Wx (D, G·H), Wh (H, G·H) as the owner of that layout holds them."""
    if layout == "x @ Wx + h @ Wh":
        return {"Wx": Wx, "Wh": Wh}
    if layout == "Wx @ x + Wh @ h":
        return {"Wx": Wx.T.copy(), "Wh": Wh.T.copy()}
    W = np.concatenate([Wx, Wh] if "[x, h]" in layout else [Wh, Wx])
    return {"W": W if layout.endswith("@ W") else W.T.copy()}


def products(layout, x, h, weights):
    """x's and h's parts of the pre-activations, by the owner's arrays."""
    D = x.shape[1]
    if layout == "x @ Wx + h @ Wh":
        return x @ weights["Wx"], h @ weights["Wh"]
    if layout == "Wx @ x + Wh @ h":
        return (weights["Wx"] @ x.T).T, (weights["Wh"] @ h.T).T
    W = weights["W"] if layout.endswith("@ W") else weights["W"].T
    if "[x, h]" in layout:
        return x @ W[:D], h @ W[D:]
    return x @ W[len(W) - D :], h @ W[: len(W) - D]


def normalised(a, eps):
    return (a - a.mean(axis=1, keepdims=True)) / np.sqrt(a.var(axis=1, keepdims=True) + eps)


def make_step(cell, rng, D, H, *, order=None, layout=LAYOUTS[0], bias="one", on=None, joined=False, reset="after", update="old",
              activation="tanh", peephole=None, coupled=False, cell_clip=None, gates="sigmoid", output="tanh", alpha=None,
              P=None, gains="xh", eps=1e-5, dtype=np.float64):  # fmt: skip
    """(step, weights): a step function closed over random weights, and those by name.

    bias: none, one, two; gru with reset after: "inside" (one, in the product), "apart" (two, the second in the product).
    on: the gates that have the only bias, or the second; as single arrays, or joined in the order of the gates.
    alpha: of leaky; "each" for an array. P: of lstm, the width of h. gains: of *_norm, any of x, h, c, and d for beta_c.
    """
    kind = cell.removesuffix("_norm")
    G, P = {"rnn": 1, "leaky": 1, "memory": 1, "lstm": 4, "gru": 3}[kind], P or H

    def random(*shape, scale):
        return (scale * rng.normal(size=shape)).astype(dtype)

    Wx, Wh = random(D, G * H, scale=1.2 / np.sqrt(D)), random(P, G * H, scale=1.2 / np.sqrt(P))
    weights = weights_in(layout, Wx, Wh)
    if P != H:
        weights["Wr"] = random(H, P, scale=1 / np.sqrt(H))
    vectors = {}
    names = {"none": (), "one": ("b",), "inside": ("b",)}.get(bias, ("b", "bh"))
    for name in names:
        vectors[name] = random(G * H, scale=0.5)
        if on is None or name != names[-1]:
            weights[name] = vectors[name]
            continue
        parts = dict(zip(order, vectors[name].reshape(G, H), strict=True))
        if joined:
            weights[name] = np.concatenate([parts[letter] for letter in order if letter in on])
        else:
            weights |= {f"{name}_{letter}": parts[letter].copy() for letter in on}
        for letter in set(order) - set(on):
            parts[letter][:] = 0
    if peephole:
        weights["p"] = random(3 * H, scale=0.6)
    if cell.endswith("_norm"):
        weights |= {f"gain_{k}": random(G * H, scale=1.0) for k in "xh" if k in gains}
        weights |= {f"gain_{k}": random(H, scale=1.0) for k in "cd" if k in gains}
    if isinstance(alpha, str):
        weights["alpha"] = rng.uniform(0.1, 0.9, H).astype(dtype)
    total = sum(vectors.values(), np.zeros(G * H, dtype))
    gate, phi = ACTIVATIONS[gates], ACTIVATIONS[activation]
    Whn = None
    if kind == "gru":
        at = order.index("n")
        Whn = Wh[:, at * H : (at + 1) * H]

    def parts_of(x, h):
        ax, ah = products(layout, x, h, weights)
        if cell.endswith("_norm"):
            ax, ah = (weights.get(f"gain_{k}", 1) * normalised(a, eps) for k, a in (("x", ax), ("h", ah)))
        return ax, ah

    def rnn(x, h):
        return phi(sum(parts_of(x, h)) + total)

    def leaky(x, h):
        share = weights.get("alpha", alpha)
        return share * h + (1 - share) * rnn(x, h)

    def memory(x, h, c):
        c = c + rnn(x, h)
        return ACTIVATIONS[output](c), c

    def lstm(x, h, c):
        a = dict(zip(order, np.split(sum(parts_of(x, h)) + total, 4, axis=1), strict=True))
        p = dict(zip(peephole, np.split(weights["p"], 3), strict=True)) if peephole else dict.fromkeys("ifo", 0)
        f = gate(a["f"] + p["f"] * c)
        i = 1 - f if coupled else gate(a["i"] + p["i"] * c)
        c = f * c + i * phi(a["g"])
        if cell_clip:
            c = np.clip(c, -cell_clip, cell_clip)
        m = weights["gain_c"] * normalised(c, eps) + weights.get("gain_d", 0) if "gain_c" in weights else c
        h = gate(a["o"] + p["o"] * c) * ACTIVATIONS[output](m)
        return (h @ weights["Wr"] if P != H else h), c

    def gru(x, h):
        ax, ah = parts_of(x, h)
        inside = {"inside": vectors.get("b"), "apart": vectors.get("bh")}.get(bias)
        if inside is not None:
            ax, ah = ax + (total - inside), ah + inside
        else:
            ax = ax + total
        ax, ah = (dict(zip(order, np.split(a, 3, axis=1), strict=True)) for a in (ax, ah))
        r, z = gate(ax["r"] + ah["r"]), gate(ax["z"] + ah["z"])
        n = phi(ax["n"] + (r * ah["n"] if reset == "after" else (r * h) @ Whn))
        return z * n + (1 - z) * h if update == "new" else (1 - z) * n + z * h

    return {"rnn": rnn, "leaky": leaky, "memory": memory, "lstm": lstm, "gru": gru}[kind], weights


STATES = {  # ways of passing states and returning them; the first word is what identify says of the call
    "x, h": lambda step: step,
    "x, (h,)": lambda step: lambda x, state: (lambda h: (h, (h,)))(step(x, state[0])),
    "x, [h]": lambda step: lambda x, states: (lambda h: (h, [h]))(step(x, *states.copy())),
    "x, h, c": lambda step: step,
    "x, h, c -> c, h": lambda step: lambda x, h, c: step(x, h, c)[::-1],
    "x, (h, c)": lambda step: lambda x, state: (lambda h, c: (h, (h, c)))(*step(x, *state)),
    "x, (h, c) -> h, c": lambda step: lambda x, state=None: step(x, *state),
    "x, (h, c) -> y, (h, c), None": lambda step: lambda x, hx: (lambda h, c: (2 * h, (h, c), None))(*step(x, *hx)),
    "x, (h, c) -> dict": lambda step: lambda x, s: (lambda h, c: {"output": h, "state": [h, c]})(*step(x, *s)),
    "x, [h, c]": lambda step: lambda x, states: (lambda h, c: (h, [h, c]))(*step(x, *states.copy())),
    "x, (c, h)": lambda step: lambda x, state: (lambda h, c: (h, (c, h)))(*step(x, state[1], state[0])),
    "(c, h), x": lambda step: lambda carry, x: (lambda h, c: ((c, h), h))(*step(x, carry[1], carry[0])),
    "h, c, x": lambda step: lambda h, c, x: step(x, h, c),
    "c, h, x": lambda step: lambda c, h, x: step(x, h, c),
    "h, x": lambda step: lambda h, x: step(x, h),
    "x, c, h": lambda step: lambda x, cell, hidden: step(x, hidden, cell),
    "x, h, c -> h, c, cache": lambda step: lambda x, h, c: (*step(x, h, c), (x, h, c, *step(x, h, 0 * c))),
}  # fmt: skip
