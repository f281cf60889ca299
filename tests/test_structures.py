"""Structures over the cells: the same as their parts, gradients as finite differences, files, what does not fit."""

import copy
import pickle

import numpy as np
import pytest
from support import digest, naming, values

import fastgate
from fastgate import decode, structures

CELLS = ("rnn", "lstm", "gru")
cells = pytest.mark.parametrize("cell", CELLS)
ragged = pytest.mark.parametrize("lengths", [None, [5, 0, 2, 3]], ids=["whole", "ragged"])


def lively(structure, scale=0.7):
    structure.parameters[...] = values(np.random.default_rng(5), structure.parameters.shape, structure.dtype, scale)
    for name, a in structure.weights.items():
        if "alpha" in name:
            a[...] = 1 / (1 + np.exp(-a))
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
    before, H = (layer.num_layers * layer.num_directions, N), layer.hidden_size
    sizes = (getattr(layer, "proj_size", None) or H, H)
    return layer._State._make(values(rng, (*before, size), layer.dtype) for size in sizes[: len(layer._State._fields)])


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


@pytest.mark.parametrize("forced", [True, False])
def test_nothing_past_a_row_reaches_the_gradients_of_the_output_recurrence(forced):
    """Neither the last target, which is not used, nor outputs that run away once the row is over."""
    model, rng = output_recurrence("identity"), np.random.default_rng(2)
    model.weights["c"][...] = 1
    model.weights["V"][...] *= 1e3
    model.weights["Wx"][3:] *= 1e3
    x, y, do = values(rng, (2, 120, 3)), values(rng, (2, 120, 4)), np.zeros((2, 120, 4))
    do[:, :4] = values(rng, (2, 4, 4))

    def run(T, padding):
        targets = y[:, :T].copy()
        targets[np.arange(T) >= np.array([2, 3])[:, None]] = padding
        o, state, cache = model.forward(x[:, :T], targets if forced else None, lengths=[3, 4])
        dx, dy0 = model.backward(do[:, :T], cache)
        return [o[:, :4], *state[:1] * (not forced), dx[:, :4], dy0, model.gradients.copy()]

    for a, b in zip(run(120, np.nan), run(4, 0), strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_files_and_rows_of_the_output_recurrence(tmp_path):
    model = output_recurrence(dtype=np.float32, H=33)
    x = values(np.random.default_rng(1), (4, 5, 3), np.float32)
    check_files(model, tmp_path, lambda model: model.forward(x)[:2])
    check_rows(lambda x, lengths: model.forward(x, lengths=lengths)[:2], [5, 1, 2, 3], x=x)
    assert model.forward(x[:0]).o.shape == (0, 5, 4)
    o, state, cache = model.forward(x[:, :0])
    assert o.shape == (4, 0, 4)
    assert model.backward(o, cache)[1].tolist() == state[0].tolist() == np.zeros((4, 4)).tolist()


# --- encoder and decoder ---------------------------------------------------------------------------------------------------

CONTEXTS = ("initial", "input", "both", "additive", "dot")
contexts = pytest.mark.parametrize("context", CONTEXTS)
layers = pytest.mark.parametrize("num_layers", [1, 2])


def encoder_decoder(context, cell="gru", num_layers=1, dtype=np.float64, H=5, **options):
    make = structures.EncoderDecoder
    return lively(make(3, H, 2, 4, context=context, cell=cell, num_layers=num_layers, dtype=dtype, rng=0, **options))


@contexts
@cells
@layers
@pytest.mark.parametrize(
    "lengths", [(None, None), ([5, 0, 2, 3], None), ([4, 1, 5, 3], [3, 6, 0, 2])], ids=["whole", "source", "both"]
)
def test_gradients_of_encoder_and_decoder(context, cell, num_layers, lengths):
    model, rng = encoder_decoder(context, cell, num_layers), np.random.default_rng(1)

    def forward(model, x, y):
        o, _, cache = model.forward(x, y, lengths=lengths[0], y_lengths=lengths[1])
        return (o,), cache

    def backward(model, upstream, cache):
        return dict(zip(("x", "y"), model.backward(upstream[0], cache), strict=True))

    check_gradients(model, forward, backward, {"x": values(rng, (4, 5, 3)), "y": values(rng, (4, 6, 2))})
    _, cache = forward(model, values(rng, (4, 5, 3)), values(rng, (4, 6, 2)))
    do = values(rng, (4, 6, 4))
    model.backward(do, cache)
    before = model.gradients.copy()
    assert model.backward(do, cache, accumulate=True, need_dx=False) == (None, None)
    np.testing.assert_allclose(model.gradients, 2 * before, rtol=1e-12, atol=1e-14)


def softmax(e):
    a = np.exp(e - e.max())
    return a / a.sum()


@contexts
@cells
def test_encoder_and_decoder_are_their_equations(context, cell):
    """Row by row and step by step, over the layers' own steps."""
    model, rng = encoder_decoder(context, cell, 2), np.random.default_rng(1)
    x, y, lengths, y_lengths = values(rng, (4, 5, 3)), values(rng, (4, 6, 2)), [4, 1, 5, 3], [3, 6, 0, 2]
    o, state, _ = model.forward(x, y, lengths=lengths, y_lengths=y_lengths)
    W = model.weights
    for n in range(4):
        encoder, decoder = copy.deepcopy(model.encoder), copy.deepcopy(model.decoder)
        encoder.reset(1)
        hs = np.array([encoder.step(x[n : n + 1, s])[0] for s in range(lengths[n])])
        decoder.state = encoder.state
        if context == "input":
            decoder.reset(1)
        for t in range(y_lengths[n]):
            given, C = y[n : n + 1, t], hs[-1:]
            if context == "additive":
                before = decoder.state.h[-1, 0]
                C = softmax(np.tanh(before @ W["Wa"] + hs @ W["Ua"]) @ W["va"])[None] @ hs
            fed = context in ("input", "both", "additive")
            h = decoder.step(np.concatenate([given, C], axis=1) if fed else given)[0]
            out = h
            if context == "additive":
                out = np.concatenate([h, C[0]])
            if context == "dot":
                out = np.tanh(np.concatenate([softmax(hs @ h) @ hs, h]) @ W["Wc"])
            np.testing.assert_allclose(o[n, t], out @ W["V"] + W["c"], rtol=0, atol=1e-12)
        assert (o[n, y_lengths[n] :] == 0).all()
        for a, b in zip(state, decoder.state, strict=True):
            np.testing.assert_allclose(a[:, n], b[:, 0], rtol=0, atol=1e-13)


@contexts
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_of_encoder_and_decoder_alone(context, dtype):
    model, rng = encoder_decoder(context, "lstm", 2, dtype, H=17), np.random.default_rng(1)
    x, y = values(rng, (4, 40, 3), dtype), values(rng, (4, 40, 2), dtype)

    def call(x, y, lengths):
        return model.forward(x, y, lengths=lengths, y_lengths=lengths)[:2]

    check_rows(call, [40, 1, 23, 31], x=x, y=y)


@contexts
@pytest.mark.parametrize("H", [1, 17])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_of_rows_of_encoder_and_decoder_alone(context, H, dtype):
    model, rng = encoder_decoder(context, "gru", 2, dtype, H=H), np.random.default_rng(1)
    x, y, do = (values(rng, (4, 40, width), dtype) for width in (3, 2, 4))

    def run(rows, S, lengths):
        own = [lengths[n] for n in rows]
        cache = model.forward(x[rows, :S], y[rows, :S], lengths=own, y_lengths=own).cache
        return model.backward(do[rows, :S], cache)

    lengths = [40, 1, 23, 31]
    together = run([0, 1, 2, 3], 40, lengths)
    for n, S in enumerate(lengths):
        for a, b in zip(run([n], S, lengths), together, strict=True):
            np.testing.assert_array_equal(a[0], b[n, :S])


@contexts
@cells
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_decoding_is_the_forward_of_what_is_decoded(context, cell, dtype):
    """Greedy symbols, fed back to forward all at once, give the scores of every step, bit for bit; a beam of one is greedy."""
    rng = np.random.default_rng(1)
    model = lively(structures.EncoderDecoder(3, 17, 6, 6, context=context, cell=cell, num_layers=2, dtype=dtype, rng=0), 0.9)
    x, lengths = values(rng, (4, 9, 3), dtype), [9, 4, 0, 7]
    for E in (None, values(rng, (6, 6), dtype)):
        step, state = model.decoder_step(x, lengths, E)
        seen = []

        def watched(y, state, step=step, seen=seen):
            scores, state = step(y, state)
            seen.append(scores)
            return scores, state

        found = decode.greedy(watched, [0, 1, 2, 3], state, max_length=8, select=step.select)
        inputs = np.concatenate([np.arange(4)[:, None], found.y[:, :-1]], axis=1)
        y = (np.eye(6, dtype=dtype) if E is None else E)[inputs]
        np.testing.assert_array_equal(np.stack(seen, axis=1), model.forward(x, y, lengths=lengths).o)
        beams = decode.beam(step, [0, 1, 2, 3], state, width=1, max_length=8)
        np.testing.assert_array_equal(beams.y[:, 0], found.y)
        wide = decode.beam(step, [0, 1, 2, 3], state, width=4, max_length=8, eos=5)
        step, state = model.decoder_step(x[3:], lengths[3:], E)
        alone = decode.beam(step, [3], state, width=4, max_length=8, eos=5)
        np.testing.assert_array_equal(wide.log_prob[3:], alone.log_prob)


@contexts
@cells
def test_files_of_encoder_and_decoder(context, cell, tmp_path):
    model = encoder_decoder(context, cell, 2, np.float32)
    x, y = values(np.random.default_rng(1), (2, 3, 3), np.float32), values(np.random.default_rng(2), (2, 4, 2), np.float32)
    check_files(model, tmp_path, lambda model: model.forward(x, y)[:2])


@contexts
def test_empty_encoder_and_decoder(context):
    model = encoder_decoder(context, "lstm")
    for N, S, T in ((0, 3, 4), (2, 0, 4), (2, 3, 0), (2, 0, 0)):
        o, state, cache = model.forward(np.ones((N, S, 3)), np.ones((N, T, 2)))
        assert o.shape == (N, T, 4)
        assert state.h.shape == (1, N, 5)
        dx, dy = model.backward(np.ones((N, T, 4)), cache)
        assert (dx.shape, dy.shape) == ((N, S, 3), (N, T, 2))
        assert np.isfinite(model.gradients).all()


# --- the autoencoder -------------------------------------------------------------------------------------------------------

KINDS = [
    (context, conditional, reverse) for context in CONTEXTS[:3] for conditional in (True, False) for reverse in (True, False)
]
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind)))


