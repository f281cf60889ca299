"""A tree over expressions.

Sums and differences of the digits 0 to 4, counted modulo 5, such as (3 - (4 + 1)) + 2. A TreeLSTM computes the state of each
bracket from the states of its two sides, with the same weights everywhere. A chain of symbols is a tree as well, in which
each has the one before it as its only child; there a TreeLSTM is the lstm. With as many weights it reads the symbols in the
order of a pocket calculator, 3 4 1 + - 2 +, and must itself keep a stack. At every symbol both are asked for the value of
what it completes, on the same expressions of depth 1 to 4; then for deeper ones. (Tai, Socher and Manning 2015.)

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
        into.append((digit := int(rng.integers(M)), -1, -1, digit))
    else:
        left, right = (write(rng, below, into) for below in rng.permutation([depth - 1, rng.integers(depth)]))
        minus = int(rng.integers(2))
        into.append((M + minus, left, right, (into[left][3] + (1, -1)[minus] * into[right][3]) % M))
    return len(into) - 1


def expressions(rng, depths):
    """x (nodes, K); children (nodes, 2), and (nodes, 1) in a chain of symbols; values (nodes,); the last nodes (N,)."""
    nodes = []
    roots = np.array([write(rng, depth, nodes) for depth in depths])
    symbols, left, right, values = np.array(nodes).T
    before = np.arange(len(nodes)) - 1
    before[roots[:-1] + 1] = -1
    return ONE_HOT[symbols], (np.stack([left, right], axis=1), before[:, None]), values, roots


def train(arity, H):
    """A function from x and both kinds of children to values."""
    layer, rng = TreeLSTM(K, H, arity=arity, rng=0), np.random.default_rng(0)
    V, c = (rng.standard_normal((H, M)) / np.sqrt(H)).astype(np.float32), np.zeros(M, np.float32)
    adam = Adam([layer.parameters, V, c])
    for step in range(STEPS):
        x, children, values, _ = expressions(rng, rng.integers(1, TRAINED + 1, N))
        h, _, cache = layer.forward(x, Trees(children[arity == 1]))
        _, do = fastgate.softmax_cross_entropy(h @ V + c, values, reduction="mean")
        layer.backward(do @ V.T, cache, need_dx=False)
        fastgate.clip_grad_norm(gradients := [layer.gradients, h.T @ do, do.sum(axis=0)], 1.0)
        adam.rate = RATE * (1 - step / STEPS)
        adam.step(gradients)
    return lambda x, children: (layer.forward(x, Trees(children[arity == 1])).h @ V + c).argmax(axis=1)


def measure():
    """The right shares at DEPTHS, and one expression as the TreeLSTM sees it."""
    tree, chain = train(2, 48), train(1, 74)
    found = {"TreeLSTM": [], "lstm": []}
    for depth in DEPTHS:
        x, children, values, roots = expressions(np.random.default_rng(depth), [depth] * ROWS)
        for share, read in zip(found.values(), (tree, chain), strict=True):
            share.append(float(np.mean((read(x, children) == values)[roots])))
    x, children, values, _ = expressions(np.random.default_rng(SHOWN), [SHOWN])
    return found, list(zip(x.argmax(axis=1), children[0], values, tree(x, children), strict=True))


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
    at, style = [], {"ha": "center", "va": "center", "bbox": {"fc": "white", "ec": "none", "pad": 1}}
    for symbol, children, value, seen in found[1]:
        if symbol < M:
            at.append((sum(y == 0 for _, y in at), 0))
            right.text(*at[-1], str(symbol), color=lesson.INK, **style)
        else:
            (x1, y1), (x2, y2) = (at[k] for k in children)
            at.append(((x1 + x2) / 2, max(y1, y2) + 1))
            right.plot((x1, at[-1][0], x2), (y1, at[-1][1], y2), color=lesson.FAINT, lw=1, zorder=0)
            right.text(*at[-1], f"{'+-'[symbol - M]}\n{seen}", color=lesson.COLOURS[int(seen != value)], **style)
    right.axis("off")
    return figure


if __name__ == "__main__":
    lesson.main()
