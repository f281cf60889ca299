"""Layers of all cells: stacks and directions of the public functions, their weights and gradients in one array."""

import copy
import importlib
import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import threading
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import CELLS as ALL
from support import (
    EXACT,
    LEAKY_UNITS,
    NORMALISED_C,
    PEEPHOLE,
    PROJECTED,
    WEIGHTS,
    assert_same,
    bits,
    digest,
    permuted,
    status_of_child,
    values,
    variant_id,
)
from support import VARIANTS as ALL_VARIANTS

import fastgate
import fastgate.structures
from fastgate import _arguments, layers

CELLS = [cell for cell in ALL if hasattr(fastgate, _arguments.class_name(cell.name))]  # a cell need not have a layer
VARIANTS = [(cell, options) for cell, options in ALL_VARIANTS if hasattr(fastgate, _arguments.class_name(cell.name))]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(fastgate.__file__).parents[1])}
MERGES = ("concat", "sum", "mean", "mul")
OF_UNITS = ("peephole", "gain_c", "beta_c")  # weights whose values no gate order moves; they lie behind the others
SHAPES = ((1, False, "concat"), (3, False, "concat"), *((2, True, merge) for merge in MERGES), (1, True, "mul"))

variants = pytest.mark.parametrize("variant", VARIANTS, ids=variant_id)
cells = pytest.mark.parametrize("cell", CELLS, ids=repr)
of_all_weights = pytest.mark.parametrize("cell", [*CELLS, PROJECTED, LEAKY_UNITS, NORMALISED_C], ids=repr)
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape)))


def kind(cell):
    return getattr(fastgate, _arguments.class_name(cell.name))


def of_cell(cell, H):
    """The arguments of the constructor that give a layer the weights of the cell."""
    own = {"peephole": True} if cell.peephole else {}
    own |= {"proj_size": cell.P(H)} if cell.projection else {}
    own |= {"learn_alpha": True} if cell.alpha else {}
    return own | ({"gain_c": "gain_c" in cell.norm} if cell.name == "lstm_norm" else {})


def make(cell, D=3, H=5, *, num_layers=2, bidirectional=True, merge="concat", dtype=np.float64, rng=0, **options):
    """A layer whose weights, biases too, are all random."""
    options = {"b": True, "bh": True} | of_cell(cell, H) | options
    layer = kind(cell)(D, H, num_layers=num_layers, bidirectional=bidirectional, merge=merge, dtype=dtype, rng=rng, **options)
    layer.parameters[...] = values(np.random.default_rng(rng), layer.parameters.shape, dtype, 0.6)
    for name, a in layer.weights.items():
        if name.startswith("alpha"):
            a[...] = 1 / (1 + np.exp(-4 * a))
    return layer


def states(cell, layer, rng, N, names=("h0", "c0")):
    before, H = (layer.num_layers * layer.num_directions, N), layer.hidden_size
    sizes = dict(zip(names, (cell.P(H), H)[: 1 + cell.has_c], strict=False))
    return {name: values(rng, (*before, size), layer.dtype, 0.7) for name, size in sizes.items()}


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
            weights = {name: W[f"{name}{k}{suffix}"] for name in WEIGHTS if f"{name}{k}{suffix}" in W}
            found = cell.function(fastgate, "forward")(x, *initial, **weights, lengths=lengths, reverse=d == 1, **options)
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
            P = layer.output_size // 2
            parts = {
                "concat": lambda dx=dx, P=P: [dx[..., :P], dx[..., P:]],
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
            results |= {f"d{name}{k}{suffix}": getattr(g, f"d{name}") for name in WEIGHTS if hasattr(g, f"d{name}")}
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


@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if variant in EXACT], ids=variant_id)
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


PYTORCH = {  # options of the cells that PyTorch has
    "rnn": [(("activation", "tanh"),), (("activation", "relu"),)],
    "lstm": [()],
    "gru": [(("reset", "after"),)],
}


def pytorch_name(name):
    """weight_ih_l1_reverse for Wx1_reverse."""
    letters, place = re.fullmatch(r"(\D+)(\d+.*)", name).groups()
    letters = {"Wx": "weight_ih_l", "Wh": "weight_hh_l", "b": "bias_ih_l", "bh": "bias_hh_l", "Wr": "weight_hr_l"}[letters]
    return letters + place


