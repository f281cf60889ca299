"""Speed over operational intensity, under the limits of this machine: how far each row is from what could be.

The intensity of a row is its operations for each byte of weights that must be read: about N in float32.
"""

from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from .contenders import LOOP, OURS, PADDED
from .machine import FMA
from .record import Line, Record, peers_of
from .report import title
from .style import AHEAD, BEHIND, INK, RULE, draw_panels, finish, handles_of, mark

PANEL_WIDTH, PANEL_HEIGHT = 6.4, 4.6  # inches
DEPTH, HEADROOM = 256, 3.5  # the picture ends so far below the peak, and so far above it
ROOFS = ("#7d8c95", "#93a1a9", "#a9b5bb", "#bfc8cd", "#d5dbde")


def draw(record: Record, path: Path) -> Path | None:
    limits = record.machine["limits"]
    lines = [line for line in record.lines if line.nbytes and line.cell and len(limits[str(line.threads)]) > 1]
    if not lines:
        return None
    figure = draw_panels(lines, PANEL_WIDTH, lambda _: PANEL_HEIGHT, partial(_panel, limits))
    peers = [name for name in peers_of(lines) if name not in (LOOP, PADDED)]
    joins = [
        Patch(color=AHEAD, alpha=0.5, label="ahead of the fastest peer by"),
        Patch(color=BEHIND, alpha=0.5, label="behind by"),
    ]
    note = f"Roofs: multiply-adds and read bandwidths measured here. What is below 1/{DEPTH} of the peak is not shown"
    return finish(figure, path, record, "How near to what this machine can do?", handles_of([OURS, *peers]) + joins, note)


def _panel(limits: dict[str, dict[str, float]], axes: Axes, lines: list[Line]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    rates = limits[str(lines[0].threads)]
    where = np.array([line.flops / line.nbytes for line in lines])
    low, high = where.min() / 1.6, max(where.max() * 1.6, 4 * where.min())
    _roofs(axes, rates, low, high)
    speeds = [rates[FMA] / 1e9]
    for line, intensity in zip(lines, _apart(where, high / low), strict=True):
        peers = [name for name in peers_of([line]) if name not in (LOOP, PADDED)]
        ours = line.flops / line.ours.seconds / 1e9
        if line.fastest:
            color = BEHIND if line.loses else AHEAD
            axes.plot([intensity] * 2, [ours, ours / line.fastest[1].median], color=color, linewidth=2.5, alpha=0.5)
        for name in [*peers, OURS]:
            speed = line.flops / line.measures[name].seconds / 1e9
            speeds.append(speed)
            axes.plot(intensity, speed, linestyle="", zorder=5 if name == OURS else 4, **mark(name, 4.5))
    axes.set_xlim(low, high)
    axes.set_ylim(max(min(speeds) / 1.5, max(speeds) / DEPTH), HEADROOM * max(speeds))
    axes.grid(color=RULE, linewidth=0.7)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
        axis.set_minor_formatter(NullFormatter())
        axis.set_minor_locator(NullLocator())
    axes.set_xlabel("operations for each byte of weights", color=INK, fontsize=9)
    axes.set_ylabel("GFLOP/s", color=INK, fontsize=9)
    axes.set_title(title(lines[0]), loc="left", fontsize=11, color=INK)


def _roofs(axes: Axes, rates: dict[str, float], low: float, high: float) -> None:
    """The FMA peak, and below it a slope for each cache and for memory, named where they meet."""
    peak = rates[FMA]
    axes.axhline(peak / 1e9, color=INK, linewidth=1.4)
    axes.annotate(
        f"FMA {peak / 1e9:.0f} GF/s", (high, peak / 1e9), (-4, 4), textcoords="offset points", ha="right", fontsize=8, color=INK
    )
    for color, (place, rate) in zip(ROOFS, ((p, r) for p, r in rates.items() if p != FMA), strict=False):
        ridge = peak / rate
        axes.plot([low / 4, ridge], [rate * low / 4e9, peak / 1e9], color=color, linewidth=1.2, zorder=1)
        if low < ridge < high:
            axes.annotate(
                f"{place} {rate / 1e9:.0f} GB/s",
                (ridge, peak / 1e9),
                (0, 6),
                textcoords="offset points",
                rotation=40,
                fontsize=7,
                color=ROOFS[0],
            )


def _apart(where: np.ndarray, span: float) -> np.ndarray:
    """The intensities, those that nearly coincide set a little apart, in the order of the rows."""
    step = span**0.012
    near = np.round(np.log(where) / np.log(span**0.04)).astype(int)
    placed = where.copy()
    for group in np.unique(near):
        members = np.flatnonzero(near == group)
        placed[members] = np.exp(np.log(where[members]).mean()) * step ** (np.arange(len(members)) - (len(members) - 1) / 2)
    return placed
