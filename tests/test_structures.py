"""Structures over the cells: the same as their parts, gradients as finite differences, files, what does not fit."""

import copy
import pickle

import numpy as np
import pytest
from support import digest, values

from fastgate import structures

CELLS = ("rnn", "lstm", "gru")
cells = pytest.mark.parametrize("cell", CELLS)
ragged = pytest.mark.parametrize("lengths", [None, [5, 0, 2, 3]], ids=["whole", "ragged"])


def lively(structure, scale=0.7):
    structure.parameters[...] = values(np.random.default_rng(5), structure.parameters.shape, structure.dtype, scale)
    return structure


def leaves(thing):
    """All arrays of nested tuples, in order."""
    if isinstance(thing, np.ndarray):
        return [thing]
    return [a for part in thing for a in leaves(part)] if isinstance(thing, tuple) else []


def rebuilt(thing, arrays):
    """The nested tuples with other arrays."""
    if isinstance(thing, np.ndarray):
        return arrays.pop(0)
    if isinstance(thing, tuple):
        parts = [rebuilt(part, arrays) for part in thing]
        return thing._make(parts) if hasattr(thing, "_make") else tuple(parts)
    return thing


def memory(thing):
    """Shapes and bits of all arrays."""
    return [(a.shape, a.dtype.str, a.tobytes()) for a in leaves(thing)]


def random_like(rng, thing):
    return rebuilt(thing, [values(rng, a.shape, a.dtype) for a in leaves(thing)])


def check_gradients(structure, forward, backward, arguments, seed=0):
    """Along random directions of every argument and of the weights; a central difference against backward.

    forward(structure, **arguments) -> (results, cache); backward(structure, dresults, cache) -> {argument: gradient}.
    """
    rng = np.random.default_rng(seed)
    before = digest(arguments, structure.parameters)
    results, cache = forward(structure, **arguments)
    upstream = [values(rng, a.shape) for a in leaves(results)]
    structure.gradients[...] = np.nan
    found = backward(structure, rebuilt(results, list(upstream)), cache)
    gradients = structure.gradients.copy()
    assert digest(arguments, structure.parameters) == before
    again = backward(structure, rebuilt(results, list(upstream)), cache)
    assert memory((*again.values(), structure.gradients)) == memory((*found.values(), gradients))

    def loss(arrays, parameters):
        other = copy.deepcopy(structure)
        other.parameters[...] = parameters
        return sum(np.sum(d * a) for d, a in zip(upstream, leaves(forward(other, **arrays)[0]), strict=True))

    eps = 1e-6
    for name in ("parameters", *found):
        of = structure.parameters if name == "parameters" else arguments[name]
        direction = random_like(rng, of)
        moved = []
        for sign in (eps, -eps):
            there = rebuilt(of, [a + sign * d for a, d in zip(leaves(of), leaves(direction), strict=True)])
            if name == "parameters":
                moved.append(loss(arguments, there))
            else:
                moved.append(loss(arguments | {name: there}, structure.parameters))
        gradient = gradients if name == "parameters" else found[name]
        slope = sum(np.sum(d * g) for d, g in zip(leaves(direction), leaves(gradient), strict=True))
        assert abs(slope) > 1e-6, name
        assert abs((moved[0] - moved[1]) / (2 * eps) - slope) < 1e-7 * max(1, abs(slope)), name


def check_files(structure, tmp_path, call):
    """A structure goes through files, pickle, copies; its layers' weights are views of the one array."""
    path = tmp_path / "structure.npz"
    structure.save(path)
    expected = memory(call(structure))
    for other in (
        type(structure).load(path), structures.load(path), pickle.loads(pickle.dumps(structure)), copy.deepcopy(structure),
    ):  # fmt: skip
        assert type(other) is type(structure)
        assert other.config == structure.config
        assert memory(call(other)) == expected
        other.parameters[...] = 0
        for layer in other._parts.values():
            assert (layer.parameters == 0).all()
            assert np.shares_memory(layer.parameters, other.parameters)
            assert np.shares_memory(layer.gradients, other.gradients)
    same = type(structure)(**structure.config, rng=0)
    same.load_state_dict(structure.state_dict())
    assert memory(call(same)) == expected
    names = list(structure.weights)
    assert sum(structure.weights[name].size for name in names) == structure.num_parameters
    assert type(structure).__name__ in repr(structure)
    assert all(f"{name} (" in repr(structure) for name in names)
    one, two = (type(structure)(**structure.config, rng=3).parameters for _ in range(2))
    assert memory(one) == memory(two)


