"""The only place that words an error; it judges every argument, but for plain calls, which _kernels knows at the speed of C.

forward, backward     one call of a cell: whole sequences, single steps, ragged batches on flat rows
cache                 is this the cache that the forward twin returned?
outputs, need_names   `out=` and `need=`
option, flag, number  options in words, booleans, real numbers
gradients             what clipping writes into
loss                  softmax cross-entropy

Everything is judged before anything is computed or written. A plain call (native, aligned, C-ordered ndarrays) passes
through one chain of comparisons; every other call goes to a function whose name ends in `_in_words`, which either
prepares the arrays (foreign byte order, misaligned data, last axis not contiguous: a copy with the same values) or
raises. Shapes, lengths and names that do not fit are a ValueError, dtypes and kinds a TypeError, sizes that no memory
holds an OverflowError or MemoryError. The message begins with the name of the argument.
"""

import itertools
import math
import os
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from fastgate import _kernels

F4, F8 = np.dtype(np.float32), np.dtype(np.float64)
KERNEL = (F4, F8)
REFERENCE = (F4, F8, np.dtype(np.longdouble))

# bits of ndarray.flags.num
_CONTIGUOUS, _OWNED, _ALIGNED = 0x1, 0x4, 0x100
_DIRECT = _CONTIGUOUS | _ALIGNED
_WRITEABLE = _DIRECT | 0x400
_PLAIN = _ALIGNED | 0x400
_SMALL = 2**27  # values; a call that handles fewer is not asked whether memory suffices
_LARGEST = 2**62  # bytes
_AS_IS = tuple(tuple(range(G)) for G in range(9))  # gate positions in canonical order
_new = tuple.__new__  # of a NamedTuple, at half the price of its constructor


class Flat(NamedTuple):
    """Where the steps of a ragged batch lie in arrays of sum T rows: time t of sequence n is row sequence_start[n] + t, or
    step_start[t] + n."""

    sequence_start: ndarray | None  # (N,) int64, C order, private
    step_start: ndarray | None  # (T,) int64, C order, private


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


class Norm(NamedTuple):
    """The gains of a normalised cell and its beta; contiguous, what was not given is None."""

    gain_x: ndarray | None  # (G·H,)
    gain_h: ndarray | None  # (G·H,)
    gain_c: ndarray | None  # (H,)
    beta_c: ndarray | None  # (H,), beside gain_c only


class Budget(int):
    """`memory=` of a call, of which the floats that masks of bools became take `copies` bytes."""

    def __new__(cls, memory: int, given: tuple[Any, ...], masks: Masks) -> "Budget":
        budget = super().__new__(cls, memory)
        budget.copies = 0
        for a, made in zip(given, masks, strict=True):
            if made is not None and a.dtype == bool:
                taken = (size for size, stride in zip(made.shape, made.strides, strict=True) if stride)
                budget.copies += made.itemsize * math.prod(taken)
        return budget

    copies: int


class Forward(NamedTuple):
    """A judged forward call. Arrays are ndarrays, aligned and in native byte order; x and the states have a
    contiguous last axis. With training=True they are views of their own, which no caller can reshape.

    30 fields: Python builds tuples of more than 30 on a slow way, which would cost a fifth of judging a call."""

    cell: str
    step: bool
    has_c: bool
    N: int
    T: int
    D: int
    H: int
    P: int  # the width of h: H, or with Wr its columns
    dtype: np.dtype
    x: ndarray  # (N, T, D), a step: (N, D), flat rows: (sum T, D)
    h0: ndarray | None  # (N, P) or (P,); with delays (N, d, P) or (d, P), d the largest, the last two axes contiguous
    c0: ndarray | None  # (N, H) or (H,)
    Wx: ndarray  # (D, G·H)
    Wh: ndarray | None  # (P, G·H); with delays (K, P, G·H), whose first axes merge; None: a leaky cell without it
    b: ndarray | None  # (G·H,)
    bh: ndarray | None  # (G·H,)
    peephole: ndarray | None  # (3H,), contiguous
    Wr: ndarray | None  # (H, P)
    lengths: ndarray | None  # (N,) int64, C order, private
    position: tuple[int, ...]  # canonical gate g sits in the columns from position[g]·H on
    reverse: bool
    training: bool
    return_sequences: bool
    out: dict[str, ndarray] | None
    flat: Flat | None  # of a ragged call, whose T is the largest of `lengths`
    memory: int | None  # bytes, with training only
    rhythm: Rhythm | None  # None: every unit at every step, from the step before
    masks: Masks | None
    norm: Norm | None  # None: nothing of it was given
    alpha: float | ndarray | None  # of a leaky cell, each from 0 to 1; (H,), contiguous


class Backward(NamedTuple):
    """A judged backward call. `call` is the forward call of the cache; where `out` overlaps one of its arrays, the
    record holds a copy of that array."""

    call: Forward
    dh: ndarray | None  # (N, T, P), a step: (N, P), flat rows: (sum T, P)
    dh_T: ndarray | None  # (N, P)
    dc_T: ndarray | None  # (N, H)
    names: tuple[str, ...]  # the gradients of this call, in the order of the result
    need: tuple[bool, ...]  # one per name
    out: dict[str, ndarray] | None


