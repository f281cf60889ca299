"""A record in words: the table in the terminal, and the table of the README."""

from collections.abc import Iterable

from .contenders import LOOP, OURS, PADDED
from .machine import FMA
from .record import Block, Line, Measure, Memory, Record, largest_error, losses_first, mean_ratio, peers_of
from .values import NORMAL

WORDS = {
    "forward": "forward",
    "training": "forward + backward",
    "step": "one step",
    "prepared": "forward, prepared cell",
    "clipping": "clip_grad_norm",
}
ERROR_MARK = 1.5
SLOW_MARK = 3.0  # times as long as ordinary values from which on values count as slow
GROUPS = {
    "grid": "Grid",
    "models": "Layers of real models",
    "step": "One streaming step",
    "ragged": "Lengths uniform in 1..T",
    "clipping": "Lists of gradients",
    "values": "Adversarial values",
    "scaling": "One size varied",
    "map": "N times H",
}


def title(block: Block | Line) -> str:
    threads = f", {block.threads} threads" if block.threads > 1 else ""
    return f"{block.cell.upper()} {WORDS[block.what]}{threads}".strip()


def setting(record: Record) -> str:
    """Machine, threads and versions in one line, without a date."""
    machine, settings = record.machine, record.settings
    counts = machine["threads"]
    threads = f"{' and '.join(map(str, counts))} thread{'s' if counts != [1] else ''}"
    where = f"{machine['cpu']} ({machine['cores']} cores), {machine['isa']}, {threads}"
    how = f"{settings['dtype']}, {settings['caches']} caches"
    how += ", processor time" if settings["clock"] == "cpu" else ""
    return f"{where}, {how}; " + ", ".join(f"{name} {version}" for name, version in record.versions.items())


# terminal


def terminal(record: Record) -> str:
    parts = [setting(record), limits(record)]
    if record.lines:
        parts.append(_legend(record))
    parts += [_table(block, lines) for block, lines in record.blocks().items()]
    parts += [slowdowns(record), memory(record)]
    if record.lines:
        parts.append(losses(record.lines) + _named_losses(record.lines))
    parts += [f"WRONG RESULT, not timed: {words}" for words in record.wrong]
    return "\n\n".join(part for part in parts if part)


def limits(record: Record) -> str:
    lines = []
    for threads, rates in record.machine["limits"].items():
        places = ", ".join(f"{place} {rate / 1e9:.0f}" for place, rate in rates.items() if place != FMA)
        reads = f"; reads {places} GB/s" if places else ""
        lines.append(f"{threads} thread{'s' if threads != '1' else ''}: FMA {rates[FMA] / 1e9:.0f} GF/s{reads}")
    return f"Limits of this machine, measured by {record.machine['measured_by']}:\n  " + "\n  ".join(lines)


def _legend(record: Record) -> str:
    loop = any(LOOP in line.measures and line.cell for line in record.lines)
    return (
        "Share: the least time at these limits, that of the products or that of reading the weights, / our time.\n"
        "Ratios: contender's time / ours, above 1 we are faster; (quartiles). Rows that lose stand first, marked *.\n"
        "Errors: the largest, relative to the largest value of its array, against float64."
        f" Marked !: ours is more than {ERROR_MARK} times as large."
        + ("\nNumPy is the loop of fastgate.reference, weight gradients summed step by step." if loop else "")
    )


def _table(block: Block, lines: list[Line]) -> str:
    peers = peers_of(lines)
    name = "(T, N, D, H)" if block.group == "grid" else ""
    head = ["", name, "µs", "rate", "share", *peers, "our error", *(f"{p}'s" for p in peers)]
    rows = [_row(line, peers) for line in losses_first(lines)]
    means = [f"{mean_ratio(lines, peer):.2f}" for peer in peers]
    rows.append(["", "geometric mean", "", "", "", *means, "", *("" for _ in peers)])
    fastest = mean_ratio(lines)
    words = f"{GROUPS[block.group]}, {title(block)}"
    if fastest == fastest:
        words += f": {fastest:.2f} times as fast as the fastest peer of each row"
    return words + "\n" + aligned([head, *rows])


