"""Gated recurrent unit."""

from fastgate import _arguments, _call, _cell
from fastgate.reference.gru import GATES, OPTIONS, GRUForward, GRUStep, judged_options

_KERNELS = {  # the name in csrc/cells.def, its options there, enum fg_gru
    (reset, update, candidate): (f"gru_{reset}", _call.Option(new + 2 * sigmoid))
    for reset in OPTIONS["reset"]
    for new, update in enumerate(OPTIONS["update"])
    for sigmoid, candidate in enumerate(OPTIONS["candidate"])
}


def _kernel(reset, update, candidate, grad_clip):
    try:
        found = _KERNELS.get((reset, update, candidate))
    except TypeError:  # no words
        found = None
    if found is None:
        found = _KERNELS[judged_options(reset, update, candidate)]
    return found if grad_clip is None else (found[0], _call.clipping(found[1], grad_clip))


def gru_forward(
    x, h0, Wx, Wh, b=None, *, bh=None, gate_order="rzn", reset="after", update="old", candidate="tanh", grad_clip=None,
    recurrent_mask=None, zoneout_h=None, delays=None, period=None, start=0, lengths=None, reverse=False, training=True,
    memory=None, return_sequences=True, out=None,
):  # fmt: skip
    """Run the cell over sequences; returns (h, h_T, cache).

    Axes batch first: x (N, T, D), h (N, T, H). Gate order "rzn"; z keeps h_prev unless update="new". Weights multiply
    from the right: x @ Wx, with Wx (D, 3H); whoever holds (3H, D), as PyTorch and ONNX do, passes W.T. Weights come in
    any memory order: a sequence packs them anyway, a single step of a few rows runs fastest on C order.

        r, z = sigmoid(a_r), sigmoid(a_z)                   a = x_t Wx + h_{t-1} Wh + b + bh, blocks a_r a_z
        n = tanh(x_t Wxn + b_n + r * (h_{t-1} Whn + bh_n))  reset="after" (PyTorch, Keras, cuDNN; ONNX
        linear_before_reset=1)
        n = tanh(x_t Wxn + b_n + (r * h_{t-1}) Whn + bh_n)  reset="before" (Cho et al. 2014; the textbook formula)
        n = sigmoid(…) in both                              candidate="sigmoid"
        h_t = (1 - z) * n + z * h_{t-1}                     update="old": z keeps h_prev (PyTorch, Keras, ONNX)
        h_t = z * n + (1 - z) * h_{t-1}                     update="new": z lets n in (Chung et al. 2014)

    Parameters
    ----------
    x : (N, T, D) float32 or float64. All arrays of a call have its dtype.
        Any strides; no copy where the last axis is contiguous (a time-major array comes as x.swapaxes(0, 1)).
    h0 : (N, H), or (H,) for all rows, or None = zeros
    Wx : (D, 3H)
    Wh : (H, 3H)
    b : (3H,) or None, input bias
    bh : (3H,) or None, recurrent bias; with reset="after" its part bh_n lies inside r * (…)
    gate_order : a permutation of "rzn"
        The order of the 3 blocks of H columns in Wx, Wh, b, bh, and in their gradients.
    reset : "after" or "before"
        Where the reset gate meets the candidate's recurrent product; see the equations.
    update : "old" or "new"
        What the update gate z multiplies, h_{t-1} or n; see the equations. Negating z's weights and biases turns one into
        the other.
    candidate : "tanh" or "sigmoid"
        What makes n of its input; see the equations.
    grad_clip : number > 0, or None
        In backward, the gradients of a_r, a_z and of the input of n, of each step, are clipped to ±grad_clip before anything
        is made of them: the weights' gradients, dx, the reset gate's gradient of that of n, and what passes to the step
        before (Graves 2013, arXiv:1308.0850, 2.1). NaN stays.
    recurrent_mask : broadcasts to (N, H), or None = ones
        Recurrent dropout: a factor of h_{t-1} where it meets Wh, not where z mixes it with n (Keras has it there, too). One
        mask for all steps of a sequence (Gal and Ghahramani 2016); draw_dropout_mask draws one.
    zoneout_h : broadcasts to (N, T, H), or None = zeros
        Zoneout: how much of its state a unit keeps at a step. The next h is m * h_{t-1} + (1 - m) * h_t, with h_t of the
        equations and m at the time of x (Krueger et al. 2017).
        draw_zoneout_mask draws one; after training stands the mean, zoneout_h=p.
        Each mask is a number, bools, or floats of the dtype of x, any values. An axis of size 1 or of stride 0 takes no
        memory, bools are copied as floats. Masks are constants of the gradients.
    delays : integers >= 1 that rise, (K,), or None
        Skip connections through time: h_{t-1} Wh becomes the sum of h_{t-d} Wh[k] over d = delays[k], so (1, 4) adds a
        connection over 4 steps, (4,) has it instead of that of length 1. Then Wh is (K, H, 3H), and h0, h_T and their
        gradients are (N, d, H) with d = delays[-1], the states of the last d steps, oldest first (an h0 for all rows:
        (d, H)). What z keeps is h of the step before. With reset="before", r multiplies h of each delay. Beside delays,
        memory is None. Lin et al. (1996).
    period : integer >= 1, or integers (H,), or None
        Several time scales: unit j changes its state only at the steps t where (start + t) % period[j] == 0, and holds it
        in between; t counts the steps of a row in the order in which they run. El Hihi and Bengio (1996); Koutnik et al.
        (2014), without the blocks of their Wh. The gradient of a state that is held passes unchanged.
    start : integer >= 0, the number of the first step, so that chunks of a sequence know where they stand
    lengths : (N,) integers 0..T, in any order, or None
        Steps of each row. Outputs past a row's length are 0, h_T is the state at the row's own end, padding (even
        NaN) influences nothing, and the cost grows with the sum of lengths.
    reverse : bool
        Run from a row's own last step to its first. h keeps the order of x; h_T is the state after the row's first
        step.
    training : bool
        False keeps nothing for backward: cache is None, and memory beyond the outputs does not grow with T.
    memory : int or None
        The most bytes that this call and its backward may take besides arguments and results, what is kept between them
        included. Where that does not hold everything, some states are kept, and backward runs forward again between them:
        cache.recomputed says beforehand how much. Gradients are the same bit for bit. Too few bytes are a ValueError
        that says how many are needed. Griewank and Walther (2000).
    return_sequences : bool
        False returns only the final state; h is None.
    out : array for h, or dict with any of "h", "h_T"
        Any strides. Overlap with an input gives the result as if the inputs had been copied first.

    Returns
    -------
    h : (N, T, H), in the memory order of x. h_T : (N, H), the final state.
    cache : what gru_backward needs. It refers to x, weights and masks: write into them after backward, not before.

    Raises
    ------
    ValueError, TypeError
        Naming the argument that does not fit, before anything is computed. Nothing is ever converted in silence.
    MemoryError, OverflowError
        Sizes that no memory holds. Every array is unchanged.

    The result has the same bits whatever the batch a row sits in, its padding, the chunks in which a sequence is fed,
    strides and alignment, and at every instruction-set level with FMA. Cho et al. (2014), arXiv:1406.1078.
    """
    call = _arguments.forward(
        "gru", x, h0, None, Wx, Wh, b, bh, step=False, gates=GATES, gate_order=gate_order, delays=delays, period=period,
        start=start, lengths=lengths, reverse=reverse, training=training, memory=memory, return_sequences=return_sequences,
        out=out, recurrent_mask=recurrent_mask, zoneout_h=zoneout_h,
    )  # fmt: skip
    return GRUForward._make(_call.forward(call, *_kernel(reset, update, candidate, grad_clip)))


