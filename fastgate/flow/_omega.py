"""Pascanu's regulariser, which keeps the norm of the error signal as it flows back, and its gradient."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastgate import _arguments
from fastgate.flow._dual import Dual, value_of
from fastgate.flow._trace import Array, Trace, block_of, one
from fastgate.flow.instruments import Floats, norm_of_rows
from fastgate.reference import sequence

HOLDS = ("states", "delta")
OF_UNITS = ("peephole", "Wr", "alpha")  # weights without a gate order, as their gradients come


class Omega(NamedTuple):
    """What omega returns."""

    value: float  # the mean over the N rows
    ratio: Floats  # (N, T), |delta_t ds_t/ds_{t-1}| / |delta_t|; NaN past a row's length and where delta_t is too small
    gradients: dict[
        str, Array
    ]  # dWx and those of Wh, b, bh, peephole, Wr, alpha that were given: as the weights, in their dtype


@np.errstate(all="ignore")  # as silent about infinities as the kernels are
def omega(trace: Any, *, block: str = "state", hold: str = "states", smallest: float = 1e-10) -> Omega:
    """How far the norm of the error signal is from being kept, step by step, and the gradient of that.

        Omega = 1/N sum_n sum_t (|delta_t ds_t/ds_{t-1}| / |delta_t| - 1)^2        delta_t = dL/ds_t held constant

    (Pascanu, Mikolov and Bengio 2013, equation 9; there for one sequence.) The state s is h, of a cell with c (h, c) side by
    side; block="h" or "c" is the norm of dh_t/dh_{t-1} (at constant c_{t-1}) or dc_t/dc_{t-1} alone, with delta that of h or c.

    delta_t never changes with the weights, neither here nor in the paper. `hold` says what else does not:

        "states"   s_{t-1} and x_t: the immediate partial derivative of each step, as the paper takes it (equation 10), all
                   steps at once. In the paper's x_t = phi(x_{t-1}) Wh + ... the slope of a step belongs to the constant
                   state; in h_t = phi(h_{t-1} Wh + ...) it depends on the weights, and that counts here. The authors'
                   published code, which has the latter form, holds the slopes, too: only Wh has a gradient there.
        "delta"    nothing: the whole derivative, through all earlier states; one more backward pass

    smallest : a step whose |delta_t| is not above this does not count: rounding error is no signal. A step where the product is
        exactly 0 counts 1, and has no gradient.

    Add a multiple of the gradients to those of the loss. For a layer, pass its Traces one by one: each is about the weights of
    that layer and direction alone.
    """
    t = one(trace)
    block_of(t, block)
    hold = _arguments.option("hold", hold, HOLDS)
    smallest = _arguments.number("smallest", smallest)
    parts = {"h": ("h",), "c": ("c",), "state": ("h", "c")[: 1 + t.has_c]}[block]
    all_parts = ("h", "c")[: 1 + t.has_c]
    N, x, before = len(t.x), t.flat(t.x), {p: t.flat(t.previous(p)) for p in all_parts}
    delta = {p: t.flat(getattr(t, f"d{p}_total")) if p in parts else np.zeros_like(before[p]) for p in all_parts}
    size = norm_of_rows([delta[p] for p in parts])
    counts = size > smallest
    unit = np.where(counts, size, 1)
    delta = {p: np.where(counts[:, None], d / unit[:, None], 0) for p, d in delta.items()}  # Omega knows its direction alone

    held = None if t.held is None else t.held[t.alive]
    step = t.function("step_forward")(x, *before.values(), **t.arguments(), **t.zoneout(held)).cache
    back = t.function("step_backward")(*delta.values(), step, need=tuple(f"d{p}_prev" for p in all_parts))
    product = [getattr(back, f"d{p}_prev") for p in parts]
    ratio = norm_of_rows(product)
    value = float(np.square(ratio - 1)[counts].sum() / max(N, 1))

    # Omega's derivative with respect to the product is w; that of w·(delta J) is the derivative of delta·s_t along w.
    scale = np.where(counts & (ratio > 0), 2 * (ratio - 1) / np.where(ratio > 0, ratio, 1) / max(N, 1), 0)[:, None]
    w = dict(zip(parts, (scale * p for p in product), strict=True))
    cell, W, call = t.definition()
    states = tuple(Dual(before[p], w.get(p, np.zeros_like(before[p]))) for p in all_parts)
    _, kept = sequence.cell_forward(cell, x, states, W)
    # What a unit that holds gets passes it.
    reaching = tuple(d if held is None else np.where(held, 0, d) for d in delta.values())
    _, d_before, *d_weights = sequence.cell_backward(cell, reaching, states, kept, x, W)
    d_weights = [_tangent(d) for d in d_weights]
    gradients = _by_name(t, call, d_weights)
    if hold == "delta":
        gradients = _through_states(t, gradients, [t.spread(_tangent(d)) for d in d_before])
    gradients = {name: g.astype(t.weights[name[1:]].dtype) for name, g in gradients.items()}
    return Omega(value, t.spread(np.where(counts, ratio, np.nan), np.nan), gradients)


def _tangent(d: Any) -> Floats:
    return d.tangent if isinstance(d, Dual) else np.zeros_like(value_of(d))


def _by_name(t: Trace, call: Any, d_weights: list[Floats]) -> dict[str, Floats]:
    """Gradients of canonical weights, as the caller holds these."""
    columns, result = sequence.gate_columns(call), {}
    more = [name for name in OF_UNITS if name in t.weights]
    for name, d in zip(("Wx", "Wh", "b", "bh", *more), d_weights, strict=False):
        if name in t.weights:
            result[f"d{name}"] = np.empty_like(t.weights[name], np.float64)
            result[f"d{name}"][..., slice(None) if name in OF_UNITS else columns] = d
    return result


def _through_states(t: Trace, gradients: dict[str, Floats], d_before: list[Floats]) -> dict[str, Floats]:
    """Adds what the weights change by way of the states that each step begins with: one backward pass."""
    # The derivative with respect to the state before step t arrives at the state after the step before it.
    dh = _one_step_back(t, d_before[0])
    forward, backward = t.function("forward"), t.function("backward")
    x, given = t.x.astype(np.float64), t.arguments()
    states = [a.astype(np.float64) for a in (t.h0, t.c0) if a is not None]
    if not t.has_c:
        cache = forward(x, *states, **given, **t.zoneout(t.held), lengths=t.lengths, reverse=t.reverse).cache
        found = backward(dh, cache)._asdict()
        return {name: g + found[name] for name, g in gradients.items()}
    # A gradient of c_t inside a sequence: step by step, from the last to the first.
    total = dict(gradients)
    dc, order = _one_step_back(t, d_before[1]), t.order
    h_prev, c_prev = (t.previous(p).astype(np.float64) for p in ("h", "c"))
    d_next = [np.zeros(a.shape) for a in states]
    for step in reversed(range(x.shape[1])):
        rows = np.flatnonzero(step < t.lengths)
        at = (rows, order[rows, step])
        holding = t.zoneout(None if t.held is None else t.held[at])
        cache = t.function("step_forward")(x[at], h_prev[at], c_prev[at], **given, **holding).cache
        found = t.function("step_backward")(d_next[0][rows] + dh[at], d_next[1][rows] + dc[at], cache)
        d_next[0][rows], d_next[1][rows] = found.dh_prev, found.dc_prev
        for name in total:
            total[name] = total[name] + getattr(found, name)
    return total


def _one_step_back(t: Trace, d: Floats) -> Floats:
    """(N, T, H): at each time what stands at the step that is computed next; at the last one zeros."""
    moved = np.zeros_like(d)
    moved[:, :-1] = t.in_order(d)[:, 1:]
    back = np.empty_like(moved)
    np.put_along_axis(back, t.order[..., None], moved, axis=1)
    return back * t.alive[..., None]
