"""identify names what a step computes, or says that it cannot; it names nothing wrongly.

FASTGATE_DRAWS=500 draws that many cells; the default is a few.
"""

import itertools
import os

import handwritten
import numpy as np
import pytest
from handwritten import LAYOUTS, STATES, make_step, normalised, sigmoid

import fastgate
from fastgate.check import Identification, identify

DRAWS = int(os.environ.get("FASTGATE_DRAWS", "16"))


# --- identify: weights known ------------------------------------------------------------------------------------------


def assert_reproduces(found: Identification, tolerance=1e-9):
    assert found, str(found)
    assert found.error <= tolerance
    assert found.call.startswith(f"fastgate.{found.cell}_step_forward(")


def assert_call_is_the_step(found, step, weights, rng, D, H, P):
    """The text of the call, evaluated as its reader would, on inputs of other sizes than identify draws."""
    for scale in (0.1, 3.0, 10.0):
        x, h, c = (scale * rng.normal(size=(4, n)) for n in (D, P, H))
        states = (h, c) if found.cell in ("lstm", "lstm_norm", "memory") else (h,)
        names = {"fastgate": fastgate, "np": np, **(weights or {}), "weights": found.weights, "x": x, "h": h, "c": c}
        results = step(x, *states)
        for ours, theirs in zip(eval(found.call, names), results if len(states) == 2 else (results,), strict=False):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())


def assert_not_matched(found: Identification):
    assert found.cell is None, str(found)
    assert found.unmatched
    assert not found
    assert not found.call
    assert "none of what was tried: " in str(found)


@pytest.mark.parametrize("order", ["".join(order) for order in itertools.permutations("ifgo")])
def test_lstm_gate_orders(order):
    layout = LAYOUTS[sum(map(ord, order[:2])) % len(LAYOUTS)]
    step, weights = make_step("lstm", np.random.default_rng(5), 4, 3, order=order, layout=layout)
    found = identify(step, 4, 3, weights=weights)
    assert_reproduces(found)
    assert (found.cell, found.gate_order, found.layout, found.bias) == ("lstm", order, layout, "one")
    assert (found.peephole, found.clip, found.coupled, found.activation) == (None, {}, False, "tanh")
    assert not found.notes


GRU_BIASES = {
    "none": ("none", "none"), "one": ("one, b_n outside r * (...)", "one"), "two": ("two, both outside r * (...)", "two"),
    "inside": ("one, b_n inside r * (...)", None), "apart": ("two, bh_n inside r * (...)", None),
}  # fmt: skip


@pytest.mark.parametrize("order", ["".join(order) for order in itertools.permutations("rzn")])
@pytest.mark.parametrize("bias", GRU_BIASES)
def test_gru_variants(order, bias):
    for reset, update in itertools.product(("after", "before"), ("old", "new")):
        expected = GRU_BIASES[bias][reset == "before"]
        if expected is None:
            continue
        step, weights = make_step("gru", np.random.default_rng(6), 3, 4, order=order, bias=bias, reset=reset, update=update)
        found = identify(step, 3, 4, weights=weights)
        assert_reproduces(found)
        assert (found.cell, found.gate_order, found.reset, found.update) == ("gru", order, reset, update)
        assert found.bias == expected


@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid", "identity"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("hidden", [False, True])
def test_rnn_activations(activation, layout, hidden):
    step, weights = make_step("rnn", np.random.default_rng(7), 3, 5, activation=activation, layout=layout)
    found = identify(step, 3, 5, weights=None if hidden else weights)
    assert_reproduces(found)
    assert (found.cell, found.activation, found.bias) == ("rnn", activation, "one")
    assert found.layout == (None if hidden else layout)


@pytest.mark.parametrize("peephole", ["".join(order) for order in itertools.permutations("ifo")])
def test_peepholes(peephole):
    step, weights = make_step("lstm", np.random.default_rng(8), 3, 4, order="ifog", peephole=peephole)
    found = identify(step, 3, 4, weights=weights)
    assert_reproduces(found)
    assert (found.gate_order, found.peephole) == ("ifog", peephole)
    assert "peephole=" in found.call


@pytest.mark.parametrize(
    ("options", "expected", "option"),
    [
        ({"coupled": True}, {"coupled": True}, "coupled=True"),
        ({"cell_clip": 0.75}, {"clip": {"cell_clip": 0.75}}, "cell_clip=0.75"),
        ({"activation": "sigmoid"}, {"activation": "sigmoid", "gate_order": None}, 'candidate="sigmoid"'),
    ],
)
def test_other_options_of_lstm(options, expected, option):
    step, weights = make_step("lstm", np.random.default_rng(9), 3, 4, order="fgio", **options)
    found = identify(step, 3, 4, weights=weights)
    assert_reproduces(found)
    assert option in found.call
    for name, value in expected.items():
        assert getattr(found, name) == value


