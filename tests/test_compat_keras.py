"""Keras on its NumPy backend, with fastgate's hooks and without: the same outputs and states, masks with holes among them."""

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from support import values

os.environ.setdefault("KERAS_BACKEND", "numpy")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    keras = pytest.importorskip("keras", minversion="3.0", reason="Keras is not installed", exc_type=ImportError)

from fastgate.compat import keras as ours

pytestmark = [
    pytest.mark.beside,
    pytest.mark.skipif(keras.backend.backend() != "numpy", reason="Keras runs on another backend than NumPy"),
]

ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
N, T, D, H = 5, 7, 4, 6
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}
LAYERS = (
    ("LSTM", {}),
    ("LSTM", {"use_bias": False}),
    ("GRU", {}),
    ("GRU", {"use_bias": False}),
    ("GRU", {"reset_after": False}),
    ("GRU", {"reset_after": False, "use_bias": False}),
)


@pytest.fixture(autouse=True)
def _leave_keras_as_it_was(monkeypatch):
    """And let its loop compute float64 layers in float64: its table of dtypes has float32 there."""
    from keras.src.backend.common import dtypes

    monkeypatch.setitem(dtypes.BIT64_TO_BIT32_DTYPE, "float64", "float64")
    ours.uninstall()
    yield
    ours.uninstall()


@pytest.fixture
def calls(monkeypatch):
    """The names of fastgate's functions as they are called: proof that a hook ran, or that it did not."""
    import fastgate

    called = []

    def watched(name):
        function = getattr(fastgate, name)

        def call(*args, **keywords):
            called.append(name)
            return function(*args, **keywords)

        return call

    for name in ("lstm_forward", "gru_forward", "lstm_ragged_forward", "gru_ragged_forward"):
        monkeypatch.setattr(fastgate, name, watched(name))
    return called


def built(kind, rng, *, wrap="none", dtype="float64", H=H, **options):
    """A Keras layer with random, distinct weights."""
    layer = getattr(keras.layers, kind)(H, dtype=dtype, **options)
    if wrap != "none":
        layer = keras.layers.Bidirectional(layer, merge_mode=wrap, dtype=dtype)
    layer.build((N, T, D))
    layer.set_weights([values(rng, w.shape, dtype, 0.6) for w in layer.weights])
    return layer


def masks(rng):
    full = np.ones((N, T), bool)
    right = np.arange(T) < np.array([7, 3, 1, 5, 6])[:, None]
    holes = rng.random((N, T)) < 0.6
    holes[:, 2] ^= holes[:, 3] == holes[:, 2]
    empty = holes.copy()
    empty[1] = False
    return {"full": full, "right": right, "left": right[:, ::-1], "holes": holes, "a row without a step": empty, "none": ~full}


def both(layer, *args, **keywords):
    """(by Keras' own loop, by the hooks), each a list of arrays."""
    theirs = keras.tree.flatten(layer(*args, **keywords))
    ours.install()
    try:
        return theirs, keras.tree.flatten(layer(*args, **keywords))
    finally:
        ours.uninstall()


