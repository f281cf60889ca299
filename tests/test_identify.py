"""identify names what a step computes, or says that it cannot; it names nothing wrongly.

FASTGATE_DRAWS=500 draws that many cells; the default is a few.
"""

import itertools
import os

import handwritten
import numpy as np
import pytest
from handwritten import LAYOUTS, make_step

import fastgate
from fastgate.check import Identification, identify

DRAWS = int(os.environ.get("FASTGATE_DRAWS", "16"))


# --- identify: weights known ------------------------------------------------------------------------------------------


def assert_reproduces(found: Identification, tolerance=1e-9):
    assert found, str(found)
    assert found.error <= tolerance
    assert found.call.startswith(f"fastgate.{found.cell}_step_forward(")


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


def test_float32_weights():
    step, weights = make_step("lstm", np.random.default_rng(13), 4, 3, order="ogif", dtype=np.float32)
    found = identify(step, 4, 3, weights=weights)
    assert_reproduces(found, 1e-4)
    assert found.gate_order == "ogif"


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
    found = identify(step, 2, 3)
    assert found.cell is None
    assert found.unmatched
    assert not found
    assert not found.call


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
        (TypeError, "weights: expected a dict", (lambda x, h: h, 4, 3), {"weights": [np.ones(3)]}),
        (ValueError, "weights: expected at least one", (lambda x, h: h, 4, 3), {"weights": {}}),
        (ValueError, "weights: expected names", (lambda x, h: h, 4, 3), {"weights": {"a b": np.ones(3)}}),
        (TypeError, r"weights\['W'\]: expected a float32 or float64 array, got int64", (lambda x, h: h, 4, 3), {
            "weights": {"W": np.ones(3, np.int64)}}),
    ],
)  # fmt: skip
def test_bad_calls_of_identify(error, start, arguments, keywords):
    with pytest.raises(error, match=f"^{start}"):
        identify(*arguments, **keywords)


# --- identify: random draws -------------------------------------------------------------------------------------------


def draw(rng):
    """Arguments of make_step, and what identify must answer."""
    cell = str(rng.choice(["rnn", "lstm", "gru"]))
    D, H = (int(n) for n in rng.integers(2, 6, 2))
    hidden = rng.random() < 0.4
    options = {"layout": str(rng.choice(LAYOUTS))}
    expected = {"cell": cell, "layout": None if hidden else options["layout"]}
    if cell == "rnn":
        options |= {
            "activation": str(rng.choice(["tanh", "relu", "sigmoid", "identity"])),
            "bias": str(rng.choice(["none", "one", "two"])),
        }
        expected |= {"activation": options["activation"], "bias": options["bias"], "gate_order": None}
        if hidden and options["bias"] == "two":
            expected["bias"] = "one"
    else:
        options["order"] = "".join(rng.permutation(list("ifgo" if cell == "lstm" else "rzn")))
        expected["gate_order"] = None if hidden else options["order"]
    if cell == "lstm":
        options["bias"] = str(rng.choice(["none", "one", "two"]))
        expected["bias"] = "one" if hidden and options["bias"] == "two" else options["bias"]
        if rng.random() < 0.4:
            options["peephole"] = "".join(rng.permutation(list("ifo")))
        expected["peephole"] = "ifo" if hidden and "peephole" in options else options.get("peephole")
        if rng.random() < 0.2:
            options["cell_clip"] = float(np.round(rng.uniform(0.5, 3), 2))
        expected["clip"] = {"cell_clip": options["cell_clip"]} if "cell_clip" in options else {}
    if cell == "gru":
        options["reset"] = str(rng.choice(["after", "before"]))
        options["update"] = str(rng.choice(["old", "new"]))
        biases = [name for name, words in GRU_BIASES.items() if words[options["reset"] == "before"]]
        options["bias"] = str(rng.choice(biases))
        expected |= {"reset": options["reset"], "update": None if hidden else options["update"]}
        expected["bias"] = GRU_BIASES[options["bias"]][options["reset"] == "before"]
        if hidden:
            known_by = {"two": "one", "two, both outside r * (...)": "one, b_n outside r * (...)"}
            expected["bias"] = known_by.get(expected["bias"], expected["bias"])
    return cell, D, H, hidden, options, expected


@pytest.mark.parametrize("seed", range(DRAWS))
def test_random_draws(seed):
    rng = np.random.default_rng([11, seed])
    cell, D, H, hidden, options, expected = draw(rng)
    step, weights = make_step(cell, rng, D, H, **options)
    found = identify(step, D, H, weights=None if hidden else weights, seed=seed)
    assert_reproduces(found, 1e-5 if hidden else 1e-9)
    for name, value in expected.items():
        assert getattr(found, name) == value, f"{name}: expected {value}, D={D}, H={H}, {options}\n{found}"
