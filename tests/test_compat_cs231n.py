"""The functions of CS231n's rnn_layers.py: published numbers, plain loops, finite differences, errors."""

import inspect

import loops
import numpy as np
import pytest
from loops import assert_close, dtypes, sizes
from support import digest, values

import fastgate
from fastgate.compat import cs231n

COLUMNS = {"rnn": 1, "lstm": 4}
cells = pytest.mark.parametrize("cell", COLUMNS)


def line(low, high, *shape):
    """The data of the course's notebooks: numbers from low to high in a row."""
    return np.linspace(low, high, int(np.prod(shape))).reshape(shape)


def arrays(cell, size, dtype=np.float64, seed=0):
    """x, h0, c0, Wx, Wh, b."""
    N, T, D, H = size
    rng, columns = np.random.default_rng(seed), COLUMNS[cell] * H
    x, (h0, c0) = values(rng, (N, T, D), dtype), values(rng, (2, N, H), dtype, 0.7)
    Wx, Wh = values(rng, (D, columns), dtype, D**-0.5), values(rng, (H, columns), dtype, H**-0.5)
    return x, h0, c0, Wx, Wh, values(rng, columns, dtype)


def loop(cell, x, h0, c0, Wx, Wh, b):
    """(h, its backward pass) by a plain loop."""
    if cell == "rnn":
        h, _, backward = loops.rnn(x, h0, Wx, Wh, b)
    else:
        h, _, _, backward = loops.lstm(x, h0, c0, Wx, Wh, b, "ifog")
    return h, backward


def assert_all_close(found, expected, dtype):
    assert type(found) is tuple
    for k, (a, z) in enumerate(zip(found, expected, strict=True)):
        assert a.dtype == dtype
        assert_close(a, z, k)


# --- the course's numbers -----------------------------------------------------------------------------------------


def test_the_notebooks_rnn_step():
    N, D, H = 3, 10, 4
    weights = line(-0.1, 0.9, D, H), line(-0.3, 0.7, H, H), line(-0.2, 0.4, H)
    h, _ = cs231n.rnn_step_forward(line(-0.4, 0.7, N, D), line(-0.2, 0.5, N, H), *weights)
    expected = [
        [-0.58172089, -0.50182032, -0.41232771, -0.31410098],
        [0.66854692, 0.79562378, 0.87755553, 0.92795967],
        [0.97934501, 0.99144213, 0.99646691, 0.99854353],
    ]
    np.testing.assert_allclose(h, expected, rtol=0, atol=6e-9)


def test_the_notebooks_rnn():
    N, T, D, H = 2, 3, 4, 5
    weights = line(-0.2, 0.4, D, H), line(-0.4, 0.1, H, H), line(-0.7, 0.1, H)
    h, _ = cs231n.rnn_forward(line(-0.1, 0.3, N, T, D), line(-0.3, 0.1, N, H), *weights)
    expected = [
        [
            [-0.42070749, -0.27279261, -0.11074945, 0.05740409, 0.22236251],
            [-0.39525808, -0.22554661, -0.0409454, 0.14649412, 0.32397316],
            [-0.42305111, -0.24223728, -0.04287027, 0.15997045, 0.35014525],
        ],
        [
            [-0.55857474, -0.39065825, -0.19198182, 0.02378408, 0.23735671],
            [-0.27150199, -0.07088804, 0.13562939, 0.33099728, 0.50158768],
            [-0.51014825, -0.30524429, -0.06755202, 0.17806392, 0.40333043],
        ],
    ]
    np.testing.assert_allclose(h, expected, rtol=0, atol=6e-9)


