"""A memory cell without gates: a plain recurrent cell whose values are added up, on the way to the LSTM.

a = x Wx + h_prev Wh + b + bh,  y = φ(a)
c = c_prev + y
h = tanh(c), or h = c with output="identity";  backward, grad_clip v keeps da between ±v

Row vectors: x (N, D), Wx (D, H), Wh (H, H). Sequences are (N, T, D).
"""

from typing import NamedTuple

import numpy as np

from fastgate import _arguments
from fastgate.reference import rnn, sequence
from fastgate.reference.rnn import GATES, activated, activation_slope
from fastgate.reference.sequence import clipped

OPTIONS: dict[str, tuple[str, ...]] = {"output": ("identity", "tanh")} | rnn.OPTIONS


class Options(NamedTuple):
    output: str
    activation: str
    grad_clip: float | None


class MemoryForward(NamedTuple):
    h: np.ndarray | None
    h_T: np.ndarray
    c_T: np.ndarray
    cache: sequence.Cache | None


class MemoryStep(NamedTuple):
    h_next: np.ndarray
    c_next: np.ndarray
    cache: sequence.Cache | None


def _forward(x, states, W, option):
    _, c_prev = states
    a = x @ W.Wx + W.left @ W.Wh + W.b + W.bh  # 1
    y = activated(a, option.activation)  # 2
    c = c_prev + y  # 3
    h = activated(c, option.output)  # 4
    return (h, c), (y, h)


def _backward(dstates, states_prev, kept, x, W, option):
    (dh, dc), (y, h) = dstates, kept
    dc = dc + activation_slope(dh, h, option.output)  # 4
    dy = dc_prev = dc  # 3
    da = clipped(activation_slope(dy, y, option.activation), option.grad_clip)  # 2
    dx, dWx = da @ W.Wx.T, x.T @ da  # 1
    dleft, dWh = da @ W.Wh.T, W.left.T @ da  # 1
    db = dbh = da.sum(axis=0)  # 1
    return dx, (0, dc_prev), dleft, dWx, dWh, db, dbh


def judged_options(output, activation, grad_clip):
    words = (_arguments.option(name, word, OPTIONS[name]) for name, word in (("output", output), ("activation", activation)))
    return Options(*words, _arguments.bound("grad_clip", grad_clip))


def _cell(*options):
    return sequence.Cell(_forward, _backward, judged_options(*options))


