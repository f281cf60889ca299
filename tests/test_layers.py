"""RNN, LSTM and GRU layers: stacks and directions of the public functions, their weights and gradients in one array."""

import copy
import re

import numpy as np
import pytest
from support import CELLS as ALL
from support import VARIANTS as ALL_VARIANTS
from support import assert_same, bits, digest, permuted, values, variant_id

import fastgate

CELLS = [cell for cell in ALL if hasattr(fastgate, cell.name.upper())]  # a cell need not have a layer
VARIANTS = [(cell, options) for cell, options in ALL_VARIANTS if cell in CELLS]
MERGES = ("concat", "sum", "mean", "mul")
SHAPES = ((1, False, "concat"), (3, False, "concat"), *((2, True, merge) for merge in MERGES), (1, True, "mul"))

variants = pytest.mark.parametrize("variant", VARIANTS, ids=variant_id)
cells = pytest.mark.parametrize("cell", CELLS, ids=repr)
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape)))


def kind(cell):
    return getattr(fastgate, cell.name.upper())


def make(cell, D=3, H=5, *, num_layers=2, bidirectional=True, merge="concat", dtype=np.float64, rng=0, **options):
    """A layer whose weights, biases too, are all random."""
    options = {"b": True, "bh": True} | options
    layer = kind(cell)(D, H, num_layers=num_layers, bidirectional=bidirectional, merge=merge, dtype=dtype, rng=rng, **options)
    layer.parameters[...] = values(np.random.default_rng(rng), layer.parameters.shape, dtype, 0.6)
    return layer


def states(cell, layer, rng, N, names=("h0", "c0")):
    shape = (layer.num_layers * layer.num_directions, N, layer.hidden_size)
    return {name: values(rng, shape, layer.dtype, 0.7) for name in names[: 1 + cell.has_c]}


def data(cell, layer, rng, N=4, T=6):
    """(x and initial states, upstream gradients)."""
    x = values(rng, (N, T, layer.input_size), layer.dtype)
    dh = values(rng, (N, T, layer.output_size), layer.dtype)
    return {"x": x} | states(cell, layer, rng, N), {"dh": dh} | states(cell, layer, rng, N, ("dh_T", "dc_T"))


def results(forward):
    return {name: a for name, a in forward._asdict().items() if name != "cache" and a is not None}


def run(layer, given, upstream, **options):
    """All results of forward and backward by name."""
    found = layer.forward(**given, **options)
    gradients = layer.backward(cache=found.cache, **upstream)
    return results(found) | gradients._asdict() | {f"d{name}": a.copy() for name, a in layer.grads.items()}


