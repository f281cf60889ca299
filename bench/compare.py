"""What changed between two JSON files: `python -m bench compare OLD NEW`; exit status 1 where a row has become slower.

The change of a row is our new time / our old time. Where both files know a peer in the same version, each of our times
is taken in that peer's, measured in alternation with it, so that a faster or busier machine is no change. Its spread is
that of the quartiles of the rounds. A row has changed when the whole spread lies on one side of 1 and the middle is past
the tolerance.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

from .contenders import OURS, PADDED
from .record import Line, Record
from .report import GROUPS, aligned, setting, title
from .timer import MIN_ROUNDS, Ratio, geometric_mean

TOLERANCE = 0.05  # rows repeat within 3 to 5 %
MORE_MEMORY = 1.1


class Change(NamedTuple):
    line: Line  # of the new record
    by: Ratio  # new time / old time: above 1 is slower
    error: float  # new error / old error

    def verdict(self, tolerance: float) -> str:
        if self.by.low > 1 and self.by.median > 1 + tolerance:
            return "SLOWER"
        if self.by.high < 1 and self.by.median < 1 / (1 + tolerance):
            return "faster"
        return ""


def changes(old: Record, new: Record) -> list[Change]:
    """Of every row that both records have, the worst first."""
    before = {line.key: line for line in old.lines}
    peers = {name for name, version in new.versions.items() if old.versions.get(name) == version}
    peers -= {OURS, PADDED}
    found = []
    for line in new.lines:
        if (was := before.get(line.key)) and was.shape == line.shape:
            error = line.ours.error / was.ours.error if was.ours.error else 1.0
            found.append(Change(line, _change(was, line, peers), error))
    return sorted(found, key=lambda change: -change.by.median)


def _change(old: Line, new: Line, peers: set[str]) -> Ratio:
    pairs = [(old.measures[name], new.measures[name]) for name in sorted(peers & old.measures.keys() & new.measures.keys())]
    ratios = [(was.ratio, now.ratio) for was, now in pairs if min(was.bursts, now.bursts) >= MIN_ROUNDS]  # peer's time / ours
    if ratios:
        middle = geometric_mean([was.median / now.median for was, now in ratios])
        low = geometric_mean([was.low / now.high for was, now in ratios])
        high = geometric_mean([was.high / now.low for was, now in ratios])
    else:
        before, after = old.ours, new.ours
        middle = after.seconds / before.seconds
        low, high = (after.low / before.high, after.high / before.low) if before.low and after.low else (middle, middle)
    return Ratio(middle, min(low, middle), max(high, middle))


def words(old: Record, new: Record, tolerance: float = TOLERANCE) -> tuple[str, bool]:
    """The table, and whether anything got worse."""
    found = changes(old, new)
    rows = []
    for change in found:
        line, by = change.line, change.by
        error = f"error × {change.error:.1f}" if change.error > 1.5 else ""
        name = f"{GROUPS[line.group]}, {title(line)} {line.name}"
        rows.append([change.verdict(tolerance), name, f"{by.median:.3f} ({by.low:.3f}–{by.high:.3f})", error])
    slower = sum(change.verdict(tolerance) == "SLOWER" for change in found)
    faster = sum(change.verdict(tolerance) == "faster" for change in found)
    grown = _grown(old, new)
    parts = [f"old: {setting(old)}\nnew: {setting(new)}"]
    if rows:
        parts.append(aligned([["", "", "new time / old time", ""], *rows]))
        mean = geometric_mean([change.by.median for change in found])
        parts.append(f"{len(found)} rows, geometric mean {mean:.3f}: {slower} slower, {faster} faster, the others the same")
    missing = {line.key for line in old.lines} ^ {line.key for line in new.lines}
    if missing:
        parts.append(f"{len(missing)} rows are in one of the two only")
    if not rows:
        parts.append("No row to compare")
    parts += grown
    wrong = [f"WRONG RESULT in the new one: {reason}" for reason in new.wrong if reason not in old.wrong]
    return "\n\n".join(parts + wrong), bool(slower or grown or wrong)


def _grown(old: Record, new: Record) -> list[str]:
    """Words on calls whose peak memory has grown."""
    before = {(m.cell, m.what, m.T, m.N, m.D, m.H): m.peaks[OURS] for m in old.memory}
    found = []
    for m in new.memory:
        was = before.get((m.cell, m.what, m.T, m.N, m.D, m.H))
        if was and m.peaks[OURS] > MORE_MEMORY * was:
            now = m.peaks[OURS] / 1e6
            found.append(f"MORE MEMORY: {m.cell} {m.what} {(m.T, m.N, m.D, m.H)}: {was / 1e6:.1f} MB, now {now:.1f} MB")
    return found


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench compare", description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help=f"what is no change (default: {TOLERANCE})")
    chosen = parser.parse_args(arguments)
    text, worse = words(Record.load(chosen.old), Record.load(chosen.new), chosen.tolerance)
    print(text)
    return 1 if worse else 0