def gru_backward(dh, cache, dh_T=None, *, need=None, out=None):
    """The gradients of gru_forward; returns (dx, dh0, dWx, dWh, …).

    dh : (N, T, H) or None = zeros, gradient of the loss with respect to h. Past a row's length it is ignored, even
    NaN.
    cache : from gru_forward, good for any number of calls. One of another function is a ValueError, a gradient of
    another dtype a TypeError.
    dh_T : (N, H) or None = zeros, gradient of the final state
    need : names of the gradients wanted, e.g. ("dWx", "dWh"); the others are not computed and are None. "dh_total" among
        them adds a field at the end: dh_total (N, T, H), in the memory order of x, the gradient of the state after each
        step as dh0 is that of the state before the first, dh and what arrives through time; 0 past a row's length.
    out : array for dx, or dict with any of the gradients by name

    Returns (dx, dh0, dWx, dWh), then db and dbh for the biases that were given to forward. Each has the shape of its
    argument ((H,) for a state given as (H,): summed over the batch), weights' gradients the gate order and memory
    order of their weight. dx past a row's length is 0. Backpropagation through time over the whole sequence (Werbos
    1990). Errors as in gru_forward.
    """
    call = _arguments.cache(cache, _call.Cache, "gru", False)
    return _call.backward(cache, _arguments.backward(call, dh, dh_T, need=need, out=out))