@pytest.mark.parametrize(("scale", "b_f"), [(0.5, np.log(9)), (0.01, np.log(9)), (0, np.log(9)), (0, 0)])
@pytest.mark.parametrize("hidden", [False, True])
def test_a_constant_forget_gate_is_not_clipped(scale, b_f, hidden):
    rng, H = np.random.default_rng(0), 4
    Wx, Wh, b = (scale * rng.normal(size=shape) for shape in ((3, 4 * H), (H, 4 * H), 4 * H))
    Wx[:, H : 2 * H], Wh[:, H : 2 * H], b[H : 2 * H] = 0, 0, b_f

    def step(x, h, c):
        i, f, g, o = np.split(x @ Wx + h @ Wh + b, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c

    found = identify(step, 3, H, weights=None if hidden else {"Wx": Wx, "Wh": Wh, "b": b})
    if hidden and not scale:
        assert_not_matched(found)  # nothing moves with x: no weights to be read off
    else:
        assert_reproduces(found)
        assert (found.cell, found.clip) == ("lstm", {})


@pytest.mark.parametrize("reset", ["after", "before"])
def test_a_gru_whose_candidate_is_a_sigmoid(reset):
    step, weights = make_step("gru", np.random.default_rng(23), 3, 4, order="rzn", activation="sigmoid", reset=reset)
    found = identify(step, 3, 4, weights=weights)
    assert_reproduces(found)
    assert 'candidate="sigmoid"' in found.call


def test_a_step_that_takes_its_weights():
    found = identify(handwritten.rnn_step_forward, 4, 3)
    assert_reproduces(found)
    assert found.call == "fastgate.rnn_step_forward(x, h, Wx, Wh, b)"
    found = identify(fastgate.gru_step_forward, 4, 3)
    assert_reproduces(found)
    assert found.call == 'fastgate.gru_step_forward(x, h, Wx, Wh, b, bh=bh, gate_order="rzn", reset="after")'
    found = identify(handwritten.column_forward, 4, 3)
    assert_reproduces(found)
    assert (found.layout, found.gate_order) == ("W @ [x, h]", "figo")


def test_ways_of_being_called():
    rng = np.random.default_rng(10)
    step, weights = make_step("lstm", rng, 4, 3, order="ifgo")
    for other, words in (
        (lambda x, state: step(x, *state), "step(x, (h, c)), x (N, D)"),
        (lambda x, h, c: tuple(a.T for a in step(x.T, h.T, c.T)), "step(x, h, c), x (D, N)"),
        (lambda x, h, c: tuple(a[0] for a in step(x[None], h[None], c[None])), "step(x, h, c), x (D,)"),
        (lambda x, h, c: (x, (*step(x, h, c), None)), "step(x, h, c), x (N, D)"),
    ):
        found = identify(other, 4, 3, weights=weights)
        assert_reproduces(found)
        assert (found.called, found.gate_order) == (words, "ifgo")


@pytest.mark.parametrize("form", STATES)
@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize(("D", "H"), [(4, 3), (3, 3), (4, 1)])
def test_ways_of_passing_states(form, hidden, D, H):
    cell, order = ("lstm", "figo") if "c" in form else ("gru", "zrn")
    step, weights = make_step(cell, np.random.default_rng(24), D, H, order=order)
    found = identify(STATES[form](step), D, H, weights=None if hidden else weights)
    assert_reproduces(found, 1e-5 if hidden else 1e-9)
    assert (found.cell, found.gate_order) == (cell, None if hidden else order)
    assert found.called == f"step({form.split(' -> ')[0]}), x (N, D)"


def test_a_projection_in_a_tuple_and_columns():
    step, weights = make_step("lstm", np.random.default_rng(25), 4, 5, order="fiog", P=2)
    for form in ("x, (h, c)", "x, (c, h)", "(c, h), x", "x, h, c -> c, h"):
        found = identify(STATES[form](step), 4, 5, weights=weights)
        assert_reproduces(found)
        assert (found.called, found.projection) == (f"step({form.split(' -> ')[0]}), x (N, D)", 2)
    found = identify(lambda x, h, c: tuple(a.T for a in step(x.T, h.T, c.T)), 4, 5, weights=weights)
    assert_reproduces(found)
    assert (found.called, found.projection, found.gate_order) == ("step(x, h, c), x (D, N)", 2, "fiog")
    step, weights = make_step("lstm", np.random.default_rng(25), 2, 5, order="fiog", P=2)  # x and h of one width
    for form in ("x, h, c", "h, c, x", "x, (h, c)"):
        found = identify(STATES[form](step), 2, 5, weights=weights)
        assert_reproduces(found)
        assert found.called == f"step({form}), x (N, D)"


def test_a_step_that_takes_its_weights_and_a_tuple():
    def step(x, state, W, U, b):
        h, c = state
        a = x @ W + h @ U + b
        f, i, g, o = np.split(a, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        return h, (h, c)

    found = identify(step, 4, 3)
    assert_reproduces(found)
    assert found.call == 'fastgate.lstm_step_forward(x, h, c, W, U, b, gate_order="figo")'
    assert found.called == "step(x, (h, c), W, U, b), x (N, D)"


def test_a_cache_is_not_taken_for_states():
    """A cell that is none of ours, with arrays in its cache that would be."""
    step, weights = make_step("lstm", np.random.default_rng(26), 4, 3, order="ifgo")

    def other(x, state):
        h, c = step(x, *state)
        return np.sin(h), (np.sin(h), np.tanh(c)), (h, c)

    for given in (None, weights):
        found = identify(other, 4, 3, weights=given)
        assert (found.cell, bool(found), found.call) == (None, False, "")


def test_gates_one_by_one():
    rng = np.random.default_rng(11)
    W = {f"W{k}": 0.6 * rng.normal(size=(3, 7)) for k in "fico"} | {f"b{k}": rng.normal(size=(3, 1)) for k in "fioc"}

    def step(xt, a_prev, c_prev):
        u = np.concatenate([a_prev, xt])
        f, i, o = (handwritten.sigmoid(W[f"W{k}"] @ u + W[f"b{k}"]) for k in "fio")
        c = f * c_prev + i * np.tanh(W["Wc"] @ u + W["bc"])
        return o * np.tanh(c), c

    found = identify(step, 4, 3, weights=W)
    assert_reproduces(found)
    assert (found.gate_order, found.layout) == ("figo", "W @ [h, x]")


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize(
    ("cell", "options", "known", "read"),
    [
        ("lstm", {"order": "figo", "on": "ifo"}, "one, on f i o only", "one, on i f o only"),
        ("lstm", {"order": "figo", "on": "ifo", "joined": True}, "one, on f i o only", "one, on i f o only"),
        ("lstm", {"order": "ogfi", "on": "f"}, "one, on f only", "one, on f only"),
        ("lstm", {"order": "ogfi", "on": "gi", "joined": True}, "one, on g i only", "one, on i g only"),
        ("lstm", {"order": "ifgo", "on": "go", "bias": "two"}, "two, one of them on g o only", "one"),
        ("lstm", {"order": "iofg", "on": "fo", "peephole": "ifo"}, "one, on o f only", "one, on f o only"),
        ("gru", {"order": "zrn", "on": "n"}, "one, b_n outside r * (...), on n only", None),
        ("gru", {"order": "zrn", "on": "zr"}, "one, on z r only", "one, on r z only"),
        ("gru", {"order": "nzr", "on": "n", "bias": "inside"}, "one, b_n inside r * (...), on n only", None),
        ("gru", {"order": "rzn", "on": "n", "bias": "apart"}, "two, bh_n inside r * (...), one of them on n only",
         "two, bh_n inside r * (...)"),
        ("gru", {"order": "rzn", "on": "n", "reset": "before"}, "one, on n only", None),
    ],
)  # fmt: skip
def test_biases_on_some_gates(cell, options, known, read, hidden):
    step, weights = make_step(cell, np.random.default_rng(27), 4, 3, **options)
    found = identify(step, 4, 3, weights=None if hidden else weights)
    assert_reproduces(found, 1e-5 if hidden else 1e-9)
    assert found.bias == (read or known if hidden else known)
    assert found.gate_order == (None if hidden else options["order"])
    assert "not used" not in str(found)


def test_a_bias_of_some_gates_beside_arrays_that_are_not_used():
    step, weights = make_step("lstm", np.random.default_rng(28), 4, 3, order="ifgo", on="fo")
    found = identify(step, 4, 3, weights=weights | {"by": np.ones(3), "Why": np.ones((3, 9))})
    assert_reproduces(found)
    assert found.bias == "one, on f o only"
    assert "np.concatenate([np.zeros(3), b_f, np.zeros(3), b_o])" in found.call
    assert {note.split()[0] for note in found.notes} == {"by", "Why"}


@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid", "identity"])
@pytest.mark.parametrize("alpha", [0.7, "each"])
@pytest.mark.parametrize("hidden", [False, True])
def test_leaky_units(activation, alpha, hidden):
    step, weights = make_step("leaky", np.random.default_rng(29), 3, 5, activation=activation, alpha=alpha)
    found = identify(step, 3, 5, weights=None if hidden else weights)
    assert_reproduces(found)
    if hidden and activation == "identity":  # an rnn whose Wh has the alpha on its diagonal
        assert (found.cell, found.alpha) == ("rnn", None)
        return
    assert (found.cell, found.activation) == ("leaky", activation)
    np.testing.assert_allclose(found.alpha, weights.get("alpha", alpha), rtol=1e-9)
    if not hidden:
        assert f"alpha={'alpha' if alpha == 'each' else alpha}" in found.call
        found = identify(step, 3, 5, weights={name: a for name, a in weights.items() if name != "alpha"})
        assert_reproduces(found)
        assert list(found.weights) == (["alpha"] if alpha == "each" else [])


@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid", "identity"])
@pytest.mark.parametrize("output", ["tanh", "identity"])
@pytest.mark.parametrize("hidden", [False, True])
def test_memory_cells(activation, output, hidden):
    step, weights = make_step("memory", np.random.default_rng(22), 3, 5, activation=activation, output=output)
    found = identify(step, 3, 5, weights=None if hidden else weights)
    assert_reproduces(found)
    assert (found.cell, found.activation, found.output) == ("memory", activation, output)
    if output == "tanh":
        return
    for form in ("x, (h, c) -> y, (h, c), None", "x, h, c -> h, c, cache", "x, (h, c)", "x, (c, h)"):
        assert identify(STATES[form](step), 3, 5, weights=None if hidden else weights).cell == "memory"
    found = identify(lambda x, h: step(x, h, h)[1], 3, 5, weights=None if hidden else weights)
    assert_reproduces(found)
    if hidden and activation == "identity":
        assert found.cell == "rnn"
    else:
        assert (found.cell, found.activation, found.output) == ("memory", activation, output)
        assert found.call.startswith("fastgate.memory_step_forward(x, h, h, ")


def test_the_order_of_states_where_relus_are_mostly_off():
    for seed in range(10):
        rng = np.random.default_rng([40, seed])
        W, U, b = rng.normal(size=(3, 2)), rng.normal(size=(2, 2)), rng.normal(size=2) - 2

        def step(x, state, W=W, U=U, b=b):
            c, h = state
            c = c + np.maximum(x @ W + h @ U + b, 0)
            return np.tanh(c), (c, np.tanh(c))

        found = identify(step, 3, 2, weights={"W": W, "U": U, "b": b})
        assert_reproduces(found)
        assert found.called == "step(x, (c, h), W, U, b), x (N, D)"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda a: a, "alpha=leak"),
        (lambda a: 1 - a, "alpha=1 - leak"),
        (sigmoid, "alpha=1 / (1 + np.exp(-leak))"),
        (lambda a: 1 - sigmoid(a), "alpha=1 / (1 + np.exp(leak))"),
    ],
)
@pytest.mark.parametrize(
    ("shape", "name"),
    [((4,), "leak"), ((4, 1), "leak.ravel()"), ((1,), "float(leak.ravel()[0])"), ((), "float(leak)"), (None, "float(leak)")],
)
def test_alphas_by_their_array(make, text, shape, name):
    leak = np.random.default_rng(30).uniform(0.2, 0.8, shape)
    step, weights = make_step("leaky", np.random.default_rng(31), 3, 4, alpha=make(np.ravel(leak)))
    found = identify(step, 3, 4, weights=weights | {"leak": leak})
    assert_reproduces(found)
    assert text.replace("leak", name) in found.call
    assert not found.notes


