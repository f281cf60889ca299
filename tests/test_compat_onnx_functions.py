"""ONNX's LSTM, GRU and RNN with any of its functions, alpha, beta and clip: what has no kernel is computed in NumPy."""

import itertools
import math

import numpy as np
import pytest
from support import digest, values

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("fastgate.compat.onnx")

from test_compat_onnx import assert_close, by_runtime, model_of, random_inputs, run, runtime

from fastgate.compat import _onnx_node, _onnx_plain

pytestmark = pytest.mark.beside

FUNCTIONS = {  # one number at a time, as the text of the operators has them
    "Relu": lambda x, alpha, beta: max(0, x),
    "Tanh": lambda x, alpha, beta: math.tanh(x),
    "Sigmoid": lambda x, alpha, beta: 1 / (1 + math.exp(-x)),
    "Affine": lambda x, alpha, beta: alpha * x + beta,
    "LeakyRelu": lambda x, alpha, beta: x if x >= 0 else alpha * x,
    "ThresholdedRelu": lambda x, alpha, beta: x if x >= alpha else 0,
    "ScaledTanh": lambda x, alpha, beta: alpha * math.tanh(beta * x),
    "HardSigmoid": lambda x, alpha, beta: min(max(alpha * x + beta, 0), 1),
    "Elu": lambda x, alpha, beta: x if x >= 0 else alpha * (math.exp(x) - 1),
    "Softsign": lambda x, alpha, beta: x / (1 + abs(x)),
    "Softplus": lambda x, alpha, beta: math.log(1 + math.exp(x)),
}
ALPHA = {"Affine": 1.0, "LeakyRelu": 0.01, "ThresholdedRelu": 1.0, "ScaledTanh": 0.0, "HardSigmoid": 0.2, "Elu": 1.0}
BETA = {"Affine": 0.0, "ScaledTanh": 0.0, "HardSigmoid": 0.5}
PLACES = {"RNN": 1, "GRU": 2, "LSTM": 3}

operators = pytest.mark.parametrize("op_type", ["RNN", "GRU", "LSTM"])
functions = pytest.mark.parametrize("name", FUNCTIONS)


def by_hand(op_type, inputs, activations, alpha=(), beta=(), clip=None, input_forget=0, linear_before_reset=0, reverse=False):
    """(Y, Y_h[, Y_c]) of one direction, layout 0, by the equations of the operators."""
    alpha, beta = iter(alpha), iter(beta)
    chosen = []
    for name in activations:
        a = next(alpha, ALPHA[name]) if name in ALPHA else None
        b = next(beta, BETA[name]) if name in BETA else None
        chosen.append((FUNCTIONS[name], a, b))

    def at(k, v, bound=clip):
        function, a, b = chosen[k]
        v = v if bound is None else [min(max(x, -bound), bound) for x in v]
        return np.array([function(float(x), a, b) for x in v])

    X, W, R, B = inputs["X"], inputs["W"][0], inputs["R"][0], inputs["B"][0]
    T, N, H = *X.shape[:2], R.shape[1]
    G = len(R) // H
    W, R = W.reshape(G, H, -1), R.reshape(G, H, H)
    Wb, Rb = B.reshape(2, G, H)
    P_i, P_o, P_f = inputs["P"].reshape(3, H) if "P" in inputs else np.zeros((3, H))
    lengths = inputs.get("sequence_lens", np.full(N, T))
    Y, Y_h = np.zeros((T, 1, N, H)), inputs["initial_h"].copy()
    Y_c = inputs["initial_c"].copy() if op_type == "LSTM" else None
    for n in range(N):
        for t in range(lengths[n]):
            t = lengths[n] - 1 - t if reverse else t
            x, h = X[t, n], Y_h[0, n]
            if op_type == "RNN":
                h = at(0, W[0] @ x + R[0] @ h + Wb[0] + Rb[0])
            elif op_type == "GRU":
                z = at(0, W[0] @ x + R[0] @ h + Wb[0] + Rb[0])
                r = at(0, W[1] @ x + R[1] @ h + Wb[1] + Rb[1])
                if linear_before_reset:
                    n_t = at(1, W[2] @ x + r * (R[2] @ h + Rb[2]) + Wb[2])
                else:
                    n_t = at(1, W[2] @ x + R[2] @ (r * h) + Rb[2] + Wb[2])
                h = (1 - z) * n_t + z * h
            else:
                c = Y_c[0, n]
                i = at(0, W[0] @ x + R[0] @ h + P_i * c + Wb[0] + Rb[0])
                f = 1 - i if input_forget else at(0, W[2] @ x + R[2] @ h + P_f * c + Wb[2] + Rb[2])
                c = f * c + i * at(1, W[3] @ x + R[3] @ h + Wb[3] + Rb[3])
                o = at(0, W[1] @ x + R[1] @ h + P_o * c + Wb[1] + Rb[1])
                h = o * at(2, c, None)
                Y_c[0, n] = c
            Y[t, 0, n] = Y_h[0, n] = h
    return [Y, Y_h] if Y_c is None else [Y, Y_h, Y_c]


