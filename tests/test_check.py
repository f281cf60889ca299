"""certify passes what is right and names what is wrong; identify names what a step computes, or says that it cannot.

FASTGATE_DRAWS=500 draws that many cells for identify; the default is a few.
"""

import itertools
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import handwritten
import numpy as np
import pytest
from handwritten import LAYOUTS, RIGHT, WRONG, make_step

import fastgate
from fastgate.__main__ import main
from fastgate.check import Identification, certify, identify

ROOT = Path(__file__).parents[1]
DRAWS = int(os.environ.get("FASTGATE_DRAWS", "16"))
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join([str(Path(fastgate.__file__).parents[1]), str(Path(__file__).parent)])
}


def named(cases):
    return pytest.mark.parametrize("case", cases, ids=[case[0] for case in cases])


# --- certify ----------------------------------------------------------------------------------------------------------


@named(RIGHT)
@pytest.mark.parametrize("seed", [0, 1])
def test_right_pairs_pass(case, seed):
    _, forward, backward, keywords = case
    certificate = certify(forward, backward, **keywords, seed=seed)
    assert certificate.ok, str(certificate)
    assert not certificate.wrong
    assert {"gradients", "repeated calls"} <= {check.name for check in certificate.checks if check.passed}
    assert max(check.error for check in certificate.checks if check.error is not None) < 1e-7


CAUSES = {
    "lstm: dWh transposed": ("dWh", "transposed"),
    "lstm: sign of dWx": ("dWx", "sign"),
    "lstm: mean over the batch": ("dWx", "at T = 1 divided by N"),
    "lstm: weights added to the weight gradient": ("dWx", "Wx itself is added"),
    "lstm: dh_T ignored": ("dWx", "dh_T is ignored"),
    "lstm: dc_T ignored": ("dc0", "dc_T is ignored"),
    "lstm: dc_T counted twice": ("dWh", "dc_T is counted twice"),
    "lstm: dh only added at the last step": ("db", "only the last step's dh arrives"),
    "lstm: db overwritten at every step": ("db", "overwritten at every step"),
    "lstm: db summed over the wrong axis": ("db", "summed over the wrong axis"),
    "lstm: peephole term missing at t = 0": ("dpeephole", "first step's contribution is missing"),
    "lstm: first step left out": ("dWx", "first step's contribution is missing"),
    "lstm: gates swapped": ("db", "gates swapped: block 3 (g) holds 4 (o), block 4 (o) holds 3 (g)"),
    "lstm: tanh' from the pre-activation": ("dWx", "block 3 (g) is wrong; the other gates of 4 are right"),
    "lstm: dx left out": ("dx", "all zero"),
    "lstm: float32 inside": ("h", "rounded to float32"),
    "lstm: rounded to float32 on the way back": ("dWh", "rounded to float32"),
    "gru: sign of dz": ("db", "block 2 (z) is -1 times the right one"),
    "gru: no gradient through r": ("dWx", "block 1 (r) is zero"),
    "gru: direct path of h_prev missing": ("dWx", "right at T = 1"),
}


@named(WRONG)
def test_mistakes_are_caught(case):
    """The wrong gradient is named, and its cause where it is one of CAUSES."""
    name, forward, backward, keywords, what = case
    gates = {"lstm": "ifgo", "gru": "rzn"}.get(name.split(":")[0])
    certificate = certify(forward, backward, **keywords, gates=gates, sizes={"N": 3, "T": 4, "D": 2, "H": 5})
    assert not certificate.ok
    assert what in {finding.what for finding in certificate.findings}, str(certificate)
    assert what in certificate.summary()
    if name in CAUSES:
        what, words = CAUSES[name]
        causes = [finding.cause for finding in certificate.findings if finding.what == what]
        assert any(words in cause for cause in causes), str(certificate)


def test_there_are_enough_of_both():
    assert len(RIGHT) >= 10
    assert len(WRONG) >= 20


@pytest.mark.parametrize("function", [f"{cell}_{step}" for cell in ("rnn", "lstm", "gru") for step in ("", "step_")])
def test_the_functions_of_fastgate_pass(function):
    certificate = certify(getattr(fastgate, f"{function}forward"), getattr(fastgate, f"{function}backward"))
    assert certificate.ok, str(certificate)
    assert not certificate.notes
    does_not_apply = {check.name for check in certificate.checks if check.passed is None}
    if "step" in function:
        assert does_not_apply <= {"T = 1", "first step", "last step", "ragged lengths", "each upstream gradient alone"}
    else:
        assert not does_not_apply


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda g: g._replace(dWx=2 * g.dWx), "twice too large"),
        (lambda g: g._replace(dWx=g.dWx / 5), "divided by T"),
        (lambda g: g._replace(dWx=1.25 * g.dWx), "1.25 times"),
        (lambda g: g._replace(dWx=0 * g.dWx), "all zero"),
        (lambda g: g._replace(dWx=np.roll(g.dWx, 6, axis=1)), "gates swapped"),
        (lambda g: g._replace(dWx=g.dWx[:, ::-1]), ""),
        (lambda g: g._replace(dWx=g.dWx * np.nan), "not finite"),
    ],
)
def test_one_gradient_is_named_and_no_other(change, words):
    certificate = certify(fastgate.lstm_forward, lambda dh, cache, dh_T=None, dc_T=None: change(
        fastgate.lstm_backward(dh, cache, dh_T, dc_T)))  # fmt: skip
    assert set(certificate.wrong) == {"dWx"}
    assert any(words in finding.cause for finding in certificate.findings)


