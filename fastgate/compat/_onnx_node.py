"""What a recurrent ONNX node says, in the words of fastgate; knows nothing of the onnx package.

Operators LSTM, GRU and RNN, versions 1 to 22, https://onnx.ai/onnx/operators. Gates stand as iofc, our "iofg", and as zrh, our
"zrn". Arrays: _onnx_weights.py.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Operator(NamedTuple):
    cell: str
    gates: str  # in ONNX' order, in our letters
    inputs: tuple[str, ...]
    activations: dict[tuple[str, ...], dict[str, Any]]  # those of one direction -> options of the cell

    @property
    def G(self) -> int:
        return max(len(self.gates), 1)


_INPUTS = "X", "W", "R", "B", "sequence_lens", "initial_h"
_LSTM: dict[tuple[str, ...], dict[str, Any]]
_LSTM = {("sigmoid", "tanh", "tanh"): {}, ("sigmoid", "sigmoid", "tanh"): {"candidate": "sigmoid"}}
_GRU: dict[tuple[str, ...], dict[str, Any]]
_GRU = {("sigmoid", "tanh"): {}, ("sigmoid", "sigmoid"): {"candidate": "sigmoid"}}
OPERATORS = {
    "LSTM": Operator("lstm", "iofg", (*_INPUTS, "initial_c", "P"), _LSTM),
    "GRU": Operator("gru", "zrn", _INPUTS, _GRU),
    "RNN": Operator("rnn", "", _INPUTS, {(name,): {"activation": name} for name in ("tanh", "relu", "sigmoid", "identity")}),
}
# The functions in the text of the operators; the defaults of their parameters, where there is none, as of ScaledTanh, 0.
_FUNCTIONS = {
    name.lower(): name
    for name in (
        "Relu", "Tanh", "Sigmoid", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu", "Softsign",
        "Softplus",
    )
}  # fmt: skip
_TAKES_ALPHA = {"affine": 1.0, "leakyrelu": 0.01, "thresholdedrelu": 1.0, "scaledtanh": None, "hardsigmoid": 0.2, "elu": 1.0}
_TAKES_BETA = {"affine": 0.0, "scaledtanh": None, "hardsigmoid": 0.5}
_KNOWN = {
    "activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size", "input_forget", "layout",
    "linear_before_reset", "output_sequence",
}  # fmt: skip


class Function(NamedTuple):
    """An activation function: lower case, with the parameters that it takes."""

    name: str
    alpha: float | None
    beta: float | None


class Direction(NamedTuple):
    """What one direction of a node says besides its weights."""

    reverse: bool
    functions: tuple[Function, ...]  # RNN: f; GRU: f g; LSTM: f g h
    clip: float | None
    input_forget: bool
    linear_before_reset: bool


def directions(op_type: str, attributes: Mapping[str, Any]) -> list[Direction]:
    """The attributes of a node, judged: what they cannot say is a ValueError that begins with the name."""
    operator = OPERATORS[op_type]
    for name in attributes.keys() - _KNOWN:
        raise ValueError(f"{name}: expected an attribute of {op_type}, which has none of this name")
    direction = _text(attributes.get("direction") or "forward")
    reverse = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}.get(direction)
    if reverse is None:
        raise ValueError(f'direction: expected "forward", "reverse" or "bidirectional", got "{direction}"')
    clip = None if attributes.get("clip") is None else float(attributes["clip"])
    if clip is not None and not clip > 0:
        raise ValueError(f"clip: expected a number > 0, got {clip:g}")
    common = clip, bool(attributes.get("input_forget")), bool(attributes.get("linear_before_reset"))
    first = next(iter(operator.activations))
    given = [_text(name) for name in attributes.get("activations") or first * len(reverse)]
    names = [name.lower() for name in given]
    if op_type == "RNN":  # its default has two, whatever the direction
        names = names[: len(reverse)]
    if len(names) != len(first) * len(reverse) or any(name not in _FUNCTIONS for name in names):
        wanted = f"{len(first)} of ONNX' functions for each of {len(reverse)} directions"
        raise ValueError(f"activations: expected {wanted}, got ({', '.join(given)})")
    alpha, beta = (iter(attributes.get(f"activation_{name}") or ()) for name in ("alpha", "beta"))
    functions = [Function(name, _next(alpha, _TAKES_ALPHA, name), _next(beta, _TAKES_BETA, name)) for name in names]
    return [Direction(back, tuple(functions[k * len(first) : (k + 1) * len(first)]), *common) for k, back in enumerate(reverse)]


def _next(values: Iterator[float], takes: Mapping[str, float | None], name: str) -> float | None:
    """alpha and beta go, in turn, to the functions that take one."""
    return float(next(values, takes[name] or 0.0)) if name in takes else None


def _activations(direction):
    """The key of Operator.activations."""
    return tuple("identity" if f == ("affine", 1, 0) else f.name for f in direction.functions)


def lacking(op_type: str, direction: Direction) -> str:
    """What no kernel computes of this direction: the words of an error that begins with the attribute's name. "": nothing."""
    operator = OPERATORS[op_type]
    if direction.clip is not None and operator.cell != "lstm":
        return f"clip: expected no clip, got {direction.clip:g}; {op_type} is computed without"
    if _activations(direction) in operator.activations:
        return ""
    listed = " or ".join("(" + ", ".join(map(_spell, given)) + ")" for given in operator.activations)
    got = ", ".join(" ".join((_FUNCTIONS[f.name], *_parameters(f))) for f in direction.functions)
    return f"activations: expected {listed} for each direction, got ({got})"


def _spell(name):
    return "Affine with alpha 1, beta 0" if name == "identity" else name.capitalize()


def _parameters(function):
    return [f"{name} {value:g}" for name, value in zip(("alpha", "beta"), function[1:], strict=True) if value is not None]


def options_of(op_type: str, direction: Direction) -> dict[str, Any]:
    """Keyword arguments of `<cell>_forward` for one direction, of which nothing is lacking; `reverse` among them."""
    operator = OPERATORS[op_type]
    found: dict[str, Any] = {"reverse": direction.reverse}
    if operator.cell == "gru":
        found["reset"] = "after" if direction.linear_before_reset else "before"
    if operator.gates:
        found["gate_order"] = operator.gates
    if direction.clip is not None:
        found["preact_clip"] = direction.clip
    if direction.input_forget and operator.cell == "lstm":
        found["coupled"] = True
    return found | operator.activations[_activations(direction)]


def options(op_type: str, attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """`options_of` each direction; a ValueError where no kernel computes what an attribute asks for."""
    found = directions(op_type, attributes)
    for direction in found:
        if words := lacking(op_type, direction):
            raise ValueError(words)
    return [options_of(op_type, direction) for direction in found]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