def gru_ragged_forward(
    x, h0, Wx, Wh, b=None, *, bh=None, offsets=None, batch_sizes=None, gate_order="rzn", reset="after", update="old",
    candidate="tanh", grad_clip=None, recurrent_mask=None, zoneout_h=None, delays=None, period=None, start=0, reverse=False,
    training=True, memory=None, return_sequences=True, out=None,
):  # fmt: skip
    """Run the cell over sequences of different lengths on flat rows, without padding; returns (h, h_T, cache).

    The rows of all N sequences stand in one array: x (ΣT, D), h (ΣT, H), ΣT the sum of lengths. Exactly one of two tables
    says which row is whose:

        offsets      (N + 1,) sequence after sequence: x[offsets[n]:offsets[n + 1]] are the steps of sequence n
        batch_sizes  (T,) step after step: batch_sizes[t] sequences have a step t, and row sum(batch_sizes[:t]) + n is
                     step t of sequence n; so they stand longest first, as in PyTorch's PackedSequence

    The results are those of gru_forward on the padded batch with lengths=, bit for bit; equations and conventions as there.

    Parameters
    ----------
    x : (ΣT, D) float32 or float64. All arrays of a call have its dtype. Any strides.
    h0 : (N, H), or (H,) for all sequences, or None = zeros
    Wx : (D, 3H)
    Wh : (H, 3H)
    b, bh : (3H,) or None, input and recurrent bias
    offsets : integers that never fall, from 0 to ΣT. A sequence may have no step: its states stay.
    batch_sizes : integers > 0 that never grow, whose sum is ΣT. N is the first of them, 0 where there is none.
    gate_order : a permutation of "rzn"
    reset : "after" or "before". update : "old" or "new". candidate : "tanh" or "sigmoid". grad_clip : as in gru_forward
    delays, period, start : as in gru_forward
    reverse : run each sequence from its last step to its first; h keeps the order of x.
    recurrent_mask, zoneout_h : as in gru_forward; zoneout on rows as those of x, (ΣT, H)
    training : False keeps nothing for backward, cache is None. return_sequences : False returns h = None.
    memory : the most bytes besides arguments and results, as gru_forward.
    out : array for h, or dict with any of "h", "h_T"

    Returns
    -------
    h : (ΣT, H), row for row as x. h_T : (N, H), the states at each sequence's own end.
    cache : what gru_ragged_backward needs. It refers to x, weights and masks: write into them after backward, not before.

    Raises
    ------
    ValueError, TypeError, MemoryError, OverflowError
        As gru_forward.
    """
    call = _arguments.forward(
        "gru", x, h0, None, Wx, Wh, b, bh, step=False, gates=GATES, gate_order=gate_order, delays=delays, period=period,
        start=start, ragged=True, offsets=offsets, batch_sizes=batch_sizes, reverse=reverse, training=training, memory=memory,
        return_sequences=return_sequences, out=out, recurrent_mask=recurrent_mask, zoneout_h=zoneout_h,
    )  # fmt: skip
    return GRUForward._make(_call.forward(call, *_kernel(reset, update, candidate, grad_clip)))


def gru_ragged_backward(dh, cache, dh_T=None, *, need=None, out=None):
    """The gradients of gru_ragged_forward; returns (dx, dh0, dWx, dWh, …).

    dh : (ΣT, H) or None = zeros, row for row as h. dh_T : (N, H) or None = zeros. cache : from gru_ragged_forward.
    need : names of the gradients wanted, the others are None; "dh_total" adds (ΣT, H), see gru_backward. out : array for dx,
    or dict.

    Returns (dx, dh0, dWx, dWh), then db and dbh for the biases that were given: the bits of gru_backward on the padded
    batch, dx (ΣT, D) row for row as x. Errors as in gru_forward.
    """
    call = _arguments.cache(cache, _call.Cache, "gru", False, ragged=True)
    return _call.backward(cache, _arguments.backward(call, dh, dh_T, need=need, out=out))


