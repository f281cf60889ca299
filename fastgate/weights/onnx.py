"""Weights of ONNX models: their LSTM, GRU and RNN nodes become layers, layers become models.

Reading needs no onnx package: the few messages of onnx.proto that hold a recurrent node and its weights are looked up in the
file, the weights read straight into the layer. Conventions of the operators: compat/_onnx_node.py, _onnx_weights.py. Source:
onnx/onnx.proto.
"""

import os
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from fastgate.compat import _onnx_node, _onnx_weights
from fastgate.weights import _layers
from fastgate.weights._protobuf import BYTES, Message
from fastgate.weights._stored import BFLOAT16, Stored, opened

_DTYPES = {1: "float32", 11: "float64", 10: "float16", 16: BFLOAT16}  # TensorProto.DataType
_ACTIVATIONS = {"tanh": "Tanh", "relu": "Relu", "sigmoid": "Sigmoid", "identity": "Affine"}
_VALUES = {"clip": 2, "direction": 4, "activation_alpha": 7, "activation_beta": 7, "activations": 9}  # fields; others: i = 3
_MOST_NODES = 256
_MOST_SHARED = 2**25  # bytes of weights beyond those of the files: arrays that are used twice
_MOST_PARTS = 32  # attributes, inputs, dimensions, …: of any list that is kept


def from_onnx(source: Any, node: Any = None, *, layer: Any = None, dtype: Any = None, **options: Any) -> Any:
    """A fastgate.RNN, LSTM or GRU that computes what recurrent nodes of an ONNX model compute.

    source : path of the model, its bytes, or an onnx.ModelProto.
    node : name of the LSTM, GRU or RNN node, or of its first output that has one; a list of names, from the input on, makes a
        stack. None: the one that there is.
    layer : a layer of just this kind and size to write the weights into; None makes a new one.
    dtype : converts the weights, np.float32 or np.float64. Without it they keep theirs, and float16 and bfloat16 are refused.
    options : of a new layer, what nodes do not tell: merge=, dropout=, gate_order=, …

    The layer is batch first, whatever the node's layout; sequence_lens and initial states are arguments of layer.forward, and
    constants other than zeros among them are refused, for they would be lost. What stands between nodes of a stack is not
    looked at. Data in other files (external_data) is read from below the directory of the model only.

    Raises ValueError naming the attribute or input that no layer has, for files that are cut short or lie about sizes, and for
    weights that the model computes instead of storing; TypeError for dtypes; a layer that was given is unchanged then.
    """
    if layer is not None:
        _layers.cell_of(layer)
    directory = os.path.dirname(os.path.abspath(source)) if isinstance(source, (str, os.PathLike)) else None
    if hasattr(source, "SerializeToString"):
        source = source.SerializeToString()
    with opened(source, "an ONNX model") as (file, size):
        graphs = [field for field in Message(file, 0, size) if field.number == 7]
        if len(graphs) != 1:
            raise ValueError("source: expected an ONNX model, got a file without a graph")
        graph = Message(file, 0, size).inner(graphs[0])
        chosen = [_node(message) for message in _chosen(_recurrent(graph), node)]
        wanted = {name for _, _, inputs in chosen for name in inputs[1:] if name}
        files: dict[str, Any] = {}
        try:
            arrays = _tensors(graph, wanted, directory, files)
            every: dict[str, Any] = {}
            parts = [_parts(op_type, attributes, inputs, arrays, every) for op_type, attributes, inputs in chosen]
            stored = [array for _, _, row, *_ in parts for part in row for array in part if array is not None]
            used, held = sum(prod(a.shape) * a.itemsize for a in stored), size + sum(bytes for _, bytes in files.values())
            if used > held + _MOST_SHARED:
                raise ValueError(f"source: expected weights that are stored once, got {used} bytes of them from {held}")
            return _built(parts, every, layer, dtype, options)
        finally:
            for other, _ in files.values():
                other.close()