class Loss(NamedTuple):
    """A judged call of softmax_cross_entropy."""

    o: ndarray  # (..., K), last axis contiguous
    y: ndarray  # (...) int64, C order, private; -1 where a row does not count
    mask: ndarray | None  # (...) weights in the dtype of o, C order; None = all 1
    total: float  # the sum of the weights that count


# --- one forward call --------------------------------------------------------------------------------------------


def forward(
    cell: str,
    x: Any,
    h0: Any,
    c0: Any,
    Wx: Any,
    Wh: Any,
    b: Any,
    bh: Any,
    *,
    step: bool,
    gates: str,
    has_c: bool = False,
    gate_order: Any = None,
    lengths: Any = None,
    ragged: bool = False,
    offsets: Any = None,
    batch_sizes: Any = None,
    reverse: Any = False,
    training: Any = True,
    memory: Any = None,
    return_sequences: Any = True,
    out: Any = None,
    dtypes: tuple[np.dtype, ...] = KERNEL,
    input_size: int | None = None,
    peephole: Any = None,
    Wr: Any = None,
    delays: Any = None,
    period: Any = None,
    start: Any = 0,
    recurrent_mask: Any = None,
    zoneout_h: Any = None,
    zoneout_c: Any = None,
    norm: Norm | None = None,
    alpha: Any = None,
) -> Forward:
    """Judge a call of `<cell>_forward`, of `<cell>_step_forward` with step=True, of `<cell>_ragged_forward` with ragged=True.

    gates: the canonical letters, G = len(gates). has_c: the cell has a second state, c0 (c_prev).
    gate_order None means `gates`. The states of a step are named h_prev and c_prev in messages.
    input_size: D, where the weights are known to be right (those of a prepared cell).
    peephole, Wr, norm: of a cell that has one. delays, period, start: of any cell.
    recurrent_mask, zoneout_h, zoneout_c: numbers, or bools or floats that broadcast to the shapes in Masks.
    alpha: what leak() returns, of a leaky cell, whose Wh may be None.
    """
    # A caller's code may run while these become plain data, so that comes before any shape is read.
    if lengths is not None:
        lengths = _integers("lengths", lengths)
    if ragged:
        offsets, batch_sizes = _one_table(offsets, batch_sizes)
    flat = None
    if isinstance(out, dict) and type(out) is not dict:
        out = dict(out)
    norm = None if norm is None else given_norm(norm)
    G, dims, N = len(gates), 2 if step or ragged else 3, -1
    if ragged and type(x) is ndarray and x.ndim == 2:
        flat, lengths, N, T = _flat(offsets, batch_sizes, len(x))
    if (
        _kernels.is_plain(dims, G, N, x, h0, c0, Wx, Wh, b, bh, peephole, Wr, alpha)
        and (training is True or training is False)
        and (reverse is True or reverse is False)
        and (return_sequences is True or return_sequences is False)
        and memory is None
        and delays is None
        and period is None
        and type(start) is int
        and start == 0
        and recurrent_mask is None
        and zoneout_h is None
        and zoneout_c is None
        and norm is None
    ):
        dtype, shape = x.dtype, x.shape
        P, width = Wh.shape
        H = P if Wr is None else Wr.shape[0]
        if step:
            N, D = shape
            T, rows = 1, N
        elif ragged:
            rows, D = shape
        else:
            N, T, D = shape
            rows = N * T
        if (rows + N + D + P) * (1 + D + width) < _SMALL:
            position = _AS_IS[G] if gate_order is gates else gate_positions(gates, gate_order)
            if lengths is not None and flat is None:
                lengths = _lengths(lengths, N, T)
            if out is not None:
                out = outputs(out, _forward_outputs(step, has_c, return_sequences, shape, N, H, P), dtype)
                x, h0, c0, Wx, Wh, b, bh, peephole, Wr = _apart(out, x, h0, c0, Wx, Wh, b, bh, peephole, Wr)
                alpha = _leak_apart(out, alpha)
            if training:
                x, Wx, Wh = x[...], Wx[...], Wh[...]
                h0 = None if h0 is None else h0[...]
                c0 = None if c0 is None else c0[...]
                b = None if b is None else b[...]
                bh = None if bh is None else bh[...]
                peephole = None if peephole is None else peephole[...]
                Wr = None if Wr is None else Wr[...]
                alpha = alpha[...] if type(alpha) is ndarray else alpha
            # fmt: off
            return _new(Forward, (
                cell, step, has_c, N, T, D, H, P, dtype, x, h0, c0, Wx, Wh, b, bh, peephole, Wr, lengths, position,
                reverse, training, return_sequences, out, flat, None, None, None, None, alpha))
            # fmt: on
    # fmt: off
    return _forward_in_words(
        cell, x, h0, c0, Wx, Wh, b, bh, step, gates, has_c, gate_order, lengths, ragged, offsets, batch_sizes, reverse,
        training, memory, return_sequences, out, dtypes, input_size, peephole, Wr, delays, period, start,
        (recurrent_mask, zoneout_h, zoneout_c), norm, alpha)
    # fmt: on


