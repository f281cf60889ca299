"""Layers and their weights as other libraries hold them: one layer, one direction, gate after gate.

A Part has its weights as rows, Wx (G·H, D) and Wh (G·H, P), as PyTorch and ONNX do; what Keras holds is its transpose. P, the
width of h, is H but where there is a projection.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import fastgate
from fastgate.layers import _judge
from fastgate.weights._stored import BFLOAT16, Stored

CLASSES = {"rnn": "RNN", "lstm": "LSTM", "gru": "GRU"}
CELLS = {name: cell for cell, name in CLASSES.items()}
GATES = {"rnn": 1, "lstm": 4, "gru": 3}
FLOATS = ("float32", "float64")
# Options of the cells which change what is computed, and their defaults.
PECULIAR = {
    "activation": "tanh", "reset": "after", "update": "old", "candidate": "tanh", "coupled": False, "cell_clip": None,
    "preact_clip": None, "peephole": False, "proj_size": None, "zoneout_h": 0.0, "zoneout_c": 0.0, "delays": None,
    "period": None,
}  # fmt: skip


class Part(NamedTuple):
    """Weights of one layer and direction; arrays or Stored."""

    Wx: Any  # (G·H, D)
    Wh: Any  # (G·H, P)
    b: Any  # (G·H,) or None
    bh: Any  # (G·H,) or None
    peephole: Any = None  # (3H,) or None, of an LSTM, its blocks in the order of the gates
    Wr: Any = None  # (P, H) or None, of an LSTM


def cell_of(layer: Any) -> str:
    """ "rnn", "lstm" or "gru"."""
    for name in CELLS:
        if isinstance(layer, getattr(fastgate, name)):
            return CELLS[name]
    raise TypeError(f"layer: expected a fastgate.RNN, LSTM or GRU, got {type(layer).__name__}")


def judged_layer(layer: Any, options: Mapping[str, Any], **allowed: tuple[Any, ...]) -> None:
    """None or a layer; one that is there, or is to be made with these options, computes what the other library does.

    allowed: what an option of the cell may be, where this is more than its default.
    """
    if layer is not None:
        cell_of(layer)
    for name, default in PECULIAR.items():
        value, known = setting(name, layer, options, default), allowed.get(name, (default,))
        if value not in known:
            words = " or ".join(map(repr, known))
            raise ValueError(f"{'layer' if layer is not None else name}: expected {name}={words}, got {value!r}")


def setting(name: str, layer: Any, options: Mapping[str, Any], default: Any) -> Any:
    """A constructor's argument: that of the layer, or of the one that is to be made."""
    return options.get(name, default) if layer is None else layer.config.get(name, default)


def judged_dtype(arrays: Mapping[str, Any], dtype: Any, layer: Any = None) -> np.dtype:
    """The dtype that all arrays have, or the one asked for; arrays that do not have it are refused unless it is asked for."""
    if dtype is not None:
        dtype = _judge.dtype(dtype)
    wanted = dtype or (None if layer is None else layer.dtype)
    if layer is not None and wanted != layer.dtype:
        raise TypeError(f"dtype: expected {layer.dtype} as the layer, got {wanted}")
    first = None
    for name, array in arrays.items():
        own = getattr(array.dtype, "name", str(array.dtype))
        if own not in (*FLOATS, "float16", BFLOAT16):
            raise TypeError(f"{name}: expected float32 or float64, got {own}")
        if dtype is None and own not in ((str(wanted),) if wanted else FLOATS):
            cast = "float64" if str(wanted) == "float64" else "float32"
            raise TypeError(f"{name}: expected {wanted or 'float32 or float64'}, got {own}; pass dtype=np.{cast} to convert it")
        first = first or (name, own)
        if dtype is None and own != first[1]:
            raise TypeError(f"{name}: expected {first[1]} as {first[0]}, got {own}; pass dtype=np.{first[1]} to convert it")
    return wanted or np.dtype(first[1] if first else "float32")