def autoencoder(kind, cell="gru", dtype=np.float64, H=5):
    context, conditional, reverse = kind
    make = structures.SequenceAutoencoder
    return lively(make(3, H, context=context, conditional=conditional, reverse=reverse, cell=cell, dtype=dtype, rng=0))


@kinds
@cells
@ragged
def test_gradients_of_the_autoencoder(kind, cell, lengths):
    def forward(model, x):
        o, _, cache = model.forward(x, lengths=lengths)
        return (o,), cache

    def backward(model, upstream, cache):
        return {"x": model.backward(upstream[0], cache)}

    check_gradients(autoencoder(kind, cell), forward, backward, {"x": values(np.random.default_rng(1), (4, 5, 3))})


@kinds
def test_the_autoencoder_is_an_encoder_and_a_decoder(kind):
    context, conditional, reverse = kind
    model, x = autoencoder(kind), values(np.random.default_rng(1), (4, 5, 3))
    pair = structures.EncoderDecoder(3, 5, 3, 3, context=context, dtype=np.float64)
    pair.parameters[...] = model.parameters
    for n, T in enumerate([5, 1, 2, 3]):
        own = x[n : n + 1, :T]
        turned = own[:, ::-1] if reverse else own
        y = np.concatenate([np.zeros((1, 1, 3)), turned[:, :-1]], axis=1) if conditional else np.zeros((1, T, 3))
        o = pair.forward(own, y).o
        found = model.forward(x, lengths=[5, 1, 2, 3]).o[n : n + 1, :T]
        np.testing.assert_array_equal(found, o[:, ::-1] if reverse else o)
    np.testing.assert_array_equal(model.encode(x), model.encoder.forward(x).h_T[-1])
    check_rows(lambda x, lengths: model.forward(x, lengths=lengths)[:2], [5, 1, 2, 3], x=x)


