"""Vanishing and exploding gradients.

A loss looks at the last of 100 states of a plain recurrent net. How much of its gradient arrives at the states before? Wh
is an orthogonal matrix times its spectral radius, so that without an activation every step back multiplies the gradient by
just that number. With tanh, whose slope is below 1 wherever a state is not 0, it shrinks faster. And clipping inside the
recurrence, `grad_clip=`, bounds each number of each step's gradient on its way. (Bengio, Simard and Frasconi 1994; Pascanu,
Mikolov and Bengio 2013; Graves 2013.)

See: on the left straight lines in a logarithmic scale: below a radius of 1 the gradient vanishes, above it explodes, both
exponentially in the number of steps. In the middle the same weights with tanh: states that grow saturate, and even a radius
of 1.1 no longer explodes as it did. On the right no activation, clipped inside: what exploded is held at the level of the
bound; what vanishes, vanishes as before.
"""

import lesson
import numpy as np
from lesson import plt

import fastgate

RADII = (0.8, 0.95, 1.0, 1.05, 1.1)
T, N, D, H, CLIP = 100, 16, 8, 64, 1.0
WAYS = {"no activation": ("identity", None), "tanh": ("tanh", None), "no activation, clipped": ("identity", CLIP)}


def measure():
    """‖∂L/∂h_t‖ / ‖∂L/∂h_T‖ of each way: (radius, step), averaged over rows."""
    rng = np.random.default_rng(0)
    orthogonal = np.linalg.qr(rng.standard_normal((H, H)))[0]
    x, Wx = rng.standard_normal((N, T, D)), 0.3 * rng.standard_normal((D, H))
    dh_T = rng.standard_normal((N, H))
    dh_T *= np.sqrt(H) / np.linalg.norm(dh_T, axis=1, keepdims=True)
    found = {}
    for way, (activation, clip) in WAYS.items():
        norms = []
        for radius in RADII:
            cache = fastgate.rnn_forward(x, None, Wx, radius * orthogonal, activation=activation, grad_clip=clip).cache
            grads = fastgate.rnn_backward(None, cache, dh_T=dh_T, need=("dh_total",))
            norm = np.linalg.norm(grads.dh_total, axis=-1)
            norms.append((norm / norm[:, -1:]).mean(axis=0))
        found[way] = np.array(norms)
    return found


def claims(found):
    linear, tanh, clipped = (norms[:, 0] for norms in found.values())
    for radius, first in zip(RADII, linear, strict=True):
        expected = radius ** (T - 1)
        yield (
            f"without an activation, radius {radius}: {radius}^99 = {expected:.2g} of it arrives",
            abs(first / expected - 1) < 1e-6,
        )
    yield "with tanh less arrives at every radius", bool((tanh < linear).all())
    yield f"with tanh a radius of 1.1 does not explode: {tanh[-1]:.1g}", tanh[-1] < 1
    for radius, before, first in zip(RADII[-2:], linear[-2:], clipped[-2:], strict=True):
        yield f"clipped inside, radius {radius}: {first:.2f} in the place of {before:.3g}", 0.5 < first <= radius * CLIP
    yield f"clipped inside, radius {RADII[0]}: {clipped[0]:.1g}, as little as before", clipped[0] <= linear[0]


def draw(found):
    figure, panels = plt.subplots(1, 3, figsize=(9.5, 3.2), sharey=True, constrained_layout=True)
    back = np.arange(T)[::-1]
    for panel, (way, norms) in zip(panels, found.items(), strict=True):
        for radius, norm in zip(RADII, norms, strict=True):
            panel.semilogy(back, norm, label=f"radius {radius}")
        panel.axhline(1, color=lesson.FAINT, lw=0.8, zorder=0)
        panel.set(title=way, xlabel="steps before the last")
    panels[0].set_ylabel("gradient that arrives, ‖∂L/∂hₜ‖ / ‖∂L/∂h_T‖")
    panels[0].legend()
    return figure


if __name__ == "__main__":
    lesson.main()
