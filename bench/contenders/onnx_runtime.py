"""ONNX Runtime: one LSTM, GRU or RNN node, its weights constants, its session built before the timing. Forward only.

ONNX weights are `(1, G·H, D)`, gate order iofc (its c is our g) and zrh (its h is our n); `linear_before_reset`
makes the GRU reset after the product. Its node takes time-major input, which it is given ready made.
"""

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from ..cases import FORWARD, Case, Unsupported
from . import Calls, reorder_gates

NAME = "ONNX Runtime"
GATES = {"lstm": "iofg", "gru": "zrn", "rnn": ""}
OPTIONS = {"gru": {"linear_before_reset": 1}}
OPSET, IR_VERSION = 17, 8


def version() -> str:
    return onnxruntime.__version__


def prepare(case: Case, threads: int) -> Calls:
    if case.cell not in GATES:
        raise Unsupported(f"{NAME} has no {case.cell}")
    if case.what != FORWARD:
        raise Unsupported(f"{NAME} runs forward only")
    if case.x.dtype != np.float32:
        raise Unsupported(f"{NAME} has these cells in float32 only")
    session = onnxruntime.InferenceSession(model(case), session_options(threads), providers=["CPUExecutionProvider"])
    feeds = {"X": np.ascontiguousarray(case.x.swapaxes(0, 1))}
    feeds |= {f"initial_{name[0]}": state[None] for name, state in case.states.items()}

    def results(outputs: list[np.ndarray]) -> dict[str, np.ndarray]:
        Y, *finals = outputs  # Y (T, 1, N, H), finals (1, N, H)
        names = [f"{name[0]}_T" for name in case.states]
        return {"h": Y[:, 0].swapaxes(0, 1)} | {name: final[0] for name, final in zip(names, finals, strict=True)}

    return Calls(lambda: session.run(None, feeds), results)


def session_options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return options


def model(case: Case) -> bytes:
    T, N, D, H = case.sizes
    kind = case.cell.upper()

    def constant(name: str, columns: np.ndarray) -> TensorProto:
        ordered = reorder_gates(columns, case.gates, GATES[case.cell]) if case.gates else columns
        return numpy_helper.from_array(np.ascontiguousarray(ordered.T)[None], name)

    weights = [constant("W", case.Wx), constant("R", case.Wh)]
    b = constant("B", case.b)
    weights.append(numpy_helper.from_array(np.concatenate([b_ := numpy_helper.to_array(b), 0 * b_], -1), "B"))
    starts = [f"initial_{name[0]}" for name in case.states]
    ends = [f"Y_{name[0]}" for name in case.states]
    node = helper.make_node(kind, ["X", "W", "R", "B", "", *starts], ["Y", *ends], hidden_size=H, **OPTIONS.get(case.cell, {}))

    def tensor(name: str, *shape: int):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        [node],
        case.cell,
        [tensor("X", T, N, D), *(tensor(name, 1, N, H) for name in starts)],
        [tensor("Y", T, 1, N, H), *(tensor(name, 1, N, H) for name in ends)],
        weights,
    )
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION).SerializeToString()