def by_hand(cell, layer, given, upstream, options, lengths=None):
    """The same from the public functions, one call for each layer and direction."""
    x, W, dirs, keep, finals = given["x"], layer.weights, layer.num_directions, [], []
    for k in range(layer.num_layers):
        outputs = []
        for d in range(dirs):
            suffix, s = ("", "_reverse")[d], k * dirs + d
            initial = [given[name][s] for name in cell.states()]
            bh = W.get(f"bh{k}{suffix}")
            found = cell.function(fastgate, "forward")(
                x, *initial, W[f"Wx{k}{suffix}"], W[f"Wh{k}{suffix}"], W.get(f"b{k}{suffix}"), bh=bh, lengths=lengths,
                reverse=d == 1, **options,
            )  # fmt: skip
            outputs.append(found)
            finals.append(found[1:-1])
        hs = [found.h for found in outputs]
        if dirs == 1:
            x = hs[0]
        else:
            x = {
                "concat": lambda hs=hs: np.concatenate(hs, axis=2),
                "sum": lambda hs=hs: hs[0] + hs[1],
                "mean": lambda hs=hs: (hs[0] + hs[1]) / 2,
                "mul": lambda hs=hs: hs[0] * hs[1],
            }[layer.merge]()
        keep.append((outputs, hs))
    results = {"h": x} | {name: np.stack([f[i] for f in finals]) for i, name in enumerate(("h_T", "c_T")[: 1 + cell.has_c])}
    dx, firsts = upstream["dh"], {}
    for k in reversed(range(layer.num_layers)):
        outputs, hs = keep[k]
        if dirs == 1:
            parts = [dx]
        else:
            H = layer.hidden_size
            parts = {
                "concat": lambda dx=dx, H=H: [dx[..., :H], dx[..., H:]],
                "sum": lambda dx=dx: [dx, dx],
                "mean": lambda dx=dx: [dx / 2, dx / 2],
                "mul": lambda dx=dx, hs=hs: [dx * hs[1], dx * hs[0]],
            }[layer.merge]()
        found = []
        for d in range(dirs):
            s, suffix = k * dirs + d, ("", "_reverse")[d]
            last = [upstream[name][s] for name in ("dh_T", "dc_T")[: 1 + cell.has_c]]
            g = cell.function(fastgate, "backward")(parts[d], outputs[d].cache, *last)
            firsts[s] = g
            results |= {
                f"d{name}{k}{suffix}": getattr(g, f"d{name}") for name in ("Wx", "Wh", "b", "bh") if hasattr(g, f"d{name}")
            }
            found.append(g.dx)
        dx = sum(found[1:], found[0])
    results |= {f"d{name}": np.stack([getattr(firsts[s], f"d{name}") for s in sorted(firsts)]) for name in cell.states()}
    return results | {"dx": dx}


# --- the same as the functions, and as the mathematics -----------------------------------------------------------------


@variants
@shapes
@pytest.mark.parametrize("lengths", [None, [6, 0, 3, 5]], ids=["whole", "ragged"])
def test_a_layer_is_its_functions_one_after_the_other(variant, shape, lengths):
    cell, options = variant
    num_layers, bidirectional, merge = shape
    rng = np.random.default_rng(1)
    for dtype in (np.float32, np.float64):
        layer = make(cell, 3, 9, num_layers=num_layers, bidirectional=bidirectional, merge=merge, dtype=dtype, **dict(options))
        given, upstream = data(cell, layer, rng)
        expected = by_hand(cell, layer, given, upstream, dict(options), lengths)
        before = digest(given, upstream, dict(layer.weights))
        assert_same(run(layer, given, upstream, lengths=lengths), expected)
        assert digest(given, upstream, dict(layer.weights)) == before


@variants
@shapes
def test_gradients_agree_with_finite_differences(variant, shape):
    """Along random directions of every argument, with lengths; a central difference, its error of order eps^2."""
    cell, options = variant
    if ("activation", "relu") in options:
        options = (("activation", "sigmoid"),)
    num_layers, bidirectional, merge = shape
    rng = np.random.default_rng(2)
    layer = make(cell, 4, 3, num_layers=num_layers, bidirectional=bidirectional, merge=merge, **dict(options))
    given, upstream = data(cell, layer, rng, N=3, T=5)
    lengths = [5, 2, 4]
    found = run(layer, given, upstream, lengths=lengths)

    def loss(arrays, parameters):
        other = copy.deepcopy(layer)
        other.parameters[...] = parameters
        h = results(other.forward(**arrays, lengths=lengths, training=False))
        return sum(np.sum(upstream[f"d{name}"] * h[name]) for name in h)

    eps = 1e-6
    for name in (*given, "parameters"):
        direction = values(rng, layer.parameters.shape if name == "parameters" else given[name].shape)
        moved = []
        for sign in (eps, -eps):
            parameters = layer.parameters + (sign * direction if name == "parameters" else 0)
            moved.append(loss(given | ({name: given[name] + sign * direction} if name in given else {}), parameters))
        slope = np.sum(direction * (layer.gradients if name == "parameters" else found[f"d{name}"]))
        assert abs((moved[0] - moved[1]) / (2 * eps) - slope) < 1e-7 * max(1, abs(slope)), name


