"""Deep transitions: more computed in a step, more steps to go back.

A deep transition takes n micro-steps from one state to the next, each with weights of its own, so that a step may compute what
one tanh cannot. The price is paid in the backward pass, which goes through all of them: 60 steps of three micro-steps are 180
steps for a gradient. Without an activation each micro-step of a plain net, an orthogonal matrix times 0.97, lets just 0.97 of
it pass. A gru has in each micro-step a gate that keeps the state, and what it keeps needs no way through matrices: its bias is
set to 4 here. (`structures.DeepTransition`; Pascanu, Gulcehre, Cho and Bengio 2014; Miceli Barone et al. 2017.)

See: how much of a gradient at the last state arrives so many steps before. On the left straight lines, two micro-steps as steep
as two steps of one, three as three. On the right the gru: more micro-steps let less pass here, too, but nowhere near as little.
"""

import lesson
import numpy as np
from lesson import plt

from fastgate import structures

MICRO_STEPS, BACK, RADIUS, KEEP = (1, 2, 3), (1, 2, 5, 10, 20, 40, 60), 0.97, 4.0
N, D, H = 8, 3, 24


def arrives(n, cell, seed):
    """What of a gradient of length 1 by the state is left so many steps BACK, the mean over rows."""
    rng = np.random.default_rng(seed)
    options = {"activation": "identity"} if cell == "rnn" else {}
    model = structures.DeepTransition(D, H, micro_steps=n, cell=cell, dtype="float64", rng=rng, **options)
    for name, W in model.weights.items():
        if cell == "rnn" and name.startswith("Wh"):
            W *= RADIUS
        if cell == "gru" and name.startswith("b"):
            W[H : 2 * H] = KEEP  # of z, in the order "rzn"
    x, dh = 0.3 * rng.standard_normal((N, max(BACK), D)), rng.standard_normal((1, N, H))
    dh /= np.linalg.norm(dh, axis=2, keepdims=True)
    found = [model.backward(None, model.forward(x[:, -t:]).cache, (dh,)).dstate.h for t in BACK]
    return np.linalg.norm(found, axis=-1).mean(axis=(1, 2))


def measure(seed=0):
    return {cell: {n: arrives(n, cell, seed) for n in MICRO_STEPS} for cell in ("rnn", "gru")}


def claims(found):
    for n, norms in found["rnn"].items():
        expected = RADIUS ** (n * BACK[-1])
        yield f"rnn, {n} micro-steps, {BACK[-1]} steps back: {norms[-1]:.2g} arrives", abs(norms[-1] / expected - 1) < 1e-6
    for n, norms in found["gru"].items():
        yield f"gru, {n} micro-steps: {norms[-1]:.2g}", norms[-1] > 3 * found["rnn"][n][-1]
    one, two, three = (norms[-1] for norms in found["gru"].values())
    yield "and the more micro-steps, the less", three < 0.99 * two < 0.98 * one


def draw(found):
    figure, panels = plt.subplots(1, 2, figsize=(8.4, 3.2), sharey=True, constrained_layout=True)
    for panel, (cell, ways) in zip(panels, found.items(), strict=True):
        for (n, norms), colour in zip(ways.items(), lesson.COLOURS, strict=False):
            panel.semilogy(BACK, norms, "-o", ms=4, color=colour, label=f"{n} micro-step{'s' * (n > 1)}")
        panel.set(ylim=(2e-3, 2), title=f"{cell}{', no activation' * (cell == 'rnn')}", xlabel="steps before the last")
    panels[0].set(ylabel="gradient that arrives")
    panels[0].legend()
    return figure


if __name__ == "__main__":
    lesson.main()
