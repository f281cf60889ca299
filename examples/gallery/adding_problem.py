"""The adding problem.

Each step brings a random number and a mark; two steps are marked, one in each half, and at the end the net is asked for the
sum of their numbers. Whoever always answers 1 has an error of 1/6. The first mark lies up to T steps before the end, so
that only a net whose gradients reach that far can learn it. Cells of 32 units, the same optimiser, clipping and number of
steps for all: the plain one; with leaky units, which keep 0.9 of their state; with delays, a second Wh for h of 25 steps ago;
lstm and gru; and a memory without gates, c = c + relu(x Wx + h Wh + b) and h = c, a linear self-loop of weight 1. (Hochreiter
and Schmidhuber 1997; Le, Jaitly and Hinton 2015.)

See: at T = 10 all learn. At 100 and 200 the plain net stays at the dashed line, the error of a constant answer, and neither a
leak nor a connection over 25 steps moves it from there: through both the gradient still has to pass many products, and a number
must come through unchanged. lstm and gru solve it. So does the loop of weight 1, and best: what the problem asks for is a sum,
and nothing else in it has to be forgotten.
"""

import functools

import lesson
import numpy as np
from lesson import plt
from optimizers import Adam

import fastgate

LAGS = (10, 100, 200)
MEMORY = functools.partial(fastgate.Memory, output="identity", activation="relu")
LEAKY, DELAYS = functools.partial(fastgate.Leaky, alpha=0.9), functools.partial(fastgate.RNN, delays=(1, 25))
PLAIN = (("rnn", fastgate.RNN), ("leaky", LEAKY), ("delays", DELAYS))
CELLS = (*PLAIN, ("lstm", fastgate.LSTM), ("gru", fastgate.GRU), ("memory", MEMORY))
N, H, STEPS, RATE = 32, 32, 2500, 3e-3
CONSTANT = 1 / 6  # error of the answer 1: the variance of a sum of two uniform numbers


def batch(rng, T):
    """x (N, T, 2): number, mark; and the sum (N,)."""
    x = np.zeros((N, T, 2), np.float32)
    x[..., 0] = rng.random((N, T))
    rows = np.arange(N)
    first, second = rng.integers(0, T // 2, N), rng.integers(T // 2, T, N)
    x[rows, first, 1] = x[rows, second, 1] = 1
    return x, x[rows, first, 0] + x[rows, second, 0]


def train(layer_type, T):
    """Mean squared error of each step."""
    rng = np.random.default_rng(0)
    layer = layer_type(2, H, rng=rng)
    v, c = (rng.standard_normal(H) / np.sqrt(H)).astype(np.float32), np.zeros(1, np.float32)
    adam = Adam([layer.parameters, v, c], rate=RATE)
    errors = []
    for _ in range(STEPS):
        x, y = batch(rng, T)
        h, *_, cache = layer.forward(x)
        miss = h[:, -1] @ v + c - y
        errors.append(float(np.mean(miss**2)))
        do = 2 / N * miss
        dh = np.zeros_like(h)
        dh[:, -1] = np.outer(do, v)
        layer.backward(dh, cache, need_dx=False)
        gradients = [layer.gradients, h[:, -1].T @ do, do.sum(keepdims=True)]
        fastgate.clip_grad_norm(gradients, 1.0)
        adam.step(gradients)
    return np.array(errors)


def measure():
    return {T: {name: train(kind, T) for name, kind in CELLS} for T in LAGS}


def last(errors):
    return float(errors[-200:].mean())


def claims(found):
    for name, _ in CELLS:
        yield f"T = 10: {name} ends at {last(found[10][name]):.4f}", last(found[10][name]) < CONSTANT / 10
    for T in LAGS[1:]:
        for name, _ in PLAIN:
            error = last(found[T][name])
            yield f"T = {T}: {name} ends at {error:.4f}, no better than the answer 1", error > 0.8 * CONSTANT
        for name in ("lstm", "gru", "memory"):
            yield f"T = {T}: {name} ends at {last(found[T][name]):.4f}", last(found[T][name]) < CONSTANT / 10


def draw(found):
    figure, panels = plt.subplots(1, len(LAGS), figsize=(9, 3), sharey=True, constrained_layout=True)
    smooth = np.ones(50) / 50
    for panel, T in zip(panels, LAGS, strict=True):
        for name, _ in CELLS:
            panel.semilogy(np.convolve(found[T][name], smooth, "valid"), label=name)
        panel.axhline(CONSTANT, color=lesson.INK, ls="--", lw=0.8)
        panel.set(title=f"T = {T}", xlabel="training step")
    panels[0].set(ylabel="squared error", ylim=(3e-6, 1.5))
    panels[1].legend(loc="lower center", ncols=3, fontsize=8, columnspacing=1, handlelength=1.2)
    return figure


if __name__ == "__main__":
    lesson.main()
