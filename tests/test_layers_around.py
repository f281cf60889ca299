"""What stands around the cells of a layer: recurrent dropout, zoneout, periods; forward, backward, steps and live streams."""

import copy
import inspect
import json
import pickle

import numpy as np
import pytest
from support import WEIGHTS, assert_same, bits, digest, values

import fastgate
from fastgate import decode, draw_dropout_mask, draw_zoneout_mask, flow, structures, weights
from fastgate.layers import truncated_bptt

N, T, D, H = 4, 9, 3, 6
LENGTHS = [9, 3, 0, 5]
PERIOD = [1, 1, 2, 3, 4, 4]
KINDS = (
    ("RNN", {}), ("GRU", {"reset": "before"}), ("LSTM", {"peephole": True}), ("Leaky", {"learn_alpha": True}),
    ("Memory", {"output": "identity"}), ("GRUNorm", {"eps": 0.1}), ("LSTM", {"proj_size": 4}), ("LSTMNorm", {"eps": 0.1}),
)  # fmt: skip
HELD = (*KINDS[:6], ("LSTMNorm", {"gain_c": False}))


def named(variant):
    return "-".join([variant[0], *variant[1]])


def each_kind(variants):
    return pytest.mark.parametrize(("kind", "own"), variants, ids=map(named, variants))


kinds, held = each_kind(KINDS), each_kind(HELD)


def make(kind, *, dtype=np.float64, **options):
    """A layer whose weights are all random."""
    layer = getattr(fastgate, kind)(D, H, num_layers=2, dtype=dtype, rng=0, **options)
    layer.parameters[...] = values(np.random.default_rng(2), layer.parameters.shape, dtype, 0.6)
    for name in ("alpha0", "alpha1", "alpha0_reverse", "alpha1_reverse"):
        if name in layer.weights:
            layer.weights[name][...] = np.linspace(0.1, 0.9, H)
    return layer


def has_c(kind):
    return "c0" in inspect.signature(getattr(fastgate, kind).forward).parameters


def rates(kind):
    return {"recurrent_dropout": 0.3, "zoneout_h": 0.15} | ({"zoneout_c": 0.25} if has_c(kind) else {})


def inputs(layer, rng, N=N):
    """x and initial states."""
    x = values(rng, (N, T, D), layer.dtype)
    before = (layer.num_layers * layer.num_directions, N)
    rows = [a.shape[2:] for a in layer.forward(x[:0], training=False)[1:-1]]
    return x, [values(rng, (*before, *row), layer.dtype, 0.7) for row in rows]


def by_hand(layer, x, states, upstream, around, lengths=LENGTHS):
    """Results of forward and backward, from the functions; around(k, d) -> their arguments besides the layer's own."""
    name = layer._cell
    options = {key: value for key, value in layer.config.items() if key in ("reset", "activation", "output", "eps")}
    results, caches, finals = {}, [], []
    for k in range(2):
        halves = []
        for d in range(layer.num_directions):
            W = {key: layer.weights[f"{key}{k}{'_reverse' * d}"] for key in WEIGHTS if f"{key}0" in layer.weights}
            h, *final, cache = getattr(fastgate, f"{name}_forward")(
                x, *(a[len(finals)] for a in states), **W, **options, **around(k, d), lengths=lengths, reverse=d == 1
            )
            halves.append(h)
            finals.append(final)
            caches.append(cache)
        x = np.concatenate(halves, axis=2)
    dh, *last = upstream
    for k in (1, 0):
        parts = []
        for d, part in enumerate(np.split(dh, layer.num_directions, axis=2)):
            s = k * layer.num_directions + d
            found = getattr(fastgate, f"{name}_backward")(part, caches[s], *(a[s] for a in last))
            parts.append(found.dx)
            results |= {f"d{key}{k}{'_reverse' * d}": getattr(found, f"d{key}", None) for key in WEIGHTS}
        dh = sum(parts[1:], parts[0])
    results |= {"h": x, "dx": dh} | {str(i): np.stack(a) for i, a in enumerate(zip(*finals, strict=True))}
    return {key: a for key, a in results.items() if a is not None}


