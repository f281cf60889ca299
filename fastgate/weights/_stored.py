"""Arrays that lie in a file. They are read piece by piece, straight to their place: no file is held in memory."""

import io
import os
import stat
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np

PIECE = 4 * 2**20  # bytes
BFLOAT16 = "bfloat16"  # NumPy has no such dtype: the upper half of a float32


@contextmanager
def opened(source: Any, what: str):
    """(file, bytes in it) of a path, or of bytes. Only a regular file: a pipe would block, a device never end."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        yield io.BytesIO(source), len(source)
        return
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"source: expected a path or bytes of {what}, got {type(source).__name__}")
    if not stat.S_ISREG(os.stat(source).st_mode):
        raise ValueError(f"source: expected a file, got {os.fspath(source)!r}, which is none")
    with open(source, "rb") as file:
        yield file, os.fstat(file.fileno()).st_size


class Stored:
    """An array that lies in `file` from `offset` on, little-endian, in C order. Parts along the first axis are Stored, too."""

    def __init__(self, file: Any, offset: int, shape: tuple[int, ...], dtype: str):
        self.file, self.offset, self.shape, self.dtype = file, offset, shape, dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def itemsize(self) -> int:
        return 2 if self.dtype == BFLOAT16 else np.dtype(self.dtype).itemsize

    def __getitem__(self, key: Any) -> "Stored":
        """One entry of the first axis, or a slice of it without a step."""
        below = prod(self.shape[1:]) * self.itemsize
        if isinstance(key, int):
            return Stored(self.file, self.offset + range(self.shape[0])[key] * below, self.shape[1:], self.dtype)
        start, stop, _ = key.indices(self.shape[0])
        return Stored(self.file, self.offset + start * below, (stop - start, *self.shape[1:]), self.dtype)

    def read_into(self, target: np.ndarray) -> None:
        """Write it into an array of its shape, (n,) or (n, m), of any strides and float dtype."""
        if self.ndim == 1:
            return Stored(self.file, self.offset, (1, *self.shape), self.dtype).read_into(target[None])
        rows, columns = self.shape
        wide = max(1, min(columns, PIECE // self.itemsize))
        high = max(1, PIECE // self.itemsize // wide) if wide == columns else 1
        for row in range(0, rows, high):
            for column in range(0, columns, wide):
                piece = target[row : row + high, column : column + wide]
                piece[...] = self._read(row * columns + column, piece.size).reshape(piece.shape)

    def any(self) -> bool:
        """Whether any value is not 0."""
        total, count = prod(self.shape), PIECE // self.itemsize
        return any(self._read(start, min(count, total - start)).any() for start in range(0, total, count))

    def _read(self, start, count):
        self.file.seek(self.offset + start * self.itemsize)
        data = self.file.read(count * self.itemsize)
        if len(data) != count * self.itemsize:
            raise ValueError("source: the file was cut short while it was read")
        if self.dtype == BFLOAT16:
            return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
        return np.frombuffer(data, np.dtype(self.dtype).newbyteorder("<"))
