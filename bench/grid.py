"""The shapes that are measured: the grid, and layers of real models. `(T, N, D, H)` throughout."""

import json
from pathlib import Path
from typing import NamedTuple

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
MODELS = Path(__file__).with_name("models.json")


class Row(NamedTuple):
    """One line of a table: a shape, and the cells that are measured at it (None: those the user names)."""

    group: str
    name: str
    T: int
    N: int
    D: int
    H: int
    cell: str | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.T, self.N, self.D, self.H


def grid() -> list[Row]:
    return [Row("grid", str(shape), *shape) for shape in GRID]


def models() -> list[Row]:
    """Layers of real models, each as one layer in one direction."""
    rows = json.loads(MODELS.read_text(encoding="utf-8"))["rows"]
    return [Row("models", r["name"], r["T"], r["N"], r["D"], r["H"], r["cell"]) for r in rows]


def select(words: list[str]) -> list[Row]:
    """Rows for the words of `--rows`: "grid", "models", the name of a model, or any shape as T,N,D,H."""
    known = {"grid": grid(), "models": models()} | {row.name: [row] for row in models()}
    rows: list[Row] = []
    for word in words:
        rows += known[word] if word in known else [_row_of_shape(word)]
    return list(dict.fromkeys(rows))


def _row_of_shape(word: str) -> Row:
    try:
        T, N, D, H = (int(size) for size in word.strip("()").split(","))
    except ValueError:
        raise ValueError(f"expected grid, models, a model's name or T,N,D,H, got {word!r}") from None
    return Row("grid", str((T, N, D, H)), T, N, D, H)
