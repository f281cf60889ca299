"""rnn, lstm and gru that HIPS autograd differentiates, for models written in autograd.numpy.

    from fastgate.compat.autograd import lstm

    def loss(weights, x):
        h, h_T, c_T = lstm(x, None, None, *weights)         # forward and backward each one call of fastgate
        return anp.sum(h_T**2)
    gradient = autograd.grad(loss)

Axes, gate orders, equations, options of the cells and errors are those of fastgate.rnn_forward, lstm_forward and gru_forward:
batch first, x (N, T, D); gates "ifgo" and "rzn"; weights multiply from the right; z keeps h_prev unless update="new"; reset
after the recurrent product unless reset="before". All arrays of a call have one dtype, float32 or float64; gradients that come
from further up are taken in it.

Reverse mode, first derivatives, by every array: x, the initial states, Wx, Wh, b, bh, peephole. Forward mode (make_jvp) and
derivatives of gradients raise NotImplementedError. Nothing is kept for backward where nothing is differentiated. x and the
weights must not be written into between forward and backward.
"""

# mypy: disable-error-code="import-not-found,import-untyped"

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

import fastgate

try:
    from autograd.extend import defvjp_argnums, primitive
    from autograd.tracer import isbox
except ImportError as error:
    raise ImportError(f'{__name__} needs autograd: pip install "fastgate[autograd]"') from error

__all__ = ["gru", "lstm", "rnn"]

Array: TypeAlias = Any  # numpy.ndarray, or autograd's box of one


def rnn(
    x: Array, h0: Array | None, Wx: Array, Wh: Array, b: Array | None = None, bh: Array | None = None, *,
    activation: str = "tanh", grad_clip: float | None = None, lengths: Sequence[int] | None = None, reverse: bool = False,
) -> tuple[Array, Array]:  # fmt: skip
    """fastgate.rnn_forward, differentiable; returns (h, h_T).

    x (N, T, D), h0 (N, H), (H,) or None = zeros, Wx (D, H), Wh (H, H), b and bh (H,) or None; h (N, T, H), h_T (N, H).
    """
    return _rnn((x, h0, Wx, Wh, b, bh), activation=activation, grad_clip=grad_clip, lengths=lengths, reverse=reverse)


def lstm(
    x: Array, h0: Array | None, c0: Array | None, Wx: Array, Wh: Array, b: Array | None = None, bh: Array | None = None, *,
    peephole: Array | None = None, Wr: Array | None = None, gate_order: str = "ifgo", candidate: str = "tanh",
    coupled: bool = False, cell_clip: float | None = None, preact_clip: float | None = None, grad_clip: float | None = None,
    lengths: Sequence[int] | None = None, reverse: bool = False,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """fastgate.lstm_forward, differentiable; returns (h, h_T, c_T).

    x (N, T, D), h0 and c0 (N, H), (H,) or None = zeros, Wx (D, 4H), Wh (H, 4H), b and bh (4H,) or None, peephole (3H,)
    or None; h (N, T, H), h_T and c_T (N, H). With a projection Wr (H, P): h0 (N, P), Wh (P, 4H), h (N, T, P), h_T (N, P).
    """
    return _lstm(
        (x, h0, c0, Wx, Wh, b, bh, peephole, Wr), gate_order=gate_order, candidate=candidate, coupled=coupled,
        cell_clip=cell_clip, preact_clip=preact_clip, grad_clip=grad_clip, lengths=lengths, reverse=reverse,
    )  # fmt: skip


def gru(
    x: Array, h0: Array | None, Wx: Array, Wh: Array, b: Array | None = None, bh: Array | None = None, *,
    gate_order: str = "rzn", reset: str = "after", update: str = "old", candidate: str = "tanh",
    grad_clip: float | None = None, lengths: Sequence[int] | None = None, reverse: bool = False,
) -> tuple[Array, Array]:  # fmt: skip
    """fastgate.gru_forward, differentiable; returns (h, h_T).

    x (N, T, D), h0 (N, H), (H,) or None = zeros, Wx (D, 3H), Wh (H, 3H), b and bh (3H,) or None; h (N, T, H), h_T (N, H).
    """
    return _gru(
        (x, h0, Wx, Wh, b, bh), gate_order=gate_order, reset=reset, update=update, candidate=candidate, grad_clip=grad_clip,
        lengths=lengths, reverse=reverse,
    )  # fmt: skip


def _differentiable(cell: str, names: tuple[str, ...]) -> Callable[..., tuple[Array, ...]]:
    """The function of the arrays and the options of `<cell>_forward`; names: of the arrays' gradients, a d before their own."""
    forward, backward = getattr(fastgate, f"{cell}_forward"), getattr(fastgate, f"{cell}_backward")
    upstreams = 1 + sum(name in ("dh0", "dc0") for name in names)  # of h, and of a final state for each initial one

    @primitive
    def run(*arrays: Any, kept: list[Any] | None, options: dict[str, Any]) -> tuple[np.ndarray, ...]:
        given = {name[1:]: a for name, a in zip(names, arrays, strict=True)}
        *results, cache = forward(**given, training=kept is not None, **options)
        if kept is not None:
            kept.append(cache)
        return tuple(results)

    @primitive
    def gradients(need: tuple[str, ...], cache: Any, *arrays: Any) -> tuple[np.ndarray, ...]:
        """arrays: the upstream gradients, then those of the forward call, so that autograd knows that all of this depends on
        them: it then refuses the derivative of a gradient, for which there is no rule."""
        dh, *finals = (np.asarray(g, arrays[upstreams].dtype) for g in arrays[:upstreams])
        found = backward(dh, cache, *finals, need=need)
        return tuple(getattr(found, name) for name in need)

    def vjp(argnums: Sequence[int], _: Any, arrays: tuple[Any, ...], keywords: dict[str, Any]) -> Callable[[Any], Any]:
        need, (cache,) = tuple(names[argnum] for argnum in argnums), keywords["kept"]
        return lambda upstream: gradients(need, cache, *upstream, *arrays)

    run.__name__, gradients.__name__ = cell, f"{cell} gradients"
    defvjp_argnums(run, vjp)

    def call(arrays: tuple[Any, ...], **options: Any) -> tuple[Array, ...]:
        return run(*arrays, kept=[] if any(map(isbox, arrays)) else None, options=options)

    return call


_rnn = _differentiable("rnn", ("dx", "dh0", "dWx", "dWh", "db", "dbh"))
_lstm = _differentiable("lstm", ("dx", "dh0", "dc0", "dWx", "dWh", "db", "dbh", "dpeephole", "dWr"))
_gru = _differentiable("gru", ("dx", "dh0", "dWx", "dWh", "db", "dbh"))
