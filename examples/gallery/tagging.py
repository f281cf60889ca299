"""Tagging, in both directions and in two layers.

Among 30 steps some carry a mark, a or b; the others carry nothing. Each step gets a tag: does the last mark before it differ
from the next one behind it? Who reads from left to right knows the mark before and can only guess at the next. A layer that
reads in both directions knows both; but its two halves meet only in the sum that the output takes of them, and no sum of a
number for the one mark and a number for the other says whether they differ (it is an exclusive or). A second layer reads what
the first has found in both directions. Four nets of gru units. (Schuster and Paliwal 1997; Graves, Mohamed and Hinton 2013.)

See: on the left the share of tags that are right. From left to right both depths stay at a guess, and so does one layer in both
directions; two layers in both directions tag all. On the right a new sequence: the marks, the true tags, and how sure each net
is that the two marks differ, from white, no, to dark green, yes. A net that does not know is pale green throughout.
"""

import lesson
import numpy as np
from lesson import plt
from optimizers import Adam

import fastgate
from fastgate import structures

T, N, STEPS, RATE, SHARE = 30, 64, 150, 1e-2, 0.2
NETS = {  # units of each direction
    "one layer": (32, {}),
    "two layers": (32, {"num_layers": 2}),
    "one layer, both directions": (16, {"bidirectional": True}),
    "two layers, both directions": (16, {"num_layers": 2, "bidirectional": True}),
}


def batch(rng, N=N):
    """x (N, T, 2), one-hot marks; tags (N, T); where there is a mark on either side."""
    marks = np.where(rng.random((N, T)) < SHARE, rng.integers(1, 3, (N, T)), 0)
    before, after = np.zeros((2, N, T + 2), int)
    for t in range(T):
        before[:, t + 1] = np.where(marks[:, t] > 0, marks[:, t], before[:, t])
    for t in reversed(range(T)):
        after[:, t + 1] = np.where(marks[:, t] > 0, marks[:, t], after[:, t + 2])
    before, after = before[:, :T], after[:, 2:]
    return np.eye(3, dtype=np.float32)[marks][..., 1:], (before != after).astype(int), (before > 0) & (after > 0)


def train(H, options, seed):
    """Share of right tags at each step of training; a function from x to the probabilities of the tag 1."""
    rng = np.random.default_rng(seed)
    model = structures.OutputEveryStep(2, H, 2, cell="gru", **options, rng=rng)
    adam, shares = Adam([model.parameters]), []
    for step in range(STEPS):
        x, y, mask = batch(rng)
        o, _, cache = model.forward(x)
        shares.append(np.mean((o.argmax(axis=2) == y)[mask]))
        _, do = fastgate.softmax_cross_entropy(o, y, mask, reduction="mean")
        model.backward(do, cache, need_dx=False)
        fastgate.clip_grad_norm([model.gradients], 1.0)
        adam.rate = RATE * (1 - step / STEPS)
        adam.step([model.gradients])
    return np.array(shares), lambda x: 1 / (1 + np.exp(model.forward(x, training=False).o @ (1, -1)))


def measure(seed=0):
    """Of each net the shares, and the probabilities of 500 new sequences; these."""
    new = batch(np.random.default_rng(100 + seed), 500)
    nets = {name: train(*net, seed) for name, net in NETS.items()}
    return {name: (shares, tags(new[0])) for name, (shares, tags) in nets.items()}, new


def claims(found):
    _, y, mask = found[1]
    one, two, both, deep = (float(np.mean(((p > 0.5) == y)[mask])) for _, p in found[0].values())
    yield f"from left to right {one:.0%} are right in one layer, {two:.0%} in two: a guess", max(one, two) < 0.6
    yield f"in both directions {both:.0%} in one layer", both < 0.7
    yield f"and {deep:.1%} in two", deep > 0.98


def draw(found):
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), width_ratios=(2, 3), constrained_layout=True)
    smooth = np.ones(10) / 10
    for (name, (shares, _)), colour in zip(found[0].items(), [lesson.COLOURS[k] for k in (1, 3, 2, 0)], strict=True):
        left.plot(np.arange(10, STEPS + 1), np.convolve(shares, smooth, "valid"), color=colour, label=name)
    left.axhline(0.5, color=lesson.INK, ls="--", lw=0.8)
    left.set(xlabel="training step", ylabel="share of right tags", ylim=(0.4, 1.3), yticks=(0.4, 0.6, 0.8, 1))
    left.legend(loc="upper left")
    shown = np.argmax(np.abs(np.diff(found[1][1], axis=1)).sum(axis=1))  # where the tag changes most often
    x, y, mask = (a[shown] for a in found[1])
    rows = np.array([y, *(p[shown] for _, p in found[0].values())], float)
    right.imshow(np.where(mask, rows, np.nan), cmap="Greens", vmin=0, vmax=1.2, aspect="auto")
    right.set_yticks(range(len(rows)), ["the tags", *found[0]])
    right.set_xticks(*zip(*((t, "ab"[int(mark[1])]) for t, mark in enumerate(x) if mark.any()), strict=True))
    right.set(title="one new sequence, the marks below")
    return figure


if __name__ == "__main__":
    lesson.main()
