"""How a message names what was expected and what came; arrays of any kind as ndarrays of the right one; does memory suffice?"""

import os
from functools import lru_cache

import numpy as np
from numpy import ndarray

F4, F8 = np.dtype(np.float32), np.dtype(np.float64)
KERNEL = (F4, F8)
REFERENCE = (F4, F8, np.dtype(np.longdouble))
# bits of ndarray.flags.num
_CONTIGUOUS, _OWNED, _ALIGNED = 0x1, 0x4, 0x100
_DIRECT = _CONTIGUOUS | _ALIGNED
_WRITEABLE = _DIRECT | 0x400
_PLAIN = _ALIGNED | 0x400
_LARGEST = 2**62  # bytes
_new = tuple.__new__  # of a NamedTuple, at half the price of its constructor


def _rows(array):
    """Aligned, last axis contiguous."""
    return array.flags.num & _ALIGNED and (array.shape[-1:] <= (1,) or array.strides[-1] == array.itemsize)


def _array(name, a, dtypes, like=None, cast=None):
    """`a` as an ndarray of one of `dtypes`, in any byte order; or the TypeError that names the cast to make."""
    if type(a) is ndarray and a.dtype in dtypes:
        return a
    listed = _listed([_spell(d) for d in dtypes], "or", quote="") + (f" as {like}" if like else "")
    given = isinstance(a, ndarray)
    if type(a) is not ndarray:
        a = _ndarray(name, a, listed)
    if a.dtype.newbyteorder("=") in dtypes:
        return a
    if cast is None:
        if len(dtypes) == 1:
            cast = _spell(dtypes[0])
        else:
            cast = "float32" if a.dtype.kind in "biuf" and a.dtype.itemsize <= 2 else "float64"
        cast = f"np.{cast}"
    real = ".real" if a.dtype.kind == "c" else ""
    hint = f"{name}{real}.astype({cast})" if given else f"np.asarray({name}, {cast})"
    hint = f"; pass {hint}" if a.dtype.kind in "biufcO" else ""
    raise TypeError(f"{name}: expected {listed}, got {_spell(a.dtype)}{hint}")


def _odd_one(name, a, others, dtypes):
    """The TypeError that names `a` where all `others`, two or more, have one other dtype of `dtypes`; what else is odd is named
    when it is held against the dtype of `a`."""
    others = [b for b in others if b is not None and type(b) is not float]
    if len(others) < 2 or not all(isinstance(b, ndarray) for b in others):
        return
    (dtype, *more) = {b.dtype.newbyteorder("=") for b in others}
    if not more and dtype in dtypes and dtype != a.dtype.newbyteorder("="):
        hint = f"{name}.astype(np.{_spell(dtype)})"
        raise TypeError(f"{name}: expected {_spell(dtype)} as all others, got {_spell(a.dtype)}; pass {hint}")


def _integers(name, a):
    """`a` as an ndarray of integers, no larger than 64 bit."""
    given = isinstance(a, ndarray)
    if type(a) is not ndarray:
        a = _ndarray(name, a, "integers")
        if not given and a.size == 0 and a.dtype == F8:  # an empty list
            a = a.astype(np.int64)
    if a.dtype.kind in "iu":
        return a
    hint = f"{name}.astype(np.int64)" if given else f"np.asarray({name}, np.int64)"
    raise TypeError(f"{name}: expected integers, got {_spell(a.dtype)}" + (f"; pass {hint}" if a.dtype.kind in "fb" else ""))


def _native(dtype, dtypes):
    """The one among `dtypes` that this is, whatever its byte order and metadata."""
    return dtypes[dtypes.index(dtype.newbyteorder("="))]


def _ndarray(name, a, listed):
    if isinstance(a, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected an array, got a masked array, whose mask would be lost; pass {name}.filled(0)")
    if a is None:
        raise TypeError(f"{name}: expected an array of {listed}, got None")
    try:
        return np.asarray(a)
    except Exception as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"{name}: expected an array of {listed}, got {_kind(a)} that NumPy cannot convert: {error}") from error


