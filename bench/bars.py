"""For every row how many times as fast as each peer: a bar to the fastest, a mark for each, losses in red."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from .record import Line, Record, mean_ratio, peers_of
from .report import GROUPS, title
from .style import AHEAD, BEHIND, INK, RULE, draw_panels, finish, handles_of, mark

LINE_HEIGHT, PANEL_WIDTH = 0.29, 5.6  # inches
GAP = 1.1  # lines between groups
TICKS = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256)
ELSEWHERE = ("map", "values")  # groups that the heat map and a table show


def draw(record: Record, path: Path) -> Path | None:
    lines = [line for line in record.lines if line.group not in ELSEWHERE]
    if not lines:
        return None
    figure = draw_panels(lines, PANEL_WIDTH, lambda found: len(found) * LINE_HEIGHT + 1.0, _panel)
    bars = [
        Line2D([], [], color=AHEAD, linewidth=7, label="faster than the fastest peer"),
        Line2D([], [], color=BEHIND, linewidth=7, label="slower"),
    ]
    handles = bars + handles_of(peers_of(lines))
    return finish(figure, path, record, "How many times as fast is fastgate?", handles, "Rows: T · N · D · H")


def _panel(axes: Axes, lines: list[Line]) -> None:
    axes.grid(axis="x", color=RULE)
    axes.axvline(1, color=INK, linewidth=1.2)
    axes.spines["bottom"].set_visible(True)
    places = _places(lines)
    for place, line in zip(places, lines, strict=True):
        for peer in peers_of([line]):
            axes.plot(line.measures[peer].ratio.median, place, zorder=4, **mark(peer))
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
    _captions(axes, lines, places)
    axes.set_yticks(places, [_label(line) for line in lines], fontsize=8)
    axes.set_ylim(max(places) + 0.7, -0.7)
    mean = mean_ratio(line for line in lines if line.group == lines[0].group)
    words = f", {mean:.2f}× the fastest peer" if mean == mean else ""
    axes.set_title(f"{title(lines[0])}{words}", loc="left", fontsize=11, color=INK)
    _scale(axes, lines)


def _places(lines: list[Line]) -> list[float]:
    """One place per line, with room for a caption where a new group begins."""
    groups = list(dict.fromkeys(line.group for line in lines))
    return [place + GAP * groups.index(line.group) for place, line in enumerate(lines)]


def _captions(axes: Axes, lines: list[Line], places: list[float]) -> None:
    """The names of the groups after the first, each in the gap above its lines."""
    for before, line, place in zip(lines, lines[1:], places[1:], strict=False):
        if line.group != before.group:
            across = axes.get_yaxis_transform()
            axes.text(
                -0.01, place - 1, GROUPS[line.group], transform=across, ha="right", va="center", style="italic", fontsize=8
            )


def _label(line: Line) -> str:
    if line.group == "clipping":
        return line.name
    shape = f"{line.T} · {line.N} · {line.D} · {line.H}"
    return f"{line.name}  {shape}" if line.group in ("models", "scaling") else shape


def _scale(axes: Axes, lines: list[Line]) -> None:
    ratios = [measure.ratio for line in lines for measure in line.measures.values()]
    axes.set_xscale("log", base=2)
    axes.set_xlim(min(0.6, 0.9 * min(r.low for r in ratios)), 1.15 * max(2.0, *(r.high for r in ratios)))
    low, high = axes.get_xlim()
    axes.set_xticks([tick for tick in TICKS if low <= tick <= high])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}×"))
    axes.xaxis.set_minor_formatter(NullFormatter())
