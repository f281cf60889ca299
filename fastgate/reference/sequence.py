"""A step run over time, forward and back: lengths, direction, gate order and outputs, once for all cells.

A cell is two functions on canonical weights (gates in the order of the cell's letters):

    forward(x, states, W, option)        -> states, kept                     states is (h,) or (h, c)
    backward(dstates, states_prev, kept, x, W, option) -> dx, dstates_prev, dleft, dWx, dWh, db, dbh, dpeephole, dWr, dalpha if
                                                          given, and then those of what is given in W.norm

What multiplies Wh is W.left, so dh_prev is what reaches h_prev on other ways, 0 where there is none. Everything else that a
sequence needs is in this file.
"""

from collections import namedtuple
from functools import cache as once
from typing import Any, NamedTuple

import numpy as np

from fastgate import _arguments


class Weights(NamedTuple):
    """The weights with their gates in canonical order; a bias that was not given is zero, a peephole or Wr None."""

    Wx: np.ndarray  # (D, G·H)
    Wh: np.ndarray  # (K·P, G·H), K = 1 without delays; P is H, the width of c, unless Wr gives h its own. Not given: (0, G·H)
    b: np.ndarray  # (G·H,)
    bh: np.ndarray  # (G·H,)
    peephole: np.ndarray | None  # (3H,)
    Wr: np.ndarray | None  # (H, P)
    alpha: Any = None  # a number or (H,), of a leaky cell
    left: Any = None  # (N, K·P): h of each delay, h_prev without them, times the recurrent mask, side by side
    norm: Any = ()  # of a normalised cell to which some of it was given: _arguments.Norm


class Cell(NamedTuple):
    forward: Any
    backward: Any
    option: Any = None


class Cache:
    """What a forward call keeps for backward. It refers to x, the initial states and the weights without copying
    them: write into them after backward, not before."""

    __slots__ = ("call", "cell", "steps")

    def __init__(self, call, cell, steps):
        self.call = call  # the judged arguments
        self.cell = cell
        self.steps = steps  # per step: rows, their places in x, states before it, what the cell kept


def sigmoid(a):
    """σ(a) = 1 / (1 + exp(-a)), without overflow."""
    e = np.exp(-np.abs(a))
    return np.where(a >= 0, 1, e) / (1 + e)


def clipped(a, limit):
    """a between ±limit, a number or None = as it is; NaN stays."""
    if limit is None:
        return a
    with np.errstate(over="ignore", under="ignore"):
        limit = np.asarray(limit).astype(a.dtype)
    return np.clip(a, -limit, limit)


def forward(call, cell):
    """All steps of a judged forward call: (h or None, final states, cache or None)."""
    W = canonical_weights(call)
    states = initial_states(call)
    h = zeros_like_rows(call, call.P) if call.return_sequences else None
    steps = []
    for t, (rows, places) in enumerate(schedule(call)):
        before = tuple(s[rows] for s in states)
        after, kept = one_step(call, cell, t, rows, places, before, W)
        for s, new in zip(states, after, strict=True):
            s[rows] = new
        if h is not None:
            h[places] = after[0][:, -1]
        if call.training:
            steps.append((rows, places, before, kept))
    return h, as_returned(call, states), Cache(call, cell, steps) if call.training else None


def backward(cache, judged):
    """All gradients of a judged backward call: one per name in judged.names."""
    call, cell = judged.call, cache.cell
    W = canonical_weights(call)
    dx = zeros_like_rows(call, call.D)
    dW = [np.zeros_like(w) for w in (*W[:7], *W.norm) if isinstance(w, np.ndarray)]
    dstates = [np.zeros_like(state) for state in initial_states(call)]
    for dstate, upstream in zip(dstates, (judged.dh_T, judged.dc_T), strict=False):
        if upstream is not None:
            dstate += upstream.reshape(dstate.shape)
    totals = [zeros_like_rows(call, size) for size in state_sizes(call)]
    for t, (rows, places, before, kept) in reversed(list(enumerate(cache.steps))):
        after = [dstate[rows] for dstate in dstates]
        if judged.dh is not None:
            after[0][:, -1] += judged.dh[places]
        for total, dstate in zip(totals, after, strict=True):
            total[places] = dstate[:, -1] if dstate.ndim == 3 else dstate
        dx[places], dbefore, *dweights = one_step_back(call, cell, t, rows, places, after, before, kept, W)
        for dstate, d in zip(dstates, dbefore, strict=True):
            dstate[rows] = d
        for total, d in zip(dW, dweights, strict=True):
            total += d
    return collect(judged, dx, as_returned(call, dstates), dW, totals)


def step_forward(call, cell):
    """One step: (states, cache or None)."""
    before = initial_states(call)
    after, kept = one_step(call, cell, 0, ..., ..., before, canonical_weights(call))
    after = [state.copy() for state in as_returned(call, after)]  # the caller's own, `kept` belongs to the cache
    return after, Cache(call, cell, [(None, None, before, kept)]) if call.training else None


