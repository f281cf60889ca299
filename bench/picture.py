"""A record as a picture: for every row how many times as fast as each peer, on one logarithmic scale."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from .contenders import LOOP
from .record import Line, Record, mean_ratio, peers_of
from .report import setting, title

AHEAD, BEHIND, INK, FAINT = "#2a7f62", "#c8442f", "#26323a", "#b9c2c7"
MARKS = ("o", "D", "s", "^", "v", "P")
LINE_HEIGHT, PANEL_WIDTH = 0.29, 5.6  # inches
TICKS = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256)


def draw(record: Record, path: Path) -> None:
    """A panel per cell and direction: a bar to the fastest peer, a mark for every peer, losses in red."""
    panels: dict[str, list[Line]] = {}
    for line in record.lines:
        panels.setdefault(title(line), []).append(line)
    cells = list(dict.fromkeys(line.cell for line in record.lines))
    whats = list(dict.fromkeys(line.what for line in record.lines))
    most = {cell: max(len(lines) for lines in panels.values() if lines[0].cell == cell) for cell in cells}
    heights = [most[cell] * LINE_HEIGHT + 1.0 for cell in cells]
    figure, axes = plt.subplots(
        len(cells),
        len(whats),
        figsize=(PANEL_WIDTH * len(whats) + 1, sum(heights) + 1.5),
        height_ratios=heights,
        squeeze=False,
        sharex="col",
        layout="constrained",
    )
    peers = peers_of(record.lines)
    for r, cell in enumerate(cells):
        for c, what in enumerate(whats):
            lines = [line for line in record.lines if (line.cell, line.what) == (cell, what)]
            _panel(axes[r, c], lines, peers)
    for c, what in enumerate(whats):
        _scale(axes[0, c], [line for line in record.lines if line.what == what])
    figure.suptitle("How many times as fast is fastgate?", fontsize=17, color=INK, fontweight="bold")
    figure.legend(
        handles=_legend(peers),
        loc="outside lower center",
        ncols=2 + len(peers),
        frameon=False,
        title=f"Rows: T · N · D · H.  {setting(record)}",
        title_fontsize=8,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, facecolor="white")
    plt.close(figure)


def _panel(axes: Axes, lines: list[Line], peers: list[str]) -> None:
    axes.set_axisbelow(True)
    axes.grid(axis="x", color="#e8ecee")
    axes.axvline(1, color=INK, linewidth=1.2)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, labelbottom=True, colors=INK)
    places = _places(lines)
    for place, line in zip(places, lines, strict=True):
        for peer, mark in zip(peers, MARKS, strict=False):
            if peer in line.measures:
                ratio = line.measures[peer].ratio
                face = FAINT if peer == LOOP else "white"
                axes.plot(ratio.median, place, mark, color=INK, markerfacecolor=face, markersize=5, zorder=4, alpha=0.8)
        if line.fastest:
            ratio = line.fastest[1]
            color = BEHIND if line.loses else AHEAD
            axes.barh(place, ratio.median - 1, left=1, height=0.62, color=color, zorder=2)
            axes.plot([ratio.low, ratio.high], [place, place], color=INK, linewidth=1.3, zorder=5)
            axes.text(
                1.02,
                place,
                f"{ratio.median:.2f}",
                transform=axes.get_yaxis_transform(),
                va="center",
                fontsize=9,
                color=color,
                fontweight="bold",
            )
    axes.set_yticks(places, [_label(line) for line in lines], fontsize=8)
    axes.set_ylim(max(places) + 0.7, -0.7)
    mean = mean_ratio(line for line in lines if line.group == lines[0].group)
    words = f", {mean:.2f}× the fastest peer" if mean == mean else ""
    axes.set_title(f"{title(lines[0])}{words}", loc="left", fontsize=11, color=INK)


def _places(lines: list[Line]) -> list[float]:
    """One place per line, with a gap where a new group begins."""
    groups = list(dict.fromkeys(line.group for line in lines))
    return [place + 0.6 * groups.index(line.group) for place, line in enumerate(lines)]


def _label(line: Line) -> str:
    shape = f"{line.T} · {line.N} · {line.D} · {line.H}"
    return shape if line.group == "grid" else f"{line.name}  {shape}"


def _scale(axes: Axes, lines: list[Line]) -> None:
    ratios = [measure.ratio for line in lines for measure in line.measures.values()]
    axes.set_xscale("log", base=2)
    axes.set_xlim(min(0.6, 0.9 * min(r.low for r in ratios)), 1.15 * max(r.high for r in ratios))
    low, high = axes.get_xlim()
    axes.set_xticks([tick for tick in TICKS if low <= tick <= high])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}×"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _legend(peers: list[str]) -> list[Line2D]:
    marks = [
        Line2D([], [], linestyle="", marker=mark, color=INK, markerfacecolor=FAINT if peer == LOOP else "white", label=peer)
        for peer, mark in zip(peers, MARKS, strict=False)
    ]
    bars = [
        Line2D([], [], color=AHEAD, linewidth=7, label="faster than the fastest peer"),
        Line2D([], [], color=BEHIND, linewidth=7, label="slower"),
    ]
    return bars + marks
