"""The rows of the group `map`: how many times as fast as the fastest peer, over batch and hidden size."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import FancyBboxPatch, Patch

from .record import Line, Record, mean_ratio
from .report import title
from .style import AHEAD, BEHIND, INK, RULE, draw_panels, finish

PANEL_WIDTH, ROW_HEIGHT = 5.6, 0.48  # inches
COLORS = LinearSegmentedColormap.from_list("ratios", [BEHIND, "#f0b9ae", "#fbfaf7", "#a9d3c4", AHEAD])
FULL = 4.0  # the ratio, and its inverse, from which on the colour is full


def draw(record: Record, path: Path) -> Path | None:
    lines = [line for line in record.lines if line.group == "map" and line.fastest]
    if not lines:
        return None

    def height(found: list[Line]) -> float:
        return ROW_HEIGHT * len({line.N for line in found}) + 1.0

    figure = draw_panels(lines, PANEL_WIDTH, height, _panel)
    words = {1 / FULL: f"{FULL:g}× slower", 0.5: "2× slower", 1.0: "even", 2.0: "2× faster", FULL: f"{FULL:g}× faster or more"}
    handles = [Patch(facecolor=COLORS(_shade(ratio)), edgecolor=RULE, label=label) for ratio, label in words.items()]
    note = f"Ratio to the fastest peer, and its name. T = {lines[0].T}, D = H"
    return finish(figure, path, record, "Where is fastgate the faster?", handles, note)


def _shade(ratio: float) -> float:
    """0 = full red, 1 = full green."""
    return float(np.clip(0.5 + 0.5 * np.log(ratio) / np.log(FULL), 0, 1))


def _panel(axes: Axes, lines: list[Line]) -> None:
    rows, columns = (sorted({getattr(line, letter) for line in lines}) for letter in "NH")
    for line in lines:
        name, ratio = line.fastest
        shade = _shade(ratio.median)
        r, c = rows.index(line.N), columns.index(line.H)
        ink = "white" if abs(shade - 0.5) > 0.42 else INK
        axes.add_patch(_tile(c, r, COLORS(shade)))
        axes.text(c, r - 0.1, f"{ratio.median:.2f}", ha="center", va="center", fontsize=10, fontweight="bold", color=ink)
        axes.text(c, r + 0.25, name, ha="center", va="center", fontsize=5.5, color=ink)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xticks(range(len(columns)), [f"{H}" for H in columns])
    axes.set_yticks(range(len(rows)), [f"{N}" for N in rows])
    axes.set_xlabel("H", color=INK)
    axes.set_ylabel("N", color=INK, rotation=0)
    axes.set_title(f"{title(lines[0])}, {mean_ratio(lines):.2f}× the fastest peer", loc="left", fontsize=11, color=INK)


def _tile(column: int, row: int, color):
    return FancyBboxPatch(
        (column - 0.44, row - 0.42), 0.88, 0.84, boxstyle="round,pad=0.02,rounding_size=0.08", facecolor=color, edgecolor="none"
    )
