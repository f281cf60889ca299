"""The long short-term memory.

a = x Wx + h_prev Wh + b + bh
i, f, o = σ(a_i), σ(a_f), σ(a_o),  g = tanh(a_g)
c = f⊙c_prev + i⊙g
h = o⊙tanh(c)

With options: peephole p adds p_i⊙c_prev, p_f⊙c_prev, p_o⊙c to a_i, a_f, a_o; preact_clip v keeps a between ±v;
candidate="sigmoid" has g = σ(a_g); coupled=True has i = 1−f; cell_clip v keeps c between ±v before it is used; grad_clip v
keeps da between ±v, backward; Wr (H, P) has h = (o⊙tanh(c)) Wr, P wide.

Row vectors: x (N, D), Wx (D, 4H), Wh (H, 4H), with Wr (P, 4H). Gate order "ifgo" unless `gate_order` says otherwise.
"""

from typing import NamedTuple

import numpy as np

from fastgate import _arguments
from fastgate.reference import sequence
from fastgate.reference.sequence import clipped, sigmoid

GATES = "ifgo"
CANDIDATES = ("tanh", "sigmoid")
OPTIONS: dict[str, tuple[str, ...]] = {"candidate": CANDIDATES}


class Options(NamedTuple):
    candidate: str
    coupled: bool
    cell_clip: float | None
    preact_clip: float | None
    grad_clip: float | None


class LSTMForward(NamedTuple):
    h: np.ndarray | None
    h_T: np.ndarray
    c_T: np.ndarray
    cache: sequence.Cache | None


class LSTMStep(NamedTuple):
    h_next: np.ndarray
    c_next: np.ndarray
    cache: sequence.Cache | None


def _clipped(a, limit):
    """(a between ±limit, where it was)."""
    if limit is None:
        return a, np.ones(a.shape, bool)
    with np.errstate(over="ignore", under="ignore"):
        largest = np.asarray(limit).astype(a.dtype)
    return clipped(a, limit), ~(np.abs(a) > largest)


def _forward(x, states, W, option):
    _, c_prev = states
    a = x @ W.Wx + W.left @ W.Wh + W.b + W.bh  # 1
    a_i, a_f, a_g, a_o = np.split(a, 4, axis=1)
    if W.peephole is not None:
        p_i, p_f, p_o = np.split(W.peephole, 3)
        a_i, a_f = a_i + p_i * c_prev, a_f + p_f * c_prev  # 2
    (a_i, in_i), (a_f, in_f), (a_g, in_g) = (_clipped(a, option.preact_clip) for a in (a_i, a_f, a_g))  # 3
    i, f, g = sigmoid(a_i), sigmoid(a_f), sigmoid(a_g) if option.candidate == "sigmoid" else np.tanh(a_g)  # 4
    if option.coupled:
        i, in_i = 1 - f, np.zeros_like(in_f)  # 5
    c, in_c = _clipped(f * c_prev + i * g, option.cell_clip)  # 6
    if W.peephole is not None:
        a_o = a_o + p_o * c  # 7
    a_o, in_o = _clipped(a_o, option.preact_clip)  # 8
    o = sigmoid(a_o)  # 9
    h = m = o * np.tanh(c)  # 10
    if W.Wr is not None:
        h = m @ W.Wr  # 11
    return (h, c), (i, f, g, o, c, m, in_i, in_f, in_g, in_o, in_c)


def _backward(dstates, states_prev, kept, x, W, option):
    (dh, dc), (_, c_prev), (i, f, g, o, c, m, in_i, in_f, in_g, in_o, in_c) = dstates, states_prev, kept
    dm = dh if W.Wr is None else dh @ W.Wr.T  # 11
    do = dm * np.tanh(c)  # 10
    da_o = clipped(np.where(in_o, do * o * (1 - o), 0), option.grad_clip)  # 9, 8
    dc = dc + dm * o * (1 - np.tanh(c) ** 2)  # 10
    if W.peephole is not None:
        p_i, p_f, p_o = np.split(W.peephole, 3)
        dc = dc + da_o * p_o  # 7
    dc = np.where(in_c, dc, 0)  # 6
    di, df, dg = dc * g, dc * c_prev, dc * i  # 6
    if option.coupled:
        df = df - di  # 5
    da_i = clipped(np.where(in_i, di * i * (1 - i), 0), option.grad_clip)  # 4, 3
    da_f = clipped(np.where(in_f, df * f * (1 - f), 0), option.grad_clip)  # 4, 3
    da_g = np.where(in_g, dg * (g * (1 - g) if option.candidate == "sigmoid" else 1 - g**2), 0)  # 4, 3
    da_g = clipped(da_g, option.grad_clip)
    dc_prev = dc * f  # 6
    if W.peephole is not None:
        dc_prev = dc_prev + da_i * p_i + da_f * p_f  # 2
    da = np.hstack([da_i, da_f, da_g, da_o])
    dx, dWx = da @ W.Wx.T, x.T @ da  # 1
    dleft, dWh = da @ W.Wh.T, W.left.T @ da  # 1
    db = dbh = da.sum(axis=0)  # 1
    given = []
    if W.peephole is not None:
        given.append(np.hstack([da_i * c_prev, da_f * c_prev, da_o * c]).sum(axis=0))  # 2, 7
    if W.Wr is not None:
        given.append(m.T @ dh)  # 11
    return dx, (0, dc_prev), dleft, dWx, dWh, db, dbh, *given


