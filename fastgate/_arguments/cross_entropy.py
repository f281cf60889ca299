"""The arguments of softmax_cross_entropy."""

from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from fastgate._arguments.words import F8, KERNEL, _affordable, _array, _ask, _direct, _integers, _kind, _native


class Loss(NamedTuple):
    """A judged call of softmax_cross_entropy."""

    o: ndarray  # (..., K), last axis contiguous
    y: ndarray  # (...) int64, C order, private; -1 where a row does not count
    mask: ndarray | None  # (...) weights in the dtype of o, C order; None = all 1
    total: float  # the sum of the weights that count


def loss(o: Any, y: Any, mask: Any, ignore_index: Any, dtypes: tuple[np.dtype, ...] = KERNEL) -> Loss:
    """Judge softmax_cross_entropy: o (..., K), y (...) integers 0..K-1, mask (...) bools or weights >= 0.

    A row does not count where its weight is 0 or False, or where y equals ignore_index; its y and o may be anything.
    """
    o = _array("o", o, dtypes)[...]
    dtype = _native(o.dtype, dtypes)
    y = _integers("y", y)[...]
    if mask is not None:
        mask = _array("mask", mask, (dtype, np.dtype(bool)), "o", cast="bool")[...]
    if o.ndim == 0:
        raise ValueError("o: expected (..., K), got ()")
    shape, K = o.shape[:-1], o.shape[-1]
    if y.shape != shape:
        hint = "y.argmax(-1)" if y.shape == o.shape else None
        raise ValueError(f"y: expected o.shape[:-1] = {shape}, got {y.shape}" + _ask(hint))
    if mask is not None and mask.shape != shape:
        raise ValueError(f"mask: expected o.shape[:-1] = {shape}, got {mask.shape}")
    if ignore_index is not None and (isinstance(ignore_index, (bool, np.bool_)) or not isinstance(ignore_index, Integral)):
        raise TypeError(f"ignore_index: expected an integer or None, got {_kind(ignore_index)}")
    rows = y.size
    _affordable((o.size + 2 * rows) * dtype.itemsize, o.size * dtype.itemsize, f"o: {o.shape}")

    counts = np.ones(shape, bool)
    if mask is not None:
        if mask.dtype != bool:
            mask = mask.astype(dtype, order="C")
            if not (np.isfinite(mask) & (mask >= 0)).all():
                raise ValueError("mask: expected finite weights >= 0")
        counts = mask != 0
    if ignore_index is not None:
        counts = counts & (y != int(ignore_index))
    wrong = counts & ((y < 0) | (y >= K))
    if wrong.any():
        place = tuple(int(k) for k in np.unravel_index(int(wrong.argmax()), shape))
        raise ValueError(f"y: expected 0..K-1 = 0..{K - 1}, got {y[place]} at {place}")
    counted = np.full(shape, -1, np.int64)
    np.copyto(counted, y, where=counts, casting="unsafe")
    if mask is None or mask.dtype == bool:
        return Loss(_direct(o, dtype, rows=True), counted, None, float(np.count_nonzero(counts)))
    mask = np.where(counts, mask, np.zeros((), dtype))
    with np.errstate(over="ignore", under="ignore"):
        total = mask.sum(dtype=np.result_type(dtype, F8))
    if total and not np.finfo(F8).tiny <= total <= np.finfo(F8).max:
        raise ValueError(f"mask: expected weights whose sum is 0 or an ordinary number, got the sum {total}")
    return Loss(_direct(o, dtype, rows=True), counted, mask, total)
