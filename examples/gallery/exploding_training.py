"""Training that explodes, and training that is clipped.

A net of relu units, whose states nothing bounds, learns by gradient descent to answer the mean of 100 random numbers. Its
recurrent weights begin 1.4 times as large as orthogonal ones, so the first gradient is large: the step along it makes the
states, and the next gradient, larger by many orders. Clipping by norm bounds the length of a step, clipping by value each
number of it. (Pascanu, Mikolov and Bengio 2013; Goodfellow, Bengio and Courville 2016, section 10.11.1.)

See: without clipping the loss leaves the range of float32 within three steps. Clipped by norm or by value, the same net
with the same rate stays finite, and its error falls a hundredfold.
"""

import lesson
import numpy as np
from lesson import plt
from optimizers import SGD

import fastgate

T, N, H, STEPS, RATE, GROWTH = 100, 32, 32, 300, 0.02, 1.4


def train(clip):
    """Squared errors, until one is not finite."""
    rng = np.random.default_rng(0)
    layer = fastgate.RNN(1, H, activation="relu", rng=rng)
    layer.weights["Wh0"][...] *= GROWTH
    v = (rng.standard_normal(H) / np.sqrt(H)).astype(np.float32)
    optimizer = SGD([layer.parameters, v], rate=RATE)
    errors = []
    with np.errstate(all="ignore"):
        for _ in range(STEPS):
            x = rng.random((N, T, 1), np.float32)
            found = layer.forward(x)
            h_T = found.h_T[-1]
            miss = h_T @ v - x.sum(axis=(1, 2)) / T
            errors.append(float(np.mean(miss**2)))
            if not np.isfinite(errors[-1]):
                break
            do = 2 / N * miss
            layer.backward(None, found.cache, dh_T=np.outer(do, v)[None].astype(np.float32))
            gradients = [layer.gradients, h_T.T @ do]
            clip(gradients)
            optimizer.step(gradients)
    return np.array(errors)


CLIPS = {
    "none": lambda gradients: None,
    "norm": lambda gradients: fastgate.clip_grad_norm(gradients, 1.0),
    "value": lambda gradients: fastgate.clip_grad_value(gradients, 0.1),
}


def measure():
    return {name: train(clip) for name, clip in CLIPS.items()}


def claims(found):
    plain = found["none"]
    words = ", ".join(f"{e:.2g}" for e in plain)
    yield f"without clipping: {words}", len(plain) <= 3 and not np.isfinite(plain[-1])
    for name in ("norm", "value"):
        errors = found[name]
        start, end = errors[0], errors[-50:].mean()
        yield f"clipped by {name}: all {len(errors)} errors finite", len(errors) == STEPS and bool(np.isfinite(errors).all())
        yield f"clipped by {name}: from {start:.2g} to {end:.2g}", end < start / 100


def draw(found):
    figure, panel = plt.subplots(figsize=(6, 3.4), constrained_layout=True)
    for name, label, colour in (("norm", "clipped by norm", 0), ("value", "clipped by value", 2)):
        panel.semilogy(1 + np.arange(STEPS), found[name], color=lesson.COLOURS[colour], label=label)
    plain = found["none"]
    shown = plain[np.isfinite(plain)]
    panel.semilogy(1 + np.arange(len(shown)), shown, "o-", color=lesson.COLOURS[1], label="not clipped, until it was no number")
    panel.set(xlabel="training step", ylabel="squared error", xscale="log", ylim=(1e-4, 1e24))
    panel.legend()
    return figure


if __name__ == "__main__":
    lesson.main()
