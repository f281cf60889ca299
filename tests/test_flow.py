"""fastgate.flow: each instrument against a dense or slow computation of the same thing, Omega's gradient against central
differences, and what the page says of networks whose fate is known."""

import dataclasses
import itertools
import subprocess
import sys

import numpy as np
import pytest
from support import CELLS, LSTM, VARIANTS, digest, prepare, random_call, values, variant_id
from support import upstream as upstream_of

import fastgate
from fastgate import flow, reference
from fastgate.flow._dual import Dual

GATE_ORDERS = {"rnn": {}, "lstm": {"gate_order": "ofgi"}, "gru": {"gate_order": "nzr"}, "leaky": {}, "memory": {}}
LENGTHS = np.array([6, 0, 4])
CELLS = [cell for cell in CELLS if cell.name in GATE_ORDERS]
PERIOD = (("period", (1, 2, 3, 1, 4)),)
KNOWN = [v for v in VARIANTS if v[0].name in GATE_ORDERS]
KNOWN += [(cell, PERIOD) for cell in CELLS] + [(CELLS[0], (*PERIOD, ("activation", "relu")))]
variants = pytest.mark.parametrize(("cell", "options"), KNOWN, ids=map(variant_id, KNOWN))
cells = pytest.mark.parametrize("cell", CELLS, ids=repr)


def traced(cell, call, upstream, options, ragged, totals=None):
    prepared, left = prepare(cell, call, **dict(options))
    keywords = {"lengths": LENGTHS, "reverse": True} if ragged else {}
    if totals is not None:
        keywords |= {"dh_total": totals.dh_total, "dc_total": totals.dc_total}
        upstream = {}
    return flow.trace(prepared, **left, **upstream, **keywords)[0]


def drawn(cell, seed=0, N=3, T=6, D=4, H=5, dtype=np.float64):
    rng = np.random.default_rng(seed)
    call = random_call(cell, rng, N=N, T=T, D=D, H=H, dtype=dtype)
    return call, upstream_of(cell, rng, call)


def one_trace(cell, options=(), ragged=False, **sizes):
    call, upstream = drawn(cell, **sizes)
    return traced(cell, call, upstream, options, ragged)


def layer(kind, **options):
    return getattr(fastgate, kind)(5, 7, rng=3, dtype=np.float64, **options)


# --- traces ------------------------------------------------------------------------------------------------------


@variants
@pytest.mark.parametrize("ragged", [False, True])
def test_a_trace_holds_what_forward_and_backward_compute(cell, options, ragged):
    call, upstream = drawn(cell)
    t = traced(cell, call, upstream, options, ragged)
    keywords = dict(options) | ({"lengths": LENGTHS, "reverse": True} if ragged else {})
    exact = cell.function(reference, "forward")(**call, **keywords)
    names = ("dh_total", "dc_total")[: 1 + cell.has_c]
    expected = cell.function(reference, "backward")(cache=exact.cache, **upstream, need=("dWx", "dWh", *names))
    np.testing.assert_allclose(t.h, exact.h, rtol=0, atol=1e-13)
    for name in names:
        np.testing.assert_allclose(getattr(t, name), getattr(expected, name), rtol=0, atol=1e-12)
    for name in ("dWx", "dWh"):
        np.testing.assert_allclose(t.gradients[name], getattr(expected, name), rtol=0, atol=1e-12)
    for rows, places, before, _ in exact.cache.steps:  # the states before each step
        for letter, state in zip("hc", (before[0][:, -1], *before[1:]), strict=False):
            np.testing.assert_allclose(t.previous(letter)[places], state, rtol=0, atol=1e-13)
        assert t.alive[places].all()
        assert len(rows) == t.alive[places].size
    assert t.alive.sum() == (LENGTHS.sum() if ragged else 18)
    assert digest(call, upstream) == digest(*drawn(cell))