def test_the_notebooks_lstm_step():
    N, D, H = 3, 4, 5
    weights = line(-2.1, 1.3, D, 4 * H), line(-0.7, 2.2, H, 4 * H), line(0.3, 0.7, 4 * H)
    h, c, _ = cs231n.lstm_step_forward(line(-0.4, 1.2, N, D), line(-0.3, 0.7, N, H), line(-0.4, 0.9, N, H), *weights)
    expected_h = [
        [0.24635157, 0.28610883, 0.32240467, 0.35525807, 0.38474904],
        [0.49223563, 0.55611431, 0.61507696, 0.66844003, 0.7159181],
        [0.56735664, 0.66310127, 0.74419266, 0.80889665, 0.858299],
    ]
    expected_c = [
        [0.32986176, 0.39145139, 0.451556, 0.51014116, 0.56717407],
        [0.66382255, 0.76674007, 0.87195994, 0.97902709, 1.08751345],
        [0.74192008, 0.90592151, 1.07717006, 1.25120233, 1.42395676],
    ]
    np.testing.assert_allclose(h, expected_h, rtol=0, atol=6e-9)
    np.testing.assert_allclose(c, expected_c, rtol=0, atol=6e-9)


def test_the_notebooks_lstm():
    N, T, D, H = 2, 3, 5, 4
    weights = line(-0.2, 0.9, D, 4 * H), line(-0.3, 0.6, H, 4 * H), line(0.2, 0.7, 4 * H)
    h, _ = cs231n.lstm_forward(line(-0.4, 0.6, N, T, D), line(-0.4, 0.8, N, H), *weights)
    expected = [
        [
            [0.01764008, 0.01823233, 0.01882671, 0.0194232],
            [0.11287491, 0.12146228, 0.13018446, 0.13902939],
            [0.31358768, 0.33338627, 0.35304453, 0.37250975],
        ],
        [
            [0.45767879, 0.4761092, 0.4936887, 0.51041945],
            [0.6704845, 0.69350089, 0.71486014, 0.7346449],
            [0.81733511, 0.83677871, 0.85403753, 0.86935314],
        ],
    ]
    np.testing.assert_allclose(h, expected, rtol=0, atol=6e-9)


def test_words_of_one_step():
    """Sampling embeds (N,) words at a time."""
    W, words = line(0, 1, 5, 3), np.array([4, 0, 4])
    out, cache = cs231n.word_embedding_forward(words, W)
    np.testing.assert_array_equal(out, W[words])
    np.testing.assert_array_equal(cs231n.word_embedding_backward(np.ones((3, 3)), cache)[:, 0], [1, 0, 0, 0, 2])


def test_the_notebooks_embedding():
    out, _ = cs231n.word_embedding_forward(np.array([[0, 3, 1, 2], [2, 1, 0, 3]]), line(0, 1, 5, 3))
    np.testing.assert_array_equal(out, line(0, 1, 5, 3)[[[0, 3, 1, 2], [2, 1, 0, 3]]])
    np.testing.assert_allclose(out[0, 1], [0.64285714, 0.71428571, 0.78571429], rtol=0, atol=6e-9)


class Captioning:
    """The loss of the course's captioning model: features begin the state, each word predicts the next."""

    def __init__(self, cell, V, D, W, H):
        self.cell, columns = cell, COLUMNS[cell] * H
        shapes = {"W_embed": (V, W), "W_proj": (D, H), "b_proj": (H,), "Wx": (W, columns), "Wh": (H, columns), "b": (columns,)}
        self.params = {name: line(-1.4, 1.3, *s) for name, s in (shapes | {"W_vocab": (H, V), "b_vocab": (V,)}).items()}

    def loss(self, features, captions, null=0):
        p, g = self.params, {}
        forward, backward = getattr(cs231n, f"{self.cell}_forward"), getattr(cs231n, f"{self.cell}_backward")
        words, word_cache = cs231n.word_embedding_forward(captions[:, :-1], p["W_embed"])
        h, cache = forward(words, features @ p["W_proj"] + p["b_proj"], p["Wx"], p["Wh"], p["b"])
        scores, score_cache = cs231n.temporal_affine_forward(h, p["W_vocab"], p["b_vocab"])
        loss, d = cs231n.temporal_softmax_loss(scores, captions[:, 1:], captions[:, 1:] != null)
        d, g["W_vocab"], g["b_vocab"] = cs231n.temporal_affine_backward(d, score_cache)
        d, dh0, g["Wx"], g["Wh"], g["b"] = backward(d, cache)
        g["W_embed"] = cs231n.word_embedding_backward(d, word_cache)
        return loss, g | {"W_proj": features.T @ dh0, "b_proj": dh0.sum(axis=0)}


