"""The rows that are measured, in groups. `(T, N, D, H)` throughout; `python -m bench --rows GROUP` chooses.

grid      the shapes that every change is judged by       models   layers of real models
training  the grid, forward and backward                  step     one streaming step
ragged    lengths uniform in 1..T                         scaling  one size varied, the others fixed
map       N times H, for the heat map                     values   subnormal, saturated, zero, …
clipping  lists of gradients                              memory   peak bytes instead of time
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from .cases import CLIPPING, FORWARD, PREPARED, STEP, TRAINING, Case, make_case
from .clip import Gradients, make_gradients
from .values import NORMAL, VALUES

GRID = [
    (1, 1, 64, 64),
    (1, 1, 256, 256),
    (100, 1, 64, 64),
    (100, 1, 256, 256),
    (100, 1, 512, 512),
    (100, 1, 1024, 1024),
    (50, 8, 128, 128),
    (50, 16, 256, 256),
    (50, 32, 256, 256),
    (50, 32, 512, 512),
    (50, 64, 512, 512),
    (35, 20, 650, 650),
    (25, 64, 1024, 1024),
    (50, 128, 256, 256),
]
STEPS = [(1, N, H, H) for N in (1, 16) for H in (64, 128, 256, 512)]
RAGGED = [(100, 8, 128, 128), (50, 32, 256, 256), (50, 64, 256, 256), (200, 16, 64, 64), (25, 32, 512, 512)]
LISTS = [(300, 64, 64), (300, 256, 256), (16, 1024, 1024), (12, 256, 1024), (1, 64, 64)]  # arrays, rows, columns
ODD = ("normal", "subnormal", "decaying", "saturated", "zeros")
ODD_SHAPES = {(50, 16, 128, 128): ODD, (100, 1, 256, 256): ODD, (10, 4, 1024, 1024): ("normal", "constant")}
FIXED = {"T": 50, "N": 16, "H": 256}
VARIED = {"T": (1, 5, 20, 50, 200), "N": (1, 2, 4, 8, 16, 32, 64, 128), "H": (32, 64, 128, 256, 512, 1024)}
MAP = [(20, N, H, H) for N in (1, 2, 4, 8, 16, 32, 64, 128) for H in (32, 64, 128, 256, 512, 1024)]
PEAKS = [(100, 1, 256, 256), (100, 32, 256, 256), (400, 32, 256, 256)]
MODELS = Path(__file__).with_name("models.json")
MEMORY = "memory"


class Row(NamedTuple):
    """One line of a table: a shape, and the cells and calls that are measured at it (None: those the user names).

    A row of clipping is a list of N gradients (D, H).
    """

    group: str
    name: str
    T: int
    N: int
    D: int
    H: int
    cell: str | None = None
    whats: tuple[str, ...] | None = None
    values: str = NORMAL
    ragged: bool = False

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.T, self.N, self.D, self.H

    def case(self, cell: str, what: str, dtype: str) -> Case | Gradients:
        if what == CLIPPING:
            return make_gradients(*self.shape[1:], dtype)
        return VALUES[self.values](make_case(cell, what, *self.shape, dtype, self.ragged))


def grid() -> list[Row]:
    return [Row("grid", str(shape), *shape) for shape in GRID]


def models() -> list[Row]:
    """Layers of real models, each as one layer in one direction."""
    rows = json.loads(MODELS.read_text(encoding="utf-8"))["rows"]
    return [Row("models", r["name"], r["T"], r["N"], r["D"], r["H"], r["cell"]) for r in rows]


def training() -> list[Row]:
    return [row._replace(whats=(TRAINING,)) for row in grid()]


def step() -> list[Row]:
    return [Row("step", str(shape), *shape, whats=(STEP, PREPARED)) for shape in STEPS]


def ragged() -> list[Row]:
    return [Row("ragged", str(shape), *shape, ragged=True) for shape in RAGGED]


def clipping() -> list[Row]:
    name = "{} × ({}, {})".format
    return [Row("clipping", name(*sizes), 1, *sizes, cell="", whats=(CLIPPING,)) for sizes in LISTS]


def values() -> list[Row]:
    return [Row("values", f"{kind} {shape}", *shape, values=kind) for shape, kinds in ODD_SHAPES.items() for kind in kinds]


def scaling() -> list[Row]:
    """T, N and H varied one at a time, D = H."""
    rows = []
    for letter, sizes in VARIED.items():
        for size in sizes:
            T, N, H = (FIXED | {letter: size}).values()
            rows.append(Row("scaling", f"{letter} = {size}", T, N, H, H))
    return rows


def map_() -> list[Row]:
    return [Row("map", str(shape), *shape) for shape in MAP]


def memory() -> list[Row]:
    return [Row(MEMORY, str(shape), *shape, whats=(FORWARD, TRAINING)) for shape in PEAKS]


GROUPS: dict[str, Callable[[], list[Row]]] = {
    "grid": grid, "models": models, "training": training, "step": step, "ragged": ragged, "clipping": clipping,
    "values": values, "scaling": scaling, "map": map_, MEMORY: memory,
}  # fmt: skip


def select(words: list[str]) -> list[Row]:
    """Rows for the words of `--rows`: a group, the name of a model, or any shape as T,N,D,H."""
    named = {row.name: row for row in models()}
    rows: list[Row] = []
    for word in words:
        if word in GROUPS:
            rows += GROUPS[word]()
        else:
            rows.append(named.get(word) or _row_of_shape(word))
    return list(dict.fromkeys(rows))


def _row_of_shape(word: str) -> Row:
    try:
        T, N, D, H = (int(size) for size in word.strip("()").split(","))
    except ValueError:
        raise ValueError(f"expected {', '.join(GROUPS)}, a model's name or T,N,D,H, got {word!r}") from None
    return Row("grid", str((T, N, D, H)), T, N, D, H)