def test_files_of_the_autoencoder(tmp_path):
    x = values(np.random.default_rng(1), (2, 3, 3), np.float32)
    for kind in (KINDS[0], KINDS[7]):
        check_files(autoencoder(kind, "lstm", np.float32), tmp_path, lambda model: model.forward(x)[:2])


# --- deep transitions --------------------------------------------------------------------------------------------------------

OPTIONS = {
    "rnn": [{}, {"activation": "sigmoid", "bh": True}],
    "lstm": [{}, {"peephole": True, "b": False}],
    "gru": [{}, {"reset": "before", "update": "new"}],
}
options_of_cells = pytest.mark.parametrize(("cell", "options"), [(cell, o) for cell in CELLS for o in OPTIONS[cell]])


def transition(micro_steps, cell, options, dtype=np.float64, H=5):
    return lively(structures.DeepTransition(3, H, micro_steps=micro_steps, cell=cell, dtype=dtype, rng=0, **options))


@options_of_cells
@pytest.mark.parametrize("micro_steps", [1, 2, 4])
@ragged
def test_gradients_of_deep_transitions(cell, options, micro_steps, lengths):
    model, rng = transition(micro_steps, cell, options), np.random.default_rng(1)

    def forward(model, x, state):
        h, after, cache = model.forward(x, state, lengths=lengths)
        return (h, after), cache

    def backward(model, upstream, cache):
        dx, dstate = model.backward(upstream[0], cache, upstream[1])
        return {"x": dx, "state": dstate}

    check_gradients(model, forward, backward, {"x": values(rng, (4, 5, 3)), "state": first_state(model._cell_layer, rng)})
    h, _, cache = model.forward(values(rng, (4, 5, 3)), lengths=lengths)
    model.backward(h, cache)
    before = model.gradients.copy()
    assert model.backward(h, cache, accumulate=True, need_dx=False).dx is None
    np.testing.assert_array_equal(model.gradients, 2 * before)


@options_of_cells
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_micro_step_is_the_layer(cell, options, dtype):
    model, rng = transition(1, cell, options, dtype, H=17), np.random.default_rng(1)
    layer = getattr(fastgate, cell.upper())(3, 17, dtype=dtype, **options)
    assert list(layer.weights) == list(model.weights)
    layer.parameters[...] = model.parameters
    x, state, lengths = values(rng, (4, 5, 3), dtype), first_state(layer, rng), [5, 0, 2, 3]
    for own in (None, lengths):
        found, expected = model.forward(x, state, lengths=own), layer.forward(x, *state, lengths=own)
        np.testing.assert_array_equal(found.h, expected.h)
        for a, b in zip(found.state, expected[1:-1], strict=True):
            np.testing.assert_array_equal(a, b)


@options_of_cells
def test_micro_steps_are_cells_one_after_the_other(cell, options):
    model, rng = transition(3, cell, options), np.random.default_rng(1)
    x, state = values(rng, (4, 5, 3)), first_state(model._cell_layer, rng)
    step = getattr(fastgate, f"{cell}_step_forward")
    own = {name: value for name, value in options.items() if name in ("activation", "reset", "update")}
    now = [a[0] for a in state]
    found = model.forward(x, state)
    stepped = state
    for t in range(5):
        for k in range(3):
            W = {name[:-1]: a for name, a in model.weights.items() if name.endswith(str(k))}
            if k:
                W["Wx"] = np.zeros((3, W["Wh"].shape[1]))
            *now, _ = step(x[:, t], *now, **W, **own)
        np.testing.assert_allclose(found.h[:, t], now[0], rtol=0, atol=1e-14)
        stepped = model.step(x[:, t], stepped)
        np.testing.assert_array_equal(stepped.h[0], found.h[:, t])
    first = model.forward(x[:, :2], state)
    np.testing.assert_array_equal(model.forward(x[:, 2:], first.state).h, found.h[:, 2:])


