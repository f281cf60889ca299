"""Clipping on a cliff.

The smallest recurrent net there is: one unit, h_t = σ(w h_{t-1} + b), 50 steps from h_0 = 0.5, and a loss that wants 0.7 at
the end. Below a line in the plane of w and b the unit settles near 0, above it near 1, and along the line the loss is a
cliff with its best values at the edge. Gradient descent follows the edge until one large gradient throws it onto the
plateau, where hardly any gradient is left. With the gradient clipped to a norm of 1 it takes the same path and stays at the
edge; so it does with each of its two numbers clipped to ±1 (by value). (Pascanu, Mikolov and Bengio 2013, figure 6.)

See: the red path ends in one jump; the other two, clipped, fall off the edge again and again, never far, and move on to where
the loss is least. Below, the loss of all: the clipped ones are lower from then on, whenever they stand on the edge.
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


def descend(clip):
    at, path, losses, norms = np.array(START), [], [], []
    for _ in range(STEPS):
        loss, gradient = loss_and_gradient(*at)
        path.append(at.copy())
        losses.append(loss)
        norms.append(float(np.linalg.norm(gradient)))
        clip([gradient])
        at = at - RATE * gradient
    return np.array(path), np.array(losses), np.array(norms)


CLIPS = {
    "plain": lambda gradients: None,
    "norm": lambda gradients: fastgate.clip_grad_norm(gradients, 1.0),
    "value": lambda gradients: fastgate.clip_grad_value(gradients, 1.0),
}


def measure():
    return {"surface": surface(), **{name: descend(clip) for name, clip in CLIPS.items()}}


def jumps(path):
    return np.linalg.norm(np.diff(path, axis=0), axis=1)


def claims(found):
    plain, plain_loss, _ = found["plain"]
    first = int(np.argmax(jumps(plain)))
    yield f"after {first} steps one step of plain descent goes {jumps(plain)[first]:.2f} far", jumps(plain)[first] > 10 * RATE
    for by, longest in (("norm", RATE), ("value", RATE * 2**0.5)):
        path, loss, norms = found[by]
        yield f"by {by}: the same path until then", bool(np.allclose(plain[:first], path[:first], atol=0.05))
        words = f"by {by}: no step is longer than {longest:.3f}, though a gradient was {norms.max():.0f}"
        yield words, jumps(path).max() <= longest * 1.000001
        best = loss[first:].min(), plain_loss[first + 1 :].min()
        yield f"by {by}: least loss after the jump {best[0]:.3f}, plain {best[1]:.3f}", best[1] > 3 * best[0]


def draw(found):
    figure = plt.figure(figsize=(6.4, 5.6), constrained_layout=True)
    top, below = figure.subplots(2, 1, height_ratios=(3, 1))
    w, b, loss = found["surface"]
    shades = top.pcolormesh(w, b, np.sqrt(loss), cmap="Greys", shading="gouraud", alpha=0.7)
    figure.colorbar(shades, ax=top, label="√loss")
    labels = "gradient descent", "clipped to a norm of 1", "both numbers clipped to ±1"
    for name, label, colour in zip(CLIPS, labels, [lesson.COLOURS[k] for k in (1, 0, 2)], strict=True):
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
