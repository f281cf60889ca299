"""Missing values.

Four sensors, each a random signal that comes back to its mean of 0: one forgets where it was within 2 steps, the last only
within 40. A growing share of their values is missing, and at every step a gru of 32 units is asked for what is missing. It
is given 0 in its place, or the last value observed, or that and the mask of what is missing; or it is the inside of
`structures.MissingValues`, where the last value fades to the mean at a pace that is learned for each sensor. What the best
possible answer is we know: the last value times exp(-age / reach). (Che, Purushotham, Cho, Sontag and Liu 2018.)

See: on the left how much worse than the best answer each is. With 0 the gru must remember by itself what it has seen. The
last value serves while little is missing; the more is, the older it gets. With the learned decay next to nothing is lost
at any share. On the right why: the decays that were learned are those of the sensors.
"""

import lesson
import numpy as np
from lesson import plt
from optimizers import Adam

import fastgate
from fastgate import structures

SHARES = (0.2, 0.4, 0.6, 0.8)
REACH = np.array([2.0, 5.0, 12.0, 40.0])  # of each sensor, in steps
WAYS = (("zero", "0"), ("last", "the last value"), ("mask", "the last value, and the mask"), ("decay", "learned decay"))
T, N, D, H, STEPS, RATE = 50, 32, len(REACH), 32, 400, 5e-3


def batch(rng, share, rows=N):
    """(rows, T, D) each: the truth, where it is observed (at the first step everywhere), the last value, how old it is."""
    x, keep, t = rng.standard_normal((rows, T, D)), np.exp(-1 / REACH), np.arange(T)[:, None]
    for i in range(1, T):
        x[:, i] = keep * x[:, i - 1] + np.sqrt(1 - keep**2) * x[:, i]
    mask = (rng.random(x.shape) >= share) | (t == 0)
    newest = np.maximum.accumulate(np.where(mask, t, 0), axis=1)
    x = x.astype(np.float32)
    return x, mask, np.take_along_axis(x, newest, axis=1), t - newest


def given(way, x, mask, last, _):
    """What the layer's forward is called with."""
    if way == "decay":
        return x, mask
    return ({"zero": last * mask, "last": last, "mask": np.concatenate([last, mask], axis=2, dtype=np.float32)}[way],)


def train(way, share):
    """How much worse it is than the best answer on 1000 new rows, in squared error at what is missing; the model."""
    rng, model = np.random.default_rng(0), fastgate.GRU(2 * D if way == "mask" else D, H, rng=0)
    if way == "decay":
        model = structures.MissingValues(D, H, cell="gru", hidden_decay=False, rng=0)
    V, c = (rng.standard_normal((H, D)) / np.sqrt(H)).astype(np.float32), np.zeros(D, np.float32)
    adam = Adam([model.parameters, V, c])
    for step in range(STEPS):
        x, mask, *_ = drawn = batch(rng, share)
        found = model.forward(*given(way, *drawn))
        do = ((found.h @ V + c - x) * (~mask * np.float32(2 / (~mask).sum()))).astype(np.float32)
        model.backward(do @ V.T, found.cache)
        gradients = [model.gradients, found.h.reshape(-1, H).T @ do.reshape(-1, D), do.sum(axis=(0, 1))]
        fastgate.clip_grad_norm(gradients, 1.0)
        adam.rate = RATE * (1 - step / STEPS)
        adam.step(gradients)
    x, mask, last, age = drawn = batch(np.random.default_rng(1), share, 1000)
    o, best = model.forward(*given(way, *drawn), training=False).h @ V + c, last * np.exp(-age / REACH)
    return float(((o - x) ** 2 - (best - x) ** 2)[~mask].mean()), model


def measure():
    """What is lost, of each way (shares,); the weights of the decay at the largest share."""
    found = {way: [train(way, share) for share in SHARES] for way, _ in WAYS}
    weights = found["decay"][-1][1].weights
    return {way: np.array([lost for lost, _ in runs]) for way, runs in found.items()}, weights["wx"], weights["bx"]


def learned(found, age):
    """The decay after so many steps: (ages, D)."""
    return np.exp(-np.maximum(0, np.multiply.outer(age, found[1]) + found[2]))


def claims(found):
    zero, last, mask, decay = (found[0][way] for way, _ in WAYS)
    at = f"at {SHARES[-1]:.0%}"
    yield "0 is the worst at every share", bool((zero > 1.5 * np.maximum(last, mask)).all())
    yield f"the last value: {last[0]:.3f} is lost, {last[-1]:.3f} {at}", last[-1] > 2 * last[0]
    yield f"the mask helps: {mask[-1]:.3f} {at}", mask[-1] < 0.8 * last[-1]
    yield f"the learned decay loses {decay[-1]:.4f} {at}", decay[-1] < mask[-1] / 3
    yield f"and never more than {decay.max():.4f}; 0 at least {zero.min():.3f}", decay.max() < zero.min() / 5
    for i, reach in enumerate(REACH):
        share = learned(found, reach * np.log(2))[i]
        yield f"reach {reach:g}: at the age where half is left, {share:.2f} is learned", abs(share - 0.5) < 0.12


def draw(found):
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), constrained_layout=True)
    for (way, name), colour in zip(WAYS, (*lesson.COLOURS[1:4], lesson.COLOURS[0]), strict=True):
        left.plot(np.array(SHARES) * 100, found[0][way], "-o", color=colour, ms=4, label=name)
    left.axhline(0, color=lesson.INK, ls="--", lw=0.8)
    left.set(xlabel="missing, %", ylabel="squared error beyond the best answer's", ylim=(-0.003, 0.105))
    left.legend(loc="upper left", ncols=2)
    age = np.linspace(0, 30, 121)
    for reach, curve in zip(REACH, learned(found, age).T, strict=True):
        right.plot(age, np.exp(-age / reach), color=lesson.FAINT, lw=5)
        right.plot(age, curve, color=lesson.COLOURS[0], lw=1.3)
        at = min(reach, 24)
        right.annotate(f"{reach:g}", (at, np.exp(-at / reach)), xytext=(6, 4), textcoords="offset points")
    right.legend(right.lines[:2], ("sensors of reach 2, 5, 12, 40", "learned"), loc="upper right")
    right.set(xlabel="steps since a value was observed", ylabel="how much of it is left", ylim=(0, 1.15))
    return figure


if __name__ == "__main__":
    lesson.main()
