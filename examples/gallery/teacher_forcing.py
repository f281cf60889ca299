"""Teacher forcing and free running.

A damped pendulum is pushed about, and a net is to say where it will be. Its recurrence goes through its output alone,
h_t = tanh(x_t Wx + y_{t-1} Wy + b) and o_t = h_t V + c, where x_t is the push and y angle and speed. In training the
measured y_{t-1} may be given at every step (teacher forcing: no step waits for another one); in use the net must go on from
what it said itself. Scheduled sampling begins with the measured values and gives the net more and more of its own, through
which no gradient passes. The third net runs freely in training too, its gradients going back through its outputs. (Williams
and Zipser 1989; Bengio, Vinyals, Jaitly and Shazeer 2015.)

See: with noisy measurements teacher forcing has the least error when the measurement before is given (bars; dashed, what the
noise alone makes) and the largest when it runs freely: it has learned to distrust what it is given. Scheduled sampling lies
between, nearer to this or that with other first weights. From exact measurements, on the right, it is the worst of the three.
"""

import lesson
import numpy as np
from lesson import plt
from optimizers import Adam

import fastgate
from fastgate import decode, structures

N, T, H, STEPS, RATE, NOISE = 32, 60, 12, 500, 3e-3, 0.4  # the noise is about as large as angles and speeds are
WAYS = {"teacher forcing": lesson.COLOURS[1], "scheduled sampling": lesson.COLOURS[3], "free running": lesson.COLOURS[0]}


def pendulums(rng, N, noise):
    """Pushes x (N, T, 1), one for 5 steps each; angle and speed y (N, T + 1, 2), the first before any push; y measured."""
    x = np.repeat(rng.uniform(-0.4, 0.4, (N, T // 5)), 5, axis=1)
    angle, speed = rng.uniform(-1, 1, (2, N))
    y = [(angle, speed)]
    for push in x.T:
        for _ in range(6):
            speed = speed + 0.05 * (push - np.sin(angle) - 0.2 * speed)
            angle = angle + 0.05 * speed
        y.append((angle, speed))
    y = np.array(y).transpose(2, 0, 1)
    return [a.astype(np.float32) for a in (x[..., None], y, y + noise * rng.standard_normal(y.shape))]


def mixed(net, x, y, probability, rng):
    """What scheduled sampling gives: at each step of each row the measured y with `probability`, else what the net said."""
    given, before = y[:, 1:].copy(), y[:, 0]
    for t in range(T):
        own = net.forward(x[:, t : t + 1], y0=before, training=False).o[:, 0]
        before = given[:, t] = np.where(rng.random((N, 1)) < probability, given[:, t], own)
    return given


def train(way, noise):
    rng = np.random.default_rng(0)
    pushes, _, measured = pendulums(rng, 1000, noise)
    net = structures.OutputRecurrence(1, H, 2, rng=0)
    adam = Adam([net.parameters])
    for i in range(STEPS):
        rows = rng.integers(len(pushes), size=N)
        x, y = pushes[rows], measured[rows]
        given = None if way == "free running" else y[:, 1:]
        if way == "scheduled sampling":
            given = mixed(net, x, y, decode.linear_schedule(i, c=1.25 / STEPS), rng)
        o, _, cache = net.forward(x, given, y0=y[:, 0])
        net.backward((o - y[:, 1:]) / o.size, cache, need_dx=False)
        fastgate.clip_grad_norm([net.gradients], 1.0)
        adam.rate = RATE * (1 - i / STEPS)
        adam.step([net.gradients])
    return net


def measure():
    """Of each noise and way: the error of one step, errors of running freely (T,), one pendulum's angles; its true angles."""
    found = {}
    for noise in (NOISE, 0.0):
        x, y, measured = pendulums(np.random.default_rng(1), 500, noise)
        for way in WAYS:
            net = train(way, noise)
            miss = net.forward(x, measured[:, 1:], y0=measured[:, 0]).o - measured[:, 1:]
            free = net.forward(x, y0=y[:, 0]).o
            found[noise, way] = np.sqrt(np.mean(miss**2)), np.sqrt(np.mean((free - y[:, 1:]) ** 2, axis=(0, 2))), free[0, :, 0]
    return found, y[0, 1:, 0]


def claims(found):
    forced, sampled, free = (found[0][NOISE, way][0] for way in WAYS)
    yield f"after one step: {forced:.3f} forced, {sampled:.3f} sampled, {free:.3f} free", 1.02 * forced < sampled < free
    forced, sampled, free = (found[0][NOISE, way][1][20:].mean() for way in WAYS)
    yield f"running freely: {forced:.2f} forced, {sampled:.2f} sampled, {free:.2f} free", forced > 1.02 * sampled > 1.5 * free
    forced, sampled, free = (found[0][0.0, way][1][20:].mean() for way in WAYS)
    yield f"so without noise: {forced:.2f} forced, {sampled:.2f} sampled, {free:.2f} free", sampled > 1.2 * forced > 1.4 * free


def draw(found):
    figure, (angle, bars, *panels) = plt.subplots(1, 4, figsize=(11, 3.2), width_ratios=(3, 1, 3, 3), constrained_layout=True)
    angle.plot(range(1, T + 1), found[1], color=lesson.FAINT, lw=4, label="the pendulum")
    for (noise, way), (one, errors, angles) in found[0].items():
        panels[noise == 0].plot(range(1, T + 1), errors, color=WAYS[way], label=way)
        if noise:
            angle.plot(range(1, T + 1), angles, color=WAYS[way], lw=1.2)
            bars.bar(way, one, color=WAYS[way])
    bars.axhline(NOISE, color=lesson.INK, ls="--", lw=0.8)
    angle.set(xlabel="step", ylabel="angle", title="running freely, learned with noise")
    bars.set(xticks=(), ylabel="error", title="one step, noise")
    for panel, title in zip(panels, ("running freely, noise", "running freely, no noise"), strict=True):
        panel.set(xlabel="steps run freely", ylabel="error", ylim=(0, 0.6), title=title)
    angle.legend()
    panels[1].legend()
    return figure


if __name__ == "__main__":
    lesson.main()
