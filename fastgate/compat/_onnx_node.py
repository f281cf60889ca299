"""What a recurrent ONNX node says, in the words of fastgate; knows nothing of the onnx package.

Conventions of ONNX (operators LSTM, GRU and RNN, versions 1 to 22, https://onnx.ai/onnx/operators): X is (T, N, D), with
layout=1 (N, T, D); W (num_directions, G·H, D) and R (num_directions, G·H, H) are the transposes of Wx and Wh; B
(num_directions, 2·G·H) is b, then bh; P (num_directions, 3H) has the order i o f. Gates stand as iofc, our "iofg", and as zrh,
our "zrn".
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
OPERATORS = {
    "LSTM": Operator("lstm", "iofg", (*_INPUTS, "initial_c", "P"), _LSTM),
    "GRU": Operator("gru", "zrn", _INPUTS, {("sigmoid", "tanh"): {}}),
    "RNN": Operator("rnn", "", _INPUTS, {(name,): {"activation": name} for name in ("tanh", "relu", "sigmoid", "identity")}),
}
_TAKES_ALPHA = {"affine": 1.0, "leakyrelu": 0.01, "thresholdedrelu": 1.0, "scaledtanh": None, "hardsigmoid": 0.2, "elu": 1.0}
_TAKES_BETA = {"affine": 0.0, "scaledtanh": None, "hardsigmoid": 0.5}
_KNOWN = {
    "activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size", "input_forget", "layout",
    "linear_before_reset", "output_sequence",
}  # fmt: skip


def options(op_type: str, attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Keyword arguments of `<cell>_forward`, one dict per direction, `reverse` among them.

    Raises a ValueError that begins with the attribute's name where fastgate does not compute what it asks for.
    """
    operator = OPERATORS[op_type]
    for name in attributes.keys() - _KNOWN:
        raise ValueError(f"{name}: expected an attribute of {op_type}, which has none of this name")
    direction = _text(attributes.get("direction") or "forward")
    reverse = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}.get(direction)
    if reverse is None:
        raise ValueError(f'direction: expected "forward", "reverse" or "bidirectional", got "{direction}"')
    common: dict[str, Any] = {}
    if operator.cell == "gru":
        common["reset"] = "after" if attributes.get("linear_before_reset") else "before"
    if operator.gates:
        common["gate_order"] = operator.gates
    if attributes.get("clip") is not None:
        clip = float(attributes["clip"])
        if operator.cell != "lstm":
            raise ValueError(f"clip: expected no clip, got {clip:g}; {op_type} is computed without")
        if not clip > 0:
            raise ValueError(f"clip: expected a number > 0, got {clip:g}")
        common["preact_clip"] = clip
    if attributes.get("input_forget"):
        common["coupled"] = True
    activations = _activations(op_type, attributes, len(reverse))
    return [common | activation | {"reverse": back} for activation, back in zip(activations, reverse, strict=True)]


def _activations(op_type, attributes, directions):
    """Options of the cell, one dict per direction. alpha and beta go, in turn, to the functions that take one."""
    allowed = OPERATORS[op_type].activations
    first = next(iter(allowed))
    names = [_text(name).lower() for name in attributes.get("activations") or first * directions]
    if op_type == "RNN":  # its default has two, whatever the direction
        names = names[:directions]
    alpha, beta = (iter(attributes.get(f"activation_{name}") or ()) for name in ("alpha", "beta"))
    for k, name in enumerate(names):
        a, b = _next(alpha, _TAKES_ALPHA, name), _next(beta, _TAKES_BETA, name)
        if name == "affine" and (a, b) == (1, 0):
            names[k] = "identity"
    found = [allowed.get(tuple(names[k * len(first) : (k + 1) * len(first)])) for k in range(directions)]
    if len(names) != directions * len(first) or None in found:
        listed = " or ".join("(" + ", ".join(map(_spell, given)) + ")" for given in allowed)
        got = ", ".join(_text(name) for name in attributes["activations"])
        raise ValueError(f"activations: expected {listed} for each of {directions} directions, got ({got})")
    return found


def _next(values: Iterator[float], takes: Mapping[str, float | None], name: str) -> float | None:
    return float(next(values, takes[name] or 0.0)) if name in takes else None


def _spell(name):
    return "Affine with alpha 1, beta 0" if name == "identity" else name.capitalize()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def sizes(op_type: str, arrays: Mapping[str, Any], directions: int, hidden_size: int | None) -> tuple[int, int]:
    """(D, H) of the weights W, R and, where there are any, B and P, whose shapes are judged."""
    G, W, R = OPERATORS[op_type].G, arrays["W"], arrays["R"]
    H = R.shape[-1] if R.ndim == 3 else -1
    D = W.shape[-1] if W.ndim == 3 else -1
    if hidden_size is not None and hidden_size != H:
        raise ValueError(f"hidden_size: expected H = {H} as R, got {hidden_size}")
    shape("R", R, "(num_directions, {}H, H)".format(G if G > 1 else ""), (directions, G * H, H))
    shape("W", W, "(num_directions, {}H, D)".format(G if G > 1 else ""), (directions, G * H, D))
    if arrays.get("B") is not None:
        shape("B", arrays["B"], f"(num_directions, {2 * G}H)", (directions, 2 * G * H))
    if arrays.get("P") is not None:
        shape("P", arrays["P"], "(num_directions, 3H)", (directions, 3 * H))
    return D, H


def shape(name: str, array: Any, letters: str, expected: tuple[int, ...]) -> None:
    if array.shape != expected:
        raise ValueError(f"{name}: expected {letters} = {expected}, got {array.shape}")


def rows(arrays: Mapping[str, Any], direction: int) -> dict[str, Any]:
    """Wx (G·H, D), Wh (G·H, H) and, where given, b, bh (G·H,) and peephole (3H,) of one direction: parts of the arrays."""
    found = {"Wx": arrays["W"][direction], "Wh": arrays["R"][direction]}
    if arrays.get("B") is not None:
        B = arrays["B"][direction]
        found |= {"b": B[: B.shape[0] // 2], "bh": B[B.shape[0] // 2 :]}
    if arrays.get("P") is not None:
        found["peephole"] = arrays["P"][direction]
    return found
