"""What was measured, as it is kept in a JSON file and as tables and picture read it."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from .cases import CLIPPING
from .contenders import LOOP, OURS, PADDED
from .machine import FMA
from .timer import Ratio, geometric_mean
from .values import NORMAL


@dataclass(frozen=True)
class Measure:
    """One contender at one line."""

    seconds: float  # a call, median of the bursts
    error: float  # against the float64 reference, relative to the largest value
    bursts: int
    calls: int  # a burst
    ratio: Ratio  # this contender's time / ours
    low: float = 0.0  # quartiles of the bursts, seconds
    high: float = 0.0


@dataclass(frozen=True)
class Line:
    """One row of one cell, forward or training, and all who could do it."""

    group: str
    name: str
    cell: str
    what: str
    T: int
    N: int
    D: int
    H: int
    flops: int
    attainable: float  # seconds at this machine's measured limits
    measures: dict[str, Measure]
    threads: int = 1
    nbytes: int = 0  # of weights, or of gradients, that must be read or written
    limit: str = FMA  # what `attainable` is bound by: FMA, a cache or memory
    values: str = NORMAL  # what the arrays hold

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.T, self.N, self.D, self.H

    @property
    def ours(self) -> Measure:
        return self.measures[OURS]

    @property
    def fastest(self) -> tuple[str, Ratio] | None:
        """The fastest peer and its ratio. The NumPy loop is no peer; the lines of NumPy that clip are."""
        aside = (OURS, PADDED) if self.what == CLIPPING else (OURS, PADDED, LOOP)
        peers = {name: m.ratio for name, m in self.measures.items() if name not in aside}
        return min(peers.items(), key=lambda peer: peer[1].median) if peers else None

    @property
    def loses(self) -> bool:
        """Whether the ratio to the fastest peer, as the tables print it, is below 1."""
        return self.fastest is not None and round(self.fastest[1].median, 2) < 1

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        """What makes it the same line in another record."""
        return self.group, self.name, self.cell, self.what, self.threads

    @property
    def share(self) -> float:
        """How much of what the machine can reach is reached: 1 = all."""
        return self.attainable / self.ours.seconds


@dataclass(frozen=True)
class Memory:
    """Peak bytes of one call in a fresh process, its results included."""

    cell: str
    what: str
    T: int
    N: int
    D: int
    H: int
    results: int  # bytes that are returned
    peaks: dict[str, int]  # by contender


class Block(NamedTuple):
    """The lines that stand in one column: of one group, cell and direction, on so many threads."""

    group: str
    cell: str
    what: str
    threads: int


@dataclass
class Record:
    machine: dict[str, Any]
    versions: dict[str, str]
    settings: dict[str, Any]
    lines: list[Line] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)  # contenders that computed something else
    memory: list[Memory] = field(default_factory=list)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Record":
        values = json.loads(path.read_text(encoding="utf-8"))
        values["lines"] = [_line(line) for line in values["lines"]]
        values["memory"] = [Memory(**memory) for memory in values.get("memory", [])]
        return cls(**values)

    def add(self, other: "Record") -> None:
        """Take up the lines of a run of the same rows on another number of threads."""
        self.machine["threads"] += other.machine["threads"]
        self.machine["limits"] |= other.machine["limits"]
        self.lines += other.lines
        self.wrong += other.wrong
        self.memory += other.memory

    def blocks(self) -> dict[Block, list[Line]]:
        blocks: dict[Block, list[Line]] = {}
        for line in self.lines:
            blocks.setdefault(Block(line.group, line.cell, line.what, line.threads), []).append(line)
        return blocks


def _line(values: dict[str, Any]) -> Line:
    measures = {name: Measure(**measure | {"ratio": Ratio(*measure["ratio"])}) for name, measure in values["measures"].items()}
    return Line(**values | {"measures": measures})


def peers_of(lines: Iterable[Line]) -> list[str]:
    """All contenders but ours, in the order in which they were measured."""
    return [name for name in dict.fromkeys(name for line in lines for name in line.measures) if name != OURS]


def mean_ratio(lines: Iterable[Line], peer: str | None = None) -> float:
    """Geometric mean of the ratios to one peer, or to the fastest peer of each line; nan without any."""
    if peer is None:
        return geometric_mean([line.fastest[1].median for line in lines if line.fastest])
    return geometric_mean([line.measures[peer].ratio.median for line in lines if peer in line.measures])


def largest_error(lines: Iterable[Line], name: str) -> float:
    return max(line.measures[name].error for line in lines if name in line.measures)


def losses_first(lines: list[Line]) -> list[Line]:
    """Lines that lose, worst first, then the others in the order of the grid."""

    def rank(line: Line) -> float:
        return line.fastest[1].median if line.loses else 1.0

    return sorted(lines, key=rank)
