"""Weights of other libraries into layers and back, bit for bit; what layers then compute, beside those libraries; bad files."""

import functools
import importlib
import itertools
import json
import os
import subprocess
import sys
import tracemalloc
import warnings

import numpy as np
import pytest
from support import digest, permuted, values

import fastgate
from fastgate import weights
from fastgate.weights import _layers

TOLERANCE = {np.float32: 1e-6, np.float64: 1e-10}
N, T, D, H = 3, 5, 4, 6
STACKS = tuple(itertools.product((1, 2), (False, True)))  # num_layers, bidirectional
MERGED = tuple((*stack, merge) for stack in STACKS for merge in (("concat", "sum", "mean", "mul") if stack[1] else ("concat",)))
MIB = 2**20


def random_layer(kind, rng, *, input_size=D, hidden_size=H, dtype=np.float64, **options):
    """A layer whose every weight is drawn, biases too."""
    layer = getattr(fastgate, kind)(input_size, hidden_size, dtype=dtype, rng=0, **options)
    layer.parameters[...] = values(rng, layer.num_parameters, dtype, 0.4)
    return layer


def assert_same_weights(found, expected):
    assert type(found) is type(expected)
    assert found.config == expected.config
    np.testing.assert_array_equal(found.parameters.view(np.uint8), expected.parameters.view(np.uint8))


def forward(layer, x, *states):
    h, *ends, _ = layer.forward(x, *states, training=False)
    return [h, *ends]


def states_of(layer, rng, N=N):
    before, H = (layer.num_layers * layer.num_directions, N), layer.hidden_size
    sizes = (layer.proj_size or H, H) if isinstance(layer, fastgate.LSTM) else (H,)
    return [values(rng, (*before, size), layer.dtype, 0.7) for size in sizes]


def untold(options):
    """The options that weights do not tell."""
    return {name: value for name, value in options.items() if name != "proj_size"}


def assert_close(found, expected, atol):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol * max(1, abs(b).max()))


def refused(words, function, *args, kind=ValueError, **keywords):
    with pytest.raises(kind) as error:
        function(*args, **keywords)
    assert words in str(error.value), str(error.value)


@functools.cache
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed")


@functools.cache
def keras():
    os.environ.setdefault("KERAS_BACKEND", "numpy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pytest.importorskip("keras", minversion="3.0", reason="Keras is not installed", exc_type=ImportError)
    if found.backend.backend() != "numpy":
        pytest.skip("Keras runs on another backend than NumPy")
    return found


@functools.cache
def onnx():
    return pytest.importorskip("onnx", reason="onnx is not installed")


def test_reading_imports_none_of_the_libraries():
    code = """
import sys, numpy as np, fastgate, fastgate.weights as weights
layer = fastgate.GRU(3, 4, rng=0)
weights.from_torch(weights.to_torch(layer)); weights.from_keras(weights.to_keras(layer))
weights.to_safetensors(layer, sys.argv[1]); weights.from_safetensors(sys.argv[1])
try: weights.from_onnx(b"")
except ValueError: pass
print(sorted({"torch", "keras", "onnx", "safetensors", "ml_dtypes"} & sys.modules.keys()))
"""
    path = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"weights-{os.getpid()}.safetensors")
    try:
        found = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    finally:
        os.unlink(path)
    assert found.stdout.strip() == "[]"


def test_a_library_that_is_missing_is_named(monkeypatch):
    for name in ("onnx", "keras", "keras.src"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "fastgate.compat.onnx", raising=False)
    with pytest.raises(ImportError, match=r'fastgate.compat.onnx needs onnx: pip install "fastgate\[onnx\]"'):
        importlib.import_module("fastgate.compat.onnx")
    with pytest.raises(ImportError, match=r'to_onnx needs onnx: pip install "fastgate\[onnx\]"'):
        weights.to_onnx(fastgate.GRU(3, 4, rng=0))
    with pytest.raises(ImportError, match=r'fastgate.compat.keras needs Keras 3: pip install "fastgate\[keras\]"'):
        importlib.import_module("fastgate.compat.keras").install()


# --- PyTorch ---------------------------------------------------------------------------------------------------------

TORCH = (("RNN", {}), ("RNN", {"activation": "relu"}), ("LSTM", {}), ("LSTM", {"proj_size": 4}), ("GRU", {}))


@pytest.mark.parametrize("gate_order", [None, -1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("num_layers", "bidirectional"), STACKS)
@pytest.mark.parametrize(("kind", "options"), TORCH)
def test_torch_round_trip(kind, options, num_layers, bidirectional, dtype, gate_order):
    rng = np.random.default_rng(1)
    options = dict(options)
    if gate_order and kind != "RNN":
        options["gate_order"] = {"LSTM": "ofig", "GRU": "nzr"}[kind]
    for both in (True, False):
        sizes = {"num_layers": num_layers, "bidirectional": bidirectional, "b": both, "bh": both}
        layer = random_layer(kind, rng, dtype=dtype, **sizes, **options)
        state = weights.to_torch(layer, "a.b.")
        assert all(name.startswith("a.b.") and a.dtype == dtype and a.flags.c_contiguous for name, a in state.items())
        before = digest(state)
        again = weights.from_torch(state, "a.b.", **untold(options))
        assert_same_weights(again, layer)
        other = random_layer(kind, rng, dtype=dtype, **sizes, **options)
        assert weights.from_torch(state, "a.b.", layer=other) is other
        assert_same_weights(other, layer)
        assert digest(state) == before


def test_blocks_are_where_the_gate_order_says():
    rng = np.random.default_rng(2)
    layer = random_layer("LSTM", rng, gate_order="gofi", bh=True)
    state = weights.to_torch(layer)
    canonical = weights.from_torch(state)
    assert canonical.config["gate_order"] == "ifgo"
    for name, a in canonical.weights.items():
        np.testing.assert_array_equal(permuted(a, "ifgo", "gofi"), layer.weights[name])
    np.testing.assert_array_equal(state["weight_ih_l0"].T, canonical.weights["Wx0"])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("num_layers", "bidirectional"), STACKS)
