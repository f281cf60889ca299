"""Weights as PyTorch names them: state dicts of nn.RNN, nn.LSTM, nn.GRU and of their cells. Needs no PyTorch.

weight_ih_l{k} (G·H, D), weight_hh_l{k} (G·H, H) and, of nn.LSTM(proj_size=P), weight_hr_l{k} (P, H) are the transposes of
Wx{k}, Wh{k} and Wr{k}, bias_ih_l{k} and bias_hh_l{k} are b{k} and bh{k}, with _reverse for the second direction; a cell's names
end before _l{k}. Gate orders are ours, "ifgo" and "rzn"; GRU is reset="after". Source: the documentation of torch.nn.LSTM, GRU
and RNN, "Variables".
"""

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastgate.weights import _layers

ORDERS = {"rnn": "", "lstm": "ifgo", "gru": "rzn"}
FIELDS = {"Wx": "weight_ih", "Wh": "weight_hh", "b": "bias_ih", "bh": "bias_hh", "Wr": "weight_hr"}
_NAME = re.compile(r"(weight_ih|weight_hh|bias_ih|bias_hh|weight_hr)(?:_l(0|[1-9]\d{0,3})(_reverse)?)?")


def from_torch(state: Any, prefix: str = "", *, layer: Any = None, dtype: Any = None, **options: Any) -> Any:
    """A fastgate.RNN, LSTM or GRU with the weights of a PyTorch state dict; names and shapes tell which it is, its sizes,
    layers and directions.

    state : mapping of names to arrays or tensors, e.g. module.state_dict(). Tensors are read as they are, copied once.
    prefix : what stands before the names, with its dot: "encoder.rnn.". Names without it belong to other modules and are
        ignored; under it there must be the weights of one module, whole, and nothing else.
    layer : a layer of just this kind and size to write them into; None makes a new one.
    dtype : converts the weights, np.float32 or np.float64. Without it they keep theirs, and float16 or mixed ones are refused.
    options : of a new layer, what weights do not tell: activation="relu", dropout=, gate_order=, …

    Returns the layer. Raises ValueError for names that are missing or not expected, and for shapes, TypeError for dtypes,
    naming the array as `state` does; a layer that was given is unchanged then.
    """
    if not isinstance(state, Mapping):
        hint = ""
        if isinstance(state, (str, os.PathLike)):
            hint = "; load it first, by torch.load(path, weights_only=True)"
        elif hasattr(state, "state_dict"):
            hint = "; pass module.state_dict()"
        raise TypeError(f"state: expected a mapping of names to arrays, got {type(state).__name__}{hint}")
    parts = parts_of(state, prefix, _plain)
    return build(parts, layer, dtype, options)


def parts_of(state: Mapping[str, Any], prefix: str, plain: Any) -> dict[tuple[int, int], dict[str, tuple[str, Any]]]:
    """{(k, direction): {field: (name, plain(name, array))}} of names after the prefix; missing and other names are an error."""
    _judge_prefix(prefix)
    all_names = [name for name in state if isinstance(name, str)]
    found = {name.removeprefix(prefix): state[name] for name in all_names if name.startswith(prefix)}
    parts: dict[tuple[int, int], dict[str, tuple[str, Any]]] = {}
    other = []
    fields = {name: field for field, name in FIELDS.items()}
    for name, array in found.items():
        match = _NAME.fullmatch(name)
        if match:
            part = parts.setdefault((int(match[2] or 0), int(bool(match[3]))), {})
        if match and fields[match[1]] not in part:
            part[fields[match[1]]] = prefix + name, array
        else:  # not a weight, or a cell's name beside that of a module
            other.append(prefix + name)
    if not parts:
        near = sorted({match[1] for name in all_names if (match := re.fullmatch(r"(.*?)weight_hh(_l0)?", name, re.DOTALL))})
        hint = f"; it has some under prefix={_listed(map(repr, near), ' or ')}" if near else ""
        raise ValueError(f"state: expected names as {prefix}weight_ih_l0, got none{hint}")
    there = {field for part in parts.values() for field in part}
    if there & {"b", "bh"}:
        there |= {"b", "bh"}
    wanted = [field for field in FIELDS if field in there | {"Wx", "Wh"}]
    directions = 1 + max(direction for _, direction in parts)
    depth = 1 + max(k for k, _ in parts)
    if depth > len(parts):  # a lone weight_ih_l9999 is not worth 9999 missing names
        depth = next(k for k in range(depth) if (k, 0) not in parts) + 1
    missing = [
        f"{prefix}{FIELDS[field]}_l{k}{'_reverse' * direction}"
        for k in range(depth)
        for direction in range(directions)
        for field in wanted
        if field not in parts.get((k, direction), {})
    ]
    if missing or other:
        words = [f"{_listed(names)} {word}" for names, word in ((missing, "missing"), (other, "not expected")) if names]
        raise ValueError(f"state: expected the weights of one module, got {'; '.join(words)}")
    return {place: {field: (name, plain(name, a)) for field, (name, a) in part.items()} for place, part in parts.items()}


