"""What the stubs share; there is no such module at run time.

A value that an option turns into None is `… | Any`: code that uses the defaults need not test for None.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

F = TypeVar("F", np.float32, np.float64)  # one for all arrays of a call

Lengths: TypeAlias = Sequence[int] | NDArray[np.integer[Any]] | None  # or offsets, or batch_sizes
Mask: TypeAlias = NDArray[F] | NDArray[np.bool_] | float | None  # recurrent_mask, zoneout_h, zoneout_c
Alpha: TypeAlias = float | NDArray[F]
Delays: TypeAlias = Sequence[int] | NDArray[np.integer[Any]] | None
Period: TypeAlias = int | Sequence[int] | NDArray[np.integer[Any]] | None
Out: TypeAlias = NDArray[F] | Mapping[str, NDArray[F]] | None

class Cache(Generic[F]):
    @property
    def nbytes(self) -> int: ...
    @property
    def recomputed(self) -> float: ...

class Gradients(tuple[NDArray[F] | Any, ...]):
    """A NamedTuple that has the fields of the arguments that were given."""

    @property
    def dx(self) -> NDArray[F] | Any: ...
    @property
    def dWx(self) -> NDArray[F] | Any: ...
    @property
    def dWh(self) -> NDArray[F] | Any: ...
    @property
    def db(self) -> NDArray[F] | Any: ...
    @property
    def dbh(self) -> NDArray[F] | Any: ...
    def _asdict(self) -> dict[str, NDArray[F] | Any]: ...

class PreparedCell(Generic[F]):
    """LSTMCell and its kin, but for what differs between them: the constructor, step and forward."""

    def update(self, Wx: NDArray[F], Wh: NDArray[F], b: NDArray[F] | None = None, *, bh: NDArray[F] | None = None) -> None: ...
    @property
    def Wx(self) -> NDArray[F]: ...
    @property
    def Wh(self) -> NDArray[F] | Any: ...  # None: a leaky cell without it
    @property
    def b(self) -> NDArray[F] | None: ...
    @property
    def bh(self) -> NDArray[F] | None: ...
    @property
    def delays(self) -> NDArray[np.int64] | None: ...
    @property
    def period(self) -> NDArray[np.int64] | None: ...
    @property
    def input_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def dtype(self) -> np.dtype[F]: ...
    @property
    def nbytes(self) -> int: ...
