"""The layers of "Deep Learning from Scratch 2": plain loops, the book's way to train, errors."""

import copy
import inspect
import pickle

import loops
import numpy as np
import pytest
from loops import assert_close, dtypes, sizes
from support import digest, values

from fastgate.compat import dlfs2

LAYERS = {dlfs2.TimeRNN: 1, dlfs2.TimeLSTM: 4, dlfs2.TimeGRU: 3}
layers = pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.__name__)


def params(layer, size, dtype=np.float64, seed=0):
    """Wx, Wh, b."""
    _, _, D, H = size
    rng, columns = np.random.default_rng(seed), LAYERS[layer] * H
    return [values(rng, (D, columns), dtype, D**-0.5), values(rng, (H, columns), dtype, H**-0.5), values(rng, columns, dtype)]


def loop(layer, xs, h, c, weights):
    """(hs, h, c, backward) by a plain loop in the book's conventions; c is None but for the LSTM."""
    if layer is dlfs2.TimeLSTM:
        return loops.lstm(xs, h, c, *weights, "fgio")
    hs, h, backward = loops.rnn(xs, h, *weights) if layer is dlfs2.TimeRNN else loops.gru(xs, h, *weights, "zrn")
    return hs, h, None, backward


def exact(*arrays):
    return [a.astype(np.float64) for a in arrays]


@layers
@sizes
@dtypes
def test_a_stateful_layer_equals_the_loop(layer, size, dtype):
    """Three calls, the state going on; gradients of each call on its own, in the same arrays."""
    N, T, D, H = size
    rng = np.random.default_rng(1)
    weights, kept = params(layer, size, dtype), []
    found = layer(*weights, stateful=True)
    grads = list(found.grads)
    h, c = np.zeros((2, N, H))
    for _ in range(3):
        xs, dhs = values(rng, (N, T, D), dtype), values(rng, (N, T, H), dtype)
        hs, dxs = found.forward(xs), found.backward(dhs)
        expected, h, c, backward = loop(layer, exact(xs)[0], h, c, exact(*weights))
        dx, dh0, *rest = backward(exact(dhs)[0])
        for name, a, z in zip(
            ("hs", "h", "dxs", "dh", "dWx", "dWh", "db"),
            (hs, found.h, dxs, found.dh, *found.grads), (expected, h, dx, dh0, *rest[-3:]), strict=True,
        ):  # fmt: skip
            assert a.dtype == dtype, name
            assert_close(a, z, name)
        if c is not None:
            assert_close(found.c, c, "c")
        kept.append(found.grads[0].copy())
    assert all(a is z for a, z in zip(found.params, weights, strict=True))
    assert all(a is z for a, z in zip(found.grads, grads, strict=True))
    assert not np.array_equal(kept[0], kept[1])


@layers
def test_a_layer_without_state_begins_with_zeros(layer):
    size = 3, 5, 4, 6
    weights, xs = params(layer, size), values(np.random.default_rng(1), (3, 5, 4))
    found = layer(*weights)
    first = found.forward(xs)
    found.set_state(np.ones((3, 6)))  # as in the book: it counts only with stateful=True
    np.testing.assert_array_equal(found.forward(xs), first)
    np.testing.assert_array_equal(found.h, first[:, -1])


@layers
def test_the_state_is_set_and_reset(layer):
    size = N, T, D, H = 3, 5, 4, 6
    rng = np.random.default_rng(1)
    weights, xs, h0, c0 = params(layer, size), values(rng, (N, T, D)), *values(rng, (2, N, H))
    found = layer(*weights, stateful=True)
    zeros = found.forward(xs)

    found.set_state(h0)  # of an LSTM, c begins with zeros then
    expected, *_, backward = loop(layer, xs, h0, np.zeros_like(c0), weights)
    assert_close(found.forward(xs), expected)
    found.backward(np.ones((N, T, H)))
    assert_close(found.dh, backward(np.ones((N, T, H)))[1])
    if layer is dlfs2.TimeLSTM:
        found.set_state(h0, c0)
        assert_close(found.forward(xs), loop(layer, xs, h0, c0, weights)[0])

    found.reset_state()
    assert found.h is None
    assert getattr(found, "c", None) is None
    np.testing.assert_array_equal(found.forward(xs), zeros)