def pytorch_name(name):
    """weight_ih_l1_reverse for Wx1_reverse."""
    letters, place = re.fullmatch(r"(\D+)(\d+.*)", name).groups()
    return {"Wx": "weight_ih_l", "Wh": "weight_hh_l", "b": "bias_ih_l", "bh": "bias_hh_l"}[letters] + place


@variants
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("N", [1, 5])
def test_as_pytorch(variant, bidirectional, N):
    torch = pytest.importorskip("torch", reason="compared with PyTorch")
    cell, options = variant
    if options and options[0][1] not in ("tanh", "relu", "after"):
        pytest.skip("PyTorch has no such cell")
    T, D, H, num_layers = 7, 5, 9, 2
    rng = np.random.default_rng(3)
    layer = make(cell, D, H, num_layers=num_layers, bidirectional=bidirectional, **dict(options))
    nonlinearity = {"nonlinearity": options[0][1]} if cell.name == "rnn" else {}
    theirs = getattr(torch.nn, cell.name.upper())(
        D, H, num_layers, bidirectional=bidirectional, batch_first=True, dtype=torch.float64, **nonlinearity
    )
    with torch.no_grad():
        for name, a in layer.weights.items():
            getattr(theirs, pytorch_name(name)).copy_(torch.from_numpy(a.T.copy()))
    given, upstream = data(cell, layer, rng, N, T)
    lengths = np.sort(rng.integers(1, T + 1, N))[::-1].copy()
    lengths[0] = T

    tensors = {name: torch.from_numpy(a.copy()).requires_grad_() for name, a in given.items()}
    packed = torch.nn.utils.rnn.pack_padded_sequence(tensors["x"], torch.from_numpy(lengths), batch_first=True)
    initial = (tensors["h0"], tensors["c0"]) if cell.has_c else tensors["h0"]
    output, final = theirs(packed, initial)
    h, _ = torch.nn.utils.rnn.pad_packed_sequence(output, batch_first=True, total_length=T)
    final = final if cell.has_c else (final,)
    outputs = [h, *final]
    torch.autograd.backward(outputs, [torch.from_numpy(a) for a in upstream.values()])
    expected = dict(zip(("h", "h_T", "c_T"), (a.detach().numpy() for a in outputs), strict=False))
    expected |= {f"d{name}": t.grad.numpy() for name, t in tensors.items()}
    for name in layer.weights:
        expected[f"d{name}"] = getattr(theirs, pytorch_name(name)).grad.numpy().T

    padded = given["x"].copy()
    for n in range(N):
        padded[n, lengths[n] :] = np.nan
        upstream["dh"][n, lengths[n] :] = np.nan
    found = run(layer, given | {"x": padded}, upstream, lengths=lengths)
    assert found.keys() == expected.keys()
    for name, a in expected.items():
        np.testing.assert_allclose(found[name], a, rtol=0, atol=1e-12 * max(1, np.abs(a).max()), err_msg=name)


# --- the same bits -------------------------------------------------------------------------------------------------------


@cells
@pytest.mark.parametrize("threads", [1, 2])
def test_chunks_and_steps_give_the_bits_of_the_whole(cell, threads):
    rng = np.random.default_rng(4)
    with fastgate.num_threads(threads):
        for H in (1, 7, 8, 16, 17, 33):
            layer = make(cell, 5, H, num_layers=3, bidirectional=False, dtype=np.float32)
            given, _ = data(cell, layer, rng, N=3, T=9)
            whole = layer.forward(**given, training=False)
            parts, state = [], [given[name] for name in cell.states()]
            for chunk in np.split(given["x"], [2, 2, 3, 8], axis=1):
                h, *state, _ = layer.forward(chunk, *state)
                parts.append(h)
            np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole.h)
            assert_same(dict(enumerate(state)), dict(enumerate(whole[1:-1])))
            layer.state = tuple(given[name] for name in cell.states())
            steps = np.stack([layer.step(x) for x in given["x"].swapaxes(0, 1)], axis=1)
            np.testing.assert_array_equal(bits(steps), bits(whole.h))
            assert_same(dict(enumerate(layer.state)), dict(enumerate(whole[1:-1])))


