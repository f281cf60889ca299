"""Clipping on a cliff.

The smallest recurrent net there is: one unit, h_t = σ(w h_{t-1} + b), 50 steps from h_0 = 0.5, and a loss that wants 0.7 at
the end. Below a line in the plane of w and b the unit settles near 0, above it near 1, and along the line the loss is a
cliff with its best values at the edge. Gradient descent follows the edge until one large gradient throws it onto the
plateau, where hardly any gradient is left. With the gradient clipped to a norm of 1 it takes the same path and stays at the
edge. (Pascanu, Mikolov and Bengio 2013, figure 6.)

See: the red path ends in one jump; the green one, clipped, falls off the edge again and again, never far, and moves on to
where the loss is least. Below, the loss of both: the clipped one is lower from then on, whenever it stands on the edge.
"""

import lesson
import numpy as np
from lesson import plt

import fastgate

T, H0, TARGET = 50, 0.5, 0.7
START, RATE, STEPS = (5.2, -2.75), 0.06, 400
W, B = (4.2, 6.6), (-3.2, -1.3)


def loss_and_gradient(w, b):
    """½ (h_T - target)², and its gradient by w and b."""
    x, h0 = np.zeros((1, T, 1)), np.full((1, 1), H0)
    _, h_T, cache = fastgate.rnn_forward(x, h0, np.zeros((1, 1)), np.array([[w]]), np.array([b]), activation="sigmoid")
    grads = fastgate.rnn_backward(None, cache, dh_T=h_T - TARGET)
    return 0.5 * float(h_T[0, 0] - TARGET) ** 2, np.array([grads.dWh[0, 0], grads.db[0]])


def surface():
    """The loss at every point of the picture: as many sequences as points, each with a net of its own."""
    w, b = np.meshgrid(np.linspace(*W, 161), np.linspace(*B, 161))
    h = np.full(w.shape, H0)
    for _ in range(T):
        h = 1 / (1 + np.exp(-(w * h + b)))
    return w, b, 0.5 * (h - TARGET) ** 2


def descend(max_norm):
    at, path, losses, norms = np.array(START), [], [], []
    for _ in range(STEPS):
        loss, gradient = loss_and_gradient(*at)
        path.append(at.copy())
        losses.append(loss)
        norms.append(float(np.linalg.norm(gradient)))
        if max_norm:
            fastgate.clip_grad_norm([gradient], max_norm)
        at = at - RATE * gradient
    return np.array(path), np.array(losses), np.array(norms)


def measure():
    return {"surface": surface(), "plain": descend(None), "clipped": descend(1.0)}


def jumps(path):
    return np.linalg.norm(np.diff(path, axis=0), axis=1)


def claims(found):
    (plain, plain_loss, _), (clipped, clipped_loss, norms) = found["plain"], found["clipped"]
    first = int(np.argmax(jumps(plain)))
    yield f"both take the same path for {first} steps", bool(np.allclose(plain[:first], clipped[:first], atol=0.05))
    yield f"then one step of plain descent goes {jumps(plain)[first]:.2f} far", jumps(plain)[first] > 10 * RATE
    yield (
        f"clipped, no step is longer than {RATE}, though a gradient was {norms.max():.0f}",
        jumps(clipped).max() <= RATE * 1.000001,
    )
    best = clipped_loss[first:].min(), plain_loss[first + 1 :].min()
    yield f"least loss after the jump: {best[1]:.3f} plain, {best[0]:.3f} clipped", best[1] > 3 * best[0]


def draw(found):
    figure = plt.figure(figsize=(6.4, 5.6), constrained_layout=True)
    top, below = figure.subplots(2, 1, height_ratios=(3, 1))
    w, b, loss = found["surface"]
    shades = top.pcolormesh(w, b, np.sqrt(loss), cmap="Greys", shading="gouraud", alpha=0.7)
    figure.colorbar(shades, ax=top, label="√loss")
    lines = ("plain", "gradient descent", lesson.COLOURS[1]), ("clipped", "clipped to a norm of 1", lesson.COLOURS[0])
    for name, label, colour in lines:
        path, losses, _ = found[name]
        top.plot(*path.T, "-o", color=colour, ms=2, lw=1, label=label)
        below.plot(losses, color=colour, lw=1)
    top.plot(*START, "o", color="white", ms=5)
    top.annotate("start", START, xytext=(6, -10), textcoords="offset points", color="white")
    top.set(xlim=W, ylim=B, xlabel="w", ylabel="b")
    top.legend(loc="upper right")
    below.set(xlabel="step", ylabel="loss", yscale="log")
    return figure


if __name__ == "__main__":
    lesson.main()
