"""Files that are there whole or not at all."""

import errno
import itertools
import os
from types import TracebackType
from typing import BinaryIO

_numbers = itertools.count()  # of the parts of this process, which several threads may write


def plain(path: str | bytes | os.PathLike[str]) -> str:
    """A path as a str."""
    try:
        return os.fsdecode(path)
    except TypeError:
        raise TypeError(f"path: expected a path, got {type(path).__name__}") from None


class replacing:
    """`with replacing(path) as file`: what is written to `file` becomes `path`, whole or not at all.

    It is written beside its place, in `path`.<process>.<number>.part, forced to disk and renamed; an exception leaves the old
    file and removes the part. A process that is killed leaves the old file, and perhaps the part. What is there and is no
    regular file, as a pipe or a device, is an OSError and stays. Errors name the path as it was given.
    """

    def __init__(self, path: str | bytes | os.PathLike[str]) -> None:
        self.given = plain(path)
        self.path = os.path.realpath(self.given)
        if os.path.exists(self.path) and not os.path.isfile(self.path):
            raise OSError(errno.EINVAL, "expected a regular file or none", self.given)
        if not os.path.isdir(os.path.dirname(self.path)):
            raise FileNotFoundError(errno.ENOENT, "its folder does not exist", self.given)
        self.part = f"{self.path}.{os.getpid()}.{next(_numbers)}.part"

    def __enter__(self) -> BinaryIO:
        try:
            self.file = open(self.part, "wb")
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.given) from None
        return self.file

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            with self.file:
                self.file.flush()
                os.fsync(self.file.fileno())
            if kind is None:
                os.replace(self.part, self.path)
                _sync_folder(os.path.dirname(self.path))
        finally:
            if os.path.exists(self.part):
                os.unlink(self.part)


def _sync_folder(path: str) -> None:
    """Forces the new name to disk, where the file system can."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError:  # a file system without it renames in its own time
        pass
    finally:
        os.close(folder)