@cells
def test_the_bits_of_a_row_are_its_own(cell):
    """Alone or in a batch, whatever its padding, the strides, the threads, and with or without a cache."""
    rng = np.random.default_rng(5)
    layer = make(cell, 5, 17, dtype=np.float32)
    given, upstream = data(cell, layer, rng, N=6, T=7)
    lengths = np.array([7, 3, 0, 5, 1, 7])
    with fastgate.num_threads(1):
        whole = run(layer, given, upstream, lengths=lengths)
    with fastgate.num_threads(2):
        assert_same(run(layer, given, upstream, lengths=lengths.tolist()), whole)
    inert = {"x": given["x"].copy()} | {name: given[name] for name in cell.states()}
    dh = upstream["dh"].copy()
    for n, length in enumerate(lengths):
        inert["x"][n, length:], dh[n, length:] = np.nan, np.inf
    assert_same(run(layer, inert, upstream | {"dh": dh}, lengths=lengths), whole)
    major = {"x": given["x"].swapaxes(0, 1).copy().swapaxes(0, 1)} | {
        name: given[name][:, ::-1][:, ::-1] for name in cell.states()
    }
    other = run(layer, major, upstream, lengths=lengths)
    assert_same(other, whole)
    assert other["h"].strides[1] > other["h"].strides[0]
    assert other["dx"].strides[1] > other["dx"].strides[0]
    free = results(layer.forward(**given, lengths=lengths, training=False))
    assert_same(free, whole, free)
    last = results(layer.forward(**given, lengths=lengths, training=False, return_sequences=False))
    assert "h" not in last
    assert_same(last, whole, last)
    for n in range(6):
        alone = {"x": given["x"][n : n + 1]} | {name: given[name][:, n : n + 1] for name in cell.states()}
        found = results(layer.forward(**alone, lengths=lengths[n : n + 1]))
        for name, a in found.items():
            row = whole[name][n : n + 1] if name == "h" else whole[name][:, n : n + 1]
            np.testing.assert_array_equal(bits(np.ascontiguousarray(a)), bits(np.ascontiguousarray(row)))


@variants
def test_gate_order_permutes_the_weights_and_nothing_else(variant):
    cell, options = variant
    if cell.G == 1:
        pytest.skip("one gate")
    order = cell.gates[::-1]
    plain = kind(cell)(3, 6, num_layers=2, rng=7, **dict(options))
    other = kind(cell)(3, 6, num_layers=2, rng=7, gate_order=order, **dict(options))
    for name, a in plain.weights.items():
        np.testing.assert_array_equal(other.weights[name], permuted(a, cell.gates, order))
    given, upstream = data(cell, plain, np.random.default_rng(8))
    found, expected = run(other, given, upstream), run(plain, given, upstream)
    for name in expected:
        a = permuted(expected[name], cell.gates, order) if name[1:] in plain.weights else expected[name]
        np.testing.assert_array_equal(found[name], a)


# --- weights and gradients -----------------------------------------------------------------------------------------------


@cells
@pytest.mark.parametrize("b", [False, True])
@pytest.mark.parametrize("bh", [False, True])
def test_weights_are_views_of_one_array_without_gaps(cell, b, bh):
    for D, H in ((3, 5), (1, 1), (17, 16), (8, 33)):
        for dtype in (np.float32, np.float64):
            layer = kind(cell)(D, H, num_layers=2, bidirectional=True, b=b, bh=bh, dtype=dtype, rng=0)
            names = [
                f"{name}{k}{suffix}"
                for k in range(2)
                for suffix in ("", "_reverse")
                for name in ("Wx", "Wh", *["b"] * b, *["bh"] * bh)
            ]
            for flat, views in ((layer.parameters, layer.weights), (layer.gradients, layer.grads)):
                assert list(views) == names
                assert flat.dtype == dtype
                assert flat.ctypes.data % 64 == 0
                np.testing.assert_array_equal(np.concatenate([a.ravel() for a in views.values()]), flat)
                assert sum(a.size for a in views.values()) == flat.size == layer.num_parameters
                flat[...] = np.arange(flat.size)
                np.testing.assert_array_equal(np.concatenate([a.ravel() for a in views.values()]), np.arange(flat.size))
                with pytest.raises(TypeError):
                    views["Wx0"] = np.zeros(1)
                if cell.G * H * flat.itemsize % 64 == 0:
                    assert all(a.ctypes.data % 64 == 0 for a in views.values())
            for attribute in ("parameters", "gradients", "weights", "grads", "dtype", "num_layers", "config"):
                with pytest.raises(AttributeError):
                    setattr(layer, attribute, None)