@pytest.mark.parametrize(("kind", "options"), TORCH)
@pytest.mark.beside
@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")  # PyTorch's, about itself
def test_outputs_are_those_of_pytorch(kind, options, num_layers, bidirectional, bias, dtype):
    rng = np.random.default_rng(3)
    given = {"nonlinearity": options["activation"]} if "activation" in options else options
    module = getattr(torch().nn, kind)(
        D,
        H,
        num_layers,
        bias=bias,
        bidirectional=bidirectional,
        batch_first=True,
        dtype=getattr(torch(), dtype.__name__),
        **given,
    )
    for p in module.parameters():
        p.data = torch().from_numpy(values(rng, tuple(p.shape), dtype, 0.4))
    state = module.state_dict()
    layer = weights.from_torch(state, **untold(options))
    assert layer.dtype == dtype
    assert layer.config["b"] == layer.config["bh"] == bias
    x, states = values(rng, (N, T, D), dtype), states_of(layer, rng)
    with torch().no_grad():
        given = [torch().from_numpy(state) for state in states]
        h, ends = module(torch().from_numpy(x), given[0] if len(given) == 1 else tuple(given))
    expected = [h, *(ends if kind == "LSTM" else [ends])]
    assert_close(forward(layer, x, *states), [a.numpy() for a in expected], TOLERANCE[dtype])
    back = weights.to_torch(layer)
    assert back.keys() == state.keys()
    for name, a in back.items():
        np.testing.assert_array_equal(a, state[name].numpy())
    module.load_state_dict({name: torch().from_numpy(a) for name, a in back.items()})


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.beside
def test_weights_of_a_torch_cell(kind):
    cell = getattr(torch().nn, f"{kind}Cell")(D, H, dtype=torch().float64)
    layer = weights.from_torch(cell.state_dict())
    x = values(np.random.default_rng(4), (N, 1, D))
    with torch().no_grad():
        h = cell(torch().from_numpy(x[:, 0]))
    h = h[0] if kind == "LSTM" else h
    np.testing.assert_allclose(forward(layer, x)[1][0], h.numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_a_layer_with_one_bias_gives_torch_two(kind):
    rng = np.random.default_rng(5)
    for b, bh in ((True, False), (False, True)):
        layer = random_layer(kind, rng, b=b, bh=bh)
        again = weights.from_torch(weights.to_torch(layer))
        assert again.config["b"] is again.config["bh"] is True
        x, states = values(rng, (N, T, D)), states_of(layer, rng)
        for a, c in zip(forward(layer, x, *states), forward(again, x, *states), strict=True):
            np.testing.assert_array_equal(a, c)


def test_prefixes_and_names():
    rng = np.random.default_rng(6)
    state = weights.to_torch(random_layer("LSTM", rng, num_layers=2, bidirectional=True, bh=True), "encoder.rnn.")
    model = state | {"encoder.out.weight": np.ones((2, 2)), "decoder.weight_hh_l0": np.ones((2, 2))}
    assert weights.from_torch(model, "encoder.rnn.").num_layers == 2
    refused(
        "expected names as weight_ih_l0, got none; it has some under prefix='decoder.' or 'encoder.rnn.'",
        weights.from_torch,
        model,
    )
    refused("expected names as encoder.weight_ih_l0, got none; it has some under", weights.from_torch, model, "encoder.")
    refused("expected names as weight_ih_l0, got none", weights.from_torch, {})
    one = {name.removeprefix("encoder.rnn."): a for name, a in state.items()}
    for name in one:
        rest = {other: a for other, a in one.items() if other != name}
        refused(f"state: expected the weights of one module, got {name} missing", weights.from_torch, rest)
    refused("got dense.weight, scale not expected", weights.from_torch, one | {"dense.weight": np.ones(2), "scale": np.ones(2)})
    refused("not expected", weights.from_torch, one | {"weight_ih_l01": one["weight_ih_l0"]})
    refused("missing", weights.from_torch, one | {"weight_ih_l9999": one["weight_ih_l0"]})
    refused("got weight_ih not expected", weights.from_torch, one | {"weight_ih": one["weight_ih_l0"]})
    refused(
        "state: expected the weights of one module, got weight_hr_l0_reverse, weight_hr_l1, weight_hr_l1_reverse missing",
        weights.from_torch,
        one | {"weight_hr_l0": np.ones((3, 6))},
    )
    refused(
        "weight_hh_l0: expected (H, H), (3H, H) or (4H, H), got (24, 5)",
        weights.from_torch,
        one | {"weight_hh_l0": np.ones((24, 5))},
    )
    refused(
        "weight_ih_l1: expected (4H, D) = (24, 12), got (24, 6)", weights.from_torch, one | {"weight_ih_l1": np.ones((24, 6))}
    )
    refused(
        "bias_hh_l0_reverse: expected (4H,) = (24,), got (6,)", weights.from_torch, one | {"bias_hh_l0_reverse": np.ones(6)}
    )
    refused("weight_ih_l0: expected a matrix that is not empty", weights.from_torch, one | {"weight_ih_l0": np.ones((24, 0))})
    refused(
        "state: expected a mapping of names to arrays, got str; load it first", weights.from_torch, "model.pt", kind=TypeError
    )
    refused(
        "state: expected a mapping of names to arrays, got Module; pass module.state_dict()",
        weights.from_torch, type("Module", (), {"state_dict": dict})(), kind=TypeError,
    )  # fmt: skip
    refused("prefix: expected a str, got int", weights.from_torch, one, 7, kind=TypeError)
    refused("prefix: expected a str, got int", weights.to_torch, random_layer("RNN", rng), 7, kind=TypeError)
    assert weights.from_torch(one | {7: np.ones(3)}).num_layers == 2
    refused("weight_hh_l1: expected an array, got list", weights.from_torch, one | {"weight_hh_l1": [1.0]}, kind=TypeError)


def test_dtypes():
    rng = np.random.default_rng(7)
    layer = random_layer("GRU", rng, dtype=np.float32)
    state = weights.to_torch(layer)
    mixed = state | {"bias_ih_l0": state["bias_ih_l0"].astype(np.float64)}
    refused(
        "bias_ih_l0: expected float32 as weight_ih_l0, got float64; pass dtype=np.float32",
        weights.from_torch,
        mixed,
        kind=TypeError,
    )
    assert_same_weights(weights.from_torch(mixed, dtype=np.float32), layer)
    swapped = {name: a.astype(a.dtype.newbyteorder("S")) for name, a in state.items()}
    assert_same_weights(weights.from_torch(swapped), layer)
    readonly = {
        name: np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape) for name, a in state.items()
    }
    assert_same_weights(weights.from_torch(readonly), layer)  # and not aligned
    half = {name: a.astype(np.float16) for name, a in state.items()}
    refused(
        "expected float32 or float64, got float16; pass dtype=np.float32 to convert it",
        weights.from_torch,
        half,
        kind=TypeError,
    )
    found = weights.from_torch(half, dtype=np.float64)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found.weights["Wx0"], half["weight_ih_l0"].T.astype(np.float64))
    whole = state | {"bias_ih_l0": np.ones(18, np.int64)}
    refused("bias_ih_l0: expected float32 or float64, got int64", weights.from_torch, whole, kind=TypeError)
    refused("bias_ih_l0: expected float32 or float64, got int64", weights.from_torch, whole, dtype=np.float32, kind=TypeError)
    refused("dtype: expected float32 or float64, got float16", weights.from_torch, state, dtype=np.float16, kind=TypeError)
    for nonsense in ("nonsense", "f4,,"):
        refused(
            f"dtype: expected float32 or float64, got str '{nonsense}'",
            weights.from_torch,
            state,
            dtype=nonsense,
            kind=TypeError,
        )
    refused(
        "dtype: expected float32 as the layer, got float64", weights.from_torch, state, layer=layer, dtype=float, kind=TypeError
    )
    double = {name: a.astype(np.float64) for name, a in state.items()}
    refused("expected float32, got float64; pass dtype=np.float32", weights.from_torch, double, layer=layer, kind=TypeError)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.beside
