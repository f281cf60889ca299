"""One flat array and its named views."""

import math
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgate import _arguments
from fastgate.layers import _judge
from fastgate.layers._types import Array, Shapes

_LINE = 64  # bytes of a cache line, and of the widest register


def zeros(size: int, dtype: np.dtype) -> Array:
    """(size,) zeros that begin on a cache line.

    Weights that lie in it one after the other need no padding: every matrix of a layer has rows of G·H values. Where a row is
    whole cache lines, so is each matrix, and all of them begin on one; where it is not, rows straddle lines wherever the matrix
    begins.
    """
    memory: NDArray[np.uint8] = np.zeros(size * dtype.itemsize + _LINE, np.uint8)
    start = -memory.__array_interface__["data"][0] % _LINE
    return memory[start : start + size * dtype.itemsize].view(dtype)


def views(flat: Array, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """Name -> view of the flat array, one after the other."""
    result, start = {}, 0
    for name, shape in shapes.items():
        stop = start + math.prod(shape)
        result[name] = flat[start:stop].reshape(shape)
        start = stop
    return result


class Views(Mapping[str, Array]):
    """Name -> live view of one flat array, in the order in which they lie there.

    views[name] = values copies the values into the view, which stays where it is: they have its shape (else a ValueError) and
    dtype (else a TypeError). A name that is not there is a KeyError.
    """

    __slots__ = ("_shapes", "_views", "_what")

    def __init__(self, what: str, flat: Array, shapes: Shapes):
        """what: the name of the mapping. shapes: name -> (letters, sizes)."""
        self._what, self._shapes = what, shapes
        self._views = views(flat, {name: sizes for name, (_, sizes) in shapes.items()})

    def __getitem__(self, name: str) -> Array:
        try:
            return self._views[name]
        except KeyError:
            pass
        names = _arguments._listed(self._views, "and", quote="'")
        raise KeyError(f"{self._what}: expected a name among {names}, got {name!r}")

    def __setitem__(self, name: str, values: Any) -> None:
        view, (letters, sizes) = self[name], self._shapes[name]
        if isinstance(values, Real):
            fill = f"np.full({sizes}, {values}, np.{view.dtype})"
            _arguments._shape(name, np.asarray(values), letters, sizes, hint=fill)
        view[...] = _judge.array(name, values, view.dtype, letters, sizes)

    def __contains__(self, name: object) -> bool:
        return name in self._views

    def get(self, name: str, default: Any = None) -> Any:
        """The view, or the default."""
        return self._views.get(name, default)

    def copy(self) -> dict[str, Array]:
        """A dict of the views."""
        return dict(self._views)

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._views)

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        """A dict of the views and what `other` has, as of two dicts."""
        return {**self._views, **other}

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**other, **self._views}

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def __repr__(self) -> str:
        return repr(self._views)