def memory_forward(
    x, h0, c0, Wx, Wh, b=None, *, bh=None, output="tanh", activation="tanh", grad_clip=None, recurrent_mask=None,
    zoneout_h=None, zoneout_c=None, delays=None, period=None, start=0, lengths=None, reverse=False, training=True, memory=None,
    return_sequences=True, out=None,
):  # fmt: skip
    """Run the cell over a sequence; returns (h, h_T, c_T, cache).

    Axes (N, T, D), batch first; weights multiply from the right.

    x: (N, T, D). h0, c0: (N, H), (H,) or None = zeros. Wx: (D, H). Wh: (H, H). b, bh: (H,) or None.
    output: "tanh", h = tanh(c), or "identity", h = c. activation: φ, one of "tanh", "relu", "sigmoid", "identity". grad_clip:
    number > 0 or None, the bound of each step's da in backward.
    recurrent_mask: to (N, H), what h_prev is multiplied by where it meets Wh. zoneout_h, zoneout_c: to (N, T, H), how much of
    its state a unit keeps: m⊙prev + (1−m)⊙new. Numbers, bools or floats that broadcast; constants of the gradients.
    delays: integers >= 1 that rise, (K,), or None. h_(t-d) Wh[k], summed over d = delays[k], stands where h_prev Wh did. Wh:
    (K, H, H); h0, h_T: (N, d, H), the states of the last d = delays[-1] steps, oldest first, and h0 (d, H) for all rows.
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
        "memory", x, h0, c0, Wx, Wh, b, bh, step=False, gates=GATES, has_c=True, delays=delays, period=period,
        start=start, lengths=lengths,
        reverse=reverse, training=training, memory=memory, return_sequences=return_sequences, out=out,
        dtypes=_arguments.REFERENCE, recurrent_mask=recurrent_mask, zoneout_h=zoneout_h,
        zoneout_c=zoneout_c,
    )  # fmt: skip
    h, (h_T, c_T), cache = sequence.forward(call, _cell(output, activation, grad_clip))
    return MemoryForward(
        sequence.placed(call, "h", h),
        sequence.placed(call, "h_T", h_T),
        sequence.placed(call, "c_T", c_T),
        cache,
    )


def memory_backward(dh, cache, dh_T=None, dc_T=None, *, need=None, out=None):
    """The gradients of memory_forward: (dx, dh0, dc0, dWx, dWh), then db and dbh of the biases that were given.

    dh: (N, T, H), dh_T, dc_T: (N, H), each may be None = zeros. dh past a row's length is ignored.
    need: names of the gradients wanted, the others are None; "dh_total", "dc_total" add fields (N, T, H), the gradients of
    the states after each step. out: an array for dx, or a dict by name.
    """
    call = _arguments.cache(cache, sequence.Cache, "memory", False)
    judged = _arguments.backward(call, dh, dh_T, dc_T, need=need, out=out)
    return sequence.gradients_type("MemoryGradients", judged.names)(*sequence.backward(cache, judged))


def memory_ragged_forward(
    x, h0, c0, Wx, Wh, b=None, *, bh=None, offsets=None, batch_sizes=None, output="tanh", activation="tanh",
    grad_clip=None, recurrent_mask=None, zoneout_h=None, zoneout_c=None, delays=None, period=None, start=0, reverse=False,
    training=True, memory=None, return_sequences=True, out=None,
):  # fmt: skip
    """Run the cell over sequences of different lengths on flat rows, without padding; returns (h, h_T, c_T, cache).

    x: (ΣT, D). h0, c0: (N, H), (H,) or None = zeros. Weights and all other options as in memory_forward. Exactly one of
    offsets: (N + 1,) from 0 to ΣT; time t of sequence n is row offsets[n] + t of x.
    batch_sizes: (T,) > 0, never growing, their sum ΣT; time t of sequence n is row sum(batch_sizes[:t]) + n of x.
    h: (ΣT, H). h_T, c_T: (N, H), the states at each sequence's own end.
    """
    call = _arguments.forward(
        "memory", x, h0, c0, Wx, Wh, b, bh, step=False, gates=GATES, has_c=True, delays=delays, period=period,
        start=start, ragged=True,
        offsets=offsets, batch_sizes=batch_sizes, reverse=reverse, training=training, memory=memory,
        return_sequences=return_sequences, out=out, dtypes=_arguments.REFERENCE,
        recurrent_mask=recurrent_mask, zoneout_h=zoneout_h, zoneout_c=zoneout_c,
    )  # fmt: skip
    h, (h_T, c_T), cache = sequence.forward(call, _cell(output, activation, grad_clip))
    return MemoryForward(
        sequence.placed(call, "h", h),
        sequence.placed(call, "h_T", h_T),
        sequence.placed(call, "c_T", c_T),
        cache,
    )


def memory_ragged_backward(dh, cache, dh_T=None, dc_T=None, *, need=None, out=None):
    """The gradients of memory_ragged_forward: (dx, dh0, dc0, dWx, dWh), then db and dbh of the biases that were given.

    dh: (ΣT, H), dh_T, dc_T: (N, H), each may be None = zeros. need, out: as in memory_backward.
    """
    call = _arguments.cache(cache, sequence.Cache, "memory", False, ragged=True)
    judged = _arguments.backward(call, dh, dh_T, dc_T, need=need, out=out)
    return sequence.gradients_type("MemoryGradients", judged.names)(*sequence.backward(cache, judged))


def memory_step_forward(
    x, h_prev, c_prev, Wx, Wh, b=None, *, bh=None, output="tanh", activation="tanh", grad_clip=None, recurrent_mask=None,
    zoneout_h=None, zoneout_c=None, delays=None, period=None, start=0, training=True, out=None,
):  # fmt: skip
    """One step; returns (h_next, c_next, cache).

    x: (N, D). h_prev, c_prev: (N, H), (H,) or None = zeros. Wx: (D, H). Wh: (H, H). b, bh: (H,) or None.
    delays, period, start: as in memory_forward; start is the number of this step.
    out: an array for h_next, or a dict with any of h_next, c_next.
    """
    call = _arguments.forward(
        "memory", x, h_prev, c_prev, Wx, Wh, b, bh, step=True, gates=GATES, has_c=True, delays=delays, period=period,
        start=start,
        training=training, out=out, dtypes=_arguments.REFERENCE, recurrent_mask=recurrent_mask,
        zoneout_h=zoneout_h, zoneout_c=zoneout_c,
    )  # fmt: skip
    (h_next, c_next), cache = sequence.step_forward(call, _cell(output, activation, grad_clip))
    return MemoryStep(sequence.placed(call, "h_next", h_next), sequence.placed(call, "c_next", c_next), cache)


def memory_step_backward(dh_next, dc_next, cache, *, need=None, out=None):
    """The gradients of memory_step_forward: (dx, dh_prev, dc_prev, dWx, dWh), then db and dbh of those given.

    dh_next, dc_next: (N, H), each may be None = zeros. need, out: as in memory_backward.
    """
    call = _arguments.cache(cache, sequence.Cache, "memory", True)
    judged = _arguments.backward(call, dh_next, None, dc_next, need=need, out=out)
    return sequence.gradients_type("MemoryStepGradients", judged.names)(*sequence.step_backward(cache, judged))
