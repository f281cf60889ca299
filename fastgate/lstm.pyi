from collections.abc import Iterable
from typing import Any, Generic, Literal, NamedTuple

from numpy.typing import NDArray

from fastgate._types import Cache, Delays, F, Gradients, Lengths, Mask, Out, Period, PreparedCell

class LSTMForward(NamedTuple, Generic[F]):
    h: NDArray[F] | Any  # None with return_sequences=False
    h_T: NDArray[F]
    c_T: NDArray[F]
    cache: Cache[F] | Any  # None with training=False

class LSTMStep(NamedTuple, Generic[F]):
    h_next: NDArray[F]
    c_next: NDArray[F]
    cache: Cache[F] | Any  # None with training=False

class _Gradients(Gradients[F]):
    @property
    def dh0(self) -> NDArray[F] | Any: ...
    @property
    def dc0(self) -> NDArray[F] | Any: ...
    @property
    def dpeephole(self) -> NDArray[F] | Any: ...
    @property
    def dWr(self) -> NDArray[F] | Any: ...
    @property
    def dh_total(self) -> NDArray[F] | Any: ...
    @property
    def dc_total(self) -> NDArray[F] | Any: ...

class _StepGradients(Gradients[F]):
    @property
    def dh_prev(self) -> NDArray[F] | Any: ...
    @property
    def dc_prev(self) -> NDArray[F] | Any: ...
    @property
    def dpeephole(self) -> NDArray[F] | Any: ...
    @property
    def dWr(self) -> NDArray[F] | Any: ...

def lstm_forward(
    x: NDArray[F],
    h0: NDArray[F] | None,
    c0: NDArray[F] | None,
    Wx: NDArray[F],
    Wh: NDArray[F],
    b: NDArray[F] | None = None,
    *,
    bh: NDArray[F] | None = None,
    peephole: NDArray[F] | None = None,
    Wr: NDArray[F] | None = None,
    gate_order: str = "ifgo",
    candidate: Literal["tanh", "sigmoid"] = "tanh",
    coupled: bool = False,
    cell_clip: float | None = None,
    preact_clip: float | None = None,
    grad_clip: float | None = None,
    recurrent_mask: Mask[F] = None,
    zoneout_h: Mask[F] = None,
    zoneout_c: Mask[F] = None,
    delays: Delays = None,
    period: Period = None,
    start: int = 0,
    lengths: Lengths = None,
    reverse: bool = False,
    training: bool = True,
    memory: int | None = None,
    return_sequences: bool = True,
    out: Out[F] = None,
) -> LSTMForward[F]: ...
def lstm_backward(
    dh: NDArray[F] | None,
    cache: Cache[F],
    dh_T: NDArray[F] | None = None,
    dc_T: NDArray[F] | None = None,
    *,
    need: Iterable[str] | None = None,
    out: Out[F] = None,
) -> _Gradients[F]: ...
def lstm_ragged_forward(
    x: NDArray[F],
    h0: NDArray[F] | None,
    c0: NDArray[F] | None,
    Wx: NDArray[F],
    Wh: NDArray[F],
    b: NDArray[F] | None = None,
    *,
    bh: NDArray[F] | None = None,
    peephole: NDArray[F] | None = None,
    Wr: NDArray[F] | None = None,
    offsets: Lengths = None,
    batch_sizes: Lengths = None,
    gate_order: str = "ifgo",
    candidate: Literal["tanh", "sigmoid"] = "tanh",
    coupled: bool = False,
    cell_clip: float | None = None,
    preact_clip: float | None = None,
    grad_clip: float | None = None,
    recurrent_mask: Mask[F] = None,
    zoneout_h: Mask[F] = None,
    zoneout_c: Mask[F] = None,
    delays: Delays = None,
    period: Period = None,
    start: int = 0,
    reverse: bool = False,
    training: bool = True,
    memory: int | None = None,
    return_sequences: bool = True,
    out: Out[F] = None,
) -> LSTMForward[F]: ...
def lstm_ragged_backward(
    dh: NDArray[F] | None,
    cache: Cache[F],
    dh_T: NDArray[F] | None = None,
    dc_T: NDArray[F] | None = None,
    *,
    need: Iterable[str] | None = None,
    out: Out[F] = None,
) -> _Gradients[F]: ...
def lstm_step_forward(
    x: NDArray[F],
    h_prev: NDArray[F] | None,
    c_prev: NDArray[F] | None,
    Wx: NDArray[F],
    Wh: NDArray[F],
    b: NDArray[F] | None = None,
    *,
    bh: NDArray[F] | None = None,
    peephole: NDArray[F] | None = None,
    Wr: NDArray[F] | None = None,
    gate_order: str = "ifgo",
    candidate: Literal["tanh", "sigmoid"] = "tanh",
    coupled: bool = False,
    cell_clip: float | None = None,
    preact_clip: float | None = None,
    grad_clip: float | None = None,
    recurrent_mask: Mask[F] = None,
    zoneout_h: Mask[F] = None,
    zoneout_c: Mask[F] = None,
    delays: Delays = None,
    period: Period = None,
    start: int = 0,
    training: bool = True,
    out: Out[F] = None,
) -> LSTMStep[F]: ...
def lstm_step_backward(
    dh_next: NDArray[F] | None,
    dc_next: NDArray[F] | None,
    cache: Cache[F],
    *,
    need: Iterable[str] | None = None,
    out: Out[F] = None,
) -> _StepGradients[F]: ...

class LSTMCell(PreparedCell[F]):
    def __init__(
        self,
        Wx: NDArray[F],
        Wh: NDArray[F],
        b: NDArray[F] | None = None,
        *,
        bh: NDArray[F] | None = None,
        peephole: NDArray[F] | None = None,
        Wr: NDArray[F] | None = None,
        gate_order: str = "ifgo",
        candidate: Literal["tanh", "sigmoid"] = "tanh",
        coupled: bool = False,
        cell_clip: float | None = None,
        preact_clip: float | None = None,
        grad_clip: float | None = None,
        delays: Delays = None,
        period: Period = None,
    ) -> None: ...
    def update(
        self,
        Wx: NDArray[F],
        Wh: NDArray[F],
        b: NDArray[F] | None = None,
        *,
        bh: NDArray[F] | None = None,
        peephole: NDArray[F] | None = None,
        Wr: NDArray[F] | None = None,
    ) -> None: ...
    @property
    def peephole(self) -> NDArray[F] | None: ...
    @property
    def Wr(self) -> NDArray[F] | None: ...
    @property
    def proj_size(self) -> int | None: ...
    def step(
        self,
        x: NDArray[F],
        h_prev: NDArray[F] | None = None,
        c_prev: NDArray[F] | None = None,
        *,
        out: tuple[NDArray[F] | None, NDArray[F] | None] | Out[F] = None,
        start: int = 0,
        recurrent_mask: Mask[F] = None,
        zoneout_h: Mask[F] = None,
        zoneout_c: Mask[F] = None,
    ) -> tuple[NDArray[F], NDArray[F]]: ...
    def forward(
        self,
        x: NDArray[F],
        h0: NDArray[F] | None = None,
        c0: NDArray[F] | None = None,
        *,
        recurrent_mask: Mask[F] = None,
        zoneout_h: Mask[F] = None,
        zoneout_c: Mask[F] = None,
        lengths: Lengths = None,
        reverse: bool = False,
        start: int = 0,
        training: bool = True,
        memory: int | None = None,
        return_sequences: bool = True,
        out: Out[F] = None,
    ) -> LSTMForward[F]: ...
