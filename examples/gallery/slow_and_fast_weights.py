"""Weights that learn slowly, weights that learn fast.

A stream of inputs passes through a filter that never changes; what is asked for is a mixture of the filter's four outputs,
and the mixture is drawn anew every 80 steps of the training. A gru of 24 units with an output layer follows the stream and is
judged all the time, before it learns from what came. The recurrent weights can learn the filter once and for all; the output
layer must follow every change. So the optimiser gets two groups of parameters, each with a rate of its own: here every pair out
of three rates. (Slow and fast weights: Hinton and Plaut 1987.)

See: on the left the error for every pair of rates, the second half of the stream. Along the diagonal, one rate for all, it is
nowhere as small as above it: the recurrent weights slow, the output layer fast. On the right the error after a change, with the
best single rate and the best pair: the pair has learned the new mixture in half as many steps.
"""

import lesson
import numpy as np
from lesson import plt
from optimizers import Adam

import fastgate

RATES = (1e-3, 1e-2, 1e-1)
T, N, H, F, EACH, CHANGES = 16, 16, 24, 4, 80, 20  # F outputs of the filter; EACH steps between two CHANGES
KEEP = np.array([0.9, 0.7, 0.5, 0.0])  # the filter: how much of itself each output keeps from step to step


def stream(seed):
    """For each step of training x (N, T, 1) and y (N, T): all steps are parts of one long stream."""
    rng = np.random.default_rng(seed)
    s = np.zeros((N, F))
    for _ in range(CHANGES):
        mixture = rng.standard_normal(F)
        mixture /= np.linalg.norm(mixture)
        for _ in range(EACH):
            x, y = rng.standard_normal((N, T)), np.empty((N, T))
            for t in range(T):
                s = KEEP * s + np.sqrt(1 - KEEP**2) * x[:, t, None]
                y[:, t] = np.tanh(s) @ mixture
            yield x[..., None].astype(np.float32), y.astype(np.float32)


def follow(steps, slow, fast, seed):
    """The squared error of every step, taken before the weights change: (CHANGES, EACH)."""
    rng = np.random.default_rng(seed)
    layer, v, c = fastgate.GRU(1, H, rng=rng), np.zeros(H, np.float32), np.zeros(1, np.float32)
    groups = Adam([layer.parameters], rate=slow), Adam([v, c], rate=fast)
    state, errors = None, []
    for x, y in steps:
        h, state, cache = layer.forward(x, state)
        miss = h @ v + c - y
        errors.append(float(np.mean(miss**2)))
        do = 2 / miss.size * miss
        layer.backward(do[..., None] * v, cache, need_dx=False)
        for group, gradients in zip(groups, ([layer.gradients], [np.einsum("nth,nt->h", h, do), do.sum()[None]]), strict=True):
            group.step(gradients)
    return np.reshape(errors, (CHANGES, EACH))


def measure(seed=0):
    """Squared errors (slow, fast, CHANGES, EACH)."""
    steps = list(stream(seed))
    return np.array([[follow(steps, slow, fast, seed) for fast in RATES] for slow in RATES])


def best(found):
    """Mean errors of the second half (slow, fast); the best of one rate; the best pair."""
    errors = found[:, :, CHANGES // 2 :].mean(axis=(2, 3))
    return errors, int(np.diagonal(errors).argmin()), np.unravel_index(errors.argmin(), errors.shape)


def claims(found):
    errors, one, (slow, fast) = best(found)
    yield f"best pair: {RATES[slow]:g} for the recurrent weights, {RATES[fast]:g} for the output", RATES[fast] > 2 * RATES[slow]
    pair, alone = errors[slow, fast], errors[one, one]
    yield f"error {pair:.3f}, at best {alone:.3f} with one rate", pair < 0.85 * alone


def draw(found):
    errors, one, (slow, fast) = best(found)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.4), constrained_layout=True)
    shades = left.imshow(np.log10(errors.T), cmap="Greens_r", origin="lower")
    for i, j in np.ndindex(errors.shape):
        colour = "white" if errors[i, j] < np.median(errors) else lesson.INK
        left.text(i, j, f"{errors[i, j]:.3f}", ha="center", va="center", weight="bold" if i == j else None, color=colour)
    left.set_xticks(range(len(RATES)), [f"{rate:g}" for rate in RATES])
    left.set_yticks(range(len(RATES)), [f"{rate:g}" for rate in RATES])
    left.set(xlabel="rate of the recurrent weights", ylabel="rate of the output layer", title="squared error (bold: one rate)")
    figure.colorbar(shades, ax=left, label="log₁₀")
    for pair, colour in (((one, one), lesson.COLOURS[1]), ((slow, fast), lesson.COLOURS[0])):
        label = " and ".join(f"{RATES[k]:g}" for k in dict.fromkeys(pair))
        right.semilogy(found[pair][CHANGES // 2 :].mean(axis=0), color=colour, label=f"rates {label}")
    right.set(xlabel="steps since the mixture changed", ylabel="squared error, second half")
    right.legend()
    return figure


if __name__ == "__main__":
    lesson.main()
