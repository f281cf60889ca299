from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

def draw_alpha(
    hidden_size: int, low: float, high: float, rng: np.random.Generator, dtype: DTypeLike = "float32"
) -> NDArray[Any]: ...
def draw_dropout_mask(
    shape: int | Sequence[int], p: float, rng: np.random.Generator, dtype: DTypeLike = "float32"
) -> NDArray[Any]: ...
def draw_zoneout_mask(shape: int | Sequence[int], p: float, rng: np.random.Generator) -> NDArray[np.bool_]: ...
