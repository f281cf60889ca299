"""Arrays between forbidden pages: whoever reads or writes one element too far dies at once.

guarded(array, side)   a copy whose every row (last axis) lies in pages of its own and ends ("after") or begins ("before") at a
                       page that may not be touched
"""

import ctypes
import mmap

import numpy as np

PAGE = mmap.PAGESIZE
SIDES = ("after", "before")
_mprotect = ctypes.CDLL(None, use_errno=True).mprotect
_mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_FORBIDDEN = 0  # PROT_NONE


def guarded(a, side):
    rows, size = int(np.prod(a.shape[:-1])), a.shape[-1] * a.itemsize
    block = (-(-size // PAGE) + 1) * PAGE  # the pages of a row, and a forbidden one
    memory = mmap.mmap(-1, rows * block + PAGE)
    start = np.frombuffer(memory, np.uint8).ctypes.data
    for row in range(rows + 1):
        if _mprotect(start + row * block, PAGE, _FORBIDDEN) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")
    # [forbidden] row [forbidden] row … [forbidden]
    offset = PAGE if side == "before" else block - size
    strides = [block * int(np.prod(a.shape[axis + 1 : -1])) for axis in range(a.ndim - 1)]
    copy = np.ndarray(a.shape, a.dtype, memory, offset, [*strides, a.itemsize])
    copy[...] = a
    return copy