def layer_of(op_type: str, attributes: Mapping[str, Any], inputs: Sequence[str], arrays: Mapping[str, Any]) -> Any:
    """The layer of one node: its type, attributes, names of inputs, and {name: array} of what is known of them."""
    every: dict[str, Any] = {}
    return _built([_parts(op_type, attributes, inputs, arrays, every)], every, None, None, {})


def _parts(op_type, attributes, inputs, arrays, every):
    """(cell, gate order, [Part per direction], options, names for errors) of a node; its weights come into `every` by name."""
    if op_type not in _onnx_node.OPERATORS:
        raise ValueError(f"node: expected an LSTM, GRU or RNN, got {op_type}")
    operator = _onnx_node.OPERATORS[op_type]
    given = {name: value for name, value in zip(operator.inputs, inputs, strict=False) if value}
    held = {name: arrays.get(given[name]) for name in ("W", "R", "B", "P") if name in given}
    for name in ("W", "R", *held):
        if held.get(name) is None:
            raise ValueError(f"{given.get(name, name)}: expected {name} among the initializers, got none")
    for name in ("initial_h", "initial_c"):
        state = arrays.get(given.get(name))
        if state is not None and state.any():
            raise ValueError(f"{given[name]}: expected zeros as a constant {name}, got others; layers take states in forward")
    directions = _onnx_node.options(op_type, attributes)
    if "coupled" in directions[0]:  # f = 1 - i, where layers have i = 1 - f
        raise ValueError("input_forget: expected 0, got 1, which no layer has")
    _onnx_weights.sizes(op_type, held, len(directions), attributes.get("hidden_size"))
    every |= {given[name]: array for name, array in held.items()}
    rows = [_onnx_weights.rows(held, k) for k in range(len(directions))]
    options = [{name: value for name, value in one.items() if name not in ("reverse", "gate_order")} for one in directions]
    if directions[0]["reverse"]:
        raise ValueError('direction: expected "forward" or "bidirectional", got "reverse", which no layer has')
    if any(one != options[0] for one in options):
        raise ValueError("activations: expected the same in both directions, which a layer has in common")
    parts = [_layers.Part(*(row.get(field) for field in _layers.Part._fields)) for row in rows]
    return operator.cell, operator.gates, parts, options[0], given


def _built(parts, every, layer, dtype, options):
    cell, order, _, found, _ = parts[0]
    for other, _, row, own, names in parts:
        if (other, own, len(row)) != (cell, found, len(parts[0][2])):
            raise ValueError(f"node: expected nodes of one kind and direction, got others at {names['R']}")
    for name in options.keys() & found.keys():
        raise ValueError(f"{name}: expected it to be left out, the node tells it ({found[name]!r}), got {options[name]!r}")

    allowed = {name: (value,) for name, value in found.items()} | {"peephole": (False, True)}
    _layers.judged_layer(layer, found | options, **allowed)

    def name(k, direction, field):
        return f"{parts[k][4][{'Wx': 'W', 'Wh': 'R', 'peephole': 'P'}.get(field, 'B')]}[{direction}]"

    dtype = _layers.judged_dtype(every, dtype, layer)
    rows = [part[2] for part in parts]
    return _layers.assemble(cell, order, rows, name, dtype=dtype, layer=layer, options=found | options)


# --- onnx.proto: ModelProto.graph = 7; GraphProto.node = 1, initializer = 5; the numbers of the others stand with their readers


def _recurrent(graph):
    """[(what to call it, op_type, its message)] of recurrent nodes: NodeProto.output = 2, name = 3, op_type = 4, domain = 7."""
    found = []
    for field in graph:
        if field.number != 1:
            continue
        message = graph.inner(field)
        texts = {}
        for part in message:
            if part.number in (2, 3, 4, 7) and part.wire == BYTES and not texts.get(part.number):
                texts[part.number] = message.text(part)
        if texts.get(4) in _onnx_node.OPERATORS and texts.get(7, "") in ("", "ai.onnx"):
            if len(found) == _MOST_NODES:
                raise ValueError(f"source: expected at most {_MOST_NODES} recurrent nodes, got more")
            found.append((texts.get(3) or texts.get(2, ""), texts[4], message))
    return found