@variants
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("N", [1, 5])
@pytest.mark.beside
def test_as_pytorch(variant, bidirectional, N):
    torch = pytest.importorskip("torch", reason="compared with PyTorch")
    cell, options = variant
    if cell.peephole or options not in PYTORCH.get(cell.name, ()):
        pytest.skip("PyTorch has no such cell")
    T, D, H, num_layers = 7, 5, 9, 2
    rng = np.random.default_rng(3)
    layer = make(cell, D, H, num_layers=num_layers, bidirectional=bidirectional, **dict(options))
    own = {"nonlinearity": options[0][1]} if cell.name == "rnn" else {"proj_size": cell.P(H)} if cell.projection else {}
    theirs = getattr(torch.nn, cell.name.upper())(
        D, H, num_layers, bidirectional=bidirectional, batch_first=True, dtype=torch.float64, **own
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


@of_all_weights
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


@of_all_weights
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
    own = dict(options) | of_cell(cell, 6)
    plain = kind(cell)(3, 6, num_layers=2, rng=7, **own)
    other = kind(cell)(3, 6, num_layers=2, rng=7, gate_order=order, **own)
    for name, a in plain.weights.items():
        if name.startswith(OF_UNITS):
            other.weights[name][...] = a[...] = values(np.random.default_rng(7), a.shape, a.dtype)
        elif name.startswith("Wr"):  # has none
            np.testing.assert_array_equal(other.weights[name], a)
        else:
            np.testing.assert_array_equal(other.weights[name], permuted(a, cell.gates, order))
    given, upstream = data(cell, plain, np.random.default_rng(8))
    found, expected = run(other, given, upstream), run(plain, given, upstream)
    for name in expected:
        moved = name[1:] in plain.weights and not name[1:].startswith((*OF_UNITS, "Wr"))
        a = permuted(expected[name], cell.gates, order) if moved else expected[name]
        np.testing.assert_array_equal(found[name], a)


# --- weights and gradients -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", [*CELLS, PEEPHOLE, replace(PEEPHOLE, projection=True), LEAKY_UNITS, NORMALISED_C], ids=repr)
@pytest.mark.parametrize("b", [False, True])
@pytest.mark.parametrize("bh", [False, True])
def test_weights_are_views_of_one_array_without_gaps(cell, b, bh):
    for D, H in ((3, 5), (1, 1), (17, 16), (8, 33)):
        for dtype in (np.float32, np.float64):
            own = of_cell(cell, H)
            layer = kind(cell)(D, H, num_layers=2, bidirectional=True, b=b, bh=bh, dtype=dtype, rng=0, **own)
            ends = [f"{k}{suffix}" for k in range(2) for suffix in ("", "_reverse")]
            beside = ("Wx", "Wh", *["b"] * b, *["bh"] * bh, *cell.norm[:2], *["alpha"] * cell.alpha)
            behind = (*["peephole"] * cell.peephole, *cell.norm[2:], *["Wr"] * cell.projection)
            names = [name + end for end in ends for name in beside] + [name + end for name in behind for end in ends]
            for flat, views in ((layer.parameters, layer.weights), (layer.gradients, layer.grads)):
                assert list(views) == names
                assert flat.dtype == dtype
                assert flat.ctypes.data % 64 == 0
                np.testing.assert_array_equal(np.concatenate([a.ravel() for a in views.values()]), flat)
                assert sum(a.size for a in views.values()) == flat.size == layer.num_parameters
                flat[...] = np.arange(flat.size)
                np.testing.assert_array_equal(np.concatenate([a.ravel() for a in views.values()]), np.arange(flat.size))
                with pytest.raises(AttributeError, match="__delitem__"):
                    del views["Wx0"]
                if cell.G * H * flat.itemsize % 64 == 0:
                    assert all(a.ctypes.data % 64 == 0 for name, a in views.items() if not name.startswith(behind or "none"))
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
    """Glorot's limits reached and kept, orthogonal gate blocks, gains one, the rest zero but for the forget gate's bias."""
    for cell in CELLS:
        for D, H in ((30, 40), (50, 9)):
            layer = kind(cell)(D, H, num_layers=2, bidirectional=True, bh=True, rng=3)
            same = kind(cell)(D, H, num_layers=2, bidirectional=True, bh=True, rng=np.random.default_rng(3))
            np.testing.assert_array_equal(layer.parameters, same.parameters)
            wide = kind(cell)(D, H, num_layers=2, bidirectional=True, bh=True, rng=3, dtype=np.float64)
            np.testing.assert_array_equal(wide.parameters.astype(np.float32), layer.parameters)
            matrices = {a.tobytes() for name, a in layer.weights.items() if name[0] == "W"}
            assert len(matrices) == (5 if cell.name == "memory" else 8)
            for name, a in wide.weights.items():
                if name.startswith(OF_UNITS):
                    assert (a == name.startswith("gain")).all()
                    continue
                for gate, block in zip(cell.gates, np.split(a, cell.G, axis=-1), strict=True):
                    if name.startswith("Wx"):
                        limit = (6 / (len(a) + H)) ** 0.5
                        assert 0.9 * limit < np.abs(block).max() <= limit
                    elif name.startswith("Wh") and cell.name == "memory":
                        assert not block.any()
                    elif name.startswith("Wh"):
                        np.testing.assert_allclose(block.T @ block, np.eye(H), atol=1e-12)
                    else:
                        assert (block == (name.startswith("gain") or (gate == "f" and name[:2] != "bh"))).all()
    for P in (5, 30):  # above and below: orthonormal columns, rows
        weights = fastgate.LSTM(4, 10, proj_size=P, dtype=np.float64, rng=0).weights
        for block in np.split(weights["Wh0"], 4, axis=1):
            assert block.shape == (P, 10)
            np.testing.assert_allclose(block.T @ block if P > 10 else block @ block.T, np.eye(min(P, 10)), atol=1e-12)
        assert 0.8 < np.abs(weights["Wr0"]).max() / (6 / (10 + P)) ** 0.5 <= 1
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


# --- streams -------------------------------------------------------------------------------------------------------------


@cells
def test_streams_keep_their_states(cell):
    rng = np.random.default_rng(16)
    layer = make(cell, bidirectional=False, dtype=np.float32)
    x = values(rng, (6, 4, 3), np.float32)  # (T, N, D)
    assert layer.state is None
    before = digest(x)
    y = layer.step(x[0])
    assert y.shape == (4, 5)
    y[...] = np.nan  # the caller's own
    taken = layer.state
    assert type(taken)._fields == ("h", "c")[: 1 + cell.has_c]
    second = layer.step(x[1])
    for a in layer.state:
        assert a.shape == (2, 4, 5)
        a[...] = np.nan  # a copy
    third = layer.step(x[2])
    layer.state = taken
    np.testing.assert_array_equal(layer.step(x[1]), second)
    np.testing.assert_array_equal(layer.step(x[2]), third)
    assert digest(x) == before
    np.testing.assert_array_equal(third, layer.forward(x[:3].swapaxes(0, 1)).h[:, 2])

    layer.reset(rows=[1, 3])
    mixed = layer.step(x[3])
    np.testing.assert_array_equal(mixed[[1, 3]], layer.forward(x[3][:, None]).h[[1, 3], 0])
    np.testing.assert_array_equal(mixed[[0, 2]], layer.forward(x[:4].swapaxes(0, 1)).h[[0, 2], 3])
    layer.reset(rows=np.array([False, True, False, False]))
    assert [not a[:, n].any() for a in layer.state for n in range(4)] == [False, True, False, False] * (1 + cell.has_c)
    layer.reset(2)
    assert not any(a.any() for a in layer.state)
    layer.step(x[0, :2])
    layer.reset()
    assert layer.state is None
    np.testing.assert_array_equal(layer.step(x[0]), layer.forward(x[0][:, None]).h[:, 0])

    layer.parameters[...] *= 2  # the weights are live
    layer.reset()
    np.testing.assert_array_equal(layer.step(x[0]), layer.forward(x[0][:, None]).h[:, 0])


@cells
def test_a_step_that_is_refused_changes_nothing(cell):
    layer = make(cell, bidirectional=False)
    x = values(np.random.default_rng(17), (2, 3))
    layer.step(x)
    before = digest(layer.state)
    for wrong, error, words in (
        (x[:1], ValueError, r"x: expected \(N, D\) = \(2, 3\) as the streams' states, got \(1, 3\); call reset\(N=1\)"),
        (x[:, :2], ValueError, r"x: expected \(N, D\) = \(2, 3\), got \(2, 2\)"),
        (x[None], ValueError, r"x: expected \(N, D\), got \(1, 2, 3\)"),
        (x.astype(np.float32), TypeError, r"x: expected float64 as the layer, got float32; pass x.astype\(np.float64\)"),
    ):
        with pytest.raises(error, match=words):
            layer.step(wrong)
    with pytest.raises(ValueError, match=r"^rows: expected a row of integers, got \(\); pass \[2\]$"):
        layer.reset(rows=2)
    for rows, error in (
        ([2], ValueError),
        ([-1], ValueError),
        ([0.5], TypeError),
        ([True], ValueError),
        ([[0]], ValueError),
        ([[0], []], ValueError),
    ):
        with pytest.raises(error, match=r"^rows: expected"):
            layer.reset(rows=rows)
    with pytest.raises(ValueError, match=r"^rows: expected None where N is given"):
        layer.reset(2, rows=[0])
    for N, error in ((-1, ValueError), (1.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match=r"^N: expected an integer >= 0"):
            layer.reset(N)
    for N, error in ((2**61, OverflowError), (10**400, OverflowError), (2**46, MemoryError)):
        with pytest.raises(error, match=r"^N"):
            layer.reset(N)
    state = layer.state
    for wrong, error in (
        (state.h, TypeError),
        (state[:-1], ValueError),
        ((*state[:-1], state[-1][:1]), ValueError),
        ((*state[:-1], state[-1].astype(np.float32)), TypeError),
        ((state.h[0], *state[1:]), ValueError),
        (tuple(a[..., :-1] for a in state), ValueError),
    ):
        with pytest.raises(error, match=r"^state"):
            layer.state = wrong
    assert digest(layer.state) == before
    layer.state = None
    with pytest.raises(ValueError, match=r"^rows: expected None, there are no streams"):
        layer.reset(rows=[0])
    both = make(cell)
    for call in (lambda: both.step(x), lambda: both.reset(), lambda: setattr(both, "state", None)):
        with pytest.raises(ValueError, match="expected a layer of one direction"):
            call()


# --- copies and files ----------------------------------------------------------------------------------------------------


def assert_whole(copied, layer):
    """A layer of its own: equal in everything, its views those of its own array."""
    assert type(copied) is type(layer)
    assert copied.config == layer.config
    np.testing.assert_array_equal(copied.parameters, layer.parameters)
    for flat, views in ((copied.parameters, copied.weights), (copied.gradients, copied.grads)):
        assert flat.ctypes.data % 64 == 0
        for view in views.values():
            assert np.shares_memory(view, flat)
        flat[...] = 7
        assert all((view == 7).all() for view in views.values())
    assert not np.shares_memory(copied.parameters, layer.parameters)
    assert (layer.parameters != 7).all()


@of_all_weights
@pytest.mark.parametrize("how", ["pickle", "deepcopy", "copy"])
def test_copies_are_whole(cell, how):
    layer = make(cell, num_layers=2, bidirectional=False, dropout=0.5, dtype=np.float32)
    layer.name = "a name of the user's"
    given, upstream = data(cell, layer, np.random.default_rng(18))
    run(layer, given, upstream)
    layer.step(given["x"][:, 0])
    copied = {"pickle": lambda a: pickle.loads(pickle.dumps(a)), "deepcopy": copy.deepcopy, "copy": copy.copy}[how](layer)
    assert copied.name == layer.name
    np.testing.assert_array_equal(copied.gradients, layer.gradients)
    assert_same(copied.state._asdict(), layer.state._asdict())
    if how != "copy":  # the generator goes on alike in both
        assert_same(results(copied.forward(**given)), results(layer.forward(**given)))
    np.testing.assert_array_equal(copied.step(given["x"][:, 1]), layer.step(given["x"][:, 1]))
    copied.reset()
    assert layer.state is not None
    assert copied != layer
    assert layer == layer
    assert len({layer, copied}) == 2
    with pytest.raises(ValueError, match=r"^cache: expected the cache of this layer's forward, got that of another"):
        copied.backward(cache=layer.forward(**given).cache, **upstream)
    assert_whole(copied, layer)


def test_a_subclass_is_copied_and_loaded_as_what_it_is(tmp_path):
    layer = Tagger(3, 4, 5)
    for copied in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert type(copied) is Tagger
        np.testing.assert_array_equal(copied.V, layer.V)
        assert_whole(copied, layer)
    layer.save(tmp_path / "tagger.npz")
    assert type(Tagger.load(tmp_path / "tagger.npz")) is Tagger
    assert type(layers.load(tmp_path / "tagger.npz")) is fastgate.LSTM


class Tagger(fastgate.LSTM):
    def __init__(self, D, H, K):
        super().__init__(D, H, bidirectional=True)
        self.V = np.ones((2 * H, K), np.float32)


@cells
def test_state_dict(cell):
    layer, other = make(cell, rng=1), make(cell, rng=2)
    taken = layer.state_dict()
    assert list(taken) == list(layer.weights)
    other.load_state_dict({name: np.asfortranarray(a)[...].astype(">f8") for name, a in taken.items()})
    np.testing.assert_array_equal(other.parameters, layer.parameters)
    for a in taken.values():
        a[...] = 0  # copies
    np.testing.assert_array_equal(other.parameters, layer.parameters)
    assert (layer.parameters != 0).all()
    swapped = {name: layer.weights[name[:3] + name[3:].replace("_reverse", "") if "rev" in name else f"{name}_reverse"]
               for name in layer.weights}  # fmt: skip
    expected = {name: a.copy() for name, a in swapped.items()}
    layer.load_state_dict(swapped)  # from itself, as if it had been copied first
    assert_same(dict(layer.weights), expected)


@cells
def test_a_state_dict_that_is_refused_changes_nothing(cell):
    layer = make(cell)
    good, before = layer.state_dict(), digest(dict(layer.weights))
    less = {name: a for name, a in good.items() if name != "Wh1"}
    for wrong, error, words in (
        (less, ValueError, "mapping: expected the names .*; 'Wh1' missing"),
        (good | {"V": good["Wx0"]}, ValueError, "mapping: expected the names .*; 'V' unknown"),
        (less | {"wh1": good["Wh1"]}, ValueError, "'Wh1' missing; 'wh1' unknown"),
        (good | {"Wh1": good["Wh1"][:-1]}, ValueError, r"mapping\['Wh1'\]: expected \(H, \d?H\) = \(5, \d+\), got \(4, \d+\)"),
        (good | {"Wx0": good["Wx0"].T}, ValueError, r"mapping\['Wx0'\]: .*; pass mapping\['Wx0'\].T\?"),
        (
            good | {"b0": good["b0"].astype(np.float32)},
            TypeError,
            r"mapping\['b0'\]: expected float64 as the layer, got float32",
        ),
        (list(good), TypeError, "mapping: expected a mapping of names to arrays, got list"),
        (None, TypeError, "mapping: expected a mapping of names to arrays, got None"),
        (layer, TypeError, "mapping: expected a mapping of names to arrays, got .*; pass its state_dict\\(\\)"),
    ):
        with pytest.raises(error, match=words):
            layer.load_state_dict(wrong)
        assert digest(dict(layer.weights)) == before


@of_all_weights
def test_files(cell, tmp_path):
    for options in (
        {},
        {"bidirectional": False, "bh": False, "dtype": np.float32, "dropout": 0.25},
        {"merge": "mul", "b": False},
    ):
        layer = make(cell, **options)
        path = tmp_path / "layer"  # the name is taken as it is
        for name in (path, str(path)):
            layer.save(name)
            assert os.listdir(tmp_path) == ["layer"]
            for loaded in (kind(cell).load(name), layers.load(name, rng=3)):
                np.testing.assert_array_equal(loaded.parameters, layer.parameters)
                assert not loaded.gradients.any()
                assert loaded.state is None if not loaded.bidirectional else True
                assert_whole(loaded, layer)
        with np.load(path, allow_pickle=False) as file:
            assert_same({name: file[name] for name in file.files if name != "header"}, dict(layer.weights))
            assert json.loads(file["header"].tobytes())["config"] == layer.config
        first = path.read_bytes()
        layer.save(path)
        assert path.read_bytes() == first
    given, _ = data(cell, layer, np.random.default_rng(19))
    assert_same(results(layers.load(path).forward(**given)), results(layer.forward(**given)))
    other = next(c for c in CELLS if c.name != cell.name)
    with pytest.raises(ValueError, match=f"it holds {kind(cell).__name__}; fastgate.layers.load reads any layer"):
        kind(other).load(path)


def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    layer, path = fastgate.GRU(2, 3), tmp_path / "layer.npz"
    layer.save(path)
    before = path.read_bytes()

    def full(file, array, **_):
        file.write(b"\x93NUMPY")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(OSError, match="No space left"):
        layer.save(path)
    assert os.listdir(tmp_path) == ["layer.npz"]
    assert path.read_bytes() == before
    with pytest.raises(FileNotFoundError):
        layers.load(tmp_path / "nothing.npz")
    for call in (layer.save, layers.load):
        with pytest.raises(TypeError, match=r"^path: expected a path, got int"):
            call(1)
    for path in (tmp_path, os.devnull):
        with pytest.raises(ValueError, match="it is no regular file"):
            layers.load(path)
    monkeypatch.chdir(tmp_path)
    for path, words in (
        ("nowhere/layer.npz", "its folder does not exist"),
        ("layer.npz/layer.npz", "its folder does not exist"),
        ("a" * 255, "File name too long"),  # the part's
    ):
        with pytest.raises(OSError, match=rf"^\[Errno \d+\] {words}: '{path}'$"):
            layer.save(path)


def test_threads_save_to_one_path(tmp_path):
    """Each file that is there at any time is that of one of them."""
    path, saved, wrong = tmp_path / "layer.npz", [fastgate.RNN(32, 64, rng=k) for k in range(3)], []
    saved[0].save(path)

    def save(layer):
        try:
            for _ in range(20):
                layer.save(path)
        except OSError as error:
            wrong.append(error)

    threads = [threading.Thread(target=save, args=(layer,)) for layer in saved]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        found = layers.load(path).parameters
        if not any(np.array_equal(found, layer.parameters) for layer in saved):
            wrong.append(found)
    for thread in threads:
        thread.join()
    assert not wrong, wrong[0]
    assert os.listdir(tmp_path) == ["layer.npz"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="expected a regular file or none"):
        fastgate.RNN(2, 3, rng=0).save(pipe)
    assert pipe.is_fifo()


def write(path, header, arrays):
    np.savez(path, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)
    return path


def refused(path, words):
    with pytest.raises(ValueError, match=f"(?s)^path: expected a layer saved by fastgate, got .*{words}"):
        layers.load(path)


def test_files_that_hold_something_else_are_refused(tmp_path):
    layer = fastgate.LSTM(3, 4, rng=0)
    arrays, path = layer.state_dict(), tmp_path / "bad.npz"
    header = {"format": "fastgate layer 1", "layer": "LSTM", "config": layer.config}
    assert layers.load(write(path, header, arrays)).config == layer.config  # what follows differs from this in one thing
    config = layer.config

    for wrong, words in (
        ([], "has not the format"),
        (header | {"format": "fastgate layer 2"}, "has not the format"),
        (header | {"layer": "MLP"}, "its layer is 'MLP'"),
        (header | {"layer": ["LSTM"]}, "unhashable"),
        ({"format": header["format"]}, "'layer' is missing"),
        (header | {"config": None}, ""),
        (header | {"config": {name: value for name, value in config.items() if name != "b"}}, "'b'"),
        (header | {"config": config | {"reset": "after"}}, "expected the options gate_order, candidate, .*, got"),
        (header | {"config": config | {"self": 1}}, ""),
        *((header | {"config": config | {name: value}}, words) for name, value, words in (
            ("num_layers", 10**12, "it has 3 arrays, not the 3000000000000 of its LSTM"),
            ("num_layers", 0, "num_layers: expected an integer >= 1"),
            ("num_layers", True, "num_layers: expected an integer >= 1"),
            ("num_layers", "1", "num_layers: expected an integer >= 1"),
            ("hidden_size", 10**9, "Wx0: expected"),
            ("hidden_size", 10**4000, ""),
            ("input_size", -3, "input_size: expected an integer >= 1"),
            ("bidirectional", True, "it has 3 arrays"),
            ("bidirectional", 0, "bidirectional: expected True or False"),
            ("bh", True, "it has 3 arrays"),
            ("peephole", True, "it has 3 arrays"),
            ("coupled", 1, "coupled: expected True or False"),
            ("cell_clip", float("nan"), "cell_clip: expected a number > 0"),
            ("dropout", float("nan"), "dropout: expected a number"),
            ("dropout", 1, "dropout: expected a number < 1"),
            ("merge", "max", "merge: expected"),
            ("gate_order", "ifgz", "gate_order: expected a permutation"),
            ("dtype", "float16", "dtype: expected float32 or float64"),
            ("dtype", "float64", "Wx0: expected"),
            ("dtype", {}, "dtype: expected float32 or float64"),
        )),
    ):  # fmt: skip
        refused(write(path, wrong, arrays), words)

    W = arrays["Wx0"]
    for wrong, words in (
        ({"b0": arrays["b0"]}, "it has 1 arrays"),
        (arrays | {"V": W}, "it has 4 arrays"),
        ({"Wx0": W, "Wh0": arrays["Wh0"], "b1": arrays["b0"]}, "'b0' is missing"),
        (arrays | {"Wx0": W.T}, "Wx0: expected"),
        (arrays | {"Wx0": np.asfortranarray(W)}, "Wx0: expected .* Fortran order"),
        (arrays | {"Wx0": W.astype(">f4")}, "Wx0: expected"),
        (arrays | {"Wx0": W.astype(np.float64)}, "Wx0: expected"),
        (arrays | {"Wx0": np.zeros(W.shape, [("a", "f4")])}, "Wx0: expected"),
        (arrays | {"Wx0": np.array([Bomb()], object)}, "has not the size"),
    ):
        refused(write(path, header, wrong), words)
    assert not Bomb.went_off

    np.savez_compressed(path, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)
    refused(path, "it is compressed")
    for text in (b"{", b"\xff", b"[" * 10**5, b"1" * 5000, b""):
        np.savez(path, header=np.frombuffer(text, np.uint8), **arrays)
        refused(path, "")
    for wrong in (np.array("text"), np.zeros((2, 2), np.uint8), np.zeros(2**20 + 1, np.uint8)):
        np.savez(path, header=wrong, **arrays)
        refused(path, "header: expected bytes")
    for content in (b"", b"PK", b"PK\5\6" + bytes(18), os.urandom(1000), pickle.dumps(layer)):
        path.write_bytes(content)
        refused(path, "")


class Bomb:
    went_off = False

    def __reduce__(self):
        return setattr, (Bomb, "went_off", True)


def test_damaged_files_are_refused(tmp_path):
    """Cut anywhere, or with bytes changed: refused, or what was saved."""
    layer, path = fastgate.GRU(3, 4, rng=0), tmp_path / "layer.npz"
    layer.save(path)
    whole = path.read_bytes()
    for size in (*range(0, len(whole), 97), len(whole) - 1):
        path.write_bytes(whole[:size])
        refused(path, "")
    rng, loaded = np.random.default_rng(20), 0
    for _ in range(400):
        content = bytearray(whole)
        for place in rng.integers(0, len(content), rng.integers(1, 4)):
            content[place] = rng.integers(256)
        path.write_bytes(content)
        try:
            np.testing.assert_array_equal(layers.load(path).parameters, layer.parameters)
            loaded += 1
        except ValueError as error:
            assert str(error).startswith("path: expected a layer saved by fastgate")  # noqa: PT017
    assert loaded < 200


def claim(name, shape):
    """An .npy entry without values, whose header claims a shape."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return name, file.getvalue()


def peak(path):
    """Bytes that loading takes at most beyond those that are there before."""
    tracemalloc.start()
    try:
        refused(path, "")
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_no_file_makes_loading_take_memory(tmp_path):
    """Sizes that a small file claims in vain: shapes, a table of contents, an entry larger than the file."""
    path = tmp_path / "bad.npz"
    config = fastgate.RNN(2, 3).config | {"input_size": 2**20, "hidden_size": 2**8}
    header = json.dumps({"format": "fastgate layer 1", "layer": "RNN", "config": config}).encode()
    arrays = [claim("Wx0", (2**20, 2**8)), claim("Wh0", (2**8, 2**8)), claim("b0", (2**8,))]
    text = io.BytesIO()
    np.save(text, np.frombuffer(header, np.uint8))
    with zipfile.ZipFile(path, "w") as file:
        for name, content in (("header", text.getvalue()), *arrays):
            file.writestr(f"{name}.npy", content)
    refused(path, "Wx0.npy has not the size of")
    assert peak(path) < 2**22

    content = bytearray(path.read_bytes())  # the same with sizes to fit, in the table of contents and before the entry
    size = len(arrays[0][1]) + 4 * 2**28
    for mark, at in ((b"PK\1\2", 20), (b"PK\3\4", 18)):
        place = content.index(b"Wx0.npy") - 30 if mark == b"PK\3\4" else content.rindex(b"Wx0.npy") - 46
        assert content[place : place + 4] == mark
        content[place + at : place + at + 8] = struct.pack("<II", size, size)
    path.write_bytes(content)
    refused(path, "its entries are larger than the file")
    assert peak(path) < 2**22

    with zipfile.ZipFile(path, "w") as file:
        for k in range(20_000):
            file.writestr(f"{k:050}", b"")
    refused(path, "its table of contents is too large")
    assert peak(path) < 2**24


@pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="a sanitizer keeps what is freed")
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="asks /proc for the most memory that a process had")
def test_loading_takes_the_size_of_the_file(tmp_path):
    """Of 128 MiB, in a process of its own: resident memory grows by no more than that and 64 MiB. That it grows by so much is
    asked up to 1 MiB: the peak before is of what has since been freed, too, and the system counts pages in batches."""
    path = tmp_path / "large.npz"
    config = fastgate.RNN(2, 8).config | {"input_size": 2**22}
    arrays = {"Wx0": np.ones((2**22, 8), np.float32), "Wh0": np.ones((8, 8), np.float32), "b0": np.ones(8, np.float32)}
    write(path, {"format": "fastgate layer 1", "layer": "RNN", "config": config}, arrays)
    code = """
import sys
from fastgate import layers

def most():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))

