"""JAX: lax.scan over the time steps under jit, compiled before the timing; gradients by vjp under the same jit.

The equations are those of fastgate.lstm_forward and its sisters, the input projection one product for all steps.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ..cases import Case
from . import Calls, named, require

NAME = "JAX scan"
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_enable_x64", True)  # float64 is float64; float32 stays


def version() -> str:
    return jax.__version__


def rnn(states, ax, Wh):
    (h,) = states
    return (jnp.tanh(ax + h @ Wh),)


def lstm(states, ax, Wh):
    h, c = states
    i, f, g, o = jnp.split(ax + h @ Wh, 4, axis=1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def gru(states, ax, Wh):
    (h,) = states
    (ar, az, an), (hr, hz, hn) = jnp.split(ax, 3, axis=1), jnp.split(h @ Wh, 3, axis=1)
    r, z = jax.nn.sigmoid(ar + hr), jax.nn.sigmoid(az + hz)
    return ((1 - z) * jnp.tanh(an + r * hn) + z * h,)


CELLS = {"rnn": rnn, "lstm": lstm, "gru": gru}


def sequence(cell, x, states, Wx, Wh, b):
    """h (N, T, H) and the final states."""

    def step(states, ax):
        states = cell(states, ax, Wh)
        return states, states[0]

    finals, h = jax.lax.scan(step, states, jnp.swapaxes(x, 0, 1) @ Wx + b)
    return jnp.swapaxes(h, 0, 1), finals


@partial(jax.jit, static_argnums=0)
def forward(cell, x, states, Wx, Wh, b):
    return sequence(cell, x, states, Wx, Wh, b)


@partial(jax.jit, static_argnums=0)
def training(cell, x, states, Wx, Wh, b, dh):
    def of(x, Wx, Wh, b):
        return sequence(cell, x, states, Wx, Wh, b)

    h, pull, finals = jax.vjp(of, x, Wx, Wh, b, has_aux=True)
    return h, finals, dict(zip(("dx", "dWx", "dWh", "db"), pull(dh), strict=True))


def prepare(case: Case, threads: int) -> Calls:
    """The number of threads is read from the environment when JAX starts."""
    require(NAME, case, CELLS, ragged=False)
    arrays = jax.device_put((case.x, tuple(case.states.values()), case.Wx, case.Wh, case.b))
    if case.training:
        arrays = (*arrays, jax.device_put(case.dh))
    compiled = (training if case.training else forward).lower(CELLS[case.cell], *arrays).compile()

    def results(outputs) -> dict[str, np.ndarray]:
        h, finals, *gradients = jax.tree.map(np.asarray, outputs)
        return named(case, h, finals) | (gradients[0] if gradients else {})

    return Calls(lambda: jax.block_until_ready(compiled(*arrays)), results)
