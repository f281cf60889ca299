"""ONNX's LSTM, GRU and RNN on fastgate: its own node tests, ONNX Runtime on random nodes, the evaluator of onnx itself."""

import functools
import importlib
import itertools

import numpy as np
import pytest
from support import digest, values

import fastgate

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
ReferenceEvaluator = pytest.importorskip("onnx.reference").ReferenceEvaluator
helper, TensorProto = onnx.helper, onnx.TensorProto
new_ops, to_layer = (getattr(pytest.importorskip("fastgate.compat.onnx"), name) for name in ("new_ops", "to_layer"))

pytestmark = pytest.mark.beside

G = {"LSTM": 4, "GRU": 3, "RNN": 1}
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")


def random_inputs(op_type, rng, *, N=3, T=5, D=4, H=6, S=1, dtype=np.float64, layout=0, B=True, lengths=None, states=True):
    g = G[op_type]
    found = {
        "X": values(rng, (N, T, D) if layout else (T, N, D), dtype),
        "W": values(rng, (S, g * H, D), dtype, 1 / np.sqrt(D + 1)),
        "R": values(rng, (S, g * H, H), dtype, 1 / np.sqrt(H + 1)),
    }
    if B:
        found["B"] = values(rng, (S, 2 * g * H), dtype, 0.5)
    if lengths is not None:
        found["sequence_lens"] = np.asarray(lengths, np.int32)
    for name in ("initial_h", "initial_c")[: (1 + (op_type == "LSTM")) * states]:
        found[name] = values(rng, (N, S, H) if layout else (S, N, H), dtype, 0.7)
    return found


def node_of(op_type, inputs, outputs=None, **attributes):
    names = [name if name in inputs else "" for name in INPUTS[: 8 if op_type == "LSTM" else 6]]
    while not names[-1]:
        names.pop()
    outputs = outputs or ["Y", "Y_h", "Y_c"][: 2 + (op_type == "LSTM")]
    attributes.setdefault("hidden_size", inputs["R"].shape[-1])
    return helper.make_node(op_type, names, outputs, **attributes)


def model_of(op_type, inputs, outputs=None, opset=22, **attributes):
    node = node_of(op_type, inputs, outputs, **attributes)
    infos = [helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for k, a in inputs.items()]
    kind = helper.np_dtype_to_tensor_dtype(inputs["X"].dtype)
    results = [helper.make_tensor_value_info(name, kind, None) for name in node.output if name]
    graph = helper.make_graph([node], "one", infos, results)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def run(op_type, inputs, ops=new_ops, **attributes):
    model = model_of(op_type, inputs, **attributes)
    return ReferenceEvaluator(model, new_ops=ops).run(None, inputs)


def assert_close(found, expected, atol):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=0, atol=atol * max(1, abs(b).max(initial=0)))


@functools.cache
def node_tests():
    """{name: case} of all that `onnx` has for these operators; each module makes its cases when it is imported."""
    from onnx.backend.test.case import node

    for op_type in G:
        importlib.import_module(f"onnx.backend.test.case.node.{op_type.lower()}")
    return {case.name: case for case in node._NodeTestCases if case.model.graph.node[0].op_type in G}


def test_there_are_node_tests():
    assert 15 <= len(node_tests()) <= 24  # as many as the next test has room for


@pytest.mark.parametrize("k", range(24))
def test_node_tests_of_onnx(k):
    """By their published inputs and outputs."""
    if k >= len(node_tests()):
        pytest.skip(f"onnx {onnx.__version__} has {len(node_tests())}")
    case = node_tests()[sorted(node_tests())[k]]
    evaluator = ReferenceEvaluator(case.model, new_ops=new_ops)
    assert any(isinstance(node, tuple(new_ops)) for node in evaluator.rt_nodes_)
    for inputs, outputs in case.data_sets:
        found = evaluator.run(None, dict(zip(evaluator.input_names, inputs, strict=True)))
        assert_close(found, outputs, case.atol)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op_type", ["LSTM", "GRU", "RNN"])
def test_results_are_those_of_the_evaluator_of_onnx(op_type, direction, layout, dtype):
    rng = np.random.default_rng(1)
    S = 1 + (direction == "bidirectional")
    for B, states, linear, H in itertools.product((True, False), (True, False), (0, 1), (1, 9)):
        if linear and op_type != "GRU":
            continue
        attributes = {"direction": direction, "layout": layout} | ({"linear_before_reset": linear} if op_type == "GRU" else {})
        inputs = random_inputs(op_type, rng, S=S, H=H, dtype=dtype, layout=layout, B=B, states=states)
        found, expected = run(op_type, inputs, **attributes), run(op_type, inputs, None, **attributes)
        assert_close(found, expected, 1e-6 if dtype == np.float32 else 1e-12)