@pytest.mark.parametrize("scalar", [float, np.float64, np.float32, np.float16])
def test_leaks_are_numbers_of_any_precision(scalar):
    leak = scalar(0.7)
    step, weights = make_step("leaky", np.random.default_rng(34), 3, 4, alpha=float(leak))
    found = identify(step, 3, 4, weights=weights | {"leak": leak})
    assert_reproduces(found)
    assert "alpha=float(leak)" in found.call
    Wx, Wh, b = (weights[name].astype(np.float32) for name in ("Wx", "Wh", "b"))
    found = identify(lambda x, h: leak * h + (1 - leak) * np.tanh(x @ Wx + h @ Wh + b), 3, 4,
                     weights={"Wx": Wx, "Wh": Wh, "b": b, "leak": leak})  # fmt: skip
    assert_reproduces(found, 1e-4)


@pytest.mark.parametrize("order", ["ifgo", "ogif"])
@pytest.mark.parametrize("P", [2, 3, 5])
@pytest.mark.parametrize("hidden", [False, True])
def test_projections(order, P, hidden):
    for peephole in (None, "ifo"):
        step, weights = make_step("lstm", np.random.default_rng(32), 3, 4, order=order, P=P, peephole=peephole)
        given = weights | {"Wr": weights["Wr"].T.copy()} if P == 3 else weights
        found = identify(step, 3, 4, weights=None if hidden else given)
        assert_reproduces(found, 1e-5 if hidden else 1e-9)
        assert (found.cell, found.projection, found.gate_order) == ("lstm", P, None if hidden else order)
        if hidden:
            np.testing.assert_allclose(found.weights["Wr"], weights["Wr"], rtol=1e-6, atol=1e-8)
        else:
            assert ("Wr=Wr.T" if P == 3 else "Wr=Wr,") in found.call