def _chosen(nodes, wanted):
    called = [name for name, _, _ in nodes]
    listed = ", ".join(f"{op_type} {name!r}" for name, op_type, _ in nodes) or "none"
    if wanted is None and len(nodes) != 1:
        raise ValueError(f"node: expected the name of one, or a list of names; the recurrent nodes are: {listed}")
    if not isinstance(wanted, (str, list, tuple, type(None))):
        raise TypeError(f"node: expected a name, a list of names or None, got {type(wanted).__name__}")
    chosen = called if wanted is None else [wanted] if isinstance(wanted, str) else wanted
    for name in chosen:
        if called.count(name) != 1:
            raise ValueError(f"node: expected the name of one node, got {name!r}; the recurrent nodes are: {listed}")
    if not chosen:
        raise ValueError("node: expected a name or a list of names, got none")
    return [nodes[called.index(name)][2] for name in chosen]


def _node(message):
    """(op_type, attributes, inputs): NodeProto.input = 1, op_type = 4, attribute = 5."""
    inputs, op_type, attributes = [], "", {}
    for field in message:
        if field.number == 1:
            _add(inputs, message.text(field))
        elif field.number == 4:
            op_type = message.text(field)
        elif field.number == 5:
            key, value = _attribute(message.inner(field))
            attributes[key] = value
    return op_type, attributes, inputs


def _add(parts, *more):
    parts += more
    if len(parts) > _MOST_PARTS:
        raise ValueError(f"source: expected at most {_MOST_PARTS} parts in a list of a node or tensor, got more")


def _attribute(message):
    """(name, value): AttributeProto.name = 1; f = 2, i = 3, s = 4, floats = 7, strings = 9, of which the name tells the one."""
    name, found = "", {2: 0.0, 3: 0, 4: "", 7: [], 9: []}
    for field in message:
        if field.number == 1:
            name = message.text(field)
        elif field.number == 2:
            found[2] = message.one_float(field)
        elif field.number == 3:
            found[3] = message.one_integer(field)
        elif field.number == 4:
            found[4] = message.text(field)
        elif field.number == 7:
            _add(found[7], *message.floats(field))
        elif field.number == 9:
            _add(found[9], message.text(field))
    return name, found[_VALUES.get(name, 3)]


def _tensors(graph, wanted, directory, files):
    """{name: Stored} of the initializers and Constant nodes among `wanted`."""
    found = {}
    for field in graph:
        if field.number == 5:
            tensor = graph.inner(field)
            name = next((tensor.bytes(part) for part in tensor if part.number == 8), b"").decode("utf-8", "replace")
        elif field.number == 1:
            name, tensor = _constant(graph.inner(field))
        else:
            continue
        if name in wanted:
            found[name] = _tensor(name, tensor, directory, files)
    return found


def _constant(message):
    """(name of the output, its tensor) of a Constant node; AttributeProto.t = 5."""
    op_type, output, tensor = "", None, None
    for field in message:
        if field.number == 2 and output is None:
            output = message.text(field)
        elif field.number == 4:
            op_type = message.text(field)
        elif field.number == 5 and tensor is None:
            attribute = message.inner(field)
            tensor = next((attribute.inner(part) for part in attribute if part.number == 5), None)
    return (output, tensor) if op_type == "Constant" and tensor is not None else (None, None)


