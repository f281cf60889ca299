"""Variants of the lstm.

Peepholes let the gates see the cell; coupled gates let in as much as is forgotten, i = 1 - f; the cell may be clipped; a
projection makes the state that meets the weights half as wide as the cell. And a candidate may be a sigmoid in the place of
tanh, as some texts print it: then only positive numbers are added to the cell. Each is trained on the adding problem over 30
steps, from three beginnings, with the same optimiser. (Gers and Schmidhuber 2000; Sak, Senior and Beaufays 2014; Greff et al.
2017, who compared eight variants on three tasks and found none that was much better.)

See: on the left the errors of all runs; dashed, the error of a constant answer. On the right the step of training from which on
the error is below a tenth of that, and the weights that each lstm has. All variants but one solve the problem within as many
steps, the projection with two thirds of the weights, coupled gates first. The sigmoid candidate stays at the dashed line; its
runs stand at the right edge.
"""

import lesson
import numpy as np
from adding_problem import CONSTANT, batch
from lesson import plt
from optimizers import Adam

import fastgate
from fastgate import structures

VARIANTS = {
    "plain": {},
    "peepholes": {"peephole": True},
    "coupled gates": {"coupled": True},
    "clipped cell": {"cell_clip": 2.0},
    "projection": {"proj_size": 16},
    "sigmoid candidate": {"candidate": "sigmoid"},
}
T, H, STEPS, RATE, NETS, SMOOTH = 30, 32, 800, 5e-3, 3, 50


def train(options, seed):
    """Mean squared error of each step, and how many weights the lstm has."""
    rng = np.random.default_rng(seed)
    model = structures.FinalOutput(2, H, 1, **options, rng=rng)
    adam, errors = Adam([model.parameters], rate=RATE), []
    for _ in range(STEPS):
        x, y = batch(rng, T)
        o, _, cache = model.forward(x)
        miss = o - y[:, None]
        errors.append(float(np.mean(miss**2)))
        model.backward(2 / len(y) * miss, cache, need_dx=False)
        fastgate.clip_grad_norm([model.gradients], 1.0)
        adam.step([model.gradients])
    return np.array(errors), model.layer.num_parameters


def measure(seed=0):
    """Of each variant the errors of its runs, and how many weights the lstm has."""
    found = {}
    for name, options in VARIANTS.items():
        runs = [train(options, seed + k) for k in range(NETS)]
        found[name] = [errors for errors, _ in runs], runs[0][1]
    return found


def solved(errors):
    """The step from which on the smoothed error is below a tenth of that of a constant answer."""
    above = np.flatnonzero(np.convolve(errors, np.ones(SMOOTH) / SMOOTH, "valid") > CONSTANT / 10)
    return int(above[-1]) + SMOOTH if len(above) else 0


def claims(found):
    steps = {name: [solved(errors) for errors in runs] for name, (runs, _) in found.items()}
    last = {name: [errors[-200:].mean() for errors in runs] for name, (runs, _) in found.items()}
    least, others = min(last.pop("sigmoid candidate")), steps["plain"] + steps["peepholes"] + steps["clipped cell"]
    for name, errors in last.items():
        yield f"{name}: error at most {max(errors):.4f}, solved from step {max(steps[name])} on", max(errors) < CONSTANT / 10
    yield f"sigmoid candidate: error at least {least:.3f}, a constant answer", least > 0.8 * CONSTANT
    yield f"coupled gates are faster: {max(steps['coupled gates'])} steps at most", max(steps["coupled gates"]) < min(others)
    ratio = found["projection"][1] / found["plain"][1]
    yield f"the projection has {ratio:.2f} of the weights", ratio < 0.7


def draw(found):
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.3), constrained_layout=True)
    for (name, (runs, weights)), colour in zip(found.items(), (*lesson.COLOURS[:5], lesson.INK), strict=True):
        smooth = np.array([np.convolve(errors, np.ones(SMOOTH) / SMOOTH, "valid") for errors in runs])
        left.semilogy(np.arange(SMOOTH, STEPS + 1), smooth.T, color=colour, lw=0.9)
        right.plot([solved(errors) for errors in runs], [weights] * NETS, "o", color=colour, label=name)
    left.axhline(CONSTANT, color=lesson.INK, ls="--", lw=0.8)
    left.set(xlabel="training step", ylabel="squared error")
    right.set(xlabel="solved from this step on", ylabel="weights of the lstm", xlim=(0, STEPS), ylim=(0, None))
    right.legend(loc="lower left")
    return figure


if __name__ == "__main__":
    lesson.main()