@pytest.mark.parametrize(
    ("cell", "low", "high", "expected"), [("rnn", -1.5, 0.3, 9.83235591003), ("lstm", -0.5, 1.7, 9.82445935443)]
)
def test_the_notebooks_captioning_loss(cell, low, high, expected):
    N, T, V = 10, 13, 3
    loss, _ = Captioning(cell, V, 20, 30, 40).loss(line(low, high, N, 20), (np.arange(N * T) % V).reshape(N, T))
    assert abs(loss - expected) < 6e-11


@cells
def test_the_gradients_of_a_captioning_model(cell):
    """Along a random direction in each of its parameters, by a central difference."""
    rng = np.random.default_rng(1)
    model, features, captions = Captioning(cell, 5, 4, 6, 7), rng.normal(size=(3, 4)), rng.integers(5, size=(3, 6))
    model.params = {name: values(rng, p.shape, scale=0.5) for name, p in model.params.items()}
    _, gradients = model.loss(features, captions)
    for name, p in model.params.items():
        direction, eps = rng.normal(size=p.shape), 1e-5
        above, below = (
            Captioning.loss(model, features, captions)[0] for model.params[name] in (p + eps * direction, p - eps * direction)
        )
        model.params[name] = p
        assert (above - below) / (2 * eps) == pytest.approx(np.sum(gradients[name] * direction), rel=1e-7, abs=1e-9), name


# --- plain loops --------------------------------------------------------------------------------------------------


@cells
@sizes
@dtypes
def test_sequences_equal_the_loop(cell, size, dtype):
    x, h0, c0, *weights = arrays(cell, size, dtype)
    dh = values(np.random.default_rng(1), (*size[:2], size[3]), dtype)
    found, cache = getattr(cs231n, f"{cell}_forward")(x, h0, *weights)
    gradients = getattr(cs231n, f"{cell}_backward")(dh, cache)

    exact = [a.astype(np.float64) for a in (x, h0, np.zeros_like(c0), *weights)]
    h, backward = loop(cell, *exact)
    dx, dh0, *rest = backward(dh.astype(np.float64))
    assert found.dtype == dtype
    assert_close(found, h)
    assert_all_close(gradients, (dx, dh0, *rest[-3:]), dtype)


@cells
@sizes
@dtypes
def test_steps_equal_the_loop(cell, size, dtype):
    """One step from both states, with a gradient of each."""
    N, _, _, H = size
    x, h0, c0, *weights = arrays(cell, size, dtype)
    states = (h0, c0)[: 1 + (cell == "lstm")]
    dstates = values(np.random.default_rng(1), (2, N, H), dtype)[: len(states)]
    *found, cache = getattr(cs231n, f"{cell}_step_forward")(x[:, 0], *states, *weights)
    gradients = getattr(cs231n, f"{cell}_step_backward")(*dstates, cache)

    x, h0, c0, *weights = (a.astype(np.float64) for a in (x[:, :1], h0, c0, *weights))
    if cell == "rnn":
        _, *expected, backward = loops.rnn(x, h0, *weights)
    else:
        _, *expected, backward = loops.lstm(x, h0, c0, *weights, "ifog")
    for a, z in zip(found, expected, strict=True):
        assert a.dtype == dtype
        assert_close(a, z)
    dx, *others = backward(dstates[0][:, None].astype(np.float64), *dstates[1:].astype(np.float64))
    assert_all_close(gradients, (dx[:, 0], *others), dtype)