@sizes
@dtypes
@pytest.mark.parametrize("stateful", [False, True])
def test_bilstm_equals_two_loops(size, dtype, stateful):
    N, T, D, H = size
    rng = np.random.default_rng(1)
    one, two = params(dlfs2.TimeLSTM, size, dtype, 1), params(dlfs2.TimeLSTM, size, dtype, 2)
    found = dlfs2.TimeBiLSTM(*one, *two, stateful=stateful)
    states = [np.zeros((2, N, H)), np.zeros((2, N, H))]
    for _ in range(2):
        xs, dhs = values(rng, (N, T, D), dtype), values(rng, (N, T, 2 * H), dtype)
        hs, dxs = found.forward(xs), found.backward(dhs)
        x, dh = exact(xs, dhs)
        h1, *state1, back1 = loops.lstm(x, *states[0], *exact(*one), "fgio")
        h2, *state2, back2 = loops.lstm(x[:, ::-1], *states[1], *exact(*two), "fgio")
        dx1, _, _, *grads1 = back1(dh[:, :, :H])
        dx2, _, _, *grads2 = back2(dh[:, ::-1, H:])
        assert hs.dtype == dxs.dtype == dtype
        assert_close(hs, np.concatenate([h1, h2[:, ::-1]], axis=2))
        assert_close(dxs, dx1 + dx2[:, ::-1])
        for a, z in zip(found.grads, grads1 + grads2, strict=True):
            assert_close(a, z)
        if stateful:
            states = [state1, state2]
    assert all(a is z for a, z in zip(found.params, one + two, strict=True))
    assert found.grads[3] is found.backward_lstm.grads[0]


@dtypes
def test_embedding(dtype):
    rng = np.random.default_rng(0)
    W, xs, dout = values(rng, (7, 4), dtype), rng.integers(7, size=(5, 6)), values(rng, (5, 6, 4), dtype)
    layer = dlfs2.TimeEmbedding(W)
    grad = layer.grads[0]
    np.testing.assert_array_equal(layer.forward(xs), W[xs])
    for _ in range(2):  # overwritten, not added to
        assert layer.backward(dout) is None
        expected = np.zeros(W.shape)
        np.add.at(expected, xs, dout)
        assert_close(grad, expected)
    assert layer.grads[0] is grad
    assert layer.W is layer.params[0] is W


@dtypes
def test_affine(dtype):
    rng = np.random.default_rng(0)
    xs, W, b, dout = (values(rng, shape, dtype) for shape in ((3, 5, 7), (7, 4), (4,), (3, 5, 4)))
    layer = dlfs2.TimeAffine(W, b)
    out, dx = layer.forward(xs), layer.backward(dout)
    x, w, d = exact(xs, W, dout)
    expected = np.einsum("ntm,dm->ntd", d, w), np.einsum("ntd,ntm->dm", x, d), d.sum(axis=(0, 1))
    for a, z in zip((out, dx, *layer.grads), (x @ w + b, *expected), strict=True):
        assert a.dtype == dtype
        assert_close(a, z)


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 0.9])
@dtypes
def test_dropout_draws_the_books_masks(ratio, dtype):
    xs, dout = values(np.random.default_rng(0), (2, 20, 30, 8), dtype)
    layer = dlfs2.TimeDropout(ratio)
    np.random.seed(5)
    out = layer.forward(xs)
    np.random.seed(5)
    mask = (np.random.rand(20, 30, 8) > ratio).astype("f") * (1 / (1 - ratio))
    np.testing.assert_array_equal(out, xs * mask)
    np.testing.assert_array_equal(layer.backward(dout), dout * mask)
    assert out.dtype == dtype
    layer.train_flg = False
    assert layer.forward(xs) is xs
    assert layer.backward(dout) is dout


@dtypes
@pytest.mark.parametrize("one_hot", [False, True])
def test_the_loss_equals_its_definition(dtype, one_hot):
    rng = np.random.default_rng(0)
    N, T, V = 4, 6, 9
    xs, ts = values(rng, (N, T, V), dtype, 3.0), rng.integers(V, size=(N, T))
    layer = dlfs2.TimeSoftmaxWithLoss()
    if not one_hot:
        ts[1, 2] = ts[3] = -1
    p = np.exp(exact(xs)[0])
    p /= p.sum(axis=2, keepdims=True)
    hot = np.arange(V) == ts[:, :, None]
    count = hot.sum()
    loss = layer.forward(xs, hot.astype(np.int32) if one_hot else ts)
    assert loss == pytest.approx(-np.log(p[hot]).sum() / count, rel=1e-12 if dtype == np.float64 else 1e-6)
    expected = (p - hot) * hot.any(axis=2, keepdims=True) / count
    for dout in (1, 0.25):
        dxs = layer.backward(dout)
        assert dxs.dtype == dtype
        assert_close(dxs, dout * expected)


