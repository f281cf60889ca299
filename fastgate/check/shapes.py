"""The shape of an array in letters: "N T D", "D+H 4H", "[T] N D" (a list of T arrays).

Letters: N rows, T steps, D the width of x, H that of a state, G the number of gates. An axis is a sum of products: "D+H".
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

LETTERS = "NTDHG"
_TERM = re.compile(rf"(\d*)([{LETTERS}]*)")

Sizes = Mapping[str, int]


class Shape:
    """A shape in letters; `listed`: the first axis is a Python list (or tuple) of arrays."""

    def __init__(self, text: str, name: str = "shape") -> None:
        words = text.replace(",", " ").replace("(", " ").replace(")", " ").replace("·", "").split()
        self.listed = bool(words) and words[0].startswith("[") and words[0].endswith("]")
        if self.listed:
            words[0] = words[0][1:-1]
        self.axes = tuple(tuple(self._term(term, text, name) for term in word.split("+")) for word in words)
        self.text = " ".join(["[" + words[0] + "]", *words[1:]] if self.listed else words)

    @staticmethod
    def _term(term: str, text: str, name: str) -> tuple[int, str]:
        match = _TERM.fullmatch(term)
        if not match or not term:
            raise ValueError(f'{name}: expected axes of the letters {" ".join(LETTERS)}, as "N T D" or "D+H 4H", got "{text}"')
        return int(match[1] or 1), match[2]

    def sizes(self, sizes: Sizes) -> tuple[int, ...]:
        return tuple(sum(count * int(np.prod([sizes[x] for x in letters])) for count, letters in axis) for axis in self.axes)

    def axis_of(self, letter: str) -> int | None:
        """The axis that is exactly this letter."""
        return next((k for k, axis in enumerate(self.axes) if axis == ((1, letter),)), None)

    def gates_axis(self) -> int | None:
        """The axis whose length is a number of gates times H."""
        for k, axis in enumerate(self.axes):
            if len(axis) == 1 and (axis[0][1] in ("GH", "HG") or (axis[0][1] == "H" and axis[0][0] > 1)):
                return k
        return None

    def given(self, array: np.ndarray) -> Any:
        """The array as the function takes it: itself, or a list along its first axis."""
        return list(array) if self.listed else array

    def words(self, gates: int) -> str:
        """The text with the number of gates in place of G."""
        return self.text.replace("G", "" if gates == 1 else str(gates))

    def __repr__(self) -> str:
        return f"({self.text})"


def numbers(shape: tuple[int, ...]) -> str:
    return f"({shape[0]},)" if len(shape) == 1 else f"({', '.join(map(str, shape))})"
