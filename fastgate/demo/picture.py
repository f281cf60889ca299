"""The curves, drawn with matplotlib."""

import numpy as np

from fastgate._files import replacing

from .train import difference

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
    """Loss over steps, where the curves are one, and over seconds, where they are not. Says what it did.

    A third panel shows how far apart they are.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "none: matplotlib is not installed (pip install 'fastgate[demo]')"

    panels = 3 if len(runs) == 2 else 2
    figure = Figure(figsize=(5 * panels, 4.2), layout="constrained", dpi=120)
    figure.suptitle(title, fontsize=11)
    over_steps, over_time, *rest = figure.subplots(1, panels)
    for run in sorted(runs, key=lambda run: list(STYLE).index(run.name)):
        label, colour, width = STYLE[run.name]
        line = {"color": colour, "linewidth": width, "solid_capstyle": "round"}
        steps = np.arange(1, len(run.losses) + 1)
        over_steps.plot(smoothed(steps), smoothed(run.losses), label=label, **line)
        timed = run.losses[-len(run.times) :]
        label = f"{label}: {run.speed():,.0f} characters/s"
        over_time.plot(smoothed(np.cumsum(run.times)), smoothed(timed), label=label, **line)
    for apart in rest:
        apart.semilogy(steps, np.maximum(difference(runs), 1e-17), ".", color="#555555", markersize=2)
        apart.set(xlabel="training step", ylabel="difference of the two losses")

    nats = f"loss per character, nats (mean of {SMOOTH} steps)"
    over_steps.set(xlabel="training step", ylabel=nats)
    over_time.set(xlabel="seconds of computing", ylabel=nats)
    over_steps.legend(frameon=False)
    over_time.legend(frameon=False)
    for axes in (over_steps, over_time, *rest):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(left=0)
    try:
        with replacing(path) as file:
            figure.savefig(file, format=path.rsplit(".", 1)[1].lower())
    except OSError as error:
        return f"none: {path} could not be written ({error.strerror or error})"
    return path
