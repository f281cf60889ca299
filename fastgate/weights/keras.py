"""Weights as Keras lists them: layer.get_weights() of SimpleRNN, LSTM, GRU and of Bidirectional around them. Needs no Keras.

[kernel (D, G·H), recurrent_kernel (H, G·H), bias], the bias not there with use_bias=False; Bidirectional lists those of the
forward layer, then those of the backward one. kernel is Wx, recurrent_kernel Wh, in the gate orders "ifgo" and "zrn". bias
(G·H,) is b; a GRU with reset_after=True has (2, 3H), b and bh. Source: keras/src/layers/rnn/{simple_rnn,lstm,gru,
bidirectional}.py of Keras 3.15.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastgate.weights import _layers

ORDERS = {"rnn": "", "lstm": "ifgo", "gru": "zrn"}
ACTIVATIONS = "tanh", "relu", "sigmoid", "identity"  # of SimpleRNN; Keras calls the last one linear
ARRAYS = "kernel", "recurrent_kernel", "bias"


def from_keras(weights: Sequence[Any], *, layer: Any = None, dtype: Any = None, **options: Any) -> Any:
    """A fastgate.RNN, LSTM or GRU with the weights of a Keras layer, or of a stack of them; which it is, the shapes tell.

    weights : keras_layer.get_weights(), or for a stack a list of such lists, from the input on:
        [first.get_weights(), second.get_weights()].
    layer : a layer of just this kind and size to write them into; None makes a new one.
    dtype : converts the weights, np.float32 or np.float64. Without it they keep theirs, and float16 or mixed ones are refused.
    options : of a new layer, what weights do not tell: merge="sum" (Keras' "ave" is "mean"), activation=, dropout=, …

    A GRU's bias tells its reset: (2, 3H) "after", (3H,) "before"; without one it is reset="after", as in Keras, if not given.
    Returns the layer. Raises ValueError for counts and shapes, TypeError for dtypes, naming the array as weights[k] or
    weights[k][j] (kernel, recurrent_kernel or bias); a layer that was given is unchanged then.
    """
    _layers.judged_layer(layer, options, reset=("after", "before"), activation=ACTIVATIONS)
    weights, names = _listed(weights)
    directions = {len(arrays) // 2 if len(arrays) in (2, 4) else len(arrays) // 3 for arrays in weights}
    per = {len(arrays) for arrays in weights}
    if len(per) != 1 or per - {2, 3, 4, 6}:
        counts = sorted(per)
        raise ValueError(f"weights: expected 2 or 3 arrays per layer, 4 or 6 of a Bidirectional, the same in all, got {counts}")
    (two,), (count,) = directions, per
    each = count // two
    arrays = {
        name: array
        for layer_names, row in zip(names, weights, strict=True)
        for name, array in zip(layer_names, row, strict=True)
    }
    Wh = weights[0][1]
    cell = {1: "rnn", 3: "gru", 4: "lstm"}.get(Wh.shape[1] / Wh.shape[0] if Wh.ndim == 2 and Wh.shape[0] else 0)
    if cell is None:
        raise ValueError(f"{names[0][1]}: expected (H, H), (H, 3H) or (H, 4H), got {Wh.shape}")
    if cell == "gru":
        reset = None if each == 2 else "after" if weights[0][2].ndim == 2 else "before"
        given = _layers.setting("reset", layer, options, reset or "after")
        if reset not in (None, given):
            raise ValueError(f'{names[0][2]}: expected the shape for reset="{given}", got {weights[0][2].shape}, of "{reset}"')
        if layer is None:
            options["reset"] = given
    both = cell == "gru" and each == 3 and weights[0][2].ndim == 2

    def part(row, k):
        Wx, Wh, b = row[each * k], row[each * k + 1], row[each * k + 2] if each == 3 else None
        if not both:
            return _layers.Part(Wx.T, Wh.T, b, None)
        if b.shape != (2, 3 * len(Wh)):
            name = next(name for name, array in arrays.items() if array is b)
            raise ValueError(f"{name}: expected (2, 3H) = (2, {3 * Wh.shape[0]}), got {b.shape}")
        return _layers.Part(Wx.T, Wh.T, b[0], b[1])

    parts = [[part(row, k) for k in range(two)] for row in weights]

    def name(k, direction, field):
        return names[k][each * direction + {"Wx": 0, "Wh": 1}.get(field, 2)]

    dtype = _layers.judged_dtype(arrays, dtype, layer)
    return _layers.assemble(cell, ORDERS[cell], parts, name, dtype=dtype, layer=layer, options=options, transposed=True)


def _listed(weights):
    """(a list of arrays per layer, their names for errors), of one layer's list or a list of them."""
    if not isinstance(weights, (list, tuple)) or not weights:
        got = "none" if isinstance(weights, (list, tuple)) else type(weights).__name__
        raise TypeError(f"weights: expected a list of arrays, or of such lists, got {got}{_hint(weights)}")
    for k, row in enumerate(weights):
        if hasattr(row, "get_weights"):
            raise TypeError(f"weights[{k}]: expected an array, or a list of them, got {type(row).__name__}{_hint(row)}")
    one = not isinstance(weights[0], (list, tuple))
    rows = [weights] if one else weights
    names = []
    for k, row in enumerate(rows):
        if not isinstance(row, (list, tuple)):
            raise TypeError(f"weights[{k}]: expected a list of arrays, got {type(row).__name__}")
        each = 3 if len(row) % 3 == 0 else 2
        names.append(
            [
                f"weights[{j}] ({ARRAYS[j % each]})" if one else f"weights[{k}][{j}] ({ARRAYS[j % each]})"
                for j in range(len(row))
            ]
        )
        for name, array in zip(names[k], row, strict=True):
            if not isinstance(array, np.ndarray):
                raise TypeError(f"{name}: expected an array, got {type(array).__name__}")
    return rows, names


def _hint(given):
    """What a layer or a model of Keras has and this takes."""
    if hasattr(given, "layers"):
        return "; pass model.layers[k].get_weights(), of its recurrent layers"
    return "; pass keras_layer.get_weights()" if hasattr(given, "get_weights") else ""


def to_keras(layer: Any) -> list[list[np.ndarray]]:
    """The weights of a layer for Keras, one list per stacked layer, each for set_weights of an LSTM, GRU or SimpleRNN, or of a
    Bidirectional around one:

        for keras_layer, weights in zip(keras_layers, to_keras(layer)):
            keras_layer.set_weights(weights)

    Where Keras has one bias, everywhere but in a GRU with reset_after=True, it is b + bh, added in the layer's dtype. A layer
    without either is use_bias=False. Raises ValueError for options of a cell that Keras does not have, as peephole=True.
    """
    cell = _layers.cell_of(layer)
    _layers.judged_layer(layer, {}, reset=("after", "before"), activation=ACTIVATIONS)
    both = layer.config.get("reset") == "after"
    return [
        [array for part in directions for array in _keras_part(part, both)]
        for directions in _layers.dismantle(layer, ORDERS[cell])
    ]


def _keras_part(part, both):
    weights = [np.ascontiguousarray(part.Wx.T), np.ascontiguousarray(part.Wh.T)]
    given = [bias for bias in (part.b, part.bh) if bias is not None]
    if both and given:
        return [*weights, np.stack([np.zeros_like(given[0]) if bias is None else bias for bias in (part.b, part.bh)])]
    return [*weights, sum(given[1:], start=given[0])] if given else weights