@options_of_cells
def test_rows_and_files_of_deep_transitions(cell, options, tmp_path):
    model, x = transition(3, cell, options, np.float32, H=17), values(np.random.default_rng(1), (4, 5, 3), np.float32)
    check_rows(lambda x, lengths: model.forward(x, lengths=lengths)[:2], [5, 1, 2, 3], x=x)
    check_files(model, tmp_path, lambda model: model.forward(x)[:2])
    for N, T in ((0, 3), (2, 0)):
        h, state, cache = model.forward(x[:N, :T] if N else x[:0])
        assert model.backward(np.ones_like(h), cache).dx.shape == (*h.shape[:2], 3)
        assert state[0].shape == (1, len(h), 17)


@pytest.mark.parametrize("context", ["additive", "dot"])
def test_where_attention_looked(context):
    """The weights that attention() returns are those that made the outputs."""
    model, rng = encoder_decoder(context, "lstm", 2), np.random.default_rng(1)
    x, y, lengths, W = values(rng, (4, 5, 3)), values(rng, (4, 6, 2)), [4, 1, 5, 3], model.weights
    o, _, cache = model.forward(x, y, lengths=lengths)
    a = model.attention(cache)
    hs, h_T, c_T, _ = model.encoder.forward(x, lengths=lengths)
    C = a @ hs
    if context == "dot":
        mixed = np.tanh(np.concatenate([C, model.decoder.forward(y, h_T, c_T).h], axis=2) @ W["Wc"])
    else:
        model.decoder.state = (h_T, c_T)
        h = [model.decoder.step(np.concatenate([y[:, t], C[:, t]], axis=1)) for t in range(6)]
        mixed = np.concatenate([np.stack(h, axis=1), C], axis=2)
    np.testing.assert_allclose(mixed @ W["V"] + W["c"], o, rtol=0, atol=1e-13)
    np.testing.assert_allclose(a.sum(axis=2), 1, rtol=0, atol=1e-14)
    assert (a[np.broadcast_to(np.arange(5) >= np.array(lengths)[:, None, None], a.shape)] == 0).all()
    part = model.attention(model.forward(x, y, lengths=[4, 0, 5, 3], y_lengths=[3, 6, 0, 2]).cache)
    assert part.any(axis=2).sum(axis=1).tolist() == [3, 0, 0, 2]
    np.testing.assert_array_equal(part[0, :3], a[0, :3])
    other = encoder_decoder("both")
    with pytest.raises(ValueError, match=r'^cache: expected that of a structure with context="additive" or "dot", got "both"$'):
        other.attention(other.forward(x, y).cache)
    with pytest.raises(ValueError, match=r"^cache: expected the cache of this structure's forward"):
        model.attention(other.forward(x, y).cache)


@pytest.mark.parametrize("context", ["additive", "both"])
def test_a_decoder_may_know_how_many_symbols_are_to_come(context):
    """lengths= of decode, with remaining=True: the last column of y."""
    rng = np.random.default_rng(1)
    model = lively(structures.EncoderDecoder(3, 7, 5, 4, context=context, dtype=np.float64, rng=0))
    x, E, lengths = values(rng, (3, 6, 3)), values(rng, (4, 4)), np.array([5, 2, 4])
    step, state = model.decoder_step(x, E=E, remaining=True)
    found = decode.greedy(step, [0, 1, 2], state, lengths=lengths)
    assert found.lengths.tolist() == lengths.tolist()
    inputs = np.concatenate([[[0], [1], [2]], np.maximum(found.y[:, :-1], 0)], axis=1)
    left = np.maximum(lengths[:, None] - np.arange(5), 0)
    o = model.forward(x, np.concatenate([E[inputs], left[..., None]], axis=2), y_lengths=lengths).o
    inside = np.arange(5) < lengths[:, None]
    np.testing.assert_array_equal(found.y[inside], o.argmax(axis=2)[inside])
    with pytest.raises(ValueError, match=r"^left: expected \(N,\) numbers, the symbols still to come with remaining=True"):
        step([0, 1, 2], state)
    plain, state = model.decoder_step(x)
    with pytest.raises(ValueError, match=r"^left: expected None with remaining=False, got an array; pass remaining=True"):
        decode.greedy(plain, [0, 1, 2], state, lengths=lengths)
    with pytest.raises(ValueError, match=r"^E: expected \(number of symbols, target_size - 1\) = \(…, 4\), got \(4, 5\)"):
        model.decoder_step(x, E=np.ones((4, 5)), remaining=True)


# --- other cells, and an h of another width than c -------------------------------------------------------------------------

EVERY = [
    (structures.OutputEveryStep, (3, 5, 4), {"num_layers": 2, "bidirectional": True}),
    (structures.FinalOutput, (3, 5, 4), {"num_layers": 2, "bidirectional": True}),
    (structures.DeepTransition, (3, 5), {"micro_steps": 3}),
    (structures.MissingValues, (3, 5), {"hidden_decay": False, "bidirectional": True}),
    (structures.SequenceAutoencoder, (3, 5), {"context": "both"}),
    *((structures.EncoderDecoder, (3, 5, 4, 4), {"context": context, "num_layers": 2}) for context in CONTEXTS),
]  # fmt: skip