def test_half_precision_tensors(dtype):
    module = torch().nn.LSTM(D, H).to(getattr(torch(), dtype))
    refused(
        f"expected float32 or float64, got {dtype}; pass dtype=np.float32",
        weights.from_torch,
        module.state_dict(),
        kind=TypeError,
    )
    layer = weights.from_torch(module.state_dict(), dtype=np.float32)
    for name, a in weights.to_torch(layer).items():
        np.testing.assert_array_equal(a, module.state_dict()[name].float().numpy())


@pytest.mark.beside
def test_tensors_of_a_training_are_read():
    module = torch().nn.GRU(D, H)
    layer = weights.from_torch(dict(module.named_parameters()))
    np.testing.assert_array_equal(layer.weights["Wh0"], module.weight_hh_l0.detach().numpy().T)
    before = module.weight_hh_l0.detach().clone()
    layer.parameters[...] = 0
    assert torch().equal(before, module.weight_hh_l0)


def test_a_layer_that_is_given_is_filled_or_unchanged():
    rng = np.random.default_rng(8)
    state = weights.to_torch(random_layer("LSTM", rng, num_layers=2, bh=True))
    target = random_layer("LSTM", rng, num_layers=2, bh=True, gate_order="gifo", dropout=0.25)
    before = target.parameters.copy()

    def unchanged(words, *args, kind=ValueError, **keywords):
        refused(words, weights.from_torch, *args, kind=kind, **keywords)
        np.testing.assert_array_equal(target.parameters, before)

    unchanged("weight_hh_l1: expected (4H, H) = (24, 6)", state | {"weight_hh_l1": np.ones((24, 7))}, layer=target)
    unchanged("bias_hh_l1 missing", {name: a for name, a in state.items() if name != "bias_hh_l1"}, layer=target)
    unchanged("got int64", state | {"bias_hh_l1": np.ones(24, np.int64)}, layer=target, kind=TypeError)
    unchanged("layer: expected dropout=0.5 as the weights have it, got 0.25", state, layer=target, dropout=0.5)
    assert weights.from_torch(state, layer=target) is target
    np.testing.assert_array_equal(permuted(target.weights["Wh1"], "gifo", "ifgo"), state["weight_hh_l1"].T)
    assert target.dropout == 0.25
    for other, words in (
        (random_layer("LSTM", rng, bh=True), "layer: expected num_layers=2 as the weights have it, got 1"),
        (random_layer("LSTM", rng, num_layers=2), "layer: expected bh=True as the weights have it, got False"),
        (random_layer("LSTM", rng, num_layers=2, bh=True, hidden_size=7), "layer: expected hidden_size=6"),
        (
            random_layer("LSTM", rng, num_layers=2, bh=True, bidirectional=True, merge="sum"),
            "layer: expected bidirectional=False",
        ),
        (random_layer("GRU", rng, num_layers=2), "layer: expected a fastgate.LSTM, got a GRU"),
    ):
        refused(words, weights.from_torch, state, layer=other)
    refused("layer: expected a fastgate.RNN, LSTM or GRU, got dict", weights.from_torch, state, layer={}, kind=TypeError)


def test_a_layer_is_unchanged_where_the_last_array_fails():
    state = weights.to_torch(random_layer("GRU", np.random.default_rng(8), bh=True))
    state["bias_hh_l0"][-1] = 1e300
    target = random_layer("GRU", np.random.default_rng(9), dtype=np.float32)
    before = target.parameters.copy()
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        weights.from_torch(state, layer=target, dtype=np.float32)
    np.testing.assert_array_equal(target.parameters, before)


def test_options_of_a_new_layer():
    rng = np.random.default_rng(9)
    state = weights.to_torch(random_layer("LSTM", rng, num_layers=2, bidirectional=True, bh=True))
    layer = weights.from_torch(state, dropout=0.5, gate_order="ogfi", rng=7)
    assert (layer.dropout, layer.config["gate_order"]) == (0.5, "ogfi")
    refused("weight_ih_l1: expected (4H, D) = (24, 6), got (24, 12)", weights.from_torch, state, merge="sum")
    refused("num_layers: expected it to be left out, the weights tell it (2), got 3", weights.from_torch, state, num_layers=3)
    refused("colour: expected an option of fastgate.LSTM", weights.from_torch, state, colour=1, kind=TypeError)
    refused("dropout: expected", weights.from_torch, state, dropout=2.0)
    gru = weights.to_torch(random_layer("GRU", rng))
    refused("reset: expected reset='after', got 'before'", weights.from_torch, gru, reset="before")


@pytest.mark.beside
def test_what_others_do_not_compute_is_not_written():
    onnx()
    rng = np.random.default_rng(10)
    state = weights.to_torch(random_layer("LSTM", rng, bh=True))
    refused("layer: expected reset='after', got 'before'", weights.to_torch, random_layer("GRU", rng, reset="before"))
    refused(
        "layer: expected activation='tanh' or 'relu', got 'sigmoid'",
        weights.to_torch,
        random_layer("RNN", rng, activation="sigmoid"),
    )
    two = random_layer("LSTM", rng, bidirectional=True, merge="sum")
    refused("layer: expected merge='concat', got 'sum'", weights.to_torch, two)
    for option in ({"peephole": True}, {"candidate": "sigmoid"}, {"coupled": True}, {"cell_clip": 1.0}, {"preact_clip": 1.0}):
        name = next(iter(option))
        layer = random_layer("LSTM", rng, b=True, bh=True, **option)
        refused(f"layer: expected {name}=", weights.to_torch, layer)
        refused(f"layer: expected {name}=", weights.to_keras, layer)
        refused(f"layer: expected {name}=", weights.from_torch, state, layer=layer)
        refused(f"{name}: expected {name}=", weights.from_torch, state, **option)
        if name in ("coupled", "cell_clip"):
            refused(f"layer: expected {name}=", weights.to_onnx, layer)
    projected = random_layer("LSTM", rng, bh=True, proj_size=4)
    refused("layer: expected proj_size=None, got 4", weights.to_keras, projected)
    refused("layer: expected proj_size=None, got 4", weights.to_onnx, projected)
    refused("layer: expected proj_size=None as the weights have it, got 4", weights.from_torch, state, layer=projected)
    refused("proj_size: expected it to be left out, the weights tell it (None), got 4", weights.from_torch, state, proj_size=4)
    refused("layer: expected update='old', got 'new'", weights.to_keras, random_layer("GRU", rng, update="new"))
    refused("layer: expected a fastgate.RNN, LSTM or GRU, got int", weights.to_torch, 3, kind=TypeError)