def gru_step_forward(
    x, h_prev, Wx, Wh, b=None, *, bh=None, gate_order="rzn", reset="after", update="old", candidate="tanh", grad_clip=None,
    recurrent_mask=None, zoneout_h=None, delays=None, period=None, start=0, training=True, out=None,
):  # fmt: skip
    """One step; returns (h_next, cache).

    x : (N, D). h_prev : (N, H), (H,) for all rows, or None = zeros. Wx : (D, 3H). Wh : (H, 3H). b, bh : (3H,) or
    None.
    gate_order : a permutation of "rzn".
    reset : "after" or "before". update : "old" or "new". candidate : "tanh" or "sigmoid". grad_clip : as in gru_forward.
    recurrent_mask, zoneout_h : broadcast to (N, H); as in gru_forward.
    delays, period, start : as in gru_forward; start is the number of this step. With delays h_prev and h_next are (N, d, H).
    training : False keeps nothing, cache is None. out : array for h_next, or dict with "h_next".

    T steps one by one give the bits of gru_forward over the sequence. Conventions, equations and errors as there. Many
    steps with the same weights: GRUCell.
    """
    call = _arguments.forward(
        "gru", x, h_prev, None, Wx, Wh, b, bh, step=True, gates=GATES, gate_order=gate_order, delays=delays, period=period,
        start=start, training=training, out=out, recurrent_mask=recurrent_mask, zoneout_h=zoneout_h,
    )  # fmt: skip
    return GRUStep._make(_call.forward(call, *_kernel(reset, update, candidate, grad_clip)))


def gru_step_backward(dh_next, cache, *, need=None, out=None):
    """The gradients of gru_step_forward; returns (dx, dh_prev, dWx, dWh, …).

    dh_next : (N, H) or None = zeros. need : names of the gradients wanted, the others are None. out : array for dx,
    or dict.

    Returns (dx, dh_prev, dWx, dWh), then db and dbh for the biases that were given. Errors as in gru_forward.
    """
    call = _arguments.cache(cache, _call.Cache, "gru", True)
    return _call.backward(cache, _arguments.backward(call, dh_next, None, None, need=need, out=out))


class GRUCell(_cell.PreparedCell):
    """The cell with its weights, prepared for many calls.

    Wx : (D, 3H). Wh : (H, 3H). b, bh : (3H,) or None. All float32 or all float64.
    gate_order : a permutation of "rzn". reset : "after" or "before". update : "old" or "new". candidate : "tanh" or "sigmoid".
    grad_clip : as in gru_forward.
    delays, period : as in gru_forward; step and forward take start=.

    The weights are judged, copied and packed here, once. What happens to the arrays afterwards changes nothing (update takes
    others), and no call packs anything, which makes a step of a few rows much cheaper than gru_step_forward. A cell may be
    used from many threads at once, update included. It pickles and copies.

    step(x, h_prev=None, *, out=None, start=0, recurrent_mask=None, zoneout_h=None) -> h_next
        One step, nothing kept for backward. Only the result is allocated; not even this with out=, which may be the state
        that came in: cell.step(x, h, out=h).
    forward(x, h0=None, *, recurrent_mask=None, zoneout_h=None, lengths=None,
            reverse=False, start=0, training=True, memory=None, return_sequences=True, out=None)
        As gru_forward; its cache goes to gru_backward.
    update(Wx, Wh, b=None, *, bh=None)
        Takes other weights of the same sizes and dtype.
    Wx, Wh, b, bh, delays, period, input_size, hidden_size, dtype, nbytes
        Read-only.

    Results have the bits of gru_step_forward and gru_forward; equations, conventions and errors as there.
    """

    _cell, _gates, _Forward = "gru", GATES, GRUForward

    def __init__(
        self, Wx, Wh, b=None, *, bh=None, gate_order="rzn", reset="after", update="old", candidate="tanh", grad_clip=None,
        delays=None, period=None,
    ):  # fmt: skip
        self._prepare(
            Wx, Wh, b, bh, *_kernel(reset, update, candidate, grad_clip), delays=delays, period=period, gate_order=gate_order,
            reset=reset, update=update, candidate=candidate, grad_clip=grad_clip,
        )  # fmt: skip