every = pytest.mark.parametrize(("kind", "sizes", "options"), EVERY, ids=lambda a: getattr(a, "__name__", None))


@every
@pytest.mark.parametrize("proj_size", [2, 7])
def test_projections(kind, sizes, options, proj_size, tmp_path):
    check_all(kind, sizes, options | {"cell": "lstm", "proj_size": proj_size, "peephole": True}, tmp_path)


@every
def test_any_cell(kind, sizes, options, tmp_path):
    for own in (
        {"cell": "leaky", "learn_alpha": True},
        {"cell": "leaky", "alpha": [0.1, 0.3, 0.5, 0.7, 0.9], "Wh": False},
        {"cell": "memory", "output": "identity"},
        {"cell": "lstm_norm", "eps": 0.1},
        {"cell": "gru_norm", "eps": 0.1},
    ):
        with naming(own):
            check_all(kind, sizes, options | own, tmp_path)
            if "hidden_decay" in options:
                check_all(kind, sizes, own, tmp_path)


def check_all(kind, sizes, options, tmp_path):
    """Gradients, files and, of a decoder, steps."""
    model = lively(kind(*sizes, **options, dtype=np.float64, rng=0))
    rng, lengths = np.random.default_rng(1), [4, 1, 5, 3]
    x, mask = values(rng, (4, 5, 3)), rng.random((4, 5, 3)) < 0.6
    inputs: dict = {"x": x}
    if kind is structures.EncoderDecoder:
        inputs["y"] = values(rng, (4, 6, 4))
    elif kind is not structures.SequenceAutoencoder:
        inputs["state"] = first_state(model._cell_layer if kind is structures.DeepTransition else model.layer, rng)

    def forward(model, **inputs):
        own = {"mask": mask} if kind is structures.MissingValues else {}
        found = model.forward(**inputs, **own, lengths=lengths)
        return tuple(found)[: 2 if "state" in inputs else 1], found.cache

    def backward(model, upstream, cache):
        found = model.backward(upstream[0], cache, *upstream[1:])
        return dict(zip(inputs, found if isinstance(found, tuple) else (found,), strict=True))

    check_gradients(model, forward, backward, inputs)
    check_files(model, tmp_path, lambda model: forward(model, **inputs)[0])
    if kind is structures.EncoderDecoder:
        step, state = model.decoder_step(x, lengths)
        y = decode.greedy(step, [0, 1, 2, 3], state, max_length=6).y
        seen, inputs["y"] = [], np.eye(4)[np.concatenate([np.arange(4)[:, None], y[:, :-1]], axis=1)]
        for t in range(6):
            scores, state = step(inputs["y"][:, t].argmax(axis=1), state)
            seen.append(scores)
        np.testing.assert_array_equal(np.stack(seen, axis=1), forward(model, **inputs)[0][0])


def test_a_decay_of_both_states_takes_one_width():
    with pytest.raises(ValueError, match=r"^proj_size: expected None with hidden_decay=True, got 2$"):
        structures.MissingValues(3, 5, cell="lstm", proj_size=2)


# --- missing values ----------------------------------------------------------------------------------------------------------

DECAYS = [(True, True), (True, False), (False, True), (False, False)]
decays = pytest.mark.parametrize("decay", DECAYS, ids=lambda decay: "-".join(map(str, decay)))


def missing_values(cell, decay, dtype=np.float64, H=5, **options):
    model = structures.MissingValues(
        3, H, cell=cell, input_decay=decay[0], hidden_decay=decay[1], dtype=dtype, rng=0, **options
    )  # fmt: skip
    lively(model)
    for name, scale in (("wx", 1.0), ("bx", 0.3), ("Wd", 0.5), ("bd", 0.3)):
        if name in model.weights:
            model.weights[name][...] = values(np.random.default_rng(9), model.weights[name].shape, dtype, scale)
    return model


def observations(rng, N=4, T=7, dtype=np.float64):
    """x, mask, times, mean."""
    times = np.cumsum(rng.uniform(0.2, 1.5, (N, T)), axis=1).astype(dtype)
    return values(rng, (N, T, 3), dtype), rng.random((N, T, 3)) < 0.5, times, values(rng, (3,), dtype)


@decays
@cells
@pytest.mark.parametrize("lengths", [None, [7, 0, 4, 6]], ids=["whole", "ragged"])
def test_gradients_with_missing_values(decay, cell, lengths):
    model, rng = missing_values(cell, decay), np.random.default_rng(1)
    x, mask, times, mean = observations(rng)

    def forward(model, x, state):
        h, after, cache = model.forward(x, mask, state, times=times, mean=mean, lengths=lengths)
        return (h, after), cache

    def backward(model, upstream, cache):
        dx, dstate = model.backward(upstream[0], cache, upstream[1])
        return {"x": dx, "state": dstate}

    check_gradients(model, forward, backward, {"x": x, "state": first_state(model.layer, rng)})
    (h, after), cache = forward(model, x, None)
    model.backward(h, cache, after)
    before = model.gradients.copy()
    dx = model.backward(h, cache, after, accumulate=True).dx
    np.testing.assert_array_equal(model.gradients, 2 * before)
    inside = np.arange(7) < np.array(lengths or [7] * 4)[:, None]
    assert (dx[~(mask & inside[..., None])] == 0).all()
    assert model.backward(h, cache, after, need_dx=False).dx is None
    np.testing.assert_array_equal(model.gradients, before)