before = most()
layer = layers.load(sys.argv[1])
print(most() - before)
assert layer.parameters.all()
"""
    done = subprocess.run([sys.executable, "-c", code, path], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    size = path.stat().st_size
    assert size - 2**20 <= int(done.stdout) * 1024 <= size + 2**26


# --- threads -------------------------------------------------------------------------------------------------------------


@cells
def test_many_threads_use_one_layer(cell):
    """Forward and backward of eight threads at once: everybody's own results, and gradients of whole calls."""
    rng = np.random.default_rng(21)
    layer = make(cell, 7, 17, dtype=np.float32)
    calls = [data(cell, layer, rng, N=3, T=5) for _ in range(8)]
    expected = [run(layer, *call) for call in calls]
    alone = []
    for given, upstream in calls:
        layer.backward(cache=layer.forward(**given).cache, **upstream)
        alone.append(layer.gradients.copy())
    wrong, start = [], threading.Barrier(9)

    def work(k, accumulate):
        given, upstream = calls[k]
        start.wait()
        for _ in range(20):
            forward = layer.forward(**given)
            found = results(forward) | layer.backward(cache=forward.cache, **upstream, accumulate=accumulate)._asdict()
            try:
                assert_same(found, expected[k], found)
            except AssertionError as error:
                wrong.append(error)

    for accumulate in (False, True):
        layer.gradients[...] = 0
        threads = [threading.Thread(target=work, args=(k, accumulate)) for k in range(8)]
        for thread in threads:
            thread.start()
        start.wait()
        for thread in threads:
            thread.join()
        assert not wrong, wrong[0]
        if accumulate:
            total = 20 * np.sum(np.array(alone, np.float64), axis=0)
            np.testing.assert_allclose(layer.gradients, total, rtol=0, atol=1e-4 * np.abs(total).max())
        else:
            assert any(np.array_equal(layer.gradients, a) for a in alone)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_of_fork_computes_while_its_parent_holds_the_lock():
    layer = fastgate.LSTM(3, 4, rng=0)
    forward = layer.forward(np.ones((2, 3, 3), np.float32))

    def work():
        layer.backward(forward.h, forward.cache)
        return layer.gradients.any()

    assert status_of_child(layer._lock, work) == 0