ONNX_RUNTIME = (
    ("LSTM", {}),
    ("LSTM", {"P": True}),
    ("LSTM", {"clip": 0.4, "P": True}),
    ("LSTM", {"input_forget": 1}),
    ("LSTM", {"input_forget": 1, "P": True, "clip": 0.8}),
    ("LSTM", {"activations": ["Sigmoid", "Sigmoid", "Tanh"]}),
    ("GRU", {"linear_before_reset": 1}),
    ("GRU", {"linear_before_reset": 0}),
    ("RNN", {}),
    ("RNN", {"activations": ["Relu"]}),
    ("RNN", {"activations": ["Sigmoid"]}),
    ("RNN", {"activations": ["Affine"], "activation_alpha": [1.0], "activation_beta": [0.0]}),
)


@functools.cache
def runtime():
    return pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")


def by_runtime(model, inputs):
    options = runtime().SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = runtime().InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


@pytest.mark.parametrize("lengths", [None, [5, 2, 4]])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("op_type", "attributes"), ONNX_RUNTIME)
def test_results_are_those_of_onnx_runtime(op_type, attributes, direction, lengths):
    rng = np.random.default_rng(2)
    S = 1 + (direction == "bidirectional")
    attributes = {name: value * S if isinstance(value, list) else value for name, value in attributes.items()}
    peepholes = attributes.pop("P", False)
    for H, D in ((1, 3), (7, 4), (8, 1), (16, 9), (33, 5)):
        for B, states in ((True, True), (False, False)):
            inputs = random_inputs(op_type, rng, S=S, H=H, D=D, dtype=np.float32, lengths=lengths, B=B, states=states)
            if peepholes:
                inputs["P"] = values(rng, (S, 3 * H), np.float32)
            model = model_of(op_type, inputs, direction=direction, **attributes)
            found = ReferenceEvaluator(model, new_ops=new_ops).run(None, inputs)
            assert_close(found, by_runtime(model, inputs), 1e-6)


def test_steps_past_the_length_are_inert():
    rng = np.random.default_rng(3)
    for op_type in G:
        inputs = random_inputs(op_type, rng, lengths=[5, 0, 2], S=2)
        expected = run(op_type, inputs, direction="bidirectional")
        inputs["X"] = inputs["X"].copy()
        inputs["X"][2:, 2] = np.nan
        inputs["X"][:, 1] = np.nan
        for a, b in zip(run(op_type, inputs, direction="bidirectional"), expected, strict=True):
            np.testing.assert_array_equal(a, b)
        assert not expected[0][2:, :, 2].any()
        np.testing.assert_array_equal(expected[1][:, 1], inputs["initial_h"][:, 1])


@pytest.mark.parametrize("op_type", ["LSTM", "GRU", "RNN"])
def test_empty_sizes(op_type):
    rng = np.random.default_rng(4)
    for layout, (N, T) in itertools.product((0, 1), ((0, 5), (3, 0), (0, 0))):
        inputs = random_inputs(op_type, rng, N=N, T=T, layout=layout, S=2)
        Y, *ends = run(op_type, inputs, direction="bidirectional", layout=layout)
        assert Y.shape == ((N, T, 2, 6) if layout else (T, 2, N, 6))
        states = [inputs[name] for name in ("initial_h", "initial_c") if name in inputs]
        for end, state in zip(ends, states, strict=True):
            np.testing.assert_array_equal(end, state)


@pytest.mark.parametrize("op_type", ["LSTM", "GRU", "RNN"])
def test_outputs_that_nobody_asks_for(op_type):
    """They are not computed, and do not become the value of an input that is left out: `onnx` names both ""."""
    rng = np.random.default_rng(5)
    inputs = random_inputs(op_type, rng)
    Y, Y_h, *_ = run(op_type, inputs)
    np.testing.assert_array_equal(run(op_type, inputs, outputs=["Y"])[0], Y)
    np.testing.assert_array_equal(run(op_type, inputs, outputs=["", "Y_h"])[0], Y_h)
    first = node_of(op_type, inputs, ["", "Y_h"])
    again = helper.make_node(op_type, ["X", "W", "R", "", "", "initial_h"], ["Z"], hidden_size=6)
    infos = [helper.make_tensor_value_info(k, TensorProto.DOUBLE, a.shape) for k, a in inputs.items()]
    results = [helper.make_tensor_value_info(k, TensorProto.DOUBLE, None) for k in ("Y_h", "Z")]
    model = helper.make_model(helper.make_graph([first, again], "two", infos, results))
    Z = ReferenceEvaluator(model, new_ops=new_ops).run(["Z"], inputs)[0]
    inputs.pop("B")
    inputs.pop("initial_c", None)
    np.testing.assert_array_equal(Z, run(op_type, inputs, outputs=["Y"])[0])