def test_a_loop_over_the_step_functions_equals_the_sequence():
    """As a reader's own lstm_backward calls them; its zeros are float64 where the model is float32."""
    x, h, _, Wx, Wh, b = arrays("lstm", (3, 6, 4, 9), np.float32)
    dh = values(np.random.default_rng(2), (3, 6, 9), np.float32)
    expected, cache = cs231n.lstm_forward(x, h, Wx, Wh, b)
    c, steps = np.zeros_like(h), []
    for t in range(6):
        h, c, step = cs231n.lstm_step_forward(x[:, t], h, c, Wx, Wh, b)
        np.testing.assert_array_equal(h, expected[:, t])
        steps.append(step)
    dx, dWx, dWh, db = np.zeros(x.shape), np.zeros(Wx.shape), np.zeros(Wh.shape), np.zeros(b.shape)
    dprev_h, dprev_c = np.zeros((2, 3, 9))
    for t in reversed(range(6)):
        dx[:, t], dprev_h, dprev_c, *new = cs231n.lstm_step_backward(dh[:, t] + dprev_h, dprev_c, steps[t])
        dWx, dWh, db = dWx + new[0], dWh + new[1], db + new[2]
    for a, z in zip((dx, dprev_h, dWx, dWh, db), cs231n.lstm_backward(dh, cache), strict=True):
        assert_close(a.astype(np.float32), z)


# --- around the cells ---------------------------------------------------------------------------------------------


@dtypes
@pytest.mark.parametrize("sizes", [(3, 4, 5), (1, 1, 1), (20, 30, 7), (4, 9, 1000), (0, 3, 5), (3, 0, 5)], ids=str)
def test_embedding_gradients_equal_add_at(sizes, dtype):
    *shape, V = sizes
    rng = np.random.default_rng(0)
    x, W, dout = rng.integers(V, size=shape), values(rng, (V, 6), dtype), values(rng, (*shape, 6), dtype)
    out, cache = cs231n.word_embedding_forward(x, W)
    np.testing.assert_array_equal(out, W[x])
    expected = np.zeros(W.shape)
    np.add.at(expected, x, dout)
    found = cs231n.word_embedding_backward(dout, cache)
    assert found.dtype == dtype
    assert_close(found, expected)
    np.testing.assert_array_equal(found.any(axis=1), np.isin(np.arange(V), x))


@dtypes
@pytest.mark.parametrize("order", ["C", "F"])
def test_affine_equals_einsum(dtype, order):
    rng = np.random.default_rng(0)
    x, w, b, dout = (values(rng, shape, dtype) for shape in ((3, 5, 7), (7, 4), (4,), (3, 5, 4)))
    x, w = np.asarray(x, order=order), np.asarray(w, order=order)
    out, cache = cs231n.temporal_affine_forward(x, w, b)
    assert out.dtype == dtype
    exact_x, exact_w, exact_d = (a.astype(np.float64) for a in (x, w, dout))
    assert_close(out, np.einsum("ntd,dm->ntm", exact_x, exact_w) + b)
    expected = (
        np.einsum("ntm,dm->ntd", exact_d, exact_w),
        np.einsum("ntd,ntm->dm", exact_x, exact_d),
        exact_d.sum(axis=(0, 1)),
    )
    assert_all_close(cs231n.temporal_affine_backward(dout, cache), expected, dtype)


@dtypes
@pytest.mark.parametrize("kind", [bool, int, np.float32, np.float64])
def test_the_loss_equals_its_definition(dtype, kind):
    rng = np.random.default_rng(0)
    x, y, mask = values(rng, (4, 6, 9), dtype, 3.0), rng.integers(9, size=(4, 6)), rng.random((4, 6)) < 0.6
    loss, dx = cs231n.temporal_softmax_loss(x, np.where(mask, y, -7), mask.astype(kind))  # masked classes are never read

    exact = x.astype(np.float64)
    p = np.exp(exact) / np.exp(exact).sum(axis=2, keepdims=True)
    one_hot = np.arange(9) == y[:, :, None]
    assert dx.dtype == dtype
    expected = -np.sum(mask * np.log(p[one_hot].reshape(4, 6))) / 4
    assert loss == pytest.approx(expected, rel=1e-12 if dtype == np.float64 else 1e-6)
    assert_close(dx, (p - one_hot) * mask[:, :, None] / 4)


