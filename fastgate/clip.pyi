from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

_Key = TypeVar("_Key")
_Array: TypeAlias = NDArray[np.float32] | NDArray[np.float64] | None
_Arrays: TypeAlias = Sequence[_Array] | Mapping[Any, _Array]

def clip_grad_norm(grads: _Arrays, max_norm: float, norm_type: float = 2, error_if_nonfinite: bool = False) -> float: ...
def clip_grad_value(grads: _Arrays, clip_value: float) -> None: ...
@overload
def clip_norm_each(grads: Sequence[_Array], max_norm: float) -> list[float]: ...
@overload
def clip_norm_each(grads: Mapping[_Key, _Array], max_norm: float) -> dict[_Key, float]: ...
