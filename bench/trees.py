"""Trees level by level, beside a recursive NumPy loop node by node: `python -m bench.trees`.

python -m bench.trees                     the shapes of SHAPES
python -m bench.trees 128,128             input_size,hidden_size of all layers

A row is one call over a forest: forward without a cache, and forward and backward with all gradients. The recursion is what
one writes by hand for a binary tree: the two children's states side by side, one product for all gates, one sigmoid. Both must
return the same numbers, or it is an error and no row. The topology is judged beforehand, once.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

import fastgate
from fastgate.layers import TreeLSTM, TreeRNN, Trees

from .timer import measure, ratio

SHAPES = [(32, 32), (64, 64), (128, 128)]
LIMIT = 2e-5  # of what the recursion returns, float32, as a share of the largest value


def balanced(trees: int, leaves: int) -> np.ndarray:
    """(M, 2) children of balanced binary trees, one after the other, leaves first; `leaves` a power of 2."""
    one = np.full((2 * leaves - 1, 2), -1)
    one[leaves:] = np.arange(2 * leaves - 2).reshape(-1, 2)
    return np.concatenate([np.where(one < 0, -1, one + n * len(one)) for n in range(trees)])


def random(trees: int, leaves: int, rng: np.random.Generator) -> np.ndarray:
    """The same with two random nodes joined at a time."""
    result = []
    for n in range(trees):
        one, free = np.full((2 * leaves - 1, 2), -1), list(range(leaves))
        for k in range(leaves, len(one)):
            one[k] = [free.pop(rng.integers(len(free))) for _ in range(2)]
            free.append(k)
        result.append(np.where(one < 0, -1, one + n * len(one)))
    return np.concatenate(result)


def caterpillar(trees: int, leaves: int) -> np.ndarray:
    """The deepest binary trees: every inner node joins one leaf to what is below it."""
    one = np.full((2 * leaves - 1, 2), -1)
    one[leaves] = 0, 1
    one[leaves + 1 :] = np.stack([np.arange(leaves, 2 * leaves - 2), np.arange(2, leaves)], axis=1)
    return np.concatenate([np.where(one < 0, -1, one + n * len(one)) for n in range(trees)])


def forests() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "256 balanced trees of 64 leaves": balanced(256, 64),
        "256 random trees of 64 leaves": random(256, 64, rng),
        "1 balanced tree of 64 leaves": balanced(1, 64),
        "1 chain of 64 leaves": caterpillar(1, 64),
    }


def sigmoid(a: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-a))


class Recursion:
    """A binary TreeLSTM or TreeRNN by hand, node by node."""

    def __init__(self, layer: Any, children: np.ndarray):
        self.children = [tuple(row) for row in children.tolist()]
        self.roots = Trees(children).roots.tolist()
        self.H, self.is_lstm = layer.hidden_size, isinstance(layer, TreeLSTM)
        W = layer.weights
        H = self.H
        if self.is_lstm:  # i f_1 f_2 o g: one sigmoid over adjoining columns
            columns = np.r_[0:H, H : 3 * H, 4 * H : 5 * H, 3 * H : 4 * H]
            of_x = np.r_[0:H, H : 2 * H, H : 2 * H, 3 * H : 4 * H, 2 * H : 3 * H]
            self.Wx, self.Wh, self.b = (np.ascontiguousarray(a) for a in (W["Wx"][:, of_x], W["Wh"][:, columns], W["b"][of_x]))
        else:
            self.Wx, self.Wh, self.b = W["Wx"], W["Wh"], W["b"]

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.x, self.nothing = x, np.zeros((2, self.H), x.dtype)
        self.h, self.c = np.zeros((2, len(x), self.H), x.dtype)
        self.kept: list[Any] = [None] * len(x)
        visit = self.lstm_forward if self.is_lstm else self.rnn_forward
        for root in self.roots:
            visit(root)
        return self.h

    def rnn_forward(self, n: int) -> np.ndarray:
        left, right = self.children[n]
        h_1 = self.nothing[0] if left < 0 else self.rnn_forward(left)
        h_2 = self.nothing[0] if right < 0 else self.rnn_forward(right)
        self.kept[n] = hh = np.concatenate([h_1, h_2])
        self.h[n] = np.tanh(self.x[n] @ self.Wx + hh @ self.Wh + self.b)
        return self.h[n]

    def lstm_forward(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        H, (left, right) = self.H, self.children[n]
        h_1, c_1 = self.nothing if left < 0 else self.lstm_forward(left)
        h_2, c_2 = self.nothing if right < 0 else self.lstm_forward(right)
        hh = np.concatenate([h_1, h_2])
        a = self.x[n] @ self.Wx + hh @ self.Wh + self.b
        s, g = sigmoid(a[: 4 * H]), np.tanh(a[4 * H :])
        i, f_1, f_2, o = s[:H], s[H : 2 * H], s[2 * H : 3 * H], s[3 * H :]
        c = i * g + f_1 * c_1 + f_2 * c_2
        t = np.tanh(c)
        self.h[n], self.c[n] = h, c = o * t, c
        self.kept[n] = hh, s, g, t, c_1, c_2
        return h, c

    def backward(self, dh: np.ndarray) -> tuple[np.ndarray, ...]:
        self.dx, self.dh, self.dc = np.zeros_like(self.x), dh.copy(), np.zeros_like(dh)
        self.dWx, self.dWh, self.db = np.zeros_like(self.Wx), np.zeros_like(self.Wh), np.zeros_like(self.b)
        for root in self.roots:
            self.node_backward(root)
        return self.dx, self.dWx, self.dWh, self.db

    def node_backward(self, n: int) -> None:
        H, (left, right) = self.H, self.children[n]
        if self.is_lstm:
            hh, s, g, t, c_1, c_2 = self.kept[n]
            i, o, dh = s[:H], s[3 * H :], self.dh[n]
            dc = self.dc[n] + dh * o * (1 - t * t)
            da = np.concatenate([dc * g, dc * c_1, dc * c_2, dh * t, dc * i * (1 - g * g)])
            da[: 4 * H] *= s * (1 - s)
            if left >= 0:
                self.dc[left] += dc * s[H : 2 * H]
            if right >= 0:
                self.dc[right] += dc * s[2 * H : 3 * H]
        else:
            hh = self.kept[n]
            da = self.dh[n] * (1 - self.h[n] ** 2)
        self.dx[n] = da @ self.Wx.T
        self.dWx += np.outer(self.x[n], da)
        self.db += da
        if left >= 0 or right >= 0:
            self.dWh += np.outer(hh, da)
            dhh = da @ self.Wh.T
            for k, d in ((left, dhh[:H]), (right, dhh[H:])):
                if k >= 0:
                    self.dh[k] += d
                    self.node_backward(k)


def case(kind: Any, children: np.ndarray, D: int, H: int, training: bool) -> dict[str, Callable[[], Any]]:
    rng = np.random.default_rng([D, H])
    layer, trees = kind(D, H, rng=rng), Trees(children)
    x, dh = rng.standard_normal((trees.num_nodes, D), np.float32), rng.standard_normal((trees.num_nodes, H), np.float32)
    recursion = Recursion(layer, children)

    def ours() -> list[np.ndarray]:
        found = layer.forward(x, trees, training=training)
        return [found.h, layer.backward(dh, found.cache).dx] if training else [found.h]

    def by_hand() -> list[np.ndarray]:
        h = recursion.forward(x)
        return [h, recursion.backward(dh)[0]] if training else [h]

    for a, b in zip(ours(), by_hand(), strict=True):
        if np.abs(a - b).max() > LIMIT * np.abs(b).max():
            raise SystemExit(f"the recursion differs by {np.abs(a - b).max()}")
    if training:
        for name in ("Wx", "Wh", "b"):
            a, b = layer.grads[name], getattr(recursion, f"d{name}")
            a, b = a[..., :H], b[..., :H]  # i, whose place is the same
            if np.abs(a - b).max() > 10 * LIMIT * np.abs(b).max():
                raise SystemExit(f"d{name} of the recursion differs by {np.abs(a - b).max()}")
    return {"fastgate": ours, "NumPy": by_hand}


def main() -> None:
    shapes = [tuple(map(int, word.split(","))) for word in sys.argv[1:]] or SHAPES
    print(f"Time in ms, and time of the recursion / ours. {fastgate.get_num_threads()} threads, float32.")
    print(f"{'forest':32} {'layer':8} {'D':>4} {'H':>4} {'forward':>10} {'ratio':>7} {'+ backward':>11} {'ratio':>7}")
    for words, children in forests().items():
        for kind in (TreeLSTM, TreeRNN):
            for D, H in shapes:
                columns = []
                for training in (False, True):
                    timings = measure(case(kind, children, D, H, training), budget=3.0)
                    found = ratio(timings["NumPy"], timings["fastgate"]).median
                    columns.append(f"{timings['fastgate'].median * 1e3:{11 if training else 10}.2f} {found:7.1f}")
                print(f"{words:32} {kind.__name__:8} {D:4} {H:4} " + " ".join(columns), flush=True)


if __name__ == "__main__":
    main()