def assert_equal(layer, *args, dtype="float64", **keywords):
    theirs, found = both(layer, *args, **keywords)
    assert len(theirs) == len(found)
    for a, b in zip(theirs, found, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(b, a, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize(("kind", "options"), LAYERS)
def test_outputs_and_states_are_those_of_the_loop(kind, options, return_sequences, go_backwards, dtype, calls):
    rng = np.random.default_rng(1)
    layer = built(
        kind, rng, dtype=dtype, return_sequences=return_sequences, return_state=True, go_backwards=go_backwards, **options
    )
    x = values(rng, (N, T, D), dtype)
    states = [values(rng, (N, H), dtype, 0.7) for _ in range(1 + (kind == "LSTM"))]
    assert_equal(layer, x, dtype=dtype)
    assert_equal(layer, x, initial_state=states, dtype=dtype)
    assert calls == [f"{kind.lower()}_forward"] * 2


@pytest.mark.parametrize("zero_output_for_mask", [False, True])
@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_masks(kind, return_sequences, go_backwards, zero_output_for_mask, calls):
    rng = np.random.default_rng(2)
    layer = built(
        kind, rng, return_sequences=return_sequences, return_state=True, go_backwards=go_backwards,
        zero_output_for_mask=zero_output_for_mask,
    )  # fmt: skip
    x = values(rng, (N, T, D))
    states = [values(rng, (N, H), scale=0.7) for _ in range(1 + (kind == "LSTM"))]
    for mask in masks(rng).values():
        assert_equal(layer, x, mask=mask, initial_state=states)
        assert_equal(layer, x, mask=mask.astype(np.int64))
    assert calls == [f"{kind.lower()}_ragged_forward"] * 12


def test_masked_steps_may_hold_anything(calls):
    rng = np.random.default_rng(3)
    layer, mask = built("LSTM", rng, return_sequences=True), masks(rng)["holes"]
    x = values(rng, (N, T, D))
    ours.install()
    found = layer(x, mask=mask)
    np.testing.assert_array_equal(found, layer(np.where(mask[..., None], x, np.nan), mask=mask))
    assert np.isfinite(found).all()


@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("wrap", ["concat", "sum", "mul", "ave", None])
@pytest.mark.parametrize(("kind", "options"), LAYERS)
def test_bidirectional(kind, options, wrap, return_sequences, calls):
    rng = np.random.default_rng(4)
    layer = built(kind, rng, wrap=wrap, return_sequences=return_sequences, return_state=True, **options)
    x = values(rng, (N, T, D))
    states = [values(rng, (N, H), scale=0.7) for _ in range(2 * (1 + (kind == "LSTM")))]
    assert_equal(layer, x)
    assert_equal(layer, x, initial_state=states)
    for mask in masks(rng).values():
        assert_equal(layer, x, mask=mask)
    assert len(calls) == 2 * 2 + 2 * 6


def test_a_bidirectional_hook_casts_states_as_the_layers_do(calls):
    rng = np.random.default_rng(5)
    layer = built("GRU", rng, wrap="concat", dtype="float32")
    states = [values(rng, (N, H), np.float64, 0.7) for _ in range(2)]
    assert_equal(layer, values(rng, (N, T, D), np.float32), initial_state=states, dtype="float32")
    assert len(calls) == 2


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_stateful_layers_and_dropout_run_here(kind, calls):
    rng = np.random.default_rng(6)
    x = values(rng, (N, T, D))
    layer = built(kind, rng, stateful=True)
    expected = layer(np.concatenate([x, x], axis=1))
    layer.reset_state()
    ours.install()
    layer(x)
    np.testing.assert_allclose(layer(x), expected, rtol=0, atol=1e-12)
    ours.uninstall()
    results = []
    for install in (False, True):
        if install:
            ours.install()
        dropping = getattr(keras.layers, kind)(H, dropout=0.5, seed=3, dtype="float64")
        dropping.build((N, T, D))
        for own, w in zip(dropping.trainable_variables, layer.trainable_variables, strict=True):
            own.assign(w.value)
        results.append(dropping(x, training=True))
    np.testing.assert_allclose(results[1], results[0], rtol=0, atol=1e-12)
    assert calls == [f"{kind.lower()}_forward"] * 3


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_models_predict(kind, calls):
    rng = np.random.default_rng(7)
    inputs = keras.Input((None, D))
    masked = keras.layers.Masking(0.0)(inputs)
    h = keras.layers.Bidirectional(getattr(keras.layers, kind)(H, return_sequences=True))(masked)
    model = keras.Model(inputs, keras.layers.Dense(3)(getattr(keras.layers, kind)(H)(h)))
    x = values(rng, (N, T, D), np.float32)
    x[1, 3:], x[2, :2] = 0, 0
    expected = model.predict(x, verbose=0)
    ours.install()
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, rtol=0, atol=1e-6)
    assert "ragged" in "".join(calls)


def test_a_fresh_layer_of_float64_runs_here(calls, monkeypatch):
    """Its weights claim float64, their arrays are float32 until they are set."""
    from keras.src.backend.common import dtypes

    monkeypatch.setitem(dtypes.BIT64_TO_BIT32_DTYPE, "float64", "float32")
    layer = keras.layers.GRU(H, dtype="float64", return_sequences=True)
    layer.build((N, T, D))
    assert layer.cell.kernel.value.dtype == np.float32
    assert_equal(layer, values(np.random.default_rng(13), (N, T, D)), dtype="float32")
    assert calls == ["gru_forward"]


LEFT_TO_KERAS = (
    ("LSTM", {"activation": "relu"}, None),
    ("LSTM", {"recurrent_activation": "hard_sigmoid"}, None),
    ("GRU", {"activation": None}, None),
    ("GRU", {"recurrent_dropout": 0.3}, None),
    ("LSTM", {"use_cudnn": False}, None),
    ("GRU", {"unroll": True, "return_sequences": True}, "left"),
)


@pytest.mark.parametrize(("kind", "options", "mask"), LEFT_TO_KERAS)
def test_what_is_left_to_keras(kind, options, mask, calls):
    rng = np.random.default_rng(8)
    layer = built(kind, rng, **options)
    assert_equal(layer, values(rng, (N, T, D)), mask=None if mask is None else masks(rng)[mask])
    assert calls == []


def test_half_precision_is_left_to_keras(calls):
    rng = np.random.default_rng(9)
    layer = keras.layers.GRU(H, dtype="float16", recurrent_initializer="glorot_uniform")
    theirs, found = both(layer, values(rng, (N, T, D), np.float16))
    np.testing.assert_array_equal(found, theirs)
    assert calls == []


def test_unroll_without_a_mask_runs_here(calls):
    rng = np.random.default_rng(10)
    assert_equal(built("LSTM", rng, unroll=True, return_sequences=True), values(rng, (N, T, D)))
    assert calls == ["lstm_forward"]


def test_use_cudnn_true_asks_for_a_hook():
    rng = np.random.default_rng(11)
    layer = built("LSTM", rng, use_cudnn=True)
    x = values(rng, (N, T, D))
    with pytest.raises(ValueError, match="cuDNN"):
        layer(x)
    ours.install()
    assert layer(x).shape == (N, H)


def test_inputs_are_never_written(calls):
    from support import digest

    rng = np.random.default_rng(12)
    layer = built("LSTM", rng, return_sequences=True, return_state=True, go_backwards=True)
    x, states = values(rng, (N, T, D)), [values(rng, (N, H)) for _ in range(2)]
    mask = masks(rng)["holes"]
    weights = [w.value for w in layer.weights]
    before = digest(x, states, mask, weights)
    ours.install()
    h, *_ = layer(x, initial_state=states, mask=mask)
    h[...] = 7
    h, *_ = layer(x, initial_state=states)
    h[...] = 7
    assert digest(x, states, mask, weights) == before


@pytest.mark.parametrize("H", [1, 8, 9, 17, 33])
def test_sizes(H):
    rng = np.random.default_rng(H)
    for kind in ("LSTM", "GRU"):
        layer = built(kind, rng, H=H, return_sequences=True)
        for N, T in ((1, 1), (1, 9), (9, 1), (17, 3)):
            x = values(rng, (N, T, D))
            assert_equal(layer, x)
            assert_equal(layer, x, mask=rng.random((N, T)) < 0.5)


KERAS_TESTS = """
import os, sys, pytest
from fastgate.compat import keras
keras.install()
hooked = []
for name in ("lstm_forward", "gru_forward", "lstm_ragged_forward", "gru_ragged_forward"):
    function = getattr(keras.fastgate, name)
    setattr(keras.fastgate, name, lambda *args, function=function, **words: hooked.append(1) or function(*args, **words))
status = pytest.main(["-q", "-c", os.devnull, "-p", "no:cacheprovider", "--rootdir", os.getcwd(), *sys.argv[1:]])
print("hooked", len(hooked))
sys.exit(status)
"""


def test_keras_own_tests_of_its_layers(tmp_path):
    """Those of its wheel, with the hooks in place."""
    folder = Path(keras.layers.LSTM.__init__.__code__.co_filename).parent
    files = [str(folder / f"{layer}_test.py") for layer in ("lstm", "gru", "bidirectional")]
    if not all(map(os.path.exists, files)):
        pytest.skip("this Keras came without its tests")
    command = [sys.executable, "-c", KERAS_TESTS, *files]
    run = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert int(re.search(r"(\d+) passed", run.stdout)[1]) >= 20
    assert int(re.search(r"hooked (\d+)", run.stdout)[1]) >= 20


def test_install_and_uninstall():
    from keras.src import backend, layers

    def state():
        hooks = [getattr(backend, name) for name in ("lstm", "gru", "bidirectional_lstm", "bidirectional_gru")]
        return [*hooks, layers.LSTM.inner_loop, layers.GRU.inner_loop]

    before = state()
    ours.uninstall()
    assert state() == before
    ours.install()
    assert state()[0] is ours.lstm
    after = state()
    ours.install()
    assert state() == after
    ours.uninstall()
    assert state() == before


def test_another_backend_is_refused(monkeypatch):
    from keras.src import backend

    monkeypatch.setattr(backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="KERAS_BACKEND: expected numpy, got jax"):
        ours.install()
