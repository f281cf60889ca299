"""rnn, lstm and gru for JAX on the CPU: host callbacks with a VJP of their own, under jit, grad and vmap.

    from fastgate.compat.jax import lstm

    @jax.jit
    def loss(weights, x):
        h, h_T, c_T = lstm(x, None, None, *weights)
        return jnp.sum(h_T**2)
    gradient = jax.grad(loss)

Axes, gate orders, equations and options of the cells are those of fastgate.rnn_forward, lstm_forward and gru_forward: batch
first, x (N, T, D); gates "ifgo" and "rzn"; weights multiply from the right; z keeps h_prev unless update="new"; reset after the
recurrent product unless reset="before". All arrays of a call have one dtype, float32, or float64 where jax_enable_x64 is set.
Shapes, dtypes and options are judged when the call is traced, with fastgate's errors; lengths when it runs.

Reverse mode, first derivatives, by every array. A callback may run at any time and more than once, so nothing is kept between
forward and backward: backward runs forward again. vmap calls it once for each element, one after the other; a batch is faster.
Not on other devices: the arrays would travel to the CPU and back.
"""

# mypy: disable-error-code="import-not-found,import-untyped"

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np

import fastgate

try:
    import jax
except ImportError as error:
    raise ImportError(f'{__name__} needs jax: pip install "fastgate[jax]"') from error

__all__ = ["gru", "lstm", "rnn"]

Array: TypeAlias = Any  # jax.Array, or what jax makes one of
Lengths: TypeAlias = Array | Sequence[int] | None


def rnn(
    x: Array, h0: Array | None, Wx: Array, Wh: Array, b: Array | None = None, bh: Array | None = None, *,
    activation: str = "tanh", grad_clip: float | None = None, lengths: Lengths = None, reverse: bool = False,
) -> tuple[Array, Array]:  # fmt: skip
    """fastgate.rnn_forward, differentiable; returns (h, h_T).

    x (N, T, D), h0 (N, H), (H,) or None = zeros, Wx (D, H), Wh (H, H), b and bh (H,) or None; h (N, T, H), h_T (N, H).
    """
    return _rnn((x, h0, Wx, Wh, b, bh), lengths, activation=activation, grad_clip=grad_clip, reverse=reverse)


