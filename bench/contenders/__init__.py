"""Who is measured: fastgate and its peers, one module each. Every module has

- `NAME`: how the tables call it
- `version() -> str`
- `prepare(case, threads) -> Calls`: what a user does once; raises Unsupported where it has no such cell
- `clip(gradients, threads) -> Calls`, those that clip gradients
"""

import importlib
from collections.abc import Callable, Container, Iterable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ..cases import Case, Unsupported

OURS = "fastgate"
PADDED = "fastgate padded"
LOOP = "NumPy"
PEERS = ("pytorch", "onnx_runtime", "open_vino", "jax_scan", "keras_layers", "numpy_loop")


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


def begin(module: ModuleType, case: Any, threads: int) -> Calls:
    """The contender's calls for a case of any kind."""
    if not hasattr(module, case.entry):
        raise Unsupported(f"{module.NAME} has no {case.what}")
    return getattr(module, case.entry)(case, threads)


def require(
    name: str, case: Case, cells: Container[str], training: bool = True, ragged: bool = True, float64: bool = True
) -> None:  # fmt: skip
    """Raise Unsupported, with the reason, for a case that a contender does not do."""
    if case.cell not in cells:
        raise Unsupported(f"{name} has no {case.cell}")
    if case.training and not training:
        raise Unsupported(f"{name} runs forward only")
    if case.lengths is not None and not ragged:
        raise Unsupported(f"{name} is not measured with lengths")
    if case.dtype == "float64" and not float64:
        raise Unsupported(f"{name} has these cells in float32 only")


def reorder_gates(weight: np.ndarray, gates: str, wanted: str) -> np.ndarray:
    """Columns `(…, G·H)` in gate order `gates` -> a copy in gate order `wanted`."""
    if not gates:
        return weight.copy()
    blocks = dict(zip(gates, np.split(weight, len(gates), axis=-1), strict=True))
    return np.concatenate([blocks[gate] for gate in wanted], axis=-1)


def named(case: Case, h: np.ndarray, finals: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """h (N, T, H) and the final states (N, H) under our names."""
    names = [f"{name[0]}_T" for name in case.states]
    return {"h": h} | dict(zip(names, finals, strict=True))