def test_the_right_gradient_by_a_wrong_forward_cache_is_seen_in_chains_only():
    forward, backward = next(case[1:3] for case in WRONG if case[0].startswith("cache that"))
    certificate = certify(forward, backward)
    failed = {check.name for check in certificate.checks if check.passed is False}
    assert failed == {"chained calls", "repeated calls"}


def test_the_default_of_an_upstream_gradient_must_work():
    def backward(dh, cache, dh_T=None):
        return fastgate.gru_backward(dh, cache, dh_T + 0)

    certificate = certify(fastgate.gru_forward, backward)
    assert {finding.what for finding in certificate.findings} == {"dh_T"}


def test_results_in_the_wrong_memory_are_seen():
    held = {}

    def backward(dh, cache):
        result = handwritten.rnn_backward(dh, cache)
        buffer = held.setdefault("dWx", np.zeros_like(result[2]))
        buffer[:] = result[2]
        return *result[:2], buffer, *result[3:]

    certificate = certify(handwritten.rnn_forward, backward)
    assert {finding.words for finding in certificate.findings} == {"is overwritten by the next call of backward"}


def test_a_relu_whose_kink_is_near_passes():
    def forward(x, h0, Wx, Wh, b):
        return fastgate.rnn_forward(x, h0, Wx, Wh, b, activation="relu")

    for seed in range(5):
        assert certify(forward, fastgate.rnn_backward, seed=seed).ok


def test_other_sizes_and_reports():
    options = {"sizes": {"N": 2, "T": 3, "D": 7, "H": 5}, "directions": 2, "tolerance": 1e-7}
    certificate = certify(*handwritten.gru_pair("sign of dz"), **options)
    report = json.loads(json.dumps(certificate.to_dict()))
    assert report["ok"] is False
    assert set(report["wrong"]) == {"dx", "dh0", "dWx", "dWh", "db", "dbh"}
    assert str(certificate) == str(certify(*handwritten.gru_pair("sign of dz"), **options))


def test_functions_that_raise_are_findings():
    def backward(dh, cache):
        if dh.shape[1] == 1:
            raise IndexError("no steps")
        return handwritten.rnn_backward(dh, cache)

    certificate = certify(handwritten.rnn_forward, backward)
    assert [(finding.check, finding.what) for finding in certificate.findings] == [("T = 1", "backward")]
    assert "IndexError: no steps" in str(certificate)


def test_gradients_that_are_not_returned_are_noted():
    def backward(dh, cache):
        return handwritten.rnn_backward(dh, cache)[2:]

    certificate = certify(handwritten.rnn_forward, backward)
    assert certificate.ok
    assert certificate.gradients == ["dWx", "dWh", "db"]
    assert len(certificate.notes) == 2