def test_another_label_is_ignored_and_nothing_may_count():
    layer = dlfs2.TimeSoftmaxWithLoss()
    xs, ts = values(np.random.default_rng(0), (2, 3, 4)), np.full((2, 3), -1)
    assert layer.forward(xs, ts) == 0
    assert not layer.backward().any()
    layer.ignore_label = 2
    assert layer.forward(xs, np.full((2, 3), 2)) == 0
    with pytest.raises(ValueError, match=r"^ts: expected 0..V-1 = 0..3, got -1 at \(0, 0\)"):
        layer.forward(xs, ts)


@dtypes
@pytest.mark.parametrize("max_norm", [1e-3, 0.25, 5.0, 1e6, 0])
def test_clip_grads_equals_the_books(dtype, max_norm):
    rng = np.random.default_rng(0)
    grads = [values(rng, (7, 9), dtype), values(rng, (9,), dtype), values(rng, (3, 4, 5), dtype)]
    expected = exact(*grads)
    norm = np.sqrt(sum(np.sum(g**2) for g in expected))
    if max_norm / (norm + 1e-6) < 1:
        expected = [g * (max_norm / (norm + 1e-6)) for g in expected]
    places = list(grads)
    assert dlfs2.clip_grads(grads, max_norm) is None
    for a, z, place in zip(grads, expected, places, strict=True):
        assert a is place
        assert a.dtype == dtype
        assert_close(a, z)


def test_clip_grads_where_squares_overflow():
    grads = [np.full(4, 1e30, np.float32)]
    dlfs2.clip_grads(grads, 1.0)
    np.testing.assert_allclose(grads[0], 0.5, rtol=1e-6)
    grads = [np.array([1.0, np.inf])]
    dlfs2.clip_grads(grads, 1.0)
    np.testing.assert_array_equal(grads[0], [1.0, np.inf])


# --- the book's way to train --------------------------------------------------------------------------------------


class SGD:
    def __init__(self, lr):
        self.lr = lr

    def update(self, params, grads):
        for i in range(len(params)):
            params[i] -= self.lr * grads[i]


class Model:
    """Layers in a list, their params and grads collected once; V words, tied to the output where `tied`."""

    def __init__(self, layer, V, D, H, tied=False):
        rng = np.random.default_rng(3)
        embed, weights = values(rng, (V, D), scale=0.3), params(layer, (1, 1, D, H), seed=4)
        W = embed.T if tied else values(rng, (H, V), scale=H**-0.5)
        self.layers = [dlfs2.TimeEmbedding(embed), layer(*weights, stateful=True), dlfs2.TimeAffine(W, np.zeros(V))]
        self.loss_layer = dlfs2.TimeSoftmaxWithLoss()
        self.params = [p for each in self.layers for p in each.params]
        self.grads = [g for each in self.layers for g in each.grads]

    def forward(self, xs, ts):
        for layer in self.layers:
            xs = layer.forward(xs)
        return self.loss_layer.forward(xs, ts)

    def backward(self, dout=1):
        dout = self.loss_layer.backward(dout)
        for layer in reversed(self.layers):
            dout = layer.backward(dout)
        return dout


def by_hand(layer, weights, xs, ts, h, c):
    """The loss of Model, its gradients and its next state, by plain loops."""
    embed, Wx, Wh, b, W, bias = weights
    hs, h, c, backward = loop(layer, embed[xs], h, c, (Wx, Wh, b))
    p = np.exp(hs @ W + bias)
    p /= p.sum(axis=2, keepdims=True)
    hot = np.arange(len(bias)) == ts[:, :, None]
    d = (p - hot) / ts.size
    dx, *_, dWx, dWh, db = backward(d @ W.T)
    dE = np.zeros_like(embed)
    np.add.at(dE, xs, dx)
    grads = [dE, dWx, dWh, db, np.einsum("nth,ntv->hv", hs, d), d.sum(axis=(0, 1))]
    return -np.log(p[hot]).mean(), grads, h, c


