"""A real series: the potential of a nerve cell.

Matplotlib ships a recording among its samples, membrane.dat: the potential of a nerve cell, 12000 values, which fires again and
again while a current flows into it. Every fourth value is a step; four rows begin one value apart. A gru of 24 units reads the
first 70% of that time in chunks of 50 steps, whose states are carried on, and learns to say what the potential will be 1 to 8
steps later; the rest it has never seen. Beside it two answers that need no net: that nothing changes, and the best
linear mixture of the last 32 values. (`layers.truncated_bptt`; Williams and Peng 1990.)

See: above, a part of the rest, and what one gru said of each value three steps before: it knows mostly when the cell is about
to fire, and expects it now and then where it does not. Below, the error of all three answers for each distance, of the gru that
of three nets. From three steps on "nothing changes" is worse than to name the mean at all times (dashed), and so is the linear
mixture; the gru has less error at every distance.
"""

import lesson
import matplotlib.cbook
import numpy as np
from lesson import plt
from optimizers import Adam

import fastgate
from fastgate.layers import truncated_bptt

FIRES, EVERY, SHARE = slice(1500, 10900), 4, 0.7  # while the cell fires; values a step; how much is learned from
AHEAD, PAST = 8, 32  # steps: what is asked for, what the linear mixture takes
H, EPOCHS, CHUNK, RATE, NETS, SHOWN = 24, 60, 50, 1e-2, 3, 3


def windows(z, width):
    """(rows, T - width + 1, width): views."""
    return np.lib.stride_tricks.sliding_window_view(z, width, axis=1)


def series():
    """The potential z (EVERY, T), of mean 0, variance 1; what follows each value (EVERY, T, AHEAD); where the rest begins."""
    with matplotlib.cbook.get_sample_data("membrane.dat") as file:
        z = np.frombuffer(file.read(), np.float32)[FIRES].reshape(-1, EVERY).T
    z = (z - z.mean()) / z.std()
    return z[:, :-AHEAD], windows(z[:, 1:], AHEAD), int(SHARE * z.shape[1])


def linear(z, y, end):
    """What the best mixture of PAST values, found in what is learned from, says of the rest."""
    rows = windows(np.pad(z, ((0, 0), (PAST - 1, 0))), PAST)
    rows = np.concatenate([rows, np.ones((*z.shape, 1))], axis=2)
    A, *_ = np.linalg.lstsq(rows[:, : end - AHEAD].reshape(-1, PAST + 1), y[:, : end - AHEAD].reshape(-1, AHEAD), rcond=None)
    return rows[:, end:] @ A


def gru(z, y, end, seed):
    """What a net says of the rest."""
    rng = np.random.default_rng(seed)
    layer, x = fastgate.GRU(1, H, rng=rng), np.ascontiguousarray(z)[..., None]
    V, c = np.zeros((H, AHEAD), np.float32), np.zeros(AHEAD, np.float32)
    adam = Adam([layer.parameters, V, c])
    for epoch in range(EPOCHS):
        adam.rate = RATE * (1 - epoch / EPOCHS)
        for chunk in truncated_bptt(layer, x[:, : end - AHEAD], k1=CHUNK):
            miss = chunk.h @ V + c + x[:, chunk.steps] - y[:, chunk.steps]
            do = 2 / miss.size * miss
            chunk.backward(do @ V.T, need_dx=False)
            gradients = [layer.gradients, np.einsum("nth,ntk->hk", chunk.h, do), do.sum(axis=(0, 1))]
            fastgate.clip_grad_norm(gradients, 1.0)
            adam.step(gradients)
    return (layer.forward(x, training=False).h @ V + c + x)[:, end:]


def measure(seed=0):
    """What follows each value of the rest (EVERY, T, AHEAD), and what each way says of it, each of its nets."""
    z, y, end = series()
    said = {"nothing changes": [np.repeat(z[:, end:, None], AHEAD, axis=2)], "linear": [linear(z, y, end)]}
    return y[:, end:], {**said, "gru": [gru(z, y, end, seed + k) for k in range(NETS)]}


def errors(found):
    """Of each way, of each of its nets: root mean squares (AHEAD,), as a share of the standard deviation."""
    y, said = found
    return {way: np.sqrt(np.mean((np.array(nets) - y) ** 2, axis=(1, 2))) / y.std() for way, nets in said.items()}


def claims(found):
    naive, mixed, nets = errors(found).values()
    yield f"{SHOWN} steps ahead: nothing changes {naive[0, SHOWN - 1]:.2f}, no better than the mean", naive[0, SHOWN - 1] > 1
    for ahead in (1, SHOWN, AHEAD):
        mixture, each = mixed[0, ahead - 1], nets[:, ahead - 1]
        words = f"{ahead} ahead: linear {mixture:.2f}, gru {each.min():.2f} to {each.max():.2f}"
        yield words, each.max() < 0.92 * mixture
    ratio = nets / np.minimum(mixed, naive)
    yield f"the gru at most {ratio.max():.2f} of the better of both, at every distance", ratio.max() < 0.92
    yield f"and is always better than the mean: {nets.max():.2f}", nets.max() < 1


def draw(found):
    figure, (top, below) = plt.subplots(2, 1, figsize=(9, 5.4), constrained_layout=True)
    y, said = found[0][0, -500:], found[1]["gru"][0][0, -500:]
    top.plot(y[:, SHOWN - 1], color=lesson.FAINT, lw=4, label="the potential")
    top.plot(said[:, SHOWN - 1], lw=1, label=f"the gru, {SHOWN} steps before")
    top.set(xlabel="step", ylabel="potential, standardised", ylim=(-3, 7))
    top.legend(loc="upper right", ncols=2)
    for (way, runs), colour in zip(errors(found).items(), lesson.COLOURS[2::-1], strict=True):
        below.plot(range(1, AHEAD + 1), runs.T, "-o", ms=3, color=colour, label=[way, *[None] * (len(runs) - 1)])
    below.axhline(1, color=lesson.INK, ls="--", lw=0.8)
    below.set(xlabel="steps ahead", ylabel="error / standard deviation")
    below.legend()
    return figure


if __name__ == "__main__":
    lesson.main()
