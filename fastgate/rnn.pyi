from collections.abc import Iterable
from typing import Any, Generic, Literal, NamedTuple

from numpy.typing import NDArray

from fastgate._types import Cache, Delays, F, Gradients, Lengths, Mask, Out, Period, PreparedCell

class RNNForward(NamedTuple, Generic[F]):
    h: NDArray[F] | Any  # None with return_sequences=False
    h_T: NDArray[F]
    cache: Cache[F] | Any  # None with training=False

class RNNStep(NamedTuple, Generic[F]):
    h_next: NDArray[F]
    cache: Cache[F] | Any  # None with training=False

class _Gradients(Gradients[F]):
    @property
    def dh0(self) -> NDArray[F] | Any: ...
    @property
    def dh_total(self) -> NDArray[F] | Any: ...

class _StepGradients(Gradients[F]):
    @property
    def dh_prev(self) -> NDArray[F] | Any: ...

def rnn_forward(
    x: NDArray[F],
    h0: NDArray[F] | None,
    Wx: NDArray[F],
    Wh: NDArray[F],
    b: NDArray[F] | None = None,
    *,
    bh: NDArray[F] | None = None,
    activation: Literal["tanh", "relu", "sigmoid", "identity"] = "tanh",
    grad_clip: float | None = None,
    recurrent_mask: Mask[F] = None,
    zoneout_h: Mask[F] = None,
    delays: Delays = None,
    period: Period = None,
    start: int = 0,
    lengths: Lengths = None,
    reverse: bool = False,
    training: bool = True,
    memory: int | None = None,
    return_sequences: bool = True,
    out: Out[F] = None,
) -> RNNForward[F]: ...
def rnn_backward(
    dh: NDArray[F] | None,
    cache: Cache[F],
    dh_T: NDArray[F] | None = None,
    *,
    need: Iterable[str] | None = None,
    out: Out[F] = None,
) -> _Gradients[F]: ...
def rnn_ragged_forward(
    x: NDArray[F],
    h0: NDArray[F] | None,
    Wx: NDArray[F],
    Wh: NDArray[F],
    b: NDArray[F] | None = None,
    *,
    bh: NDArray[F] | None = None,
    offsets: Lengths = None,
    batch_sizes: Lengths = None,
    activation: Literal["tanh", "relu", "sigmoid", "identity"] = "tanh",
    grad_clip: float | None = None,
    recurrent_mask: Mask[F] = None,
    zoneout_h: Mask[F] = None,
    delays: Delays = None,
    period: Period = None,
    start: int = 0,
    reverse: bool = False,
    training: bool = True,
    memory: int | None = None,
    return_sequences: bool = True,
    out: Out[F] = None,
) -> RNNForward[F]: ...
def rnn_ragged_backward(
    dh: NDArray[F] | None,
    cache: Cache[F],
    dh_T: NDArray[F] | None = None,
    *,
    need: Iterable[str] | None = None,
    out: Out[F] = None,
) -> _Gradients[F]: ...
def rnn_step_forward(
    x: NDArray[F],
    h_prev: NDArray[F] | None,
    Wx: NDArray[F],
    Wh: NDArray[F],
    b: NDArray[F] | None = None,
    *,
    bh: NDArray[F] | None = None,
    activation: Literal["tanh", "relu", "sigmoid", "identity"] = "tanh",
    grad_clip: float | None = None,
    recurrent_mask: Mask[F] = None,
    zoneout_h: Mask[F] = None,
    delays: Delays = None,
    period: Period = None,
    start: int = 0,
    training: bool = True,
    out: Out[F] = None,
) -> RNNStep[F]: ...
def rnn_step_backward(
    dh_next: NDArray[F] | None,
    cache: Cache[F],
    *,
    need: Iterable[str] | None = None,
    out: Out[F] = None,
) -> _StepGradients[F]: ...

class RNNCell(PreparedCell[F]):
    def __init__(
        self,
        Wx: NDArray[F],
        Wh: NDArray[F],
        b: NDArray[F] | None = None,
        *,
        bh: NDArray[F] | None = None,
        activation: Literal["tanh", "relu", "sigmoid", "identity"] = "tanh",
        grad_clip: float | None = None,
        delays: Delays = None,
        period: Period = None,
    ) -> None: ...
    def step(
        self,
        x: NDArray[F],
        h_prev: NDArray[F] | None = None,
        *,
        out: Out[F] = None,
        start: int = 0,
        recurrent_mask: Mask[F] = None,
        zoneout_h: Mask[F] = None,
    ) -> NDArray[F]: ...
    def forward(
        self,
        x: NDArray[F],
        h0: NDArray[F] | None = None,
        *,
        recurrent_mask: Mask[F] = None,
        zoneout_h: Mask[F] = None,
        lengths: Lengths = None,
        reverse: bool = False,
        start: int = 0,
        training: bool = True,
        memory: int | None = None,
        return_sequences: bool = True,
        out: Out[F] = None,
    ) -> RNNForward[F]: ...
