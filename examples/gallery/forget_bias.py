"""The first value of the forget bias.

An lstm is to keep the sign of its first input through 100 steps of noise. Of what a cell keeps, each step leaves the share f;
before anything is learned, f is about σ(b_f), and -1/ln f steps are its time constant. With the bias 0 that is 1.4 steps, with
1 it is 3, with 4 about 55. The gradient takes the same way back. Nothing differs between the nets but that number; in the last
one the biases are drawn unit by unit, log of a time between 1 and 100, so that there are units for every distance. (Gers,
Schmidhuber and Cummins 2000; Jozefowicz, Zaremba and Sutskever 2015; the last: Tallec and Ollivier 2018.)

See: on the left the gradient that reaches each step before training begins. With 0 and 1 it falls in a straight line, of the
slope log f, to next to nothing; with 4, and with drawn biases, it arrives. On the right the loss of three nets each: with 0 and
1 they guess (dashed), with 4 and drawn biases they learn within a few dozen steps.
"""

import lesson
import numpy as np
from lesson import plt
from omega import batch
from optimizers import Adam

import fastgate
from fastgate import flow, structures

T, H, STEPS, RATE, NETS = 100, 24, 150, 5e-3, 3
DRAWN = "drawn"
BIASES = (0.0, 1.0, 4.0, DRAWN)


def train(bias, seed):
    """Gradient norms (T,) and time constants (H,) before training; the loss of each step."""
    rng = np.random.default_rng(seed)
    model = structures.FinalOutput(2, H, 2, cell="lstm", rng=rng)
    drawn = np.log(rng.uniform(1, T, H))
    model.layer.weights["Wh0"][...] *= 0.3
    model.layer.weights["b0"][H : 2 * H] = drawn if bias == DRAWN else bias
    (trace,) = flow.trace(model.layer, batch(rng, T)[0].astype(np.float32), rng=seed)
    norms, constants = flow.gradient_norms(trace), flow.time_constants(trace)
    adam, losses = Adam([model.parameters], rate=RATE), []
    for _ in range(STEPS):
        x, y = batch(rng, T)
        o, _, cache = model.forward(x.astype(np.float32))
        loss, do = fastgate.softmax_cross_entropy(o, y, reduction="mean")
        losses.append(loss)
        model.backward(do, cache, need_dx=False)
        fastgate.clip_grad_norm([model.gradients], 1.0)
        adam.step([model.gradients])
    return np.median(norms / norms[:, -1:], axis=0), constants, np.array(losses)


def measure(seed=0):
    return {bias: [train(bias, seed + k) for k in range(NETS)] for bias in BIASES}


def claims(found):
    guess = np.log(2)
    for bias, runs in found.items():
        constant = np.median([constants for _, constants, _ in runs])
        first = [norms[0] for norms, _, _ in runs]
        last = [losses[-50:].mean() for _, _, losses in runs]
        if bias == DRAWN:
            yield f"drawn: at least {min(first):.0e} reaches the first step", min(first) > 1e-3
        else:
            expected = 1 / np.log1p(np.exp(-bias))
            yield f"bias {bias:g}: a time constant of {constant:.1f}, by σ {expected:.1f}", abs(constant / expected - 1) < 0.15
        if bias in (0.0, 1.0):
            yield f"bias {bias:g}: at most {max(first):.0e} reaches the first step", max(first) < 1e-8
            yield f"bias {bias:g}: loss at least {min(last):.2f}, a guess", min(last) > 0.9 * guess
        else:
            yield f"bias {bias}: loss at most {max(last):.3f}", max(last) < 0.1 * guess


def draw(found):
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.4), constrained_layout=True)
    for (bias, runs), colour in zip(found.items(), [lesson.COLOURS[k] for k in (1, 3, 0, 2)], strict=True):
        label = "drawn for 1 to 100 steps" if bias == DRAWN else f"bias {bias:g}"
        left.semilogy(np.arange(T)[::-1], runs[0][0], color=colour, lw=4 if bias == 4 else 1.5, label=label)
        for k, (_, _, losses) in enumerate(runs):
            right.plot(np.convolve(losses, np.ones(10) / 10, "valid"), color=colour, lw=1, label=None if k else label)
    right.axhline(np.log(2), color=lesson.INK, ls="--", lw=0.8)
    left.set(xlabel="steps before the last", ylabel="gradient that arrives", title="before training", ylim=(1e-27, 1e2))
    right.set(xlabel="training step", ylabel="loss", ylim=(0, 0.8))
    left.legend(loc="lower left")
    return figure


if __name__ == "__main__":
    lesson.main()
