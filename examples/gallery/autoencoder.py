"""A sequence through a narrow door.

A gru reads a curve of 24 points; its last state is the context, all that a second gru has to write the curve again, last
point first. The curves are sums of three waves with random sines and cosines, so that six numbers describe each. How well
they come back depends on the width of the context, which is the number of units of both nets. 1500 steps of Adam for each
width. (`structures.SequenceAutoencoder`; Srivastava, Mansimov and Salakhutdinov 2015.)

See: on the left the error falls with the width. The dashed line is the best linear code of so many numbers, 1 - H/6: six
would do. The nets need more, since the same units must also do the reading and the writing. On the right one new curve: a
context of 4 keeps its rough course, one of 8 more of it, and behind 16 the two can hardly be told apart.
"""

import lesson
import numpy as np
from lesson import plt
from optimizers import Adam

import fastgate
from fastgate import structures

WIDTHS, SHOWN = (2, 4, 8, 16, 32), (4, 8, 16)
T, WAVES, N, STEPS, RATE, SEEDS = 24, 3, 64, 1500, 1e-2, (0, 1)
angles = 2 * np.pi * np.outer(np.arange(1, WAVES + 1), np.arange(T) / T)
BASIS = np.concatenate([np.sin(angles), np.cos(angles)]) / np.sqrt(WAVES)


def batch(rng, rows=N):
    """Curves (rows, T, 1) of variance 1."""
    return (rng.standard_normal((rows, 2 * WAVES)) @ BASIS)[..., None].astype(np.float32)


def train(width, seed):
    """What the net makes of 500 new curves."""
    rng = np.random.default_rng(seed)
    model = structures.SequenceAutoencoder(1, width, conditional=False, cell="gru", rng=seed)
    adam = Adam([model.parameters])
    for step in range(STEPS):
        x = batch(rng)
        o, _, cache = model.forward(x)
        model.backward(2 / o.size * (o - x), cache, need_dx=False)
        fastgate.clip_grad_norm([model.gradients], 1.0)
        adam.rate = RATE * (1 - step / STEPS)
        adam.step([model.gradients])
    return model.forward(test(), training=False).o


def test():
    return batch(np.random.default_rng(99), 500)


def measure():
    """The squared errors (widths, seeds); the first new curve, and what comes back of it behind each width."""
    x = test()
    back = np.array([[train(width, seed) for seed in SEEDS] for width in WIDTHS])
    return np.mean((back - x) ** 2, axis=(2, 3, 4)), x[0, :, 0], back[:, 0, 0, :, 0]


def claims(found):
    errors = found[0]
    for narrow, wide, before, after in zip(WIDTHS[1:], WIDTHS[2:], errors[1:], errors[2:], strict=False):
        sentence = f"{wide} units, at most {after.max():.2g}, are better than {narrow}, at least {before.min():.2g}"
        yield sentence, before.min() > 1.5 * after.max()
    for width, error in zip(WIDTHS, errors, strict=True):
        if width < 2 * WAVES:
            yield f"{width} numbers: not below the best linear code", error.min() > 0.9 * (1 - width / 2 / WAVES)
    yield f"8 numbers would do, 8 units do not: {errors[2].min():.2f}", errors[2].min() > 0.05
    yield f"with 16 units {errors[3].max():.2%} of the variance is lost", errors[3].max() < 0.01


def draw(found):
    errors, curve, back = found
    figure = plt.figure(figsize=(9.5, 3.6), constrained_layout=True)
    left, *right = figure.subplot_mosaic([["e", *SHOWN]], width_ratios=(1.7, 1, 1, 1)).values()
    left.loglog(WIDTHS, errors.mean(axis=1), "-", color=lesson.COLOURS[0], label="gru, two runs")
    left.loglog(WIDTHS, errors, "o", color=lesson.COLOURS[0], ms=4)
    numbers = np.linspace(1.6, 2 * WAVES - 1e-3, 400)
    left.loglog(numbers, 1 - numbers / 2 / WAVES, "--", color=lesson.INK, lw=0.8, label="best linear code")
    left.set(xlabel="width of the context", ylabel="squared error", ylim=(errors.min() / 2, 8))
    left.set_xticks(WIDTHS, WIDTHS)
    left.minorticks_off()
    left.legend(loc="upper right")
    for panel, width in zip(right, SHOWN, strict=True):
        panel.plot(curve, color=lesson.FAINT, lw=5, label="read", solid_capstyle="round")
        panel.plot(back[WIDTHS.index(width)], color=lesson.COLOURS[0], label="written")
        panel.set(title=f"{width} units", xlabel="step", ylim=(-3.5, 2.5), yticks=[])
    right[0].legend(loc="lower right")
    return figure


if __name__ == "__main__":
    lesson.main()
