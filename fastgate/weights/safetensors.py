"""Weights in safetensors files, under PyTorch's names. Needs no other package.

A file is 8 bytes, the length of its header as a little-endian integer; the header, JSON: {name: {dtype, shape, data_offsets}};
and the arrays, one after the other without gaps, little-endian, in C order. Source: github.com/huggingface/safetensors, README.
"""

import json
from math import prod
from typing import Any

from fastgate._files import replacing
from fastgate.weights import torch
from fastgate.weights._stored import BFLOAT16, Stored, opened

LARGEST_HEADER = 2**20  # bytes; its names and numbers take up to thirty times as much while they are read
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": BFLOAT16}


def from_safetensors(source: Any, prefix: str = "", *, layer: Any = None, dtype: Any = None, **options: Any) -> Any:
    """A fastgate.RNN, LSTM or GRU with the weights of a safetensors file, which has PyTorch's names.

    source : path of the file, or its bytes. prefix, layer, dtype, options : as from_torch.

    Only the arrays under the prefix are read. float16 and bfloat16 are converted where dtype= asks for it. What a header claims
    is held against the file first: ValueError where it is cut short, claims other sizes, or arrays that overlap or leave gaps.
    Returns the layer. Other errors as from_torch.
    """
    with opened(source, "a safetensors file") as (file, size):
        return torch.build(torch.parts_of(_arrays(file, size), prefix, _stored), layer, dtype, options)


def _arrays(file, size):
    """{name: Stored, or (name of a dtype that is no float,)} of a file of `size` bytes, judged."""
    if size < 8:
        raise ValueError(f"source: expected a safetensors file, got {size} bytes")
    length = int.from_bytes(file.read(8), "little")
    if length > size - 8:
        raise ValueError(f"source: expected a safetensors file, got a header of {length} bytes in a file of {size}")
    if length > LARGEST_HEADER:
        raise ValueError(f"source: expected a header of at most {LARGEST_HEADER} bytes, got {length}")
    try:
        header = json.loads(file.read(length).decode(), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"source: expected a header of JSON, got what is none: {error}") from None
    if not isinstance(header, dict):
        raise ValueError("source: expected names in the header, got none")
    header.pop("__metadata__", None)
    end, arrays = 0, {}
    for name, entry in sorted(header.items(), key=_offsets):
        dtype, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if start != end or stop < start:
            raise ValueError(f"{name}: expected data from byte {end} on, got {start} to {stop}")
        stored = Stored(file, 8 + length + start, tuple(shape), _DTYPES.get(dtype, "float32"))
        if dtype in _DTYPES and prod(shape) * stored.itemsize != stop - start:
            raise ValueError(f"{name}: expected {prod(shape) * stored.itemsize} bytes for {dtype} {shape}, got {stop - start}")
        arrays[name], end = stored if dtype in _DTYPES else (dtype,), stop
    if end != size - 8 - length:
        raise ValueError(f"source: expected {end} bytes of data, got {size - 8 - length}")
    return arrays


def _once(pairs):
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found


def _offsets(item):
    """The sort key of a header's entry, which is judged here."""
    name, entry = item
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        raise ValueError(f"{name}: expected dtype, shape and data_offsets, got {str(entry)[:80]}")
    for key, length in (("shape", None), ("data_offsets", 2)):
        numbers = entry.get(key)
        if not isinstance(numbers, list) or len(numbers) > 64 or length not in (None, len(numbers)):
            raise ValueError(f"{name}: expected {key} as a list of integers, got {str(numbers)[:80]}")
        if any(type(number) is not int or not 0 <= number < 2**63 for number in numbers):
            raise ValueError(f"{name}: expected {key} of integers from 0 on, got {str(numbers)[:80]}")
    return tuple(entry["data_offsets"])


def _stored(name, array):
    if isinstance(array, tuple):
        raise TypeError(f"{name}: expected float32 or float64, got {array[0][:20]}")
    return array


def to_safetensors(layer: Any, path: Any, prefix: str = "") -> None:
    """Write the weights of a layer to a safetensors file, under the names of to_torch; a file that is there is replaced whole.

    Raises what to_torch raises, and OSError.
    """
    state = torch.to_torch(layer, prefix)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, array in state.items():
        header[name] = {"dtype": f"F{8 * array.itemsize}", "shape": array.shape, "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in state.values():
            file.write(array.astype(array.dtype.newbyteorder("<"), copy=False).data)