@layers
def test_a_model_is_trained_as_the_book_does_it(layer):
    """Stateful, in steps over a text, clipped, by SGD over the two lists: the losses of the same training by plain loops."""
    V, D, H, N, T = 11, 6, 9, 4, 7
    model, optimizer = Model(layer, V, D, H), SGD(lr=1.0)
    weights = [p.copy() for p in model.params]
    words = np.random.default_rng(0).permutation(np.arange(N * 150) % V).reshape(N, -1)
    h, c = np.zeros((2, N, H))
    losses = []
    for k in range(20):
        xs, ts = words[:, k * T : (k + 1) * T], words[:, k * T + 1 : (k + 1) * T + 1]
        loss = model.forward(xs, ts)
        model.backward()
        dlfs2.clip_grads(model.grads, 0.25)
        optimizer.update(model.params, model.grads)

        expected, grads, h, c = by_hand(layer, weights, xs, ts, h, c)
        rate = min(1.0, 0.25 / (np.sqrt(sum(np.sum(g**2) for g in grads)) + 1e-6))
        weights = [w - rate * g for w, g in zip(weights, grads, strict=True)]
        assert loss == pytest.approx(expected, rel=1e-10)
        losses.append(loss)
    assert len(set(losses)) == 20
    for a, z in zip(model.params, weights, strict=True):
        assert_close(a, z)
    assert model.layers[1].params[0] is model.params[1]


def test_tied_weights():
    """TimeAffine takes the embedding transposed, a view; the book's trainer adds the two gradients."""
    model = Model(dlfs2.TimeLSTM, 11, 6, 6, tied=True)
    xs, ts = np.random.default_rng(0).integers(11, size=(2, 3, 4))
    loss = model.forward(xs, ts)
    model.backward()
    expected, grads, *_ = by_hand(dlfs2.TimeLSTM, [p.copy() for p in model.params], xs, ts, *np.zeros((2, 3, 6)))
    assert loss == pytest.approx(expected, rel=1e-12)
    model.grads[0] += model.grads[4].T
    assert_close(model.grads[0], grads[0] + grads[4].T)
    model.params[0] -= model.grads[0]
    np.testing.assert_array_equal(model.layers[2].params[0], model.params[0].T)


def test_an_encoder_hands_its_state_on():
    """Sequence to sequence: the gradient of the decoder's first state enters the encoder at its last step."""
    size = N, T, D, H = 3, 4, 5, 6
    rng = np.random.default_rng(0)
    encoder, decoder = (dlfs2.TimeLSTM(*params(dlfs2.TimeLSTM, size, seed=k), stateful=k == 1) for k in range(2))
    xs, ys, dhs = values(rng, (N, T, D)), values(rng, (N, T, D)), values(rng, (N, T, H))
    hs = encoder.forward(xs)
    decoder.set_state(hs[:, -1])
    decoder.forward(ys)
    decoder.backward(dhs)
    d = np.zeros_like(hs)
    d[:, -1] = decoder.dh
    dxs = encoder.backward(d)

    zeros = np.zeros((2, N, H))
    h, *_, back = loops.lstm(xs, *zeros, *encoder.params, "fgio")
    *_, decoder_back = loops.lstm(ys, h[:, -1], zeros[0], *decoder.params, "fgio")
    d = np.zeros_like(h)
    d[:, -1] = decoder_back(dhs)[1]
    assert_close(dxs, back(d)[0])


# --- a drop-in ----------------------------------------------------------------------------------------------------

CONSTRUCTORS = {
    "TimeRNN": "Wx Wh b stateful", "TimeLSTM": "Wx Wh b stateful", "TimeGRU": "Wx Wh b stateful",
    "TimeBiLSTM": "Wx1 Wh1 b1 Wx2 Wh2 b2 stateful", "TimeEmbedding": "W", "TimeAffine": "W b",
    "TimeDropout": "dropout_ratio", "TimeSoftmaxWithLoss": "", "clip_grads": "grads max_norm",
}  # fmt: skip


def test_it_has_the_books_names_and_parameters():
    assert sorted(dlfs2.__all__) == sorted(CONSTRUCTORS)
    for name, parameters in CONSTRUCTORS.items():
        thing = getattr(dlfs2, name)
        assert list(inspect.signature(thing).parameters) == parameters.split()
        assert thing.__doc__
    assert list(inspect.signature(dlfs2.TimeLSTM.set_state).parameters) == ["self", "h", "c"]
    assert dlfs2.TimeSoftmaxWithLoss().params == dlfs2.TimeSoftmaxWithLoss().grads == dlfs2.TimeDropout().params == []