def _forward_in_words(
    cell,
    x,
    h0,
    c0,
    Wx,
    Wh,
    b,
    bh,
    step,
    gates,
    has_c,
    gate_order,
    lengths,
    ragged,
    offsets,
    batch_sizes,
    reverse,
    training,
    memory,
    return_sequences,
    out,
    dtypes,
    input_size,
    peephole,
    Wr,
    delays,
    period,
    start,
    masks,
    norm,
    alpha,
):
    delays = _delays(delays)
    period = None if period is None else _integers("period", period)
    start = _step_number("start", start)
    reverse = flag("reverse", reverse)
    training = flag("training", training)
    memory = _bytes("memory", memory, training)
    if memory is not None and delays is not None:
        raise ValueError(f"memory: expected None beside delays, got {memory}")
    return_sequences = flag("return_sequences", return_sequences)
    position = gate_positions(gates, gate_order)

    x = _array("x", x, dtypes)
    dtype = _native(x.dtype, dtypes)
    h_name, c_name = ("h_prev", "c_prev") if step else ("h0", "c0")
    h0 = None if h0 is None else _array(h_name, h0, (dtype,), "x")
    c0 = None if c0 is None else _array(c_name, c0, (dtype,), "x")
    Wx = _array("Wx", Wx, (dtype,), "x")
    Wh = None if Wh is None and alpha is not None else _array("Wh", Wh, (dtype,), "x")
    b = None if b is None else _array("b", b, (dtype,), "x")
    bh = None if bh is None else _array("bh", bh, (dtype,), "x")
    peephole = None if peephole is None else _array("peephole", peephole, (dtype,), "x")
    Wr = None if Wr is None else _array("Wr", Wr, (dtype,), "x")
    norm = norm and _norm_arrays(norm, dtype, "x")
    alpha = alpha if alpha is None or type(alpha) is float else _array("alpha", alpha, (dtype,), "x")
    names = ("recurrent_mask", "zoneout_h", "zoneout_c")
    masks = tuple(None if m is None else _factors(name, m, dtype) for name, m in zip(names, masks, strict=True))
    masks = masks if any(m is not None for m in masks) else None

    flat = None
    if x.ndim != (2 if step or ragged else 3):
        letters, hint = ("(N, D)", {3: "x[:, t]"}) if step else ("(sum T, D)", {}) if ragged else ("(N, T, D)", {2: "x[None]"})
        raise ValueError(f"x: expected {letters}, got {x.shape}" + _ask(hint.get(x.ndim)))
    if ragged:
        rows, D = x.shape
        flat, lengths, N, T = _flat(offsets, batch_sizes, rows)
    else:
        N, T, D = (x.shape[0], 1, x.shape[1]) if step else x.shape
        rows = N * T
    if input_size is not None and D != input_size:
        letters = ("N", "D") if step else ("N", "T", "D")
        _shape("x", x, letters, (*x.shape[:-1], input_size))
    G = len(gates)
    if has_c and Wh.ndim == 1 and b is None:  # what was to be b stands in the place of Wh
        GH = "H" if G == 1 else f"{G}H"
        hint = f"(x, {h_name}, {c_name}, Wx, Wh, b), {c_name}=None for zeros"
        raise ValueError(f"Wh: expected (H, {GH}), got {Wh.shape}" + _ask(hint))
    H, P = _state_sizes(D, G, Wx, _one_of(Wh, delays), h0, c0, _bias_sizes(G, b, bh, peephole, norm, alpha), Wr)
    past = 1 if delays is None else int(delays[-1])
    for name, state, letters, sizes in (
        (h_name, h0, *_past_shape("H" if Wr is None else "P", P, delays)),
        (c_name, c0, ("H",), (H,)),
    ):
        if state is not None:
            _shape(name, state, ("N", *letters), (N, *sizes), also=(letters, sizes))
    _weight_shapes(D, H, P, G, Wx, Wh, b, bh, peephole, Wr, norm, alpha, delays)
    _period_alone(period, Wr, norm)
    if Wh is None and masks is not None and masks[0] is not None:
        raise ValueError("recurrent_mask: expected None beside Wh=None, got one")
    rhythm = None
    if period is not None or delays is not None:
        rhythm = Rhythm(None if period is None else _periods(period, H), start, delays)

    # What a call writes: h, the cache, final states, packed weights. An x that takes no memory counts as if it did.
    keeps_all = training and memory is None
    zoneouts = 0 if masks is None else P * (masks[1] is not None) + H * (masks[2] is not None)
    per_step = (G * H + zoneouts) * keeps_all + P * (return_sequences and out is None) + max(D, 1) * (D == 0 or 0 in x.strides)
    parts = 1 if delays is None else len(delays)
    states = max(N, 1) * past * max(H, P, 1)  # as kernels hold them: h takes no less than c
    if delays is not None:
        _affordable(states * dtype.itemsize, 0, f"delays: N, d, H = {N}, {past}, {H}")
    needed = rows * per_step + states + (D + parts * P) * G * H + H * P * (Wr is not None)
    touched = max(rows * max(D + G * H, P, 1), N * T)
    _affordable(needed * dtype.itemsize, touched * dtype.itemsize, f"x, Wx, Wh: N, T, D, H = {N}, {T}, {D}, {H}")
    lengths = lengths if lengths is None or ragged else _lengths(lengths, N, T)

    x = _direct(x, dtype, rows=True)
    h0 = None if h0 is None else _direct(h0, dtype, rows=True)
    c0 = None if c0 is None else _direct(c0, dtype, rows=True)
    Wx, Wh = _direct(Wx, dtype), None if Wh is None else _direct(Wh, dtype)
    h0, Wh = _merging(h0, Wh, delays)
    b = None if b is None else _direct(b, dtype)
    bh = None if bh is None else _direct(bh, dtype)
    peephole = None if peephole is None else _direct(peephole, dtype, rows=True)
    Wr = None if Wr is None else _direct(Wr, dtype)
    norm = norm and Norm._make(None if a is None else _direct(a, dtype, rows=True) for a in norm)
    alpha = alpha if alpha is None or type(alpha) is float else _direct(alpha, dtype, rows=True)
    h = "H" if Wr is None else "P"
    before = ("N",) if step else ("sum T",) if ragged else ("N", "T")
    given = masks
    masks = masks and Masks(
        _broadcast("recurrent_mask", masks[0], dtype, ("N", h), (N, P)),
        _broadcast("zoneout_h", masks[1], dtype, (*before, h), (*x.shape[:-1], P)),
        _broadcast("zoneout_c", masks[2], dtype, (*before, "H"), (*x.shape[:-1], H)),
    )
    memory = memory if memory is None or masks is None else Budget(memory, given, masks)

    if out is not None:
        out = outputs(out, _forward_outputs(step, has_c, return_sequences, x.shape, N, H, P, delays), dtype)
        x, h0, c0, Wx, Wh, b, bh, peephole, Wr = _apart(out, x, h0, c0, Wx, Wh, b, bh, peephole, Wr)
        h0, Wh = _merging(h0, Wh, delays)
        masks = masks and Masks._make(_apart(out, *masks))
        norm = norm and Norm._make(_apart(out, *norm))
        alpha = _leak_apart(out, alpha)
    if training:
        arrays = (x, h0, c0, Wx, Wh, b, bh, peephole, Wr)
        x, h0, c0, Wx, Wh, b, bh, peephole, Wr = (None if a is None else a[...] for a in arrays)
        norm = norm and Norm._make(None if a is None else a[...] for a in norm)
        alpha = alpha[...] if type(alpha) is ndarray else alpha
    # fmt: off
    return Forward(
        cell, step, has_c, N, T, D, H, P, dtype, x, h0, c0, Wx, Wh, b, bh, peephole, Wr, lengths, position,
        reverse, training, return_sequences, out, flat, memory, rhythm, masks, norm, alpha)
    # fmt: on


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


