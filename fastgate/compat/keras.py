"""Keras 3 on its NumPy backend: install() gives keras.layers.LSTM, GRU and Bidirectional the kernels that this backend lacks.

Keras asks its backend for a whole sequence at once (backend.lstm, gru, bidirectional_lstm, bidirectional_gru) and, where that
raises NotImplementedError, runs the layer's cell step by step. The NumPy backend has none of the four; these are they. Left to
Keras' loop are other activations than tanh and sigmoid, float16 and bfloat16, inputs of another dtype than the weights, a mask
with unroll=True, states and masks that only broadcast; and, by Keras itself, recurrent_dropout and use_cudnn=False. Dropout and
stateful=True are settled before a hook is called. Masks may have holes: the steps that count run as a ragged batch.

Conventions of Keras: axes batch first, x (N, T, D); Wx = kernel (D, G·H), Wh = recurrent_kernel (H, G·H); gate order "ifgo"
(its c is our g) and "zrn" (its h is our n); reset_after=True is reset="after", with bias (2, 3H) = b and bh; z keeps h_prev.
go_backwards=True returns the outputs in the order in which they were computed; a masked step repeats the output before it (the
initial state where there is none), or gives zeros with zero_output_for_mask. Sources: keras/src/layers/rnn/{rnn,lstm,gru,
bidirectional}.py and keras/src/backend/numpy/rnn.py of Keras 3.15.
"""

import functools
from contextvars import ContextVar
from typing import Any

import numpy as np

import fastgate

# Of the layer that is calling: Keras tells its hooks nothing of it.
_zero_output = ContextVar("zero_output_for_mask", default=False)
_replaced: list[tuple[Any, str, Any]] = []  # (owner, name, what was there) while installed


def install() -> None:
    """Put the four hooks into Keras' NumPy backend; layers that exist already use them, too. Twice is once.

    Raises ImportError where Keras is not installed, ValueError where it runs on another backend (KERAS_BACKEND=numpy has to be
    set before Keras is imported).
    """
    if _replaced:
        return
    try:
        from keras.src import backend, layers  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise ImportError('fastgate.compat.keras needs Keras 3: pip install "fastgate[keras]"') from error
    if backend.backend() != "numpy":
        raise ValueError(f"KERAS_BACKEND: expected numpy, got {backend.backend()}; set it before Keras is imported")
    for hook in (lstm, gru, bidirectional_lstm, bidirectional_gru):  # the last two came with later versions
        if hasattr(backend, hook.__name__):
            _replace(backend, hook.__name__, hook)
    for layer in (layers.LSTM, layers.GRU):
        _replace(layer, "inner_loop", _telling(layer.inner_loop))


def uninstall() -> None:
    """Put back what install() replaced."""
    while _replaced:
        setattr(*_replaced.pop())


def _replace(owner, name, new):
    _replaced.append((owner, name, getattr(owner, name)))
    setattr(owner, name, new)


def _telling(inner_loop):
    """The layer's inner_loop, which lets the hook that it calls know the layer's zero_output_for_mask."""

    @functools.wraps(inner_loop)
    def told(self, *args, **kwargs):
        token = _zero_output.set(bool(self.zero_output_for_mask))
        try:
            return inner_loop(self, *args, **kwargs)
        finally:
            _zero_output.reset(token)

    return told


def lstm(inputs, initial_state_h, initial_state_c, mask, *, kernel, recurrent_kernel, bias, **given):
    """backend.lstm: (last output (N, H), outputs (N, T, H), [h_T, c_T]); outputs (N, 1, H) without return_sequences."""
    return _run("lstm", inputs, (initial_state_h, initial_state_c), mask, kernel, recurrent_kernel, bias, None, {}, **given)