@pytest.mark.parametrize("hidden", [False, True])
def test_a_projection_as_wide_as_c(hidden):
    plain, weights = make_step("lstm", np.random.default_rng(33), 3, 4, order="ifgo")
    Wr = np.random.default_rng(34).normal(size=(4, 4))

    def step(x, h, c):
        h, c = plain(x, h, c)
        return h @ Wr, c

    found = identify(step, 3, 4, weights=None if hidden else weights | {"Wr": Wr})
    assert_reproduces(found, 1e-5 if hidden else 1e-9)
    assert (found.cell, found.projection) == ("lstm", 4)


@pytest.mark.parametrize("cell", ["lstm_norm", "gru_norm"])
@pytest.mark.parametrize("bias", ["none", "one", "two", "inside", "apart"])
def test_layer_normalisation(cell, bias):
    if cell == "lstm_norm" and bias in ("inside", "apart"):
        return
    for gains, eps, order in (("xh", 1e-5, 0), ("", 1e-3, 1), ("xcd", 1e-6, 2), ("hc", 1e-3, 4)):
        gains = gains if cell == "lstm_norm" else gains.strip("cd")
        order = "".join(list(itertools.permutations("ifgo" if cell == "lstm_norm" else "rzn"))[order])
        step, weights = make_step(cell, np.random.default_rng(35), 4, 3, order=order, bias=bias, gains=gains, eps=eps)
        found = identify(step, 4, 3, weights=weights)
        if cell == "gru_norm" and bias == "two":  # both outside r * (…): fastgate's second one is inside
            assert_not_matched(found)
            continue
        assert_reproduces(found)
        assert (found.cell, found.gate_order, found.eps) == (cell, order, eps)
        for k, name in (("x", "gain_x=gain_x"), ("h", "gain_h=gain_h"), ("c", "gain_c=gain_c"), ("d", "beta_c=gain_d")):
            assert (name in found.call) == (k in gains)


