"""How the pictures look: colours, a mark for every contender, the panels and their arrangement."""

import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .contenders import LOOP, OURS, PADDED
from .record import Line, Record
from .report import setting

AHEAD, BEHIND, INK, FAINT, RULE = "#2a7f62", "#c8442f", "#26323a", "#b9c2c7", "#e8ecee"
MARKS = {
    "PyTorch": "o",
    "ONNX Runtime": "D",
    "OpenVINO": "^",
    "JAX scan": "v",
    "Keras": "P",
    LOOP: "s",
    PADDED: "X",
}
ACROSS = 4  # panels in a row
DPI = 130
LETTERS = 14  # of the note, to an inch


def panels(lines: Iterable[Line]) -> list[list[list[Line]]]:
    """Rows of panels of lines: a panel for each cell, direction and number of threads; every cell begins a row, unless
    each has one panel only."""
    cells: dict[str, dict[tuple[str, int], list[Line]]] = {}
    for line in lines:
        cells.setdefault(line.cell, {}).setdefault((line.what, line.threads), []).append(line)
    rows = [list(cell.values()) for cell in cells.values()]
    if all(len(row) == 1 for row in rows):
        rows = [[row[0] for row in rows]]
    return [row[k : k + ACROSS] for row in rows for k in range(0, len(row), ACROSS)]


def draw_panels(
    lines: list[Line], width: float, height: Callable[[list[Line]], float], paint: Callable[[Axes, list[Line]], object]
) -> Figure:  # fmt: skip
    """A figure of painted panels; sizes in inches."""
    rows = panels(lines)
    heights = [max(map(height, row)) for row in rows]
    columns = max(map(len, rows))
    figure = plt.figure(figsize=(width * columns + 1, sum(heights) + 1.5), layout="constrained")
    grid = figure.add_gridspec(len(rows), columns, height_ratios=heights)
    for r, row in enumerate(rows):
        for c, found in enumerate(row):
            axes = figure.add_subplot(grid[r, c])
            axes.set_axisbelow(True)
            axes.tick_params(length=0, colors=INK)
            axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
            paint(axes, found)
    return figure


def finish(figure: Figure, path: Path, record: Record, title: str, handles: list, note: str = "") -> Path:
    """Title, legend and setting, and the file."""
    figure.suptitle(title, fontsize=17, color=INK, fontweight="bold")
    width = figure.get_figwidth()
    parts = [note, *setting(record).split("; ", 1)]
    words = "\n".join(line for part in parts for line in textwrap.wrap(part, int(width * LETTERS)))
    columns = min(len(handles), max(2, int(width / 1.6)))
    legend = figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, frameon=False, title=words, title_fontsize=8
    )
    legend.get_title().set_multialignment("center")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, facecolor="white")
    plt.close(figure)
    return path


def mark(name: str, size: float = 5) -> dict[str, object]:
    """How a contender is drawn."""
    if name == OURS:
        return {"marker": "o", "color": AHEAD, "markersize": size + 1, "markeredgecolor": "white"}
    face = FAINT if name in (LOOP, PADDED) else "white"
    return {"marker": MARKS.get(name, "h"), "color": INK, "markerfacecolor": face, "markersize": size, "alpha": 0.8}


def handles_of(names: Iterable[str]) -> list[Line2D]:
    return [Line2D([], [], linestyle="", label=name, **mark(name)) for name in names]