def test_a_layer_with_weights_to_come_draws_none(monkeypatch):
    """A drawn orthogonal matrix takes longer than the reading, and memory."""
    from fastgate.layers import _layer

    state = weights.to_torch(fastgate.LSTM(D, H, rng=0))
    monkeypatch.setattr(_layer.Layer, "_draw", None)
    assert weights.from_torch(state).num_parameters


# --- safetensors -----------------------------------------------------------------------------------------------------


def file_of(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


@pytest.fixture
def small(tmp_path):
    """(a layer, the bytes of its file)."""
    layer = random_layer("GRU", np.random.default_rng(11), dtype=np.float32)
    weights.to_safetensors(layer, tmp_path / "small.safetensors")
    return layer, (tmp_path / "small.safetensors").read_bytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("num_layers", "bidirectional"), STACKS)
@pytest.mark.parametrize(("kind", "options"), TORCH)
def test_safetensors_round_trip(kind, options, num_layers, bidirectional, dtype, tmp_path):
    rng = np.random.default_rng(12)
    layer = random_layer(kind, rng, dtype=dtype, num_layers=num_layers, bidirectional=bidirectional, b=True, bh=True, **options)
    path = tmp_path / "a.safetensors"
    weights.to_safetensors(layer, path, "x.")
    assert_same_weights(weights.from_safetensors(path, "x.", **untold(options)), layer)
    assert_same_weights(weights.from_safetensors(str(path), "x.", **untold(options)), layer)
    assert_same_weights(weights.from_safetensors(path.read_bytes(), "x.", **untold(options)), layer)
    assert os.listdir(tmp_path) == ["a.safetensors"]


@pytest.mark.beside
def test_files_of_the_safetensors_package(tmp_path):
    package = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    rng = np.random.default_rng(13)
    layer = random_layer("LSTM", rng, num_layers=2, bidirectional=True, bh=True)
    path = tmp_path / "ours"
    weights.to_safetensors(layer, path, "lstm.")
    for name, a in package.load_file(path).items():
        np.testing.assert_array_equal(a, weights.to_torch(layer, "lstm.")[name])
    other = {
        "ids": np.arange(7),
        "flags": np.array([True, False]),
        "scale": np.array(3, np.float32),
        "none": np.ones((0, 4), np.float16),
    }
    package.save_file(weights.to_torch(layer, "lstm.") | other, tmp_path / "theirs", metadata={"format": "pt", "a": "b"})
    assert_same_weights(weights.from_safetensors(tmp_path / "theirs", "lstm."), layer)
    half = {name: a.astype(np.float16) for name, a in weights.to_torch(layer).items()}
    package.save_file(half, tmp_path / "half")
    refused("got float16; pass dtype=np.float32", weights.from_safetensors, tmp_path / "half", kind=TypeError)
    found = weights.to_torch(weights.from_safetensors(tmp_path / "half", dtype=np.float32))
    for name, a in half.items():
        np.testing.assert_array_equal(found[name], a.astype(np.float32))


def test_bfloat16_is_the_upper_half_of_a_float32(small):
    state = weights.to_torch(small[0])
    start, header, halves = 0, {}, b""
    for name, a in state.items():
        upper = np.ascontiguousarray(a.view(np.uint16).reshape(*a.shape, 2)[..., 1])
        header[name] = {"dtype": "BF16", "shape": a.shape, "data_offsets": [start, start + upper.nbytes]}
        start, halves = start + upper.nbytes, halves + upper.tobytes()
    refused("got bfloat16; pass dtype=np.float32", weights.from_safetensors, file_of(header, halves), kind=TypeError)
    found = weights.to_torch(weights.from_safetensors(file_of(header, halves), dtype=np.float32))
    for name, a in state.items():
        np.testing.assert_array_equal(found[name].view(np.uint32), a.view(np.uint32) & 0xFFFF0000)


def entry(shape, start, dtype="F32", size=4):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, start + size * int(np.prod(shape, dtype=object))]}


def hostile_safetensors(data):
    """(what the error says, the file)."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    body = data[8 + length :]
    name = "weight_ih_l0"

    def changed(**fields):
        return file_of(header | {name: header[name] | fields}, body)

    huge = 2**62
    return [
        ("got 0 bytes", b""),
        ("got 7 bytes", data[:7]),
        ("got a header of", data[:8]),
        ("got a header of", data[: 7 + length]),
        ("bytes of data", data[:-1]),
        ("bytes of data", data + b"\0"),
        (f"a header of {2**63} bytes", file_of(b"{}", length=2**63)),
        (f"a header of {2**64 - 1} bytes", file_of(b"{}", length=2**64 - 1)),
        ("a header of at most", file_of(b" " * 2**21)),
        ("a header of JSON", file_of(b"\xff{}")),
        ("a header of JSON", file_of(b"{")),
        ("a header of JSON", file_of(b"[" * 100000)),
        ("a header of JSON", file_of(b'{"a":1,"a":2}')),
        ("expected names in the header", file_of(b"[]")),
        ("expected names as weight_ih_l0", file_of(b"{}")),
        ("expected dtype, shape and data_offsets", file_of({name: 7})),
        ("expected dtype, shape and data_offsets", file_of({name: {"shape": [1]}})),
        ("expected shape as a list of integers", changed(shape=7)),
        ("expected shape as a list of integers", changed(shape=[1] * 65)),
        ("expected shape of integers from 0 on", changed(shape=[18.0, 4])),
        ("expected shape of integers from 0 on", changed(shape=[-18, -4])),
        ("expected shape of integers from 0 on", changed(shape=[True, 4])),
        ("expected data_offsets as a list", changed(data_offsets=[0])),
        ("expected data_offsets of integers", changed(data_offsets=[0, 10**30])),
        ("expected data from byte", changed(data_offsets=[4, 292])),
        ("expected data from byte", changed(data_offsets=[288, 0])),
        (f"expected {4 * huge} bytes", changed(shape=[huge])),
        (f"expected {4 * huge**2} bytes", changed(shape=[huge, huge])),
        ("bytes for F32 [18, 5]", changed(shape=[18, 5])),
        ("bytes for F64", changed(dtype="F64")),
        ("bytes of data", file_of({name: entry([24, 4], 0), "weight_hh_l0": entry([24, 6], 384)}, b"\0" * 100)),
        # many names for one piece of data
        ("expected data from byte 4000", file_of({f"weight_ih_l{k}": entry([1000], 0) for k in range(100)}, b"\0" * 4000)),
        (
            "weight_ih_l0: expected (4H, D) = (24, ",
            file_of({name: entry([0, huge], 0), "weight_hh_l0": entry([24, 6], 0)}, b"\0" * 576),
        ),
        (
            "expected (H, H), (3H, H) or (4H, H), got (0, 0)",
            file_of({name: entry([0, huge], 0), "weight_hh_l0": entry([0, 0], 0)}),
        ),
    ]


def test_hostile_safetensors(small, tmp_path):
    _, data = small
    path = tmp_path / "hostile"
    for words, hostile in hostile_safetensors(data):
        for source in (hostile, path):
            path.write_bytes(hostile)
            tracemalloc.start()
            try:
                refused(words, weights.from_safetensors, source)
                assert tracemalloc.get_traced_memory()[1] < len(hostile) + 64 * MIB
            finally:
                tracemalloc.stop()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    body = data[8 + int.from_bytes(data[:8], "little") :]
    whole = file_of(header | {"bias_ih_l0": header["bias_ih_l0"] | {"dtype": "I32"}}, body)
    refused("bias_ih_l0: expected float32 or float64, got I32", weights.from_safetensors, whole, kind=TypeError)
    unknown = file_of(header | {"bias_ih_l0": header["bias_ih_l0"] | {"dtype": "F4_E2M1"}}, body)
    refused("bias_ih_l0: expected float32 or float64, got F4_E2M1", weights.from_safetensors, unknown, kind=TypeError)


def test_only_regular_files_are_read(tmp_path):
    for read in (weights.from_safetensors, weights.from_onnx):
        refused("source: expected a file", read, tmp_path)
        refused("source: expected a file", read, "/dev/zero")
        os.mkfifo(tmp_path / "pipe")
        refused("source: expected a file", read, tmp_path / "pipe")
        os.unlink(tmp_path / "pipe")
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "missing")
        refused("source: expected a path or bytes of", read, 7, kind=TypeError)
    layer = random_layer("RNN", np.random.default_rng(17), bh=True)
    weights.to_safetensors(layer, os.fsencode(tmp_path / "bytes"))
    assert_same_weights(weights.from_safetensors(tmp_path / "bytes"), layer)
    refused("path: expected a path, got int", weights.to_safetensors, layer, 7, kind=TypeError)


def damaged(rng, data, count):
    """Files with some bytes changed, cut out or put in."""
    for _ in range(count):
        found = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(0, min(len(found), 700)))
            what = rng.integers(0, 4)
            if what == 0:
                found[at] = rng.integers(0, 256)
            elif what == 1:
                del found[at : at + int(rng.integers(1, 9))]
            elif what == 2:
                found[at:at] = rng.bytes(int(rng.integers(1, 9)))
            else:
                del found[int(rng.integers(0, len(found))) :]
            if not found:
                break
        yield bytes(found)


def test_damaged_safetensors_are_an_error_or_a_layer(small):
    _, data = small
    layers = 0
    for hostile in damaged(np.random.default_rng(14), data, 2000):
        try:
            weights.from_safetensors(hostile)
            layers += 1
        except (ValueError, TypeError):
            pass
    assert layers < 1500


PEAK = """
import sys
import numpy as np, fastgate.layers, fastgate.weights as weights
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
weights.from_torch(weights.to_torch(fastgate.LSTM(3, 4, rng=0)))
before, found = peak(), ""
try:
    found = getattr(weights, sys.argv[1])(sys.argv[2]).num_parameters