def by_layer(layer, x, states, upstream, **options):
    h, *final, cache = layer.forward(x, *states, lengths=LENGTHS, **options)
    dx = layer.backward(upstream[0], cache, *upstream[1:]).dx
    return {"h": h, "dx": dx} | {str(i): a for i, a in enumerate(final)} | {f"d{name}": a for name, a in layer.grads.items()}


@kinds
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_layer_draws_the_masks_of_its_functions(kind, own, bidirectional):
    """Layer by layer, direction by direction, one recurrent mask for all steps; from the generator that is given."""
    layer = make(kind, bidirectional=bidirectional, **own, **rates(kind))
    P = layer.output_size // layer.num_directions
    x, states = inputs(layer, np.random.default_rng(1))
    upstream = [values(np.random.default_rng(3), a.shape) for a in (layer.forward(x, *states).h, *states)]
    rng = np.random.default_rng(7)

    def around(k, d):
        drawn = {"recurrent_mask": draw_dropout_mask((N, P), 0.3, rng, "float64")}
        drawn["zoneout_h"] = draw_zoneout_mask((N, T, P), 0.15, rng)
        return drawn | ({"zoneout_c": draw_zoneout_mask((N, T, H), 0.25, rng)} if has_c(kind) else {})

    before = digest(x, states, upstream, layer.parameters)
    found = by_layer(layer, x, states, upstream, rng=7)
    assert_same(found, by_hand(layer, x, states, upstream, around))
    assert digest(x, states, upstream, layer.parameters) == before
    assert not np.array_equal(by_layer(layer, x, states, upstream, rng=8)["h"], found["h"])
    major = x.swapaxes(0, 1).copy().swapaxes(0, 1)
    assert_same(by_layer(layer, major, states, upstream, rng=np.random.default_rng(7)), found)
    assert not np.array_equal(layer.forward(x).h, layer.forward(x).h)  # its own generator goes on
    cache, plain = layer.forward(x).cache, make(kind, bidirectional=bidirectional, **own).forward(x).cache
    assert cache.nbytes - plain.nbytes >= 2 * layer.num_directions * N * (P + T * P) * 8


@kinds
def test_after_training_stands_the_mean(kind, own):
    """In forward, in steps, in live streams, in decoding: no dropout, the share of zoneout."""
    layer = make(kind, **own, **rates(kind), dropout=0.4)
    x, states = inputs(layer, np.random.default_rng(1))
    means = {name: p for name, p in rates(kind).items() if name != "recurrent_dropout"}
    h, *final, cache = layer.forward(x, *states, training=False)
    upstream = [values(np.random.default_rng(3), a.shape) for a in (h, *states)]
    expected = by_hand(layer, x, states, upstream, lambda k, d: means, lengths=None)
    assert cache is None
    assert_same({"h": h} | {str(i): a for i, a in enumerate(final)}, expected, ["h", *map(str, range(len(final)))])
    layer.state = tuple(states)
    np.testing.assert_array_equal(np.stack([layer.step(x[:, t]) for t in range(T)], axis=1), h)
    pool = fastgate.StreamPool(layer, N)
    ids = pool.open(N)[::-1]
    pool.restore(ids, tuple(states))
    np.testing.assert_array_equal(np.stack([pool.step(ids, x[:, t]) for t in range(T)], axis=1), h)
    E = values(np.random.default_rng(4), (5, D))
    step = decode.LayerStep(layer, np.eye(layer.output_size), None, E)
    scores, _ = step([3, 1], None)
    np.testing.assert_allclose(scores, layer.forward(E[[3, 1]][:, None], training=False).h[:, 0], rtol=0, atol=1e-15)


