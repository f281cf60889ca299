"""A regulariser that keeps gradients flowing.

The first of 60 inputs is 1 or -1, noise follows, and at the end the net is asked which it was. The plain net begins with
small weights, so that of the gradient at the end next to nothing reaches the first step. Pascanu's regulariser

    Ω = Σ_t (‖δ_t ∂h_t/∂h_{t-1}‖ / ‖δ_t‖ - 1)²,   δ_t = ∂L/∂h_t held constant,

asks every step back to keep the norm of the error signal, in the direction in which it points. Two nets from the same
weights see the same sequences; the gradient of Ω is added for one of them. (Pascanu, Mikolov and Bengio 2013.)

See: on the left the net with Ω, as its training begins: the gradient that arrives far back grows from step to step of the
training, until the line is flat. In the middle both nets in the second half of the training, medians and all that was met:
without Ω next to nothing arrives, now as at the beginning. On the right the loss, which without Ω stays that of a guess
(dashed), and falls with it as soon as the line is flat.
"""

import lesson
import numpy as np
from lesson import plt
from optimizers import Adam

import fastgate
from fastgate import flow

N, T, H, STEPS, RATE, RADIUS = 16, 60, 24, 300, 2e-3, 0.5
EARLY = (0, 4, 8, 16, 32)  # steps of training whose gradients are drawn


def batch(rng, T=T):
    """x (N, T, 2): the sign to be kept, at the first step, and noise at all others; the answers 0 or 1."""
    y = rng.integers(2, size=N)
    x = np.zeros((N, T, 2))
    x[:, 0, 0] = 2 * y - 1
    x[:, 1:, 1] = 0.3 * rng.standard_normal((N, T - 1))
    return x, y


def train(weight):
    """Loss (STEPS,), and norms of the gradient by the state at each step of training and each time: (STEPS, T)."""
    rng = np.random.default_rng(0)
    Wx, Wh, b = rng.standard_normal((2, H)) / 2, RADIUS * np.linalg.qr(rng.standard_normal((H, H)))[0], np.zeros(H)
    V, c = 0.3 * rng.standard_normal((H, 2)), np.zeros(2)
    adam = Adam([Wx, Wh, b, V, c], rate=RATE)
    losses, norms = [], []
    for _ in range(STEPS):
        x, y = batch(rng)
        _, h_T, cache = fastgate.rnn_forward(x, None, Wx, Wh, b)
        loss, do = fastgate.softmax_cross_entropy(h_T @ V + c, y, reduction="mean")
        grads = fastgate.rnn_backward(None, cache, dh_T=do @ V.T, need=("dWx", "dWh", "db", "dh_total"))
        size = np.linalg.norm(grads.dh_total, axis=-1)
        norms.append(np.median(size / size[:, -1:], axis=0))
        losses.append(loss)
        gradients = [grads.dWx, grads.dWh, grads.db, h_T.T @ do, do.sum(axis=0)]
        fastgate.clip_grad_norm(gradients, 1.0)
        if weight:
            (trace,) = flow.trace(fastgate.RNNCell(Wx, Wh, b), x, dh_total=grads.dh_total)
            omega = flow.omega(trace).gradients
            for gradient, name in zip(gradients, ("dWx", "dWh", "db"), strict=False):
                gradient += weight * omega[name]
        adam.step(gradients)
    return np.array(losses), np.array(norms)


def measure():
    return {"without Ω": train(0), "with Ω": train(0.1)}


def claims(found):
    (plain, plain_norms), (kept, norms) = found.values()
    half = STEPS // 2
    yield f"without Ω never more than {plain_norms[:, 0].max():.0e} arrives at the first step", plain_norms[:, 0].max() < 1e-10
    yield f"and the loss ends at {plain[-50:].mean():.2f}, a guess", plain[-50:].mean() > 0.9 * np.log(2)
    yield f"both begin alike: {norms[0, 0]:.0e}", np.array_equal(norms[0], plain_norms[0])
    least, most = norms[half:].min(), norms[half:].max()
    yield f"with Ω, from {least:.2f} to {most:.2f} arrives at every step in the second half", least > 1e-3 and most < 10
    yield f"and the loss ends at {kept[-50:].mean():.3f}", kept[-50:].mean() < 0.1


def draw(found):
    figure, (early, late, loss) = plt.subplots(1, 3, figsize=(10.5, 3.4), width_ratios=(3, 3, 2), constrained_layout=True)
    back = np.arange(T)[::-1]
    for k, step in enumerate(EARLY):
        shade = plt.get_cmap("Greens")(0.35 + 0.6 * k / (len(EARLY) - 1))
        early.semilogy(back, found["with Ω"][1][step], color=shade, label=f"after {step} steps")
    for (name, (losses, norms)), colour in zip(found.items(), lesson.COLOURS[1::-1], strict=True):
        second = norms[STEPS // 2 :]
        late.fill_between(back, second.min(axis=0), second.max(axis=0), color=colour, alpha=0.25, lw=0)
        late.semilogy(back, np.median(second, axis=0), color=colour, label=name)
        loss.plot(losses, color=colour, lw=1)
    loss.axhline(np.log(2), color=lesson.INK, ls="--", lw=0.8)
    for panel, title in ((early, "with Ω, as training begins"), (late, "second half of the training")):
        panel.set(title=title, xlabel="steps before the last", ylim=(1e-21, 1e2))
        panel.legend(loc="lower left")
    early.set_ylabel("gradient that arrives, ‖∂L/∂hₜ‖ / ‖∂L/∂h_T‖")
    loss.set(title="loss", xlabel="training step")
    return figure


if __name__ == "__main__":
    lesson.main()
