"""The arrays of one call of a cell, its exact result, and the comparison of a contender's result with it.

Nothing here names a cell: states and gates are read from the signature of the public functions.
"""

import inspect
from dataclasses import dataclass

import numpy as np

from fastgate import reference

FORWARD, TRAINING = "forward", "training"  # training = forward and backward
STEP = "step"  # one step by the step function
PREPARED = "prepared"  # forward, or its one step, by an object that holds the packed weights
CLIPPING = "clipping"
WHATS = (FORWARD, PREPARED, TRAINING, STEP, CLIPPING)
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
    dh: np.ndarray  # (N, T, H), the upstream gradient, zero past a row's length
    lengths: np.ndarray | None = None  # (N,), None = all T
    limit: int = LIMIT

    entry = "prepare"  # the function of a contender that takes such a case

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        N, T, D = self.x.shape
        return T, N, D, len(self.Wh)

    @property
    def dtype(self) -> str:
        return self.x.dtype.name

    @property
    def training(self) -> bool:
        return self.what == TRAINING

    @property
    def flops(self) -> int:
        """Multiplications and additions of the matrix products; backward does those of forward twice."""
        T, N, D, H = self.sizes
        steps = T * N if self.lengths is None else int(self.lengths.sum())
        return 2 * steps * (D + H) * self.Wh.shape[1] * (3 if self.training else 1)

    @property
    def nbytes(self) -> int:
        """Bytes of weights that must be read: Wh at every step and Wx once; backward does so again and writes as many
        gradients."""
        T, *_ = self.sizes
        once = self.Wx.nbytes + T * self.Wh.nbytes
        return 2 * once + self.Wx.nbytes + self.Wh.nbytes if self.training else once

    @property
    def reads_from(self) -> int:
        """Bytes of what is read again and again: Wh step after step, or both weights call after call."""
        T, *_ = self.sizes
        return self.Wh.nbytes + (self.Wx.nbytes if T == 1 else 0)

    def exact(self) -> dict[str, np.ndarray]:
        """The result of the float64 reference on these values. The final states of ragged rows are left out: a padded
        call has none."""
        x, *weights, dh = (a.astype(np.float64) for a in (self.x, self.Wx, self.Wh, self.b, self.dh))
        states = [state.astype(np.float64) for state in self.states.values()]
        forward = getattr(reference, f"{self.cell}_forward")
        values = forward(x, *states, *weights, lengths=self.lengths, training=self.training)._asdict()
        cache = values.pop("cache")
        if self.lengths is not None:
            values = {"h": values["h"]}
        if self.training:
            gradients = getattr(reference, f"{self.cell}_backward")(dh, cache)
            values |= {name: getattr(gradients, name) for name in GRADIENTS}
        return values


def cells() -> list[str]:
    """Every cell that has public functions."""
    ending = "_step_forward"
    return [name.removesuffix(ending) for name in dir(reference) if name.endswith(ending)]


def make_case(
    cell: str, what: str, T: int, N: int, D: int, H: int, dtype: str = "float32", ragged: bool = False
) -> Case:  # fmt: skip
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

    case = Case(
        cell=cell,
        what=what,
        gates=gates,
        x=normal(N, T, D),
        states={name: 0.5 * normal(N, H) for name in names[1 : names.index("Wx")]},
        Wx=uniform(D, width),
        Wh=uniform(H, width),
        b=uniform(width),
        dh=normal(N, T, H),
        lengths=random.integers(1, T, N, endpoint=True) if ragged else None,
    )
    if case.lengths is not None:
        case.dh[past(case.lengths, T)] = 0
    return case


def past(lengths: np.ndarray, T: int) -> np.ndarray:
    """(N, T), true past a row's length."""
    return np.arange(T) >= lengths[:, None]


def error(results: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """The largest error, each array's relative to its own largest value; NaN where a result holds NaN. Beside values
    so small that their rounding may be subnormal, an error counts as beside the smallest that are not."""
    errors = []
    for name, value in expected.items():
        dtype = np.finfo(results[name].dtype)
        least = float(dtype.tiny) / float(dtype.eps)
        errors.append(np.max(np.abs(results[name] - value)) / max(least, np.max(np.abs(value))))
    return float(np.max(errors))


def check(name: str, case, results: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """The error, or WrongResult where a result is missing, has another shape or is not near the exact one."""
    for key, value in expected.items():
        if key not in results:
            raise WrongResult(f"{name}: {case.cell} {case.what} gives no {key}")
        if results[key].shape != value.shape:
            raise WrongResult(f"{name}: {key} has shape {results[key].shape}, expected {value.shape}")
    found = error(results, expected)
    limit = case.limit * float(np.finfo(case.dtype).eps)
    if not found <= limit:
        raise WrongResult(
            f"{name}: {case.cell} {case.what} {case.sizes} differs by {found:.1e} from the exact result (limit {limit:.1e})"
        )
    return found
