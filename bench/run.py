"""One run of the benchmark: every row, every contender, first proven right and then timed."""

import argparse
import platform
import sys
from pathlib import Path
from types import ModuleType

import numpy as np

import fastgate

from . import cases, contenders, grid, machine, timer
from .contenders import OURS, Calls, ours
from .record import Line, Measure, Record
from .timer import Ratio

PAUSE = 0.03  # seconds of rest between contenders that use several threads
SWEEP = 2**27  # bytes written to empty the caches


def run(options: argparse.Namespace) -> Record:
    peers, skipped = contenders.find(options.peers or contenders.PEERS)
    modules = [ours, *peers]
    say(f"measuring {Path(fastgate.__file__).parent}")
    for name, reason in skipped.items():
        say(f"skipped: {name}: {reason}")
    cells = check_cells(options.cells)
    try:
        rows = grid.select(options.rows)
    except ValueError as reason:
        raise SystemExit(f"--rows: {reason}") from None
    record = Record(
        machine=machine.describe(options.threads),
        versions={m.NAME: m.version() for m in modules} | {"Python": platform.python_version()},
        settings={
            "dtype": options.dtype,
            "caches": "cold" if options.cold else "warm",
            "clock": options.clock,
            "budget": options.budget,
            "rows": options.rows,
        },
    )
    if options.clock == "wall" and (record.machine["load"] or 0) > 0.5:
        say(f"other processes are busy (load {record.machine['load']:.1f}): ratios will scatter; try --clock cpu")
    plan = [
        (row, cell, what)
        for group in dict.fromkeys(row.group for row in rows)
        for what in options.what
        for cell in cells
        for row in rows
        if row.group == group and row.cell in (None, cell)
    ]
    told: set[str] = set()
    for done, (row, cell, what) in enumerate(plan, 1):
        say(f"[{done}/{len(plan)}] {cell} {what} {row.name}")
        measure_row(record, modules, row, cell, what, options, told)
    return record


def measure_row(
    record: Record,
    modules: list[ModuleType],
    row: grid.Row,
    cell: str,
    what: str,
    options: argparse.Namespace,
    told: set[str],
) -> None:
    """Add one line to the record, or to its list of wrong results."""
    case = cases.make_case(cell, what, *row.shape, options.dtype)
    expected = cases.exact(case)
    ready: dict[str, Calls] = {}
    errors: dict[str, float] = {}
    known: dict[str, float] = {}
    clock = timer.CLOCKS[options.clock]
    for module in modules:
        try:
            calls = module.prepare(case, options.threads)
            start = clock()
            result = calls.call()
            known[module.NAME] = clock() - start
            errors[module.NAME] = cases.check(module.NAME, case, calls.results(result), expected)
            del result
            ready[module.NAME] = calls
        except cases.Unsupported as reason:
            if str(reason) not in told:
                told.add(str(reason))
                say(f"skipped: {reason}")
        except cases.WrongResult as reason:
            record.wrong.append(str(reason))
            say(f"WRONG: {reason}")
    if OURS not in ready:
        return
    timings = timer.measure(
        {name: calls.call for name, calls in ready.items()},
        options.budget,
        pause=PAUSE if options.threads > 1 else 0.0,
        sweep=sweeper() if options.cold else None,
        clock=clock,
        known=known,
    )
    measures = {
        name: Measure(
            timing.median,
            errors[name],
            len(timing.bursts),
            timing.calls,
            Ratio(1, 1, 1) if name == OURS else timer.ratio(timing, timings[OURS]),
        )
        for name, timing in timings.items()
    }
    record.lines.append(Line(row.group, row.name, cell, what, *row.shape, case.flops, machine.attainable(case), measures))


def check_cells(cells: list[str]) -> list[str]:
    known = cases.cells()
    for cell in cells:
        if cell not in known:
            raise SystemExit(f"--cells: expected some of {' '.join(known)}, got {cell}")
    return cells


def sweeper():
    """A call that writes more than the last cache holds."""
    array = np.zeros(SWEEP, np.uint8)

    def sweep() -> None:
        np.add(array, 1, out=array)

    return sweep


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