def test_rates_of_zero_draw_nothing_and_cost_no_bits():
    x = values(np.random.default_rng(1), (N, T, D), np.float32)
    for kind, own in KINDS:
        layer = make(kind, dtype=np.float32, **own, **dict.fromkeys(rates(kind), 0.0))
        before = copy.deepcopy(layer._rng.bit_generator.state)
        assert bits(layer.forward(x).h).tobytes() == bits(make(kind, dtype=np.float32, **own).forward(x).h).tobytes()
        assert layer._rng.bit_generator.state == before


@held
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_layer_with_a_period_is_its_functions(kind, own, bidirectional):
    for period in (3, PERIOD):
        layer = make(kind, bidirectional=bidirectional, period=np.array(period), **own)
        x, states = inputs(layer, np.random.default_rng(1))
        upstream = [values(np.random.default_rng(3), a.shape) for a in (layer.forward(x, *states).h, *states)]
        for start in (0, 5):
            expected = by_hand(layer, x, states, upstream, lambda k, d, p=period, s=start: {"period": p, "start": s})
            assert_same(by_layer(layer, x, states, upstream, start=start), expected)
        assert layer.config["period"] == period
        assert json.loads(json.dumps(layer.config)) == layer.config
        assert eval(repr(layer).partition("): ")[0] + ")", {kind: type(layer)}).config == layer.config


@held
def test_chunks_and_steps_of_a_period_know_where_they_stand(kind, own, tmp_path):
    layer = make(kind, period=PERIOD, **own)
    x, states = inputs(layer, np.random.default_rng(1))
    whole = layer.forward(x, *states)
    h, *state, _ = layer.forward(x[:, :5], *states)
    rest = layer.forward(x[:, 5:], *state, start=5)
    np.testing.assert_array_equal(np.concatenate([h, rest.h], axis=1), whole.h)
    chunks = [chunk.h for chunk in truncated_bptt(layer, x[:, 5:], 1, 3, *state, start=5)]
    np.testing.assert_array_equal(np.concatenate(chunks, axis=1), rest.h)

    layer.state = (*state, 5)
    assert layer.state.start.tolist() == [5] * N
    np.testing.assert_array_equal(layer.step(x[:, 5]), whole.h[:, 5])
    layer.reset(rows=[3, 1])
    assert layer.state.start.tolist() == [6, 0, 6, 0]
    layer.save(tmp_path / "layer.npz")
    fresh = type(layer).load(tmp_path / "layer.npz")
    assert fresh.config == layer.config
    for other in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer), layer):
        y = [other.step(x[:, t]) for t in (6, 7)]
        for row in range(N):
            from_zeros = fresh.forward(x[row : row + 1, 6:8]).h[0]
            np.testing.assert_array_equal([a[row] for a in y], from_zeros if row in (1, 3) else whole.h[row, 6:8])
    layer.reset(2)
    assert layer.state.start.tolist() == [0, 0]
    np.testing.assert_array_equal(layer.step(x[:2, 0]), fresh.forward(x[:2]).h[:, 0])


@held
def test_live_streams_count_their_own_steps(kind, own):
    """Stepped in random groups, each as alone; forks, snapshots and new streams begin where they should."""
    rng = np.random.default_rng(5)
    layer, M = make(kind, dtype=np.float32, period=PERIOD, **own), 40
    pool = fastgate.StreamPool(layer, M + 4)
    ids = pool.open(M)
    rng.shuffle(ids)
    x = values(rng, (M, T, D), np.float32)
    whole, steps = layer.forward(x, training=False), np.zeros(M, np.int64)
    y = np.zeros_like(whole.h)
    while (steps < T).any():
        group = rng.permutation(np.flatnonzero(steps < T))[: int(rng.integers(1, M))]
        y[group, steps[group]] = pool.step(ids[group], x[group, steps[group]])
        steps[group] += 1
        if steps.sum() == M:
            assert len(set(steps.tolist())) > 1
    np.testing.assert_array_equal(bits(y), bits(whole.h))
    final = pool.snapshot(ids)
    for a, b in zip(final, whole[1:-1], strict=False):
        np.testing.assert_array_equal(a, b)
    assert final.start.tolist() == [T] * M
    pool.reset(ids[:1])
    pool.step(ids[:1], x[0, :1])
    children = pool.fork(ids[:2])
    assert pool.snapshot(children).start.tolist() == [1, T]
    np.testing.assert_array_equal(pool.step(children[:1], x[0, 1:2])[0], whole.h[0, 1])
    pool.restore(ids[:2], final._replace(start=np.array([2, 7]), **{n: getattr(final, n)[:, :2] for n in final._fields[:-1]}))
    assert pool.snapshot(ids[:2]).start.tolist() == [2, 7]
    pool.close(children)
    assert pool.snapshot(pool.open(2)).start.tolist() == [0, 0]