@cells
def test_gradients_with_missing_values_in_stacks(cell):
    """Without a decay of h the layer may be deep and bidirectional."""
    model, rng = missing_values(cell, (True, False), num_layers=2, bidirectional=True), np.random.default_rng(1)
    x, mask, times, mean = observations(rng)

    def forward(model, x):
        h, after, cache = model.forward(x, mask, times=times, mean=mean)
        return (h, after), cache

    def backward(model, upstream, cache):
        return {"x": model.backward(upstream[0], cache, upstream[1]).dx}

    check_gradients(model, forward, backward, {"x": x})


@decays
@cells
@pytest.mark.parametrize("timed", [True, False])
def test_missing_values_are_their_equations(decay, cell, timed):
    """Each value of each step by itself; what is missing is NaN."""
    model, rng = missing_values(cell, decay), np.random.default_rng(1)
    x, mask, times, mean = observations(rng)
    x[~mask] = np.nan
    found = model.forward(x, mask, times=times if timed else None, mean=mean, training=False)
    assert found.cache is None
    if not timed:
        times = np.tile(np.arange(7.0), (4, 1))
    W = model.weights
    step = getattr(fastgate, f"{cell}_step_forward")
    own = {name[len("layer.") : -1]: a for name, a in W.items() if name.startswith("layer.")}
    for n in range(4):
        states = [np.zeros((1, 5)) for _ in found.state]
        last, seen = mean.copy(), np.full(3, times[n, 0])
        for t in range(7):
            delta = times[n, t] - seen
            gamma = np.exp(-np.maximum(0, W["wx"] * delta + W["bx"])) if decay[0] else np.ones(3)
            given = [x[n, t, d] if mask[n, t, d] else gamma[d] * last[d] + (1 - gamma[d]) * mean[d] for d in range(3)]
            if decay[1]:
                states = [np.exp(-np.maximum(0, delta @ W["Wd"] + W["bd"])) * a for a in states]
            *states, _ = step(np.array([[*given, *mask[n, t]]], float), *states, **own)
            np.testing.assert_allclose(found.h[n, t], states[0][0], rtol=0, atol=1e-13)
            last, seen = np.where(mask[n, t], x[n, t], last), np.where(mask[n, t], times[n, t], seen)


def test_intervals_are_those_of_the_paper():
    """Figure 2 of Che et al. (2018): two variables at 0, 0.1, 0.6, 1.6, 2.2, 2.5, 3.1."""
    mask = np.array([[0, 1, 0, 0, 0, 1, 0], [1, 0, 0, 1, 1, 0, 1]], bool).T[None]
    times = np.array([[0, 0.1, 0.6, 1.6, 2.2, 2.5, 3.1]])
    expected = np.array([[0.0, 0.1, 0.5, 1.5, 2.1, 2.4, 0.6], [0.0, 0.1, 0.6, 1.6, 0.6, 0.3, 0.9]]).T[None]
    np.testing.assert_allclose(structures.intervals(mask, times), expected, rtol=0, atol=1e-12)


@decays
@cells
def test_rows_and_files_with_missing_values(decay, cell, tmp_path):
    model, rng = missing_values(cell, decay, np.float32, H=17), np.random.default_rng(1)
    x, mask, times, mean = observations(rng, dtype=np.float32)
    lengths = [7, 1, 4, 6]
    inside = np.arange(7) < np.array(lengths)[:, None]
    together = model.forward(x, mask, times=times, mean=mean, lengths=lengths, training=False)
    x[~(mask & inside[..., None])] = np.nan
    times[~inside] = np.nan
    for rows in ([0], [2], [3, 0, 2]):
        own = [lengths[n] for n in rows]
        alone = model.forward(x[rows], mask[rows] | ~inside[rows][..., None], times=times[rows], mean=mean, lengths=own)
        np.testing.assert_array_equal(alone.h, together.h[rows])
        for a, b in zip(alone.state, together.state, strict=True):
            np.testing.assert_array_equal(a, b[:, rows])
        model.backward(np.ones_like(alone.h), alone.cache)
        assert np.isfinite(model.gradients).all()
    check_files(model, tmp_path, lambda model: model.forward(x, mask, mean=mean, lengths=lengths)[:2])
    for N, T in ((0, 3), (2, 0)):
        h, _, cache = model.forward(x[:N, :T], mask[:N, :T])
        assert model.backward(np.ones_like(h), cache).dx.shape == (N, T, 3)


def test_infinite_observations_and_times():
    """In silence: a row whose values are infinite leaves the others as they are; times that are infinite are refused."""
    model, rng = missing_values("gru", (True, True)), np.random.default_rng(1)
    x, mask, times, mean = observations(rng)
    expected = model.forward(x, mask, times=times, mean=mean)
    x[1, mask[1].any(axis=1)] = np.inf
    found = model.forward(x, mask, times=times, mean=mean)
    model.backward(np.ones_like(found.h), found.cache)
    np.testing.assert_array_equal(found.h[[0, 2, 3]], expected.h[[0, 2, 3]])
    with pytest.raises(ValueError, match=r"^times: expected finite times"):
        model.forward(x, mask, times=np.full_like(times, np.inf))


def test_fresh_weights_decay_and_carry():
    model = structures.MissingValues(3, 5, rng=0)
    assert (model.weights["wx"] > 0).all()
    assert (model.weights["Wd"] > 0).all()
    x = np.ones((1, 4, 3), np.float32)
    mask = np.zeros((1, 4, 3), bool)
    mask[:, 0] = True
    h, _, cache = model.forward(x, mask)
    model.backward(np.ones_like(h), cache)
    assert all((np.abs(model.grads[name]) > 0).any() for name in ("wx", "bx", "Wd", "bd"))


