"""`out=`: where a call writes, and what of its arguments that overlaps."""

from typing import Any

import numpy as np
from numpy import ndarray

from fastgate._arguments.around import _side_by_side
from fastgate._arguments.words import _OWNED, _WRITEABLE, _copy, _kind, _listed, _rows, _spell


def outputs(
    out: Any, expected: dict[str, tuple[int, ...] | None], dtype: np.dtype, like: str = "x"
) -> dict[str, ndarray] | None:
    """Judge `out=`: None, one array (the first of `expected`), or a dict {name: array}.

    expected: name -> shape, or None for an output that this call does not make. Returns name -> array for those that
    were given, or None. The arrays may have any strides; they must not overlap each other.
    """
    if out is None:
        return None
    given = out if type(out) is dict else _named(out, expected)
    arrays: dict[str, Any] = {}
    for key, array in given.items():
        if not (
            type(array) is ndarray
            and array.dtype is dtype
            and key in expected
            and array.shape == expected[key]
            and array.flags.num & _WRITEABLE == _WRITEABLE
        ):
            if array is None and key in expected:
                continue
            array = _output_in_words(f'out["{key}"]' if given is out else "out", key, array, expected, dtype, like)
        for other, second in arrays.items():
            if _overlap(array, second):
                raise ValueError(f'out["{key}"]: shares memory with out["{other}"]')
        arrays[key] = array
    return arrays or None


def _named(out, expected):
    if isinstance(out, dict):
        return dict(out)
    if isinstance(out, ndarray):
        return {next(iter(expected)): out}
    raise TypeError(f"out: expected an array or a dict of arrays, got {_kind(out)}")


def _output_in_words(name, key, array, expected, dtype, like):
    if not isinstance(key, str):
        raise TypeError(f"out: expected names as keys, got {_kind(key)}")
    if key not in expected:
        raise ValueError(f"out: expected names among {_listed(expected, 'and')}, got {key!r}")
    shape = expected[key]
    if not isinstance(array, ndarray):
        raise TypeError(f"{name}: expected an array, got {_kind(array)}")
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected an array, got a masked array; pass its .data")
    if shape is None:
        raise ValueError(f"{name}: this call does not return {key}")
    if array.dtype != dtype:
        wanted = _spell(dtype) + " in native byte order" * (array.dtype.newbyteorder("=") == dtype)
        hint = f"np.empty({shape}, np.{_spell(dtype)})"
        raise TypeError(f"{name}: expected {wanted} as {like}, got {_spell(array.dtype)}; pass {hint}")
    if array.shape != shape:
        raise ValueError(f"{name}: expected {shape}, got {array.shape}")
    if not array.flags.writeable:
        raise ValueError(f"{name}: expected a writeable array, got a read-only one")
    if _folded(array):
        raise ValueError(f"{name}: expected an array whose elements do not share memory")
    array = np.asarray(array)
    return array if array.dtype is dtype else array.view(dtype)


def in_place(array: ndarray) -> bool:
    """Whether a kernel may write rows straight into this output: aligned, last axis contiguous."""
    return bool(_rows(array))


def past_in_place(array: ndarray) -> bool:
    """As in_place, of the states of several steps: (N, d, P)."""
    return in_place(array) and (array.ndim < 3 or _side_by_side(array))


def _folded(array):
    """Whether two indices may reach one element (stride 0 and its like)."""
    reach = array.itemsize
    for stride, size in sorted((abs(s), n) for s, n in zip(array.strides, array.shape, strict=True) if n > 1):
        if stride < reach:
            return array.size > 0
        reach += stride * (size - 1)
    return False


def _owner(array):
    """The ndarray that owns the memory of this one; None where something else does."""
    owner = array.base
    if owner is None:
        owner = array
    return owner if type(owner) is ndarray and owner.flags.num & _OWNED and owner.base is None else None


def _overlap(a, b):
    first, second = _owner(a), _owner(b)
    if (first is not None and second is not None and first is not second) or not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=100_000)
    except np.exceptions.TooHardError:
        return True


def _apart(out, *arrays):
    """The arrays; a copy of each whose span of memory an output touches. Two owners never touch."""
    if not out:
        return arrays
    outs = [(o, _owner(o)) for o in out.values()]
    apart = []
    for a in arrays:
        if a is not None:
            owner = _owner(a)
            for o, other in outs:
                if (owner is other or owner is None or other is None) and np.may_share_memory(a, o):
                    a = a.copy() if a.flags.c_contiguous else _copy(a, a.dtype, rows=False)
                    break
        apart.append(a)
    return apart