@pytest.mark.parametrize("merge", ["concat", "sum", "mean", "mul"])
@pytest.mark.parametrize(
    ("kind", "own"),
    [("RNN", {"period": 2}), ("LSTM", {"proj_size": 3}), ("LSTM", {"period": 3}), ("GRU", {}), ("Leaky", {}), ("Memory", {})],
)
def test_a_layer_is_traced_layer_by_layer_and_stays_as_it_was(kind, own, merge):
    found = layer(kind, num_layers=2, bidirectional=True, merge=merge, dropout=0.25, **own)
    rng = np.random.default_rng(0)
    x, lengths = rng.normal(size=(4, 6, 5)), np.array([6, 2, 0, 5])
    dh = rng.normal(size=(4, 6, found.output_size))
    found.gradients[...] = 1
    before = found._rng.bit_generator.state
    traces = flow.trace(found, x, dh=dh, lengths=lengths, rng=1)
    assert (found.gradients == 1).all()
    assert found._rng.bit_generator.state == before
    assert [t.name for t in traces] == ["layer 0", "layer 0, reverse", "layer 1", "layer 1, reverse"]
    assert repr(traces[1]) == f"<Trace of layer 0, reverse: {kind.lower()}, N=4, T=6, D=5, H={traces[1].hidden_size}>"

    cache = found.forward(x, lengths=lengths, rng=1).cache  # the same masks of dropout
    found.backward(dh, cache)
    for t, suffix in zip(traces, ("0", "0_reverse", "1", "1_reverse"), strict=True):
        assert t.reverse == suffix.endswith("reverse")
        assert t.suffix == suffix
        for name in ("Wx", "Wh"):
            np.testing.assert_array_equal(t.gradients[f"d{name}"], found.grads[name + suffix])
        step = getattr(fastgate, f"{t.cell}_forward")
        states = (None,) * (1 + t.has_c)
        again = step(t.x, *states, **t.weights, **t.options, period=t.period, lengths=t.lengths, reverse=t.reverse)
        np.testing.assert_array_equal(t.h, again.h)
        if t.has_c:
            rows = t.lengths > 0
            last = t.order[rows, t.lengths[rows] - 1]
            np.testing.assert_array_equal(t.c[rows, last], again.c_T[rows])
    np.testing.assert_array_equal(traces[0].x, np.where(traces[0].alive[..., None], x, 0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@cells
def test_padding_strides_and_dtypes_change_nothing(cell, dtype):
    """NaN in the padding of x and dh, a time-major x, float32: the same numbers, and float64 whatever the dtype."""
    call, upstream = drawn(cell, dtype=dtype)
    first = traced(cell, call, upstream, (), True)
    padding = ~first.alive
    noisy = call | {"x": call["x"].copy()}
    noisy["x"][padding] = np.nan
    noisy["x"] = np.ascontiguousarray(noisy["x"].swapaxes(0, 1)).swapaxes(0, 1)
    dh = upstream["dh"].copy()
    dh[padding] = np.nan
    for a in (*noisy.values(), dh):
        a.flags.writeable = False
    second = traced(cell, noisy, upstream | {"dh": dh}, (), True)
    measured = []
    for t in (first, second):
        omega = flow.omega(t, hold="delta")
        assert all(g.dtype == dtype for g in omega.gradients.values())
        measured.append([flow.gradient_norms(t), *flow.jacobian_norms(t)[:2], omega.ratio, *omega.gradients.values()])
        measured[-1] += [*flow.gates(t).values(), t.h, t.dh_total]
    for a, b in zip(*measured, strict=True):
        np.testing.assert_array_equal(a, b)
    assert all(a.dtype == np.float64 for a in measured[0][:1] + measured[0][2:4])
    if dtype == np.float32:
        exact = traced(cell, *({k: v.astype(np.float64) for k, v in given.items()} for given in (call, upstream)), (), True)
        np.testing.assert_allclose(flow.jacobian_norms(first).norm, flow.jacobian_norms(exact).norm, rtol=1e-5)


@cells
def test_given_totals_stand_for_a_backward_pass(cell):
    call, upstream = drawn(cell)
    first = traced(cell, call, upstream, (), True)
    again = traced(cell, call, upstream, (), True, first)
    assert again.gradients == {}
    np.testing.assert_array_equal(again.dh_total, first.dh_total)
    np.testing.assert_array_equal(flow.gradient_norms(again), flow.gradient_norms(first))


@cells
def test_without_gradients_the_loss_looks_at_the_last_state(cell):
    call, _ = drawn(cell)
    t = traced(cell, call, {}, (), True)
    norms = flow.gradient_norms(t, "h")
    for n, length in enumerate(LENGTHS):
        assert np.isnan(norms[n, length:]).all()
        if length:  # reverse: the last step is that of time 0
            assert norms[n, 0] == pytest.approx(1, abs=1e-12)


@cells
def test_norms_are_those_of_the_gradients(cell):
    t = one_trace(cell, ragged=True)
    states = [t.dh_total, t.dc_total][: 1 + cell.has_c]
    expected = np.sqrt(sum(np.square(d).sum(-1) for d in states))
    np.testing.assert_allclose(flow.gradient_norms(t)[t.alive], expected[t.alive], rtol=1e-14)
    for block, d in zip("hc", states, strict=False):
        np.testing.assert_allclose(flow.gradient_norms(t, block)[t.alive], np.linalg.norm(d, axis=-1)[t.alive], rtol=1e-14)


def test_norms_whose_squares_no_float_holds():
    t = one_trace(LSTM)
    for size in (1e-200, 1e200, 5e-324):
        signs = np.where(t.dh_total > 0, size, -size)
        found = flow.gradient_norms(dataclasses.replace(t, dh_total=signs, dc_total=signs))
        np.testing.assert_allclose(found, size * np.sqrt(10) if size > 1e-300 else 3 * size, rtol=1e-12)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU", "Leaky", "Memory"])
def test_a_trace_stays_as_it_was(kind):
    """Weights and states that change afterwards change nothing in it."""
    found = layer(kind, bidirectional=True, **{"alpha": 0.5, "learn_alpha": True} if kind == "Leaky" else {})
    x, h0 = np.ones((2, 4, 5)), np.ones((2, 2, 7))
    traces = flow.trace(found, x, h0)
    before = digest([dataclasses.astuple(t) for t in traces]), digest(*[flow.omega(t).gradients for t in traces])
    for a in (found.parameters, x, h0):
        a += 1
    assert (digest([dataclasses.astuple(t) for t in traces]), digest(*[flow.omega(t).gradients for t in traces])) == before


# --- Jacobians ---------------------------------------------------------------------------------------------------


def dense_jacobians(t, n):
    """Distance -> ds_T/ds_k of row n, a matrix with a row for each unit of s_T, by step_backward on unit vectors."""
    parts, found, product = ("h", "c")[: 1 + t.has_c], {}, None
    sizes = [getattr(t, p).shape[-1] for p in parts]
    unit = np.eye(sum(sizes))
    for k in reversed(range(t.lengths[n])):
        at = (n, t.order[n, k])
        rows = [np.repeat(a[at][None], len(unit), 0) for a in (t.x, *(t.previous(p) for p in parts))]
        cache = t.function("step_forward")(*rows, **t.weights, **t.options, period=t.period, start=k).cache
        given = [np.ascontiguousarray(d) for d in np.split(unit, sizes[:1], axis=1)[: len(parts)]]
        back = t.function("step_backward")(*given, cache, need=[f"d{p}_prev" for p in parts])
        step = np.concatenate([getattr(back, f"d{p}_prev") for p in parts], axis=1)
        product = step if product is None else product @ step
        found[t.lengths[n] - k] = product
    return found


@variants
@pytest.mark.parametrize("ragged", [False, True])
def test_jacobian_norms_are_those_of_the_dense_product(cell, options, ragged):
    t = one_trace(cell, options, ragged)
    dense = [dense_jacobians(t, n) for n in range(3)]
    P = t.h.shape[-1]
    blocks = {"state": slice(None), "h": slice(0, P), "c": slice(P, None)}
    for block in ("state", "h", "c")[: 2 + cell.has_c]:
        found = flow.jacobian_norms(t, block, points=6, iterations=30)
        np.testing.assert_array_equal(found.distance[[0, -1]], [1, 6])
        assert found.norm.shape == (3, len(found.distance))
        for n, (k, distance) in itertools.product(range(3), enumerate(found.distance)):
            if distance in dense[n]:
                exact = np.linalg.norm(dense[n][distance][blocks[block], blocks[block]], 2)
                assert found.norm[n, k] == pytest.approx(exact, rel=1e-9)
            else:
                assert np.isnan(found.norm[n, k])
        rough = flow.jacobian_norms(t, block, points=6, iterations=2)
        assert (rough.norm <= found.norm * (1 + 1e-9))[~np.isnan(found.norm)].all()  # from below


def test_norms_far_below_and_above_one():
    """Diagonal weights: the product is known, down to the smallest numbers of float64."""
    for scale, T in ((1e-3, 100), (1e-3, 105), (1e3, 100)):
        Wh = np.diag(scale * np.linspace(0.5, 1, 6)).astype(np.float32)
        cell = fastgate.RNNCell(np.zeros((2, 6), np.float32), Wh, activation="identity")
        (t,) = flow.trace(cell, np.zeros((1, T, 2), np.float32))
        found = flow.jacobian_norms(t, points=5)
        largest = np.abs(Wh.astype(np.float64)).max()
        exact = largest ** found.distance.astype(np.float64)
        rel = 1e-9 if T < 105 else 0.2  # subnormal at the end
        np.testing.assert_allclose(found.norm[0], exact, rtol=rel)
        np.testing.assert_allclose(flow.bound(Wh, found.distance, "identity"), exact, rtol=1e-9)


def test_norms_that_no_float_holds_are_infinite_and_those_at_states_of_nan_nan():
    cell = fastgate.RNNCell(np.zeros((2, 3)), 1e3 * np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0])
    (t,) = flow.trace(cell, np.zeros((2, 150, 2)), lengths=[150, 20])
    found = flow.jacobian_norms(t, points=6)
    np.testing.assert_allclose(
        found.norm[0], np.float64(1e3) ** np.where(found.distance < 103, found.distance, np.inf), rtol=1e-9
    )
    assert (np.isfinite(found.norm[1]) == (found.distance <= 20)).all()
    x = np.zeros((2, 150, 2))
    x[1, 3] = np.inf
    cell = fastgate.RNNCell(np.ones((2, 3)), cell.Wh, activation="relu")
    broken = flow.jacobian_norms(flow.trace(cell, x)[0])
    assert np.isnan(broken.norm[1]).all()
    assert not np.isnan(broken.norm[0]).any()


@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid", "identity"])
def test_the_bound_is_never_exceeded(activation):
    call, upstream = drawn(CELLS[0], T=12)
    t = traced(CELLS[0], call, upstream, {"activation": activation}, False)
    found = flow.jacobian_norms(t, points=12)
    bound = flow.bound(t.weights["Wh"], found.distance, activation)
    assert (found.norm <= bound * (1 + 1e-9)).all()
    gamma = np.linalg.norm(t.weights["Wh"], 2) * (0.25 if activation == "sigmoid" else 1)
    np.testing.assert_allclose(bound, gamma**found.distance, rtol=1e-12)


@variants
def test_dual_numbers_give_directional_derivatives(cell, options):
    """Of the states after a step, along two directions of the states before it at once."""
    t = one_trace(cell, options)
    definition, W, _ = t.definition()
    rng = np.random.default_rng(5)
    x = t.x[:, 0]
    before = [t.previous(p)[:, 1] for p in ("h", "c")[: 1 + cell.has_c]]
    along = [values(rng, (2, *a.shape)) for a in before]
    after, _ = reference.sequence.cell_forward(definition, x, [Dual(a, d) for a, d in zip(before, along, strict=True)], W)
    for k in range(2):
        ends = []
        for step in (1e-6, -1e-6):
            moved = [a + step * d[k] for a, d in zip(before, along, strict=True)]
            ends.append(reference.sequence.cell_forward(definition, x, moved, W)[0])
        for s, high, low in zip(after, *ends, strict=True):
            np.testing.assert_allclose(s.tangent[k], (high - low) / 2e-6, rtol=0, atol=1e-8)


def test_dual_numbers_at_zero_and_at_what_they_do_not_know():
    slope = reference.sequence.sigmoid(Dual(np.zeros(3), np.ones(3)))
    np.testing.assert_allclose(slope.tangent, 0.25)
    np.testing.assert_allclose(
        reference.sequence.sigmoid(Dual(np.array([-2.0, 3.0]), np.ones(2))).tangent, [0.104993585, 0.045176660], rtol=1e-8
    )
    with pytest.raises(TypeError):
        np.sin(Dual(np.zeros(3), np.ones(3)))
    with pytest.raises(TypeError):
        np.ones(3) ** Dual(np.zeros(3), np.ones(3))
    with pytest.raises(TypeError):
        np.cumsum(Dual(np.zeros(3), np.ones(3)))


# --- Omega -------------------------------------------------------------------------------------------------------


def omega_by_loops(t, parts):
    """The definition, row by row and step by step."""
    total = 0.0
    for n in range(len(t.x)):
        for time in range(t.lengths[n]):
            states = [t.previous(p)[n, time][None] for p in ("h", "c")[: 1 + t.has_c]]
            delta = [getattr(t, f"d{p}_total")[n, time][None] if p in parts else None for p in ("h", "c")[: 1 + t.has_c]]
            step, number = getattr(reference, f"{t.cell}_step_forward"), int(np.flatnonzero(t.order[n] == time)[0])
            cache = step(t.x[n, time][None], *states, **t.weights, **t.options, period=t.period, start=number).cache
            back = getattr(reference, f"{t.cell}_step_backward")(*delta, cache)
            product = [getattr(back, f"d{p}_prev") for p in parts]
            whole = np.linalg.norm(np.concatenate([d for d in delta if d is not None], axis=1))
            total += (np.linalg.norm(np.concatenate(product, axis=1)) / whole - 1) ** 2
    return total / len(t.x)


PLAIN = [v for v in KNOWN if v[0].name in ("rnn", "lstm", "gru") and not v[0].projection and "period" not in dict(v[1])]
CASES = [(*v, case) for v in KNOWN for case in range(3) if case == 2 or v in PLAIN]


@pytest.mark.parametrize(("cell", "options", "case"), CASES, ids=[f"{variant_id(c[:2])}-{c[2]}" for c in CASES])
def test_omega_and_its_gradient(cell, options, case):
    """The value by loops, every gradient against central differences with delta held constant, of what `hold` lets change."""
    options = dict(options) | (GATE_ORDERS[cell.name] if case == 2 else {})
    call, upstream = drawn(cell, seed=case)
    t = traced(cell, call, upstream, options, case > 0)
    rng = np.random.default_rng(7)
    for block, hold in itertools.product(("state", "h", "c")[: 2 + cell.has_c], ("states", "delta")):
        parts = {"state": ("h", "c")[: 1 + cell.has_c]}.get(block, (block,))
        found = flow.omega(t, block=block, hold=hold)
        assert found.value == pytest.approx(omega_by_loops(t, parts), rel=1e-10)
        assert found.gradients.keys() == {f"d{name}" for name in t.weights}
        for name, gradient in found.gradients.items():
            weight = name[1:]
            along = values(rng, call[weight].shape)
            assert gradient.shape == along.shape
            ends = []
            for step in (1e-6, -1e-6):
                moved = call | {weight: call[weight] + step * along}
                at = traced(cell, moved, upstream, options, case > 0, t)
                if hold == "states":
                    at = dataclasses.replace(t, weights=at.weights)
                ends.append(flow.omega(at, block=block).value)
            exact, size = (gradient * along).sum(), np.abs(gradient * along).sum()
            assert abs((ends[0] - ends[1]) / 2e-6 - exact) <= 1e-7 * (size + 1e-3)


def test_omega_of_a_net_that_keeps_the_norm_is_zero():
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    cell = fastgate.RNNCell(rng.normal(size=(3, 6)), Q, activation="identity")
    (t,) = flow.trace(cell, rng.normal(size=(2, 9, 3)))
    found = flow.omega(t)
    assert found.value < 1e-28
    np.testing.assert_allclose(found.ratio, 1, rtol=1e-13)


def test_steps_without_a_signal_do_not_count():
    t = one_trace(LSTM)
    faint = dataclasses.replace(t, dh_total=t.dh_total.copy(), dc_total=t.dc_total.copy())
    faint.dh_total[:, :3] *= 1e-30
    faint.dc_total[:, :3] *= 1e-30
    found = flow.omega(faint)
    assert np.isnan(found.ratio[:, :3]).all()
    assert np.isfinite(found.ratio[:, 3:]).all()
    whole = flow.omega(faint, smallest=0)  # only the direction of delta counts
    np.testing.assert_allclose(whole.ratio, flow.omega(t).ratio, rtol=1e-12)
    nothing = dataclasses.replace(t, dh_total=0 * t.dh_total, dc_total=0 * t.dc_total)
    found = flow.omega(nothing, smallest=0, hold="delta")
    assert found.value == 0
    assert not any(g.any() for g in found.gradients.values())


def test_descending_omega_keeps_the_signal():
    rng = np.random.default_rng(1)
    Wx, Wh = rng.normal(size=(3, 16)), 0.12 * rng.normal(size=(16, 16))
    x = 0.3 * rng.normal(size=(4, 30, 3))
    first = flow.trace(fastgate.RNNCell(Wx, Wh), x)[0]
    for _ in range(150):
        found = flow.omega(flow.trace(fastgate.RNNCell(Wx, Wh), x))
        Wh = Wh - 0.02 * found.gradients["dWh"]
        Wx = Wx - 0.02 * found.gradients["dWx"]
    (last,) = flow.trace(fastgate.RNNCell(Wx, Wh), x)
    reached = [np.median(flow.gradient_norms(t)[:, 0]) for t in (first, last)]
    assert reached[0] < 1e-6
    assert 1e-2 < reached[1] < 1e2


# --- weights and gates -------------------------------------------------------------------------------------------


def test_spectrum_and_growth():
    rng = np.random.default_rng(0)
    Wh = rng.normal(size=(6, 18))
    for gate in range(3):
        found = flow.spectrum(Wh, gate)
        block = Wh[:, 6 * gate : 6 * gate + 6]
        assert found.radius == pytest.approx(np.abs(np.linalg.eigvals(block)).max())
        assert found.gain == pytest.approx(np.linalg.norm(block, 2))
        assert (np.diff(np.abs(found.eigenvalues)) <= 1e-12).all()
        np.testing.assert_allclose(found.growth([0, 3]), [1, found.radius**3])
    h, growth = rng.normal(size=6), []
    for _ in range(400):  # what the radius predicts comes true, on average over a turn of the leading pair
        h = h @ Wh[:, :6]
        growth.append(np.linalg.norm(h))
        h /= growth[-1]
    assert np.exp(np.mean(np.log(growth[100:]))) == pytest.approx(flow.spectrum(Wh).radius, rel=0.01)


def test_products_of_random_weights():
    found = flow.product_variance(draws=400, hidden_size=32, depths=[1, 4, 12])
    np.testing.assert_allclose(found.predicted, found.scales[:, None] ** (2 * found.depths))
    np.testing.assert_allclose(found.measured / found.predicted, 1, atol=0.35)
    alone = flow.product_variance([2.0], [3], hidden_size=1, draws=20_000)
    assert alone.measured[0, 0] / alone.predicted[0, 0] == pytest.approx(1, abs=0.4)
    tied = flow.product_variance([1.0], [1, 8], hidden_size=1, draws=2000, tied=True)
    assert tied.measured[0, 1] > 100  # E w^16 of one number, not (E w^2)^8
    again = flow.product_variance([1.0], [1, 8], hidden_size=1, draws=2000, tied=True)
    np.testing.assert_array_equal(tied.measured, again.measured)


@variants
@pytest.mark.parametrize("ragged", [False, True])
def test_gates_are_those_of_the_steps(cell, options, ragged):
    call, upstream = drawn(cell)
    t = traced(cell, call, upstream, dict(options) | GATE_ORDERS[cell.name], ragged)
    found = flow.gates(t)
    keywords = dict(options) | GATE_ORDERS[cell.name] | ({"lengths": LENGTHS, "reverse": True} if ragged else {})
    steps = cell.function(reference, "forward")(**call, **keywords).cache.steps
    for _, places, _, kept in steps:
        if cell.name in ("rnn", "leaky"):
            expected = {"h" if cell.name == "rnn" else "y": kept}
        elif cell.name == "memory":
            expected = dict(zip("yh", kept, strict=True))
        elif cell.name == "lstm":
            expected = dict(zip("ifgo", kept, strict=False))
        else:
            z = 1 - kept[1] if keywords.get("update") == "new" else kept[1]
            expected = {"r": kept[0], "z": z, "n": kept[2]}
        assert found.keys() == expected.keys()
        for letter, a in expected.items():
            np.testing.assert_allclose(found[letter][places], np.where(t.moves[places], a, 0), rtol=0, atol=1e-13)
    for a in found.values():
        assert not a[~t.alive].any()

    def mean(a):
        """Of each unit, over the steps at which it moves."""
        return np.array([a[..., unit][t.moves[..., unit]].mean() for unit in range(5)])

    shares = flow.saturation(t)
    for letter, rows in found.items():
        share = shares[letter]
        kind = keywords.get("candidate", "tanh") if letter in "gn" else ""
        kind = keywords.get("activation", "tanh") if letter in "hy" else kind
        kind = keywords.get("output", "tanh") if (cell.name, letter) == ("memory", "h") else kind
        low, high = (rows <= 0, rows > np.inf) if kind == "relu" else (rows < (-0.9 if kind == "tanh" else 0.1), rows > 0.9)
        if kind == "identity":
            low = high = np.zeros_like(rows, bool)
        np.testing.assert_allclose(share.low, mean(low))
        np.testing.assert_allclose(share.high, mean(high))
        assert share.share == pytest.approx(mean(low).mean() + mean(high).mean())
    period = np.broadcast_to(keywords.get("period", 1), 5)
    if cell.name in ("lstm", "gru"):
        keeps = found["f" if cell.name == "lstm" else "z"]
        keeps = 1 - keeps if keywords.get("update") == "new" else keeps
        np.testing.assert_allclose(flow.time_constants(t), -period / np.log(mean(keeps)), rtol=1e-12)
    elif cell.name == "leaky":
        alpha = np.broadcast_to(call.get("alpha", 0.875), 5)
        np.testing.assert_allclose(flow.time_constants(t), -period / np.log(alpha), rtol=1e-12)
    elif cell.name == "memory":
        assert (flow.time_constants(t) == np.inf).all()


def test_a_time_constant_is_how_long_a_state_lives():
    """A unit whose forget gate stands still falls to 1/e in so many steps."""
    b = np.concatenate([np.full(3, -40.0), [0.0, 2.0, 5.0], np.zeros(6)])
    cell = fastgate.LSTMCell(np.zeros((1, 12)), np.zeros((3, 12)), b)
    (t,) = flow.trace(cell, np.zeros((1, 50, 1)), c0=np.ones((1, 3)))
    np.testing.assert_allclose(t.c[0, :, 2], np.exp(-np.arange(1, 51) / flow.time_constants(t)[2]), rtol=1e-9)
    open_ = fastgate.LSTMCell(np.zeros((1, 4)), np.zeros((1, 4)), np.array([0.0, 60.0, 0.0, 0.0]))
    assert flow.time_constants(flow.trace(open_, np.zeros((1, 2, 1))))[0] == np.inf


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_leaky_units_of_a_layer(dtype):
    """What is constant has no gradient; units that see nothing of each other lose what they lose, alpha^t."""
    alpha = np.linspace(0.2, 0.95, 7)
    for own in ({"alpha": alpha}, {"alpha": alpha, "learn_alpha": True}, {"alpha": 0.95}):
        found = fastgate.Leaky(5, 7, Wh=False, dtype=dtype, rng=0, **own)
        (t,) = flow.trace(found, values(np.random.default_rng(1), (2, 6, 5), dtype))
        names = {f"d{name[:-1]}" for name in found.weights}
        assert flow.omega(t).gradients.keys() == flow.omega(t, hold="delta").gradients.keys() == t.gradients.keys() == names
        norms = flow.jacobian_norms(t)
        exact = float(dtype(0.95)) ** norms.distance[None]
        np.testing.assert_allclose(norms.norm, np.repeat(exact, 2, axis=0), rtol=1e-12)
        constants = -1 / np.log(np.broadcast_to(own["alpha"], 7).astype(dtype).astype(float))
        np.testing.assert_allclose(flow.time_constants(t), constants, rtol=1e-12)


# --- nothing at all, and mistakes --------------------------------------------------------------------------------


@cells
@pytest.mark.parametrize(("N", "T"), [(0, 3), (2, 0), (0, 0)])
def test_nothing_at_all(cell, N, T):
    call, upstream = drawn(cell, N=N, T=T)
    (t,) = flow.trace(prepare(cell, call)[0], call["x"], **upstream)
    assert flow.gradient_norms(t).shape == (N, T)
    found = flow.jacobian_norms(t)
    assert found.norm.shape == (N, len(found.distance))
    assert flow.omega(t).value == 0
    assert not any(g.any() for g in flow.omega(t, hold="delta").gradients.values())
    assert all(a.shape == (N, T, 5) for a in flow.gates(t).values())
    flow.saturation(t)
    if cell.name in ("lstm", "gru"):
        assert np.isnan(flow.time_constants(t)).all()


X = np.zeros((2, 3, 4))
RNN_CELL = fastgate.RNNCell(np.ones((4, 5)), np.ones((5, 5)))
LSTM_CELL = fastgate.LSTMCell(np.ones((4, 20)), np.ones((5, 20)))
T_RNN, T_LSTM = (flow.trace(cell, X) for cell in (RNN_CELL, LSTM_CELL))


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (lambda: flow.trace(None, X), TypeError, "model: expected a layer"),
        (lambda: flow.trace(fastgate.RNN, X), TypeError, "model: expected a layer"),
        (lambda: flow.trace(fastgate.GRUNorm(4, 5), X), ValueError, "model: expected rnn, .* or memory, got gru_norm"),
        (lambda: flow.trace(RNN_CELL, X[0]), ValueError, r"x: expected \(N, T, D\)"),
        (lambda: flow.trace(RNN_CELL, X, c0=np.zeros((2, 5))), ValueError, "c0: expected None for RNNCell"),
        (lambda: flow.trace(RNN_CELL, X, dh=np.zeros((2, 3, 4))), ValueError, r"dh: expected \(N, T, H\) = \(2, 3, 5\)"),
        (lambda: flow.trace(RNN_CELL, X, dc_T=np.zeros((2, 5))), ValueError, "dc_T: expected None for RNNCell"),
        (lambda: flow.trace(RNN_CELL, X, dh_total=np.zeros((2, 5))), ValueError, r"dh_total: expected \(N, T, H\)"),
        (lambda: flow.trace(LSTM_CELL, X, dh_total=np.zeros((2, 3, 5))), TypeError, "dc_total: expected an array"),
        (lambda: flow.trace(RNN_CELL, X, dh_T=np.ones((2, 5)), dh_total=np.ones((2, 3, 5))), ValueError, "dh_T: expected None"),
        (lambda: flow.trace(LSTM_CELL, X, rng=-1), ValueError, "rng: expected a seed"),
        (lambda: flow.trace(layer("GRU"), np.zeros((2, 3, 5)), reverse=True), ValueError, "reverse: expected False"),
        (lambda: flow.trace(layer("GRU"), np.zeros((2, 3, 5)), dh_total=X), ValueError, "dh_total: expected None"),
        (lambda: flow.trace(layer("GRU"), np.zeros((2, 3, 5)), dh=X), ValueError, r"dh: expected \(N, T, output_size\)"),
        (lambda: flow.gradient_norms(X), TypeError, "trace: expected a Trace"),
        (lambda: flow.gradient_norms(T_RNN + T_LSTM), ValueError, "trace: expected one Trace, got 2, of RNNCell, LSTMCell"),
        (lambda: flow.gradient_norms(T_RNN, "c"), ValueError, 'block: expected "state" or "h"'),
        (lambda: flow.gradient_norms(T_RNN, "x"), ValueError, "block: expected"),
        (lambda: flow.jacobian_norms(T_RNN, points=0), ValueError, "points: expected an integer >= 1"),
        (lambda: flow.jacobian_norms(T_RNN, iterations=1.5), TypeError, "iterations: expected an integer"),
        (lambda: flow.bound(np.ones((2, 3)), [1]), ValueError, r"Wh: expected \(H, H\)"),
        (lambda: flow.bound(np.ones((2, 2)), [-1]), ValueError, "distance: expected integers >= 0"),
        (lambda: flow.bound(np.ones((2, 2)), [1.5]), ValueError, "distance: expected integers >= 0"),
        (lambda: flow.bound(np.ones((2, 2)), 1, "gelu"), ValueError, "activation: expected"),
        (lambda: flow.spectrum(np.ones((2, 3))), ValueError, r"Wh: expected \(H, G·H\)"),
        (lambda: flow.spectrum(np.full((2, 2), np.nan)), ValueError, "Wh: expected finite"),
        (lambda: flow.spectrum(np.ones((2, 4)), 2), ValueError, r"gate: expected 0..G-1 = 0..1, got 2"),
        (lambda: flow.time_constants(T_RNN), ValueError, "trace: expected that of an lstm, gru, leaky or memory"),
        (lambda: flow.omega(T_RNN, hold="all"), ValueError, "hold: expected"),
        (lambda: flow.omega(T_RNN, smallest=-1), ValueError, "smallest: expected"),
        (lambda: flow.product_variance([0.0]), ValueError, "scales: expected"),
        (lambda: flow.product_variance(depths=[0]), ValueError, "depths: expected"),
        (lambda: flow.product_variance(draws=0), ValueError, "draws: expected"),
    ],
)  # fmt: skip
def test_errors(wrong, error, words):
    with pytest.raises(error, match=f"^{words}"):
        wrong()


