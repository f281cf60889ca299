"""The curves, drawn with matplotlib."""

import numpy as np

from .checkpoint import replacing
from .train import largest_difference

# backend -> label, colour, width: the wide line lies below the thin one, so both are seen where they agree
STYLE = {
    "reference": ("NumPy reference", "#f2a65a", 5.0),
    "c": ("C kernels", "#1f4e8c", 1.4),
}
SMOOTH = 25


def smoothed(values):
    """Means of SMOOTH neighbours (fewer, if there are fewer)."""
    width = min(SMOOTH, len(values))
    return np.convolve(values, np.full(width, 1 / width), mode="valid")


def draw(path, runs, title):
    """The loss over steps, where the curves are one, and over seconds, where they are not. Says what it did."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "none: matplotlib is not installed (pip install 'fastgate[demo]')"

    figure = Figure(figsize=(10, 4.2), layout="constrained", dpi=130)
    figure.suptitle(title, fontsize=11)
    over_steps, over_time = figure.subplots(1, 2, sharey=True)
    by_name = {run.name: run for run in runs}
    for name in STYLE.keys() & by_name.keys():
        run, (label, colour, width) = by_name[name], STYLE[name]
        line = {"color": colour, "linewidth": width, "solid_capstyle": "round", "zorder": 3 - width / 5}
        over_steps.plot(smoothed(range(1, len(run.losses) + 1)), smoothed(run.losses), label=label, **line)
        timed = run.losses[-len(run.times) :]
        label = f"{label}: {run.speed():,.0f} characters/s"
        over_time.plot(smoothed(np.cumsum(run.times)), smoothed(timed), label=label, **line)
    if len(runs) == 2:
        over_steps.plot([], [], " ", label=f"largest difference {largest_difference(runs):.1e}")
    over_steps.set(xlabel="training step", ylabel=f"loss per character, nats (mean of {SMOOTH} steps)")
    over_time.set(xlabel="seconds of computing")
    for axes in (over_steps, over_time):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        axes.set_xlim(left=0)
    try:
        with replacing(path) as file:
            figure.savefig(file, format=path.rsplit(".", 1)[1].lower())
    except OSError as error:
        return f"none: {path} could not be written ({error.strerror or error})"
    return path
