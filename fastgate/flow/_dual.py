"""Numbers with a direction: the definition of a cell, run on them, gives exact directional derivatives.

A Dual holds a value and tangents, how it changes along one or several directions: every operation keeps both (forward-mode
differentiation; Griewank and Walther, Evaluating Derivatives, 2008, chapter 3). Run on the `forward` of a cell in
fastgate/reference it gives Jacobian-vector products; on its `backward`, derivatives of gradients. So no gate math stands here,
and an operation that is not in the tables below is a TypeError.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray

Array = NDArray[Any]


class Dual(NDArrayOperatorsMixin):
    """A value (…) and its tangents (K, …), or one tangent (…)."""

    __array_priority__ = 1000

    def __init__(self, value: Array, tangent: Array):
        self.value = value
        self.tangent = tangent

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.value.dtype

    @property
    def ndim(self) -> int:
        return self.value.ndim

    @property
    def T(self) -> Dual:
        return Dual(self.value.T, np.swapaxes(self.tangent, -1, -2))

    def __getitem__(self, index: tuple[Any, ...]) -> Dual:
        """A slice for each axis of the value."""
        if len(index) != self.ndim:
            raise TypeError("expected as many slices as there are axes")
        return Dual(self.value[index], self.tangent[(..., *index)])

    def sum(self, axis: int) -> Dual:
        return Dual(self.value.sum(axis=axis), self.tangent.sum(axis=axis - self.value.ndim))

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *operands: Any, **keywords: Any) -> Any:
        values = [value_of(a) for a in operands]
        if ufunc in _COMPARISONS and method == "__call__":
            return ufunc(*values, **keywords)
        if method != "__call__" or keywords or ufunc not in _RULES:
            return NotImplemented
        value, rule = ufunc(*values), _RULES[ufunc]
        if any(isinstance(a, Dual) for a in operands[len(rule) :]):
            return NotImplemented
        parts = [rule[i](a.tangent, value, *values) for i, a in enumerate(operands) if isinstance(a, Dual)]
        tangent = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        lead = tangent.shape[: max(0, tangent.ndim - value.ndim)]
        return Dual(value, np.broadcast_to(tangent, (*lead, *value.shape)))

    def __array_function__(self, function: Callable[..., Any], types: Any, args: Any, keywords: Any) -> Any:
        return _FUNCTIONS[function](*args, **keywords) if function in _FUNCTIONS else NotImplemented


def value_of(a: Any) -> Any:
    return a.value if isinstance(a, Dual) else a


def tangent_of(a: Any) -> Array:
    """The tangent of a Dual; of a constant, zeros."""
    return a.tangent if isinstance(a, Dual) else np.zeros(np.shape(a), np.asarray(a).dtype)


# For each ufunc, by operand: the tangent of the result from that of the operand; v is the result.
_RULES: dict[np.ufunc, tuple[Callable[..., Array], ...]] = {
    np.add: (lambda t, v, a, b: t, lambda t, v, a, b: t),
    np.subtract: (lambda t, v, a, b: t, lambda t, v, a, b: -t),
    np.negative: (lambda t, v, a: -t,),
    np.multiply: (lambda t, v, a, b: t * b, lambda t, v, a, b: a * t),
    np.true_divide: (lambda t, v, a, b: t / b, lambda t, v, a, b: -v / b * t),
    np.power: (lambda t, v, a, b: b * a ** (b - 1) * t,),
    np.matmul: (lambda t, v, a, b: t @ b, lambda t, v, a, b: a @ t),
    np.tanh: (lambda t, v, a: (1 - v * v) * t,),
    np.exp: (lambda t, v, a: v * t,),
    np.absolute: (lambda t, v, a: np.where(a >= 0, t, -t),),  # at 0 as where(a >= 0, …) goes on
    np.maximum: (lambda t, v, a, b: np.where(a > b, t, 0), lambda t, v, a, b: np.where(a > b, 0, t)),
}
_COMPARISONS = {np.greater, np.greater_equal, np.less, np.less_equal}


def _where(condition: Any, a: Any, b: Any) -> Any:
    condition = value_of(condition)
    if not isinstance(a, Dual) and not isinstance(b, Dual):
        return np.where(condition, a, b)
    return Dual(np.where(condition, value_of(a), value_of(b)), np.where(condition, tangent_of(a), tangent_of(b)))


def _clip(a: Any, low: Any, high: Any) -> Any:
    return Dual(np.clip(a.value, low, high), np.where((a.value >= low) & (a.value <= high), a.tangent, 0))


def _split(a: Dual, sections: Any, axis: int = 0) -> list[Dual]:
    parts = np.split(a.value, sections, axis), np.split(a.tangent, sections, axis - a.value.ndim if axis >= 0 else axis)
    return [Dual(value, tangent) for value, tangent in zip(*parts, strict=True)]


def _hstack(arrays: Any) -> Dual:
    """Of matrices."""
    value = np.concatenate([value_of(a) for a in arrays], axis=-1)
    tangents = [tangent_of(a) for a in arrays]
    rows = np.broadcast_shapes(*(t.shape[:-1] for t in tangents))
    return Dual(value, np.concatenate([np.broadcast_to(t, (*rows, t.shape[-1])) for t in tangents], axis=-1))


_FUNCTIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    np.where: _where,
    np.clip: _clip,
    np.split: _split,
    np.hstack: _hstack,
    np.zeros_like: lambda a, **keywords: np.zeros_like(a.value, **keywords),
    np.ones_like: lambda a, **keywords: np.ones_like(a.value, **keywords),
}
