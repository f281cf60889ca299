"""How the pictures look: colours, a mark for every contender, the panels and their arrangement."""

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
DPI = 130


def panels(lines: Iterable[Line]) -> dict[str, dict[tuple[str, int], list[Line]]]:
    """Lines by cell, then by what and threads: a row of panels per cell, a column per what."""
    rows: dict[str, dict[tuple[str, int], list[Line]]] = {}
    for line in lines:
        rows.setdefault(line.cell, {}).setdefault((line.what, line.threads), []).append(line)
    return rows


def draw_panels(
    lines: list[Line], width: float, height: Callable[[list[Line]], float], paint: Callable[[Axes, list[Line]], object]
) -> Figure:  # fmt: skip
    """A figure with one painted panel, sizes in inches, for each cell, direction and number of threads."""
    rows = panels(lines)
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    heights = [max(height(found) for found in row.values()) for row in rows.values()]
    size = (width * len(columns) + 1, sum(heights) + 1.5)
    figure = plt.figure(figsize=size, layout="constrained")
    grid = figure.add_gridspec(len(rows), len(columns), height_ratios=heights)
    for r, row in enumerate(rows.values()):
        for c, column in enumerate(columns):
            if column in row:
                axes = figure.add_subplot(grid[r, c])
                axes.set_axisbelow(True)
                axes.tick_params(length=0, colors=INK)
                axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
                paint(axes, row[column])
    return figure


def finish(figure: Figure, path: Path, record: Record, title: str, handles: list, note: str = "") -> Path:
    """Title, legend and setting, and the file."""
    figure.suptitle(title, fontsize=17, color=INK, fontweight="bold")
    where, _, versions = setting(record).partition("; ")
    words = "\n".join(part for part in (note, where, versions) if part)
    columns = min(len(handles), max(2, int(figure.get_figwidth() / 1.9)))
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
