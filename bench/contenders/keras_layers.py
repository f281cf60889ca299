"""Keras 3: layers.LSTM, GRU, SimpleRNN in a model, by predict_on_batch, on the backend in KERAS_BACKEND or else on
JAX, or else on PyTorch. Forward only.

Keras' weights are ours, `(D, G·H)`, gate orders ifgo and zrn; its GRU resets after the product and has two biases.
"""

import os
from importlib.util import find_spec

import numpy as np

os.environ.setdefault("KERAS_BACKEND", "jax" if find_spec("jax") else "torch")
import keras

from ..cases import Case
from . import Calls, named, reorder_gates, require

NAME = "Keras"
LAYERS = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU, "rnn": keras.layers.SimpleRNN}
GATES = {"lstm": "ifgo", "gru": "zrn", "rnn": ""}


def version() -> str:
    return f"{keras.__version__} on {keras.backend.backend()}"


def prepare(case: Case, threads: int) -> Calls:
    require(NAME, case, LAYERS, training=False, ragged=False, float64=False)
    T, N, D, H = case.sizes
    layer = LAYERS[case.cell](H, return_sequences=True, return_state=True, dtype=case.dtype)
    x = keras.Input(batch_shape=(N, T, D), dtype=case.dtype)
    states = [keras.Input(batch_shape=(N, H), dtype=case.dtype) for _ in case.states]
    model = keras.Model([x, *states], layer(x, initial_state=states))
    Wx, Wh, b = (reorder_gates(weight, case.gates, GATES[case.cell]) for weight in (case.Wx, case.Wh, case.b))
    layer.set_weights([Wx, Wh, np.stack([b, 0 * b]) if case.cell == "gru" else b])
    arrays = [case.x, *case.states.values()]
    return Calls(lambda: model.predict_on_batch(arrays), lambda outputs: named(case, outputs[0], outputs[1:]))
