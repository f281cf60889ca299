"""The gated recurrent unit.

r, z = σ(x Wxr + h_prev Whr + b_r + bh_r), σ(x Wxz + h_prev Whz + b_z + bh_z)
n = tanh(x Wxn + b_n + r⊙(h_prev Whn + bh_n))      reset="after"  (PyTorch, Keras, cuDNN)
n = tanh(x Wxn + b_n + (r⊙h_prev) Whn + bh_n)      reset="before" (the textbook formula)
n = σ(…) in both                                    candidate="sigmoid"
h = (1−z)⊙n + z⊙h_prev                              update="old": z keeps h_prev
h = z⊙n + (1−z)⊙h_prev                              update="new": z lets n in (Chung et al. 2014)

Both are h = (1−k)⊙n + k⊙h_prev, where k is what z keeps: k = z, or k = 1−z = σ(−a_z).
Backward, grad_clip v keeps the gradients of a_r, a_z and a_n, what n is the tanh of, between ±v.

Row vectors: x (N, D), Wx (D, 3H), Wh (H, 3H). Gate order "rzn" unless `gate_order` says otherwise.
"""

from typing import NamedTuple

import numpy as np

from fastgate import _arguments
from fastgate.reference import sequence
from fastgate.reference.sequence import clipped, sigmoid

GATES = "rzn"
OPTIONS: dict[str, tuple[str, ...]] = {"reset": ("after", "before"), "update": ("old", "new"), "candidate": ("tanh", "sigmoid")}
SIGN = {"old": 1, "new": -1}


class Options(NamedTuple):
    update: str
    candidate: str
    grad_clip: float | None


class GRUForward(NamedTuple):
    h: np.ndarray | None
    h_T: np.ndarray
    cache: sequence.Cache | None


class GRUStep(NamedTuple):
    h_next: np.ndarray
    cache: sequence.Cache | None


def _phi(a_n, option):
    return sigmoid(a_n) if option.candidate == "sigmoid" else np.tanh(a_n)


def _slope(n, option):
    return n * (1 - n) if option.candidate == "sigmoid" else 1 - n**2


def _forward_after(x, states, W, option):
    (h_prev,) = states
    ax = x @ W.Wx + W.b  # 1
    ah = W.left @ W.Wh + W.bh  # 2
    (ax_r, ax_z, ax_n), (ah_r, ah_z, ah_n) = np.split(ax, 3, axis=1), np.split(ah, 3, axis=1)
    r, k = sigmoid(ax_r + ah_r), sigmoid(SIGN[option.update] * (ax_z + ah_z))  # 3
    n = _phi(ax_n + r * ah_n, option)  # 4
    h = (1 - k) * n + k * h_prev  # 5
    return (h,), (r, k, n, ah_n)


def _backward_after(dstates, states_prev, kept, x, W, option):
    (dh,), (h_prev,), (r, k, n, ah_n) = dstates, states_prev, kept
    dn, dk = dh * (1 - k), dh * (h_prev - n)  # 5
    dax_n = clipped(dn * _slope(n, option), option.grad_clip)  # 4
    dr, dah_n = dax_n * ah_n, dax_n * r  # 4
    da_r, da_z = dr * r * (1 - r), SIGN[option.update] * dk * k * (1 - k)  # 3
    da_r, da_z = clipped(da_r, option.grad_clip), clipped(da_z, option.grad_clip)
    dax, dah = np.hstack([da_r, da_z, dax_n]), np.hstack([da_r, da_z, dah_n])
    dh_prev, dleft = dh * k, dah @ W.Wh.T  # 5, 2
    dWh, dbh = W.left.T @ dah, dah.sum(axis=0)  # 2
    dx, dWx, db = dax @ W.Wx.T, x.T @ dax, dax.sum(axis=0)  # 1
    return dx, (dh_prev,), dleft, dWx, dWh, db, dbh