@cells
def test_gradients_are_overwritten_or_added(cell):
    rng = np.random.default_rng(9)
    layer = make(cell, dtype=np.float32)
    assert not layer.gradients.any()
    given, upstream = data(cell, layer, rng)
    cache = layer.forward(**given).cache
    layer.backward(cache=cache, **upstream)
    once = layer.gradients.copy()
    assert (once != 0).all()
    layer.gradients[...] = np.nan
    layer.backward(cache=cache, **upstream)
    np.testing.assert_array_equal(layer.gradients, once)
    a = layer.backward(cache=cache, **upstream, accumulate=True)
    np.testing.assert_array_equal(layer.gradients, once + once)
    layer.gradients[...] = 0
    b = layer.backward(cache=cache, **upstream, accumulate=True, need_dx=False)
    np.testing.assert_array_equal(layer.gradients, once)
    assert b.dx is None
    assert_same(dict(enumerate(a[1:])), dict(enumerate(b[1:])))


@cells
def test_missing_upstream_gradients_are_zeros(cell):
    rng = np.random.default_rng(10)
    layer = make(cell)
    given, upstream = data(cell, layer, rng)
    cache = layer.forward(**given).cache
    for name in upstream:
        partly = upstream | {name: None}
        zeros = upstream | {name: np.zeros_like(upstream[name])}
        found = layer.backward(cache=cache, **partly)._asdict() | {"all": layer.gradients.copy()}
        assert_same(found, layer.backward(cache=cache, **zeros)._asdict() | {"all": layer.gradients.copy()})
    for a in layer.backward(None, cache):
        assert not a.any()
    assert not layer.gradients.any()


@cells
def test_final_states_alone_have_gradients(cell):
    layer = make(cell)
    given, upstream = data(cell, layer, np.random.default_rng(11))
    short = layer.forward(**given, return_sequences=False)
    assert short.h is None
    found = layer.backward(cache=short.cache, **upstream | {"dh": None})
    expected = layer.backward(cache=layer.forward(**given).cache, **upstream | {"dh": None})
    assert_same(found._asdict(), expected._asdict())
    with pytest.raises(ValueError, match="dh: expected None, as forward was called with return_sequences=False"):
        layer.backward(cache=short.cache, **upstream)


def test_fresh_weights():
    """Glorot's limits reached and kept, orthogonal gate blocks, biases zero but for the forget gate's."""
    for cell in CELLS:
        for D, H in ((30, 40), (50, 9)):
            layer = kind(cell)(D, H, num_layers=2, bidirectional=True, bh=True, rng=3)
            same = kind(cell)(D, H, num_layers=2, bidirectional=True, bh=True, rng=np.random.default_rng(3))
            np.testing.assert_array_equal(layer.parameters, same.parameters)
            wide = kind(cell)(D, H, num_layers=2, bidirectional=True, bh=True, rng=3, dtype=np.float64)
            np.testing.assert_array_equal(wide.parameters.astype(np.float32), layer.parameters)
            assert len({a.tobytes() for name, a in layer.weights.items() if name[0] == "W"}) == 8
            for name, a in wide.weights.items():
                blocks = np.split(a, cell.G, axis=-1)
                for gate, block in zip(cell.gates, blocks, strict=True):
                    if name.startswith("Wx"):
                        limit = (6 / (len(a) + H)) ** 0.5
                        assert 0.9 * limit < np.abs(block).max() <= limit
                    elif name.startswith("Wh"):
                        np.testing.assert_allclose(block.T @ block, np.eye(H), atol=1e-12)
                    else:
                        assert (block == (cell.name == "lstm" and gate == "f" and name[:2] != "bh")).all()
    assert (fastgate.LSTM(2, 3, b=False, bh=True).weights["bh0"][3:6] == 1).all()
    assert fastgate.LSTM(2, 3, rng=0).num_parameters == 4 * 3 * (2 + 3 + 1)


