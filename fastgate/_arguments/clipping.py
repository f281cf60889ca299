"""What clipping writes into."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy import ndarray

from fastgate._arguments.out import _folded, _overlap
from fastgate._arguments.words import _PLAIN, KERNEL, _kind, _listed, _spell


def gradients(grads: Any, dtypes: tuple[np.dtype, ...] = KERNEL) -> tuple[list[ndarray | None], list[Any] | None]:
    """Judge what clipping writes into: a list, tuple or mapping of writeable arrays, float32 and float64 mixed at will.

    An entry None (a gradient that was not needed) stays None. Two entries that share memory would be scaled twice and
    are refused. Returns the arrays as ndarrays that share the caller's memory, and the keys of a mapping.
    """
    keys = None
    if isinstance(grads, (dict, Mapping)):
        items = list(grads.items())  # read once: another thread may add a key between two readings
        keys, entries = [key for key, _ in items], [g for _, g in items]
    elif isinstance(grads, (list, tuple)):
        entries = list(grads)
    elif isinstance(grads, ndarray):
        raise TypeError("grads: expected a list, tuple or dict of arrays, got one array; pass [grads]")
    else:
        raise TypeError(f"grads: expected a list, tuple or dict of arrays, got {_kind(grads)}")
    arrays: list[ndarray | None] = []
    owners: dict[int, list[int]] = {}
    for k, g in enumerate(entries):
        if not (type(g) is ndarray and g.dtype in dtypes and (flags := g.flags.num) & _PLAIN == _PLAIN and flags & 3):
            g = None if g is None else _gradient_in_words(_entry(k, keys), g, dtypes)
        arrays.append(g)
        if g is not None:
            owner = g if (base := g.base) is None else base
            if type(owner) is not ndarray or owner.base is not None:
                owner = None  # of unknown extent: one group for all of them
            owners.setdefault(id(owner), []).append(k)
    if len(owners) < len(arrays):
        for group in owners.values():
            if len(group) > 1:
                _apart_in_group(group, arrays, keys)
    return arrays, keys


def _entry(k, keys):
    return f"grads[{keys[k]!r}]" if keys else f"grads[{k}]"


def _gradient_in_words(name, g, dtypes):
    if not isinstance(g, ndarray):
        raise TypeError(f"{name}: expected an array, got {_kind(g)}")
    if isinstance(g, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected an array, got a masked array; pass its .data")
    if g.dtype not in dtypes:
        wanted = _listed([_spell(d) for d in dtypes], "or", quote="")
        swapped = g.dtype.newbyteorder("=") in dtypes
        wanted += " in native byte order" * swapped
        raise TypeError(f"{name}: expected {wanted}, got {_spell(g.dtype)}; it is written into, so cast it where it is made")
    if not g.flags.writeable:
        raise ValueError(f"{name}: expected a writeable array, got a read-only one")
    if _folded(g):
        raise ValueError(f"{name}: expected an array whose elements do not share memory")
    return np.asarray(g)


def _apart_in_group(group, arrays, keys):
    """Arrays of one owner must not share memory: those whose spans of addresses meet are compared."""
    spans = sorted((*_span(arrays[k]), k) for k in group if arrays[k].size)
    end = 0
    for start, stop, k in spans:
        if start < end:
            for low, high, j in spans:
                if j != k and low < stop and start < high and _overlap(arrays[j], arrays[k]):
                    name, other = _entry(max(j, k), keys), _entry(min(j, k), keys)
                    raise ValueError(f"{name}: shares memory with {other}; pass each array once")
        end = max(end, stop)


def _span(array):
    """The first address of an array and the one after its last."""
    start = array.__array_interface__["data"][0]
    if array.flags.num & 3:
        return start, start + array.nbytes
    reaches = [stride * (size - 1) for stride, size in zip(array.strides, array.shape, strict=True)]
    low, high = (sum(reach for reach in reaches if (reach < 0) is negative) for negative in (True, False))
    return start + low, start + high + array.itemsize


def finite_norm(norm: float, error_if_nonfinite: bool) -> bool:
    """Whether to scale by this norm; with error_if_nonfinite, a norm of inf or NaN is a ValueError."""
    if np.isfinite(norm):
        return True
    if error_if_nonfinite:
        raise ValueError(f"grads: the norm is {norm}; nothing was clipped (error_if_nonfinite=True)")
    return False
