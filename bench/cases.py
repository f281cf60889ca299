"""The arrays of one shape, the exact result, and the comparison of a contender's result with it.

Nothing here names a cell: states and gates are read from the signature of the public functions.
"""

import inspect
from dataclasses import dataclass

import numpy as np

from fastgate import reference

FORWARD, TRAINING = "forward", "training"
WHATS = (FORWARD, TRAINING)  # training = forward and backward
GRADIENTS = ("dx", "dWx", "dWh", "db")  # those every contender of a training row must give
LIMIT = 256  # units of rounding (eps) relative to the largest value from which on a result counts as wrong


class WrongResult(Exception):
    """A contender computes something else: an error, never a row of the table."""


class Unsupported(Exception):
    """A contender has no such cell, direction or dtype."""


@dataclass(frozen=True)
class Case:
    """One call to be measured. Arrays as the public functions take them; gates in the canonical order."""

    cell: str
    what: str
    gates: str  # the canonical gate order, "" for a cell without gates
    x: np.ndarray  # (N, T, D)
    states: dict[str, np.ndarray]  # h0 (and c0), each (N, H)
    Wx: np.ndarray  # (D, G·H)
    Wh: np.ndarray  # (H, G·H)
    b: np.ndarray  # (G·H,)
    dh: np.ndarray  # (N, T, H), the upstream gradient

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        N, T, D = self.x.shape
        return T, N, D, len(self.Wh)

    @property
    def flops(self) -> int:
        """Multiplications and additions of the matrix products; backward does those of forward twice."""
        T, N, D, H = self.sizes
        return 2 * T * N * (D + H) * self.Wh.shape[1] * (1 if self.what == FORWARD else 3)


def cells() -> list[str]:
    """Every cell that has public functions."""
    ending = "_step_forward"
    return [name.removesuffix(ending) for name in dir(reference) if name.endswith(ending)]


def make_case(cell: str, what: str, T: int, N: int, D: int, H: int, dtype: str = "float32") -> Case:
    parameters = inspect.signature(getattr(reference, f"{cell}_forward")).parameters
    names = list(parameters)
    gates = parameters["gate_order"].default if "gate_order" in names else ""
    width = max(1, len(gates)) * H
    random = np.random.default_rng([T, N, D, H])
    bound = H**-0.5

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(dtype)

    def uniform(*shape: int) -> np.ndarray:
        return random.uniform(-bound, bound, shape).astype(dtype)

    return Case(
        cell=cell,
        what=what,
        gates=gates,
        x=normal(N, T, D),
        states={name: 0.5 * normal(N, H) for name in names[1 : names.index("Wx")]},
        Wx=uniform(D, width),
        Wh=uniform(H, width),
        b=uniform(width),
        dh=normal(N, T, H),
    )


def exact(case: Case) -> dict[str, np.ndarray]:
    """The result of the float64 reference on the case's values."""
    x, *weights, dh = (a.astype(np.float64) for a in (case.x, case.Wx, case.Wh, case.b, case.dh))
    states = [state.astype(np.float64) for state in case.states.values()]
    training = case.what == TRAINING
    outputs = getattr(reference, f"{case.cell}_forward")(x, *states, *weights, training=training)
    values = outputs._asdict()
    cache = values.pop("cache")
    if training:
        gradients = getattr(reference, f"{case.cell}_backward")(dh, cache)
        values |= {name: getattr(gradients, name) for name in GRADIENTS}
    return values


def error(results: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """The largest error, each array's relative to its own largest value; NaN where a result holds NaN."""
    errors = [np.max(np.abs(results[name] - value)) / np.max(np.abs(value)) for name, value in expected.items()]
    return float(np.max(errors))


def check(name: str, case: Case, results: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """The error, or WrongResult where a result is missing, has another shape or is not near the exact one."""
    for key, value in expected.items():
        if key not in results:
            raise WrongResult(f"{name}: {case.cell} {case.what} gives no {key}")
        if results[key].shape != value.shape:
            raise WrongResult(f"{name}: {key} has shape {results[key].shape}, expected {value.shape}")
    found = error(results, expected)
    limit = LIMIT * float(np.finfo(case.x.dtype).eps)
    if not found <= limit:
        raise WrongResult(
            f"{name}: {case.cell} {case.what} {case.sizes} differs by {found:.1e} from the exact result (limit {limit:.1e})"
        )
    return found
