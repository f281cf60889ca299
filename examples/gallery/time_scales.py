"""Several time scales.

A net without any input learns to write 240 values of a signal with a slow, a middle and a fast part. Two nets of 50 tanh
units: in the plain one all units move at every step. The other is a clockwork: blocks of ten units that move at every step,
every 2nd, 4th, 8th and 16th (`period=`), where a block hears only from itself and from slower ones, so that two fifths of Wh
are zeros. 1000 steps of Adam; three rates and three random beginnings for each, since the plain net is fastidious about
both. (El Hihi and Bengio 1996; Koutnik, Greff, Gomez and Schmidhuber 2014.)

See: above, what the middle one of nine nets of each kind writes. The clockwork lies on the signal, ripples and all. The plain
net follows roughly at first; then the slow part is lost, and the ripples go on alone. Below, the errors of
all: every green line ends below every red one. The clockworks learn the slow parts first, which takes them to the dotted
line, then the fast one. Longer training with a lucky rate brings some plain nets there, too; the clockwork needs no luck.
"""

import lesson
import numpy as np
from lesson import plt
from optimizers import Adam

import fastgate

T, H, STEPS = 240, 50, 1000
RATES, SEEDS = (5e-4, 1e-3, 2e-3), (0, 1, 2)
PERIOD = np.repeat([1, 2, 4, 8, 16], H // 5)
NETS = (("plain", None, lesson.COLOURS[1]), ("clockwork", PERIOD, lesson.COLOURS[0]))
NOTHING = np.zeros((1, T, 1))
t = np.arange(T)
FAST = np.sin(2 * np.pi * t / 7 + 2)
SIGNAL = np.sin(2 * np.pi * t / 190) + 0.5 * np.sin(2 * np.pi * t / 43 + 1) + 0.25 * FAST
WITHOUT_FAST = np.var(0.25 * FAST)


def weights(rng, period):
    """Wh, and which of it is open: all, or what leads from a unit to one at least as fast."""
    if period is None:
        return np.linalg.qr(rng.standard_normal((H, H)))[0], np.ones((H, H))
    opened = (period[:, None] >= period).astype(float)
    return rng.standard_normal((H, H)) * opened / np.sqrt(opened.sum(axis=0)), opened


def train(period, rate, seed):
    """Mean squared error of each step, and what the net writes in the end."""
    rng = np.random.default_rng(seed)
    Wh, opened = weights(rng, period)
    h0, b, v, c = 0.5 * rng.standard_normal(H), np.zeros(H), rng.standard_normal(H) / np.sqrt(H), np.zeros(1)
    adam = Adam([Wh, b, h0, v, c], rate=rate)
    errors = []
    for _ in range(STEPS):
        h, _, cache = fastgate.rnn_forward(NOTHING, h0, np.zeros((1, H)), Wh, b, period=period)
        o = h[0] @ v + c
        errors.append(float(np.mean((o - SIGNAL) ** 2)))
        do = 2 / T * (o - SIGNAL)
        grads = fastgate.rnn_backward(np.outer(do, v)[None], cache)
        gradients = [grads.dWh * opened, grads.db, grads.dh0, h[0].T @ do, do.sum(keepdims=True)]
        fastgate.clip_grad_norm(gradients, 1.0)
        adam.step(gradients)
    return np.array(errors), o


def last(errors):
    return float(errors[-100:].mean())


def measure():
    """Of each net its runs, the best first."""
    return {
        name: sorted((train(period, rate, seed) for rate in RATES for seed in SEEDS), key=lambda run: last(run[0]))
        for name, period, _ in NETS
    }


def claims(found):
    plain, clockwork = ([last(errors) / SIGNAL.var() for errors, _ in found[name]] for name in ("plain", "clockwork"))
    yield f"the middle clockwork leaves {clockwork[4]:.2%} of the variance", clockwork[4] < 0.005
    yield f"the middle plain net leaves {plain[4]:.0%}", plain[4] > 0.3
    slow = [np.convolve(o, np.ones(7) / 7, "valid")[100:].std() for o in (SIGNAL, found["plain"][4][1])]
    yield f"of the slow part it has {slow[1] / slow[0]:.0%} after step 100", slow[1] < 0.3 * slow[0]
    yield f"the best plain net leaves {plain[0]:.1%}, the worst clockwork {clockwork[-1]:.2%}", plain[0] > 5 * clockwork[-1]
    yield "the worst clockwork has the fast part, too", clockwork[-1] * SIGNAL.var() < WITHOUT_FAST / 4


def draw(found):
    figure = plt.figure(figsize=(8, 5.4), constrained_layout=True)
    top, below = figure.subplots(2, 1, height_ratios=(3, 2))
    top.plot(SIGNAL, color=lesson.FAINT, lw=5, label="signal", solid_capstyle="round")
    for name, _, colour in NETS:
        errors, o = found[name][4]
        top.plot(o, color=colour, lw=1.3, label=f"{name}: squared error {last(errors):.1g}")
        for i, (line, _) in enumerate(found[name]):
            below.semilogy(line, color=colour, lw=0.9, alpha=0.8, label=None if i else f"{name}, nine runs")
    top.set(xlabel="time", ylim=(-1.9, 2.7))
    top.legend(ncols=3, loc="upper left")
    for level, style, text in ((SIGNAL.var(), "--", "a constant"), (WITHOUT_FAST, ":", "all but the fast part")):
        below.axhline(level, color=lesson.INK, ls=style, lw=0.9)
        below.annotate(text, (1.01, level), xycoords=("axes fraction", "data"), va="center")
    below.set(xlabel="training step", ylabel="squared error", xlim=(0, STEPS), ylim=(5e-5, 5))
    below.legend(loc="lower left")
    return figure


if __name__ == "__main__":
    lesson.main()