# --- arguments -----------------------------------------------------------------------------------------------------------


OF_CELL = {"lstm": (
    ({"peephole": None}, TypeError, "peephole: expected True or False, got None"),
    ({"candidate": "relu"}, ValueError, 'candidate: expected "tanh" or "sigmoid", got "relu"'),
    ({"coupled": 1}, TypeError, "coupled: expected True or False, got int 1"),
    ({"proj_size": 0}, ValueError, "proj_size: expected an integer >= 1, got 0"),
    ({"proj_size": True}, TypeError, "proj_size: expected an integer >= 1, got bool True"),
    ({"cell_clip": 0}, ValueError, "cell_clip: expected a number > 0, got 0.0"),
    ({"preact_clip": "3"}, TypeError, "preact_clip: expected a number > 0, got str '3'"),
), "leaky": (
    ({"alpha": 1.5}, ValueError, "alpha: expected a number from 0 to 1, got 1.5"),
    ({"alpha": None}, TypeError, r"alpha: expected a number from 0 to 1 or an array \(H,\) of them, got None"),
    ({"alpha": [0.5, 0.5]}, ValueError, r"alpha: expected \(H,\) = \(4,\), got \(2,\)"),
    ({"alpha": [0.5, 0.5, np.nan, 0]}, ValueError, "alpha: expected numbers from 0 to 1, got nan for unit 2"),
    ({"alpha": np.zeros(4, int)}, TypeError, "alpha: expected float32 or float64, got int64"),
    ({"learn_alpha": 0.5}, TypeError, "learn_alpha: expected True or False, got float 0.5"),
    ({"Wh": None}, TypeError, "Wh: expected True or False, got None"),
    ({"Wh": False, "recurrent_dropout": 0.5}, ValueError, "recurrent_dropout: expected 0.0 beside Wh=False, got 0.5"),
), "memory": (
    ({"output": "relu"}, ValueError, 'output: expected "identity" or "tanh", got "relu"'),
), "lstm_norm": (
    ({"gain_c": 1}, TypeError, "gain_c: expected True or False, got int 1"),
    ({"eps": 0}, ValueError, "eps: expected a number > 0"),
    ({"eps": None}, TypeError, "eps: expected a number > 0, got None"),
    ({"period": 2}, ValueError, "period: expected None beside gain_c, got one; pass gain_c=False"),
), "gru_norm": (
    ({"eps": 1e-60}, ValueError, "eps: expected a number > 0 that float32 holds, got 1e-60"),
)}  # fmt: skip


