"""One step of every variant that identify knows, those included that fastgate has no option for. Plain NumPy, any float dtype.

Weights are in canonical gate order (ifgo, rzn), multiply from the right, and are handed over as pre-activation parts, so that
candidates that differ in the order of gates share their products.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


def sigmoid(a: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(a))
    return np.where(a >= 0, 1, e) / (1 + e)


ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "relu": lambda a: np.maximum(a, 0),
    "identity": lambda a: a,
    "hard_sigmoid": lambda a: np.clip(0.2 * a + 0.5, 0, 1),
    "hard_sigmoid6": lambda a: np.clip(a / 6 + 0.5, 0, 1),
    "softsign": lambda a: a / (1 + np.abs(a)),
    "softplus": lambda a: np.logaddexp(0, a),
}
WORDS = {"hard_sigmoid": "hard sigmoid clip(0.2 a + 0.5, 0, 1)", "hard_sigmoid6": "hard sigmoid clip(a/6 + 0.5, 0, 1)"}


@dataclass(frozen=True)
class Variant:
    """A cell and its options. What does not belong to the cell keeps its default."""

    cell: str
    activation: str = "tanh"  # of rnn; of the candidate of lstm and gru
    reset: str = "after"
    update: str = "old"
    coupled: bool = False
    output: str = "tanh"  # h = o * output(c), of memory h = output(c)
    gates: str = "sigmoid"
    output_peephole: str = "new"  # the c that o sees through its peephole
    cell_clip: float | None = None
    preact_clip: float | None = None
    eps: float = 1e-5  # of layer normalisation


def clipped(a: np.ndarray, limit: float | None) -> np.ndarray:
    return a if limit is None else np.clip(a, -limit, limit)


def lstm_c(v: Variant, a: tuple[np.ndarray, ...], c: np.ndarray, peephole: tuple[np.ndarray, ...] | None = None) -> np.ndarray:
    """The new c from the pre-activations a_i a_f a_g a_o without peepholes; peephole: p_i p_f p_o, each (H,)."""
    a_i, a_f, a_g, _ = a
    gate = ACTIVATIONS[v.gates]
    if peephole is not None:
        a_i, a_f = a_i + peephole[0] * c, a_f + peephole[1] * c
    f = gate(clipped(a_f, v.preact_clip))
    i = 1 - f if v.coupled else gate(clipped(a_i, v.preact_clip))
    return clipped(f * c + i * ACTIVATIONS[v.activation](clipped(a_g, v.preact_clip)), v.cell_clip)


def lstm_h(
    v: Variant, a: tuple[np.ndarray, ...], c_prev: np.ndarray, c: np.ndarray, peephole: tuple[np.ndarray, ...] | None = None
) -> np.ndarray:
    """h from the new c."""
    a_o = a[3]
    if peephole is not None:
        a_o = a_o + peephole[2] * (c if v.output_peephole == "new" else c_prev)
    return ACTIVATIONS[v.gates](clipped(a_o, v.preact_clip)) * ACTIVATIONS[v.output](c)


def gru(v: Variant, ax: tuple[np.ndarray, ...], ah: tuple[np.ndarray, ...], h: np.ndarray, Whn: np.ndarray,
        b_n: np.ndarray, bh_n: np.ndarray) -> np.ndarray:  # fmt: skip
    """h from x's and h's parts of the pre-activations of r, z, n; biases of r and z are in ax, those of n apart."""
    gate = ACTIVATIONS[v.gates]
    r, z = gate(ax[0] + ah[0]), gate(ax[1] + ah[1])
    if v.reset == "after":
        a_n = ax[2] + b_n + r * (ah[2] + bh_n)
    else:
        a_n = ax[2] + b_n + (r * h) @ Whn + bh_n
    n = ACTIVATIONS[v.activation](a_n)
    return (1 - z) * n + z * h if v.update == "old" else z * n + (1 - z) * h


def rnn(v: Variant, a: np.ndarray) -> np.ndarray:
    return ACTIVATIONS[v.activation](clipped(a, v.preact_clip))


def leaky(v: Variant, a: np.ndarray, h: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return alpha * h + (1 - alpha) * ACTIVATIONS[v.activation](a)


def memory(v: Variant, a: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(h, c)"""
    c_new = c + ACTIVATIONS[v.activation](a)
    return ACTIVATIONS[v.output](c_new), c_new


def normalised(a: np.ndarray, eps: float) -> np.ndarray:
    """N(a): each row less its mean, over the root of its variance and eps."""
    apart = a - a.mean(axis=1, keepdims=True)
    return apart / np.sqrt((apart**2).mean(axis=1, keepdims=True) + eps)


def step(v: Variant, x: np.ndarray, h: np.ndarray, c: np.ndarray | None, W: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """One step on canonical weights Wx, Wh, b, bh, peephole (i f o), Wr, alpha, gains; those that are not there are zero.

    Gains that are not there are ones. c is not normalised without gain_c.
    """
    zero = np.zeros(W["Wx"].shape[1], W["Wx"].dtype)
    b, bh = W.get("b", zero), W.get("bh", zero)
    ax, ah = x @ W["Wx"], h @ W["Wh"]
    if v.cell.endswith("_norm"):
        ax, ah = (W.get(f"gain_{s}", 1) * normalised(a, v.eps) for s, a in (("x", ax), ("h", ah)))
    if v.cell == "rnn":
        return (rnn(v, ax + ah + b + bh),)
    if v.cell == "leaky":
        return (leaky(v, ax + ah + b + bh, h, W["alpha"]),)
    if v.cell == "memory":
        return memory(v, ax + ah + b + bh, h if c is None else c)[: 1 if c is None else 2]
    if v.cell in ("lstm", "lstm_norm"):
        assert c is not None
        a = tuple(np.split(ax + ah + b + bh, 4, axis=1))
        parts = tuple(np.split(W["peephole"], 3)) if "peephole" in W else None
        c_new = lstm_c(v, a, c, parts)
        if "gain_c" in W:
            return lstm_h(v, a, c, W["gain_c"] * normalised(c_new, v.eps) + W.get("beta_c", 0)), c_new
        m = lstm_h(v, a, c, c_new, parts)
        return m @ W["Wr"] if "Wr" in W else m, c_new
    H = h.shape[1]
    b_rz, bh_rz = b.copy(), bh.copy()
    b_rz[2 * H :], bh_rz[2 * H :] = 0, 0
    ax_parts, ah_parts = (tuple(np.split(a, 3, axis=1)) for a in (ax + b_rz, ah + bh_rz))
    return (gru(v, ax_parts, ah_parts, h, W["Wh"][:, 2 * H :], b[2 * H :], bh[2 * H :]),)
