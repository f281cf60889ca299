"""Symbols as the rows of x that a layer reads, step by step."""

from typing import Any

import numpy as np

from fastgate import _arguments
from fastgate.layers._types import Array


class SymbolRows:
    """x (N, width) of symbols y (N,): rows of E (number of symbols, width), or without E one-hot rows.

    remaining : True makes the last column of x the symbols still to come, `left`; E then has a column less.
    width : of x; `name` is what the caller calls it, `like` whose dtype it is, for errors.
    """

    def __init__(self, E: Any, width: int, name: str, dtype: np.dtype[Any], like: str, remaining: Any):
        self._remaining = _arguments.flag("remaining", remaining)
        self._dtype, self._width, self._embedded = dtype, width, width - self._remaining
        if self._embedded == 0:
            raise ValueError(f"remaining: expected False where {name} is 1")
        if E is not None:
            E = _arguments._array("E", E, (dtype,), like)[...]
            if E.ndim != 2 or E.shape[1] != self._embedded:
                letters = f"(number of symbols, {name}{' - 1' * self._remaining})"
                raise ValueError(f"E: expected {letters} = (…, {self._embedded}), got {E.shape}")
            E = np.array(E, dtype, order="C")
        self._E, self._number = E, self._embedded if E is None else len(E)

    def rows(self, y: Any, left: Any, N: int | None = None) -> Array:
        """x (N, width); N None is that of y."""
        y = _arguments._integers("y", y)
        if y.ndim != 1 or len(y) != (len(y) if N is None else N):
            raise ValueError("y: expected (N,)" + f" = ({N},) as the state" * (N is not None) + f", got {y.shape}")
        wrong = (y < 0) | (y >= self._number)
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(f"y: expected symbols 0..{self._number - 1}, got {y[row]} in row {row}")
        N = len(y)
        if self._remaining is (left is None):
            words = ("(N,) numbers, the symbols still to come", "None") if self._remaining else ("None", "an array")
            hint = "" if self._remaining else "; pass remaining=True to make it a column of x?"
            raise ValueError(f"left: expected {words[0]} with remaining={self._remaining}, got {words[1]}{hint}")
        x = np.zeros((N, self._width), self._dtype)
        if self._E is None:
            x[np.arange(N), y] = 1
        else:
            x[:, : self._embedded] = self._E[y]
        if self._remaining:
            left = _arguments._integers("left", left)
            if left.shape != (N,):
                raise ValueError(f"left: expected (N,) = ({N},), got {left.shape}")
            x[:, -1] = left
        return x