def _row(line: Line, peers: list[str]) -> list[str]:
    measures = [line.measures.get(peer) for peer in peers]
    return [
        "*" if line.loses else "",
        line.name,
        f"{line.ours.seconds * 1e6:.4g}" if line.ours.seconds < 0.01 else f"{line.ours.seconds * 1e6:.0f}",
        rate(line),
        f"{line.share:.0%} {line.limit}",
        *(f"{m.ratio.median:.2f} ({m.ratio.low:.2f}–{m.ratio.high:.2f})" if m else "–" for m in measures),
        f"{line.ours.error:.1e}",
        *(f"{m.error:.1e}{_mark_if_less_exact(line, m)}" if m else "–" for m in measures),
    ]


def rate(line: Line) -> str:
    """What the line's limit counts: operations, or bytes."""
    if line.limit == FMA:
        return f"{line.flops / line.ours.seconds / 1e9:.1f} GF/s"
    return f"{line.nbytes / line.ours.seconds / 1e9:.1f} GB/s"


def _mark_if_less_exact(line: Line, peer: Measure) -> str:
    return "!" if line.ours.error > ERROR_MARK * peer.error else ""


def slowdowns(record: Record) -> str:
    """What adversarial values cost each contender: its time / its own time on ordinary values. Our worst first."""
    lines = [line for line in record.lines if line.group == "values"]
    usual = {(line.cell, line.what, line.shape, line.threads): line for line in lines if line.values == NORMAL}
    peers = peers_of(lines)
    rows = []
    for line in lines:
        base = usual.get((line.cell, line.what, line.shape, line.threads))
        if base is None or line is base:
            continue
        both = [name for name in line.measures if name in base.measures]
        times = {name: line.measures[name].seconds / base.measures[name].seconds for name in both}
        cells = [f"{times[name]:.2f}" if name in times else "–" for name in (OURS, *peers)]
        mark = "*" if times[OURS] > SLOW_MARK else ""
        rows.append((times[OURS], [mark, f"{title(line)} {line.name}", *cells]))
    if not rows:
        return ""
    rows.sort(key=lambda row: -row[0])
    head = ["", "", OURS, *peers]
    words = f"Time / time of the same contender on ordinary values; * ours is above {SLOW_MARK:g}"
    return words + "\n" + aligned([head, *(row for _, row in rows)])


def memory(record: Record) -> str:
    """Peaks in MB, in brackets as multiples of ours; rows where another needs less first."""
    if not record.memory:
        return ""
    others = [name for name in dict.fromkeys(name for m in record.memory for name in m.peaks) if name != OURS]

    def least(m: Memory) -> float:
        return min((m.peaks[name] for name in others if name in m.peaks), default=m.peaks[OURS]) / m.peaks[OURS]

    rows = []
    for m in sorted(record.memory, key=lambda m: min(1.0, least(m))):
        peaks = [f"{m.peaks[p] / 1e6:.1f} ({m.peaks[p] / m.peaks[OURS]:.2f})" if p in m.peaks else "–" for p in others]
        name = f"{m.cell.upper()} {WORDS[m.what]} {(m.T, m.N, m.D, m.H)}"
        ours = f"{m.peaks[OURS] / 1e6:.1f}"
        rows.append(["*" if least(m) < 1 else "", name, ours, *peaks, f"{m.results / 1e6:.1f}"])
    words = "Peak memory of one call in a fresh process, MB (times ours); what fastgate returns is part of it"
    return words + "\n" + aligned([["", "(T, N, D, H)", OURS, *others, "returned"], *rows])