# --- what does not fit -------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_named():
    """Judged before anything is written: weights and gradients are as they were."""
    every, final, output = (
        kind(3, 5, 4, rng=0) for kind in (structures.OutputEveryStep, structures.FinalOutput, structures.OutputRecurrence)
    )
    pair, auto = structures.EncoderDecoder(3, 5, 2, 4, rng=0), structures.SequenceAutoencoder(3, 5, rng=0)
    deep, missing = structures.DeepTransition(3, 5, rng=0), structures.MissingValues(3, 5, rng=0)
    x, y, mask = np.ones((2, 4, 3), np.float32), np.ones((2, 4, 2), np.float32), np.ones((2, 4, 3), bool)
    o, _, cache = every.forward(x)
    h, _, kept = deep.forward(x)
    _, _, paired = pair.forward(x, y)
    _, _, seen = missing.forward(x, mask)
    wrong = np.ones((2, 4, 9), np.float32)
    models = (every, final, output, pair, auto, deep, missing)
    for model in models:
        model.gradients[...] = 7
    before = digest(*(model.gradients for model in models), *(model.parameters for model in models))
    for kind, words, call in (
        (TypeError, "input_size: expected an integer", lambda: structures.OutputEveryStep(3.0, 5, 4)),
        (ValueError, "output_size: expected an integer >= 1", lambda: structures.FinalOutput(3, 5, 0)),
        (ValueError, 'cell: expected "rnn", .* or "gru_norm", got "elm"', lambda: structures.FinalOutput(3, 5, 4, cell="elm")),
        (TypeError, ".*unexpected keyword argument 'colour'", lambda: structures.OutputEveryStep(3, 5, 4, colour=1)),
        (TypeError, "dtype: expected float32 or float64", lambda: structures.OutputEveryStep(3, 5, 4, dtype=int)),
        (ValueError, "reset: expected", lambda: structures.OutputEveryStep(3, 5, 4, cell="gru", reset="never")),
        (ValueError, "activation: expected", lambda: structures.OutputRecurrence(3, 5, 4, activation="softmax")),
        (TypeError, "rng: expected", lambda: structures.OutputRecurrence(3, 5, 4, rng="x")),
        (ValueError, "context: expected", lambda: structures.EncoderDecoder(3, 5, 2, 4, context="none")),
        (ValueError, "bidirectional: expected False", lambda: structures.EncoderDecoder(3, 5, 2, 4, bidirectional=True)),
        (ValueError, "dropout: expected 0", lambda: structures.EncoderDecoder(3, 5, 2, 4, context="additive", dropout=0.5)),
        (ValueError, "context: expected", lambda: structures.SequenceAutoencoder(3, 5, context="dot")),
        (TypeError, "reverse: expected True or False", lambda: structures.SequenceAutoencoder(3, 5, reverse=1)),
        (ValueError, "micro_steps: expected an integer >= 1", lambda: structures.DeepTransition(3, 5, micro_steps=0)),
        (ValueError, "num_layers: expected 1, got 2", lambda: structures.DeepTransition(3, 5, num_layers=2)),
        (ValueError, "bidirectional: expected False with", lambda: structures.MissingValues(3, 5, bidirectional=True)),
        (TypeError, "input_decay: expected", lambda: structures.MissingValues(3, 5, input_decay="yes")),
        (MemoryError, "input_size = 3, .* output_size = 109951", lambda: structures.OutputEveryStep(3, 5, 2**40)),
        (MemoryError, "input_size = 3, .* micro_steps = 109951", lambda: structures.DeepTransition(3, 5, micro_steps=2**40)),
        (ValueError, r"x: expected \(N, T, D\)", lambda: every.forward(wrong)),
        (TypeError, "x: expected float32", lambda: every.forward(x.astype(float))),
        (ValueError, "state: expected a tuple of 2", lambda: every.forward(x, (np.ones((1, 2, 5), np.float32),))),
        (ValueError, "state.h: expected", lambda: every.forward(x, (np.ones((1, 3, 5), np.float32),) * 2)),
        (ValueError, "lengths: expected", lambda: final.forward(x, lengths=[5, 1])),
        (TypeError, "training: expected", lambda: final.forward(x, training=1)),
        (ValueError, r"do: expected \(N, T, K\) = \(2, 4, 4\)", lambda: every.backward(wrong, cache)),
        (TypeError, "do: expected float32", lambda: every.backward(o.astype(float), cache)),
        (ValueError, "cache: expected the cache of this structure's .* that of another", lambda: every.backward(o, kept)),
        (ValueError, "cache: expected .*training=True", lambda: every.backward(o, None)),
        (TypeError, "accumulate: expected", lambda: every.backward(o, cache, accumulate=1)),
        (ValueError, r"y: expected \(N, T, K\)", lambda: output.forward(x, y)),
        (ValueError, r"y0: expected \(N, K\)", lambda: output.forward(x, None, y[:, 0])),
        (ValueError, r"y: expected \(N, T, target_size\) = \(2, T, 2\)", lambda: pair.forward(x, x)),
        (TypeError, "y: expected float32", lambda: pair.forward(x, y.astype(float))),
        (ValueError, "y_lengths: expected", lambda: pair.forward(x, y, y_lengths=[5, 1])),
        (TypeError, "y_lengths: expected integers", lambda: pair.forward(x, y, y_lengths=[0.5, 1])),
        (ValueError, "do: expected", lambda: pair.backward(wrong, paired)),
        (ValueError, r"E: expected \(number of symbols, target_size\)", lambda: pair.decoder_step(x, E=wrong[0])),
        (ValueError, r"y: expected symbols 0\.\.1, got 2", lambda: pair.decoder_step(x)[0]([0, 2], pair.decoder_step(x)[1])),
        (TypeError, "state: expected that of decoder_step, got None", lambda: decode.greedy(
            pair.decoder_step(x)[0], [0, 1], max_length=3)),
        (ValueError, "left: expected None with remaining=False, got an array", lambda: decode.greedy(
            *pair.decoder_step(x)[:1], [0, 1], pair.decoder_step(x)[1], lengths=[3, 2])),
        (TypeError, "rng: expected", lambda: missing.forward(x, mask, rng="x")),
        (ValueError, "dh: expected", lambda: deep.backward(wrong, kept)),
        (ValueError, "dstate.h: expected", lambda: deep.backward(h, kept, (np.ones((2, 2, 5), np.float32),))),
        (TypeError, r"mask: expected bool, got float32; pass mask.astype\(bool\)", lambda: missing.forward(x, x)),
        (ValueError, r"mask: expected \(N, T, D\)", lambda: missing.forward(x, mask[:, :3])),
        (ValueError, "times: expected", lambda: missing.forward(x, mask, times=np.ones(4, np.float32))),
        (ValueError, "times: expected finite times that never fall, got 1.0, 0.0 in row 1", lambda: missing.forward(
            x, mask, times=np.array([[0, 1, 2, 3], [0, 1, 0, 1]], np.float32))),
        (TypeError, "mask: expected bool", lambda: structures.intervals(x, x[..., 0])),
        (ValueError, r"mask: expected \(N, T, D\), got", lambda: structures.intervals(mask[0], x[..., 0])),
        (ValueError, r"times: expected \(N, T\) = \(2, 4\) as mask", lambda: structures.intervals(mask, x[:, :3, 0])),
        (ValueError, r"mean: expected \(D,\)", lambda: missing.forward(x, mask, mean=np.ones(2, np.float32))),
        (ValueError, "dh: expected", lambda: missing.backward(wrong, seen)),
    ):  # fmt: skip
        with pytest.raises(kind, match=f"^{words}"):
            call()
    assert digest(*(model.gradients for model in models), *(model.parameters for model in models)) == before