@cells
def test_a_constructor_names_what_it_refuses(cell):
    for wrong, error, words in (
        ({"input_size": 0}, ValueError, "input_size: expected an integer >= 1, got 0"),
        ({"hidden_size": -1}, ValueError, "hidden_size: expected an integer >= 1, got -1"),
        ({"hidden_size": 2.0}, TypeError, "hidden_size: expected an integer >= 1, got float 2.0"),
        ({"num_layers": True}, TypeError, "num_layers: expected an integer >= 1, got bool True"),
        ({"bidirectional": 1}, TypeError, "bidirectional: expected True or False, got int 1"),
        ({"merge": "max"}, ValueError, 'merge: expected "concat", "sum", "mean" or "mul", got "max"'),
        ({"merge": None}, TypeError, "merge: expected .*, got None"),
        ({"dropout": 1}, ValueError, "dropout: expected a number < 1, got 1.0"),
        ({"dropout": -0.1}, ValueError, "dropout: expected a number >= 0, got -0.1"),
        ({"dropout": float("nan")}, ValueError, "dropout: expected a number >= 0, got nan"),
        ({"dropout": "0.1"}, TypeError, "dropout: expected a number >= 0, got str '0.1'"),
        ({"b": None}, TypeError, "b: expected True or False, got None"),
        ({"bh": 0}, TypeError, "bh: expected True or False, got int 0"),
        ({"dtype": np.float16}, TypeError, "dtype: expected float32 or float64, got float16"),
        ({"dtype": ">f4"}, TypeError, r"dtype: expected float32 or float64, got float32 \(>f4\)"),
        ({"dtype": "f4,,"}, TypeError, "dtype: expected float32 or float64, got str 'f4,,'"),
        ({"dtype": "i4,?!"}, TypeError, "dtype: expected float32 or float64, got str 'i4,\\?!'"),
        ({"dtype": None}, TypeError, "dtype: expected float32 or float64, got None"),
        ({"dtype": "nonsense"}, TypeError, "dtype: expected float32 or float64, got str 'nonsense'"),
        ({"rng": 1.5}, TypeError, "rng: expected a numpy Generator, an integer seed or None, got float 1.5"),
        ({"rng": -1}, ValueError, "rng: expected a seed >= 0, got -1"),
        ({"rng": np.random.RandomState(0)}, TypeError, "rng: expected a numpy Generator, .* got RandomState"),
        ({"hidden_size": 2**40}, OverflowError, "input_size = 3, hidden_size = 1099511627776"),
        ({"hidden_size": 10**400}, OverflowError, "hidden_size is too large: a number of 1329 bits"),
        (
            {"num_layers": 2**60},
            OverflowError,
            "input_size = 3, hidden_size = 4, num_layers = 1152921504606846976 is too large",
        ),
        ({"num_layers": 2, "input_size": 2**33, "hidden_size": 2**9}, MemoryError, "input_size = 8589934592"),
        *(({option: "no"}, ValueError, f"{option}: expected") for option in ["gate_order"] * (cell.G > 1)),
        *(({option: "no"}, ValueError, f"{option}: expected") for option, value in cell.options[0] if isinstance(value, str)),
        *(({option: np.array(["no", "no"])}, TypeError, f"{option}: expected") for option, _ in cell.options[0]),
        *OF_CELL.get(cell.name, ()),
    ):
        with pytest.raises(error, match=f"^{words}"):
            kind(cell)(**{"input_size": 3, "hidden_size": 4} | wrong)


