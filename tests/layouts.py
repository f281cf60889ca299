"""The same values elsewhere in memory. Every layout takes an array and returns one that is equal to it.

LAYOUTS           by name; what lies between the elements is NaN
lay_out           an array in a named layout
plain             an array as its own C-ordered copy of native byte order
far_apart         rows farther apart than 32 bits count
"""

import mmap

import numpy as np

MAP_NORESERVE = 0x4000  # of Linux; in mmap from Python 3.13 on


def plain(a):
    return np.array(a, dtype=a.dtype.newbyteorder("="), order="C")


def _within(a, around, index):
    """`a` at `index` of a new array of NaN of the shape `around`."""
    held = np.full(around, np.nan, a.dtype)[index]
    held[...] = a
    return held


def columns_first(a):
    return np.array(a, order="F")


def axes_swapped(a):
    """Time-major for (N, T, K); the transpose's order for a matrix."""
    return np.ascontiguousarray(a.swapaxes(0, 1)).swapaxes(0, 1) if a.ndim > 1 else plain(a)


def wide_rows(a):
    """Rows inside longer ones, whose length divides nothing."""
    return _within(a, (*a.shape[:-1], a.shape[-1] + 3), (..., slice(1, 1 + a.shape[-1])))


def every_second_row(a):
    if a.ndim == 1:
        return spread(a)
    around = [2 * n + 1 for n in a.shape[:-1]] + [a.shape[-1]]
    return _within(a, around, (*[slice(1, None, 2)] * (a.ndim - 1), slice(None)))


def spread(a):
    """No axis contiguous."""
    return _within(a, [2 * n for n in a.shape], (slice(0, None, 2),) * a.ndim)


def rows_backwards(a):
    if a.ndim == 1:
        return backwards(a)
    index = (slice(None, None, -1),) * (a.ndim - 1)
    return plain(a[index])[index]


def backwards(a):
    index = (slice(None, None, -1),) * a.ndim
    return plain(a[index])[index]


def shifted(a):
    """Aligned to its elements, not to vectors."""
    return _within(a.ravel(), a.size + 1, slice(1, None)).reshape(a.shape)


def misaligned(a):
    """One byte off."""
    raw = np.full(a.nbytes + 1, 0xFF, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    raw[...] = a
    return raw


def bytes_swapped(a):
    return a.astype(a.dtype.newbyteorder("S"))


def read_only(a):
    a = plain(a)
    a.flags.writeable = False
    return a


LAYOUTS = {
    layout.__name__: layout
    for layout in (
        plain, columns_first, axes_swapped, wide_rows, every_second_row, spread, rows_backwards, backwards, shifted,
        misaligned, bytes_swapped, read_only,
    )
}  # fmt: skip


def lay_out(name, array):
    return None if array is None else LAYOUTS[name](array)


def far_apart(a):
    """Rows more than 2^31 elements apart, in memory that is reserved and not filled."""
    stride = (2**31 + 3) * a.itemsize
    rows = int(np.prod(a.shape[:-1]))
    memory = mmap.mmap(-1, max(rows, 1) * stride, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    strides = [stride * int(np.prod(a.shape[axis + 1 : -1])) for axis in range(a.ndim - 1)]
    moved = np.ndarray(a.shape, a.dtype, memory, 0, [*strides, a.itemsize])
    moved[...] = a
    return moved
