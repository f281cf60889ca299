"""One LSTM, GRU or RNN node as an ONNX model, its weights constants, for the runtimes that read such models.

ONNX weights are `(1, G·H, D)`, gate order iofc (its c is our g) and zrh (its h is our n); `linear_before_reset`
makes the GRU reset after the product. The node takes time-major input, which it is given ready made.
"""

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from ..cases import Case
from . import named, reorder_gates

GATES = {"lstm": "iofg", "gru": "zrn", "rnn": ""}
OPTIONS = {"gru": {"linear_before_reset": 1}}
OPSET, IR_VERSION = 17, 8


def model(case: Case) -> bytes:
    T, N, D, H = case.sizes
    kind = case.cell.upper()

    def constant(name: str, columns: np.ndarray) -> TensorProto:
        ordered = reorder_gates(columns, case.gates, GATES[case.cell])
        return numpy_helper.from_array(np.ascontiguousarray(ordered.T)[None], name)

    b = reorder_gates(case.b, case.gates, GATES[case.cell])
    biases = numpy_helper.from_array(np.concatenate([b, 0 * b])[None], "B")
    weights = [constant("W", case.Wx), constant("R", case.Wh), biases]
    starts = [f"initial_{name[0]}" for name in case.states]
    ends = [f"Y_{name[0]}" for name in case.states]
    lengths = "lengths" if case.lengths is not None else ""
    inputs = ["X", "W", "R", "B", lengths, *starts]
    node = helper.make_node(kind, inputs, ["Y", *ends], hidden_size=H, **OPTIONS.get(case.cell, {}))

    def tensor(name: str, *shape: int, of: int = TensorProto.FLOAT):
        return helper.make_tensor_value_info(name, of, shape)

    graph = helper.make_graph(
        [node],
        case.cell,
        [
            tensor("X", T, N, D),
            *(tensor(name, 1, N, H) for name in starts),
            *([tensor(lengths, N, of=TensorProto.INT32)] if lengths else []),
        ],
        [tensor("Y", T, 1, N, H), *(tensor(name, 1, N, H) for name in ends)],
        weights,
    )
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION).SerializeToString()


def feeds(case: Case) -> dict[str, np.ndarray]:
    values = {"X": np.ascontiguousarray(case.x.swapaxes(0, 1))}
    values |= {f"initial_{name[0]}": state[None] for name, state in case.states.items()}
    if case.lengths is not None:
        values["lengths"] = case.lengths.astype(np.int32)
    return values


def results(case: Case, outputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    Y, *finals = outputs  # Y (T, 1, N, H), finals (1, N, H)
    return named(case, Y[:, 0].swapaxes(0, 1), [final[0] for final in finals])
