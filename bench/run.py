"""One run of the benchmark: every row, every contender, first proven right and then timed."""

import argparse
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

import fastgate

from . import cases, contenders, grid, machine, memory, timer
from .clip import Gradients
from .contenders import OURS, ours, padded
from .record import Line, Measure, Record
from .timer import Ratio

PAUSE = 0.03  # seconds of rest between contenders that use several threads
SWEEP = 2**27  # bytes written to empty the caches


def run(options: argparse.Namespace, threads: int) -> Record:
    peers, skipped = contenders.find(contenders.PEERS if options.peers is None else options.peers)
    say(f"measuring {Path(fastgate.__file__).parent}, {threads} thread{'s' if threads > 1 else ''}")
    for name, reason in skipped.items():
        say(f"skipped: {name}: {reason}")
    try:
        steps = plan(grid.select(options.rows), check_cells(options.cells), options.what)
    except ValueError as reason:
        raise SystemExit(f"--rows: {reason}") from None
    record = Record(
        machine=machine.describe(threads, options.dtype),
        versions={m.NAME: m.version() for m in (ours, *peers)} | {"Python": platform.python_version()},
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
    told: set[str] = set()  # what was said already
    for done, (row, cell, what) in enumerate(steps, 1):
        say(f"[{done}/{len(steps)}] {cell} {what} {row.name}")
        if row.group == grid.MEMORY:
            if reason := memory.unavailable():
                say(f"skipped: {reason}")
            else:
                names = [peer.__name__.rsplit(".", 1)[-1] for peer in peers]
                record.memory.append(memory.measure(row.shape, cell, what, options.dtype, threads, names))
            continue
        case = row.case(cell, what, options.dtype)
        modules = [ours, padded, *peers] if row.ragged else [ours, *peers]
        proven, wrong = prove(case, modules, threads, told)
        record.wrong += [f"{row.name}: {reason}" for reason in wrong]
        if OURS in proven:
            measures = measure(proven, options, threads)
            limit = machine.limit(case.flops, case.nbytes, case.reads_from, case.dtype, threads)
            record.lines.append(
                Line(
                    row.group,
                    row.name,
                    cell,
                    what,
                    *row.shape,
                    flops=case.flops,
                    attainable=limit.seconds,
                    measures=measures,
                    threads=threads,
                    nbytes=case.nbytes,
                    limit=limit.name,
                    values=row.values,
                )
            )
    return record


def plan(rows: list[grid.Row], cells: list[str], whats: list[str]) -> list[tuple[grid.Row, str, str]]:
    """What is measured, in the order of the tables: by group, call, cell, row."""
    return list(
        dict.fromkeys(
            (row._replace(whats=None), cell, what)
            for group in dict.fromkeys(row.group for row in rows)
            for what in cases.WHATS
            for cell in (*cells, "")
            for row in rows
            if row.group == group and what in (row.whats or whats) and (row.cell == cell or (row.cell is None and cell))
        )
    )


class Proven(NamedTuple):
    """A contender whose result is right."""

    call: Callable[[], Any]
    error: float
    seconds: float  # the first call took, by the wall


def prove(
    case: cases.Case | Gradients, modules: list[ModuleType], threads: int, told: set[str]
) -> tuple[dict[str, Proven], list[str]]:
    """Let every contender compute the case once: those that are right, and words on those that are wrong."""
    expected = case.exact()
    proven: dict[str, Proven] = {}
    wrong: list[str] = []
    for module in modules:
        try:
            calls = contenders.begin(module, case, threads)
            start = time.perf_counter()
            result = calls.call()
            seconds = time.perf_counter() - start
            error = cases.check(module.NAME, case, calls.results(result), expected)
            proven[module.NAME] = Proven(calls.call, error, seconds)
        except cases.Unsupported as reason:
            if str(reason) not in told:
                told.add(str(reason))
                say(f"skipped: {reason}")
        except cases.WrongResult as reason:
            wrong.append(str(reason))
            say(f"WRONG: {reason}")
    return proven, wrong


def measure(proven: dict[str, Proven], options: argparse.Namespace, threads: int) -> dict[str, Measure]:
    timings = timer.measure(
        {name: contender.call for name, contender in proven.items()},
        options.budget,
        pause=PAUSE if threads > 1 else 0.0,
        sweep=sweeper() if options.cold else None,
        clock=timer.CLOCKS[options.clock],
        known={name: contender.seconds for name, contender in proven.items()},
    )
    measures = {}
    for name, timing in timings.items():
        ratio = Ratio(1, 1, 1) if name == OURS else timer.ratio(timing, timings[OURS])
        low, high = timer.quartiles(timing.bursts)
        measures[name] = Measure(timing.median, proven[name].error, len(timing.bursts), timing.calls, ratio, low, high)
    return measures


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