def judged_options(candidate, coupled, cell_clip, preact_clip, grad_clip):
    candidate = _arguments.option("candidate", candidate, CANDIDATES)
    coupled = _arguments.flag("coupled", coupled)
    clips = {"cell_clip": cell_clip, "preact_clip": preact_clip, "grad_clip": grad_clip}
    return Options(candidate, coupled, *(_arguments.bound(name, value) for name, value in clips.items()))


def _cell(*options):
    return sequence.Cell(_forward, _backward, judged_options(*options))


def lstm_forward(
    x, h0, c0, Wx, Wh, b=None, *, bh=None, peephole=None, Wr=None, gate_order="ifgo", candidate="tanh", coupled=False,
    cell_clip=None, preact_clip=None, grad_clip=None, recurrent_mask=None, zoneout_h=None, zoneout_c=None, delays=None,
    period=None, start=0, lengths=None, reverse=False, training=True, memory=None, return_sequences=True, out=None,
):  # fmt: skip
    """Run the cell over a sequence; returns (h, h_T, c_T, cache).

    Axes (N, T, D), batch first; gate order "ifgo"; weights multiply from the right.

    x: (N, T, D). h0, c0: (N, H), (H,) or None = zeros. Wx: (D, 4H). Wh: (H, 4H). b, bh: (4H,) or None.
    Wr: (H, P) or None; with it h, h0, h_T, their gradients and masks are P wide, Wh is (P, 4H), and there is no period.
    peephole: (3H,) or None, in the order i f o. candidate: "tanh" or "sigmoid". coupled: i = 1 - f; the blocks of i are not
    used. cell_clip, preact_clip: numbers > 0 or None; no gradient passes where a value is clipped. grad_clip:
    number > 0 or None, the bound of each step's da in backward.
    gate_order: a permutation of "ifgo"; weights come and gradients return in it.
    recurrent_mask: to (N, H), what h_prev is multiplied by where it meets Wh. zoneout_h, zoneout_c: to (N, T, H), how much of
    its state a unit keeps: m⊙prev + (1−m)⊙new. Numbers, bools or floats that broadcast; constants of the gradients.
    delays: integers >= 1 that rise, (K,), or None. h_(t-d) Wh[k], summed over d = delays[k], stands where h_prev Wh did. Wh:
    (K, H, 4H); h0, h_T: (N, d, H), the states of the last d = delays[-1] steps, oldest first, and h0 (d, H) for all rows.
    period: an integer >= 1, integers (H,) or None. Unit j changes its state only at steps t with (start + t) % period[j] == 0,
    t counted as they run, and holds it in between. start: the number of the first step.
    lengths: (N,) integers 0..T; outputs past a row's length are 0, h_T and c_T are the states at the row's own end.
    reverse: run from a row's last step to its first; h keeps the order of x.
    training: False keeps nothing for backward, cache is None. return_sequences: False returns h = None.
    memory: judged, and otherwise without meaning here: the definition keeps everything.
    out: an array for h, or a dict with any of h, h_T, c_T; where it overlaps an input, as if the input had been copied.
    h: (N, T, H). h_T, c_T: (N, H). The cache refers to x and the weights, it does not copy them.
    """
    call = _arguments.forward(
        "lstm", x, h0, c0, Wx, Wh, b, bh, step=False, gates=GATES, has_c=True, gate_order=gate_order, delays=delays,
        period=period, start=start, lengths=lengths, reverse=reverse, training=training, memory=memory,
        return_sequences=return_sequences, out=out, dtypes=_arguments.REFERENCE, peephole=peephole, Wr=Wr,
        recurrent_mask=recurrent_mask, zoneout_h=zoneout_h, zoneout_c=zoneout_c,
    )  # fmt: skip
    h, (h_T, c_T), cache = sequence.forward(call, _cell(candidate, coupled, cell_clip, preact_clip, grad_clip))
    return LSTMForward(
        sequence.placed(call, "h", h),
        sequence.placed(call, "h_T", h_T),
        sequence.placed(call, "c_T", c_T),
        cache,
    )


def lstm_backward(dh, cache, dh_T=None, dc_T=None, *, need=None, out=None):
    """The gradients of lstm_forward: (dx, dh0, dc0, dWx, dWh), then db, dbh, dpeephole, dWr of those that were given.

    dh: (N, T, H), dh_T, dc_T: (N, H), each may be None = zeros. dh past a row's length is ignored.
    need: names of the gradients wanted, the others are None; "dh_total", "dc_total" add fields (N, T, H), the gradients of
    the states after each step. out: an array for dx, or a dict by name.
    """
    call = _arguments.cache(cache, sequence.Cache, "lstm", False)
    judged = _arguments.backward(call, dh, dh_T, dc_T, need=need, out=out)
    return sequence.gradients_type("LSTMGradients", judged.names)(*sequence.backward(cache, judged))