def _shape(name, a, letters, sizes, also=None, hint=None, time_major=None):
    """`a` has the shape `sizes`, or that of `also`; or the ValueError with a hint. time_major: the x whose N and T were swapped
    if this were right."""
    if a.shape == sizes or (also is not None and a.shape == also[1]):
        return
    expected, numbers = _bracket(letters), str(sizes)
    if also is not None:
        expected, numbers = f"{expected} or {_bracket(also[0])}", f"{numbers} or {also[1]}"
    hint = _as_steps(time_major) if time_major is not None else _ask(hint or _as_shape(name, a, sizes))
    raise ValueError(f"{name}: expected {expected} = {numbers}, got {a.shape}{hint}")


def _as_steps(x):
    return f", as many rows as x (N, T, D) = {x.shape} has steps; is x time-major? pass x.swapaxes(0, 1)"


def _as_shape(name, a, sizes):
    """How the array could become one of these sizes, or None."""
    got = a.shape
    if len(sizes) == 2 and got == sizes[::-1] and got[0] != got[1]:
        return f"{name}.T"
    if len(sizes) == 3 and got == (sizes[1], sizes[0], sizes[2]):
        return f"{name}.swapaxes(0, 1)"
    if got == (1, *sizes):
        return f"{name}[0]"
    if (1, *got) == sizes:
        return f"{name}[None]"
    if len(sizes) == 1 and got == (2, *sizes):
        return "b[0] and bh=b[1]"
    if len(sizes) == 1 and a.size == sizes[0]:
        return f"{name}.ravel()"
    return None


def _ask(hint):
    return f"; pass {hint}?" if hint else ""


def _bracket(letters):
    return f"({letters[0]},)" if len(letters) == 1 else f"({', '.join(letters)})"


def _listed(names, word, quote='"'):
    names = [f"{quote}{name}{quote}" for name in names]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"


def _spell(dtype):
    if dtype == REFERENCE[2] and dtype not in KERNEL:
        return "longdouble"
    if dtype.kind in "US":
        return "str" if dtype.kind == "U" else "bytes"
    return dtype.name if dtype.isnative else f"{dtype.name} ({dtype.str})"


def _kind(value):
    """What came, in a few words: its type, and its value where that is short."""
    if value is None:
        return "None"
    if isinstance(value, (bool, int, float, str, bytes)) and len(repr(value)) <= 40:
        return f"{type(value).__name__} {value!r}"
    return type(value).__name__


def _direct(a, dtype, rows=False):
    """`a` as kernels read it: native, aligned, and with rows=True the last axis contiguous. A copy only where needed."""
    if a.dtype == dtype and (_rows(a) if rows else a.flags.aligned):
        a = np.asarray(a)
        return a if a.dtype is dtype else a.view(dtype)
    _affordable(a.size * dtype.itemsize, 0, f"an array of {a.shape}")
    return _copy(a, dtype, rows)


def _copy(a, dtype, rows):
    """A copy in the memory order of `a`; with rows=True its last axis comes to lie innermost."""
    axes = sorted(range(a.ndim), key=lambda k: -abs(a.strides[k]) if a.shape[k] > 1 else 0)
    if rows or (a.ndim > 1 and a.strides[-1] == a.itemsize):
        axes.remove(a.ndim - 1)
        axes.append(a.ndim - 1)
    fresh = np.empty([a.shape[k] for k in axes], dtype).transpose(np.argsort(axes))
    fresh[...] = a
    return fresh


@lru_cache(maxsize=1)
def _memory() -> int:
    """Bytes of memory of this machine."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return _LARGEST


def _affordable(needed, touched, words):
    """Refuse what cannot be addressed (an OverflowError) or held (a MemoryError), before anything is allocated."""
    if max(needed, touched) >= _LARGEST:
        raise OverflowError(f"{words} is too large: {max(needed, touched):.1e} bytes")
    if needed > _memory():
        raise MemoryError(f"{words} needs {needed:.1e} bytes, this machine has {_memory():.1e}")