@kinds
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_layer_with_delays_is_its_functions(kind, own, bidirectional):
    for delays in ((1, 3), (2,)):
        layer = make(kind, bidirectional=bidirectional, delays=np.array(delays), **own)
        P, G = layer.output_size // layer.num_directions, layer.weights["Wx0"].shape[1]
        assert layer.weights["Wh0"].shape == (len(delays), P, G)
        x, states = inputs(layer, np.random.default_rng(1))
        assert states[0].shape == (2 * layer.num_directions, N, delays[-1], P)
        upstream = [values(np.random.default_rng(3), a.shape) for a in (layer.forward(x, *states).h, *states)]
        expected = by_hand(layer, x, states, upstream, lambda k, d, delays=delays: {"delays": delays})
        assert_same(by_layer(layer, x, states, upstream), expected)
        assert json.loads(json.dumps(layer.config)) == layer.config
        assert eval(repr(layer).partition("): ")[0] + ")", {kind: type(layer)}).config == layer.config


@kinds
def test_chunks_steps_and_live_streams_of_delays(kind, own, tmp_path):
    layer = make(kind, delays=(1, 3), **own | ({"zoneout_h": 0.2} if kind == "GRU" else {}))
    x, states = inputs(layer, np.random.default_rng(1))
    whole = layer.forward(x, *states, training=False)
    _, *state, _ = layer.forward(x[:, :5], *states, training=False)
    chunks = [chunk.h for chunk in truncated_bptt(layer, x[:, 5:], 2, 3, *state)] if kind != "GRU" else []
    if chunks:
        np.testing.assert_array_equal(np.concatenate(chunks, axis=1), whole.h[:, 5:])
    layer.state = tuple(state)
    layer.save(tmp_path / "layer.npz")
    assert type(layer).load(tmp_path / "layer.npz").config == layer.config
    for other in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer), layer):
        np.testing.assert_array_equal(np.stack([other.step(x[:, t]) for t in range(5, T)], axis=1), whole.h[:, 5:])
    for a, b in zip(layer.state, whole[1:-1], strict=True):
        np.testing.assert_array_equal(a, b)
    layer.reset(rows=[1])
    assert not layer.state.h[:, 1].any()
    np.testing.assert_array_equal(layer.state.h[:, 2], whole.h_T[:, 2])

    pool = fastgate.StreamPool(layer, N + 2)
    ids = pool.open(N)[::-1]
    pool.restore(ids, tuple(states))
    for t in range(3):
        np.testing.assert_array_equal(pool.step(ids, x[:, t]), whole.h[:, t])
    child = pool.fork(ids[2:3])
    group = np.concatenate([child, ids[:2]])
    np.testing.assert_array_equal(pool.step(group, x[[2, 0, 1], 3]), whole.h[[2, 0, 1], 3])
    E = values(np.random.default_rng(4), (5, D))
    step = decode.LayerStep(layer, np.eye(layer.output_size), None, E)
    scores, after = step([3, 1], None)
    scores, _ = step([2, 0], step.select(after, np.array([0, 1])))
    expected = layer.forward(np.stack([E[[3, 2]], E[[1, 0]]]), training=False).h[:, 1]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-15)