@pytest.mark.parametrize(("N", "T", "p", "about"), [(100, 1, 1.0, 2.3), (100, 10, 1.0, 23), (5000, 10, 0.1, 2.3)])
def test_the_notebooks_loss(N, T, p, about):
    """Small scores of 10 classes: T ln 10 for each row, of the share p that counts."""
    rng = np.random.default_rng(0)
    x, y, mask = 0.001 * rng.normal(size=(N, T, 10)), rng.integers(10, size=(N, T)), rng.random((N, T)) <= p
    assert cs231n.temporal_softmax_loss(x, y, mask)[0] == pytest.approx(about, rel=0.02)


def test_verbose_prints_the_flat_shape(capsys):
    cs231n.temporal_softmax_loss(np.ones((2, 3, 4)), np.zeros((2, 3), int), np.ones((2, 3), bool), verbose=True)
    assert capsys.readouterr().out == "dx_flat:  (6, 4)\n"


# --- a drop-in ----------------------------------------------------------------------------------------------------

SIGNATURES = {
    "rnn_step_forward": "x prev_h Wx Wh b", "rnn_step_backward": "dnext_h cache",
    "rnn_forward": "x h0 Wx Wh b", "rnn_backward": "dh cache",
    "lstm_step_forward": "x prev_h prev_c Wx Wh b", "lstm_step_backward": "dnext_h dnext_c cache",
    "lstm_forward": "x h0 Wx Wh b", "lstm_backward": "dh cache",
    "word_embedding_forward": "x W", "word_embedding_backward": "dout cache",
    "temporal_affine_forward": "x w b", "temporal_affine_backward": "dout cache",
    "temporal_softmax_loss": "x y mask verbose",
}  # fmt: skip


def test_it_has_the_courses_functions_and_parameters():
    assert sorted(cs231n.__all__) == sorted(SIGNATURES)
    for name, parameters in SIGNATURES.items():
        function = getattr(cs231n, name)
        assert list(inspect.signature(function).parameters) == parameters.split()
        assert function.__doc__


@cells
def test_arrays_of_two_dtypes_meet_in_the_larger(cell):
    """A state of zeros is float64 in many a sampling loop; every gradient is exact in float64, then."""
    x, h0, c0, *weights = arrays(cell, (3, 5, 4, 6), np.float32)
    found, cache = getattr(cs231n, f"{cell}_forward")(x, h0.astype(np.float64), *weights)
    h, backward = loop(cell, *(a.astype(np.float64) for a in (x, h0, np.zeros_like(c0), *weights)))
    assert found.dtype == np.float64
    assert_close(found, h)
    dh = values(np.random.default_rng(1), h.shape, np.float32)
    dx, dh0, *rest = backward(dh.astype(np.float64))
    assert_all_close(getattr(cs231n, f"{cell}_backward")(dh, cache), (dx, dh0, *rest[-3:]), np.float64)


@cells
@dtypes
def test_no_array_is_written_and_any_strides_give_the_same_bits(cell, dtype):
    x, h0, _, *weights = arrays(cell, (3, 5, 4, 6), dtype)
    dh = values(np.random.default_rng(1), (3, 5, 6), dtype)
    forward, backward = getattr(cs231n, f"{cell}_forward"), getattr(cs231n, f"{cell}_backward")
    h, cache = forward(x, h0, *weights)
    expected = (h, *backward(dh, cache))

    odd = [np.asfortranarray(x.repeat(2, axis=2))[:, :, ::2], h0[:, ::-1].copy()[:, ::-1], *map(np.asfortranarray, weights)]
    dh = dh.repeat(3, axis=1)[:, ::3]
    for a in (*odd, dh):
        a.setflags(write=False)
    before = digest(*odd, dh)
    h, cache = forward(*odd)
    for _ in range(2):
        for a, z in zip((h, *backward(dh, cache)), expected, strict=True):
            np.testing.assert_array_equal(a, z)
    assert digest(*odd, dh) == before


