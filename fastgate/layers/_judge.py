"""Judges what a layer or a pool is given, in the words of fastgate._arguments."""

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgate import _arguments
from fastgate.layers._types import Array


def size(name: str, value: Any, least: int = 1) -> int:
    """An integer >= `least`."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Integral):
        raise TypeError(f"{name}: expected an integer >= {least}, got {_arguments._kind(value)}")
    if value < least:
        raise ValueError(f"{name}: expected an integer >= {least}, got {value}")
    return int(value)


def probability(name: str, value: Any) -> float:
    """A real number, 0 <= value < 1."""
    value = _arguments.number(name, value)
    if value >= 1:
        raise ValueError(f"{name}: expected a number < 1, got {value}")
    return value


def dtype(value: Any) -> np.dtype[Any]:
    """float32 or float64, native."""
    try:
        found = np.dtype(value)
    except TypeError:
        raise TypeError(f"dtype: expected float32 or float64, got {_arguments._kind(value)}") from None
    if value is None or found not in _arguments.KERNEL:
        raise TypeError(f"dtype: expected float32 or float64, got {_arguments._kind(value) if value is None else found.name}")
    return _arguments.KERNEL[_arguments.KERNEL.index(found)]


def generator(value: Any) -> np.random.Generator:
    """A Generator as it is, a new one from a seed, or one that the system seeds."""
    if isinstance(value, np.random.Generator):
        return value
    if value is None:
        return np.random.default_rng()
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Integral):
        raise TypeError(f"rng: expected a numpy Generator, an integer seed or None, got {_arguments._kind(value)}")
    if value < 0:
        raise ValueError(f"rng: expected a seed >= 0, got {value}")
    return np.random.default_rng(int(value))


def array(name: str, a: Any, dtype: np.dtype[Any], letters: tuple[str, ...], sizes: tuple[int, ...]) -> Array:
    """An array of the layer's dtype (in any byte order) and of this shape."""
    a = _arguments._array(name, a, (dtype,), "the layer")[...]
    if a.shape != sizes:
        _arguments._shape(name, a, letters, sizes)
    return a


def rows(x: Any, dtype: np.dtype[Any], letters: tuple[str, ...], D: int) -> Array:
    """x of the layer's dtype, (N, T, D) or (N, D) by its letters."""
    if type(x) is np.ndarray and x.dtype is dtype and x.ndim == len(letters) and x.shape[-1] == D:
        return x
    x = _arguments._array("x", x, (dtype,), "the layer")[...]
    if x.ndim != len(letters):
        hint = {(3, 2): "x[None]", (2, 3): "x[:, t]"}.get((len(letters), x.ndim))
        raise ValueError(f"x: expected {_arguments._bracket(letters)}, got {x.shape}" + _arguments._ask(hint))
    if x.shape[-1] != D:
        _arguments._shape("x", x, letters, (*x.shape[:-1], D))
    return x


def named(
    name: str, given: Any, shapes: Mapping[str, tuple[tuple[str, ...], tuple[int, ...]]], dtype: np.dtype[Any]
) -> dict[str, Array]:
    """A mapping with exactly these names, of arrays with these (letters, sizes); returned are copies in native byte order."""
    if not isinstance(given, Mapping):
        raise TypeError(f"{name}: expected a mapping of names to arrays, got {_arguments._kind(given)}")
    given = dict(given)
    missing, unknown = [key for key in shapes if key not in given], [key for key in given if key not in shapes]
    if missing or unknown:
        found = [f"{', '.join(map(repr, keys))} {what}" for keys, what in ((missing, "missing"), (unknown, "unknown")) if keys]
        raise ValueError(f"{name}: expected the names {_arguments._listed(shapes, 'and')}; {'; '.join(found)}")
    return {
        key: np.array(array(f"{name}[{key!r}]", given[key], dtype, *shape), dtype=dtype, order="C")
        for key, shape in shapes.items()
    }


def places(name: str, given: Any, N: int) -> NDArray[np.int64]:
    """Integers 0..N-1, or (N,) bools: the places that are meant."""
    a = np.asarray(given)
    if a.dtype == bool:
        if a.shape != (N,):
            raise ValueError(f"{name}: expected (N,) = ({N},) bools, got {a.shape}")
        return np.flatnonzero(a)
    a = _arguments._integers(name, given)
    if a.ndim != 1:
        raise ValueError(f"{name}: expected a row of integers, got {a.shape}")
    wrong = (a < 0) | (a >= N)
    if wrong.any():
        raise ValueError(f"{name}: expected 0..N-1 = 0..{N - 1}, got {a[int(wrong.argmax())]}")
    return a.astype(np.int64)