def test_states_of_a_single_layer_without_its_axis_are_refused_with_a_hint():
    layer = fastgate.LSTM(2, 3, rng=0)
    x, h0 = np.ones((4, 5, 2), np.float32), np.ones((4, 3), np.float32)
    with pytest.raises(ValueError, match=r"^h0: expected .* = \(1, 4, 3\), got \(4, 3\); pass h0\[None\]\?$"):
        layer.forward(x, h0)


def test_an_x_that_seems_time_major_is_asked_about():
    layer = fastgate.LSTM(2, 3, num_layers=2, rng=0)
    x, h0, words = (
        np.ones((4, 5, 2), np.float32),
        np.ones((2, 5, 3), np.float32),
        ", as many rows as x (N, T, D) = (4, 5, 2) has",
    )
    for given, name, asked in (
        ({"h0": h0, "c0": h0}, "h0", True),
        ({"h0": h0, "lengths": [4] * 5}, "h0", True),
        ({"lengths": [4] * 5}, "lengths", True),
        ({"h0": h0, "c0": h0[:, :4]}, "h0", False),
        ({"h0": h0, "lengths": [4] * 4}, "h0", False),
        ({"h0": h0[:, :4], "lengths": [4] * 5}, "lengths", False),
    ):
        with pytest.raises(ValueError, match=rf"^{name}: expected") as caught:
            layer.forward(x, **given)
        assert (words in str(caught.value)) is asked
    layer.forward(x.swapaxes(0, 1), h0)


@cells
def test_calls_name_what_they_refuse_and_change_nothing(cell):
    rng = np.random.default_rng(22)
    layer = make(cell, dtype=np.float32)
    given, upstream = data(cell, layer, rng)
    x, h0 = given["x"], given["h0"]
    cache = layer.forward(**given).cache
    layer.backward(cache=cache, **upstream)
    other = make(cell, dtype=np.float32)
    before = digest(given, upstream, dict(layer.weights), dict(layer.grads))
    generator = layer._rng.bit_generator.state
    W = layer.output_size
    for wrong, error, words in (
        ({"x": x[0]}, ValueError, r"x: expected \(N, T, D\), got \(6, 3\); pass x\[None\]\?"),
        ({"x": x[..., :2]}, ValueError, r"x: expected \(N, T, D\) = \(4, 6, 3\), got \(4, 6, 2\)"),
        ({"x": x.astype(float)}, TypeError, r"x: expected float32 as the layer, got float64; pass x.astype\(np.float32\)"),
        ({"x": x.tolist()}, TypeError, r"x: expected float32 as the layer, got float64; pass np.asarray\(x, np.float32\)"),
        ({"x": None}, TypeError, "x: expected an array of float32 as the layer, got None"),
        ({"h0": h0[0]}, ValueError, r"h0: expected \(num_layers·num_directions, N, H\) = \(4, 4, 5\), got \(4, 5\)"),
        ({"h0": h0.astype(float)}, TypeError, "h0: expected float32 as the layer, got float64"),
        ({"lengths": [6, 6, 6]}, ValueError, r"lengths: expected \(N,\) = \(4,\), got \(3,\)"),
        ({"lengths": [6, 6, 6, 7]}, ValueError, r"lengths: expected 0\.\.T = 0\.\.6, got 7 in row 3"),
        ({"lengths": [6, 6, 6, 1.5]}, TypeError, "lengths: expected integers"),
        ({"training": 1}, TypeError, "training: expected True or False"),
        ({"return_sequences": None}, TypeError, "return_sequences: expected True or False"),
        ({"rng": "seed"}, TypeError, "rng: expected"),
    ):
        with pytest.raises(error, match=f"^{words}"):
            layer.forward(**given | wrong)
    if cell.has_c:
        with pytest.raises(
            ValueError, match=r"^c0: expected \(num_layers·num_directions, N, H\) = \(4, 4, 5\), got \(4, 4, 4\)"
        ):
            layer.forward(x, h0, given["c0"][..., 1:])
        with pytest.raises(ValueError, match=r"^dc_T: expected"):
            layer.backward(cache=cache, **upstream | {"dc_T": upstream["dc_T"][1:]})
    for wrong, error, words in (
        ({"dh": upstream["dh"][:, 1:]}, ValueError, rf"dh: expected \(N, T, output_size\) = \(4, 6, {W}\), got \(4, 5, {W}\)"),
        ({"dh": upstream["dh"].astype(float)}, TypeError, "dh: expected float32 as the layer, got float64"),
        ({"dh_T": upstream["dh_T"][0]}, ValueError, r"dh_T: expected \(num_layers·num_directions, N, H\) = \(4, 4, 5\), got"),
        (
            {"cache": None},
            ValueError,
            "cache: expected the cache of this layer's forward, got None; call forward with training",
        ),
        (
            {"cache": cache._caches[0][0]},
            ValueError,
            "cache: expected the cache of this layer's forward, got that of [a-z_]+_forward$",
        ),
        (
            {"cache": other.forward(**given).cache},
            ValueError,
            "cache: expected the cache of this layer's forward, got that of another",
        ),
        ({"accumulate": 1}, TypeError, "accumulate: expected True or False"),
        ({"need_dx": 0}, TypeError, "need_dx: expected True or False"),
    ):
        with pytest.raises(error, match=f"^{words}"):
            layer.backward(**{"cache": cache} | upstream | wrong)
    assert digest(given, upstream, dict(layer.weights), dict(layer.grads)) == before
    assert layer._rng.bit_generator.state == generator