@cells
@pytest.mark.parametrize("size", [(0, 3, 4, 5), (3, 0, 4, 5)], ids=str)
def test_nothing_to_do(cell, size):
    N, T, D, H = size
    x, h0, _, *weights = arrays(cell, size)
    h, cache = getattr(cs231n, f"{cell}_forward")(x, h0, *weights)
    dx, dh0, *rest = getattr(cs231n, f"{cell}_backward")(np.ones((N, T, H)), cache)
    assert (h.shape, dx.shape, dh0.shape) == ((N, T, H), (N, T, D), (N, H))
    assert not any(a.any() for a in (dh0, *rest))
    scores, affine = cs231n.temporal_affine_forward(h, np.ones((H, 2)), np.ones(2))
    assert scores.shape == (N, T, 2)
    assert not cs231n.temporal_affine_backward(scores, affine)[1].any()
    assert cs231n.temporal_softmax_loss(scores, np.zeros((N, T), int), np.ones((N, T), bool))[0] == 0


# --- errors -------------------------------------------------------------------------------------------------------

x, h0, c0, Wx, Wh, b = arrays("lstm", (3, 5, 4, 6))
step = (x[:, 0], h0, c0, Wx, Wh, b)
words, table = np.array([[0, 1], [2, 1]]), np.ones((3, 4))
scores, classes, mask = np.ones((2, 3, 4)), np.zeros((2, 3), int), np.ones((2, 3), bool)


def changed(arguments, place, value):
    return (*arguments[:place], value, *arguments[place + 1 :])