def _tensor(name, message, directory, files):
    """The Stored of a TensorProto: dims = 1, data_type = 2, float_data = 4, raw_data = 9, double_data = 10, external = 13."""
    shape, kind, external, stores = [], 0, {}, []
    for field in message:
        if field.number == 1:
            _add(shape, *message.integers(field))
        elif field.number == 2:
            kind = message.one_integer(field)
        elif field.number in (4, 9, 10):
            _add(stores, field)
        elif field.number == 13:
            key, value = "", ""
            entry = message.inner(field)
            for part in entry:
                key, value = (entry.text(part), value) if part.number == 1 else (key, entry.text(part))
            external[key[:20]] = value
    if kind not in _DTYPES:
        raise TypeError(f"{name}: expected float or double, got TensorProto.DataType {kind}")
    if len(shape) > 8 or any(size < 0 for size in shape):
        raise ValueError(f"{name}: expected a shape, got {tuple(shape[:9])}")
    if external:
        file, start, size = _external(name, external, directory, files)
    elif len(stores) == 1 and stores[0].wire == BYTES and stores[0].number in (9, {1: 4, 11: 10}.get(kind, 9)):
        file, start, size = message.file, stores[0].start, stores[0].size
    elif not stores and 0 in shape:
        file, start, size = message.file, 0, 0
    else:
        raise ValueError(f"{name}: expected its data in one piece, as raw_data, float_data or double_data")
    stored = Stored(file, start, tuple(shape), _DTYPES[kind])
    if prod(shape) * stored.itemsize != size:
        raise ValueError(f"{name}: expected {prod(shape) * stored.itemsize} bytes for {tuple(shape)}, got {size}")
    return stored


def _external(name, entries, directory, files):
    """(file, offset, bytes) of data in another file, which has to lie in the directory of the model or below it."""
    location = entries.get("location", "")
    if directory is None:
        raise ValueError(f"{name}: expected its data in the model, got it in the file {location!r}; pass the model's path")
    path = os.path.realpath(os.path.join(directory, location))
    if not location or os.path.commonpath([path, os.path.realpath(directory)]) != os.path.realpath(directory):
        raise ValueError(f"{name}: expected data below the directory of the model, got {location!r}")
    if path not in files:
        if not os.path.isfile(path):
            raise ValueError(f"{name}: expected its data in the file {location!r}, got none there")
        files[path] = open(path, "rb"), os.path.getsize(path)
    file, size = files[path]
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", size - int(entries.get("offset", 0))))
    except ValueError:
        raise ValueError(f"{name}: expected numbers as offset and length, got {entries}") from None
    if not 0 <= offset <= offset + length <= size:
        raise ValueError(f"{name}: expected data within the {size} bytes of {location!r}, got {length} from {offset} on")
    return file, offset, length


