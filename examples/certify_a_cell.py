"""Hand-written LSTM pairs, one right, four with mistakes that people make: which gradient is wrong, by how much, and why.

python examples/certify_a_cell.py
python -m fastgate certify examples/certify_a_cell.py:forward examples/certify_a_cell.py:backward            the right pair
python -m fastgate certify examples/certify_a_cell.py:forward examples/certify_a_cell.py:backward_swapped    a wrong one

See that every gradient of the right pair agrees with finite differences, and that each mistake is named where it sits.
"""

import numpy as np

from fastgate.check import certify


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def forward(x, h0, c0, Wx, Wh, b, peephole):
    """x (N, T, D), gates i f g o, peepholes (3H,) for i f o."""
    p_i, p_f, p_o = np.split(peephole, 3)
    h, c, steps, hs = h0, c0, [], []
    for t in range(x.shape[1]):
        a_i, a_f, a_g, a_o = np.split(x[:, t] @ Wx + h @ Wh + b, 4, axis=1)
        i, f, g = sigmoid(a_i + p_i * c), sigmoid(a_f + p_f * c), np.tanh(a_g)
        c_next = f * c + i * g
        o = sigmoid(a_o + p_o * c_next)
        steps.append((h, c, i, f, g, o, c_next))
        h, c = o * np.tanh(c_next), c_next
        hs.append(h)
    return np.stack(hs, axis=1), h, c, (x, Wx, Wh, peephole, steps)


def step_backward(d, dc, step, Wh, peephole, swapped=False):
    """The gradients of one step: of the pre-activations, of the peepholes, of h_prev and c_prev."""
    p_i, p_f, p_o = np.split(peephole, 3)
    _, c, i, f, g, o, c_next = step
    do = d * np.tanh(c_next) * o * (1 - o)
    dc = dc + d * o * (1 - np.tanh(c_next) ** 2) + do * p_o
    di, df, dg = dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g**2)
    da = np.hstack([di, df, do, dg] if swapped else [di, df, dg, do])
    dp = np.concatenate([(di * c).sum(0), (df * c).sum(0), (do * c_next).sum(0)])
    return da, dp, da @ Wh.T, dc * f + di * p_i + df * p_f


def backward(dh, cache, dh_T, dc_T, *, swapped=False, skip_first_peephole=False, decay=0.0):
    """The right one; each option is a mistake."""
    x, Wx, Wh, peephole, steps = cache
    dx, dWx, dWh = np.zeros_like(x), decay * Wx, np.zeros_like(Wh)
    db, dpeephole = np.zeros(Wx.shape[1]), np.zeros_like(peephole)
    d, dc = dh_T, dc_T
    for t in reversed(range(len(steps))):
        da, dp, d, dc = step_backward(d + dh[:, t], dc, steps[t], Wh, peephole, swapped)
        dx[:, t] = da @ Wx.T
        dWx += x[:, t].T @ da
        dWh += steps[t][0].T @ da
        db += da.sum(axis=0)
        if t > 0 or not skip_first_peephole:
            dpeephole += dp
    return dx, d, dc, dWx, dWh, db, dpeephole


def backward_swapped(dh, cache, dh_T, dc_T):
    """Wrong: the blocks of g and o have changed places."""
    return backward(dh, cache, dh_T, dc_T, swapped=True)


def backward_without_first_peephole(dh, cache, dh_T, dc_T):
    """Wrong: at t = 0 the peepholes see c0, too."""
    return backward(dh, cache, dh_T, dc_T, skip_first_peephole=True)


def backward_with_decay(dh, cache, dh_T, dc_T):
    """Wrong: a share of the weights is in their gradient."""
    return backward(dh, cache, dh_T, dc_T, decay=0.1)


def one_step(x, h_prev, c_prev, Wx, Wh, b):
    a_i, a_f, a_g, a_o = np.split(x @ Wx + h_prev @ Wh + b, 4, axis=1)
    i, f, g, o = sigmoid(a_i), sigmoid(a_f), np.tanh(a_g), sigmoid(a_o)
    c = f * c_prev + i * g
    return o * np.tanh(c), c, (x, h_prev, c_prev, Wx, Wh, i, f, g, o, c)


def one_step_backward(dnext_h, dnext_c, cache):
    x, h_prev, c_prev, Wx, Wh, i, f, g, o, c = cache
    dnext_c += dnext_h * o * (1 - np.tanh(c) ** 2)  # in place: the caller's array changes
    da = np.hstack([
        dnext_c * g * i * (1 - i), dnext_c * c_prev * f * (1 - f), dnext_c * i * (1 - g**2), dnext_h * np.tanh(c) * o * (1 - o)
    ])  # fmt: skip
    return da @ Wx.T, da @ Wh.T, dnext_c * f, x.T @ da, h_prev.T @ da, da.sum(axis=0)


def main():
    print(certify(forward, backward, gates="ifgo"))
    mistakes = {
        "gates swapped": (forward, backward_swapped),
        "no peephole term at t = 0": (forward, backward_without_first_peephole),
        "weights added to the weight gradient": (forward, backward_with_decay),
        "dnext_c updated in place": (one_step, one_step_backward),
    }
    for mistake, pair in mistakes.items():
        print(f"\n{mistake}:")
        print(certify(*pair, gates="ifgo").summary())


if __name__ == "__main__":
    main()
