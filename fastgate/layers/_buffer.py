"""One flat array and its named views."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fastgate.layers._types import Array

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
