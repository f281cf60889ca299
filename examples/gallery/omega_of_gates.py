"""The regulariser on gates.

The task of the lesson before, the first of 60 inputs to be told at the end, for an lstm and a gru. Their gates begin half open
(all biases 0), so that a state loses half of itself at each step and next to nothing of the gradient reaches the first one.
Ω asks each step back to keep the norm of the error signal; of an lstm that signal is the gradient of the pair (h, c). Two nets
of each kind from the same weights see the same sequences; for one of them the gradient of Ω is added. (Pascanu, Mikolov and
Bengio 2013; the bias of the forget gate as a remedy: Gers, Schmidhuber and Cummins 2000.)

See: on the left the gradient that arrives, medians in the last third of the training and all that was met: without Ω it has
vanished as in the beginning, with Ω it is flat. On the right the loss; dashed, a guess. The gates do not open for it: in the
end the slowest unit has a time constant of a few steps, as in the nets without Ω, and the way back leads through Wh.
"""

import lesson
import numpy as np
from lesson import plt
from omega import T, batch
from optimizers import Adam

import fastgate
from fastgate import flow

H, STEPS, RATE, WEIGHT = 16, 300, 1e-2, 0.1
CELLS = {"lstm": fastgate.LSTMCell, "gru": fastgate.GRUCell}
BACKWARD = {"lstm": fastgate.lstm_backward, "gru": fastgate.gru_backward}


def train(cell, weight, seed):
    """Of each step of training the loss and the gradient norms (T,); the longest time constant in the end."""
    rng = np.random.default_rng(seed)
    G = {"lstm": 4, "gru": 3}[cell]
    Wx, Wh, b = 0.3 * rng.standard_normal((2, G * H)), 0.15 * rng.standard_normal((H, G * H)), np.zeros(G * H)
    V, c = rng.standard_normal((H, 2)) / np.sqrt(H), np.zeros(2)
    adam = Adam([Wx, Wh, b, V, c], rate=RATE)
    totals = ("dh_total", "dc_total")[: 1 + (cell == "lstm")]
    losses, norms = [], []
    for _ in range(STEPS):
        x, y = batch(rng)
        prepared = CELLS[cell](Wx, Wh, b)
        found = prepared.forward(x)
        loss, do = fastgate.softmax_cross_entropy(found.h_T @ V + c, y, reduction="mean")
        grads = BACKWARD[cell](None, found.cache, dh_T=do @ V.T, need=("dWx", "dWh", "db", *totals))
        delta = {name: getattr(grads, name) for name in totals}
        size = np.linalg.norm(np.concatenate(list(delta.values()), axis=2), axis=2)
        losses.append(loss)
        norms.append(np.median(size / size[:, -1:], axis=0))
        gradients = [grads.dWx, grads.dWh, grads.db, found.h_T.T @ do, do.sum(axis=0)]
        fastgate.clip_grad_norm(gradients, 1.0)
        if weight:
            omega = flow.omega(flow.trace(prepared, x, **delta)).gradients
            for gradient, name in zip(gradients, ("dWx", "dWh", "db"), strict=False):
                gradient += weight * omega[name]
        adam.step(gradients)
    return np.array(losses), np.array(norms), flow.time_constants(flow.trace(CELLS[cell](Wx, Wh, b), x)).max()


def measure(seed=0):
    return {(cell, kept): train(cell, WEIGHT * kept, seed) for cell in CELLS for kept in (False, True)}


def claims(found):
    third = STEPS // 3
    for cell in CELLS:
        (plain, plain_norms, _), (kept, norms, constant) = found[cell, False], found[cell, True]
        yield f"{cell}: both begin alike, {norms[0, 0]:.0e} arrives", np.array_equal(norms[0], plain_norms[0])
        yield f"{cell}: without Ω at most {plain_norms[:, 0].max():.0e} ever does", plain_norms[:, 0].max() < 1e-6
        middle = np.median(norms[-third:], axis=0)
        words = f"{cell}: with Ω from {middle.min():.2g} to {middle.max():.2f} arrives at every step, median of the last third"
        yield words, middle.min() > 1e-2 and middle.max() < 10
        yield f"{cell}: loss {plain[-third:].mean():.2f} without Ω, a guess", plain[-third:].mean() > 0.9 * np.log(2)
        yield f"{cell}: loss {kept[-30:].mean():.3f} with it in the end", kept[-30:].mean() < 0.3
        yield f"{cell}: the longest time constant is {constant:.1f} steps", constant < T / 3


def draw(found):
    figure, panels = plt.subplots(2, 2, figsize=(8.4, 5.4), sharex="col", width_ratios=(3, 2), constrained_layout=True)
    back = np.arange(T)[::-1]
    for (cell, kept), (losses, norms, _) in found.items():
        flat, loss = panels[int(cell == "gru")]
        last, colour = norms[-STEPS // 3 :], lesson.COLOURS[1 - kept]
        flat.fill_between(back, last.min(axis=0), last.max(axis=0), color=colour, alpha=0.25, lw=0)
        flat.semilogy(back, np.median(last, axis=0), color=colour, label="with Ω" if kept else "without Ω")
        flat.set(ylabel=f"{cell}: gradient that arrives", ylim=(1e-21, 1e3))
        loss.plot(losses, color=colour, lw=1)
        loss.axhline(np.log(2), color=lesson.INK, ls="--", lw=0.8)
    panels[0, 0].legend(loc="lower left")
    panels[0, 0].set(title="last third of the training")
    panels[0, 1].set(title="loss")
    panels[1, 0].set(xlabel="steps before the last")
    panels[1, 1].set(xlabel="training step")
    return figure


if __name__ == "__main__":
    lesson.main()
