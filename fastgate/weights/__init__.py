"""Weights of other libraries into layers, and back: PyTorch, safetensors files, Keras, ONNX.

torch.py         from_torch, to_torch                  state dicts, plain dicts of arrays or tensors
safetensors.py   from_safetensors, to_safetensors      files of the same names
keras.py         from_keras, to_keras                  layer.get_weights(), layer.set_weights()
onnx.py          from_onnx, to_onnx                    models, files, and nodes (compat.onnx.to_layer)
_layers.py       what all of them share: weights of one layer and direction, gate by gate
_stored.py       arrays that lie in a file, read piece by piece
_protobuf.py     the parts of a protobuf message, without building it

Reading needs none of these libraries. Nothing is ever unpickled, every size that a file claims is held against the file before
anything is allocated, and reading takes no more memory than the file has bytes, plus 64 MiB (dtype= that widens comes on top).
"""

from fastgate.weights.keras import from_keras, to_keras
from fastgate.weights.onnx import from_onnx, to_onnx
from fastgate.weights.safetensors import from_safetensors, to_safetensors
from fastgate.weights.torch import from_torch, to_torch

__all__ = [
    "from_torch", "to_torch",
    "from_safetensors", "to_safetensors",
    "from_keras", "to_keras",
    "from_onnx", "to_onnx",
]  # fmt: skip