def test_fresh_weights_of_delays():
    """Each orthogonal, divided by the root of how many there are; those of a layer without delays as ever."""
    Wh = fastgate.RNN(D, H, delays=(1, 2, 5), dtype=np.float64, rng=0).weights["Wh0"]
    for W in Wh:
        np.testing.assert_allclose(W @ W.T, np.eye(H) / 3, rtol=0, atol=1e-12)
    assert not np.array_equal(Wh[0], Wh[1])


def test_what_does_not_fit():
    lstm = make("LSTM", period=PERIOD, peephole=True)
    x = values(np.random.default_rng(1), (N, T, D))
    h, c = lstm.forward(x)[1:3]
    zoned = make("LSTM", zoneout_c=0.2)
    recurrent = make("RNN", recurrent_dropout=0.2)

    def assign(*state):
        lstm.state = state

    for call, error, words in (
        (lambda: make("GRU", recurrent_dropout=1), ValueError, "recurrent_dropout: expected a number < 1, got 1.0"),
        (lambda: make("GRU", zoneout_h=-0.1), ValueError, "zoneout_h: expected a number >= 0, got -0.1"),
        (lambda: make("LSTM", zoneout_c="0.1"), TypeError, "zoneout_c: expected a number >= 0, got str '0.1'"),
        (lambda: make("RNN", zoneout_c=0.1), TypeError, ".*zoneout_c"),
        (lambda: make("RNN", period=0), ValueError, "period: expected integers >= 1 and < 2\\*\\*62, got 0"),
        (
            lambda: make("RNN", period=[1, 2]),
            ValueError,
            r"period: expected an integer or \(H,\) = \(6,\) integers, got \(2,\)",
        ),
        (lambda: make("RNN", period=1.5), TypeError, "period: expected integers, got float64"),
        (lambda: make("LSTM", period=2, proj_size=2), ValueError, "period: expected None beside proj_size, got one"),
        (lambda: make("RNN", delays=4), ValueError, r"delays: expected \(K,\) integers >= 1 that rise"),
        (lambda: make("RNN", delays=(2, 1)), ValueError, "delays: expected integers >= 1 .* that rise, got 1 after 2"),
        (lambda: make("Leaky", delays=(1, 2), Wh=False), ValueError, "delays: expected None beside Wh=False, got some"),
        (lambda: weights.to_torch(make("GRU", delays=(2,))), ValueError, r"layer: expected delays=None, got \[2\]"),
        (lambda: flow.trace(make("GRU", delays=(2,)), x), ValueError, "model: expected one without delays=, which"),
        (
            lambda: flow.trace(fastgate.RNNCell(x[0, :3].T @ x[0, :3], np.ones((1, 3, 3)), delays=(2,)), x),
            ValueError,
            "model: ",
        ),
        (lambda: structures.DeepTransition(D, H, delays=(2,)), ValueError, "delays: expected None, DeepTransition hands"),
        (lambda: make("RNN", delays=(2,)).forward(x, x[None, :, 0]), ValueError, "h0: expected .*, N, d, H"),
        (lambda: lstm.forward(x, start=-1), ValueError, "start: expected an integer >= 0"),
        (lambda: lstm.forward(x, start=1.0), TypeError, "start: expected an integer >= 0, got float 1.0"),
        (lambda: assign(h, c), ValueError, r"state: expected a tuple of 3, \(h, c, start\), got one of 2"),
        (lambda: assign(h, c, -1), ValueError, r"state.start: expected integers >= 0 and < 2\*\*62, got -1"),
        (lambda: assign(h, c, [1, 2]), ValueError, r"state.start: expected an integer or \(N,\) = \(4,\), got \(2,\)"),
        (lambda: assign(h, c, 0.5), TypeError, "state.start: expected integers, got float64"),
        (lambda: decode.LayerStep(lstm, np.ones((H, 3))), ValueError, "layer: expected one without a period"),
        (lambda: weights.to_torch(lstm), ValueError, "layer: expected peephole=False"),
        (lambda: weights.to_torch(zoned), ValueError, "layer: expected zoneout_c=0.0, got 0.2"),
        (lambda: weights.to_keras(make("GRU", period=2)), ValueError, "layer: expected period=None, got 2"),
        (lambda: flow.trace(recurrent, x), ValueError, "model: expected one without recurrent_dropout=, which fastgate.flow"),
        (lambda: flow.trace(make("GRU", zoneout_h=0.1), x), ValueError, "model: expected one without zoneout_h=, which"),
        (
            lambda: structures.OutputEveryStep(D, H, 2, period=2),
            ValueError,
            "period: expected None, a structure does not number",
        ),
        (lambda: structures.DeepTransition(D, H, zoneout_h=0.1), ValueError, "zoneout_h: expected 0.0, got 0.1"),
        (
            lambda: structures.MissingValues(D, H, recurrent_dropout=0.1),
            ValueError,
            "recurrent_dropout: expected 0.0 with hidden_decay=True, got 0.1",
        ),
        (
            lambda: structures.EncoderDecoder(D, H, 2, 2, context="additive", zoneout_h=0.1),
            ValueError,
            'zoneout_h: expected 0 with context="additive", got 0.1',
        ),
    ):
        with pytest.raises(error, match=f"^{words}"):
            call()
    assert lstm.state is None