def check_rows(call, lengths, **arrays):
    """Rows alone, in another order and in more padding, NaN at that, have the bits that they have in the batch.

    call(lengths, **arrays) -> (o, states): rows are the first axis of o, the last but one of states.
    """
    together = leaves(call(lengths=lengths, **arrays))
    for rows in ([0], [2], [3, 0, 2]):
        own = np.array([lengths[n] for n in rows])
        padded = {name: np.pad(a[rows], ((0, 0), (0, 2), (0, 0))) for name, a in arrays.items()}
        for a in padded.values():
            a[np.arange(a.shape[1]) >= own[:, None]] = np.nan
        o, *states = leaves(call(lengths=own, **padded))
        np.testing.assert_array_equal(o[:, : together[0].shape[1]], together[0][rows])
        assert (o[:, together[0].shape[1] :] == 0).all()
        for a, b in zip(states, together[1:], strict=True):
            np.testing.assert_array_equal(a, b.take(rows, axis=b.ndim - 2))


# --- the three designs -----------------------------------------------------------------------------------------------------

DESIGNS = [
    (structures.OutputEveryStep, {}), (structures.OutputEveryStep, {"num_layers": 2, "bidirectional": True, "b": False}),
    (structures.FinalOutput, {}), (structures.FinalOutput, {"num_layers": 2, "bidirectional": True, "merge": "sum"}),
]  # fmt: skip
designs = pytest.mark.parametrize(("design", "options"), DESIGNS)


def first_state(layer, rng, N=4):
    shape = (layer.num_layers * layer.num_directions, N, layer.hidden_size)
    return layer._State._make(values(rng, shape, layer.dtype) for _ in layer._State._fields)


@designs
@cells
@ragged
def test_gradients_of_the_designs(design, options, cell, lengths):
    model = lively(design(3, 5, 4, cell=cell, dtype=np.float64, rng=0, **options))
    rng = np.random.default_rng(1)

    def forward(model, x, state):
        o, after, cache = model.forward(x, state, lengths=lengths)
        return (o, after), cache

    def backward(model, upstream, cache):
        dx, dstate = model.backward(upstream[0], cache, upstream[1])
        return {"x": dx, "state": dstate}

    check_gradients(model, forward, backward, {"x": values(rng, (4, 5, 3)), "state": first_state(model.layer, rng)})


@designs
@cells
def test_a_design_is_its_layer_and_an_affine_map(design, options, cell):
    model = lively(design(3, 5, 4, cell=cell, dtype=np.float64, rng=0, **options))
    rng = np.random.default_rng(1)
    x, state, lengths = values(rng, (4, 5, 3)), first_state(model.layer, rng), [5, 0, 2, 3]
    found = model.forward(x, state, lengths=lengths, training=False)
    assert found.cache is None
    h, *after, _ = model.layer.forward(x, *state, lengths=lengths)
    last = h if design is structures.OutputEveryStep else np.concatenate(after[0][-model.layer.num_directions :], axis=1)
    o = last @ model.weights["V"] + model.weights["c"]
    if design is structures.OutputEveryStep:
        o[np.arange(5) >= np.array(lengths)[:, None]] = 0
    np.testing.assert_allclose(found.o, o, rtol=0, atol=1e-13)
    for a, b in zip(found.state, after, strict=True):
        np.testing.assert_array_equal(a, b)
    x[np.arange(5) >= np.array(lengths)[:, None]] = np.nan
    do = values(rng, found.o.shape)
    expected = model.forward(x, state, lengths=lengths)
    assert memory(expected.o) == memory(found.o)
    model.backward(do, expected.cache)
    before = model.gradients.copy()
    if design is structures.OutputEveryStep:
        do[np.arange(5) >= np.array(lengths)[:, None]] = np.nan
    model.backward(do, expected.cache, accumulate=True)
    np.testing.assert_array_equal(model.gradients, 2 * before)
    assert model.backward(do, expected.cache, need_dx=False).dx is None
    model.backward(None, expected.cache)
    assert (model.gradients == 0).all()


