"""The copy problem.

Two symbols come, each one of four; then nothing for T steps; then a signal, at which the net is to write both in their order.
What it writes depends on nothing but what lies T steps back, so that a net whose gradients do not reach so far can only guess.
In training the wait is drawn anew for every batch, from 0 to T steps, which lets a net learn the short ones first; in the test
it is T. Cells of 32 units, the same optimiser and number of steps for all: the plain one; the same with leaky units, h = h / 2
+ tanh(…) / 2; the same with delays, that is, with a second Wh for h of 10 steps ago; lstm and gru; and a memory without gates,
c = c + relu(x Wx + h Wh + b) and h = c. (Hochreiter and Schmidhuber 1997; Arjovsky, Shah and Bengio 2016; Lin et al. 1996.)

See: on the left the share of symbols that are right after a wait of T, by nets trained for that T. The plain net copies over
a few steps and loses more and more as the wait grows (dashed, a guess), and a leak, which mixes what is to be told apart, does
not help. With the connection over 10 steps a wait of 20 is two steps away and nothing of it is lost; that of 40 is mostly kept.
lstm and gru lose nothing, and no more does the memory, whose loop of weight 1 holds a symbol without any gate. On the right the
training with the longest wait; that of the memory stumbles on its way, for nothing keeps its sums in bounds.
"""

import lesson
import numpy as np
from lesson import plt
from optimizers import Adam

import fastgate
from fastgate import structures

WAITS = (5, 20, 40)
CELLS = {
    "rnn": {"cell": "rnn"},
    "leaky": {"cell": "leaky", "alpha": 0.5},
    "delays": {"cell": "rnn", "delays": (1, 10)},
    "lstm": {"cell": "lstm"},
    "gru": {"cell": "gru"},
    "memory": {"cell": "memory", "output": "identity", "activation": "relu"},
}
S, K, N, H, STEPS, RATE = 2, 4, 32, 32, 1200, 1e-2
ONE_HOT = np.eye(K + 2, dtype=np.float32)  # the symbols, nothing, the signal


def batch(rng, wait, N=N):
    """x (N, S + wait + S, K + 2); of each step the symbol that is asked for, or -1."""
    symbols, nothing = rng.integers(K, size=(N, S)), np.full((N, wait), K)
    x = np.concatenate([symbols, nothing, np.full((N, S), K + 1)], axis=1)
    return ONE_HOT[x], np.concatenate([np.full((N, S + wait), -1), symbols], axis=1)


def train(options, longest, seed):
    """Of each step of training the cross-entropy of a symbol; at the end the share that is right after the longest wait."""
    rng = np.random.default_rng(seed)
    model = structures.OutputEveryStep(K + 2, H, K, **options, rng=rng)
    adam, losses = Adam([model.parameters]), []
    for step in range(STEPS):
        x, y = batch(rng, int(rng.integers(longest + 1)))
        o, _, cache = model.forward(x)
        loss, do = fastgate.softmax_cross_entropy(o, y, ignore_index=-1, reduction="mean")
        losses.append(loss)
        model.backward(do, cache, need_dx=False)
        fastgate.clip_grad_norm([model.gradients], 1.0)
        adam.rate = RATE * (1 - step / STEPS)
        adam.step([model.gradients])
    x, y = batch(rng, longest, 500)
    return np.array(losses), float(np.mean((model.forward(x, training=False).o.argmax(axis=2) == y)[:, -S:]))


def measure(seed=0):
    return {name: [train(options, wait, seed) for wait in WAITS] for name, options in CELLS.items()}


def claims(found):
    right = {name: [share for _, share in runs] for name, runs in found.items()}
    for name, shares in right.items():
        yield f"after {WAITS[0]} steps {name} has {shares[0]:.0%} right", shares[0] > 0.95
    yield f"after {WAITS[-1]} steps rnn has {right['rnn'][-1]:.0%} right, a guess {1 / K:.0%}", right["rnn"][-1] < 0.8
    yield f"… and leaky {right['leaky'][-1]:.0%}", right["leaky"][-1] < 0.8
    yield f"after {WAITS[1]} steps delays has {right['delays'][1]:.0%} right", right["delays"][1] > 0.98
    for name in ("lstm", "gru", "memory"):
        yield f"after {WAITS[-1]} steps {name} has {right[name][-1]:.0%} right", right[name][-1] > 0.95


def draw(found):
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.2), constrained_layout=True)
    smooth = np.ones(25) / 25
    for name, runs in found.items():
        left.plot(WAITS, [share for _, share in runs], "-o", lw={"lstm": 6, "gru": 3.5}.get(name, 1.5), ms=4)
        right.plot(np.arange(25, STEPS + 1), np.convolve(runs[-1][0], smooth, "valid"), label=name)
    left.axhline(1 / K, color=lesson.INK, ls="--", lw=0.8)
    right.axhline(np.log(K), color=lesson.INK, ls="--", lw=0.8)
    left.set(xlabel="steps to wait", ylabel="share of symbols that are right", ylim=(0, 1.05), xticks=WAITS)
    right.set(
        xlabel="training step", ylabel="cross-entropy of a symbol", title=f"waits of up to {WAITS[-1]} steps", ylim=(0, 2.2)
    )
    right.legend(loc=(0.3, 0.72), ncols=2, fontsize=8)
    return figure


if __name__ == "__main__":
    lesson.main()