@cells
def test_odd_arrays_give_the_bits_of_plain_ones(cell):
    """Strides, foreign byte order, misaligned and read-only memory, lists."""
    rng = np.random.default_rng(23)
    layer = make(cell, dtype=np.float64)
    given, upstream = data(cell, layer, rng)
    expected = run(layer, given, upstream)

    def strided(a):
        wide = np.full((*a.shape[:-1], 2 * a.shape[-1]), np.nan)
        wide[..., ::2] = a
        return wide[..., ::2]

    def reversed_rows(a):
        return a[:, ::-1].copy()[:, ::-1]

    def misaligned(a):
        memory = np.empty(a.nbytes + 1, np.uint8)
        memory[1:] = np.frombuffer(a.tobytes(), np.uint8)
        return memory[1:].view(a.dtype).reshape(a.shape)

    def read_only(a):
        a = a.copy()
        a.flags.writeable = False
        return a

    for odd in (strided, reversed_rows, misaligned, read_only, np.ndarray.tolist, lambda a: a.astype(">f8")):
        found = run(layer, *({name: odd(a) for name, a in arrays.items()} for arrays in (given, upstream)))
        assert_same(found, expected)


@pytest.mark.parametrize("merge", MERGES)
def test_outputs_take_the_memory_order_of_x(merge):
    rng = np.random.default_rng(25)
    for bidirectional, training in ((False, True), (True, True), (True, False)):
        layer = fastgate.GRU(3, 5, num_layers=2, bidirectional=bidirectional, merge=merge, rng=rng)
        x = values(rng, (6, 4, 3), np.float32).swapaxes(0, 1)
        h, _, cache = layer.forward(x, training=training)
        assert h.strides[1] > h.strides[0]
        if training:
            dx = layer.backward(np.ones_like(h), cache).dx
            assert dx.strides[1] > dx.strides[0]


@cells
def test_empty_batches_and_sequences(cell):
    for bidirectional in (False, True):
        layer = make(cell, bidirectional=bidirectional)
        for N, T in ((0, 3), (2, 0), (0, 0)):
            given, upstream = data(cell, layer, np.random.default_rng(24), N, T)
            found = run(layer, given, upstream)
            assert found["h"].shape == (N, T, layer.output_size)
            np.testing.assert_array_equal(found["h_T"], given["h0"])
            np.testing.assert_array_equal(found["dh0"], upstream["dh_T"])
            assert not layer.gradients.any()
    layer = make(cell, bidirectional=False)
    assert layer.step(np.zeros((0, 3))).shape == (0, 5)


def test_fastgate_imports_layers_when_they_are_asked_for():
    code = """
import sys, fastgate
def wings(): return [name for name in ("layers", "streams") if f"fastgate.{name}" in sys.modules]
assert not wings(), wings()
from fastgate import LSTM
assert wings() == ["layers"]
fastgate.StreamPool
assert wings() == ["layers", "streams"]
assert {"LSTM", "StreamPool"} <= set(fastgate.__all__)
try: fastgate.MLP
except AttributeError as error: assert "has no attribute 'MLP'" in str(error)
"""
    subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=True)


def test_load_knows_structures_that_nobody_has_imported(tmp_path):
    fastgate.structures.FinalOutput(3, 4, 2, rng=0).save(tmp_path / "model.npz")
    code = """
import sys
from fastgate import layers
assert "fastgate.structures" not in sys.modules
print(type(layers.load(sys.argv[1])).__name__)
"""
    found = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "model.npz"], env=ENVIRONMENT, check=True, capture_output=True, text=True
    )
    assert found.stdout == "FinalOutput\n"


def test_more_arrays_than_anyone_has_are_refused_at_once():
    words = "num_layers = 10000000: expected at most 100000 arrays of weights, got 30000000$"
    with pytest.raises(ValueError, match=f"^input_size = 1, hidden_size = 1, {words}"):
        fastgate.LSTM(1, 1, num_layers=10**7)
    with pytest.raises(ValueError, match="micro_steps = 10000000: expected at most 100000 arrays of weights"):
        fastgate.structures.DeepTransition(1, 1, cell="rnn", micro_steps=10**7)


@cells
def test_repr_and_config(cell):
    for options in ({}, {"bh": False}, {"merge": "sum", "num_layers": 1, "dropout": 0.5}, {"dtype": np.float32, "b": False}):
        more = {
            "lstm": [{"peephole": True}, {"peephole": True, "proj_size": 4}],
            "leaky": [{"alpha": np.linspace(0, 1, 5, dtype=np.float32)}, {"alpha": 1, "learn_alpha": True, "Wh": False}],
            "lstm_norm": [{"gain_c": True}],
        }
        for own in [*(dict(options) for c, options in VARIANTS if c is cell), *more.get(cell.name, ())]:
            layer = make(cell, **options, **own)
            first, *rest = repr(layer).splitlines()
            call, _, count = first.partition(": ")
            assert eval(call, {kind(cell).__name__: kind(cell)}).config == layer.config == type(layer)(**layer.config).config
            assert count == f"{layer.num_parameters} parameters"
            listed = re.findall(r"\w+ \([\d, ]+\)", " ".join(rest))
            assert sorted(listed) == sorted(f"{name} {a.shape}" for name, a in layer.weights.items())
            assert json.loads(json.dumps(layer.config)) == layer.config
            cache = layer.forward(np.ones((2, 3, 3), layer.dtype)).cache
            assert repr(cache) == f"<cache of {type(layer).__name__}.forward: N=2, T=3, {cache.nbytes} bytes>"
            assert cache.nbytes > 2 * 3 * 5


# --- examples ------------------------------------------------------------------------------------------------------------

EXAMPLES = Path(__file__).parents[1] / "examples"
in_source_tree = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="examples/ is not beside tests/")


