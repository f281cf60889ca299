"""Gradients to be clipped by their joint norm: the arrays, the exact result, and a limit for call after call."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .cases import CLIPPING, LIMIT

SHRINK = 0.9999  # from call to call: far more than the rounding of a norm, and small after 10^5 calls yet normal


@dataclass(frozen=True)
class Gradients:
    """A list of arrays that are all clipped in one call, in place: whoever calls works on copies."""

    arrays: list[np.ndarray]

    cell, what = "", CLIPPING
    entry = "clip"  # the function of a contender that takes such a case

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        return 1, len(self.arrays), *self.arrays[0].shape

    @property
    def dtype(self) -> str:
        return self.arrays[0].dtype.name

    @property
    def limit(self) -> float:
        """In units of rounding, that of float32 for any dtype: PyTorch adds 1e-6 to the norm."""
        return LIMIT * float(np.finfo("float32").eps / np.finfo(self.dtype).eps)

    @property
    def reads_from(self) -> int:
        return sum(a.nbytes for a in self.arrays)

    @property
    def nbytes(self) -> int:
        """Bytes moved: one pass reads, one reads and writes."""
        return 3 * self.reads_from

    @property
    def flops(self) -> int:
        return 3 * sum(a.size for a in self.arrays)

    @property
    def norm(self) -> float:
        return float(np.sqrt(sum(np.sum(np.square(a, dtype=np.float64)) for a in self.arrays)))

    def limits(self) -> Iterator[float]:
        """`max_norm` for call after call, each a little below the norm that the call before left: every call scales."""
        limit = 0.5 * self.norm
        while True:
            yield limit
            limit *= SHRINK

    def copies(self) -> list[np.ndarray]:
        return [a.copy() for a in self.arrays]

    def exact(self) -> dict[str, np.ndarray]:
        norm, limit = self.norm, next(self.limits())
        return self.results(norm, [a.astype(np.float64) * (limit / norm) for a in self.arrays])

    def results(self, norm: float, arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
        return {"norm": np.array(norm, arrays[0].dtype), "grads": np.concatenate([a.ravel() for a in arrays])}


def make_gradients(count: int, rows: int, columns: int, dtype: str = "float32") -> Gradients:
    random = np.random.default_rng([count, rows, columns])
    return Gradients([random.standard_normal((rows, columns)).astype(dtype) for _ in range(count)])