def _bytes(name, value, training):
    """An integer > 0 or None; only a call that keeps something has a use for it."""
    if value is None:
        return None
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Integral):
        raise TypeError(f"{name}: expected an integer > 0 (bytes) or None, got {_kind(value)}")
    if value <= 0:
        raise ValueError(f"{name}: expected an integer > 0 (bytes) or None, got {int(value)}")
    if not training:
        raise ValueError(f"{name}: expected None with training=False, got {int(value)}")
    return int(value)


def memory_too_small(call, least, modest):
    """The error of a call whose `memory` holds no plan; `least` bytes hold one, `modest` bytes one for little work."""
    sizes = f"N, T, D, H = {call.N}, {call.T}, {call.D}, {call.H}"
    return ValueError(
        f"memory: expected at least {least} bytes for {sizes}, got {call.memory}; "
        f"with {modest} backward runs the steps of forward at most twice again"
    )


def _forward_outputs(step, has_c, return_sequences, x_shape, N, H, P, delays=None):
    last = (N, P) if delays is None else (N, int(delays[-1]), P)
    if step:
        return {"h_next": last, "c_next": (N, H)} if has_c else {"h_next": last}
    expected = {"h": (*x_shape[:-1], P) if return_sequences else None, "h_T": last}
    return expected | {"c_T": (N, H)} if has_c else expected


def _leak_apart(out, alpha):
    """As _apart, of alpha."""
    return _apart(out, alpha)[0] if type(alpha) is ndarray else alpha


