"""One backward call: is this the cache that the forward twin returned, what arrives, which gradients are wanted?"""

import itertools
from typing import Any, NamedTuple

from numpy import ndarray

from fastgate._arguments.around import Masks, _merging, _past_shape, delays_of, states_shape
from fastgate._arguments.forward_call import Forward, Norm, _leak_apart
from fastgate._arguments.out import _apart, outputs
from fastgate._arguments.words import _DIRECT, _array, _direct, _kind, _listed, _new, _rows, _shape


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
