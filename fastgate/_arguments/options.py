"""Options in words, booleans, numbers; what masks and alphas are drawn from."""

import math
from functools import lru_cache
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy import ndarray

from fastgate._arguments.words import KERNEL, _affordable, _kind, _listed, _spell


def option(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    """One word out of `allowed`."""
    if type(value) is str and value in allowed:
        return value
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected {_listed(allowed, 'or')}, got {_kind(value)}")
    if value not in allowed:
        raise ValueError(f'{name}: expected {_listed(allowed, "or")}, got "{value}"')
    return str(value)


def flag(name: str, value: Any) -> bool:
    """True or False, nothing that merely looks like it."""
    if value is True or value is False:
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    raise TypeError(f"{name}: expected True or False, got {_kind(value)}")


def number(name: str, value: Any, *, positive: bool = False) -> float:
    """A real number >= 0 (with positive=True, > 0); infinity is one, NaN is not."""
    words = "a number > 0" if positive else "a number >= 0"
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected {words}, got {_kind(value)}")
    try:
        value = float(value)
    except OverflowError:
        raise ValueError(f"{name}: expected {words} that fits a float, got a larger one") from None
    if not value >= 0 or (positive and value == 0):
        raise ValueError(f"{name}: expected {words}, got {value}")
    return value


def bound(name: str, value: Any) -> float | None:
    """A number > 0, or None."""
    return None if value is None else number(name, value, positive=True)


def leak(value: Any) -> Any:
    """alpha of a leaky cell: a number from 0 to 1, as a float; what is no number is an array, judged beside the others."""
    if isinstance(value, ndarray):
        return value
    if value is None or isinstance(value, (bool, np.bool_, str, bytes)):
        raise TypeError(f"alpha: expected a number from 0 to 1 or an array (H,) of them, got {_kind(value)}")
    if not isinstance(value, Real):
        return value
    try:
        share = float(value)
    except OverflowError:
        share = math.inf
    if not 0 <= share <= 1:
        raise ValueError(f"alpha: expected a number from 0 to 1, got {share}")
    return share


def eps(value: Any) -> float:
    """A number > 0 that float32 holds, so that its root divides in either dtype."""
    value = number("eps", value, positive=True)
    with np.errstate(over="ignore", under="ignore"):
        if not 0 < np.float32(value) < np.inf:
            raise ValueError(f"eps: expected a number > 0 that float32 holds, got {value}")
    return value


@lru_cache
def class_name(cell: str) -> str:
    """What the classes of a cell begin with: LSTM, LSTMNorm, Leaky. Acronyms have up to four letters."""
    first, *others = cell.split("_")
    return (first.upper() if len(first) < 5 else first.capitalize()) + "".join(word.capitalize() for word in others)


def dtype(value: Any) -> np.dtype[Any]:
    """float32 or float64, native."""
    try:
        found = np.dtype(value)
    except (TypeError, ValueError, SyntaxError):  # of a str, NumPy reads more than one grammar
        raise TypeError(f"dtype: expected float32 or float64, got {_kind(value)}") from None
    if value is None or found not in KERNEL:
        raise TypeError(f"dtype: expected float32 or float64, got {'None' if value is None else _spell(found)}")
    return KERNEL[KERNEL.index(found)]


def drawing(shape: Any, p: Any, rng: Any, *, below_one: bool) -> tuple[tuple[int, ...], float]:
    """Judge what a mask is drawn from; returns its sizes and p, a number from 0 to 1 (with below_one=True, below 1)."""
    sizes = (shape,) if isinstance(shape, Integral) else shape
    try:
        sizes = tuple(sizes)
    except TypeError:
        raise TypeError(f"shape: expected integers >= 0, got {_kind(shape)}") from None
    for size in sizes:
        if isinstance(size, (bool, np.bool_)) or not isinstance(size, Integral):
            raise TypeError(f"shape: expected integers >= 0, got {_kind(size)}")
        if size < 0:
            raise ValueError(f"shape: expected integers >= 0, got {int(size)}")
    p = number("p", p)
    if p > 1 or (below_one and p == 1):
        raise ValueError(f"p: expected a number from 0 to {'below 1' if below_one else '1'}, got {p}")
    _generator(rng)
    values = math.prod(int(size) for size in sizes)
    _affordable(9 * values, 0, f"shape: {sizes}")
    return tuple(int(size) for size in sizes), p


def time_constants(hidden_size: Any, low: Any, high: Any, rng: Any) -> tuple[int, float, float]:
    """Judge what alphas are drawn from: an integer >= 0, and 0 < low <= high, finite."""
    if isinstance(hidden_size, (bool, np.bool_)) or not isinstance(hidden_size, Integral):
        raise TypeError(f"hidden_size: expected an integer >= 0, got {_kind(hidden_size)}")
    if hidden_size < 0:
        raise ValueError(f"hidden_size: expected an integer >= 0, got {int(hidden_size)}")
    low, high = number("low", low, positive=True), number("high", high, positive=True)
    if not low <= high < math.inf:
        raise ValueError(f"high: expected a finite number >= low = {low}, got {high}")
    _generator(rng)
    _affordable(8 * 4 * hidden_size, 0, f"hidden_size: {hidden_size}")
    return int(hidden_size), low, high


def _generator(rng):
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng: expected a numpy Generator, got {_kind(rng)}; pass np.random.default_rng(seed)")