def _bias_sizes(G, b, bh, peephole, norm, alpha):
    """H as each of these says it, (G·H,), (G·H,), (3H,), those of `norm`, and (H,) or a number."""
    vectors = [(b, G), (bh, G), (peephole, 3), *zip(norm or (), (G, G, 1, 1), strict=False), (alpha, 1)]
    given = ((a.shape, blocks) for a, blocks in vectors if isinstance(a, ndarray))
    return [shape[0] // blocks for shape, blocks in given if len(shape) == 1 and shape[0] % blocks == 0]


def _period_alone(period, Wr, norm):
    """h of a projection has no units of its own that could hold; the normalised c of a unit takes part in h of all others."""
    beside = "Wr" if Wr is not None else "gain_c" if norm is not None and norm.gain_c is not None else None
    if period is not None and beside is not None:
        raise ValueError(f"period: expected None beside {beside}, got one")


def given_norm(norm: Norm | None) -> Norm | None:
    """None where nothing of it was given."""
    if norm is None or all(a is None for a in norm):
        return None
    if norm.gain_c is None and norm.beta_c is not None:
        raise ValueError("beta_c: expected None without gain_c, got one; pass gain_c=np.ones(H, dtype) to normalise c")
    return norm


def _norm_arrays(norm, dtype, like):
    named = zip(Norm._fields, norm, strict=True)
    return Norm._make(None if a is None else _array(name, a, (dtype,), like)[...] for name, a in named)


def _state_sizes(D, G, Wx, Wh, h0, c0, sizes, Wr):
    """(H, P): H by the vote of all arguments that speak of it, so that the odd one out is the one named in the error, and so P
    where there is a Wr. `sizes`: H as the vectors say it."""
    if Wr is None:
        states = [a.shape for a in (h0, c0) if a is not None]
        H = _hidden_size(D, G, Wx.shape, () if Wh is None else Wh.shape, states, sizes)
        return H, H
    by_h0, by_c0 = ([a.shape[-1]] if a is not None and 1 <= a.ndim <= 3 else [] for a in (h0, c0))
    by_H = [W.shape[1] // G for W in (Wh, Wx) if W.ndim == 2 and W.shape[1] % G == 0] + sizes + by_c0 + list(Wr.shape[:1])
    H = Counter(by_H).most_common(1)[0][0] if by_H else 0
    by_Wr = [Wr.shape[0] if Wr.shape[0] != H == Wr.shape[1] else Wr.shape[1]] if Wr.ndim == 2 else []  # perhaps its transpose
    by_P = by_Wr + list(Wh.shape[:1]) + by_h0
    return H, Counter(by_P).most_common(1)[0][0] if by_P else 0


def _weight_shapes(D, H, P, G, Wx, Wh, b, bh, peephole, Wr, norm, alpha, delays):
    """The weights have the shapes of these sizes, and each alpha is from 0 to 1."""
    GH = "H" if G == 1 else f"{G}H"
    _shape("Wx", Wx, ("D", GH), (D, G * H))
    if Wh is not None:
        letters, sizes = ("H" if Wr is None else "P", GH), (P, G * H)
        _shape("Wh", Wh, *((letters, sizes) if delays is None else (("K", *letters), (len(delays), *sizes))))
    elif delays is not None:
        raise ValueError("delays: expected None beside Wh=None, got some")
    gain_x, gain_h, *of_c = norm or (None,) * 4
    for name, vector in (("b", b), ("bh", bh), ("gain_x", gain_x), ("gain_h", gain_h)):
        if vector is not None:
            _shape(name, vector, (GH,), (G * H,))
    for name, vector in zip(Norm._fields[2:], of_c, strict=True):
        if vector is not None:
            _shape(name, vector, ("H",), (H,))
    if peephole is not None:
        _shape("peephole", peephole, ("3H",), (3 * H,))
    if Wr is not None:
        _shape("Wr", Wr, ("H", "P"), (H, P))
    if isinstance(alpha, ndarray):
        _shape("alpha", alpha, ("H",), (H,))
        wrong = ~((alpha >= 0) & (alpha <= 1))
        if wrong.any():
            unit = int(wrong.argmax())
            raise ValueError(f"alpha: expected numbers from 0 to 1, got {alpha[unit]} for unit {unit}")


def _hidden_size(D, G, Wx, Wh, states, sizes):
    """H by the vote of all arguments that speak of it."""
    votes = [state[-1] for state in states if 1 <= len(state) <= 3]
    if len(Wh) == 2 and Wh[1] == G * Wh[0]:
        votes.insert(0, Wh[0])
    elif len(Wh) == 2 and Wh[0] == G * Wh[1]:
        votes.append(Wh[1])
    if len(Wx) == 2 and Wx[0] == D and Wx[1] % G == 0:
        votes.insert(0, Wx[1] // G)
    elif len(Wx) == 2 and Wx[1] == D and Wx[0] % G == 0:
        votes.append(Wx[0] // G)
    votes += sizes
    votes += Wh[:1]
    return Counter(votes).most_common(1)[0][0] if votes else 0


def _lengths(lengths, N, T):
    """(N,) integers 0..T as a private int64 array."""
    lengths = _integers("lengths", lengths)
    if lengths.shape != (N,):
        raise ValueError(f"lengths: expected (N,) = ({N},), got {lengths.shape}")
    wrong = (lengths < 0) | (lengths > T)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"lengths: expected 0..T = 0..{T}, got {lengths[row]} in row {row}")
    return lengths.astype(np.int64, order="C")


def _one_table(offsets, batch_sizes):
    """offsets, batch_sizes: one as integers, the other None."""
    if (offsets is None) is (batch_sizes is None):
        got = "neither" if offsets is None else "both"
        raise ValueError(f"offsets: expected either offsets or batch_sizes, got {got}")
    if offsets is None:
        return None, _integers("batch_sizes", batch_sizes)
    return _integers("offsets", offsets), None


def _flat(offsets, batch_sizes, rows):
    """(Flat, lengths, N, T) of a batch on `rows` flat rows, from one of its two tables."""
    if offsets is None:
        return _flat_steps(batch_sizes, rows)
    if offsets.ndim != 1 or offsets.size == 0:
        raise ValueError(f"offsets: expected (N + 1,), got {offsets.shape}")
    if offsets[0] != 0:
        raise ValueError(f"offsets: expected offsets[0] = 0, got {offsets[0]}")
    falls = offsets[1:] < offsets[:-1]
    if falls.any():
        n = int(falls.argmax())
        raise ValueError(f"offsets: expected integers that never fall, got {offsets[n]}, {offsets[n + 1]} in row {n}")
    if offsets[-1] != rows:
        raise ValueError(f"offsets: expected offsets[N] = sum T = {rows}, got {offsets[-1]}")
    offsets = offsets.astype(np.int64, order="C")
    lengths = offsets[1:] - offsets[:-1]
    return Flat(offsets[:-1], None), lengths, len(lengths), int(lengths.max(initial=0))


def _flat_steps(batch_sizes, rows):
    if batch_sizes.ndim != 1:
        raise ValueError(f"batch_sizes: expected (T,), got {batch_sizes.shape}")
    wrong = batch_sizes < 1
    if wrong.any():
        t = int(wrong.argmax())
        raise ValueError(f"batch_sizes: expected integers > 0, got {batch_sizes[t]} at step {t}")
    grows = batch_sizes[1:] > batch_sizes[:-1]
    if grows.any():
        t = int(grows.argmax())
        raise ValueError(
            f"batch_sizes: expected integers that never grow, got {batch_sizes[t]}, {batch_sizes[t + 1]} at step {t}"
        )
    total = sum(batch_sizes.tolist())  # exact, whatever the dtype
    if total != rows:
        raise ValueError(f"batch_sizes: expected a sum of sum T = {rows}, got {total}")
    T, N = len(batch_sizes), int(batch_sizes[0]) if rows else 0
    _affordable(2 * 8 * N, 0, f"batch_sizes: N = {N}")
    batch_sizes = batch_sizes.astype(np.int64, order="C")
    lengths = T - np.searchsorted(batch_sizes[::-1], np.arange(N), side="right").astype(np.int64, copy=False)
    return Flat(None, np.cumsum(batch_sizes) - batch_sizes), lengths, N, T


@lru_cache(maxsize=64)
def _positions(gates: str, order: str) -> tuple[int, ...]:
    if sorted(order) != sorted(gates):
        raise ValueError(f'gate_order: expected a permutation of "{gates}", got "{order}"')
    return tuple(order.index(gate) for gate in gates)


def gate_positions(gates: str, gate_order: Any) -> tuple[int, ...]:
    """position[g]: the place in `gate_order` of the canonical gate g."""
    if gate_order is None:
        gate_order = gates
    elif type(gate_order) is not str:
        raise TypeError(f'gate_order: expected a permutation of "{gates}", got {_kind(gate_order)}')
    return _positions(gates, gate_order)


class Weights(NamedTuple):
    """Judged weights of a prepared cell: private copies, C-ordered, read-only."""

    D: int
    H: int
    P: int
    dtype: np.dtype
    Wx: ndarray  # (D, G·H)
    Wh: ndarray | None  # (P, G·H); with delays (K, P, G·H)
    b: ndarray | None  # (G·H,)
    bh: ndarray | None  # (G·H,)
    peephole: ndarray | None  # (3H,)
    Wr: ndarray | None  # (H, P)
    gate_order: str | None
    rhythm: Rhythm | None  # whose start is 0
    position: tuple[int, ...]  # of the gates, as in Forward
    norm: Norm | None
    alpha: float | ndarray | None  # (H,)


def weights(
    Wx: Any,
    Wh: Any,
    b: Any,
    bh: Any,
    peephole: Any,
    Wr: Any,
    gates: str,
    gate_order: Any,
    delays: Any = None,
    period: Any = None,
    like: Weights | None = None,
    norm: Norm | None = None,
    alpha: Any = None,
) -> Weights:
    """Judge weights on their own; with `like`, they must have its sizes and dtype."""
    if like is not None and (Wr is None) is not (like.Wr is None):
        expected, got = ("None", "an array") if like.Wr is None else (f"(H, P) = {(like.H, like.P)}", "None")
        raise ValueError(f"Wr: expected {expected} as before, got {got}")
    position = gate_positions(gates, gate_order)
    norm = given_norm(norm)
    delays = _delays(delays)
    period = None if period is None else _integers("period", period)[...]
    # Views: whoever reshapes a caller's array meanwhile, another thread or code of the next argument, does not reach them.
    Wx = _array("Wx", Wx, KERNEL if like is None else (like.dtype,), None if like is None else "before")[...]
    dtype = _native(Wx.dtype, KERNEL)
    Wh = None if Wh is None and alpha is not None else _array("Wh", Wh, (dtype,), "Wx")[...]
    b = None if b is None else _array("b", b, (dtype,), "Wx")[...]
    bh = None if bh is None else _array("bh", bh, (dtype,), "Wx")[...]
    peephole = None if peephole is None else _array("peephole", peephole, (dtype,), "Wx")[...]
    Wr = None if Wr is None else _array("Wr", Wr, (dtype,), "Wx")[...]
    norm = norm and _norm_arrays(norm, dtype, "Wx")
    alpha = alpha if alpha is None or type(alpha) is float else _array("alpha", alpha, (dtype,), "Wx")[...]
    G = len(gates)
    if like is None:
        D = Wx.shape[0] if Wx.ndim == 2 else -1
        H, P = _state_sizes(D, G, Wx, _one_of(Wh, delays), None, None, _bias_sizes(G, b, bh, peephole, norm, alpha), Wr)
        if D < 0:
            GH = "H" if G == 1 else f"{G}H"
            raise ValueError(f"Wx: expected (D, {GH}) = (D, {G * H}), got {Wx.shape}")
    else:
        D, H, P = like.D, like.H, like.P
    _weight_shapes(D, H, P, G, Wx, Wh, b, bh, peephole, Wr, norm, alpha, delays)
    _period_alone(period, Wr, norm)
    if period is not None:
        period = _periods(period, H)
        period.flags.writeable = False
    rhythm = None if period is None and delays is None else Rhythm(period, 0, delays)
    left = P if delays is None else len(delays) * P
    _affordable(3 * ((D + left) * G * H + H * P * (Wr is not None)) * dtype.itemsize, 0, f"Wx, Wh: D, H = {D}, {H}")
    Wx, Wh, b, bh, peephole, Wr = (None if a is None else _frozen(a, dtype) for a in (Wx, Wh, b, bh, peephole, Wr))
    norm = norm and Norm._make(None if a is None else _frozen(a, dtype) for a in norm)
    alpha = _frozen(alpha, dtype) if type(alpha) is ndarray else alpha
    return Weights(D, H, P, dtype, Wx, Wh, b, bh, peephole, Wr, gate_order, rhythm, position, norm, alpha)


def _frozen(a: ndarray, dtype: np.dtype) -> ndarray:
    """A private copy, C-ordered, read-only."""
    copy = np.empty(a.shape, dtype)
    copy[...] = a
    copy.flags.writeable = False
    return copy


# --- one backward call -------------------------------------------------------------------------------------------


def cache(cache: Any, kind: type[Any], cell: str, step: bool, ragged: bool = False) -> Forward:
    """The forward call that made `cache`, where cache is a `kind` (a class with a Forward in `.call`) of this cell."""
    if (
        type(cache) is kind
        and (call := getattr(cache, "call", None)) is not None
        and call.cell == cell
        and call.step is step
        and (call.flat is not None) is ragged
    ):
        return call
    wanted = f"{cell}{'_step' * step}{'_ragged' * ragged}_forward"
    if cache is None:
        raise ValueError(f"cache: expected the cache of {wanted}, got None; call {wanted} with training=True")
    got = cache_in_words(cache)
    if isinstance(getattr(cache, "call", None), Forward) and type(cache) is not kind:
        got += f" in {type(cache).__module__}"
    raise ValueError(f"cache: expected the cache of {wanted}, got {got}")


def cache_in_words(cache: Any) -> str:
    """Whose cache it is, or what came instead of one."""
    call = getattr(cache, "call", None)
    return f"that of {function_name(call)}" if isinstance(call, Forward) else _kind(cache)


def function_name(call: Forward) -> str:
    """The function that this is a call of."""
    return f"{call.cell}{'_step' * call.step}{'_ragged' * (call.flat is not None)}_forward"


def backward(call: Forward, dh: Any, dh_T: Any = None, dc_T: Any = None, *, need: Any = None, out: Any = None) -> Backward:
    """Judge a backward call against the forward call of its cache.

    Of a step, dh is dh_next, dc_T is dc_next, and dh_T stays None. Upstream gradients may be None = zeros.
    """
    step, dtype, P = call.step, call.dtype, call.P
    state = (call.N, P)
    if not (
        need is None
        and out is None
        and (call.rhythm is None or call.rhythm.delays is None)
        and (
            dh is None
            or (
                type(dh) is ndarray
                and dh.dtype is dtype
                and dh.shape == (state if step else (call.N, call.T, P) if call.flat is None else (len(call.x), P))
                and (dh.flags.num & _DIRECT == _DIRECT or _rows(dh))
            )
        )
        and (
            dh_T is None
            or (
                type(dh_T) is ndarray
                and dh_T.dtype is dtype
                and dh_T.shape == state
                and (dh_T.flags.num & _DIRECT == _DIRECT or _rows(dh_T))
            )
        )
        and (
            dc_T is None
            or (
                type(dc_T) is ndarray
                and dc_T.dtype is dtype
                and dc_T.shape == (call.N, call.H)
                and (dc_T.flags.num & _DIRECT == _DIRECT or _rows(dc_T))
            )
        )
    ):
        return _backward_in_words(call, dh, dh_T, dc_T, need, out)
    names = gradient_names(call)
    return _new(Backward, (call, dh, dh_T, dc_T, names, _ALL[len(names)], None))


def _backward_in_words(call, dh, dh_T, dc_T, need, out):
    N, dtype = call.N, call.dtype
    letter = "H" if call.Wr is None else "P"
    names = gradient_names(call)
    # A caller's code may run while these become plain data, so that comes before any shape is read.
    need = need_names(need, names, total_names(call))
    asked = tuple(itertools.compress(total_names(call), need[len(names) :]))
    names, need = names + asked, need[: len(names)] + (True,) * len(asked)
    given = {"dh_next" if call.step else "dh": dh, "dh_T": dh_T, "dc_next" if call.step else "dc_T": dc_T}
    given = {name: g if g is None else _array(name, g, (dtype,), "the cache")[...] for name, g in given.items()}
    upstream = []
    for name, gradient in given.items():
        if gradient is not None:
            if name == "dh":
                letters = ("N", "T", letter) if call.flat is None else ("sum T", letter)
                hint = "dh=None, dh_T=dh" if gradient.shape == states_shape(call) else None  # a loss on the last state
                _shape(name, gradient, letters, (*call.x.shape[:-1], call.P), hint=hint)
            elif name.startswith("dh"):
                _shape(name, gradient, ("N", *_past_shape(letter, call.P, delays_of(call))[0]), states_shape(call))
            else:
                _shape(name, gradient, ("N", "H"), (N, call.H))
            gradient = _direct(gradient, dtype, rows=True)
        upstream.append(gradient)
    past = 0 if call.step else 1  # of the upstream gradients, that of the last states
    upstream[past], _ = _merging(upstream[past], None, delays_of(call))
    if out is not None:
        shapes = gradient_shapes(call) | {n: (*call.x.shape[:-1], call.P if n == "dh_total" else call.H) for n in asked}
        out = outputs(
            out,
            {name: shapes[name] if wanted else None for name, wanted in zip(names, need, strict=True)},
            dtype,
            "the cache",
        )
        upstream = list(_apart(out, *upstream))
        upstream[past], _ = _merging(upstream[past], None, delays_of(call))
        kept = ("x", "h0", "c0", "Wx", "Wh", "peephole", "Wr")
        call = call._replace(**dict(zip(kept, _apart(out, *(getattr(call, name) for name in kept)), strict=True)))
        call = call._replace(Wh=_merging(None, call.Wh, delays_of(call))[1])
        call = call._replace(masks=call.masks and Masks._make(_apart(out, *call.masks)))
        call = call._replace(norm=call.norm and Norm._make(_apart(out, *call.norm)), alpha=_leak_apart(out, call.alpha))
    return Backward(call, *upstream, names, need, out)


def _names(step, has_c, Wh, b, bh, peephole, Wr, alpha):
    names = ["dx", "dh_prev" if step else "dh0"]
    names += ["dc_prev" if step else "dc0"] * has_c
    names += ["dWx"] + ["dWh"] * Wh + ["db"] * b + ["dbh"] * bh + ["dpeephole"] * peephole + ["dWr"] * Wr + ["dalpha"] * alpha
    return tuple(names)


_NAMES = {given: _names(*given) for given in itertools.product((False, True), repeat=8)}
_ALL = tuple((True,) * n for n in range(12))


def gradient_names(call: Forward) -> tuple[str, ...]:
    """The names of the gradients of a call, in the order of the result."""
    # fmt: off
    names = _NAMES[
        call.step, call.has_c, call.Wh is not None, call.b is not None, call.bh is not None, call.peephole is not None,
        call.Wr is not None, type(call.alpha) is ndarray]
    # fmt: on
    if call.norm is None:
        return names
    return (*names, *(f"d{name}" for name in call.norm._fields if getattr(call.norm, name) is not None))


def gradient_shapes(call: Forward) -> dict[str, tuple[int, ...]]:
    """The shape of each gradient: that of its argument, with all rows for a state that was None."""
    states = ((call.h0, states_shape(call)), (call.c0, (call.N, call.H)))[: 1 + call.has_c]
    shapes = [call.x.shape, *(shape if state is None else state.shape for state, shape in states)]
    weights = (call.Wx, call.Wh, call.b, call.bh, call.peephole, call.Wr, call.alpha, *(call.norm or ()))
    shapes += [a.shape for a in weights if isinstance(a, ndarray)]
    return dict(zip(gradient_names(call), shapes, strict=True))


def total_names(call: Forward) -> tuple[str, ...]:
    """The names of what a backward call returns only where `need` names it."""
    return () if call.step else ("dh_total", "dc_total")[: 1 + call.has_c]


def need_names(need: Any, names: tuple[str, ...], on_demand: tuple[str, ...] = ()) -> tuple[bool, ...]:
    """`need=`: one bool per name of a gradient, then one per name `on_demand`; None means all but these."""
    if need is None:
        return (True,) * len(names) + (False,) * len(on_demand)
    names += on_demand
    if isinstance(need, (str, bytes)):
        raise TypeError(f"need: expected an iterable of names, got one {_kind(need)}; pass ({need!r},)")
    try:
        wanted = list(need)
    except TypeError:
        raise TypeError(f"need: expected an iterable of names, got {_kind(need)}") from None
    for name in wanted:
        if not isinstance(name, str):
            raise TypeError(f"need: expected names, got {_kind(name)}")
        if name not in names:
            raise ValueError(f"need: expected names among {_listed(names, 'and')}, got {name!r}")
    return tuple(name in wanted for name in names)


# --- out= --------------------------------------------------------------------------------------------------------


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


def _rows(array):
    """Aligned, last axis contiguous."""
    return array.flags.num & _ALIGNED and (array.shape[-1:] <= (1,) or array.strides[-1] == array.itemsize)


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


# --- options -----------------------------------------------------------------------------------------------------


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


# --- masks that are drawn ----------------------------------------------------------------------------------------


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


# --- clipping ----------------------------------------------------------------------------------------------------


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


# --- loss --------------------------------------------------------------------------------------------------------


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


# --- the words ---------------------------------------------------------------------------------------------------


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


def _shape(name, a, letters, sizes, also=None, hint=None):
    """`a` has the shape `sizes`, or that of `also`; or the ValueError with a hint."""
    if a.shape == sizes or (also is not None and a.shape == also[1]):
        return
    expected, numbers = _bracket(letters), str(sizes)
    if also is not None:
        expected, numbers = f"{expected} or {_bracket(also[0])}", f"{numbers} or {also[1]}"
    raise ValueError(f"{name}: expected {expected} = {numbers}, got {a.shape}" + _ask(hint or _as_shape(name, a, sizes)))


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


# --- memory ------------------------------------------------------------------------------------------------------


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