@pytest.mark.parametrize("kind", ["OutputEveryStep", "FinalOutput"])
def test_structures_of_layers_with_delays(kind):
    """o and all gradients are those of the layer and of a product by hand."""
    model = getattr(structures, kind)(D, H, 2, cell="gru", delays=(1, 3), bidirectional=True, dtype=np.float64, rng=0)
    rng = np.random.default_rng(1)
    x, state = values(rng, (N, T, D)), (values(rng, (2, N, 3, H)),)
    o, _, cache = model.forward(x, state, lengths=LENGTHS)
    layer, V, c = model.layer, model.weights["V"], model.weights["c"]
    h, h_T, inner = layer.forward(x, *state, lengths=LENGTHS)
    last = np.concatenate([h_T[0][:, -1], h_T[1][:, -1]], axis=1)
    alive = np.arange(T) < np.array(LENGTHS)[:, None]
    expected = last @ V + c if kind == "FinalOutput" else np.where(alive[..., None], h @ V + c, 0)
    np.testing.assert_allclose(o, expected, rtol=0, atol=1e-13)
    do = values(rng, o.shape)
    dx, dstate = model.backward(do, cache)
    dWh = model.grads["layer.Wh0_reverse"].copy()
    if kind == "FinalOutput":
        dh_T = np.zeros_like(h_T)
        dh_T[:, :, -1] = np.split((do @ V.T), 2, axis=1)
        found = layer.backward(None, inner, dh_T)
    else:
        found = layer.backward(do @ V.T, inner)
    np.testing.assert_allclose(dx, found.dx, rtol=0, atol=1e-13)
    np.testing.assert_allclose(dstate.h, found.dh0, rtol=0, atol=1e-13)
    np.testing.assert_allclose(dWh, layer.grads["Wh0_reverse"], rtol=0, atol=1e-12)


def test_structures_pass_it_on():
    """Masks in training from rng, the mean afterwards, in the steps of a decoder, too."""
    own = {"recurrent_dropout": 0.2, "zoneout_h": 0.3, "dropout": 0.1, "num_layers": 2, "dtype": np.float64, "rng": 0}
    model = structures.EncoderDecoder(D, H, 4, 4, context="both", **own)
    x, y = values(np.random.default_rng(1), (N, T, D)), np.eye(4)[np.random.default_rng(2).integers(0, 4, (N, 5))]
    first, second = (model.forward(x, y, rng=seed) for seed in (1, 2))
    assert not np.array_equal(first.o, second.o)
    np.testing.assert_array_equal(model.forward(x, y, rng=1).o, first.o)
    model.backward(first.o, first.cache)
    assert model.gradients.all()
    step, state = model.decoder_step(x)
    scores = []
    for t in range(5):
        found, state = step(y[:, t].argmax(axis=1), state)
        scores.append(found)
    np.testing.assert_array_equal(np.stack(scores, axis=1), model.forward(x, y, training=False).o)