def to_onnx(layer: Any, *, lengths: bool = False, states: bool = False, opset: int = 22) -> Any:
    """The layer as an onnx.ModelProto: input x (N, T, D), outputs h (N, T, output_size), h_T and, of an LSTM, c_T.

    lengths=True adds an input lengths (N,) int32; states=True the inputs h0 and, of an LSTM, c0. Axes, names and the order of
    layers and directions in the states are those of layer.forward. One LSTM, GRU or RNN node per stacked layer; dropout, which
    is of training, is left out. opset : 18 to 22. Needs onnx (the extra "onnx"); ImportError without.
    """
    try:
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise ImportError('to_onnx needs onnx: pip install "fastgate[onnx]"') from error
    if not isinstance(opset, int) or not 18 <= opset <= 22:
        raise ValueError(f"opset: expected 18..22, got {opset!r}")
    cell = _layers.cell_of(layer)
    every = {
        "reset": ("after", "before"),
        "activation": tuple(_ACTIVATIONS),
        "candidate": ("tanh", "sigmoid"),
        "peephole": (False, True),
    }
    _layers.judged_layer(layer, {}, **every, preact_clip=(None, layer.config.get("preact_clip")))
    op_type = _layers.CLASSES[cell]
    operator = _onnx_node.OPERATORS[op_type]
    merge = layer.merge
    kind = TensorProto.FLOAT if layer.dtype == np.float32 else TensorProto.DOUBLE
    nodes: list[Any] = []
    weights: list[Any] = []
    ends: dict[str, list[str]] = {"h": [], "c": []} if cell == "lstm" else {"h": []}

    def node(name, inputs, output, **attributes):
        nodes.append(helper.make_node(name, inputs, [output] if isinstance(output, str) else output, **attributes))

    def constant(name, array):
        weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    S, width = layer.num_directions, layer.hidden_size
    attributes: dict[str, Any] = {"hidden_size": width, "direction": "bidirectional" if S == 2 else "forward"}
    if cell == "gru":
        attributes["linear_before_reset"] = int(layer.config["reset"] == "after")
    if cell == "rnn":
        attributes["activations"] = [_ACTIVATIONS[layer.config["activation"]]] * S
        if layer.config["activation"] == "identity":
            attributes |= {"activation_alpha": [1.0] * S, "activation_beta": [0.0] * S}
    if layer.config.get("candidate") == "sigmoid":
        attributes["activations"] = {"lstm": ["Sigmoid", "Sigmoid", "Tanh"], "gru": ["Sigmoid", "Sigmoid"]}[cell] * S
    if layer.config.get("preact_clip") is not None:
        attributes["clip"] = layer.config["preact_clip"]
    node("Transpose", ["x"], "x0", perm=[1, 0, 2])
    for k, parts in enumerate(_layers.dismantle(layer, operator.gates)):
        inputs = [
            f"x{k}",
            constant(f"W{k}", np.stack([part.Wx for part in parts])),
            constant(f"R{k}", np.stack([part.Wh for part in parts])),
        ]
        given = any(bias is not None for bias in (parts[0].b, parts[0].bh))
        zeros = np.zeros(operator.G * width, layer.dtype)
        biases = [np.concatenate([zeros if bias is None else bias for bias in (part.b, part.bh)]) for part in parts]
        inputs += [constant(f"B{k}", np.stack(biases)) if given else "", "lengths" if lengths else ""]
        for name in ends:
            first = f"{name}0_{k}" if states else ""
            inputs.append(first)
            ends[name].append(f"{name}_T{k}")
            if states:
                bounds = [
                    constant(f"{first}_{word}", np.array([number])) for word, number in (("from", k * S), ("to", (k + 1) * S))
                ]
                node("Slice", [f"{name}0", *bounds, constant(f"{first}_axis", np.array([0]))], first)
        if parts[0].peephole is not None:
            inputs += [""] * (7 - len(inputs)) + [constant(f"P{k}", np.stack([part.peephole for part in parts]))]
        node(op_type, inputs, [f"Y{k}", *(names[-1] for names in ends.values())], **attributes)
        if merge == "concat" or S == 1:  # Y is (T, S, N, H)
            node("Transpose", [f"Y{k}"], f"y{k}", perm=[0, 2, 1, 3])
            node("Reshape", [f"y{k}", constant(f"shape{k}", np.array([0, 0, S * width]))], f"x{k + 1}")
        else:
            reduce = {"sum": "ReduceSum", "mean": "ReduceMean", "mul": "ReduceProd"}[merge]
            node(reduce, [f"Y{k}", constant(f"axis{k}", np.array([1]))], f"x{k + 1}", keepdims=0)
    node("Transpose", [f"x{layer.num_layers}"], "h", perm=[1, 0, 2])
    for name, names in ends.items():
        node("Concat", names, f"{name}_T", axis=0)
    info, state = helper.make_tensor_value_info, [layer.num_layers * S, "N", width]
    graph = helper.make_graph(
        nodes,
        "fastgate",
        [
            info("x", kind, ["N", "T", layer.input_size]),
            *([info("lengths", TensorProto.INT32, ["N"])] if lengths else []),
            *(info(f"{name}0", kind, state) for name in ends if states),
        ],
        [info("h", kind, ["N", "T", layer.output_size]), *(info(f"{name}_T", kind, state) for name in ends)],
        weights,
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, producer_name="fastgate", opset_imports=opsets, ir_version=10)  # that of opset 22
