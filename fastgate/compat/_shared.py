"""What the adapters of NumPy code share.

in_words_of     errors begin with the name that an argument has in the source
alike           the arrays of a forward call in one dtype
as_forward      an upstream gradient in the dtype of its forward call
judge           that an argument is an array of this shape
Kept, kept_by   a cache of two arrays, and that it is the right one
rows, add_rows  an embedding and its gradient
affine_forward, affine_backward
"""

import re
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastgate import _arguments

P = ParamSpec("P")
R = TypeVar("R")


def in_words_of(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: where an error names an argument of ours, it names the source's; in_words_of(h_prev="prev_h")."""
    ours = re.compile(rf"\b({'|'.join(names)})\b")

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except (ValueError, TypeError) as error:
                words = ours.sub(lambda found: names[found[0]], str(error))
                if words == str(error):
                    raise
                raise type(error)(words) from error

        return call

    return decorate


def alike(*arrays: Any, **required: Any) -> tuple[Any, ...]:
    """The arrays in their common dtype, where that is float32 or float64: what NumPy's operators make of them, without loss.

    Everything else (None, lists, other dtypes) stays as it is, for the function it goes to to judge; but None among
    `required`, arrays by name, is an error.
    """
    for name, a in required.items():
        if a is None:
            raise TypeError(f"{name}: expected an array, got None")
    arrays += tuple(required.values())
    dtypes = {a.dtype for a in arrays if isinstance(a, np.ndarray)}
    if len(dtypes) < 2 or any(dtype.kind not in "biuf" for dtype in dtypes):
        return arrays
    common = np.result_type(*dtypes)
    if common not in _arguments.KERNEL:
        return arrays
    return tuple(a.astype(common, copy=False) if isinstance(a, np.ndarray) else a for a in arrays)


def as_forward(gradient: Any, cache: Any) -> Any:
    """An upstream gradient in the dtype of the forward call that returned `cache`, whose results know no more digits.

    What is no such gradient or no such cache stays as it is, for the backward function to judge.
    """
    call = getattr(cache, "call", None)
    if call is None or not isinstance(gradient, np.ndarray) or gradient.dtype not in _arguments.KERNEL:
        return gradient
    return gradient.astype(call.dtype, copy=False)


def judge(name: str, a: Any, letters: Sequence[str], **sizes: int) -> None:
    """An error unless `a` is an array with an axis for each of `letters`, as long as `sizes` says where it does."""
    if not isinstance(a, np.ndarray):
        raise TypeError(f"{name}: expected an array, got {type(a).__name__}")
    if a.ndim != len(letters):
        raise ValueError(f"{name}: expected ({', '.join(letters)}), got {a.shape}")
    _arguments._shape(name, a, letters, tuple(sizes.get(letter, size) for letter, size in zip(letters, a.shape, strict=True)))


class Kept(NamedTuple):
    """The cache of an embedding or an affine map."""

    function: str
    x: Any
    W: Any


def kept_by(function: str, cache: Any) -> tuple[Any, Any]:
    """x and W of the cache that `function` returned; a ValueError where it is another's."""
    if not isinstance(cache, Kept) or cache.function != function:
        raise ValueError(f"cache: expected the cache of {function}, got {getattr(cache, 'function', type(cache).__name__)}")
    return cache.x, cache.W


def rows(x: Any, W: Any) -> NDArray[Any]:
    """W[x]: the rows of W (V, D) for integers x of any shape, each judged to be one of 0..V-1."""
    judge("W", W, "VD")
    x = _arguments._integers("x", x)
    if x.size and not 0 <= x.min() <= x.max() < len(W):
        raise ValueError(f"x: expected 0..V-1 = 0..{len(W) - 1}, got {x.min()}..{x.max()}")
    return W[x]


def add_rows(dout: Any, x: Any, W: Any) -> NDArray[Any]:
    """dW (V, D), the gradient of W[x]: row v is the sum of the rows of dout (*x.shape, D) where x is v.

    One sort and one reduceat: several times as fast as np.add.at.
    """
    x = np.asarray(x)
    if not isinstance(dout, np.ndarray) or dout.shape != (*x.shape, W.shape[1]):
        raise ValueError(f"dout: expected (*x.shape, D) = {(*x.shape, W.shape[1])}, got {np.shape(dout)}")
    dW = np.zeros_like(W)
    order = np.argsort(x, axis=None, kind="stable")
    found, starts = np.unique(x.ravel()[order], return_index=True)
    if len(found):
        dW[found] = np.add.reduceat(_flat(dout)[order].astype(W.dtype, copy=False), starts, axis=0)
    return dW


def affine_forward(x: Any, W: Any, b: Any) -> NDArray[Any]:
    """x W + b for every step: x (N, T, D), W (D, M), b (M,) give (N, T, M), by one product."""
    judge("x", x, "NTD")
    judge("W", W, "DM", D=x.shape[2])
    judge("b", b, "M", M=W.shape[1])
    return (_flat(x) @ W + b).reshape(*x.shape[:2], len(b))


def affine_backward(dout: Any, x: Any, W: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """(dx, dW, db) of affine_forward: dout (N, T, M)."""
    judge("dout", dout, "NTM", N=x.shape[0], T=x.shape[1], M=W.shape[1])
    dout = _flat(dout)
    return (dout @ W.T).reshape(x.shape), _flat(x).T @ dout, dout.sum(axis=0)


def _flat(a: NDArray[Any]) -> NDArray[Any]:
    """All axes but the last in one: (N, T, D) as (N·T, D)."""
    return a.reshape(int(np.prod(a.shape[:-1])), a.shape[-1])