BAD = [
    ("lstm_forward", (x, h0, Wx, Wh.T, b), r"Wh: expected \(H, 4H\) = \(6, 24\), got \(24, 6\); pass Wh.T\?"),
    ("lstm_forward", (x, h0[:2], Wx, Wh, b), r"h0: expected \(N, H\)"),
    ("lstm_forward", (x[0], h0, Wx, Wh, b), r"x: expected \(N, T, D\)"),
    ("lstm_forward", (x, h0, Wx, Wh, b[:5]), r"b: expected"),
    ("lstm_forward", (x * 1j, h0, Wx, Wh, b), r"x: expected float32 or float64, got complex128"),
    ("lstm_forward", (x, h0, Wx.astype(np.longdouble), Wh, b), r"Wx: expected float64 as x, got longdouble"),
    ("lstm_forward", (x.astype("M8[s]"), h0, Wx, Wh, b), r"x: expected float32 or float64"),
    ("lstm_step_forward", changed(step, 1, h0[:2]), r"prev_h: expected \(N, H\)"),
    ("lstm_step_forward", changed(step, 2, c0[:, :2]), r"prev_c: expected \(N, H\)"),
    ("lstm_step_forward", changed(step, 0, x), r"x: expected \(N, D\)"),
    ("lstm_step_backward", (h0[:2], c0, cs231n.lstm_step_forward(*step)[2]), r"dnext_h: expected"),
    ("lstm_step_backward", (h0, c0[:2], cs231n.lstm_step_forward(*step)[2]), r"dnext_c: expected"),
    ("lstm_step_backward", (h0, c0, None), r"cache: expected"),
    ("lstm_step_backward", (h0 * 1j, c0, cs231n.lstm_step_forward(*step)[2]), r"dnext_h: expected float64"),
    ("lstm_backward", (h0, cs231n.lstm_step_forward(*step)[2]), r"cache: expected"),
    ("lstm_backward", (h0, cs231n.lstm_forward(x, h0, Wx, Wh, b)[1]), r"dh: expected \(N, T, H\)"),
    ("rnn_forward", (x, h0, Wx[:, :6], Wh, b), r"Wh: expected \(H, H\) = \(6, 6\), got \(6, 24\)"),
    ("rnn_step_forward", (x[:, 0], h0[:2], Wx[:, :6], Wh[:, :6], b[:6]), r"prev_h: expected"),
    ("rnn_step_backward", (h0, cs231n.lstm_step_forward(*step)[2]), r"cache: expected"),
    ("word_embedding_forward", (words + 1, table), r"x: expected 0..V-1 = 0..2, got 1..3"),
    ("word_embedding_forward", (words - 1, table), r"x: expected 0..V-1 = 0..2, got -1..1"),
    ("word_embedding_forward", (words * 1.0, table), r"x: expected integers, got float64"),
    ("word_embedding_forward", (words, table[0]), r"W: expected \(V, D\), got \(4,\)"),
    ("word_embedding_forward", (words, [1.0]), r"W: expected an array, got list"),
    ("word_embedding_backward", (scores, cs231n.word_embedding_forward(words, table)[1]),
     r"dout: expected \(\*x.shape, D\) = \(2, 2, 4\), got \(2, 3, 4\)"),
    ("temporal_affine_forward", (x[0], Wx, b), r"x: expected \(N, T, D\), got \(5, 4\)"),
    ("temporal_affine_forward", (x, Wx.T, b), r"w: expected \(D, M\) = \(4, 4\), got \(24, 4\)"),
    ("temporal_affine_forward", (x, Wx, b[:1]), r"b: expected \(M,\) = \(24,\), got \(1,\)"),
    ("temporal_affine_backward", (x[:, :, :1], cs231n.temporal_affine_forward(x, Wx, b)[1]),
     r"dout: expected \(N, T, M\) = \(3, 5, 24\)"),
    ("temporal_affine_backward", (x, None), r"cache: expected the cache of temporal_affine_forward, got NoneType"),
    ("word_embedding_backward", (x, cs231n.temporal_affine_forward(x, Wx, b)[1]), r"cache: .*, got temporal_affine_forward"),
    ("lstm_forward", (x, h0, Wx, Wh, None), r"b: expected an array, got None"),
    ("lstm_step_forward", changed(step, 1, None), r"prev_h: expected an array, got None"),
    ("temporal_softmax_loss", (scores, classes, np.full((2, 3), "a")), r"mask: expected"),
    ("temporal_softmax_loss", (scores[0], classes, mask), r"x: expected \(N, T, V\), got \(3, 4\)"),
    ("temporal_softmax_loss", (scores, classes[:1], mask), r"y: expected x.shape"),
    ("temporal_softmax_loss", (scores, classes + 4, mask), r"y: expected 0..V-1 = 0..3, got 4"),
    ("temporal_softmax_loss", (scores, classes, mask[:, :2]), r"mask: expected x.shape"),
    ("temporal_softmax_loss", (scores, classes, -1.0 * mask), r"mask: expected finite weights >= 0"),
    ("temporal_softmax_loss", (classes[:, :, None], classes, mask), r"x: expected float32 or float64, got int64"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "words"), BAD, ids=[f"{name}-{words[:24]}" for name, _, words in BAD])
def test_a_bad_call_names_the_courses_argument(name, arguments, words):
    before = digest(*arguments)
    with pytest.raises((ValueError, TypeError), match=f"^({words})"):
        getattr(cs231n, name)(*arguments)
    assert digest(*arguments) == before


def test_errors_keep_their_kind():
    with pytest.raises(TypeError, match=r"^prev_h: "):
        cs231n.lstm_step_forward(*changed(step, 1, h0.astype(str)))
    with pytest.raises(ValueError, match=r"^prev_h: "):
        cs231n.lstm_step_forward(*changed(step, 1, h0.T))


def test_a_cache_holds_no_copy_of_the_weights():
    """What the documents say: update the weights after the backward pass."""
    N, T, D, H = 2, 3, 64, 64
    arguments = arrays("lstm", (N, T, D, H))
    _, cache = cs231n.lstm_forward(arguments[0], arguments[1], *arguments[3:])
    assert cache.nbytes < arguments[3].nbytes
    assert fastgate.lstm_backward(None, cache).dWx.shape == (D, 4 * H)