@designs
@cells
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_of_a_design_alone(design, options, cell, dtype):
    model = lively(design(3, 17, 9, cell=cell, dtype=dtype, rng=0, **options))
    x = values(np.random.default_rng(1), (4, 5, 3), dtype)
    check_rows(lambda x, lengths: model.forward(x, lengths=lengths)[:2], [5, 1, 2, 3], x=x)


@designs
@cells
def test_files_of_the_designs(design, options, cell, tmp_path):
    more = {"rnn": {"activation": "relu"}, "lstm": {"peephole": True, "cell_clip": 2.0}, "gru": {"reset": "before"}}[cell]
    model = lively(design(3, 5, 4, cell=cell, **options, **more))
    x = values(np.random.default_rng(1), (2, 3, 3), np.float32)
    check_files(model, tmp_path, lambda model: model.forward(x)[:2])


# --- the recurrence through the output --------------------------------------------------------------------------------------

ACTIVATIONS = ("tanh", "sigmoid", "identity")


def output_recurrence(activation="tanh", dtype=np.float64, H=5):
    return lively(structures.OutputRecurrence(3, H, 4, activation=activation, dtype=dtype, rng=0), 0.5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("forced", [True, False])
@ragged
def test_gradients_of_the_output_recurrence(activation, forced, lengths):
    rng = np.random.default_rng(2)
    model, y = output_recurrence(activation), values(rng, (4, 5, 4)) if forced else None

    def forward(model, x, y0):
        o, _, cache = model.forward(x, y, y0, lengths=lengths)
        return (o,), cache

    def backward(model, upstream, cache):
        return dict(zip(("x", "y0"), model.backward(upstream[0], cache), strict=True))

    check_gradients(model, forward, backward, {"x": values(rng, (4, 5, 3)), "y0": values(rng, (4, 4))})


@pytest.mark.parametrize("activation", [*ACTIVATIONS, "relu"])
def test_the_output_recurrence_is_its_equations(activation):
    """Step by step in NumPy; and free running is teacher forcing by its own outputs, bit for bit."""
    model, rng = output_recurrence(activation), np.random.default_rng(2)
    x, y0, lengths = values(rng, (4, 5, 3)), values(rng, (4, 4)), np.array([5, 0, 2, 3])
    W = model.weights
    act = {
        "tanh": np.tanh,
        "relu": lambda a: np.maximum(a, 0),
        "identity": lambda a: a,
        "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
    }
    o, before = np.zeros((4, 5, 4)), y0
    for t in range(5):
        before = act[activation](x[:, t] @ W["Wx"][:3] + before @ W["Wx"][3:] + W["b"]) @ W["V"] + W["c"]
        o[:, t] = before
    free = model.forward(x, None, y0)
    np.testing.assert_allclose(free.o, o, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(free.state[0], free.o[:, -1])
    forced = model.forward(x, free.o, y0)
    assert memory(forced.o) == memory(free.o)
    part = model.forward(x, None, y0, lengths=lengths)
    inside = np.arange(5) < lengths[:, None]
    np.testing.assert_array_equal(part.o, np.where(inside[..., None], free.o, 0))
    for n in range(4):
        np.testing.assert_array_equal(part.state[0][n], free.o[n, lengths[n] - 1] if lengths[n] else y0[n])
    rest = model.forward(x[:, 2:], None, model.forward(x[:, :2], None, y0).state[0])
    np.testing.assert_array_equal(rest.o, free.o[:, 2:])


def test_files_and_rows_of_the_output_recurrence(tmp_path):
    model = output_recurrence(dtype=np.float32, H=33)
    x = values(np.random.default_rng(1), (4, 5, 3), np.float32)
    check_files(model, tmp_path, lambda model: model.forward(x)[:2])
    check_rows(lambda x, lengths: model.forward(x, lengths=lengths)[:2], [5, 1, 2, 3], x=x)
    assert model.forward(x[:0]).o.shape == (0, 5, 4)
    o, state, cache = model.forward(x[:, :0])
    assert o.shape == (4, 0, 4)
    assert model.backward(o, cache)[1].tolist() == state[0].tolist() == np.zeros((4, 4)).tolist()