def test_a_wing_that_is_entered_when_it_is_asked_for():
    code = (
        "import sys, fastgate; assert not any(m.startswith('fastgate.flow') for m in sys.modules); "
        "fastgate.flow.trace; assert 'matplotlib' not in sys.modules; fastgate.decode.greedy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- figures -----------------------------------------------------------------------------------------------------


@pytest.fixture
def matplotlib():
    return pytest.importorskip("matplotlib")


def lines_of(figure):
    return [line for axes in figure.axes for line in axes.lines]


@pytest.mark.usefixtures("matplotlib")
@cells
def test_figures_show_what_was_measured(cell):
    t = one_trace(cell, ragged=True)
    (line,) = lines_of(flow.plot_gradient_norms(t))
    np.testing.assert_allclose(line.get_ydata(), np.nanmedian(flow.gradient_norms(t), axis=0), rtol=1e-12)
    norms = flow.jacobian_norms(t)
    lines = lines_of(flow.plot_jacobian_norms(t, norms))
    np.testing.assert_allclose(lines[0].get_ydata(), np.nanmedian(norms.norm, axis=0), rtol=1e-12)
    if cell.name == "memory":
        assert np.isnan(lines_of(flow.plot_time_constants(t))[0].get_ydata()).all()  # infinite
    elif cell.name == "rnn":
        np.testing.assert_allclose(lines[1].get_ydata(), flow.bound(t.weights["Wh"], range(1, 7)), rtol=1e-12)
    else:
        (line, _) = lines_of(flow.plot_time_constants(t))
        np.testing.assert_allclose(line.get_ydata(), np.sort(flow.time_constants(t)), rtol=1e-12)
    (line, _) = lines_of(flow.plot_omega(t))
    np.testing.assert_allclose(line.get_ydata(), np.nanmedian(flow.omega(t).ratio, axis=0), rtol=1e-12)
    axes = flow.plot_saturation(t).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(flow.gates(t))
    spectrum = flow.spectrum(t.weights["Wh"])
    _, points = lines_of(flow.plot_spectrum(spectrum))
    np.testing.assert_array_equal(points.get_xdata() + 1j * points.get_ydata(), spectrum.eigenvalues)
    np.testing.assert_array_equal(lines_of(flow.plot_singular_values(spectrum))[0].get_ydata(), spectrum.singular_values)
    found = flow.product_variance(draws=3, hidden_size=4)
    np.testing.assert_array_equal(lines_of(flow.plot_product_variance(found))[1].get_ydata(), found.measured[0])
    other = flow.plot_spectrum(spectrum).axes[0]
    assert flow.plot_omega(t, axes=other) is other.figure


@pytest.mark.usefixtures("matplotlib")
@pytest.mark.parametrize(("scale", "word"), [(0.8, "vanish"), (1.0, "flow"), (1.3, "explode")])
def test_the_page_says_what_a_linear_net_does(scale, word, tmp_path):
    found = fastgate.RNN(3, 8, activation="identity", rng=0)
    found.weights["Wh0"][...] *= scale
    x = np.random.default_rng(0).normal(size=(2, 40, 3)).astype(np.float32)
    page = flow.report(found, x, path=tmp_path / "page.png", title="A net")
    (verdict,) = page.verdicts
    assert verdict.word == word
    assert verdict.per_step == pytest.approx(scale, rel=1e-5)
    assert verdict.factor == pytest.approx(scale**40, rel=1e-4)
    assert (verdict.distance is None) is (word == "flow")
    if word != "flow":
        assert verdict.distance == pytest.approx(abs(np.log(100) / np.log(scale)), rel=0.01)
    assert f"gradients {word}" in page.text
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
    assert len(page.figure.axes) + sum(len(sub.axes) for sub in page.figure.subfigs) >= 6


@pytest.mark.usefixtures("matplotlib")
def test_a_page_of_a_net_that_has_run_away():
    """The words say so, no warning does."""
    found = fastgate.RNN(3, 8, activation="relu", rng=0)
    found.weights["Wh0"][...] *= 1e3
    page = flow.report(found, np.ones((2, 60, 3), np.float32))
    assert page.verdicts[0].word == "explode"
    assert "The states are NaN" in page.text
    found.weights["Wh0"][...] = np.abs(found.weights["Wh0"])  # only inf, where relu has the slope 1 still
    (verdict,) = flow.report(found, np.ones((2, 60, 3), np.float32)).verdicts
    assert verdict.word == "explode"
    assert verdict.per_step == pytest.approx(flow.spectrum(found.weights["Wh0"]).radius, rel=0.05)
    linear = fastgate.RNN(3, 8, activation="identity", num_layers=2, rng=0)
    linear.parameters[...] *= 1e4
    assert [v.word for v in flow.report(linear, np.ones((2, 30, 3), np.float32)).verdicts] == ["explode", "explode"]
    for kind in (fastgate.RNN, fastgate.LSTM, fastgate.GRU):
        broken = kind(3, 8, rng=0)
        broken.parameters[1] = np.inf
        flow.report(broken, np.ones((2, 9, 3), np.float32))
        flow.omega(flow.trace(broken, np.ones((2, 9, 3), np.float32)))


@pytest.mark.usefixtures("matplotlib")
def test_what_a_page_says_keeps_the_state():
    x = np.random.default_rng(0).normal(size=(2, 9, 5))
    for own in ({}, {"Wh": False}):
        text = flow.report(layer("Leaky", **own), x).text
        assert "alpha keeps 0.88 per step (median unit; time constant 7.5 steps)" in text
        assert ("Wh has radius" in text) is (not own)
    assert "The loop keeps all; Wh has radius 0.00" in flow.report(layer("Memory"), x).text
    found = layer("RNN", period=2)  # of units that hold, weights below 1 bound nothing
    found.weights["Wh0"][...] *= 0.25
    assert "cannot but vanish" not in flow.report(found, x).text
    assert len(lines_of(flow.plot_jacobian_norms(flow.trace(found, x)))) == 2  # what was measured, and 1


@pytest.mark.usefixtures("matplotlib")
@pytest.mark.parametrize(("kind", "own"), [("LSTM", {"proj_size": 3}), ("GRU", {"period": 2})])
def test_a_page_of_a_stack(kind, own, tmp_path):
    found = layer(kind, num_layers=2, bidirectional=True, **own)
    x = np.random.default_rng(0).normal(size=(3, 9, 5))
    page = flow.report(found, x, lengths=[9, 0, 4], path=str(tmp_path / "page.svg"))
    assert [v.name for v in page.verdicts] == [t.name for t in page.traces]
    assert page.text.count("\n") == 3
    assert b"<svg" in (tmp_path / "page.svg").read_bytes()
    empty = flow.report(found, x[:, :0])
    assert "no steps" in empty.text
    with pytest.raises(ValueError, match=r"^path: expected a name that ends in one of"):
        flow.report(found, x, path=tmp_path / "page.docx")
    with pytest.raises(TypeError, match=r"^path: expected a path"):
        flow.report(found, x, path=3)
    with pytest.raises(FileNotFoundError, match=r"its folder does not exist: 'nowhere/page.png'$"):
        flow.report(found, x, path="nowhere/page.png")
    with pytest.raises(TypeError, match=r"^traces: expected a Trace"):
        flow.plot_omega([])
    with pytest.raises(TypeError, match=r"^spectra: expected a Spectrum"):
        flow.plot_spectrum([1])


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'fastgate\[demo\]'"):
        flow.plot_gradient_norms(T_RNN)


def test_without_matplotlib_a_report_has_its_words(monkeypatch):
    found, x = layer("RNN", num_layers=2), np.random.default_rng(0).normal(size=(2, 9, 5))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    page = flow.report(found, x)
    assert page.figure is None
    assert page.text == "\n".join(v.words for v in page.verdicts)
    assert [v.name for v in page.verdicts] == ["layer 0", "layer 1"] == [t.name for t in page.traces]
    with pytest.raises(ImportError, match=r"pip install 'fastgate\[demo\]'"):
        flow.report(found, x, path="page.png")
    monkeypatch.undo()
    pytest.importorskip("matplotlib")
    assert flow.report(found, x).text == page.text