def assemble(
    cell: str, order: str, parts: Sequence[Sequence[Part]], names: Any, *, dtype: np.dtype, layer: Any,
    options: Mapping[str, Any], transposed: bool = False,
) -> Any:  # fmt: skip
    """A layer with the weights of parts[k][direction], whose gates stand in `order`; or `layer` itself, filled with them.

    names(k, direction, field): what the caller calls that array; transposed: the caller holds the transposes of the matrices.
    Both are for errors. A layer that is given takes the weights when all of them have been read.
    """
    G, (first, *_) = GATES[cell], parts[0]
    matrices = {name: a for name in ("Wh", "Wx", "Wr") if (a := getattr(first, name)) is not None}
    for name, a in matrices.items():
        if a.ndim != 2 or a.shape[-1] < 1:
            got = _turned(a, transposed)
            raise ValueError(f"{names(0, 0, name)}: expected a matrix that is not empty, got {got}")
    D, P = first.Wx.shape[-1], first.Wh.shape[-1]
    H = matrices.get("Wr", first.Wh).shape[-1]
    fields = ("b", "bh", "peephole") if cell == "lstm" else ("b", "bh")
    has = {name: any(getattr(part, name) is not None for row in parts for part in row) for name in fields}
    found = {
        "input_size": D, "hidden_size": H, "num_layers": len(parts), "bidirectional": len(parts[0]) == 2, **has,
        "dtype": dtype.name,
    }  # fmt: skip
    if cell == "lstm":
        found["proj_size"] = P if "Wr" in matrices else None
    for name in options.keys() & found.keys():
        raise ValueError(f"{name}: expected it to be left out, the weights tell it ({found[name]!r}), got {options[name]!r}")
    width = P * len(parts[0]) if setting("merge", layer, options, "concat") == "concat" else P
    GH, letter = "H" if G == 1 else f"{G}H", "P" if "Wr" in matrices else "H"
    for k, row in enumerate(parts):
        expected = {
            "Wx": ((GH, "D"), (G * H, D if k == 0 else width)), "Wh": ((GH, letter), (G * H, P)),
            "b": ((GH,), (G * H,)), "bh": ((GH,), (G * H,)), "peephole": (("3H",), (3 * H,)), "Wr": (("P", "H"), (P, H)),
        }  # fmt: skip
        for direction, part in enumerate(row):
            for field, array in part._asdict().items():
                letters, sizes = expected[field]
                if array is not None and tuple(array.shape) != sizes:
                    if transposed:
                        letters, sizes = letters[::-1], sizes[::-1]
                    words = ", ".join(letters) + "," * (len(letters) == 1)
                    got = _turned(array, transposed)
                    raise ValueError(f"{names(k, direction, field)}: expected ({words}) = {sizes}, got {got}")
    if layer is None:
        filled = _unfilled(getattr(fastgate, CLASSES[cell]), found, options)
    else:
        _judge_layer(layer, cell, found, options)
        filled = _unfilled(getattr(fastgate, CLASSES[cell]), layer.config, {})
    own = filled.config.get("gate_order", "")
    for k, row in enumerate(parts):
        for direction, part in enumerate(row):
            for field, array in part._asdict().items():
                weight = filled.weights.get(f"{field}{k}{'_reverse' * direction}")  # zeros, which stay where others have a bias
                if array is not None and field == "peephole":
                    _place(weight, array, "ifo", order.replace("g", ""))
                elif array is not None:
                    _place(weight.T, array, *("", "") if field == "Wr" else (own, order))
    if layer is None:
        return filled
    layer.parameters[...] = filled.parameters
    return layer


def _turned(array, transposed):
    return tuple(array.shape[::-1] if transposed else array.shape)


def _unfilled(kind, found, options):
    """A layer whose weights are yet to be written: no fresh ones are drawn for it."""
    defaults = {name: p.default for name, p in inspect.signature(kind).parameters.items()}
    for name in options.keys() - defaults.keys():
        raise TypeError(f"{name}: expected an option of fastgate.{kind.__name__}, which has none of this name")
    config = defaults | options | found
    layer, rng = object.__new__(kind), config.pop("rng")
    layer._build(kind._judged(**config), rng)
    return layer


def _judge_layer(layer, cell, found, options):
    if cell_of(layer) != cell:
        raise ValueError(f"layer: expected a fastgate.{CLASSES[cell]}, got a {type(layer).__name__}")
    for name, value in (found | options).items():
        mine = layer.config.get(name)
        if value != mine:
            raise ValueError(f"layer: expected {name}={value!r} as the weights have it, got {mine!r}")


def _place(target, source, own, order):
    """Blocks of the rows of `source`, gates in `order`, to the rows of `target`, gates in the order `own`."""
    H = target.shape[0] // max(len(own), 1)
    for k, gate in enumerate(order or "a"):
        to = own.index(gate) if own else 0
        block = target[to * H : (to + 1) * H]
        if isinstance(source, Stored):
            source[k * H : (k + 1) * H].read_into(block)
        else:
            np.copyto(block, source[k * H : (k + 1) * H], casting="unsafe")


def dismantle(layer: Any, order: str) -> list[list[Part]]:
    """The weights of a layer, copied, parts[k][direction], with gates in `order`."""
    own = layer.config.get("gate_order", "")

    def rows(name):
        if name not in layer.weights:
            return None
        target = np.empty(layer.weights[name].T.shape, layer.dtype)
        if name.startswith("peephole"):
            _place(target, layer.weights[name], order.replace("g", ""), "ifo")
        else:
            _place(target, layer.weights[name].T, *("", "") if name.startswith("Wr") else (order, own))
        return target

    return [
        [
            Part(*(rows(f"{field}{k}{'_reverse' * direction}") for field in Part._fields))
            for direction in range(layer.num_directions)
        ]
        for k in range(layer.num_layers)
    ]