def test_a_gru_has_the_biases_that_its_reset_tells_apart():
    assert "bh0" in fastgate.GRU(2, 3).weights
    assert "bh0" not in fastgate.GRU(2, 3, bh=False).weights
    assert "bh0" not in fastgate.GRU(2, 3, reset="before").weights
    assert "bh0" in fastgate.GRU(2, 3, reset="before", bh=True).weights


# --- dropout -------------------------------------------------------------------------------------------------------------


def test_dropout_lies_between_layers_and_is_inverted():
    cell = CELLS[0]
    layer = make(cell, 3, 40, num_layers=2, bidirectional=False, dropout=0.25, activation="identity", b=False, bh=False)
    x = values(np.random.default_rng(12), (50, 8, 3))
    first, second = layer.weights["Wx0"], layer.weights["Wx1"]
    layer.weights["Wh0"][...] = layer.weights["Wh1"][...] = 0
    h, h_T, cache = layer.forward(x, rng=5)
    inner = x @ first
    np.testing.assert_allclose(h_T[0], inner[:, -1], atol=1e-12)  # the states of a layer are not dropped
    kept = np.linalg.lstsq(second.T, h.reshape(-1, 40).T, rcond=None)[0].T.reshape(inner.shape) / inner
    np.testing.assert_allclose(np.minimum(np.abs(kept), np.abs(kept - 4 / 3)), 0, atol=1e-6)
    assert abs((kept < 0.5).mean() - 0.25) < 4 * (0.25 * 0.75 / kept.size) ** 0.5
    mask = np.where(kept < 0.5, 0, 4 / 3)
    dh = values(np.random.default_rng(13), h.shape)
    dx, _ = layer.backward(dh, cache)
    np.testing.assert_allclose(dx, (dh @ second.T * mask) @ first.T, atol=1e-9)
    np.testing.assert_allclose(layer.grads["Wx1"], np.einsum("ntd,nth->dh", inner * mask, dh), atol=1e-9)
    np.testing.assert_allclose(layer.grads["Wx0"], np.einsum("ntd,nth->dh", x, dh @ second.T * mask), atol=1e-9)


@cells
def test_dropout_is_drawn_from_the_generator_that_is_given(cell):
    layer = make(cell, dropout=0.5, dtype=np.float32)
    given, upstream = data(cell, layer, np.random.default_rng(14))
    once = run(layer, given, upstream, rng=3)
    assert_same(run(layer, given, upstream, rng=np.random.default_rng(3)), once)
    major = {"x": given["x"].swapaxes(0, 1).copy().swapaxes(0, 1)}
    assert_same(run(layer, given | major, upstream, rng=3), once)
    assert not np.array_equal(run(layer, given, upstream, rng=4)["h"], once["h"])
    own = [layer.forward(**given).h for _ in range(2)]
    assert not np.array_equal(*own)
    plain = make(cell, dropout=0.0, dtype=np.float32)
    np.testing.assert_array_equal(layer.forward(**given, training=False).h, plain.forward(**given).h)
    single = make(cell, num_layers=1, dropout=0.9)
    given, _ = data(cell, single, np.random.default_rng(15))
    np.testing.assert_array_equal(single.forward(**given).h, make(cell, num_layers=1).forward(**given).h)