except ValueError as error:
    found = error
print(peak() - before, str(found)[:100], sep=";")
"""
sparing = pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="a sanitizer keeps what is freed")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def peak_of(function, path):
    """(bytes that reading a file took at most, number of the layer's parameters or the error), in a process of its own."""
    found = subprocess.run([sys.executable, "-c", PEAK, function, str(path)], capture_output=True, text=True, check=True)
    taken, rest = found.stdout.strip().split(";", 1)
    return int(taken), rest


@functools.cache
def large_layer():
    """48 MiB of weights; none of them 0, which would take no memory."""
    G, D, H = 4, 2000, 1024
    shapes = {"weight_ih_l0": (G * H, D), "weight_hh_l0": (G * H, H), "bias_ih_l0": (G * H,), "bias_hh_l0": (G * H,)}
    return weights.from_torch({name: np.full(shape, 0.1, np.float32) for name, shape in shapes.items()})


@sparing
@on_linux
def test_reading_a_large_safetensors_file_takes_its_size(tmp_path):
    path = tmp_path / "large"
    weights.to_safetensors(large_layer(), path)
    taken, count = peak_of("from_safetensors", path)
    assert int(count) == large_layer().num_parameters
    assert path.stat().st_size < taken < path.stat().st_size + 24 * MIB  # of 64 that are promised


@sparing
@on_linux
@pytest.mark.parametrize("piece", [b'{"":0},', b"{},"])
def test_the_largest_header_takes_little_memory(piece, tmp_path):
    """The JSON that becomes most Python objects per byte."""
    text = b'{"a":[' + piece * ((2**20 - 20) // len(piece))
    (tmp_path / "header").write_bytes(file_of(text[:-1] + b"]}"))
    taken, error = peak_of("from_safetensors", tmp_path / "header")
    assert "expected dtype, shape and data_offsets" in error
    assert taken < 48 * MIB


# --- Keras -----------------------------------------------------------------------------------------------------------

KERAS = (
    ("RNN", {}),
    ("LSTM", {}),
    ("GRU", {"reset": "after"}),
    ("GRU", {"reset": "before"}),
)


def keras_layer(layer, k=0):
    """The Keras layer of the kind and sizes of one stacked layer."""
    config = layer.config
    options = {"use_bias": config["b"] or config["bh"], "return_sequences": True, "return_state": True}
    options |= {"reset_after": config["reset"] == "after"} if "reset" in config else {}
    kind = {"RNN": "SimpleRNN"}.get(type(layer).__name__, type(layer).__name__)
    found = getattr(keras().layers, kind)(layer.hidden_size, dtype=layer.dtype.name, **options)
    if layer.bidirectional:
        merge = {"mean": "ave"}.get(layer.merge, layer.merge)
        found = keras().layers.Bidirectional(found, merge_mode=merge, dtype=layer.dtype.name)
    found.build((N, T, layer.input_size if k == 0 else layer.output_size))
    return found


def get_weights(layer):
    """keras_layer.get_weights(), which warns under NumPy 2."""
    return [np.array(w.value) for w in layer.weights]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("num_layers", "bidirectional"), STACKS)
@pytest.mark.parametrize(("kind", "options"), KERAS)
def test_keras_round_trip(kind, options, num_layers, bidirectional, dtype, bias):
    rng = np.random.default_rng(15)
    bh = bias and options.get("reset") == "after"
    layer = random_layer(kind, rng, dtype=dtype, num_layers=num_layers, bidirectional=bidirectional, b=bias, bh=bh, **options)
    rows = weights.to_keras(layer)
    assert [len(row) for row in rows] == [(2 + bias) * (1 + bidirectional)] * num_layers
    before = digest(rows)
    given = {} if bias else options
    assert_same_weights(weights.from_keras(rows, **given), layer)
    if num_layers == 1:
        assert_same_weights(weights.from_keras(rows[0], **given), layer)
    other = random_layer(kind, rng, dtype=dtype, num_layers=num_layers, bidirectional=bidirectional, b=bias, bh=bh, **options)
    assert weights.from_keras(rows, layer=other) is other
    assert_same_weights(other, layer)
    assert digest(rows) == before


@pytest.mark.parametrize(("num_layers", "bidirectional", "merge"), MERGED)
@pytest.mark.parametrize(("kind", "options"), KERAS)
@pytest.mark.beside
def test_outputs_are_those_of_keras(kind, options, num_layers, bidirectional, merge, monkeypatch):
    keras()
    from keras.src.backend.common import dtypes

    monkeypatch.setitem(dtypes.BIT64_TO_BIT32_DTYPE, "float64", "float64")  # Keras computes in float32 on NumPy
    rng = np.random.default_rng(16)
    for both in (True, False):
        layer = random_layer(
            kind, rng, num_layers=num_layers, bidirectional=bidirectional, merge=merge, b=both, bh=both, **options
        )
        x = values(rng, (N, T, D))
        y, states, rows = x, [], []
        for k, row in enumerate(weights.to_keras(layer)):
            theirs = keras_layer(layer, k)
            theirs.set_weights(row)
            y, *ends = theirs(y)
            states += ends
            rows.append(get_weights(theirs))
        step = 1 + (kind == "LSTM")
        expected = [y, *(np.stack(states[k::step]) for k in range(step))]
        assert_close(forward(layer, x), expected, 1e-10)
        assert_close(forward(weights.from_keras(rows, merge=merge, **({} if both else options)), x), expected, 1e-10)


def test_keras_adds_two_biases_where_it_has_one():
    rng = np.random.default_rng(17)
    layer = random_layer("LSTM", rng, bh=True)
    np.testing.assert_array_equal(weights.to_keras(layer)[0][2], layer.weights["b0"] + layer.weights["bh0"])
    layer = random_layer("GRU", rng, b=False)
    bias = weights.to_keras(layer)[0][2]
    np.testing.assert_array_equal(bias, [np.zeros(18), permuted(layer.weights["bh0"], "rzn", "zrn")])


def test_bad_keras_weights():
    rng = np.random.default_rng(18)
    good = weights.to_keras(random_layer("GRU", rng, num_layers=2))
    kernel, recurrent, bias = good[0]
    read = weights.from_keras
    refused("weights: expected a list of arrays, or of such lists, got dict", read, {"a": 1}, kind=TypeError)
    refused("weights: expected a list of arrays, or of such lists, got none", read, [], kind=TypeError)
    refused("weights: expected a list of arrays, or of such lists, got ndarray", read, kernel, kind=TypeError)
    keras_layer = type("LSTM", (), {"get_weights": list})()
    hint = "got LSTM; pass keras_layer.get_weights()"
    refused(f"weights: expected a list of arrays, or of such lists, {hint}", read, keras_layer, kind=TypeError)
    refused(f"weights[0]: expected an array, or a list of them, {hint}", read, [keras_layer], kind=TypeError)
    model = type("Sequential", (), {"get_weights": list, "layers": [keras_layer]})()
    refused("got Sequential; pass model.layers[k].get_weights(), of its recurrent layers", read, model, kind=TypeError)
    refused("weights: expected 2 or 3 arrays per layer", read, [kernel])
    refused("weights: expected 2 or 3 arrays per layer", read, [kernel] * 5)
    refused("weights: expected 2 or 3 arrays per layer", read, [[]])
    refused("the same in all, got [2, 3]", read, [good[0], good[1][:2]])
    refused("weights[1]: expected a list of arrays, got ndarray", read, [good[0], kernel], kind=TypeError)
    refused("weights[2] (bias): expected an array, got list", read, [kernel, recurrent, [1.0]], kind=TypeError)
    refused(
        "weights[1] (recurrent_kernel): expected (H, H), (H, 3H) or (H, 4H), got (18, 6)", read, [kernel, recurrent.T, bias]
    )
    refused("weights[0] (kernel): expected (D, 3H) = (4, 18), got (4, 17)", read, [kernel[:, :-1], recurrent, bias])
    refused("weights[2] (bias): expected (2, 3H) = (2, 18), got (3, 18)", read, [kernel, recurrent, np.ones((3, 18))])
    refused("weights[2] (bias): expected (2, 3H) = (2, 18), got (2, 17)", read, [kernel, recurrent, bias[:, :-1]])
    refused("weights[1][0] (kernel): expected (D, 3H) = (6, 18), got (4, 18)", read, [good[0], good[0]])
    refused("weights[2] (bias): expected the shape for reset=", read, [kernel, recurrent, bias], reset="before")
    refused("weights[1][2] (bias): expected (2, 3H)", read, [good[0], [*good[1][:2], np.ones(18)]])
    half = [a.astype(np.float16) for a in good[0]]
    refused("weights[0] (kernel): expected float32 or float64, got float16; pass dtype", read, half, kind=TypeError)
    assert read(half, dtype=np.float32).dtype == np.float32


# --- ONNX ------------------------------------------------------------------------------------------------------------

ONNX = (
    ("RNN", {"activation": "tanh"}),
    ("RNN", {"activation": "identity"}),
    ("LSTM", {}),
    ("LSTM", {"gate_order": "fgio"}),
    ("LSTM", {"gate_order": "ogfi", "peephole": True, "candidate": "sigmoid", "preact_clip": 0.5}),
    ("GRU", {"reset": "after"}),
    ("GRU", {"reset": "before"}),
    ("GRU", {"reset": "before", "candidate": "sigmoid"}),
    ("GRU", {"gate_order": "nzr", "candidate": "sigmoid"}),
)


def sessions():
    """Functions (model, inputs) -> outputs: the evaluator of onnx, ONNX Runtime where it is installed."""
    reference = pytest.importorskip("onnx.reference", reason="onnx is not installed")
    found = {np.float64: lambda model, inputs: reference.ReferenceEvaluator(model).run(None, inputs)}
    try:
        import onnxruntime
    except ImportError:
        return found
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    found[np.float32] = lambda model, inputs: onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    ).run(None, inputs)
    return found