def test_attributes_of_a_function_are_handed_on():
    rng = np.random.default_rng(6)
    inputs = random_inputs("GRU", rng)
    node = node_of("GRU", inputs)
    del node.attribute[:]
    node.attribute.add(name="linear_before_reset", type=onnx.AttributeProto.INT, ref_attr_name="linear")
    function = helper.make_function(
        "test", "Wrapped", list(inputs), ["Y", "Y_h"], [node], [helper.make_opsetid("", 22)], attributes=["linear"]
    )
    found = ReferenceEvaluator(function, new_ops=new_ops).run(None, inputs, attributes={"linear": 1})
    assert_close(found, run("GRU", inputs, linear_before_reset=1), 0)


def test_inputs_are_never_written():
    rng = np.random.default_rng(7)
    for op_type in G:
        inputs = random_inputs(op_type, rng, S=2, lengths=[5, 2, 4])
        for a in inputs.values():
            a.flags.writeable = False
        before = digest(inputs)
        for result in run(op_type, inputs, direction="bidirectional"):
            result[...] = 7
        assert digest(inputs) == before


NOT_COMPUTED = (
    ("LSTM", {"clip": -1.0}, "clip: expected a number > 0, got -1"),
    ("LSTM", {"activations": ["Sigmoid", "Tanh"]}, "activations: expected 3 of ONNX' functions for each of 1 directions"),
    ("GRU", {"activations": ["Sigmoid", "Swish"]}, "activations: expected 2 of ONNX' functions"),
    ("RNN", {"activations": ["Gelu"]}, "got (Gelu)"),
    ("GRU", {"direction": "sideways"}, 'direction: expected "forward", "reverse" or "bidirectional", got "sideways"'),
    ("GRU", {"hidden_size": 5}, "hidden_size: expected H = 6 as R, got 5"),
    ("GRU", {"peephole": 5}, "peephole: expected an attribute of GRU"),
    ("LSTM", {"direction": "bidirectional"}, "R: expected (num_directions, 4H, H) = (2, 24, 6), got (1, 24, 6)"),
)


@pytest.mark.parametrize(("op_type", "attributes", "words"), NOT_COMPUTED)
def test_what_is_not_computed_is_an_error_that_names_the_attribute(op_type, attributes, words):
    inputs = random_inputs(op_type, np.random.default_rng(8))
    with pytest.raises(ValueError) as error:  # noqa: PT011
        run(op_type, inputs, **attributes)
    assert words in str(error.value)
    assert str(error.value).split(":")[0] in (*attributes, "R")


def test_shapes_and_dtypes_are_judged():
    rng = np.random.default_rng(9)
    good = random_inputs("LSTM", rng, lengths=[5, 2, 4])
    bad = {
        "X": (good["X"][0], "X: expected (T, N, D)"),
        "W": (good["W"][0], "W: expected (num_directions, 4H, D)"),
        "R": (good["R"][:, :-1], "R: expected (num_directions, 4H, H) = (1, 24, 6), got (1, 23, 6)"),
        "B": (good["B"][:, :-1], "B: expected (num_directions, 8H) = (1, 48), got (1, 47)"),
        "initial_h": (good["initial_h"][:, :2], "initial_h: expected (num_directions, N, H) = (1, 3, 6), got (1, 2, 6)"),
        "initial_c": (good["initial_c"][0], "initial_c: expected (num_directions, N, H) = (1, 3, 6), got (3, 6)"),
        "P": (values(rng, (1, 17)), "P: expected (num_directions, 3H) = (1, 18), got (1, 17)"),
        "sequence_lens": (np.int32([5, 2, 6]), "lengths: expected 0..T = 0..5, got 6 in row 2"),
    }
    for name, (array, words) in bad.items():
        with pytest.raises(ValueError) as error:  # noqa: PT011
            run("LSTM", good | {name: array})
        assert str(error.value).startswith(words)
    with pytest.raises(ValueError, match=r"X: expected \(T, N, D\) = \(5, 3, 4\), got \(5, 3, 5\)"):
        run("LSTM", good | {"X": values(rng, (5, 3, 5))})
    half = {name: a.astype(np.float16) if a.dtype.kind == "f" else a for name, a in good.items()}
    with pytest.raises(TypeError, match="x: expected float32 or float64, got float16"):
        run("LSTM", half)


