"""Truncated backpropagation through time: BPTT(k2; k1)."""

import numpy as np
import pytest
from support import digest, values

import fastgate
from fastgate.layers import truncated_bptt

KINDS = [fastgate.RNN, fastgate.LSTM, fastgate.GRU]
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
WINDOWS = [(1, 1), (4, 4), (4, 6), (3, 7), (4, 8), (2, 11), (5, 13), (5, 100), (13, 13), (20, 20), (1, 13)]
windows = pytest.mark.parametrize(("k1", "k2"), WINDOWS)


def make(kind, dtype=np.float64, num_layers=2, H=5, **options):
    layer = kind(3, H, num_layers=num_layers, dtype=dtype, rng=0, **options)
    layer.parameters[...] = values(np.random.default_rng(1), layer.parameters.shape, dtype, 0.6)
    return layer


def arguments(layer, N=4, T=13, seed=2):
    rng = np.random.default_rng(seed)
    shape = (layer.num_layers, N, layer.hidden_size)
    x = values(rng, (N, T, 3), layer.dtype)
    return (
        x,
        [values(rng, shape, layer.dtype, 0.7) for _ in layer._State._fields],
        values(rng, (N, T, layer.hidden_size), layer.dtype),
    )


@kinds
@windows
@pytest.mark.parametrize("lengths", [None, [13, 0, 7, 4]], ids=["whole", "ragged"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_chunks_are_the_whole_bit_for_bit(kind, k1, k2, lengths, dtype):
    layer = make(kind, dtype, H=9)
    x, states, _ = arguments(layer)
    whole = layer.forward(x, *states, lengths=lengths, training=False)
    before, begin = digest(x, states, layer.parameters), 0
    for chunk in truncated_bptt(layer, x, k1, k2, *states, lengths=lengths):
        end = min(begin + k1, 13)
        assert (chunk.steps, chunk.window) == (slice(begin, end), slice(max(0, end - k2), end))
        np.testing.assert_array_equal(chunk.h, whole.h[:, begin:end])
        begin = end
    assert begin == 13
    for a, b in zip(chunk.state, whole[1:-1], strict=True):
        np.testing.assert_array_equal(a, b)
    assert digest(x, states, layer.parameters) == before


@kinds
@windows
@pytest.mark.parametrize("lengths", [None, [13, 0, 7, 4]], ids=["whole", "ragged"])
def test_gradients_are_those_of_the_window(kind, k1, k2, lengths):
    """Of one forward over the window alone, from the state that full forward has there."""
    layer = make(kind)
    x, states, dh = arguments(layer)
    for chunk in truncated_bptt(layer, x, k1, k2, *states, lengths=lengths):
        start, end = chunk.window.start, chunk.window.stop
        own = None if lengths is None else np.clip(lengths, 0, start)
        at = layer.forward(x[:, :start], *states, lengths=own, training=False)[1:-1]
        own = None if lengths is None else np.clip(np.array(lengths) - start, 0, end - start)
        found = layer.forward(x[:, start:end], *at, lengths=own)
        new = dh[:, start:end].copy()
        new[:, : chunk.steps.start - start] = 0
        last = [values(np.random.default_rng(k), a.shape) for k, a in enumerate(chunk.state)]
        expected = layer.backward(new, found.cache, *last)
        weights = layer.gradients.copy()
        layer.gradients[...] = np.nan
        gradients = chunk.backward(dh[:, chunk.steps], *last)
        np.testing.assert_allclose(layer.gradients, weights, rtol=1e-11, atol=1e-13)
        for name in gradients._fields:
            np.testing.assert_allclose(getattr(gradients, name), getattr(expected, name), rtol=1e-11, atol=1e-13, err_msg=name)
        bare = chunk.backward(None, *last, need_dx=False)
        assert bare.dx is None
        expected = layer.backward(None, found.cache, *last, need_dx=False)
        np.testing.assert_allclose(bare.dh0, expected.dh0, rtol=1e-11, atol=1e-13)


@kinds
@pytest.mark.parametrize("k1", [1, 4, 5, 13])
def test_through_all_steps_it_is_full_bptt(kind, k1):
    layer = make(kind)
    x, states, dh = arguments(layer)
    layer.backward(dh, layer.forward(x, *states).cache)
    full = layer.gradients.copy()
    layer.gradients[...] = 0
    for chunk in truncated_bptt(layer, x, k1, 13, *states):
        chunk.backward(dh[:, chunk.steps], accumulate=True)
    np.testing.assert_allclose(layer.gradients, full, rtol=1e-11, atol=1e-12)
    # And through fewer it is not: these weights remember.
    layer.gradients[...] = 0
    for chunk in truncated_bptt(layer, x, 1, 2, *states):
        chunk.backward(dh[:, chunk.steps], accumulate=True)
    assert np.abs(layer.gradients - full).max() > 1e-3


@kinds
def test_weights_may_change_between_chunks(kind):
    """A window runs with the present weights from the state in which its first step was left."""
    layer = make(kind)
    x, states, dh = arguments(layer)
    kept = {0: tuple(states)}
    for chunk in truncated_bptt(layer, x, 3, 5, *states):
        start, end = chunk.window.start, chunk.window.stop
        found = layer.forward(x[:, start:end], *kept[start])
        np.testing.assert_array_equal(chunk.h, found.h[:, chunk.steps.start - start :])
        later = max(0, min(end + 3, 13) - 5)
        kept[later] = layer.forward(x[:, start:later], *kept[start], training=False)[1:-1]
        chunk.backward(dh[:, chunk.steps])
        layer.parameters -= 0.05 * layer.gradients


@kinds
def test_a_sequence_goes_on_in_the_next_part(kind):
    layer = make(kind)
    x, states, _ = arguments(layer, T=24)
    for part in np.split(x, 2, axis=1):
        for chunk in truncated_bptt(layer, part, 5, 9, *states):
            last = chunk.h
        states = chunk.state
    np.testing.assert_array_equal(last, layer.forward(x, *arguments(layer, T=24)[1], training=False).h[:, -last.shape[1] :])


def test_masks_come_of_the_generator():
    layer = make(fastgate.GRU, dropout=0.5)
    x, states, _ = arguments(layer)
    one, two, three = ([chunk.h for chunk in truncated_bptt(layer, x, 4, None, *states, rng=seed)] for seed in (1, 1, 2))
    assert digest(*one) == digest(*two) != digest(*three)


def test_empty_sizes():
    layer = make(fastgate.LSTM)
    assert list(truncated_bptt(layer, np.empty((2, 0, 3)), 4)) == []
    (chunk,) = truncated_bptt(layer, np.empty((0, 3, 3)), 4)
    layer.gradients[...] = 1
    assert chunk.backward(np.empty((0, 3, 5))).dx.shape == (0, 3, 3)
    assert (layer.gradients == 0).all()


def test_what_does_not_fit_is_named():
    layer, both, plain = make(fastgate.LSTM), fastgate.GRU(3, 5, bidirectional=True), make(fastgate.GRU)
    x, states, dh = arguments(layer)
    (chunk,) = truncated_bptt(plain, x, 13)
    for kind, words, call in (
        (TypeError, "layer: expected a layer as fastgate.LSTM is, got None", lambda: truncated_bptt(None, x, 3)),
        (ValueError, "layer: expected a layer of one direction", lambda: truncated_bptt(both, x, 3)),
        (ValueError, "k1: expected an integer >= 1, got 0", lambda: truncated_bptt(layer, x, 0)),
        (TypeError, "k1: expected an integer >= 1, got float", lambda: truncated_bptt(layer, x, 3.0)),
        (ValueError, "k2: expected an integer >= k1 = 4, or None, got 3", lambda: truncated_bptt(layer, x, 4, 3)),
        (ValueError, r"x: expected \(N, T, D\)", lambda: truncated_bptt(layer, x[0], 4)),
        (TypeError, "x: expected float64", lambda: truncated_bptt(layer, x.astype(np.float32), 4)),
        (ValueError, "h0: expected", lambda: truncated_bptt(layer, x, 4, None, states[0][0])),
        (ValueError, "c0: expected None, GRU has no c", lambda: truncated_bptt(plain, x, 4, None, None, states[0])),
        (ValueError, r"lengths: expected 0\.\.T", lambda: truncated_bptt(layer, x, 4, lengths=[14, 0, 0, 0])),
        (TypeError, "rng: expected", lambda: truncated_bptt(layer, x, 4, rng="x")),
        (ValueError, r"dh: expected \(N, k1, output_size\) = \(4, 13, 5\)", lambda: chunk.backward(dh[:, 1:])),
        (TypeError, "dh: expected float64", lambda: chunk.backward(dh.astype(np.float32))),
        (ValueError, "dc_T: expected None, GRU has no c", lambda: chunk.backward(dh, None, states[0])),
        (ValueError, "dh_T: expected", lambda: chunk.backward(dh, states[0][:1])),
        (TypeError, "accumulate: expected True or False", lambda: chunk.backward(dh, accumulate=1)),
    ):
        with pytest.raises(kind, match=f"^{words}"):
            call()
