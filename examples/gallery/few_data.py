"""Few data: dropout and zoneout in the recurrence.

An lstm of 96 units learns to say the next letter from 3000 letters of English, far too few. It soon knows them by heart, and
the better it knows them, the worse it guesses at other texts. Dropout in the recurrence takes units of the state away where it
meets the weights, the same ones for a whole sequence; zoneout lets units keep their state for a step, by chance. After training
both give way to their means. The text is that of Python's own help, letters and spaces alone. (Gal and Ghahramani 2016; Krueger
et al. 2017.)

See: dotted the loss of a letter in training, solid on 5000 letters that were not trained. Without masks the dotted line falls
fastest and the solid one rises; with either mask the solid line stays lower, and lowest with both. Grey, what the frequencies
of the letters alone would give.
"""

from pydoc_data.topics import topics

import lesson
import numpy as np
from lesson import plt
from optimizers import Adam

import fastgate

LETTERS = " abcdefghijklmnopqrstuvwxyz"
N, T, H, STEPS, RATE, SEEN, NEW, EVERY = 16, 50, 96, 400, 5e-3, 3000, 5000, 20
DROPPED, KEPT_H, KEPT_C = 0.4, 0.1, 0.4
WAYS = {"no mask": (False, False), "dropout": (True, False), "zoneout": (False, True), "both": (True, True)}
K, ONE_HOT = len(LETTERS), np.eye(len(LETTERS), dtype=np.float32)


def text():
    """Numbers of letters, what is seen and what is new."""
    letters = "".join(c if c in LETTERS else " " for name in sorted(topics) for c in topics[name].lower())
    ids = np.array([LETTERS.index(c) for c in " ".join(letters.split())])
    return ids[:SEEN], ids[-NEW:]


def train(dropout, zoneout, seed):
    """Every EVERY steps the loss in training, and that of new text."""
    rng, (seen, new) = np.random.default_rng(seed), text()
    start = fastgate.LSTM(K, H, rng=rng).weights
    weights = Wx, Wh, b = [start[name].copy() for name in ("Wx0", "Wh0", "b0")]
    V, c = (rng.standard_normal((H, K)) / np.sqrt(H)).astype(np.float32), np.zeros(K, np.float32)
    adam, losses = Adam([*weights, V, c], rate=RATE), []
    kept = {"zoneout_h": KEPT_H, "zoneout_c": KEPT_C} if zoneout else {}
    other = new.reshape(100, -1)
    for step in range(STEPS):
        rows = seen[rng.integers(SEEN - T, size=N)[:, None] + np.arange(T + 1)]
        masks = {name: fastgate.draw_zoneout_mask((N, T, H), p, rng) for name, p in kept.items()}
        if dropout:
            masks["recurrent_mask"] = fastgate.draw_dropout_mask((N, H), DROPPED, rng)
        h, *_, cache = fastgate.lstm_forward(ONE_HOT[rows[:, :-1]], None, None, Wx, Wh, b, **masks)
        loss, do = fastgate.softmax_cross_entropy(h @ V + c, rows[:, 1:], reduction="mean")
        grads = fastgate.lstm_backward(do @ V.T, cache, need=("dWx", "dWh", "db"))
        gradients = [grads.dWx, grads.dWh, grads.db, np.einsum("nth,ntk->hk", h, do), do.sum(axis=(0, 1))]
        fastgate.clip_grad_norm(gradients, 1.0)
        adam.step(gradients)
        if (step + 1) % EVERY == 0:
            h = fastgate.lstm_forward(ONE_HOT[other[:, :-1]], None, None, Wx, Wh, b, training=False, **kept).h
            losses.append((loss, fastgate.softmax_cross_entropy(h @ V + c, other[:, 1:], reduction="mean")[0]))
    return np.array(losses).T


def measure(seed=0):
    seen, new = text()
    share = (np.bincount(seen, minlength=K) + 1) / (SEEN + K)
    return {way: train(*masks, seed) for way, masks in WAYS.items()}, float(-np.log(share[new]).mean())


def claims(found):
    plain, dropped, zoned, both = found[0].values()
    yield f"without masks {plain[0, -5:].mean():.2f} in training", plain[0, -5:].mean() < 1.2
    yield f"and {plain[1, -1]:.2f} on new text, from {plain[1].min():.2f}", plain[1, -1] > plain[1].min() + 0.2
    for name, losses in (("dropout", dropped), ("zoneout", zoned), ("both", both)):
        yield f"{name}: {losses[1, -1]:.2f} on new text", losses[1, -1] < 0.9 * plain[1, -1]
        yield f"{name}: at best {losses[1].min():.3f}, without {plain[1].min():.3f}", losses[1].min() < plain[1].min() - 0.05
    yield "with both least in the end", both[1, -1] < min(dropped[1, -1], zoned[1, -1])


def draw(found):
    figure, panel = plt.subplots(figsize=(6.6, 3.8), constrained_layout=True)
    at = np.arange(EVERY, STEPS + 1, EVERY)
    for (way, (seen, new)), colour in zip(found[0].items(), [lesson.COLOURS[k] for k in (1, 3, 2, 0)], strict=True):
        panel.plot(at, seen, ":", color=colour, lw=1)
        panel.plot(at, new, color=colour, label=way)
    panel.axhline(found[1], color=lesson.FAINT)
    panel.set(xlabel="training step", ylabel="loss of a letter", ylim=(0, None))
    panel.legend(loc="lower left")
    return figure


if __name__ == "__main__":
    lesson.main()