@pytest.fixture
def optimizers(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("optimizers")


@in_source_tree
@pytest.mark.parametrize("name", ["SGD", "Adam"])
@pytest.mark.beside
def test_optimisers_are_those_of_pytorch(optimizers, name):
    torch = pytest.importorskip("torch", reason="compared with PyTorch")
    rng = np.random.default_rng(25)
    arrays = [values(rng, shape) for shape in ((7,), (3, 4))]
    theirs = [torch.from_numpy(a.copy()).requires_grad_() for a in arrays]
    options = {"SGD": {"lr": 0.1, "momentum": 0.9}, "Adam": {"lr": 0.01}}[name]
    optimizer = getattr(torch.optim, name)(theirs, **options)
    ours = getattr(optimizers, name)(arrays, rate=options["lr"])
    for _ in range(20):
        gradients = [values(rng, a.shape) for a in arrays]
        before = digest(gradients)
        ours.step(gradients)
        assert digest(gradients) == before
        for tensor, gradient in zip(theirs, gradients, strict=True):
            tensor.grad = torch.from_numpy(gradient)
        optimizer.step()
    for a, tensor in zip(arrays, theirs, strict=True):
        np.testing.assert_allclose(a, tensor.detach().numpy(), rtol=0, atol=1e-12)


@in_source_tree
def test_the_example_learns():
    done = subprocess.run(
        [sys.executable, EXAMPLES / "train_a_layer.py", "80"], env=ENVIRONMENT | {"PYTHONSAFEPATH": ""}, capture_output=True,
        text=True, check=True, timeout=300,
    )  # fmt: skip
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", done.stdout)]
    assert len(losses) == 10
    assert losses[-1] < 0.4 < losses[0]
    assert float(re.search(r"([\d.]+)% are named rightly", done.stdout)[1]) > 90


def test_parameters_and_gradients_change_in_place_only():
    layer = fastgate.LSTM(3, 4, rng=0)
    before, weights = layer.parameters.copy(), layer.weights["Wx0"]
    layer.parameters -= 0.5
    layer.parameters *= 2
    layer.gradients += 1
    np.testing.assert_array_equal(layer.parameters, 2 * (before - np.float32(0.5)))
    assert np.shares_memory(layer.weights["Wx0"], layer.parameters)
    assert layer.weights["Wx0"] is weights
    assert (layer.gradients == 1).all()
    for name in ("parameters", "gradients"):
        with pytest.raises(AttributeError, match=rf"{name}: expected the layer's own array.*layer\.{name}\[\.\.\.\] = values"):
            setattr(layer, name, before)


@pytest.mark.parametrize(
    "model",
    [
        lambda: fastgate.LSTM(3, 4, num_layers=2, bidirectional=True, rng=0),
        lambda: layers.TreeLSTM(3, 4, rng=0),
        lambda: fastgate.structures.FinalOutput(3, 4, 2, rng=0),
    ],
    ids=["LSTM", "TreeLSTM", "FinalOutput"],
)
def test_values_are_copied_into_the_view_of_a_name(model):
    """They are never the array that the name stands for, and what does not fit changes nothing."""
    model, rng = model(), np.random.default_rng(0)
    for what, flat in (("weights", model.parameters), ("grads", model.gradients)):
        views = getattr(model, what)
        for name, view in views.items():
            given = values(rng, view.shape, np.float32)
            views[name] = given.astype(">f4") if view.ndim == 1 else np.asfortranarray(given)
            given_before, given[...] = given.copy(), 0
            assert views[name] is view
            np.testing.assert_array_equal(view, given_before)
            views[name] *= 2
            assert views[name] is view
            np.testing.assert_array_equal(view, 2 * given_before)
        np.testing.assert_array_equal(flat, np.concatenate([view.ravel() for view in views.values()]))
        name = next(iter(views))
        shape, before = views[name].shape, flat.copy()
        for wrong, error, words in (
            (np.ones(shape[::-1], np.float32), ValueError, f" = {shape}, got {shape[::-1]}; pass {name}.T?"),
            (0.5, ValueError, f" = {shape}, got (); pass np.full({shape}, 0.5, np.float32)?"),
            (np.ones(shape), TypeError, f"float32 as the layer, got float64; pass {name}.astype(np.float32)"),
        ):
            with pytest.raises(error, match=f"^{name}: expected .*{re.escape(words)}$"):
                views[name] = wrong
        for call in (views.__getitem__, lambda name, views=views: views.__setitem__(name, 0.5)):
            with pytest.raises(KeyError) as caught:
                call("W0")
            assert caught.value.args[0].startswith(f"{what}: expected a name among '{name}', ")
            assert caught.value.args[0].endswith(", got 'W0'")
        assert "W0" not in views
        assert list(views | {"W0": 1}) == [*views, "W0"]
        assert list({"W0": 1} | views) == ["W0", *views]
        assert list(reversed(views)) == list(views)[::-1]
        assert all(view is views[name] for name, view in views.copy().items())
        assert views.get("W0") is None
        np.testing.assert_array_equal(flat, before)


# --- leaky units -----------------------------------------------------------------------------------------------------------


def test_what_a_leaky_layer_does_not_learn():
    """Alphas for each unit are constants in all layers and directions; without Wh units see nothing of each other."""
    rng = np.random.default_rng(26)
    alpha = fastgate.draw_alpha(5, 1, 50, rng)
    for Wh in (True, False):
        layer = fastgate.Leaky(3, 5, num_layers=2, bidirectional=True, alpha=alpha, Wh=Wh, dtype=np.float64, rng=rng)
        assert ("Wh1" in layer.weights) is Wh
        assert "alpha0" not in layer.weights
        assert layer.config["alpha"] == alpha.tolist()
        x = values(rng, (4, 6, 3))
        found = layer.forward(x)
        inner = []
        for x_k, k in ((x, 0), (None, 1)):
            halves = []
            for suffix in ("", "_reverse"):
                W = {name: layer.weights.get(f"{name}{k}{suffix}") for name in ("Wx", "Wh", "b")}
                halves.append(
                    fastgate.leaky_forward(
                        x_k if k == 0 else inner[-1], None, **W, alpha=alpha.astype(np.float64), reverse=suffix != ""
                    ).h
                )
            inner.append(np.concatenate(halves, axis=2))
        np.testing.assert_array_equal(found.h, inner[-1])
        layer.backward(found.h, found.cache)
        assert layer.gradients.all()
        pool = fastgate.StreamPool(fastgate.Leaky(3, 5, alpha=alpha, Wh=Wh, dtype=np.float64, rng=0), 4)
        ids = pool.open(4)
        steps = np.stack([pool.step(ids, x[:, t]) for t in range(6)], axis=1)
        np.testing.assert_array_equal(steps, pool.layer.forward(x).h)


def test_alphas_that_are_learned_begin_as_given():
    alpha = fastgate.draw_alpha(5, 1, 50, np.random.default_rng(27))
    layer = fastgate.Leaky(3, 5, num_layers=2, alpha=alpha, learn_alpha=True, rng=0)
    for name in ("alpha0", "alpha1"):
        np.testing.assert_array_equal(layer.weights[name], alpha)
    x = np.ones((2, 3, 3), np.float32)
    layer.weights["alpha1"][2] = 1.25
    with pytest.raises(ValueError, match=r"^alpha: expected numbers from 0 to 1, got 1.25 for unit 2$"):
        layer.forward(x)
    np.clip(layer.weights["alpha1"], 0, 1, out=layer.weights["alpha1"])
    layer.forward(x)
