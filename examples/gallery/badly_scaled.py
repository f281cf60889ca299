"""Badly scaled inputs and weights.

Twenty symbols come, each one of four, and one of them is marked; at the end the net is asked for that one. Cells of 24 units
learn it in 250 steps of Adam, once as they are, once with every input multiplied by one number, and once with every fresh
weight of Wx and Wh multiplied by one. Layer normalisation takes the scale of each product away before it reaches a gate. (Ba,
Kiros and Hinton 2016.)

See: the error that is left, over the factor. lstm and gru learn where their gates are neither asleep nor saturated: not from
inputs ten or a hundred times too small, hardly from inputs a hundred times too large, nor with weights eight times too large,
where they can only guess (dotted). lstm_norm and gru_norm, their normalised twins, hardly notice the scale of the input. That
of the weights they feel only in one way: a step of the same size turns a larger weight less, so that they learn more slowly.
"""

import lesson
import numpy as np
from lesson import plt
from optimizers import Adam

import fastgate
from fastgate import structures

CELLS = (("lstm", "-", 1), ("lstm_norm", "-", 0), ("gru", "--", 1), ("gru_norm", "--", 0))  # and how each is drawn
INPUTS, WEIGHTS = (0.01, 0.1, 1, 10, 100), (0.01, 0.1, 1, 8)
N, T, H, K, STEPS, RATE = 32, 20, 24, 4, 250, 1e-2


def batch(rng):
    """x (N, T, K + 1): a symbol at each step, one of them marked; the marked ones (N,)."""
    symbols, marked, rows = rng.integers(K, size=(N, T)), rng.integers(T, size=N), np.arange(N)
    x = np.zeros((N, T, K + 1), np.float32)
    x[rows[:, None], np.arange(T), symbols] = x[rows, marked, K] = 1
    return x, symbols[rows, marked]


def train(cell, of_input, of_weights, seed):
    """The cross-entropy of each step."""
    rng = np.random.default_rng(seed)
    model = structures.FinalOutput(K + 1, H, K, cell=cell, rng=rng)
    for name in ("layer.Wx0", "layer.Wh0"):
        model.weights[name][...] *= of_weights
    adam, losses = Adam([model.parameters], rate=RATE), []
    for _ in range(STEPS):
        x, y = batch(rng)
        o, _, cache = model.forward(x * np.float32(of_input))
        loss, do = fastgate.softmax_cross_entropy(o, y, reduction="mean")
        losses.append(loss)
        model.backward(do, cache, need_dx=False)
        fastgate.clip_grad_norm([model.gradients], 1.0)
        adam.step([model.gradients])
    return np.array(losses)


def measure(seed=0):
    """What is left at the end, by cell: over the factors of the input, and over those of the weights."""

    def left(*run):
        return float(train(*run, seed)[-50:].mean())

    found = {}
    for cell, *_ in CELLS:
        inputs = [left(cell, factor, 1) for factor in INPUTS]
        weights = [inputs[INPUTS.index(1)] if factor == 1 else left(cell, 1, factor) for factor in WEIGHTS]
        found[cell] = inputs, weights
    return found


def claims(found):
    guess = np.log(K)
    for cell, (inputs, weights) in found.items():
        if cell.endswith("norm"):
            yield f"{cell}: of inputs of any scale at most {max(inputs):.3f} is left, a guess {guess:.2f}", max(inputs) < 0.1
            yield f"{cell}: of weights eight times too large {weights[-1]:.2f}", weights[-1] < 0.75 * guess
        else:
            yield f"{cell}: of inputs and weights as they should be {inputs[2]:.3f} is left", inputs[2] < 0.1
            small = min(inputs[:2])
            yield f"{cell}: of inputs ten or a hundred times too small at least {small:.2f}", small > 0.9 * guess
            yield f"{cell}: of weights eight times too large {weights[-1]:.2f}", weights[-1] > 0.9 * guess


def draw(found):
    figure, panels = plt.subplots(1, 2, figsize=(8.4, 3.2), sharey=True, constrained_layout=True)
    for panel, factors, of, what in zip(panels, (INPUTS, WEIGHTS), (0, 1), ("input", "fresh Wx and Wh"), strict=True):
        for cell, style, colour in CELLS:
            panel.loglog(factors, found[cell][of], style, marker="o", ms=4, color=lesson.COLOURS[colour], label=cell)
        panel.axhline(np.log(K), color=lesson.INK, ls=":", lw=0.9)
        panel.set(xlabel="factor", title=f"{what} times a factor")
    panels[0].set_ylabel("cross-entropy that is left")
    panels[1].legend(loc="upper left", bbox_to_anchor=(0.05, 0.88))
    return figure


if __name__ == "__main__":
    lesson.main()
