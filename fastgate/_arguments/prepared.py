"""The weights of a prepared cell, judged once."""

from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from fastgate._arguments.around import Rhythm, _delays, _one_of, _periods
from fastgate._arguments.forward_call import (
    Norm,
    _bias_sizes,
    _norm_arrays,
    _period_alone,
    _state_sizes,
    _weight_shapes,
    gate_positions,
    given_norm,
)
from fastgate._arguments.words import KERNEL, _affordable, _array, _integers, _native, _odd_one


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
    if like is None:
        _odd_one("Wx", Wx, (Wh, b, bh, peephole, Wr, *(norm or ()), alpha), KERNEL)
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
        if Wx.shape[1] != G * H == Wx.shape[0]:
            D = Wx.shape[1]  # for the message, which then says that Wx.T would do
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
