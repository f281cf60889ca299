"""Names for annotations."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]  # float32 or float64, that of the layer
Lengths: TypeAlias = Sequence[int] | NDArray[np.integer[Any]] | None
Delays: TypeAlias = Sequence[int] | NDArray[np.integer[Any]] | None
Period: TypeAlias = int | Sequence[int] | NDArray[np.integer[Any]] | None
Rng: TypeAlias = np.random.Generator | int | None
Shapes: TypeAlias = dict[str, tuple[tuple[str, ...], tuple[int, ...]]]  # name -> (letters, sizes)
Alpha: TypeAlias = float | Sequence[float] | NDArray[np.floating[Any]]