def lstm_ragged_forward(
    x, h0, c0, Wx, Wh, b=None, *, bh=None, peephole=None, Wr=None, offsets=None, batch_sizes=None, gate_order="ifgo",
    candidate="tanh", coupled=False, cell_clip=None, preact_clip=None, grad_clip=None, recurrent_mask=None,
    zoneout_h=None, zoneout_c=None, delays=None, period=None, start=0, reverse=False, training=True, memory=None,
    return_sequences=True, out=None,
):  # fmt: skip
    """Run the cell over sequences of different lengths on flat rows, without padding; returns (h, h_T, c_T, cache).

    x: (ΣT, D). h0, c0: (N, H), (H,) or None = zeros. Weights and all other options as in lstm_forward. Exactly one of
    offsets: (N + 1,) from 0 to ΣT; time t of sequence n is row offsets[n] + t of x.
    batch_sizes: (T,) > 0, never growing, their sum ΣT; time t of sequence n is row sum(batch_sizes[:t]) + n of x.
    h: (ΣT, H). h_T, c_T: (N, H), the states at each sequence's own end.
    """
    call = _arguments.forward(
        "lstm", x, h0, c0, Wx, Wh, b, bh, step=False, gates=GATES, has_c=True, gate_order=gate_order, delays=delays,
        period=period, start=start, ragged=True, offsets=offsets, batch_sizes=batch_sizes, reverse=reverse, training=training,
        memory=memory, return_sequences=return_sequences, out=out, dtypes=_arguments.REFERENCE, peephole=peephole, Wr=Wr,
        recurrent_mask=recurrent_mask, zoneout_h=zoneout_h, zoneout_c=zoneout_c,
    )  # fmt: skip
    h, (h_T, c_T), cache = sequence.forward(call, _cell(candidate, coupled, cell_clip, preact_clip, grad_clip))
    return LSTMForward(
        sequence.placed(call, "h", h),
        sequence.placed(call, "h_T", h_T),
        sequence.placed(call, "c_T", c_T),
        cache,
    )


def lstm_ragged_backward(dh, cache, dh_T=None, dc_T=None, *, need=None, out=None):
    """The gradients of lstm_ragged_forward: (dx, dh0, dc0, dWx, dWh), then db, dbh, dpeephole, dWr of those that were given.

    dh: (ΣT, H), dh_T, dc_T: (N, H), each may be None = zeros. need, out: as in lstm_backward.
    """
    call = _arguments.cache(cache, sequence.Cache, "lstm", False, ragged=True)
    judged = _arguments.backward(call, dh, dh_T, dc_T, need=need, out=out)
    return sequence.gradients_type("LSTMGradients", judged.names)(*sequence.backward(cache, judged))


def lstm_step_forward(
    x, h_prev, c_prev, Wx, Wh, b=None, *, bh=None, peephole=None, Wr=None, gate_order="ifgo", candidate="tanh", coupled=False,
    cell_clip=None, preact_clip=None, grad_clip=None, recurrent_mask=None, zoneout_h=None, zoneout_c=None, delays=None,
    period=None, start=0, training=True, out=None,
):  # fmt: skip
    """One step; returns (h_next, c_next, cache).

    x: (N, D). h_prev, c_prev: (N, H), (H,) or None = zeros. Wx: (D, 4H). Wh: (H, 4H). b, bh: (4H,) or None.
    delays, period, start: as in lstm_forward; start is the number of this step.
    out: an array for h_next, or a dict with any of h_next, c_next.
    """
    call = _arguments.forward(
        "lstm", x, h_prev, c_prev, Wx, Wh, b, bh, step=True, gates=GATES, has_c=True, gate_order=gate_order, delays=delays,
        period=period, start=start, training=training, out=out, dtypes=_arguments.REFERENCE, peephole=peephole, Wr=Wr,
        recurrent_mask=recurrent_mask, zoneout_h=zoneout_h, zoneout_c=zoneout_c,
    )  # fmt: skip
    (h_next, c_next), cache = sequence.step_forward(call, _cell(candidate, coupled, cell_clip, preact_clip, grad_clip))
    return LSTMStep(sequence.placed(call, "h_next", h_next), sequence.placed(call, "c_next", c_next), cache)


def lstm_step_backward(dh_next, dc_next, cache, *, need=None, out=None):
    """The gradients of lstm_step_forward: (dx, dh_prev, dc_prev, dWx, dWh), then db, dbh, dpeephole, dWr of those given.

    dh_next, dc_next: (N, H), each may be None = zeros. need, out: as in lstm_backward.
    """
    call = _arguments.cache(cache, sequence.Cache, "lstm", True)
    judged = _arguments.backward(call, dh_next, None, dc_next, need=need, out=out)
    return sequence.gradients_type("LSTMStepGradients", judged.names)(*sequence.step_backward(cache, judged))