LAYERS = (
    ("LSTM", "forward", {}),
    ("LSTM", "bidirectional", {"layout": 1}),
    ("LSTM", "bidirectional", {"P": True, "clip": 0.7, "activations": ["Sigmoid", "Sigmoid", "Tanh"] * 2}),
    ("GRU", "forward", {"linear_before_reset": 1}),
    ("GRU", "bidirectional", {}),
    ("RNN", "forward", {"activations": ["Relu"]}),
    ("RNN", "bidirectional", {"activations": ["Affine", "Affine"], "activation_alpha": [1.0, 1.0]}),
)


@pytest.mark.parametrize("B", [True, False])
@pytest.mark.parametrize(("op_type", "direction", "attributes"), LAYERS)
def test_a_node_becomes_a_layer(op_type, direction, attributes, B):
    rng = np.random.default_rng(10)
    S, layout = 1 + (direction == "bidirectional"), attributes.get("layout", 0)
    inputs = random_inputs(op_type, rng, S=S, layout=layout, lengths=[5, 0, 3], B=B)
    attributes = dict(attributes)
    if attributes.pop("P", False):
        inputs["P"] = values(rng, (S, 18))
    node = node_of(op_type, inputs, direction=direction, **attributes)
    arrays = {name: inputs[name] for name in ("W", "R", "B", "P") if name in inputs}
    layer = to_layer(node, arrays)
    assert type(layer) is getattr(fastgate, op_type)
    assert (layer.input_size, layer.hidden_size, layer.num_directions, layer.dtype) == (4, 6, S, np.float64)
    again = to_layer(node, [onnx.numpy_helper.from_array(a, name) for name, a in arrays.items()])
    np.testing.assert_array_equal(layer.parameters, again.parameters)
    states = [inputs[name] for name in ("initial_h", "initial_c") if name in inputs]
    states = [state.swapaxes(0, 1) if layout else state for state in states]
    x = inputs["X"] if layout else inputs["X"].swapaxes(0, 1)
    h, *ends, _ = layer.forward(x, *states, lengths=inputs["sequence_lens"])
    Y, *Y_ends = run(op_type, inputs, direction=direction, **attributes)
    Y = Y.reshape(3, 5, S * 6) if layout else Y.transpose(2, 0, 1, 3).reshape(3, 5, S * 6)
    np.testing.assert_array_equal(h, Y)
    for a, b in zip(ends, Y_ends, strict=True):
        np.testing.assert_array_equal(a, b.swapaxes(0, 1) if layout else b)


def test_a_node_that_no_layer_equals():
    rng = np.random.default_rng(11)
    inputs = random_inputs("RNN", rng)
    arrays = {name: inputs[name] for name in ("W", "R", "B")}

    def refused(words, arrays=arrays, kind=ValueError, op_type="RNN", given=inputs, **attributes):
        with pytest.raises(kind) as error:
            to_layer(node_of(op_type, given, **attributes), arrays)
        assert str(error.value).startswith(words)

    refused('direction: expected "forward" or "bidirectional", got "reverse"', direction="reverse")
    refused("clip: expected no clip", clip=1.0)
    known = "activations: expected (Tanh) or (Relu) or (Sigmoid) or (Affine with alpha 1, beta 0) for each direction, got"
    refused(f"{known} (Elu alpha 1)", activations=["Elu"])
    refused(f"{known} (Affine alpha 0.5 beta 0)", activations=["Affine"], activation_alpha=[0.5])
    cells = random_inputs("LSTM", rng)
    weights = {name: cells[name] for name in ("W", "R", "B")}
    refused("input_forget: expected 0, got 1, which no layer has", weights, op_type="LSTM", given=cells, input_forget=1)
    P = values(rng, (1, 18))
    refused("P: expected P among the initializers, got none", weights, op_type="LSTM", given=cells | {"P": P})
    refused("W: expected W among the initializers, got none", arrays={"R": arrays["R"], "B": arrays["B"]})
    refused("B: expected B among the initializers, got none", arrays={"R": arrays["R"], "W": arrays["W"]})
    refused("initial_h: expected zeros as a constant initial_h, got others", arrays=inputs)
    refused("hidden_size: expected H = 6 as R, got 7", hidden_size=7)
    refused("R: expected float32 or float64, got int64", arrays=arrays | {"R": np.ones((1, 6, 6), np.int64)}, kind=TypeError)
    with pytest.raises(ValueError, match="node: expected an LSTM, GRU or RNN, got Relu"):
        to_layer(helper.make_node("Relu", ["X"], ["Y"]), {})
    both = random_inputs("RNN", rng, S=2)
    refused(
        "activations: expected the same in both directions", arrays={name: both[name] for name in ("W", "R", "B")}, given=both,
        direction="bidirectional", activations=["Tanh", "Relu"],
    )  # fmt: skip
    zeros = inputs | {"initial_h": np.zeros_like(inputs["initial_h"])}
    assert to_layer(node_of("RNN", inputs), zeros).hidden_size == 6