@layers
def test_arrays_of_two_dtypes_meet_in_the_larger(layer):
    """float32 words in a model of float64: exact in float64; gradients go into the arrays that are there."""
    size = N, T, D, H = 3, 5, 4, 6
    weights = params(layer, size)
    weights[2] = weights[2].astype("f")
    xs, dhs = values(np.random.default_rng(1), (N, T, D), np.float32), np.ones((N, T, H), np.float32)
    found = layer(*weights)
    hs, dxs = found.forward(xs), found.backward(dhs)
    expected, _, _, backward = loop(layer, exact(xs)[0], *np.zeros((2, N, H)), exact(*weights))
    dx, _, *rest = backward(exact(dhs)[0])
    for a, z in zip((hs, dxs, *found.grads), (expected, dx, *rest[-3:]), strict=True):
        assert_close(a, z)
    assert [g.dtype for g in found.grads] == [np.float64, np.float64, np.float32]


@layers
def test_no_array_is_written_and_any_strides_will_do(layer):
    size = N, T, D, H = 3, 5, 4, 6
    weights, rng = params(layer, size), np.random.default_rng(1)
    xs, dhs, h0 = values(rng, (N, T, D)), values(rng, (N, T, H)), values(rng, (N, H))
    results = []
    for strided in (False, True):
        if strided:
            weights = [np.asfortranarray(w) for w in weights]
            xs, dhs, h0 = xs.repeat(2, axis=2)[:, :, ::2], dhs[:, ::-1].copy()[:, ::-1], h0.repeat(3, axis=0)[::3]
        for a in (*weights, xs, dhs, h0):
            a.setflags(write=False)
        before = digest(weights, xs, dhs, h0)
        found = layer(*weights, stateful=True)
        found.set_state(h0)
        results.append([found.forward(xs), found.h, found.backward(dhs), found.dh, *found.grads])
        assert digest(weights, xs, dhs, h0) == before
    for a, z in zip(*results, strict=True):
        np.testing.assert_array_equal(a, z)


@layers
@pytest.mark.parametrize("size", [(0, 3, 4, 5), (3, 0, 4, 5)], ids=str)
def test_nothing_to_do(layer, size):
    N, T, D, H = size
    found = layer(*params(layer, size))
    assert found.forward(np.ones((N, T, D))).shape == (N, T, H)
    found.grads[0][...] = 7
    assert found.backward(np.ones((N, T, H))).shape == (N, T, D)
    assert not any(grad.any() for grad in found.grads)
    assert found.h.shape == found.dh.shape == (N, H)


# --- errors -------------------------------------------------------------------------------------------------------


@layers
def test_a_bad_call_names_the_books_argument_and_changes_nothing(layer):
    size = N, T, D, H = 3, 5, 4, 6
    found = layer(*params(layer, size), stateful=True)
    xs, dhs = values(np.random.default_rng(0), (N, T, D)), np.ones((N, T, H))
    with pytest.raises(ValueError, match=r"^cache: expected that of forward"):
        found.backward(dhs)
    found.forward(xs)
    found.backward(dhs)
    before = digest(found.h, found.dh, found.grads)
    with pytest.raises(ValueError, match=r"^xs: expected \(N, T, D\)"):
        found.forward(xs[0])
    with pytest.raises(ValueError, match=r"^h: expected \(N, H\)"):
        found.forward(xs[:2])
    with pytest.raises(TypeError, match=r"^xs: expected float32 or float64, got complex128"):
        found.forward(xs * 1j)
    with pytest.raises(ValueError, match=r"^dhs: expected \(N, T, H\) = \(3, 5, 6\), got \(3, 4, 6\)"):
        found.backward(dhs[:, 1:])
    with pytest.raises(TypeError, match=r"^dhs: expected float64"):
        found.backward(dhs * 1j)
    assert digest(found.h, found.dh, found.grads) == before
    found.params[1] = found.params[1].T.copy()
    with pytest.raises(ValueError, match=r"^Wx?h?: expected"):
        found.forward(xs[:, :, :2])
    assert digest(found.h, found.dh, found.grads) == before


