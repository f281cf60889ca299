"""One forward call of a cell: whole sequences, single steps, ragged batches on flat rows."""

import math
from collections import Counter
from functools import lru_cache
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from fastgate import _kernels
from fastgate._arguments.around import (
    Masks,
    Rhythm,
    _broadcast,
    _delays,
    _factors,
    _merging,
    _one_of,
    _past_shape,
    _periods,
    _step_number,
)
from fastgate._arguments.options import flag
from fastgate._arguments.out import _apart, outputs
from fastgate._arguments.words import (
    KERNEL,
    _affordable,
    _array,
    _as_steps,
    _ask,
    _direct,
    _integers,
    _kind,
    _native,
    _new,
    _odd_one,
    _shape,
)

_SMALL = 2**27  # values; a call that handles fewer is not asked whether memory suffices
_AS_IS = tuple(tuple(range(G)) for G in range(9))  # gate positions in canonical order


class Flat(NamedTuple):
    """Where the steps of a ragged batch lie in arrays of sum T rows: time t of sequence n is row sequence_start[n] + t, or
    step_start[t] + n."""

    sequence_start: ndarray | None  # (N,) int64, C order, private
    step_start: ndarray | None  # (T,) int64, C order, private


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
                lengths = _lengths(lengths, N, T, x if h0 is None is c0 else None)
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
    _odd_one("x", x, (h0, c0, Wx, Wh, b, bh, peephole, Wr, *(norm or ()), alpha), dtypes)
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
    h_and_c = (h_name, h0, *_past_shape("H" if Wr is None else "P", P, delays)), (c_name, c0, ("H",), (H,))
    h_and_c = [state for state in h_and_c if state[1] is not None]
    swapped = x.ndim == 3 and N != T and all(a.shape in ((T, *sizes), sizes) for _, a, _, sizes in h_and_c)
    swapped = x if swapped and (lengths is None or lengths.shape == (T,)) else None
    for name, state, letters, sizes in h_and_c:
        _shape(name, state, ("N", *letters), (N, *sizes), also=(letters, sizes), time_major=swapped)
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
    lengths = lengths if lengths is None or ragged else _lengths(lengths, N, T, swapped)

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


def _lengths(lengths, N, T, time_major=None):
    """(N,) integers 0..T as a private int64 array; time_major: the x whose N and T are swapped if there are T."""
    lengths = _integers("lengths", lengths)
    if lengths.shape != (N,):
        hint = _as_steps(time_major) if time_major is not None and lengths.shape == (T,) else ""
        raise ValueError(f"lengths: expected (N,) = ({N},), got {lengths.shape}{hint}")
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