@pytest.mark.parametrize(("num_layers", "bidirectional", "merge"), MERGED)
@pytest.mark.parametrize(("kind", "options"), ONNX)
@pytest.mark.beside
def test_a_layer_as_a_model_of_onnx(kind, options, num_layers, bidirectional, merge):
    onnx()
    rng = np.random.default_rng(19)
    for dtype, run in sessions().items():
        if dtype == np.float64 and (options.get("activation", "tanh") != "tanh" or "candidate" in options):
            continue  # the evaluator of onnx knows no such activations and no clip
        for b, bh in ((True, True), (True, False), (False, True), (False, False)):
            layer = random_layer(
                kind, rng, dtype=dtype, num_layers=num_layers, bidirectional=bidirectional, merge=merge, b=b, bh=bh, **options
            )
            x, states = values(rng, (N, T, D), dtype), states_of(layer, rng)
            model = weights.to_onnx(layer)
            onnx().checker.check_model(model, full_check=True)
            assert_close(run(model, {"x": x}), forward(layer, x), TOLERANCE[dtype])
            model = weights.to_onnx(layer, states=True, opset=18)
            given = dict(zip(("h0", "c0"), states, strict=False))
            assert_close(run(model, {"x": x} | given), forward(layer, x, *states), TOLERANCE[dtype])
            if dtype == np.float32:
                model, lengths = weights.to_onnx(layer, lengths=True), np.int32([5, 2, 4])
                h, *ends, _ = layer.forward(x, lengths=lengths)
                assert_close(run(model, {"x": x, "lengths": lengths}), [h, *ends], TOLERANCE[dtype])


