"""A tree over expressions.

Sums and differences of the digits 0 to 4, counted modulo 5, such as (3 - (4 + 1)) + 2. A TreeLSTM computes the state of each
bracket from the states of its two sides, with the same weights everywhere. An lstm with as many weights reads the symbols
one by one in the order of a pocket calculator, 3 4 1 + - 2 +. At every symbol both are asked for the value of what it
completes, on the same expressions of depth 1 to 4; then for deeper ones. (Tai, Socher and Manning 2015; the lstm must
itself keep a stack.)

See: on the left the share of expressions with the right value. The TreeLSTM is right where it was trained, and still mostly
at twice that depth, where expressions have some seventy symbols. The lstm is right up to depth 2; from depth 5 on it all but
guesses. On the right an expression of depth 6, with the value that the TreeLSTM sees at every bracket; red would be wrong.
"""

import lesson
import numpy as np
from lesson import plt
from optimizers import Adam

import fastgate
from fastgate.layers import TreeLSTM, Trees

M, K = 5, 7  # digits; symbols: the digits, then + and -
TRAINED, SHOWN, DEPTHS = 4, 6, (1, 2, 3, 4, 5, 6, 7, 8)
N, STEPS, RATE, ROWS = 32, 1200, 2e-2, 300
ONE_HOT = np.eye(K, dtype=np.float32)


def write(rng, depth, into):
    """Appends (symbol, left, right, value) of each node of an expression so deep, children first; returns its number."""
    if depth == 0:
        digit = int(rng.integers(M))
        into.append((digit, -1, -1, digit))
        return len(into) - 1
    depths = rng.permutation([depth - 1, rng.integers(depth)])
    left, right = write(rng, depths[0], into), write(rng, depths[1], into)
    minus = int(rng.integers(2))
    into.append((M + minus, left, right, (into[left][3] + (1, -1)[minus] * into[right][3]) % M))
    return len(into) - 1


def expressions(rng, depths):
    """x (nodes, K), children (nodes, 2), values (nodes,), roots (N,)."""
    nodes = []
    roots = np.array([write(rng, depth, nodes) for depth in depths])
    symbols, left, right, values = np.array(nodes).T
    return ONE_HOT[symbols], np.stack([left, right], axis=1), values, roots


def padded(a, inside):
    out = np.zeros((*inside.shape, a.shape[1]), np.float32)
    out[inside] = a
    return out


def states(layer, x, children, roots):
    """Of all nodes (nodes, H), and a function that takes their gradient to the layer's weights."""
    if isinstance(layer, TreeLSTM):
        h, _, cache = layer.forward(x, Trees(children))
        return h, lambda dh: layer.backward(dh, cache)
    lengths = np.diff(roots, prepend=-1)
    inside = np.arange(lengths.max()) < lengths[:, None]
    h, _, _, cache = layer.forward(padded(x, inside), lengths=lengths)
    return h[inside], lambda dh: layer.backward(padded(dh, inside), cache)


def train(layer):
    rng, H = np.random.default_rng(0), layer.hidden_size
    V, c = (rng.standard_normal((H, M)) / np.sqrt(H)).astype(np.float32), np.zeros(M, np.float32)
    adam = Adam([layer.parameters, V, c])
    for step in range(STEPS):
        x, children, values, roots = expressions(rng, rng.integers(1, TRAINED + 1, N))
        h, backward = states(layer, x, children, roots)
        _, do = fastgate.softmax_cross_entropy(h @ V + c, values, reduction="mean")
        backward(do @ V.T)
        fastgate.clip_grad_norm(gradients := [layer.gradients, h.T @ do, do.sum(axis=0)], 1.0)
        adam.rate = RATE * (1 - step / STEPS)
        adam.step(gradients)
    return lambda x, children, roots: (states(layer, x, children, roots)[0] @ V + c).argmax(axis=1)


def measure():
    """The right shares at DEPTHS, and one expression as the TreeLSTM sees it."""
    tree, chain = train(TreeLSTM(K, 48, rng=0)), train(fastgate.LSTM(K, 74, rng=0))
    found = {"TreeLSTM": [], "lstm": []}
    for depth in DEPTHS:
        x, children, values, roots = expressions(np.random.default_rng(depth), [depth] * ROWS)
        for share, read in zip(found.values(), (tree, chain), strict=True):
            share.append(float(np.mean((read(x, children, roots) == values)[roots])))
    x, children, values, roots = expressions(np.random.default_rng(SHOWN), [SHOWN])
    return found, list(zip(x.argmax(axis=1), children, values, tree(x, children, roots), strict=True))


def claims(found):
    tree, chain = found[0].values()
    yield f"the TreeLSTM is right on at least {min(tree[:TRAINED]):.0%} where it was trained", min(tree[:TRAINED]) > 0.95
    yield f"on {tree[-1]:.0%} at depth 8", tree[-1] > 0.75
    yield f"the lstm on at least {min(chain[:2]):.0%} up to depth 2", min(chain[:2]) > 0.9
    yield f"at most on {max(chain[4:]):.0%} of deeper ones; a guess is right on {1 / M:.0%}", max(chain[4:]) < 0.4


def draw(found):
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6), width_ratios=(2, 3), constrained_layout=True)
    left.axvspan(DEPTHS[0], TRAINED, color=lesson.FAINT, alpha=0.3, lw=0)
    left.text(1.1, 0.03, "trained")
    for name, share in found[0].items():
        left.plot(DEPTHS, share, "-o", ms=4, label=name)
    left.axhline(1 / M, color=lesson.INK, ls="--", lw=0.8)
    left.set(xlabel="depth of the expression", ylabel="right values", ylim=(0, 1.03))
    left.legend(loc="center left")
    at, box = [], {"fc": "white", "ec": "none", "pad": 1}
    for symbol, children, value, seen in found[1]:
        digit = symbol < M
        if digit:
            at.append((sum(y == 0 for _, y in at), 0))
        else:
            (x1, y1), (x2, y2) = (at[k] for k in children)
            at.append(((x1 + x2) / 2, max(y1, y2) + 1))
            right.plot((x1, at[-1][0], x2), (y1, at[-1][1], y2), color=lesson.FAINT, lw=1, zorder=0)
        colour = lesson.INK if digit else lesson.COLOURS[int(seen != value)]
        text = str(symbol) if digit else f"{'+-'[symbol - M]}\n{seen}"
        right.text(*at[-1], text, ha="center", va="center", color=colour, bbox=box)
    right.axis("off")
    return figure


if __name__ == "__main__":
    lesson.main()