def _judge_prefix(prefix: Any) -> None:
    if not isinstance(prefix, str):
        raise TypeError(f"prefix: expected a str, got {type(prefix).__name__}")


def build(parts: Mapping[tuple[int, int], Mapping[str, tuple[str, Any]]], layer: Any, dtype: Any, options: Any) -> Any:
    """The layer of what parts_of found."""
    if layer is not None:
        _layers.cell_of(layer)
    own = _layers.setting("proj_size", layer, options, None)  # whatever it is: it is held against the weights
    _layers.judged_layer(layer, options, activation=("tanh", "relu"), proj_size=(own,))
    Wh_name, Wh = parts[0, 0]["Wh"]
    ratio = Wh.shape[0] / Wh.shape[1] if Wh.ndim == 2 and Wh.shape[1] else 0
    cell = "lstm" if "Wr" in parts[0, 0] else {1: "rnn", 3: "gru", 4: "lstm"}.get(ratio)
    if cell is None:
        raise ValueError(f"{Wh_name}: expected (H, H), (3H, H) or (4H, H), got {tuple(Wh.shape)}")
    dtype = _layers.judged_dtype(dict(array for part in parts.values() for array in part.values()), dtype, layer)
    depth, directions = 1 + max(k for k, _ in parts), 1 + max(direction for _, direction in parts)
    rows = [
        [
            _layers.Part(**{field: parts[k, direction].get(field, ("", None))[1] for field in FIELDS})
            for direction in range(directions)
        ]
        for k in range(depth)
    ]

    def name(k, direction, field):
        return parts[k, direction][field][0]

    return _layers.assemble(cell, ORDERS[cell], rows, name, dtype=dtype, layer=layer, options=options)


def to_torch(layer: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """The weights of a layer as a PyTorch state dict: names to new arrays, which torch.from_numpy turns into tensors.

        module = torch.nn.LSTM(D, H, num_layers, batch_first=True)      # proj_size=layer.proj_size, where it has one
        module.load_state_dict({name: torch.from_numpy(a) for name, a in to_torch(layer).items()})

    A layer with one of b and bh gives the other as zeros, for PyTorch has both or none (bias=False). Raises ValueError for what
    PyTorch's modules do not compute: options of a cell that is not theirs, as reset="before", an activation other than tanh and
    relu, a merge other than concat. (A proj_size that is not below hidden_size is written; PyTorch has no module for it.)
    """
    cell = _layers.cell_of(layer)
    _judge_prefix(prefix)
    _layers.judged_layer(layer, {}, activation=("tanh", "relu"), proj_size=(layer.config.get("proj_size"),))
    if layer.num_directions == 2 and layer.merge != "concat":
        raise ValueError(f"layer: expected merge='concat', got {layer.merge!r}")
    state = {}
    for k, directions in enumerate(_layers.dismantle(layer, ORDERS[cell])):
        for direction, part in enumerate(directions):
            if part.b is not None or part.bh is not None:
                part = part._replace(
                    **{name: np.zeros(len(part.Wh), layer.dtype) for name in ("b", "bh") if getattr(part, name) is None}
                )
            for field, array in part._asdict().items():
                if array is not None:
                    state[f"{prefix}{FIELDS[field]}_l{k}{'_reverse' * direction}"] = array
    return state


def _plain(name, array):
    """An ndarray of what may be a tensor; a bfloat16 tensor, which has none, by way of float32."""
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        array = _Bfloat16(array) if str(array.dtype) == "torch.bfloat16" else array.numpy()
    if not hasattr(array, "dtype") or not hasattr(array, "shape"):
        raise TypeError(f"{name}: expected an array, got {type(array).__name__}")
    return array


class _Bfloat16:
    """A bfloat16 tensor: what is asked of an array until it is known that it is to be converted."""

    dtype = "bfloat16"

    def __init__(self, tensor):
        self.tensor, self.shape, self.ndim = tensor, tuple(tensor.shape), tensor.ndim

    def __getitem__(self, key):
        return self.tensor[key].float().numpy()


def _listed(names, separator=", "):
    names = list(names)
    return separator.join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
