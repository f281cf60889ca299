"""The arrays of a recurrent ONNX node; knows nothing of the onnx package.

X is (T, N, D), with layout=1 (N, T, D); W (num_directions, G·H, D) and R (num_directions, G·H, H) are the transposes of Wx and
Wh; B (num_directions, 2·G·H) is b, then bh; P (num_directions, 3H) has the order i o f. Attributes: _onnx_node.py.
"""

from collections.abc import Mapping
from typing import Any

from fastgate.compat._onnx_node import OPERATORS


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