@pytest.mark.parametrize("gains", ["xh", "h", ""])
@pytest.mark.parametrize("bias", ["apart", "one", "inside", "none"])
def test_gru_norm_with_z_the_other_way_round(gains, bias):
    step, weights = make_step("gru_norm", np.random.default_rng(36), 4, 3, order="nzr", update="new", bias=bias, gains=gains)
    found = identify(step, 4, 3, weights=weights)
    assert_reproduces(found)
    assert (found.cell, found.update, found.gate_order) == ("gru_norm", "new", "nzr")
    sign = "np.repeat(np.float64([1, -1, 1]), 3)"
    assert found.call.count(sign) == 2 + ("b" in weights) + ("bh" in weights)
    assert ("gain_x=" + sign + (" * gain_x" if "x" in gains else ", ")) in found.call


def test_arrays_that_are_not_used_and_two_row_biases():
    rng = np.random.default_rng(12)
    step, own = make_step("gru", rng, 4, 3, order="zrn", bias="apart")
    weights = own | {"Why": rng.normal(size=(3, 9)), "by": rng.normal(size=9)}
    weights["bias"] = np.stack([weights.pop("b"), weights.pop("bh")])
    found = identify(step, 4, 3, weights=weights)
    assert_reproduces(found)
    assert "bias[0], bh=bias[1]" in found.call
    assert found.bias == "two, bh_n inside r * (...)"
    assert {note.split()[0] for note in found.notes if "not used" in note} == {"Why", "by"}


@pytest.mark.parametrize(
    ("cell", "options"),
    [
        ("lstm", {"order": "ogif"}), ("lstm", {"order": "ogif", "on": "if"}), ("lstm", {"order": "ifgo", "P": 2}),
        ("gru", {"order": "nrz", "bias": "apart", "on": "n"}), ("leaky", {"alpha": 0.9}), ("leaky", {"alpha": "each"}),
        ("memory", {}), ("lstm_norm", {"order": "ogif", "gains": "xhcd"}), ("gru_norm", {"order": "nrz", "update": "new"}),
    ],
)  # fmt: skip
def test_float32_weights(cell, options):
    step, weights = make_step(cell, np.random.default_rng(13), 4, 3, **options, dtype=np.float32)
    for given in [weights] + [{name: a for name, a in weights.items() if name != "alpha"}] * ("alpha" in weights):
        found = identify(step, 4, 3, weights=given)
        assert_reproduces(found, 1e-4)
        assert (found.cell, found.gate_order) == (cell, options.get("order"))


# --- identify: weights hidden -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "options", "expected"),
    [
        ("lstm", {"order": "fgio"}, {"peephole": None, "bias": "one"}),
        ("lstm", {"order": "fgio", "bias": "none"}, {"bias": "none"}),
        ("lstm", {"order": "ifgo", "peephole": "ifo"}, {"peephole": "ifo"}),
        ("lstm", {"order": "ifgo", "coupled": True}, {"coupled": True}),
        ("lstm", {"order": "ifgo", "cell_clip": 0.9}, {"clip": {"cell_clip": 0.9}}),
        ("gru", {"order": "rzn", "reset": "after"}, {"reset": "after", "bias": "one, b_n outside r * (...)"}),
        ("gru", {"order": "rzn", "bias": "apart", "update": "new"}, {"reset": "after", "bias": "two, bh_n inside r * (...)"}),
        ("gru", {"order": "zrn", "reset": "before"}, {"reset": "before", "bias": "one"}),
        ("gru", {"order": "zrn", "reset": "before", "bias": "none"}, {"reset": "before", "bias": "none"}),
    ],
)
def test_hidden_weights(cell, options, expected):
    step, _ = make_step(cell, np.random.default_rng(14), 3, 3, **options)
    found = identify(step, 3, 3)
    assert_reproduces(found, 1e-5)
    assert (found.cell, found.gate_order, found.layout, found.update) == (cell, None, None, None)
    for name, value in expected.items():
        assert getattr(found, name) == value, str(found)
    assert "**weights" in found.call
    assert any(note.startswith("gate order") for note in found.notes)


def test_the_weights_that_were_read_off_reproduce_the_step():
    step, _ = make_step("lstm", np.random.default_rng(15), 3, 4, order="ifgo", bias="two")
    found = identify(step, 3, 4)
    x, h, c = (np.random.default_rng(16).normal(size=(6, n)) for n in (3, 4, 4))
    for ours, theirs in zip(fastgate.lstm_step_forward(x, h, c, **found.weights), step(x, h, c), strict=False):
        np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-9)


def test_one_unit_has_no_before_and_after():
    step, _ = make_step("gru", np.random.default_rng(17), 3, 1, order="rzn", reset="before")
    found = identify(step, 3, 1)
    assert found.cell == "gru"
    assert found.reset is None
    assert any(note.startswith("reset") for note in found.notes)


def test_weights_that_are_not_those_of_the_step():
    step, _ = make_step("lstm", np.random.default_rng(18), 3, 4, order="ifgo")
    _, others = make_step("lstm", np.random.default_rng(19), 3, 4, order="ifgo")
    found = identify(step, 3, 4, weights=others)
    assert_reproduces(found, 1e-5)
    assert found.gate_order is None
    assert "no reading of the weights given" in found.notes[0]


