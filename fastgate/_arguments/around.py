"""What goes around any cell: delays, periods, masks."""

from numbers import Integral, Real
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from fastgate._arguments.words import _LARGEST, _affordable, _array, _ask, _bracket, _direct, _integers, _kind, _rows, _spell


class Rhythm(NamedTuple):
    """Which steps depend on which. Unit j changes its state at the steps t where (start + t) % period[j] == 0; t counts steps
    as they are done. The product with Wh reads h of `delays` steps ago, side by side."""

    period: ndarray | None  # (H,) int64 >= 1, C order, private; None: 1
    start: int  # 0 <= start < 2**62
    delays: ndarray | None  # (K,) int64 >= 1, rising, C order, private; None: 1, and no axis for it


class Masks(NamedTuple):
    """Factors of a call, constants of its gradients: views of these shapes. Any stride may be 0, that of the last axis is 0 or
    one element."""

    recurrent: ndarray | None  # (N, P), on the left operand of the products with Wh
    zoneout_h: ndarray | None  # (N, T, P), a step: (N, P), flat rows: (sum T, P); how much of h_prev is kept
    zoneout_c: ndarray | None  # the same of c_prev, H wide


def _delays(delays):
    """None, or integers >= 1 that rise, as a private int64 array (K,)."""
    if delays is None:
        return None
    delays = _integers("delays", delays)
    if delays.ndim != 1 or delays.size == 0:
        got, hint = (delays.shape, None) if delays.ndim else (int(delays), f"({int(delays)},)")
        raise ValueError(f"delays: expected (K,) integers >= 1 that rise, K > 0, got {got}" + _ask(hint))
    _affordable(2 * 8 * delays.size, 0, f"delays: K = {delays.size}")
    delays = delays.copy()
    wrong = (delays < 1) | (delays >= _LARGEST)
    wrong[1:] |= delays[1:] <= delays[:-1]
    if wrong.any():
        at = int(wrong.argmax())
        after = f" after {int(delays[at - 1])}" if at else ""
        raise ValueError(f"delays: expected integers >= 1 and < 2**62 that rise, got {int(delays[at])}{after}")
    delays = delays.astype(np.int64, copy=False)
    delays.flags.writeable = False
    return delays


def delays_of(call):
    """(K,) delays of a judged forward call, or None."""
    return None if call.rhythm is None else call.rhythm.delays


def _past_shape(letter, P, delays):
    """Letters and sizes of h of one row: (P,), or with delays that of the last d steps, (d, P)."""
    return ((letter,), (P,)) if delays is None else (("d", letter), (int(delays[-1]), P))


def states_shape(call):
    """(N, P), or with delays (N, d, P): h0 with all rows, h_T, and their gradients."""
    return (call.N, *_past_shape("", call.P, delays_of(call))[1])


def _one_of(Wh, delays):
    """With delays the first of as many, if there are some."""
    return Wh[0] if delays is not None and Wh is not None and Wh.ndim == 3 and len(Wh) else Wh


def _merging(h0, Wh, delays):
    """h0 whose states lie side by side, and Wh whose first two axes merge into one: copies where they do not."""
    if delays is None:
        return h0, Wh
    return (h0 if h0 is None or _side_by_side(h0) else h0.copy()), (Wh if Wh is None or first_merge(Wh) else Wh.copy())


def first_merge(W: ndarray) -> bool:
    """Whether the first two axes merge into one."""
    n, m, _ = W.shape
    return n <= 1 or m == 1 or W.strides[0] == m * W.strides[1]


def _side_by_side(states: ndarray) -> bool:
    """Whether the states of the last steps, (..., d, P), lie one behind the other."""
    d, P = states.shape[-2:]
    return d <= 1 or states.strides[-2] == P * states.itemsize


def _periods(period, H):
    """An integer or integers (H,), all >= 1, as a private int64 array (H,)."""
    if period.shape not in ((), (H,)):
        raise ValueError(f"period: expected an integer or (H,) = ({H},) integers, got {period.shape}")
    wrong = (period < 1) | (period >= _LARGEST)
    if wrong.any():
        where = f" for unit {int(wrong.argmax())}" if period.ndim else ""
        raise ValueError(f"period: expected integers >= 1 and < 2**62, got {int(period.ravel()[wrong.argmax()])}{where}")
    return np.array(np.broadcast_to(period, (H,)), np.int64, order="C")


def _step_number(name, value):
    """An integer >= 0 that leaves room for the steps of any call."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Integral):
        raise TypeError(f"{name}: expected an integer >= 0, got {_kind(value)}")
    if not 0 <= value < _LARGEST:
        raise ValueError(f"{name}: expected an integer >= 0 and < 2**62, got {int(value)}")
    return int(value)


def _factors(name, mask, dtype):
    """A number, bools, or floats of the dtype of the call, as an array of at least one axis."""
    if isinstance(mask, (Real, np.bool_)):
        try:
            with np.errstate(over="ignore", under="ignore"):
                return np.full(1, float(mask)).astype(dtype)
        except OverflowError:
            raise ValueError(f"{name}: expected a number that fits a float, got a larger one") from None
    mask = _array(name, mask, (dtype, np.dtype(bool)), "x", cast=f"np.{_spell(dtype)}")
    return mask.reshape(mask.shape or 1)


def _broadcast(name, mask, dtype, letters, shape):
    """Factors as a view of this shape, whose last axis is contiguous or has the stride 0."""
    if mask is None:
        return None
    if mask.shape == shape and mask.dtype is dtype and _rows(mask):
        return mask[...]
    try:
        np.broadcast_to(mask, shape)
    except ValueError:
        expected = f"a number or an array that broadcasts to {_bracket(letters)} = {shape}"
        raise ValueError(f"{name}: expected {expected}, got {mask.shape}") from None
    # Of an axis that takes no memory, one element says all.
    mask = mask[tuple(slice(0, 1) if stride == 0 and size else slice(None)
                      for stride, size in zip(mask.strides, mask.shape, strict=True))]  # fmt: skip
    mask = mask.astype(dtype, order="C") if mask.dtype == bool else _direct(mask, dtype, rows=True)
    return np.broadcast_to(mask, shape)
