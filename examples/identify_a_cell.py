"""Step functions found in the wild: what each computes, and the fastgate call that computes the same.

python examples/identify_a_cell.py

See that gate order, layout and variant are found from numbers alone, and that what fastgate lacks is said plainly.
"""

import numpy as np

from fastgate.check import identify


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def main():
    rng = np.random.default_rng(0)
    D, H = 5, 4

    # Columns, one matrix for [h, x], gates in an order that no comment tells.
    W, b = 0.6 * rng.normal(size=(4 * H, H + D)), rng.normal(size=(4 * H, 1))

    def lstm(xt, a_prev, c_prev):
        f, u, c_tilde, o = np.split(W @ np.concatenate([a_prev, xt]) + b, 4)
        c = sigmoid(f) * c_prev + sigmoid(u) * np.tanh(c_tilde)
        return sigmoid(o) * np.tanh(c), c

    print("An LSTM whose weights are known\n")
    print(identify(lstm, D, H, weights={"W": W, "b": b}), "\n")

    # A GRU from a textbook: where is the reset, and which side does z keep?
    Wx, Wh, bias = 0.6 * rng.normal(size=(D, 3 * H)), 0.6 * rng.normal(size=(H, 3 * H)), rng.normal(size=3 * H)

    def gru(x, h):
        z, r = sigmoid(x @ Wx[:, : 2 * H] + h @ Wh[:, : 2 * H] + bias[: 2 * H]).reshape(-1, 2, H).swapaxes(0, 1)
        candidate = np.tanh(x @ Wx[:, 2 * H :] + (r * h) @ Wh[:, 2 * H :] + bias[2 * H :])
        return (1 - z) * h + z * candidate

    print("A GRU whose weights are known\n")
    print(identify(gru, D, H, weights={"Wx": Wx, "Wh": Wh, "bias": bias}), "\n")
    print("The same GRU as a black box: its weights are read off the outputs\n")
    print(identify(gru, D, H), "\n")

    # As PyTorch's and Keras' users write it: states in a tuple; biases of three gates; h is a projection, half as wide.
    U, biases, Wr = 0.6 * rng.normal(size=(H // 2, 4 * H)), rng.normal(size=(3, H)), rng.normal(size=(H, H // 2))
    V = 0.6 * rng.normal(size=(D, 4 * H))

    def projected(x, state):
        h, c = state
        i, f, o, g = np.split(x @ V + h @ U, 4, axis=1)
        i, f, o = (sigmoid(a + b) for a, b in zip((i, f, o), biases, strict=True))
        c = f * c + i * np.tanh(g)
        h = (o * np.tanh(c)) @ Wr
        return h, (h, c)

    print("An LSTM with a projection\n")
    names = {"V": V, "U": U, "Wr": Wr} | {f"b{k}": b for k, b in enumerate(biases)}
    print(identify(projected, D, H, weights=names), "\n")

    # An echo state network's units forget slowly.
    def leaky(x, h):
        return 0.9 * h + 0.1 * np.tanh(x @ Wx[:, :H] + h @ Wh[:, :H])

    print("Leaky units as a black box\n")
    print(identify(leaky, D, H), "\n")

    def hard(x, h, c):
        a = x @ W[:, H:].T + h @ W[:, :H].T + b.T
        i, f, o = (np.clip(0.2 * a[:, k * H : (k + 1) * H] + 0.5, 0, 1) for k in (0, 1, 3))
        c = f * c + i * np.tanh(a[:, 2 * H : 3 * H])
        return o * np.tanh(c), c

    print("An LSTM with cheaper gates\n")
    print(identify(hard, D, H, weights={"W": W, "b": b}))


if __name__ == "__main__":
    main()