@pytest.mark.parametrize(("num_layers", "bidirectional"), STACKS)
@pytest.mark.parametrize(("kind", "options"), ONNX)
@pytest.mark.beside
def test_onnx_round_trip(kind, options, num_layers, bidirectional, tmp_path):
    onnx()
    rng = np.random.default_rng(20)
    kept = {name: value for name, value in options.items() if name == "gate_order"}
    for both in (True, False):
        layer = random_layer(kind, rng, num_layers=num_layers, bidirectional=bidirectional, b=both, bh=both, **options)
        model = weights.to_onnx(layer)
        nodes = [node.output[0] for node in model.graph.node if node.op_type == kind]
        path = tmp_path / "model.onnx"
        onnx().save(model, path)
        for source in (model, path, str(path), path.read_bytes()):
            assert_same_weights(weights.from_onnx(source, nodes, **kept), layer)
        if num_layers == 1:
            assert_same_weights(weights.from_onnx(path, **kept), layer)
        other = random_layer(kind, rng, num_layers=num_layers, bidirectional=bidirectional, b=both, bh=both, **options)
        assert weights.from_onnx(path, nodes, layer=other) is other
        assert_same_weights(other, layer)


@pytest.mark.beside
def test_weights_that_an_onnx_model_stores_otherwise(tmp_path):
    helper, TensorProto = onnx().helper, onnx().TensorProto
    rng = np.random.default_rng(21)
    for dtype, kind, place in ((np.float32, TensorProto.FLOAT, "float_data"), (np.float64, TensorProto.DOUBLE, "double_data")):
        layer = random_layer("GRU", rng, dtype=dtype)
        model = weights.to_onnx(layer)
        for tensor in model.graph.initializer:
            if tensor.data_type == kind:
                a = onnx().numpy_helper.to_array(tensor)
                tensor.ClearField("raw_data")
                getattr(tensor, place).extend(a.ravel().tolist())
        assert_same_weights(weights.from_onnx(model), layer)
    model = weights.to_onnx(layer)
    for name in ("W0", "B0"):  # as a node instead of an initializer
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        model.graph.node.insert(0, helper.make_node("Constant", [], [name], value=tensor))
        model.graph.initializer.remove(tensor)
    assert_same_weights(weights.from_onnx(model), layer)
    onnx().save(weights.to_onnx(layer), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    assert (tmp_path / "m.data").stat().st_size >= layer.parameters.nbytes
    assert_same_weights(weights.from_onnx(tmp_path / "m.onnx"), layer)
    refused(
        "expected its data in the model, got it in the file 'm.data'", weights.from_onnx, (tmp_path / "m.onnx").read_bytes()
    )
    for hostile in ("../m.data", "/etc/passwd", "m.onnx/../../m.data", ""):
        model = onnx().load(tmp_path / "m.onnx", load_external_data=False)
        for tensor in model.graph.initializer:
            for pair in tensor.external_data:
                if pair.key == "location":
                    pair.value = hostile
        (tmp_path / "hostile.onnx").write_bytes(model.SerializeToString())
        refused("expected data below the directory of the model", weights.from_onnx, tmp_path / "hostile.onnx")
    for key, value in (("length", "99999999999"), ("offset", "-1"), ("offset", "x"), ("offset", str(2**63))):
        model = onnx().load(tmp_path / "m.onnx", load_external_data=False)
        for tensor in model.graph.initializer:
            for pair in tensor.external_data:
                if pair.key == key:
                    pair.value = value
        (tmp_path / "hostile.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(ValueError, match=r"expected data within|expected numbers as offset"):
            weights.from_onnx(tmp_path / "hostile.onnx")
    (tmp_path / "m.data").unlink()
    refused("expected its data in the file 'm.data', got none there", weights.from_onnx, tmp_path / "m.onnx")


@pytest.mark.beside
def test_half_precision_in_onnx():
    onnx()
    layer = random_layer("LSTM", np.random.default_rng(22), dtype=np.float32)
    model = weights.to_onnx(layer)
    halves = {}
    for tensor in model.graph.initializer:
        if tensor.name in ("W0", "R0", "B0"):
            halves[tensor.name] = onnx().numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(onnx().numpy_helper.from_array(halves[tensor.name], tensor.name))
    refused("W0: expected float32 or float64, got float16; pass dtype=np.float32", weights.from_onnx, model, kind=TypeError)
    found = weights.from_onnx(weights.to_onnx(weights.from_onnx(model, dtype=np.float32)))
    np.testing.assert_array_equal(
        weights.to_onnx(found).graph.initializer[0].raw_data, halves["W0"].astype(np.float32).tobytes()
    )


@pytest.mark.beside
def test_which_nodes_of_a_model():
    onnx()
    rng = np.random.default_rng(23)
    model = weights.to_onnx(random_layer("LSTM", rng, num_layers=2))
    read = weights.from_onnx
    listed = "the recurrent nodes are: LSTM 'Y0', LSTM 'Y1'"
    refused(f"node: expected the name of one, or a list of names; {listed}", read, model)
    refused(f"node: expected the name of one node, got 'Z'; {listed}", read, model, "Z")
    refused("node: expected a name or a list of names, got none", read, model, [])
    refused("node: expected a name, a list of names or None, got int", read, model, 0, kind=TypeError)
    assert read(model, "Y1").input_size == H
    model.graph.node[1].name = "first"
    assert read(model, "first").input_size == D
    refused("W0[0]: expected (4H, D) = (24, 6), got (24, 4)", read, model, ["Y1", "first"])
    other = weights.to_onnx(random_layer("GRU", rng))
    for node in other.graph.node:
        if node.op_type == "GRU":
            node.input[1:4] = ["GW", "GR", "GB"]
            node.output[0] = "G"
            model.graph.node.append(node)
    for tensor in other.graph.initializer:
        if tensor.name in ("W0", "R0", "B0"):
            tensor.name = "G" + tensor.name[0]
            model.graph.initializer.append(tensor)
    assert isinstance(read(model, "G"), fastgate.GRU)
    refused("node: expected nodes of one kind and direction", read, model, ["first", "G"])
    refused("reset: expected it to be left out, the node tells it ('after'), got 'before'", read, model, "G", reset="before")
    refused("coupled: expected coupled=False, got True", read, model, "Y1", coupled=True)
    clipped = random_layer("LSTM", rng, input_size=H, bh=True, cell_clip=0.5)
    refused("layer: expected cell_clip=None, got 0.5", read, model, "Y1", layer=clipped)
    empty = onnx().helper.make_model(onnx().helper.make_graph([], "empty", [], []))
    refused("the recurrent nodes are: none", read, empty)


@pytest.mark.beside
def test_weights_that_an_onnx_model_computes():
    onnx()
    model = weights.to_onnx(random_layer("LSTM", np.random.default_rng(24)))
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "R0")
    tensor.name = "before"
    model.graph.node.insert(0, onnx().helper.make_node("Neg", ["before"], ["R0"]))
    refused("R0: expected R among the initializers, got none", weights.from_onnx, model)


def varint(value):
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def message(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def test_hostile_onnx(tmp_path):
    path = tmp_path / "hostile.onnx"
    node = message(1, message(1, b"x") + message(1, b"W") + message(1, b"R") + message(2, b"Y") + message(4, b"RNN"))

    def tensor(name, dims, data, kind=1):
        return message(
            5, b"".join(b"\x08" + varint(d) for d in dims) + b"\x10" + varint(kind) + message(8, name) + message(9, data)
        )

    good = tensor(b"W", [1, 2, 3], b"\0" * 24), tensor(b"R", [1, 2, 2], b"\0" * 16)
    assert weights.from_onnx(message(7, node + b"".join(good))).hidden_size == 2
    cases = {
        "without a graph": b"",
        "cut short or none": b"\x3a\x7f",
        "or none": b"\x80" * 40,
        "expected at most 256 recurrent nodes, got more": message(7, node * 300),
        "expected at most 4096 bytes": message(7, message(1, message(4, b"RNN") + message(3, b"a" * 5000))),
        "expected at most 32 parts": message(7, message(1, message(4, b"RNN") + message(1, b"a") * 40)),
        "W: expected 4611686018427387904 bytes for (1, 1073741824, 1073741824), got 24": message(
            7, node + tensor(b"W", [1, 2**30, 2**30], b"\0" * 24) + good[1]
        ),
        "R: expected 12 bytes for (1, 1, 3), got 16": message(7, node + good[0] + tensor(b"R", [1, 1, 3], b"\0" * 16)),
        "R: expected a shape": message(7, node + good[0] + tensor(b"R", [2**64 - 1], b"\0" * 16)),
        "R: expected (num_directions, H, H)": message(7, node + good[0] + tensor(b"R", [4], b"\0" * 16)),
        "W: expected (num_directions, H, D)": message(7, node + tensor(b"W", [6], b"\0" * 24) + good[1]),
        "expected its data in one piece": message(7, node + good[0] + message(5, b"\x08\x04\x10\x01" + message(8, b"R"))),
        "R[0]: expected a matrix that is not empty": message(
            7, node + tensor(b"W", [1, 0, 3], b"") + tensor(b"R", [1, 0, 0], b"")
        ),
        "hidden_size: expected H = 2 as R, got 9": message(
            7, node[:0] + message(1, node[2:] + message(5, message(1, b"hidden_size") + b"\x18\x09")) + b"".join(good)
        ),
    }
    for words, hostile in cases.items():
        path.write_bytes(hostile)
        for source in (hostile, path):
            tracemalloc.start()
            try:
                refused(words, weights.from_onnx, source)
                assert tracemalloc.get_traced_memory()[1] < len(hostile) + 64 * MIB
            finally:
                tracemalloc.stop()
    for name, value, words in (  # a value of another kind than the name's, or none
        (b"activations", b"\x18\x05", None),
        (b"direction", b"\x18\x05", None),
        (b"clip", b"\x3d\0\0\0\0", "clip: expected a number > 0, got 0"),
        (b"clip", message(2, b""), "a message of another kind"),
        (b"hidden_size", message(3, b""), "a message of another kind"),
        (b"hidden_size", b"\x3d\0\0\0\0", "hidden_size: expected H = 2 as R, got 0"),
    ):
        attribute = message(5, message(1, name) + value)
        hostile = message(7, message(1, node[2:] + attribute) + b"".join(good))
        if words is None:
            assert weights.from_onnx(hostile).hidden_size == 2
        else:
            refused(words, weights.from_onnx, hostile)
    wrong = message(7, node + good[0] + tensor(b"R", [1, 2, 2], b"\0" * 32, kind=7))
    refused("R: expected float or double, got TensorProto.DataType 7", weights.from_onnx, wrong, kind=TypeError)


@pytest.mark.beside
def test_damaged_onnx_files_are_an_error_or_a_layer():
    onnx()
    rng, layers, words = np.random.default_rng(25), 0, set()
    for layer in (
        random_layer("GRU", rng, dtype=np.float32),
        random_layer("LSTM", rng, peephole=True, candidate="sigmoid", preact_clip=2.0),
        random_layer("RNN", rng, activation="identity", bidirectional=True),
    ):
        for hostile in damaged(np.random.default_rng(26), weights.to_onnx(layer).SerializeToString(), 2000):
            try:
                weights.from_onnx(hostile)
                layers += 1
            except (ValueError, TypeError) as error:
                words.add(str(error))
    assert layers < 4500
    assert all("expected" in text for text in words), [text for text in words if "expected" not in text]


def test_weights_that_are_used_twice():
    """A small file must not become a large layer."""
    n = 3000
    data = message(7, message(1, message(1, b"x") + message(1, b"W") * 2 + message(2, b"Y") + message(4, b"RNN")) + message(
        5, b"\x08\x01\x08" + varint(n) + b"\x08" + varint(n) + b"\x10\x01" + message(8, b"W") + message(9, b"\0" * (4 * n * n))
    ))  # fmt: skip
    refused("source: expected weights that are stored once, got 72000000 bytes of them from 36000", weights.from_onnx, data)


@on_linux
@pytest.mark.beside
def test_reading_a_large_onnx_file_takes_its_size(tmp_path):
    path = tmp_path / "large.onnx"
    onnx().save(weights.to_onnx(large_layer()), path)
    taken, count = peak_of("from_onnx", path)
    assert int(count) == large_layer().num_parameters
    assert path.stat().st_size < taken < path.stat().st_size + 24 * MIB


@sparing
@on_linux
@pytest.mark.parametrize("piece", [b"\x0a\x00", message(1, message(2, b"x" * 40) + message(4, b"LSTM")), message(5, b"")])
def test_many_small_parts_take_little_memory(piece, tmp_path):
    for count in (2**17, 2**18 + 1):
        (tmp_path / "parts").write_bytes(message(7, piece * count))
        taken, error = peak_of("from_onnx", tmp_path / "parts")
        assert error.startswith(("node: expected", "source: expected at most"))
        assert taken < 16 * MIB


@pytest.mark.beside
def test_the_words_of_to_onnx():
    onnx()
    layer = random_layer("GRU", np.random.default_rng(27))
    for opset in (17, 23, True, "22"):
        refused("opset: expected 18..22", weights.to_onnx, layer, opset=opset)
    refused("layer: expected a fastgate.RNN, LSTM or GRU, got None", weights.to_onnx, None, kind=TypeError)


def test_every_cell_of_layers_is_known():
    assert {"RNN", "LSTM", "GRU"} == set(_layers.CELLS)
