"""Cases of Keras on NumPy and of the evaluator of ONNX for the table of `python -m bench.swap`; alone, prints their ratios.

python -m bench.swap_imports
"""

import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .timer import measure, ratio

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

    for T, N, D, H in SHAPES:
        rng = np.random.default_rng(0)
        x = rng.normal(size=(N, T, D)).astype(np.float32)
        for kind in ("LSTM", "GRU"):
            layer = getattr(keras.layers, kind)(H, return_sequences=True)
            layer(x)
            for words, mask in (("", None), (", mask", rng.random((N, T)) < 0.8)):
                yield (
                    f"Keras {kind}{words} (T, N, D, H) = {T, N, D, H}",
                    lambda layer=layer, x=x, mask=mask: np.asarray(layer(x, mask=mask)),
                    lambda layer=layer, x=x, mask=mask: installed(layer, x, mask),
                )


def onnx_cases() -> Iterator[CASE]:
    """A model of one node by the evaluator of onnx, with its own operators and with fastgate's."""
    from onnx.reference import ReferenceEvaluator

    import fastgate
    from fastgate.compat.onnx import new_ops
    from fastgate.weights import to_onnx

    for T, N, D, H in SHAPES:
        x = np.random.default_rng(0).normal(size=(N, T, D)).astype(np.float32)
        for kind in ("LSTM", "GRU", "RNN"):
            model = to_onnx(getattr(fastgate, kind)(D, H, rng=0))
            before, after = ReferenceEvaluator(model), ReferenceEvaluator(model, new_ops=new_ops)
            yield (
                f"ONNX {kind} (T, N, D, H) = {T, N, D, H}",
                lambda before=before, x=x: before.run(None, {"x": x})[0],
                lambda after=after, x=x: after.run(None, {"x": x})[0],
            )


def swap_cases() -> Iterator[CASE]:
    """(name, before, after): functions that return the same array; of what is installed."""
    if importlib.util.find_spec("keras"):
        yield from keras_cases()
    if importlib.util.find_spec("onnx"):
        yield from onnx_cases()


def main() -> None:
    for name, before, after in swap_cases():
        np.testing.assert_allclose(after(), before(), rtol=0, atol=1e-5)
        times = measure({"before": before, "after": after}, 0.5)
        print(f"{name}: {ratio(times['before'], times['after']).median:.1f}")


if __name__ == "__main__":
    main()