def lstm(
    x: Array, h0: Array | None, c0: Array | None, Wx: Array, Wh: Array, b: Array | None = None, bh: Array | None = None, *,
    peephole: Array | None = None, Wr: Array | None = None, gate_order: str = "ifgo", candidate: str = "tanh",
    coupled: bool = False, cell_clip: float | None = None, preact_clip: float | None = None, grad_clip: float | None = None,
    lengths: Lengths = None, reverse: bool = False,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """fastgate.lstm_forward, differentiable; returns (h, h_T, c_T).

    x (N, T, D), h0 and c0 (N, H), (H,) or None = zeros, Wx (D, 4H), Wh (H, 4H), b and bh (4H,) or None, peephole (3H,)
    or None; h (N, T, H), h_T and c_T (N, H). With a projection Wr (H, P): h0 (N, P), Wh (P, 4H), h (N, T, P), h_T (N, P).
    """
    return _lstm(
        (x, h0, c0, Wx, Wh, b, bh, peephole, Wr), lengths, gate_order=gate_order, candidate=candidate, coupled=coupled,
        cell_clip=cell_clip, preact_clip=preact_clip, grad_clip=grad_clip, reverse=reverse,
    )  # fmt: skip


def gru(
    x: Array, h0: Array | None, Wx: Array, Wh: Array, b: Array | None = None, bh: Array | None = None, *,
    gate_order: str = "rzn", reset: str = "after", update: str = "old", candidate: str = "tanh",
    grad_clip: float | None = None, lengths: Lengths = None, reverse: bool = False,
) -> tuple[Array, Array]:  # fmt: skip
    """fastgate.gru_forward, differentiable; returns (h, h_T).

    x (N, T, D), h0 (N, H), (H,) or None = zeros, Wx (D, 3H), Wh (H, 3H), b and bh (3H,) or None; h (N, T, H), h_T (N, H).
    """
    return _gru(
        (x, h0, Wx, Wh, b, bh), lengths, gate_order=gate_order, reset=reset, update=update, candidate=candidate,
        grad_clip=grad_clip, reverse=reverse,
    )  # fmt: skip


def _differentiable(cell: str, names: tuple[str, ...]) -> Callable[..., tuple[Array, ...]]:
    """The function of the arrays, lengths and options of `<cell>_forward`; names: of the arrays' gradients, d + their own."""
    forward, backward = getattr(fastgate, f"{cell}_forward"), getattr(fastgate, f"{cell}_backward")

    def on_host(options: tuple, arrays: tuple, lengths: Any, training: bool = False) -> Any:
        given = {name[1:]: a for name, a in zip(names, jax.tree.map(np.asarray, arrays), strict=True)}
        lengths = None if lengths is None else np.asarray(lengths)
        return forward(**given, lengths=lengths, training=training, **dict(options))

    def results(options: tuple, arrays: tuple, lengths: Any) -> tuple[np.ndarray, ...]:
        return tuple(on_host(options, arrays, lengths))[:-1]

    def gradients(options: tuple, arrays: tuple, lengths: Any, upstream: Any) -> tuple[np.ndarray, ...]:
        dh, *finals = map(np.asarray, upstream)
        need = [name for name, a in zip(names, arrays, strict=True) if a is not None]
        found = backward(dh, on_host(options, arrays, lengths, training=True).cache, *finals, need=need)
        return tuple(getattr(found, name) for name in need)

    @partial(jax.custom_vjp, nondiff_argnums=(0,))
    def run(options: tuple, arrays: tuple, lengths: Any) -> tuple[Array, ...]:
        x = arrays[0]
        # A call over no steps judges all but lengths, and tells the shapes of the states.
        h, *finals = results(options, _abstract(arrays), None)
        shapes = [_like(h, (*x.shape[:2], h.shape[2])), *map(_like, finals)]
        return tuple(jax.pure_callback(partial(results, options), shapes, arrays, lengths, vmap_method="sequential"))

    def run_forward(options: tuple, arrays: tuple, lengths: Any) -> tuple[Any, Any]:
        return run(options, arrays, lengths), (arrays, lengths)

    def run_backward(options: tuple, kept: Any, upstream: Any) -> tuple[Any, Any]:
        arrays, lengths = kept
        leaves, places = jax.tree.flatten(arrays)
        shapes = [_like(a) for a in leaves]
        call = partial(gradients, options)
        found = jax.pure_callback(call, shapes, arrays, lengths, upstream, vmap_method="sequential")
        return jax.tree.unflatten(places, found), None

    run.defvjp(run_forward, run_backward)

    def call(arrays: tuple, lengths: Any, **options: Any) -> tuple[Array, ...]:
        arrays = jax.tree.map(jax.numpy.asarray, arrays)
        return run(tuple(options.items()), arrays, None if lengths is None else jax.numpy.asarray(lengths))

    return call


def _like(a: Any, shape: tuple[int, ...] | None = None) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(a.shape if shape is None else shape, a.dtype)


def _abstract(arrays: tuple) -> tuple:
    """Arrays of these shapes and dtypes that take no memory, x without steps."""
    x, *others = jax.tree.map(lambda a: np.broadcast_to(np.zeros((), a.dtype), a.shape), arrays)
    return x[:, :0] if x.ndim == 3 else x, *others


_rnn = _differentiable("rnn", ("dx", "dh0", "dWx", "dWh", "db", "dbh"))
_lstm = _differentiable("lstm", ("dx", "dh0", "dc0", "dWx", "dWh", "db", "dbh", "dpeephole", "dWr"))
_gru = _differentiable("gru", ("dx", "dh0", "dWx", "dWh", "db", "dbh"))