def step_backward(cache, judged):
    """The gradients of one step: one per name in judged.names."""
    call, cell = judged.call, cache.cell
    [(_, _, before, kept)] = cache.steps
    given = zip((judged.dh, judged.dc_T), before, strict=False)
    after = [np.zeros_like(state) if d is None else d.reshape(state.shape) for d, state in given]
    dx, dbefore, *dW = one_step_back(call, cell, 0, ..., ..., after, before, kept, canonical_weights(call))
    return collect(judged, dx, as_returned(call, dbefore), dW)


def one_step(call, cell, t, rows, places, before, W):
    """Step t of the cell, with masks: (states, kept). Zoneout is next = m⊙prev + (1−m)⊙new for each state; then units
    that hold by their period get their states back. Of h there are the states of the last steps, (N, d, P), oldest first."""
    past, before = before[0], (before[0][:, -1], *before[1:])
    new, kept = cell.forward(call.x[places], before, with_left(W, call, rows, past), cell.option)
    states = zip(zoneouts(call, places), before, new, strict=True)
    after = tuple(new if m is None else m * prev + (1 - m) * new for m, prev, new in states)
    if call.rhythm is not None:
        moves = moving_units(call.rhythm, t)
        after = tuple(np.where(moves, new, old) for new, old in zip(after, before, strict=True))
    h, *c = after
    return (np.concatenate([past[:, 1:], h[:, None]], axis=1), *c), kept


def one_step_back(call, cell, t, rows, places, dafter, before, kept, W):
    """The gradients of step t, as cell.backward returns them: the cell gets (1−m)⊙d, and m⊙d goes past it; all of d does
    at a unit that holds by its period."""
    dpast, past, W = dafter[0], before[0], with_left(W, call, rows, before[0])
    dafter, before = [dpast[:, -1], *dafter[1:]], (past[:, -1], *before[1:])
    if call.rhythm is not None:
        moves = moving_units(call.rhythm, t)
        held = [np.where(moves, 0, d) for d in dafter]
        dafter = [np.where(moves, d, 0) for d in dafter]
    zoned = list(zip(zoneouts(call, places), dafter, strict=True))
    dnew = [d if m is None else (1 - m) * d for m, d in zoned]
    dx, dbefore, dleft, *dW = cell.backward(dnew, before, kept, call.x[places], W, cell.option)
    dbefore = [d if m is None else d + m * past for d, (m, past) in zip(dbefore, zoned, strict=True)]
    if call.rhythm is not None:
        dbefore = [d + past for d, past in zip(dbefore, held, strict=True)]
    dh_prev, *dc_prev = dbefore
    dpast = np.concatenate([np.zeros_like(dpast[:, :1]), dpast[:, :-1]], axis=1)
    dpast[:, -1] += dh_prev
    for part, delay in enumerate(distances(call) if len(W.Wh) else ()):
        dpast[:, -delay] += recurrent_mask(call, rows) * dleft[:, part * call.P : (part + 1) * call.P]
    return dx, [dpast, *dc_prev], *dW


def cell_forward(cell, x, states, W):
    """The equations of a cell alone, from (h,) or (h, c): (states, kept)."""
    return cell.forward(x, states, with_h(W, x, states[0]), cell.option)


def cell_backward(cell, dstates, states, kept, x, W):
    """Its gradients, dh_prev whole: (dx, dstates_prev, dWx, dWh, …)."""
    dx, (dh, *dc), dleft, *dW = cell.backward(dstates, states, kept, x, with_h(W, x, states[0]), cell.option)
    return dx, (dleft + dh if len(W.Wh) else dh, *dc), *dW


def with_h(W, x, h_prev):
    """The weights, and with them h_prev as what multiplies Wh, where there is one."""
    return W._replace(left=h_prev if len(W.Wh) else np.zeros((*x.shape[:-1], 0), x.dtype))


def with_left(W, call, rows, past):
    """The weights, and with them what multiplies Wh: h of so many steps ago, masked."""
    parts = [recurrent_mask(call, rows) * past[:, -delay] for delay in distances(call)]
    return W._replace(left=np.concatenate(parts, axis=1)[:, : len(W.Wh)])


def recurrent_mask(call, rows):
    """That of these rows of the batch."""
    mask = None if call.masks is None else call.masks.recurrent
    return call.dtype.type(1) if mask is None else mask[rows]


def distances(call):
    """How many steps ago the states are that multiply Wh."""
    delays = _arguments.delays_of(call)
    return (1,) if delays is None else tuple(delays.tolist())


def zoneouts(call, places):
    """For each state how much of it is kept at these places of x; None: there is no zoneout."""
    masks = (call.masks or (None, None, None))[1 : 2 + call.has_c]
    return [None if mask is None else mask[places] for mask in masks]


