"""Cases of Keras on NumPy and of the evaluator of ONNX for the table of `python -m bench.swap`."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

CASE = tuple[str, Callable[[], Any], Callable[[], Any]]
SHAPES = [(50, 8, 64, 64), (50, 32, 128, 128), (100, 1, 256, 256)]  # T, N, D, H


def keras_cases() -> Iterator[CASE]:
    """Layers of Keras by its own loop over NumPy, and by the hooks; the last with a mask that has holes."""
    os.environ.setdefault("KERAS_BACKEND", "numpy")
    import keras

    from fastgate.compat import keras as ours

    def installed(layer, x, mask):
        ours.install()
        try:
            return np.asarray(layer(x, mask=mask))
        finally:
            ours.uninstall()

    for shape in SHAPES:
        (T, N, D, H), rng = shape, np.random.default_rng(0)
        x = rng.normal(size=(N, T, D)).astype(np.float32)
        for kind in ("LSTM", "GRU"):
            layer = getattr(keras.layers, kind)(H, return_sequences=True)
            layer(x)
            for words, mask in (("", None), (", mask", rng.random((N, T)) < 0.8)):
                yield (
                    f"Keras, {kind}, {shape}, float32{words}, forward",
                    lambda layer=layer, x=x, mask=mask: np.asarray(layer(x, mask=mask)),
                    lambda layer=layer, x=x, mask=mask: installed(layer, x, mask),
                )


def onnx_cases() -> Iterator[CASE]:
    """A model of one node by the evaluator of onnx, with its own operators and with fastgate's."""
    from onnx.reference import ReferenceEvaluator

    import fastgate
    from fastgate.compat.onnx import new_ops
    from fastgate.weights import to_onnx

    for shape in SHAPES:
        T, N, D, H = shape
        x = np.random.default_rng(0).normal(size=(N, T, D)).astype(np.float32)
        for kind in ("LSTM", "GRU", "RNN"):
            model = to_onnx(getattr(fastgate, kind)(D, H, rng=0))
            before, after = ReferenceEvaluator(model), ReferenceEvaluator(model, new_ops=new_ops)
            yield (
                f"ONNX, {kind}, {shape}, float32, forward",
                lambda before=before, x=x: before.run(None, {"x": x})[0],
                lambda after=after, x=x: after.run(None, {"x": x})[0],
            )