def test_a_bad_bilstm_call_names_its_argument():
    layer = dlfs2.TimeBiLSTM(*params(dlfs2.TimeLSTM, (3, 5, 4, 6)), *params(dlfs2.TimeLSTM, (3, 5, 4, 6), seed=1))
    with pytest.raises(ValueError, match=r"^xs: expected \(N, T, D\), got \(5, 4\)"):
        layer.forward(np.ones((5, 4)))
    layer.forward(np.ones((3, 5, 4)))
    with pytest.raises(ValueError, match=r"^dhs: expected \(N, T, 2H\) = \(3, 5, 12\), got \(3, 5, 11\)"):
        layer.backward(np.ones((3, 5, 11)))


@layers
def test_layers_pickle_and_copy(layer):
    """With weights and states, without what forward kept."""
    found = layer(*params(layer, (3, 5, 4, 6)), stateful=True)
    xs = np.ones((3, 5, 4))
    found.forward(xs)
    for other in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):
        np.testing.assert_array_equal(other.h, found.h)
        with pytest.raises(ValueError, match=r"^cache: "):
            other.backward(xs)
    np.testing.assert_array_equal(other.forward(xs), found.forward(xs))


def test_clip_grads_takes_what_clip_grad_norm_takes():
    grads = {"a": np.full(4, 3.0), "b": None, "c": np.full((2, 2), 4.0)}
    dlfs2.clip_grads(grads, 5.0)
    np.testing.assert_allclose(grads["a"], 1.5, rtol=1e-6)
    np.testing.assert_allclose(grads["c"], 2.0, rtol=1e-6)


def test_bad_calls_around_the_cells():
    xs, ts, W = np.ones((2, 3, 4)), np.zeros((2, 3), int), np.ones((5, 4))
    embedding, affine, loss = dlfs2.TimeEmbedding(W), dlfs2.TimeAffine(W.T, np.ones(5)), dlfs2.TimeSoftmaxWithLoss()
    embedding.forward(ts)
    affine.forward(xs)
    loss.forward(xs, ts)
    for message, call in (
        (r"xs: expected 0..V-1 = 0..4, got 5..5", lambda: embedding.forward(ts + 5)),
        (r"xs: expected 0..V-1 = 0..4, got -1..-1", lambda: embedding.forward(ts - 1)),
        (r"xs: expected integers, got float64", lambda: embedding.forward(ts * 1.0)),
        (r"dout: expected \(\*xs.shape, D\) = \(2, 3, 4\), got \(2, 3, 5\)", lambda: embedding.backward(np.ones((2, 3, 5)))),
        (r"x: expected \(N, T, D\), got \(3, 4\)", lambda: affine.forward(xs[0])),
        (r"W: expected \(D, M\) = \(3, 5\), got \(4, 5\)", lambda: affine.forward(xs[:, :, 1:])),
        (r"dout: expected \(N, T, M\) = \(2, 3, 5\), got \(2, 3, 4\)", lambda: affine.backward(xs)),
        (r"xs: expected \(N, T, V\), got \(3, 4\)", lambda: loss.forward(xs[0], ts)),
        (r"ts: expected xs.shape", lambda: loss.forward(xs, ts[:1])),
        (r"ts: expected integers, got float64", lambda: loss.forward(xs, ts * 1.0)),
        (r"grads: expected|grads\[0\]: expected", lambda: dlfs2.clip_grads([ts], 1.0)),
        (r"max_norm: expected", lambda: dlfs2.clip_grads([xs], -1.0)),
        (r"cache: expected that of forward", lambda: dlfs2.TimeEmbedding(W).backward(xs)),
        (r"cache: expected that of forward", lambda: dlfs2.TimeAffine(W.T, np.ones(5)).backward(xs)),
        (r"cache: expected that of forward", lambda: dlfs2.TimeSoftmaxWithLoss().backward()),
        (r"W: expected an array, got list", lambda: dlfs2.TimeEmbedding([[1.0]])),
        (r"b: expected \(M,\) = \(4,\), got \(5,\)", lambda: dlfs2.TimeAffine(W, np.ones(5))),
        (r"b: expected an array, got NoneType", lambda: dlfs2.TimeGRU(W, W, None)),
        (r"Wx: expected \(D, 3H\), got \(\)", lambda: dlfs2.TimeGRU(np.ones(()), W, np.ones(3))),
        (r"Wh: expected \(H, 4H\), got \(4,\)", lambda: dlfs2.TimeBiLSTM(W, W[0], W[0], W, W, W[0])),
    ):
        with pytest.raises((ValueError, TypeError), match=f"^({message})"):
            call()
    assert (xs == 1).all()