@pytest.mark.parametrize(
    ("error", "start", "arguments", "keywords"),
    [
        (TypeError, "forward: expected a function", (1, handwritten.rnn_backward), {}),
        (TypeError, "backward: expected a function", (handwritten.rnn_forward, None), {}),
        (ValueError, "forward: no shape is known for its parameter 'q'", (lambda x, q: x, handwritten.rnn_backward), {}),
        (ValueError, "forward: .* worked with none", (lambda x, h0, Wx: x @ h0 @ Wx, handwritten.rnn_backward), {}),
        (ValueError, "sizes: expected any of N, T, D, H, got 'K'", None, {"sizes": {"K": 3}}),
        (ValueError, "sizes: expected N, T, D, H that all differ", None, {"sizes": {"N": 4}}),
        (ValueError, "sizes: expected integers above 1", None, {"sizes": {"N": 1}}),
        (TypeError, "sizes: expected a dict", None, {"sizes": 3}),
        (ValueError, "directions: ", None, {"directions": 0}),
        (ValueError, "tolerance: ", None, {"tolerance": 0}),
        (ValueError, "gates: ", None, {"gates": 0}),
        (ValueError, "gates: ", None, {"gates": ""}),
        (TypeError, "arguments: expected a dict", None, {"arguments": "x"}),
        (ValueError, "arguments: expected names among", None, {"arguments": {"y": "N T D"}}),
        (ValueError, "arguments: expected a shape for", None, {"arguments": {"x": "N T D"}}),
        (ValueError, r"arguments\['x'\]: expected axes", None, {
            "arguments": {"x": "N T K", "h0": "N H", "Wx": "D H", "Wh": "H H", "b": "H"}}),
        (ValueError, "outputs: expected 2 names", None, {"outputs": "h h_T cache"}),
        (ValueError, "upstream: expected parameters of backward", None, {"upstream": {"dy": "h"}}),
        (ValueError, r"upstream\['dh'\]: expected an output", None, {"upstream": {"dh": "y"}}),
        (ValueError, "gradients: expected 5 names", None, {"gradients": "dx dh0"}),
        (ValueError, "gradients: expected names of arguments", None, {"gradients": "dx dh0 dWx dWh dz"}),
    ],
)  # fmt: skip
def test_bad_calls_of_certify(error, start, arguments, keywords):
    with pytest.raises(error, match=f"^{start}"):
        certify(*(arguments or (handwritten.rnn_forward, handwritten.rnn_backward)), **keywords)


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


# --- the command line -------------------------------------------------------------------------------------------------


def test_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from handwritten import rnn_forward as fwd, rnn_backward\n\n\n"
        "def bwd(dh, cache):\n    return rnn_backward(dh, cache)\n\n\n"
        "def bad(dh, cache):\n    dx, dh0, dWx, dWh, db = rnn_backward(dh, cache)\n    return dx, dh0, 2 * dWx, dWh, db\n"
    )
    script = [sys.executable, "-m", "fastgate", "certify", "mine:fwd", "mine:bwd", "--sizes", "N=2,T=3,D=4,H=5"]
    good = subprocess.run(script, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (good.returncode, good.stderr) == (0, "")
    assert "rnn_forward and bwd: right" in good.stdout
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["certify", "mine:fwd", "mine:bad", "--json", "report.json", "--gates", "1"]) == 1
    printed = capsys.readouterr().out
    assert "dWx: differs from finite differences" in printed
    assert "twice too large" in printed
    assert json.loads((tmp_path / "report.json").read_text())["wrong"].keys() == {"dWx"}


def test_a_pair_described_on_the_command_line(capsys):
    shapes = ("params.U=D H", "params.V=H H", "params.bias=H", "x=N T D", "h0=N H")
    options = ["--outputs", "cache h", "--upstream", "dout=h", *(word for shape in shapes for word in ("--argument", shape))]
    assert main(["certify", "handwritten:dict_forward", "handwritten:dict_backward", *options]) == 0
    assert "params.U (D H)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere:fwd", "handwritten:rnn_backward"), "cannot import nowhere"),
        (("handwritten:nothing", "handwritten:rnn_backward"), "handwritten has no nothing"),
        (("handwritten", "handwritten:rnn_backward"), "expected module:function"),
        (("handwritten:rnn_forward", "handwritten:rnn_backward", "--sizes", "N=x"), "expected N=3,T=5,D=4,H=6"),
        (
            ("handwritten:rnn_forward", "handwritten:rnn_backward", "--sizes", "N=4"),
            "sizes: expected N, T, D, H that all differ",
        ),
        (("handwritten:rnn_forward", "handwritten:rnn_backward", "--argument", "x"), "expected name=shape"),
        (("handwritten:rnn_forward", "handwritten:rnn_backward", "--upstream", "dh"), "expected parameter=output"),
        (("handwritten:rnn_forward", "handwritten:rnn_backward", "--json", "nowhere/report.json"), "cannot write"),
    ],
)
def test_errors_of_the_command_line(arguments, words, capsys):
    assert main(["certify", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_import_fastgate_does_not_import_the_kit():
    script = "import sys, fastgate; assert not any(name.startswith('fastgate.check') for name in sys.modules)"
    subprocess.run([sys.executable, "-c", script], env=ENVIRONMENT, check=True)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("certify_a_cell", ["backward: right", "dnext_c: backward writes into it", "the first step's contribution is missing"]),
        ("identify_a_cell", ["lstm, gate order figo", "gru, gate order zrn", "cannot match: gates are hard sigmoid"]),
    ],
)
def test_examples(name, lines, capsys):
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    for line in lines:
        assert line in printed


def test_the_page_runs(capsys):
    page = (ROOT / "docs" / "check.md").read_text(encoding="utf-8")
    names: dict = {}
    for block in page.split("```python\n")[1:]:
        exec(block.split("```")[0], names)
    assert capsys.readouterr().out
