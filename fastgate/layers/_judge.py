"""Judges what a layer or a pool is given, in the words of fastgate._arguments."""

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgate import _arguments
from fastgate.layers._types import Array

_LARGEST = 2**62  # no memory has as many bytes


def size(name: str, value: Any, least: int = 1) -> int:
    """An integer >= `least`, and small enough for sums of a few."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Integral):
        raise TypeError(f"{name}: expected an integer >= {least}, got {_arguments._kind(value)}")
    if value < least:
        raise ValueError(f"{name}: expected an integer >= {least}, got {value}")
    value = int(value)
    if value >= _LARGEST:
        raise OverflowError(f"{name} is too large: a number of {value.bit_length()} bits")
    return value


def probability(name: str, value: Any) -> float:
    """A real number, 0 <= value < 1."""
    value = _arguments.number(name, value)
    if value >= 1:
        raise ValueError(f"{name}: expected a number < 1, got {value}")
    return value


def period(value: Any, H: int) -> int | list[int] | None:
    """An integer >= 1 or one for each of H units, as plain data; or None."""
    if value is None:
        return None
    a = _arguments._integers("period", value)
    _arguments._periods(a, H)
    return a.tolist()


def delays(value: Any) -> list[int] | None:
    """Integers >= 1 that rise, as plain data; or None."""
    judged = _arguments._delays(value)
    return None if judged is None else judged.tolist()


def alpha(value: Any, H: int) -> float | list[float]:
    """A number from 0 to 1, or one for each of H units, as plain data."""
    value = _arguments.leak(value)
    if type(value) is float:
        return value
    a = _arguments._array("alpha", value, _arguments.KERNEL)
    _arguments._shape("alpha", a, ("H",), (H,))
    wrong = ~((a >= 0) & (a <= 1))
    if wrong.any():
        unit = int(wrong.argmax())
        raise ValueError(f"alpha: expected numbers from 0 to 1, got {a[unit]} for unit {unit}")
    return a.tolist()


def option(name: str, value: Any, allowed: Any, gates: str) -> Any:
    """An option of a cell: one of some words, a flag (`allowed` is bool), a number > 0 or None (float), an order of gates
    (None), or what a function that judges it returns."""
    if allowed is bool:
        return _arguments.flag(name, value)
    if allowed is float:
        return None if value is None else _arguments.number(name, value, positive=True)
    if allowed is None:
        _arguments.gate_positions(gates, value)
        return gates if value is None else value
    if callable(allowed):
        return allowed(value)
    return _arguments.option(name, value, allowed)


dtype = _arguments.dtype


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


def array(
    name: str, a: Any, dtype: np.dtype[Any], letters: tuple[str, ...], sizes: tuple[int, ...], time_major: Any = None
) -> Array:
    """An array of the layer's dtype (in any byte order) and of this shape; time_major as in _arguments._shape."""
    if type(a) is np.ndarray and a.dtype is dtype and a.shape == sizes:
        return a
    a = _arguments._array(name, a, (dtype,), "the layer")[...]
    if a.shape != sizes:
        _arguments._shape(name, a, letters, sizes, time_major=time_major)
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


def state(
    name: str, given: Any, shapes: Mapping[str, tuple[tuple[str, ...], tuple[int, ...]]], sizes: tuple[int, int | None],
    dtype: np.dtype[Any], *, numbered: bool = False,
) -> list[Array]:  # fmt: skip
    """A tuple of arrays (num_layers, N, …), one for each field; shapes: field -> (letters, sizes) of a row. N None is that of
    the first. numbered: there is one more field, `start`, (N,) integers >= 0 or one for all."""
    fields = (*shapes, *["start"] * numbered)
    if not isinstance(given, tuple):
        raise TypeError(f"{name}: expected a tuple ({', '.join(fields)}), got {_arguments._kind(given)}")
    if len(given) != len(fields):
        raise ValueError(f"{name}: expected a tuple of {len(fields)}, ({', '.join(fields)}), got one of {len(given)}")
    names = [f"{name}.{field}" for field in shapes]
    arrays = [_arguments._array(name, a, (dtype,), "the layer")[...] for name, a in zip(names, given, strict=False)]
    L, N = sizes
    if N is None:
        letters = ("num_layers", "N", *shapes[fields[0]][0])
        if arrays[0].ndim != len(letters):
            raise ValueError(f"{names[0]}: expected {_arguments._bracket(letters)}, got {arrays[0].shape}")
        N = arrays[0].shape[1]
    for name, a, (row_letters, row) in zip(names, arrays, shapes.values(), strict=True):
        _arguments._shape(name, a, ("num_layers", "N", *row_letters), (L, N, *row))
    return [*arrays, _step_numbers(f"{name.partition('.')[0]}.start", given[-1], N)] if numbered else arrays


def _step_numbers(name, given, N):
    a = _arguments._integers(name, given)
    if a.shape not in ((), (N,)):
        raise ValueError(f"{name}: expected an integer or (N,) = ({N},), got {a.shape}")
    wrong = (a < 0) | (a >= _LARGEST)
    if wrong.any():
        raise ValueError(f"{name}: expected integers >= 0 and < 2**62, got {a.ravel()[wrong.argmax()]}")
    return np.array(np.broadcast_to(a, (N,)), np.int64)


def named(
    name: str, given: Any, shapes: Mapping[str, tuple[tuple[str, ...], tuple[int, ...]]], dtype: np.dtype[Any]
) -> dict[str, Array]:
    """A mapping with exactly these names, of arrays with these (letters, sizes); returned are copies in native byte order."""
    if not isinstance(given, Mapping):
        hint = "; pass its state_dict()" if hasattr(given, "state_dict") else ""
        raise TypeError(f"{name}: expected a mapping of names to arrays, got {_arguments._kind(given)}{hint}")
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
    a = given if type(given) is np.ndarray else _arguments._ndarray(name, given, "integers")
    if a.dtype == bool:
        if a.shape != (N,):
            raise ValueError(f"{name}: expected (N,) = ({N},) bools, got {a.shape}")
        return np.flatnonzero(a)
    a = _arguments._integers(name, given)
    if a.ndim != 1:
        raise ValueError(f"{name}: expected a row of integers, got {a.shape}" + (f"; pass [{given}]" if a.ndim == 0 else ""))
    wrong = (a < 0) | (a >= N)
    if wrong.any():
        raise ValueError(f"{name}: expected 0..N-1 = 0..{N - 1}, got {a[int(wrong.argmax())]}")
    return a.astype(np.int64)
