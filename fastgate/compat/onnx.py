"""The ONNX operators LSTM, GRU and RNN on fastgate's kernels, for onnx.reference.ReferenceEvaluator; and to_layer.

    ReferenceEvaluator(model, new_ops=fastgate.compat.onnx.new_ops)

onnx' own evaluator ignores sequence_lens, clip, activations and input_forget. These follow the text of the operators
(https://onnx.ai/onnx/operators, conventions in _onnx_weights.py) and, where it is silent, ONNX Runtime 1.31: steps past a row's
sequence_lens are 0 in Y, and Y_h and Y_c are the states at its own end (of length 0: the initial ones, where ONNX Runtime
has zeros); clip bounds the inputs of the gates' functions, not the cell state; input_forget=1 is f = 1 - i.

A node runs on kernels where there are some for all it asks for: the default activations; Sigmoid as an LSTM's or a GRU's
second; Tanh, Relu, Sigmoid, and Affine with alpha 1 and beta 0 as an RNN's; clip of an LSTM. Any other of ONNX' functions, and
clip of GRU and RNN, is computed in plain NumPy (compat/_onnx_plain.py), which is right and slow. Defaults of alpha and beta are
those of ONNX' operators of these names, Affine's 1 and 0 and ThresholdedRelu's 1, where ONNX Runtime 1.31 has 0; those of
ScaledTanh, which has none, are 0. What is no attribute of the operator is a ValueError that begins with its name.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

import fastgate
from fastgate.compat import _onnx_node, _onnx_plain, _onnx_weights

try:
    import onnx
    from onnx.reference.op_run import OpRun
except ImportError as error:
    raise ImportError('fastgate.compat.onnx needs onnx: pip install "fastgate[onnx]"') from error


class _Recurrent(OpRun):
    op_domain = ""

    def run(self, *args, **keywords):
        """OpRun.run; errors as they were raised. An output without a name stays None, for inputs that are not given."""
        try:
            results = super().run(*args, **keywords)
        except TypeError as error:
            raise error.__cause__ or error from None
        return tuple(array if name else None for name, array in zip(self.onnx_node.output, results, strict=True))

    def _run(
        self, X, W, R, B=None, sequence_lens=None, initial_h=None, initial_c=None, P=None, *, layout=0, hidden_size=None,
        **attributes,
    ):  # fmt: skip
        op_type, wanted = self.onnx_node.op_type, [*map(bool, self.onnx_node.output)]
        directions = _onnx_node.directions(op_type, attributes)
        weights = {"W": W, "R": R, "B": B, "P": P}
        D, H = _onnx_weights.sizes(op_type, weights, len(directions), hidden_size)
        if X.ndim != 3:
            raise ValueError(f"X: expected (T, N, D), or (N, T, D) with layout=1, got {X.shape}")
        N, T = X.shape[:2] if layout else X.shape[1::-1]
        _onnx_weights.shape("X", X, "(N, T, D)" if layout else "(T, N, D)", (N, T, D) if layout else (T, N, D))
        states = {"h": initial_h, "c": initial_c} if op_type == "LSTM" else {"h": initial_h}
        axes = (N, len(directions), H) if layout else (len(directions), N, H)
        for name, state in states.items():
            if state is not None:
                letters = "(N, num_directions, H)" if layout else "(num_directions, N, H)"
                _onnx_weights.shape(f"initial_{name}", state, letters, axes)
        Y = np.empty((N, T, *axes[1:]) if layout else (T, *axes), X.dtype) if wanted[0] else np.empty(0, X.dtype)
        ends = {name: np.empty(axes, X.dtype) for name in states}
        for k, direction in enumerate(directions):
            one = np.index_exp[:, k] if layout else np.index_exp[k]
            out = {f"{name}_T": end[one] for name, end in ends.items()}
            if wanted[0]:
                out["h"] = Y[:, :, k] if layout else Y[:, k].swapaxes(0, 1)
            _one_direction(
                op_type, direction, weights, k, X if layout else X.swapaxes(0, 1),
                *(None if state is None else state[one] for state in states.values()),
                lengths=sequence_lens, return_sequences=wanted[0], out=out,
            )  # fmt: skip
        return (Y, *ends.values())[: len(wanted)]


def _one_direction(op_type, direction, arrays, k, *arguments, **keywords):
    """By the kernel, or in NumPy where there is none."""
    if _onnx_node.lacking(op_type, direction):
        _onnx_plain.forward(op_type, direction, *arguments, **_weights(arrays, k, coupled=False), **keywords)
        return
    options = _onnx_node.options_of(op_type, direction)
    forward = getattr(fastgate, f"{_onnx_node.OPERATORS[op_type].cell}_forward")
    forward(*arguments, **_weights(arrays, k, options.get("coupled", False)), **options, training=False, **keywords)


def _weights(arrays, direction, coupled):
    """The weights of one direction as keyword arguments; peepholes i o f as i f o.

    Coupled gates are f = 1 - i in ONNX and i = 1 - f in fastgate: the same for a_f = -a_i, since sigmoid(-a) = 1 - sigmoid(a).
    """
    found = _onnx_weights.rows(arrays, direction)
    if coupled:
        for name, array in found.items():
            i, o, _, *c = np.split(array, 3 if name == "peephole" else 4)
            found[name] = np.concatenate([i, o, -i, *c])
    if "peephole" in found:
        i, o, f = np.split(found["peephole"], 3)
        found["peephole"] = np.concatenate([i, f, o])
    return {name: array.T for name, array in found.items()}


class LSTM(_Recurrent):
    """LSTM, versions 1 to 22: X, W, R, B, sequence_lens, initial_h, initial_c, P -> Y, Y_h, Y_c. float and double."""


class GRU(_Recurrent):
    """GRU, versions 1 to 22: X, W, R, B, sequence_lens, initial_h -> Y, Y_h. float and double."""


class RNN(_Recurrent):
    """RNN, versions 1 to 22: X, W, R, B, sequence_lens, initial_h -> Y, Y_h. float and double."""


new_ops = [LSTM, GRU, RNN]


def to_layer(node: onnx.NodeProto, initializers: Mapping[str, Any] | Iterable[onnx.TensorProto]) -> Any:
    """The layer (fastgate.LSTM, GRU or RNN) that computes what the node does.

    node : an LSTM, GRU or RNN node, forward or bidirectional.
    initializers : its weights, as graph.initializer, or {name: array}.

    The layer is batch first, whatever the node's layout; a bidirectional one gives h (N, T, 2H), forward's half first.
    sequence_lens and initial states are arguments of layer.forward; constants other than zeros among them are refused, for
    they would be lost. Raises ValueError naming the attribute or input that no layer has. See also fastgate.weights.from_onnx.
    """
    from fastgate import weights

    if not isinstance(initializers, Mapping):
        tensors: Iterable[Any] = initializers
        initializers = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in tensors}
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    return weights.onnx.layer_of(node.op_type, attributes, node.input, initializers)