def aligned(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    justify = [str.ljust, str.ljust] + [str.rjust] * (len(widths) - 2)
    return "\n".join(
        "  ".join(to(cell, width) for to, cell, width in zip(justify, row, widths, strict=True)).rstrip() for row in rows
    )


def losses(lines: list[Line]) -> str:
    """One sentence on how many rows lose against the fastest peer."""
    compared = [line for line in lines if line.fastest]
    lost = sum(line.loses for line in compared)
    if not compared:
        return "No peer was installed"
    if not lost:
        return f"None of the {len(compared)} rows loses against its fastest peer"
    return f"{lost} of {len(compared)} rows {'loses' if lost == 1 else 'lose'} against the fastest peer"


def _named_losses(lines: list[Line]) -> str:
    lost = sorted((line for line in lines if line.loses), key=lambda line: line.fastest[1].median)
    return "".join(f"\n  {line.fastest[1].median:.2f}  {title(line)} {line.name} ({line.fastest[0]})" for line in lost)


# README


def markdown(record: Record) -> str:
    """The table of the README: ratios to the fastest peer of each row, losses bold."""
    against = []
    for what in dict.fromkeys(line.what for line in record.lines):
        lines = [line for line in record.lines if line.what == what]
        peers = [name for name in peers_of(lines) if name not in (LOOP, PADDED)]
        if peers:
            against.append(f"{WORDS[what]} against {_either(peers)}")
    parts = [
        f"Time of the fastest peer / time of fastgate, above 1 fastgate is faster: {'; '.join(against)}."
        f" {losses(record.lines)}{' (bold)' if any(line.loses for line in record.lines) else ''}.",
        *(_markdown_group(lines) for lines in _by(record.lines, "threads", "group")),
        *(_markdown_summary(lines) for lines in _by(record.lines, "threads") if any(line.group == "grid" for line in lines)),
        f"Measured with `make bench` on {setting(record)}.",
    ]
    return "\n\n".join(part for part in parts if part)


def _either(names: list[str]) -> str:
    if len(names) < 3:
        return names[0] if len(names) == 1 else "the faster of " + " and ".join(names)
    return f"the fastest of {', '.join(names[:-1])} and {names[-1]}"


def _by(lines: list[Line], *names: str) -> list[list[Line]]:
    """The lines parted by their values of these names."""
    parts: dict[tuple, list[Line]] = {}
    for line in lines:
        parts.setdefault(tuple(getattr(line, name) for name in names), []).append(line)
    return list(parts.values())


def _markdown_group(lines: list[Line]) -> str:
    """Shapes down; cells and directions across, or only directions where every row has its own cell."""
    group = lines[0].group
    own = group == "models"
    columns: dict[str, dict[str, Line]] = {}
    labels: dict[str, str] = {}
    for line in lines:
        labels[line.name] = f"{line.name}, {line.cell.upper()} {line.shape}" if own else line.name
        columns.setdefault(title(line).removeprefix(f"{line.cell.upper()} " if own else ""), {})[line.name] = line
    rows = []
    for name, label in labels.items():
        rows.append([label, *(_markdown_ratio(lines.get(name)) for lines in columns.values())])
    means = [mean_ratio(lines.values()) for lines in columns.values()]
    rows.append(["geometric mean", *(f"{mean:.2f}" if mean == mean else "–" for mean in means)])
    head = "(T, N, D, H)" if group == "grid" else GROUPS[group] + (", one layer, one direction" if own else "")
    return _markdown_table([head, *columns], rows)


def _markdown_ratio(line: Line | None) -> str:
    if line is None or line.fastest is None:
        return "–"
    number = f"{line.fastest[1].median:.2f}"
    return f"**{number}**" if line.loses else number


def _markdown_summary(lines: list[Line]) -> str:
    """Geometric means over the grid and largest errors, for every peer."""
    grid = [line for line in lines if line.group == "grid"]
    blocks = _by(grid, "what", "cell")
    rows = []
    for name in [OURS, *peers_of(grid)]:
        row = [name]
        for lines in blocks:
            if any(name in line.measures for line in lines):
                speed = "1" if name == OURS else f"{mean_ratio(lines, name):.2f}"
                row.append(f"{speed}, {largest_error(lines, name):.0e}")
            else:
                row.append("–")
        rows.append(row)
    words = (
        "Time / time of fastgate, geometric mean over the grid, and the largest error against float64, relative to the"
        " largest value of its array. NumPy is the loop of `fastgate.reference`, weight gradients summed step by step."
    )
    return words + "\n\n" + _markdown_table(["", *(title(lines[0]) for lines in blocks)], rows)


def _markdown_table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