# --- identify: what cannot be matched ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "options", "words"),
    [
        ("lstm", {"order": "ifgo", "gates": "hard_sigmoid"}, "gates are hard sigmoid"),
        ("lstm", {"order": "ifgo", "output": "identity"}, "h = o * c"),
        ("lstm", {"order": "ifgo", "output": "identity", "P": 2}, "h = o * c"),
        ("rnn", {"activation": "softsign"}, "softsign"),
        ("gru", {"order": "rzn", "activation": "relu"}, "activation is relu"),
    ],
)
def test_cells_that_fastgate_lacks(cell, options, words):
    step, weights = make_step(cell, np.random.default_rng(20), 3, 4, **options)
    found = identify(step, 3, 4, weights=weights)
    assert not found
    assert found.cell == cell
    assert words in " ".join(found.unmatched)
    assert not found.call
    assert words in str(found)
    assert found.error <= 1e-9
    assert "fastgate has no call for it; computed in NumPy, what is named here has the step's numbers: largest" in str(found)


@pytest.mark.parametrize(
    "step",
    [
        lambda x, h: np.tanh(x.sum(axis=1, keepdims=True) * h),
        lambda x, h: np.tanh(h) + 0.1 * np.sin(x[:, :1]),
        lambda x, h, c: (np.tanh(h + c), np.sin(c) * h),
        lambda x, h, c: (h, c),
    ],
)
def test_what_is_no_cell_is_called_none(step):
    assert_not_matched(identify(step, 2, 3))


def near_misses(seed=0):
    """Cells that differ from ours in one place, with the arrays they are made of: name -> (step, weights)."""
    rng = np.random.default_rng([38, seed])
    D, H, P = 3, 4, 2
    W, U, b = rng.normal(size=(D, H)), 0.6 * rng.normal(size=(H, H)), rng.normal(size=H)
    Wx, Wh, b4, Wr = rng.normal(size=(D, 4 * H)), rng.normal(size=(P, 4 * H)), rng.normal(size=4 * H), rng.normal(size=(H, P))
    Wh4, square = 0.6 * rng.normal(size=(H, 4 * H)), rng.normal(size=(H, H))
    gain_x, gain_h = rng.normal(size=(2, 4 * H))
    rnn, plain = {"W": W, "U": U, "b": b}, {"Wx": Wx, "Wh": Wh4, "b": b4}
    projected, norm = {"Wx": Wx, "Wh": Wh, "b": b4, "Wr": Wr}, plain | {"gain_x": gain_x, "gain_h": gain_h}

    def N(v):
        return normalised(v, 1e-5)

    def lstm(a, c, of_c=lambda c: c, m=lambda o, c: o * np.tanh(c), handed=lambda c: c):
        a_i, a_f, a_g, a_o = np.split(a, 4, axis=1)
        c = handed(sigmoid(a_f) * c + sigmoid(a_i) * np.tanh(a_g))
        return m(sigmoid(a_o), of_c(c)), c

    def gates_apart(v):
        return np.hstack([N(part) for part in np.split(v, 4, axis=1)])

    def projected_rows(m):
        return lambda x, h, c: lstm(x @ Wx + h @ Wh + b4, c, m=m)

    return {
        "leaky: the state is the pre-activation": (lambda x, h: 0.7 * h + 0.3 * (x @ W + np.tanh(h) @ U + b), rnn),
        "leaky: shares that do not add up to 1": (lambda x, h: 0.7 * h + np.tanh(x @ W + h @ U + b), rnn),
        "leaky: the leak of tanh(h)": (lambda x, h: 0.7 * np.tanh(h) + 0.3 * np.tanh(x @ W + h @ U + b), rnn),
        "leaky: the recurrent product sees tanh(h)": (lambda x, h: 0.7 * h + 0.3 * np.tanh(x @ W + np.tanh(h) @ U + b), rnn),
        "leaky: the neighbour's state is kept": (
            lambda x, h: 0.7 * np.roll(h, 1, axis=1) + 0.3 * np.tanh(x @ W + h @ U + b), rnn),
        "leaky: a share that x decides": (
            lambda x, h: h + 0.5 * sigmoid(x[:, :1] + h) * (np.sin(x @ W + h @ U + b) - h), rnn),
        "projection: tanh of h": (projected_rows(lambda o, c: np.tanh((o * np.tanh(c)) @ Wr)), projected),
        "projection: of tanh(c) before the gate": (projected_rows(lambda o, c: o[:, :P] * (np.tanh(c) @ Wr)), projected),
        "projection: with a bias": (projected_rows(lambda o, c: (o * np.tanh(c)) @ Wr + 0.3), projected),
        "projection: m is added": (
            lambda x, h, c: lstm(x @ Wx + h @ Wh4 + b4, c, m=lambda o, c: o * np.tanh(c) + (o * np.tanh(c)) ** 2 @ square),
            plain | {"Wr": square}),
        "norm: the bias inside": (lambda x, h, c: lstm(gain_x * N(x @ Wx + b4) + gain_h * N(h @ Wh4), c), norm),
        "norm: of the sum": (lambda x, h, c: lstm(gain_x * N(x @ Wx + h @ Wh4) + b4, c), norm),
        "norm: each gate for itself": (
            lambda x, h, c: lstm(gain_x * gates_apart(x @ Wx) + gain_h * gates_apart(h @ Wh4) + b4, c), norm),
        "norm: of x's product alone": (lambda x, h, c: lstm(gain_x * N(x @ Wx) + gain_h * (h @ Wh4) + b4, c), norm),
        "norm: the normalised c is handed on": (
            lambda x, h, c: lstm(gain_x * N(x @ Wx) + gain_h * N(h @ Wh4) + b4, c, handed=N), norm),
        "norm: of h": (lambda x, h, c: lstm(gain_x * N(x @ Wx) + gain_h * N(h @ Wh4) + b4, c,
                                            m=lambda o, c: N(o * np.tanh(c))), norm),
        "norm: eps beside the root": (
            lambda x, h, c: lstm(x @ Wx + h @ Wh4 + b4, c, of_c=lambda c: (c - c.mean(1, keepdims=True)) /
                                 (c.std(1, keepdims=True) + 1e-3)), plain),
    }  # fmt: skip