def parameters(names, rng):
    """activation_alpha and activation_beta for the functions that take one, as the numbers of a float32 attribute."""
    found = {"activation_alpha": [name for name in names if name in ALPHA], "activation_beta": [n for n in names if n in BETA]}
    return {key: rng.uniform(0.2, 0.9, len(taking)).astype(np.float32).tolist() for key, taking in found.items() if taking}


@functions
@operators
def test_every_function_at_every_place_is_as_by_hand(op_type, name):
    """With its own parameters and with the defaults, clipped and not, in both directions of time, with lengths."""
    rng = np.random.default_rng(1)
    usual = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}[op_type]
    for k, clip, given, linear in itertools.product(range(PLACES[op_type]), (None, 0.375), (True, False), (0, 1)):
        if linear and op_type != "GRU":
            continue
        activations = [*usual[:k], name, *usual[k + 1 :]]
        inputs = random_inputs(op_type, rng, H=5, lengths=[5, 0, 3])
        if op_type == "LSTM" and given:
            inputs["P"] = values(rng, (1, 15))
        attributes = {"activations": activations} | (parameters(activations, rng) if given else {})
        attributes |= ({} if clip is None else {"clip": clip}) | ({"linear_before_reset": linear} if op_type == "GRU" else {})
        reverse = given is not linear
        expected = by_hand(
            op_type, inputs, activations, attributes.get("activation_alpha", ()), attributes.get("activation_beta", ()), clip,
            linear_before_reset=linear, reverse=reverse,
        )  # fmt: skip
        found = run(op_type, inputs, direction="reverse" if reverse else "forward", **attributes)
        assert_close(found, expected, 1e-12)


