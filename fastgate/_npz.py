"""Uncompressed .npz files: judged before anything of the size that they claim is allocated."""

import io
import json
import math
import os
import stat
import struct
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastgate._files import plain, replacing

_MOST = 2**20  # bytes of one read: a table of contents is no larger
_CHUNK = 2**18  # bytes of an array at a time
MALFORMED = (
    zipfile.BadZipFile, zipfile.LargeZipFile, struct.error, ValueError, TypeError, KeyError, EOFError, RecursionError,
    NotImplementedError, OverflowError, RuntimeError, UserWarning,
)  # fmt: skip


def write(path: str | os.PathLike[str], header: Any, arrays: dict[str, Any]) -> None:
    """An uncompressed .npz of plain arrays, with `header` as JSON in UTF-8 bytes under the name "header"."""
    write_arrays(path, {"header": np.frombuffer(json.dumps(header).encode(), np.uint8)} | arrays)


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, Any]) -> None:
    """The same of any arrays but those of Python objects, in C order; np.savez cannot write one whose name is "file"."""
    with replacing(path) as file, zipfile.ZipFile(file, "w") as members:
        for name, array in arrays.items():
            with members.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array, order="C"), allow_pickle=False)


class _Sparing(io.BufferedReader):
    """A file whose single read is small, whatever its tables of contents claim."""

    def read(self, size: int | None = -1, /) -> bytes:
        left = os.fstat(self.fileno()).st_size - self.tell()
        if (left if size is None or size < 0 else min(size, left)) > _MOST:
            raise ValueError("its table of contents is too large")
        return super().read(size)


class Entry(NamedTuple):
    """An array of the file, not yet read."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool
    begin: int  # of the values, in bytes from the beginning of the entry


class Npz:
    """The arrays of an uncompressed .npz file by name, as Entry, and their values on demand; nothing is ever unpickled.

    Use it in a `with` statement. Whatever is wrong with the file becomes a ValueError that begins with "path:" and says what
    was expected (`wanted`); an OSError of opening it stays as it is. What is read at once is at most 1 MiB besides the caller's
    arrays.
    """

    def __init__(self, path: str | os.PathLike[str], wanted: str):
        self._path, self._wanted = plain(path), wanted

    def __enter__(self) -> "Npz":
        if not stat.S_ISREG(os.stat(self._path).st_mode):  # a pipe would block, a device never end
            self._raise(ValueError("it is no regular file"))
        self._file = _Sparing(io.FileIO(self._path))
        try:
            self._zip = zipfile.ZipFile(self._file)
            self.entries = dict(self._judged())
        except BaseException as error:
            self._file.close()
            self._raise(error)
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        self._zip.close()
        self._file.close()
        if error is not None:
            self._raise(error)

    def _raise(self, error: BaseException) -> None:
        if isinstance(error, (*MALFORMED, OSError)):
            reason = f"{error} is missing" if isinstance(error, KeyError) else error
            raise ValueError(f"path: expected {self._wanted}, got {self._path!r}: {reason}") from error

    def _judged(self) -> Iterator[tuple[str, Entry]]:
        parts = self._zip.infolist()
        if any(part.compress_type for part in parts):
            raise ValueError("it is compressed")
        if sum(part.file_size for part in parts) > os.fstat(self._file.fileno()).st_size:
            raise ValueError("its entries are larger than the file")
        if len({part.filename for part in parts}) < len(parts):
            raise ValueError("two entries have one name")
        for part in parts:
            with self._zip.open(part) as stream:
                version = np.lib.format.read_magic(stream)
                if version not in ((1, 0), (2, 0)):
                    raise ValueError(f"{part.filename} has .npy version {version}")
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, fortran_order, dtype = read(stream)
                if dtype.hasobject or stream.tell() + math.prod(shape) * dtype.itemsize != part.file_size:
                    raise ValueError(f"{part.filename} has not the size of {shape} {dtype}")
                yield part.filename.removesuffix(".npy"), Entry(shape, dtype, fortran_order, stream.tell())

    def header(self) -> Any:
        """The JSON under the name "header"."""
        entry = self.entries["header"]
        if entry.dtype != np.uint8 or entry.shape[1:] or math.prod(entry.shape) > _MOST:
            raise ValueError(f"header: expected bytes, got {entry.shape} {entry.dtype}")
        text = np.empty(entry.shape, np.uint8)
        self.read("header", text)
        return json.loads(text.tobytes())

    def read(self, name: str, array: NDArray[Any]) -> None:
        """Read an entry into a C-ordered array; what does not fit is a ValueError."""
        shape, dtype, fortran_order, begin = self.entries[name]
        if shape != array.shape or dtype != array.dtype or (fortran_order and len(shape) > 1):
            order = ", Fortran order" * (fortran_order and len(shape) > 1)
            raise ValueError(f"{name}: expected {array.shape} {array.dtype}, got {shape} {dtype}{order}")
        values = array.reshape(-1).view(np.uint8)
        with self._zip.open(f"{name}.npy") as stream:
            stream.read(begin)
            for start in range(0, len(values), _CHUNK):
                part = stream.read(min(_CHUNK, len(values) - start))
                values[start : start + _CHUNK] = np.frombuffer(part, np.uint8)  # of another size: a ValueError

    def read_new(self, name: str) -> NDArray[Any]:
        """An entry as a new array."""
        array = np.empty(self.entries[name].shape, self.entries[name].dtype)
        self.read(name, array)
        return array