@pytest.mark.parametrize("name", near_misses())
def test_near_misses_are_not_named(name):
    for seed in range(1 + DRAWS // 50):
        step, weights = near_misses(seed)[name]
        for given in (weights, None):
            assert_not_matched(identify(step, 3, 4, weights=given, seed=seed))


def test_what_is_another_cell_in_disguise():
    """A leak within tanh is an rnn whose Wh has a diagonal; a projected output beside an unprojected state an lstm."""
    rng = np.random.default_rng(39)
    W, U = rng.normal(size=(3, 4)), 0.6 * rng.normal(size=(4, 4))
    for given in (None, {"W": W, "U": U}):
        found = identify(lambda x, h: np.tanh(0.7 * h + 0.3 * (x @ W + h @ U)), 3, 4, weights=given)
        assert_reproduces(found, 1e-5)
        assert found.cell == "rnn"
        np.testing.assert_allclose(found.weights["Wh"], 0.3 * U + 0.7 * np.eye(4), atol=1e-8)
    plain, weights = make_step("lstm", rng, 3, 4, order="ifgo")
    for Wr in (rng.normal(size=(4, 2)), rng.normal(size=(4, 4))):
        found = identify(lambda x, state, Wr=Wr: (lambda h, c: (h @ Wr, (h, c)))(*plain(x, *state)), 3, 4,
                         weights=weights | {"Wr": Wr})  # fmt: skip
        assert_reproduces(found)
        assert (found.cell, found.projection, found.notes) == ("lstm", None, ["Wr is not used by the step"])


def test_float32_hides_its_weights():
    step, _ = make_step("rnn", np.random.default_rng(21), 3, 4)
    found = identify(lambda x, h: step(x, h).astype(np.float32), 3, 4)
    assert found.cell is None
    assert "float32" in found.unmatched[0]


@pytest.mark.parametrize(
    ("error", "start", "arguments", "keywords"),
    [
        (TypeError, "step_function: expected a function, got int", (3, 4, 3), {}),
        (ValueError, "step_function: expected step", (lambda x, h: x[:, :2] * np.ones((len(h), 1)), 4, 3), {}),
        (ValueError, "step_function: expected step", (lambda x, h: np.random.default_rng().normal(size=h.shape), 4, 3), {}),
        (ValueError, "step_function: expected step", (lambda x, h: (h - h.mean(axis=0)) * np.ones((len(x), 1)), 4, 3), {}),
        (ValueError, "step_function: expected step", (lambda x: x, 4, 3), {}),
        (ValueError, "input_size: expected an integer >= 1, got 0", (lambda x, h: h, 0, 3), {}),
        (TypeError, "hidden_size: expected an integer >= 1, got float", (lambda x, h: h, 4, 3.0), {}),
        (TypeError, "seed: expected an integer >= 0, got str", (lambda x, h: h, 4, 3), {"seed": "a"}),
        (TypeError, "weights: expected a dict", (lambda x, h: h, 4, 3), {"weights": [np.ones(3)]}),
        (ValueError, "weights: expected at least one", (lambda x, h: h, 4, 3), {"weights": {}}),
        (ValueError, "weights: expected names", (lambda x, h: h, 4, 3), {"weights": {"a b": np.ones(3)}}),
        (TypeError, r"weights\['W'\]: expected a float32 or float64 array, got int64", (lambda x, h: h, 4, 3), {
            "weights": {"W": np.ones(3, np.int64)}}),
        *((ValueError, f"weights: expected names .*, got '{name}', a keyword", (lambda x, h: h, 4, 3), {
            "weights": {name: np.ones(3)}}) for name in ("lambda", "in", "None")),
        *((ValueError, f"weights: expected names .*, got '{name}', a name that the call uses", (lambda x, h: h, 4, 3), {
            "weights": {name: np.ones(3)}}) for name in ("np", "fastgate", "float", "x", "h", "weights")),
    ],
)  # fmt: skip
def test_bad_calls_of_identify(error, start, arguments, keywords):
    with pytest.raises(error, match=f"^{start}"):
        identify(*arguments, **keywords)


def test_a_weight_named_as_a_state_of_the_step():
    c = np.array([0.3, -0.2, 0.5])
    assert "x, h" in identify(lambda x, h: np.tanh(x + h + c), 3, 3, weights={"Wx": np.eye(3), "Wh": np.eye(3), "c": c}).call
    with pytest.raises(ValueError, match=r"^weights: expected names .*, got 'c', a name that the call uses"):
        identify(lambda x, h, c_prev: (np.tanh(c_prev + x), c_prev + x + h + c), 3, 3, weights={"c": c})


# --- identify: random draws -------------------------------------------------------------------------------------------


def draw(rng):
    """Arguments of make_step, how states are passed, and what identify must answer."""
    cell = str(rng.choice(["rnn", "lstm", "lstm", "gru", "gru", "leaky", "memory", "lstm_norm", "gru_norm"]))
    kind, letters = cell.removesuffix("_norm"), {"l": "ifgo", "g": "rzn"}[cell[0]] if cell[:2] in ("ls", "gr") else "a"
    D, H = (int(n) for n in rng.integers(2, 6, 2))
    hidden = bool(rng.random() < 0.4)
    options = {"layout": str(rng.choice(LAYOUTS)), "bias": str(rng.choice(["none", "one", "two"]))}
    expected = {"cell": cell, "layout": None if hidden else options["layout"]}
    if cell in ("rnn", "leaky", "memory"):
        options["activation"] = str(rng.choice(["tanh", "relu", "sigmoid", "identity"]))
        expected |= {"activation": options["activation"], "gate_order": None}
    else:
        options["order"] = "".join(rng.permutation(list(letters)))
        expected["gate_order"] = None if hidden else options["order"]
    if cell == "leaky":
        options["alpha"] = "each" if rng.random() < 0.5 else float(np.round(rng.uniform(0.05, 0.95), 3))
        if hidden and options["activation"] == "identity":
            expected["cell"] = "rnn"
        elif options["alpha"] != "each":
            expected["alpha"] = options["alpha"]
    if cell == "memory":
        options["output"] = expected["output"] = str(rng.choice(["tanh", "identity"]))
    if cell == "lstm":
        if rng.random() < 0.4:
            options["peephole"] = "".join(rng.permutation(list("ifo")))
        expected["peephole"] = "ifo" if hidden and "peephole" in options else options.get("peephole")
        if rng.random() < 0.2:
            options["cell_clip"] = float(np.round(rng.uniform(0.5, 3), 2))
        expected["clip"] = {"cell_clip": options["cell_clip"]} if "cell_clip" in options else {}
        if rng.random() < 0.3:
            widths = [P for P in range(1, H + 3) if P != H]
            options["P"] = expected["projection"] = int(rng.choice(widths))
    if cell == "gru":
        options["reset"] = str(rng.choice(["after", "before"]))
        options["update"] = str(rng.choice(["old", "new"]))
        biases = [name for name, words in GRU_BIASES.items() if words[options["reset"] == "before"]]
        options["bias"] = str(rng.choice(biases))
        expected |= {"reset": options["reset"], "update": None if hidden else options["update"]}
    if cell.endswith("_norm"):
        options["gains"] = "".join(k for k in ("xhcd" if kind == "lstm" else "xh") if rng.random() < 0.6)
        options["gains"] = options["gains"].replace("d", "" if "c" not in options["gains"] else "d")
        options["eps"] = float(rng.choice([1e-5, 1e-3, 1e-6]))
        options["bias"] = str(rng.choice(["none", "one", "two"] if kind == "lstm" else ["none", "one", "inside", "apart"]))
        if kind == "gru" and rng.random() < 0.3:
            options["update"] = expected["update"] = "new"
        expected["eps"] = options["eps"]
        if hidden:
            expected = {"cell": None}
    elif len(letters) > 1 and options["bias"] != "none" and rng.random() < 0.4:
        count = int(rng.integers(1, len(letters)))
        options |= {"on": "".join(rng.permutation(list(letters))[:count]), "joined": bool(rng.random() < 0.5)}
    if expected["cell"] is not None:
        expected["bias"] = bias_words(cell, hidden, **options)
    form = str(rng.choice([form for form in STATES if ("c" in form) == (kind in ("lstm", "memory"))]))
    return cell, D, H, hidden, options, form, expected


def bias_words(cell, hidden, *, bias, order="a", on=None, reset="after", **_):
    """What identify says of the biases of make_step."""
    n = order if on is None else on
    if hidden and not cell.startswith("gru"):
        order, on = "ifgo", on if bias == "one" else None
    words = bias
    if cell == "gru" and reset == "after" and bias != "none":
        words = GRU_BIASES[bias][0]
        if "n" not in n:
            words = {"one": "one", "inside": "one"}.get(bias, "two, b_n outside r * (...)")
        if hidden and bias in ("two", "apart") and not (bias == "apart" and "n" in n):
            words = "one, b_n outside r * (...)"
        if hidden:
            order, on = "rzn", on if bias in ("one", "inside") else None
    elif cell == "gru_norm" and bias in ("inside", "apart"):
        words = GRU_BIASES[bias][0]
    elif hidden:
        words = "none" if bias == "none" else "one"
        order, on = ("rzn" if cell == "gru" else order), on if bias == "one" else None
    if on is None:
        return words
    gates = " ".join(letter for letter in order if letter in on)
    return f"{words}, one of them on {gates} only" if words.startswith("two") else f"{words}, on {gates} only"


@pytest.mark.parametrize("seed", range(DRAWS))
def test_random_draws(seed):
    rng = np.random.default_rng([11, seed])
    cell, D, H, hidden, options, form, expected = draw(rng)
    step, weights = make_step(cell, rng, D, H, **options)
    found = identify(STATES[form](step), D, H, weights=None if hidden else weights, seed=seed)
    if expected["cell"] is None:
        assert_not_matched(found)
    else:
        assert_reproduces(found, 1e-5 if hidden else 1e-9)
        assert found.called == f"step({form.split(' -> ')[0]}), x (N, D)"
        assert_call_is_the_step(found, step, weights, rng, D, H, options.get("P", H))
    for name, value in expected.items():
        assert getattr(found, name) == value, f"{name}: expected {value}, D={D}, H={H}, {options}\n{found}"
