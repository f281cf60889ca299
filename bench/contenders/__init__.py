"""Who is measured: fastgate and its peers, one module each. Every module has

- `NAME`: how the tables call it
- `version() -> str`
- `prepare(case, threads) -> Calls`: what a user does once; raises Unsupported where it has no such cell
"""

import importlib
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

OURS = "fastgate"
LOOP = "NumPy"
PEERS = ("pytorch", "onnx_runtime", "numpy_loop")


class Calls(NamedTuple):
    call: Callable[[], Any]  # what is timed
    results: Callable[[Any], dict[str, np.ndarray]]  # its value as arrays under our names and in our layout


def find(peers: Iterable[str] = PEERS) -> tuple[list[ModuleType], dict[str, str]]:
    """The peers that are installed, and for the others the reason why they are skipped."""
    found, skipped = [], {}
    for name in peers:
        try:
            found.append(importlib.import_module(f"{__name__}.{name}"))
        except ImportError as reason:
            skipped[name] = str(reason)
    return found, skipped


def reorder_gates(weight: np.ndarray, gates: str, wanted: str) -> np.ndarray:
    """Columns `(…, G·H)` in gate order `gates` -> a copy in gate order `wanted`."""
    blocks = dict(zip(gates, np.split(weight, len(gates), axis=-1), strict=True))
    return np.concatenate([blocks[gate] for gate in wanted], axis=-1)
