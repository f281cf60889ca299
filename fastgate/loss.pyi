from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from fastgate._types import F

_Integers: TypeAlias = NDArray[np.integer[Any]] | Sequence[int]

@overload
def softmax_cross_entropy(
    o: NDArray[F],
    y: _Integers,
    mask: NDArray[F] | NDArray[np.bool_] | None = None,
    ignore_index: int | None = None,
    *,
    reduction: Literal["sum", "mean"] = "sum",
) -> tuple[float, NDArray[F]]: ...
@overload
def softmax_cross_entropy(
    o: NDArray[F],
    y: _Integers,
    mask: NDArray[F] | NDArray[np.bool_] | None = None,
    ignore_index: int | None = None,
    *,
    reduction: Literal["none"],
) -> tuple[NDArray[F], NDArray[F]]: ...