def moving_units(rhythm, t):
    """(H,) bools, or True for all: the units that change their states at step t."""
    return True if rhythm.period is None else (rhythm.start + t) % rhythm.period == 0


def schedule(call):
    """The steps in the order of computation: which rows of the batch still run, and which place of x each of them reads."""
    lengths = np.full(call.N, call.T) if call.lengths is None else call.lengths
    for s in range(call.T):
        rows = np.flatnonzero(s < lengths)
        if rows.size == 0:
            return
        times = lengths[rows] - 1 - s if call.reverse else np.full(rows.size, s)
        if call.flat is None:
            yield rows, (rows, times)
        elif call.flat.step_start is None:
            yield rows, call.flat.sequence_start[rows] + times
        else:
            yield rows, call.flat.step_start[times] + rows


def state_sizes(call):
    """The width of h, and of c where there is one."""
    return (call.P, call.H)[: 1 + call.has_c]


def initial_states(call):
    """h of the last steps, (N, d, P), oldest first, where d is the largest delay; and c, (N, H)."""
    past = max(distances(call))
    states = []
    for state, shape in zip((call.h0, call.c0), ((past, call.P), (call.H,))[: 1 + call.has_c], strict=False):
        states.append(np.zeros((call.N, *shape), call.dtype))
        if state is not None:
            target = states[-1]
            (target[:, -1] if target.ndim == 3 and _arguments.delays_of(call) is None else target)[...] = state
    return tuple(states)


def as_returned(call, states):
    """Of h, with delays, the last states; else the last one."""
    past, *others = states
    return (past if _arguments.delays_of(call) is not None else past[:, -1], *others)


def gate_columns(call):
    """The columns of the caller's weights, gate by gate in canonical order."""
    return np.concatenate([np.arange(p * call.H, (p + 1) * call.H) for p in call.position])


def canonical_weights(call):
    columns = gate_columns(call)
    zero = np.zeros(len(columns), call.dtype)
    b, bh = (zero if bias is None else bias[columns] for bias in (call.b, call.bh))
    Wh = np.zeros((0, len(columns)), call.dtype)
    if call.Wh is not None:
        Wh = call.Wh.reshape(len(distances(call)) * call.P, len(columns))[:, columns]
    alpha = call.dtype.type(call.alpha) if isinstance(call.alpha, float) else call.alpha
    norm = call.norm or ()
    if norm:
        gain_x, gain_h = (None if gain is None else gain[columns] for gain in norm[:2])
        norm = norm._replace(gain_x=gain_x, gain_h=gain_h)
    return Weights(call.Wx[:, columns], Wh, b, bh, call.peephole, call.Wr, alpha, norm=norm)


def zeros_like_rows(call, width):
    """(N, T, width) or (sum T, width) zeros in the memory order of x."""
    return np.zeros_like(call.x, shape=(*call.x.shape[:-1], width))


def collect(judged, dx, dstates, dW, totals=()):
    """The gradients in the caller's shapes, gate order and memory order; None where not needed."""
    call = judged.call
    columns = gate_columns(call)
    gradients = [dx]
    for state, dstate in zip((call.h0, call.c0), dstates, strict=False):
        gradients.append(dstate.sum(axis=0) if state is not None and state.ndim < dstate.ndim else dstate)
    for weight, dw in zip((call.Wx, call.Wh, call.b, call.bh), dW[:4], strict=True):
        if weight is not None:
            gradients.append(in_gate_order(weight, columns, dw))
    for name, dw in zip(judged.names[len(gradients) :], dW[4:], strict=False):
        gradients.append(in_gate_order(getattr(call.norm, name[1:]), columns, dw) if name in ("dgain_x", "dgain_h") else dw)
    named = dict(zip(("dh_total", "dc_total"), totals, strict=False))
    gradients += [named[name] for name in judged.names[len(gradients) :]]
    gradients = [gradient if wanted else None for gradient, wanted in zip(gradients, judged.need, strict=True)]
    return [placed(judged, name, gradient) for name, gradient in zip(judged.names, gradients, strict=True)]


def in_gate_order(weight, columns, dw):
    """A gradient in canonical order as the weight it belongs to is held."""
    gradient = np.empty_like(weight)
    gradient[..., columns] = dw.reshape(weight.shape)
    return gradient


def placed(judged, name, result):
    """The result, written into the array that `out` holds for it."""
    array = (judged.out or {}).get(name)
    if array is None:
        return result
    array[...] = result
    return array


@once
def gradients_type(name, fields):
    """The NamedTuple of a backward call; its fields depend on which biases were given. It pickles by its name and fields."""
    kind = namedtuple(name, fields)
    kind.__reduce__ = lambda gradients: (_gradients, (name, fields, *gradients))
    return kind


def _gradients(name, fields, *values):
    return gradients_type(name, fields)(*values)