def gru(inputs, initial_state, mask, *, kernel, recurrent_kernel, bias, reset_after=True, **given):
    """backend.gru: (last output (N, H), outputs (N, T, H), [h_T]); outputs (N, 1, H) without return_sequences."""
    b, bh = _array(bias) if reset_after and bias is not None else (bias, None)
    options = {"gate_order": "zrn", "reset": "after" if reset_after else "before"}
    return _run("gru", inputs, (initial_state,), mask, kernel, recurrent_kernel, b, bh, options, **given)


def bidirectional_lstm(inputs, *states, mask, **given):
    """backend.bidirectional_lstm: what lstm returns for each direction, the outputs of both in the order of the inputs."""
    return _both(lstm, inputs, states, mask, given)


def bidirectional_gru(inputs, *states, mask, **given):
    """backend.bidirectional_gru: what gru returns for each direction, the outputs of both in the order of the inputs."""
    return _both(gru, inputs, states, mask, given)


def _both(hook, inputs, states, mask, given):
    """`states`: forward's, then backward's. `given`: arguments of one direction as fwd_… and bwd_…, and those of both."""
    half = len(states) // 2
    forward, backward = (
        {name.removeprefix(own): a for name, a in given.items() if not name.startswith(other)}
        for own, other in (("fwd_", "bwd_"), ("bwd_", "fwd_"))
    )
    last, outputs, ends = hook(inputs, *states[half:], mask, **backward, go_backwards=True)
    return hook(inputs, *states[:half], mask, **forward), (last, outputs[:, ::-1], ends)


def _array(value):
    """An array, or a Keras variable in the dtype that it claims: that of its array may still be another."""
    return np.asarray(value.value, value.dtype) if hasattr(value, "value") else np.asarray(value)


def _run(cell, x, states, mask, Wx, Wh, b, bh, options, *, activation, recurrent_activation, go_backwards=False, **given):
    from keras.src import activations, ops

    return_sequences, unroll = given["return_sequences"], given["unroll"]
    x, Wx, Wh = map(_array, (x, Wx, Wh))
    states = [_array(state).astype(Wx.dtype, copy=False) for state in states]
    (N, T), H = x.shape[:2], len(Wh)
    if (
        activation not in (activations.tanh, ops.tanh)
        or recurrent_activation not in (activations.sigmoid, ops.sigmoid)
        or (Wx.dtype not in (np.float32, np.float64) or x.dtype != Wx.dtype or T == 0)
        or any(state.shape != (N, H) for state in states)
        or (mask is not None and (np.shape(mask) != (N, T) or unroll))  # unrolled, a masked first step gives zeros
    ):
        raise NotImplementedError
    options |= {name: _array(bias) for name, bias in (("b", b), ("bh", bh)) if bias is not None}
    options |= {"reverse": go_backwards, "training": False, "return_sequences": return_sequences}
    if mask is None:
        h, *ends, _ = getattr(fastgate, f"{cell}_forward")(x, *states, Wx, Wh, **options)
        return ends[0], ends[0][:, None] if h is None else h[:, ::-1] if go_backwards else h, ends
    mask = np.asarray(mask, bool)
    offsets = np.append(0, np.cumsum(mask.sum(axis=1)))
    rows, *ends, _ = getattr(fastgate, f"{cell}_ragged_forward")(x[mask], *states, Wx, Wh, offsets=offsets, **options)
    zero, counted = _zero_output.get(), mask[:, ::-1] if go_backwards else mask
    last = np.where(counted[:, -1:], ends[0], 0) if zero else ends[0]
    if not return_sequences:
        return last, last[:, None], ends
    h = np.zeros((N, T + 1, H), x.dtype)  # before the first step: the initial state
    h[:, 1:][mask] = rows
    if go_backwards:
        h[:, 1:] = h[:, :0:-1].copy()
    if not zero:
        h[:, 0] = states[0]
        h = np.take_along_axis(h, np.maximum.accumulate(np.where(counted, np.arange(1, T + 1), 0), axis=1)[..., None], axis=1)
    return last, h[:, -T:], ends