@operators
def test_random_nodes_are_as_by_onnx_runtime(op_type):
    """Different functions in each place and direction, alpha and beta handed out in turn."""
    runtime()
    rng = np.random.default_rng(2)
    for case in range(40):
        S = 1 + case % 2
        names = [str(name) for name in rng.choice(list(FUNCTIONS), PLACES[op_type] * S)]
        direction = "bidirectional" if S == 2 else ("forward", "reverse")[case % 4 // 2]
        attributes = {"activations": names, "direction": direction} | parameters(names, rng)
        if case % 3 == 0:
            attributes["clip"] = 0.5
        if op_type == "GRU":
            attributes["linear_before_reset"] = case % 5 % 2
        if op_type == "LSTM" and case % 7 == 0:
            attributes["input_forget"] = 1
        lengths = [3, 1, 2] if case % 4 < 2 else None
        inputs = random_inputs(op_type, rng, dtype=np.float32, S=S, T=3, lengths=lengths, B=case % 8 > 0, states=case % 9 > 0)
        if op_type == "LSTM" and case % 5 == 0:
            inputs["P"] = values(rng, (S, 18), np.float32)
        assert_close(run(op_type, inputs, **attributes), by_runtime(model_of(op_type, inputs, **attributes), inputs), 1e-5)


@operators
def test_without_a_kernel_the_default_functions_give_the_same(op_type, monkeypatch):
    """The evaluator in NumPy against the kernels, with all that a node can have."""
    rng = np.random.default_rng(3)
    options = {
        "RNN": [{}, {"activations": ["Relu"] * 2}, {"activations": ["Affine"] * 2, "activation_alpha": [1.0, 1.0]}],
        "GRU": [{}, {"linear_before_reset": 1}, {"activations": ["Sigmoid"] * 4}],
        "LSTM": [{}, {"clip": 0.4}, {"input_forget": 1}, {"activations": ["Sigmoid", "Sigmoid", "Tanh"] * 2}],
    }[op_type]
    for attributes, layout, full in itertools.product(options, (0, 1), (True, False)):
        inputs = random_inputs(op_type, rng, S=2, layout=layout, B=full, states=full, lengths=[2, 0, 5] if full else None)
        if op_type == "LSTM" and full:
            inputs["P"] = values(rng, (2, 18))
        expected = run(op_type, inputs, layout=layout, direction="bidirectional", **attributes)
        with monkeypatch.context() as patched:
            patched.setattr(_onnx_node, "lacking", lambda *_: "all")
            found = run(op_type, inputs, layout=layout, direction="bidirectional", **attributes)
        assert_close(found, expected, 1e-12)


@operators
def test_names_are_read_in_any_case_and_bytes(op_type):
    inputs = random_inputs(op_type, np.random.default_rng(4))
    names = ["Softsign"] * PLACES[op_type]
    expected = run(op_type, inputs, activations=names)
    for other in ([name.upper() for name in names], [name.lower().encode() for name in names]):
        for a, b in zip(run(op_type, inputs, activations=other), expected, strict=True):
            np.testing.assert_array_equal(a, b)


@operators
def test_padding_is_inert_and_inputs_are_never_written(op_type):
    rng = np.random.default_rng(5)
    attributes = {"activations": ["Elu"] * 2 * PLACES[op_type], "clip": 0.5, "direction": "bidirectional"}
    inputs = random_inputs(op_type, rng, lengths=[5, 0, 2], S=2)
    expected = run(op_type, inputs, **attributes)
    inputs["X"][2:, 2] = np.nan
    inputs["X"][:, 1] = np.nan
    for a in inputs.values():
        a.flags.writeable = False
    before = digest(inputs)
    for a, b in zip(run(op_type, inputs, **attributes), expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert digest(inputs) == before
    assert not expected[0][2:, :, 2].any()
    np.testing.assert_array_equal(expected[1][:, 1], inputs["initial_h"][:, 1])


@operators
def test_empty_sizes_and_outputs_that_nobody_asks_for(op_type):
    rng = np.random.default_rng(6)
    attributes = {"activations": ["Softplus"] * PLACES[op_type]}
    for N, T in ((0, 5), (3, 0), (0, 0)):
        inputs = random_inputs(op_type, rng, N=N, T=T)
        Y, Y_h, *_ = run(op_type, inputs, **attributes)
        assert Y.shape == (T, 1, N, 6)
        np.testing.assert_array_equal(Y_h, inputs["initial_h"])
    inputs = random_inputs(op_type, rng)
    Y, Y_h, *_ = run(op_type, inputs, **attributes)
    np.testing.assert_array_equal(run(op_type, inputs, outputs=["", "Y_h"], **attributes)[0], Y_h)
    np.testing.assert_array_equal(run(op_type, inputs, outputs=["Y"], **attributes)[0], Y)


@functions
def test_huge_inputs_of_a_function(name):
    """Within their limits, and of infinity no NaN but Softsign's; a NaN stays one."""
    a = np.array([-1e30, -800.0, -0.0, 0.0, 800.0, 1e30, np.inf, -np.inf])
    with np.errstate(all="ignore"):
        found, nan = (_onnx_plain.FUNCTIONS[name.lower()](x, 0.5, 0.25) for x in (a, np.array([np.nan])))
    assert found.dtype == np.float64
    assert np.isnan(found).sum() == (2 if name == "Softsign" else 0)  # inf / inf
    ranges = {"Tanh": (-1, 1), "Sigmoid": (0, 1), "HardSigmoid": (0, 1), "ScaledTanh": (-0.5, 0.5), "Softsign": (-1, 1)}
    low, high = ranges.get(name, (-np.inf, np.inf))
    assert ((found[:6] >= low) & (found[:6] <= high)).all()
    assert np.isnan(nan).all()


@operators
def test_errors_are_those_of_the_kernels(op_type):
    rng = np.random.default_rng(7)
    names = {"activations": ["HardSigmoid"] * PLACES[op_type]}
    inputs = random_inputs(op_type, rng, lengths=[5, 2, 4])
    for changed, words, kind in (
        ({"sequence_lens": np.int32([5, 2, 6])}, "lengths: expected 0..T = 0..5, got 6 in row 2", ValueError),
        ({"X": inputs["X"][:, :, :3]}, r"X: expected \(T, N, D\) = \(5, 3, 4\), got \(5, 3, 3\)", ValueError),
        ({name: a.astype(np.float16) for name, a in inputs.items() if a.dtype.kind == "f"},
         "x: expected float32 or float64, got float16", TypeError),
    ):  # fmt: skip
        with pytest.raises(kind, match=words):
            run(op_type, inputs | changed, **names)
    P = PLACES[op_type]
    for attributes, words in (
        ({"activations": ["Swish"] * P}, f"activations: expected {P} of ONNX' functions for each of 1 directions, got"),
        ({"activations": ["Elu"] * (2 * P - 1), "direction": "bidirectional"}, f"activations: expected {P} of ONNX' functions"),
        ({"clip": 0.0}, "clip: expected a number > 0, got 0"),
        ({"clip": float("nan")}, "clip: expected a number > 0, got nan"),
    ):
        with pytest.raises(ValueError, match=words):
            run(op_type, random_inputs(op_type, rng, S=1 + ("direction" in attributes)), **attributes)