def test_a_file_of_another_structure_is_refused(tmp_path):
    path = tmp_path / "structure.npz"
    structures.DeepTransition(3, 5, rng=0).save(path)
    with pytest.raises(ValueError, match="it holds DeepTransition"):
        structures.MissingValues.load(path)
    with pytest.raises(ValueError, match="it holds DeepTransition"):
        fastgate.LSTM.load(path)


def every_structure(dtype):
    """(structure, its forward of x and y)."""
    mask = np.random.default_rng(3).random((3, 5, 4)) < 0.5
    for kind in (structures.OutputEveryStep, structures.FinalOutput, structures.SequenceAutoencoder, structures.DeepTransition):
        sizes = (4, 6, 3) if kind in (structures.OutputEveryStep, structures.FinalOutput) else (4, 6)
        yield kind(*sizes, dtype=dtype, rng=0), lambda model, x, y: model.forward(x)
    yield structures.OutputRecurrence(4, 6, 2, dtype=dtype, rng=0), lambda model, x, y: model.forward(x, y)
    yield structures.OutputRecurrence(4, 6, 2, dtype=dtype, rng=0), lambda model, x, y: model.forward(x)
    for context in CONTEXTS:
        model = structures.EncoderDecoder(4, 6, 2, 3, context=context, dtype=dtype, rng=0)
        yield model, lambda model, x, y: model.forward(x, y, lengths=[5, 2, 3], y_lengths=[2, 5, 0])
    for decay in DECAYS:
        model = structures.MissingValues(4, 6, input_decay=decay[0], hidden_decay=decay[1], dtype=dtype, rng=0)
        yield model, lambda model, x, y: model.forward(x, mask)


def forms(a):
    """The same values: read-only, of foreign byte order, and with odd strides."""
    fixed, spread = a.copy(), np.empty((*a.shape, 2), a.dtype)[..., 0]
    fixed.flags.writeable = False
    spread[...] = a
    return fixed, a.astype(a.dtype.newbyteorder()), spread, np.asfortranarray(a), a[:, ::-1].copy()[:, ::-1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_memory_gives_the_same_bits(dtype):
    rng = np.random.default_rng(0)
    x, y = values(rng, (3, 5, 4), dtype), values(rng, (3, 5, 2), dtype)
    for model, forward in every_structure(dtype):

        def run(x, y, d, model=model, forward=forward):
            o, state, cache = forward(model, x, y)
            found = model.backward(d, cache)
            return [a.copy() for a in (o, *leaves(tuple(state)), *leaves((found,)), model.gradients)]

        d = values(rng, forward(model, x, y)[0].shape, dtype)
        expected = memory(tuple(run(x, y, d)))
        for odd in zip(forms(x), forms(y), forms(d), strict=True):
            before = digest(*odd)
            assert memory(tuple(run(*odd))) == expected, type(model).__name__
            assert digest(*odd) == before