def _parts(W):
    """How many states stand side by side in W.left."""
    return max(3 * W.left.shape[1] // max(W.Wh.shape[1], 1), 1)


def _forward_before(x, states, W, option):
    (h_prev,) = states
    Whr, Whz, Whn = np.split(W.Wh, 3, axis=1)
    ax = x @ W.Wx + W.b + W.bh  # 1
    ax_r, ax_z, ax_n = np.split(ax, 3, axis=1)
    r, k = sigmoid(ax_r + W.left @ Whr), sigmoid(SIGN[option.update] * (ax_z + W.left @ Whz))  # 2
    q = np.hstack([r * h for h in np.split(W.left, _parts(W), axis=1)])  # 3
    n = _phi(ax_n + q @ Whn, option)  # 4
    h = (1 - k) * n + k * h_prev  # 5
    return (h,), (r, k, n, q)


def _backward_before(dstates, states_prev, kept, x, W, option):
    (dh,), (h_prev,), (r, k, n, q) = dstates, states_prev, kept
    Whr, Whz, Whn = np.split(W.Wh, 3, axis=1)
    parts = _parts(W)
    dn, dk = dh * (1 - k), dh * (h_prev - n)  # 5
    da_n = clipped(dn * _slope(n, option), option.grad_clip)  # 4
    dq, dWhn = da_n @ Whn.T, q.T @ da_n  # 4
    dr = sum(np.split(dq * W.left, parts, axis=1))  # 3
    da_r, da_z = dr * r * (1 - r), SIGN[option.update] * dk * k * (1 - k)  # 2
    da_r, da_z = clipped(da_r, option.grad_clip), clipped(da_z, option.grad_clip)
    dleft = np.hstack([d * r for d in np.split(dq, parts, axis=1)]) + da_r @ Whr.T + da_z @ Whz.T  # 3, 2
    dh_prev = dh * k  # 5
    dWh = np.hstack([W.left.T @ da_r, W.left.T @ da_z, dWhn])  # 2, 4
    da = np.hstack([da_r, da_z, da_n])
    dx, dWx = da @ W.Wx.T, x.T @ da  # 1
    db = dbh = da.sum(axis=0)  # 1
    return dx, (dh_prev,), dleft, dWx, dWh, db, dbh


STEPS = {"after": (_forward_after, _backward_after), "before": (_forward_before, _backward_before)}


def judged_options(reset, update, candidate):
    given = {"reset": reset, "update": update, "candidate": candidate}
    return tuple(_arguments.option(name, value, OPTIONS[name]) for name, value in given.items())


def _cell(reset, update, candidate, grad_clip):
    reset, update, candidate = judged_options(reset, update, candidate)
    return sequence.Cell(*STEPS[reset], Options(update, candidate, _arguments.bound("grad_clip", grad_clip)))


def gru_forward(
    x, h0, Wx, Wh, b=None, *, bh=None, gate_order="rzn", reset="after", update="old", candidate="tanh", grad_clip=None,
    recurrent_mask=None, zoneout_h=None, delays=None, period=None, start=0, lengths=None, reverse=False, training=True,
    memory=None, return_sequences=True, out=None,
):  # fmt: skip
    """Run the cell over a sequence; returns (h, h_T, cache).

    Axes (N, T, D), batch first; gate order "rzn"; weights multiply from the right.

    x: (N, T, D). h0: (N, H), (H,) or None = zeros. Wx: (D, 3H). Wh: (H, 3H). b, bh: (3H,) or None.
    gate_order: a permutation of "rzn"; weights come and gradients return in it.
    reset: "after" the recurrent product of the candidate, or "before" it.
    update: "old", z multiplies h_prev, or "new", z multiplies n. candidate: "tanh" or "sigmoid".
    grad_clip: number > 0 or None, the bound of each step's da in backward.
    recurrent_mask: to (N, H), what h_prev is multiplied by where it meets Wh. zoneout_h: to (N, T, H), how much of its
    state a unit keeps: m⊙prev + (1−m)⊙new. Numbers, bools or floats that broadcast; constants of the gradients.
    delays: integers >= 1 that rise, (K,), or None. h_(t-d) Wh[k], summed over d = delays[k], stands where h_prev Wh did. Wh:
    (K, H, 3H); h0, h_T: (N, d, H), the states of the last d = delays[-1] steps, oldest first, and h0 (d, H) for all rows.
    period: an integer >= 1, integers (H,) or None. Unit j changes its state only at steps t with (start + t) % period[j] == 0,
    t counted as they run, and holds it in between. start: the number of the first step.
    lengths: (N,) integers 0..T; outputs past a row's length are 0, h_T is the state at the row's own end.
    reverse: run from a row's last step to its first; h keeps the order of x.
    training: False keeps nothing for backward, cache is None. return_sequences: False returns h = None.
    memory: judged, and otherwise without meaning here: the definition keeps everything.
    out: an array for h, or a dict with any of h, h_T; where it overlaps an input, as if the input had been copied.
    h: (N, T, H). h_T: (N, H). The cache refers to x and the weights, it does not copy them.
    """
    call = _arguments.forward(
        "gru", x, h0, None, Wx, Wh, b, bh, step=False, gates=GATES, gate_order=gate_order, delays=delays, period=period,
        start=start, lengths=lengths, reverse=reverse, training=training, memory=memory, return_sequences=return_sequences,
        out=out, dtypes=_arguments.REFERENCE, recurrent_mask=recurrent_mask, zoneout_h=zoneout_h,
    )  # fmt: skip
    cell = _cell(reset, update, candidate, grad_clip)
    h, (h_T,), cache = sequence.forward(call, cell)
    return GRUForward(sequence.placed(call, "h", h), sequence.placed(call, "h_T", h_T), cache)


def gru_backward(dh, cache, dh_T=None, *, need=None, out=None):
    """The gradients of gru_forward: (dx, dh0, dWx, dWh), then db and dbh of the biases that were given.

    dh: (N, T, H), dh_T: (N, H), each may be None = zeros. dh past a row's length is ignored.
    need: names of the gradients wanted, the others are None; "dh_total" adds a field (N, T, H), the gradient of the state
    after each step. out: an array for dx, or a dict by name.
    """
    call = _arguments.cache(cache, sequence.Cache, "gru", False)
    judged = _arguments.backward(call, dh, dh_T, need=need, out=out)
    return sequence.gradients_type("GRUGradients", judged.names)(*sequence.backward(cache, judged))


def gru_ragged_forward(
    x, h0, Wx, Wh, b=None, *, bh=None, offsets=None, batch_sizes=None, gate_order="rzn", reset="after", update="old",
    candidate="tanh", grad_clip=None, recurrent_mask=None, zoneout_h=None, delays=None, period=None, start=0, reverse=False,
    training=True, memory=None, return_sequences=True, out=None,
):  # fmt: skip
    """Run the cell over sequences of different lengths on flat rows, without padding; returns (h, h_T, cache).

    x: (ΣT, D). h0: (N, H), (H,) or None = zeros. Weights and all other options as in gru_forward. Exactly one of
    offsets: (N + 1,) from 0 to ΣT; time t of sequence n is row offsets[n] + t of x.
    batch_sizes: (T,) > 0, never growing, their sum ΣT; time t of sequence n is row sum(batch_sizes[:t]) + n of x.
    h: (ΣT, H). h_T: (N, H), the states at each sequence's own end.
    """
    call = _arguments.forward(
        "gru", x, h0, None, Wx, Wh, b, bh, step=False, gates=GATES, gate_order=gate_order, delays=delays, period=period,
        start=start, ragged=True, offsets=offsets, batch_sizes=batch_sizes, reverse=reverse, training=training, memory=memory,
        return_sequences=return_sequences, out=out, dtypes=_arguments.REFERENCE, recurrent_mask=recurrent_mask,
        zoneout_h=zoneout_h,
    )  # fmt: skip
    cell = _cell(reset, update, candidate, grad_clip)
    h, (h_T,), cache = sequence.forward(call, cell)
    return GRUForward(sequence.placed(call, "h", h), sequence.placed(call, "h_T", h_T), cache)


def gru_ragged_backward(dh, cache, dh_T=None, *, need=None, out=None):
    """The gradients of gru_ragged_forward: (dx, dh0, dWx, dWh), then db and dbh of the biases that were given.

    dh: (ΣT, H), dh_T: (N, H), each may be None = zeros. need, out: as in gru_backward.
    """
    call = _arguments.cache(cache, sequence.Cache, "gru", False, ragged=True)
    judged = _arguments.backward(call, dh, dh_T, need=need, out=out)
    return sequence.gradients_type("GRUGradients", judged.names)(*sequence.backward(cache, judged))


def gru_step_forward(
    x, h_prev, Wx, Wh, b=None, *, bh=None, gate_order="rzn", reset="after", update="old", candidate="tanh", grad_clip=None,
    recurrent_mask=None, zoneout_h=None, delays=None, period=None, start=0, training=True, out=None,
):  # fmt: skip
    """One step; returns (h_next, cache).

    x: (N, D). h_prev: (N, H), (H,) or None = zeros. Wx: (D, 3H). Wh: (H, 3H). b, bh: (3H,) or None.
    delays, period, start: as in gru_forward; start is the number of this step.
    out: an array for h_next, or a dict {"h_next": array}.
    """
    call = _arguments.forward(
        "gru", x, h_prev, None, Wx, Wh, b, bh, step=True, gates=GATES, gate_order=gate_order, delays=delays, period=period,
        start=start, training=training, out=out, dtypes=_arguments.REFERENCE, recurrent_mask=recurrent_mask,
        zoneout_h=zoneout_h,
    )  # fmt: skip
    cell = _cell(reset, update, candidate, grad_clip)
    (h_next,), cache = sequence.step_forward(call, cell)
    return GRUStep(sequence.placed(call, "h_next", h_next), cache)


def gru_step_backward(dh_next, cache, *, need=None, out=None):
    """The gradients of gru_step_forward: (dx, dh_prev, dWx, dWh), then db and dbh of the biases that were given.

    dh_next: (N, H) or None = zeros. need, out: as in gru_backward.
    """
    call = _arguments.cache(cache, sequence.Cache, "gru", True)
    judged = _arguments.backward(call, dh_next, need=need, out=out)
    return sequence.gradients_type("GRUStepGradients", judged.names)(*sequence.step_backward(cache, judged))
